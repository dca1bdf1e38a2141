//! Secrets are written nowhere: not in logs at the most talkative level, on the admin port, in
//! answers, in errors of the command line, in Redis, or by `Debug`.

use std::{fs, process::Command};

use clap::Parser as _;
use tollgate::{cli::Cli, hash::HashKey, store::redis::Options};

use crate::support::{
    client::{ask, head},
    eventually,
    redis::Redis,
    sentinel::{NAME, Sentinels},
    tollgate::{Settings, Tollgate},
};

const RULES: &str = "
version: 1
forwarded_headers: '*'
rules:
  - name: keys
    match: { path: /keys }
    key:
      - { header: x-api-key, secret: true }
      - { header: authorization }
      - { cookie: session }
      - { query: token, secret: true }
    limit: 2/day
    ban: { after: 2, within: 1h, for: 1h }
  - { name: claims, match: { path: /claims }, key: [{ jwt: sub }], limit: 2/day }
";

/// What must not be found; each begins so that no part of the program says it by chance.
const SECRETS: [&str; 9] = [
    "plantedurlpassword",
    "plantedfilepassword",
    "plantedsentinelpassword",
    "plantedhashkey0123456789",
    "plantedapikey",
    "plantedbearer",
    "plantedcookie",
    "plantedtoken",
    "plantedsubject",
];

fn has_no_secret(place: &str, text: &str) {
    assert!(!text.is_empty(), "nothing from {place}");
    for secret in SECRETS {
        let line = text.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is in {place}");
    }
}

/// Sends all sorts of checks with secrets in them, and looks at the answers.
async fn play(tollgate: &Tollgate) {
    let claims = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJwbGFudGVkc3ViamVjdCJ9.plantedbearer";
    let bearer = format!("authorization: Bearer {claims}");
    let secrets = [
        "x-api-key: plantedapikey",
        "cookie: session=plantedcookie; other=plantedcookie",
        &*bearer,
    ];
    for uri in [
        "/keys?token=plantedtoken",
        "/claims?token=plantedtoken",
        "/none?token=plantedtoken",
        "/keys?token=plantedtoken#plantedtoken",
        "/%zz?token=plantedtoken",
    ] {
        for _ in 0..6 {
            let uri = format!("x-forwarded-uri: {uri}");
            let known = ["x-forwarded-method: GET", "x-real-ip: 192.0.2.1", &uri];
            let lines = [&known[..], &secrets].concat();
            let answer = ask(tollgate.addr(), &head("GET", "/v1/check", &lines)).await;
            has_no_secret("an answer", &format!("{answer:?}"));
            // Faults: a header is missing, or came twice.
            for faulty in [&lines[1..], &[&lines[..], &known[1..]].concat()] {
                let answer = ask(tollgate.addr(), &head("GET", "/v1/check", faulty)).await;
                has_no_secret("an answer", &format!("{answer:?}"));
            }
        }
    }
    let question = format!(
        r#"{{"path":"/keys?token=plantedtoken","client_ip":"192.0.2.1","headers":{{
            "x-api-key":"plantedapikey","authorization":"Bearer {claims}",
            "cookie":"session=plantedcookie"}}}}"#
    );
    let length = format!("content-length: {}", question.len());
    let mut explain = head("POST", "/explain", &[&length]);
    explain.extend(question.bytes());
    let answer = ask(tollgate.admin, &explain).await;
    has_no_secret("/explain", &format!("{answer:?}"));
    for path in ["/metrics", "/readyz", "/rules", "/livez"] {
        has_no_secret(path, &tollgate.ask_admin(path).await.body);
    }
}

const TALKATIVE: [&str; 4] = [
    "--log-level=trace",
    "--log-decisions=all",
    "--log-decisions-rate=10000",
    "--hash-key=plantedhashkey0123456789",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_the_url_and_what_clients_send() {
    let mut redis = Redis::start_with(
        &["--requirepass", "plantedurlpassword"],
        Some("plantedurlpassword"),
    );
    let url = format!(
        "--redis-url=redis://:plantedurlpassword@127.0.0.1:{}",
        redis.port()
    );
    let mut args = vec![&*url];
    args.extend(TALKATIVE);
    let mut tollgate = Tollgate::start(Settings {
        rules: RULES,
        args: &args,
        ..Settings::default()
    })
    .await;
    play(&tollgate).await;
    let keys = redis.cli(&["--scan", "--pattern", "tollgate:*"]);
    assert!(keys.contains("=#"), "no secret was hashed: {keys}");
    has_no_secret("a key in Redis", &keys);

    // The password is wrong, and then Redis is gone.
    redis.cli(&["CONFIG", "SET", "requirepass", "other"]);
    redis.log_in(Some("other"));
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    tollgate.until_logged("password").await;
    play(&tollgate).await;
    redis.kill();
    play(&tollgate).await;
    tollgate.signal(rustix::process::Signal::TERM);
    tollgate.ended().await;
    assert!(tollgate.log().contains("=#"), "no decision was logged");
    has_no_secret("the log", &tollgate.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_in_files_for_redis_and_sentinels() {
    let all = Sentinels::start(Some(("plantedfilepassword", "plantedsentinelpassword"))).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let redis = file("redis", "plantedfilepassword\n");
    let sentinel = file("sentinel", "plantedsentinelpassword\n");
    let args = [
        format!("--redis-url=redis+sentinel://{}/{NAME}", all.hosts()),
        format!("--redis-password-file={redis}"),
        format!("--sentinel-password-file={sentinel}"),
    ];
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    args.extend(TALKATIVE);
    let mut tollgate = Tollgate::start(Settings {
        rules: RULES,
        args: &args,
        ..Settings::default()
    })
    .await;
    play(&tollgate).await;
    // The wrong ones: each at the place of the other.
    file("redis", "plantedsentinelpassword\n");
    file("sentinel", "plantedfilepassword\n");
    let primary = &all.servers[all.primary()];
    primary.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    eventually("the wrong password is noticed", async || {
        tollgate.log().contains("not reachable")
    })
    .await;
    play(&tollgate).await;
    tollgate.signal(rustix::process::Signal::TERM);
    tollgate.ended().await;
    has_no_secret("the log", &tollgate.log());
}

/// What a command prints, with secrets in its environment.
fn printed(args: &[&str], url: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(args).env_clear();
    command.env("REDIS_URL", url);
    command.env("TOLLGATE_HASH_KEY", "plantedhashkey0123456789");
    let output = command.output().unwrap();
    let [out, error] = [output.stdout, output.stderr];
    [out, error]
        .map(|bytes| String::from_utf8(bytes).unwrap())
        .concat()
}

#[test]
fn errors_and_help_of_the_command_line() {
    let nobody = "redis://user:plantedurlpassword@127.0.0.1:1/0";
    for args in [
        &["--help"][..],
        &["serve", "--help"],
        &["explain", "--help"],
        &[
            "explain",
            "GET",
            "/",
            "--ip",
            "192.0.2.1",
            "--rules",
            "config/rules.yaml",
        ],
        &["serve", "--redis-cert", "none.pem"],
        &["serve", "--no-such-flag"],
    ] {
        has_no_secret(&args.join(" "), &printed(args, nobody));
    }
    for url in [
        "redis//user:plantedurlpassword@h",
        "http://user:plantedurlpassword@h",
        "redis://user:plantedurlpassword@h/x",
        "redis://user:plantedurlpassword@h:port",
        "redis://user:plantedurlpassword@h#insecure",
        "redis+sentinel://user:plantedurlpassword@a,b",
        "redis-cluster://user:plantedurlpassword@a,b/7",
        "plantedurlpassword",
    ] {
        has_no_secret(url, &printed(&["serve"], url));
    }
}

#[test]
fn debug_output() {
    for url in [
        "redis://user:plantedurlpassword@h",
        "rediss+sentinel://user:plantedurlpassword@a,b/m",
        "rediss-cluster://user:plantedurlpassword@a,b",
    ] {
        let options = Options::parse(url).unwrap();
        has_no_secret("Options", &format!("{options:?} {options:#?}"));
        let hash_key = "--hash-key=plantedhashkey0123456789";
        for command in [
            &["tollgate", "serve", "--redis-url", url, hash_key][..],
            &[
                "tollgate",
                "explain",
                "GET",
                "/",
                "--redis-url",
                url,
                hash_key,
            ],
        ] {
            let cli = Cli::try_parse_from(command).unwrap();
            has_no_secret("Cli", &format!("{cli:?} {cli:#?}"));
        }
    }
    let key = HashKey::new(b"plantedhashkey0123456789");
    has_no_secret("HashKey", &format!("{key:?}"));
}
