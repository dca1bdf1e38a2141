//! `explain` predicts the response to a check and its reasons, and changes nothing.

use std::{path::Path, process::Command};

use crate::support::{
    client::{Response, ask, head},
    redis::Redis,
    tollgate::{Settings, Tollgate},
};
use proptest::{prelude::*, sample::select, strategy::ValueTree as _, test_runner::TestRunner};
use serde_json::{Value, json};

const RULES: &str = r#"version: 1
forwarded_headers: "*"
rules:
  - { name: health, match: { path: /healthz }, action: allow }
  - { name: gone, match: { path: /gone }, action: deny, answer: { status: 410 } }
  - { name: tried, match: { methods: POST }, action: deny, mode: shadow }
  - name: api
    match: { path: "/v1/{tenant}/**", not: { headers: { x-skip: yes } } }
    key: [{ path: tenant }, { header: x-api-key, secret: true }]
    on_missing: deny
    cost: { header: x-cost, default: 1, max: 3 }
    limits: [8/day, { rate: 20/month, align: calendar, timezone: Europe/Paris }]
    tiers:
      - { name: gold, when: { headers: { x-plan: gold } }, limit: 12/day }
      - { name: staff, when: { client_ip: 10.0.0.0/8 }, limit: unlimited }
    overrides: [{ key: [b, blocked], limit: 0 }]
    ban: { after: 4, within: 20h, for: 30h }
  - { name: session, key: [{ cookie: id }], on_missing: skip, limit: 5/day, algorithm: sliding_log }
  - { name: would, key: [client_ip], limit: 3/day burst 4, mode: shadow }
  - { name: office, match: { client_ip: 10.0.0.0/8 }, action: allow }
  - { name: all, key: [client_ip], limit: 12/day, algorithm: fixed_window }
"#;

/// A request, as a query and as the lines of a check.
#[derive(Debug, Clone)]
struct Request {
    method: &'static str,
    path: &'static str,
    ip: &'static str,
    headers: Vec<(&'static str, &'static str)>,
}

fn request() -> impl Strategy<Value = Request> {
    let header = |name: &'static str, values: &[&'static str]| {
        let value = select(values.to_vec());
        prop::option::of(value).prop_map(move |value| value.map(|value| (name, value)))
    };
    (
        select(vec!["GET", "GET", "GET", "POST"]),
        select(vec![
            "/healthz",
            "/gone",
            "/v1/a/x",
            "/v1/a/y?z=1",
            "/v1//%62/x",
            "/other",
        ]),
        select(vec!["192.0.2.1", "192.0.2.2", "10.1.1.1", "2001:db8::1"]),
        [
            header("x-api-key", &["k", "k", "blocked"]).boxed(),
            header("x-plan", &["gold", "silver"]).boxed(),
            header("x-cost", &["2", "9", "none"]).boxed(),
            header("cookie", &["id=1", "id=2"]).boxed(),
        ],
    )
        .prop_map(|(method, path, ip, headers)| Request {
            method,
            path,
            ip,
            headers: headers.into_iter().flatten().collect(),
        })
}

impl Request {
    fn question(&self) -> Value {
        let headers: serde_json::Map<String, Value> = self
            .headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        json!({ "method": self.method, "path": self.path, "host": "h", "ip": self.ip, "headers": headers })
    }

    async fn check(&self, tollgate: &Tollgate) -> Response {
        let mut lines = vec![
            format!("x-forwarded-method: {}", self.method),
            format!("x-forwarded-uri: {}", self.path),
            "x-forwarded-host: h".to_owned(),
            format!("x-real-ip: {}", self.ip),
        ];
        lines.extend(
            self.headers
                .iter()
                .map(|(name, value)| format!("{name}: {value}")),
        );
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        ask(tollgate.addr(), &head("GET", "/v1/check", &lines)).await
    }
}

async fn post(tollgate: &Tollgate, question: &str, accept: &str) -> Response {
    let lines = [accept, &format!("content-length: {}", question.len())];
    let mut request = head("POST", "/explain", &lines);
    request.extend_from_slice(question.as_bytes());
    ask(tollgate.admin, &request).await
}

/// The explanation of a request by the admin port, as JSON.
pub(crate) async fn explained(tollgate: &Tollgate, question: &Value) -> Value {
    let answer = post(tollgate, &question.to_string(), "accept: */*").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// `r` of each member of `RateLimit`; `t` goes on between two requests.
fn left(ratelimit: Option<&str>) -> Vec<String> {
    let members = ratelimit.unwrap_or_default().split(", ");
    members
        .map(|member| member.split(";t=").next().unwrap().to_owned())
        .collect()
}

/// The counters of an explanation as they stand in the store.
fn stored(told: &Value) -> Vec<&Value> {
    let rules = told["rules"].as_array().into_iter().flatten();
    let limits = rules.flat_map(|rule| rule["limits"].as_array().into_iter().flatten());
    limits.map(|limit| &limit["stored"]).collect()
}

/// After any number of requests, the explanation is the response to the next check.
async fn agrees(redis: Option<&Redis>) {
    let tollgate = Tollgate::start(Settings {
        rules: RULES,
        redis,
        args: &["--deadline=20s"],
        ..Settings::default()
    })
    .await;
    let mut runner = TestRunner::deterministic();
    let mut statuses = std::collections::BTreeMap::new();
    let mut limits = std::collections::BTreeSet::new();
    for _ in 0..400 {
        let request = request().new_tree(&mut runner).unwrap().current();
        let told = explained(&tollgate, &request.question()).await;
        let again = explained(&tollgate, &request.question()).await;
        assert_eq!(stored(&told), stored(&again), "explaining charges nothing");
        let answer = request.check(&tollgate).await;
        assert_eq!(told["status"], answer.status, "{request:?}\n{told:#}");
        assert_eq!(told["admitted"], answer.status == 200);
        for name in ["x-tollgate-rule", "x-tollgate-limit", "ratelimit-policy"] {
            assert_eq!(
                told["headers"][name].as_str(),
                answer.header(name),
                "{request:?}\n{told:#}"
            );
        }
        assert_eq!(
            left(told["headers"]["ratelimit"].as_str()),
            left(answer.header("ratelimit")),
            "{request:?}\n{told:#}"
        );
        *statuses.entry(answer.status).or_insert(0) += 1;
        limits.extend(answer.header("x-tollgate-limit").map(str::to_owned));
    }
    assert_eq!(
        statuses.keys().collect::<Vec<_>>(),
        [&200, &403, &410, &429],
        "every kind of answer was met"
    );
    for limit in ["api/86400s", "api/ban", "session", "all"] {
        assert!(
            limits.contains(limit),
            "nothing was denied by {limit}: {limits:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_explanation_is_what_happens_in_memory() {
    agrees(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_explanation_is_what_happens_in_redis() {
    let redis = Redis::start();
    agrees(Some(&redis)).await;
}

/// `tollgate explain`: its exit code, standard output and standard error.
fn explain(args: &[&str], rules: &Path) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .env_clear()
        .arg("explain")
        .args(args)
        .arg("--rules")
        .arg(rules)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn rule_file() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rules.yaml");
    std::fs::write(&path, RULES).unwrap();
    (dir, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_reads_the_counters_and_changes_nothing() {
    let redis = Redis::start();
    let tollgate = Tollgate::start(Settings {
        rules: RULES,
        redis: Some(&redis),
        args: &["--hash-key=house"],
        ..Settings::default()
    })
    .await;
    let request = Request {
        method: "GET",
        path: "/v1/a/x",
        ip: "192.0.2.1",
        headers: vec![("x-api-key", "hunter2"), ("x-cost", "3")],
    };
    for _ in 0..4 {
        request.check(&tollgate).await;
    }
    let before = |redis: &Redis| {
        let keys = redis.counters();
        let mut keys: Vec<&str> = keys.lines().collect();
        keys.sort_unstable();
        let values: Vec<String> = keys.iter().map(|key| redis.cli(&["GET", key])).collect();
        format!("{keys:?} {values:?}")
    };
    let stored = before(&redis);
    // It writes that it is alive.
    drop(tollgate);
    let (_dir, rules) = rule_file();
    redis.cli(&["CONFIG", "RESETSTAT"]);
    let url = redis.url();
    let args = [
        "GET",
        "/v1/a/x",
        "-H",
        "x-api-key: hunter2",
        "-H",
        "X-Cost: 3",
        "--ip=192.0.2.1",
        "--hash-key=house",
        "--redis-url",
        &url,
        "--format=json",
    ];
    let (code, printed, _) = explain(&args, &rules);
    assert_eq!(code, Some(0), "{printed}");
    assert!(!printed.contains("hunter2"), "{printed}");
    let told: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(told["counters"], json!({ "read": "redis" }));
    assert_eq!(
        (&told["status"], &told["admitted"]),
        (&json!(429), &json!(false))
    );
    let api = &told["rules"][3];
    assert_eq!((&api["rule"], &api["cost"]), (&json!("api"), &json!(3)));
    let limit = &api["limits"][0];
    assert_eq!((&limit["left"], &limit["fits"]), (&json!(2), &json!(false)));
    let key = limit["stored_as"].as_str().unwrap();
    assert_eq!(limit["stored"].as_str().unwrap(), redis.cli(&["GET", key]));
    let ban = &api["ban"];
    assert_eq!(
        ban["stored"].as_str().unwrap(),
        redis.cli(&["GET", ban["stored_as"].as_str().unwrap()])
    );

    assert_eq!(before(&redis), stored);
    let commands = redis.cli(&["INFO", "commandstats"]);
    for writes in [
        "cmdstat_set:",
        "cmdstat_eval",
        "cmdstat_del",
        "cmdstat_script",
    ] {
        assert!(!commands.contains(writes), "{commands}");
    }
    // Without it, all limits are taken as unused.
    let (_, printed, _) = explain(&args[..7], &rules);
    assert!(
        printed.contains("all limits are taken as unused"),
        "{printed}"
    );
    assert!(printed.contains("admitted: 200"), "{printed}");
}

#[test]
fn every_result_is_explained_in_words() {
    let (_dir, rules) = rule_file();
    let mut told = String::new();
    for args in [
        &["GET", "/healthz"][..],
        &["POST", "/gone", "--ip", "192.0.2.1"],
        &["GET", "https://API.example.com/v1/a/x", "--ip", "192.0.2.1"],
        &[
            "GET",
            "/v1/a/x",
            "-H",
            "x-api-key: k",
            "-H",
            "x-cost: 2",
            "--ip",
            "192.0.2.1",
        ],
        &["GET", "/v1/b/x", "-H", "x-api-key: blocked"],
        &["GET", "/v1/b/x", "-H", "x-api-key: k", "--ip", "10.0.0.1"],
        &[
            "GET",
            "/v1/b/x",
            "-H",
            "x-skip: yes",
            "-H",
            "cookie: id=1",
            "--ip",
            "2001:db8::1",
        ],
    ] {
        let (code, printed, _) = explain(args, &rules);
        assert_eq!(code, Some(0), "{printed}");
        told = format!("{told}$ tollgate explain {}\n{printed}\n", args.join(" "));
    }
    // The month goes on.
    let told: Vec<&str> = told
        .lines()
        .map(|line| {
            let is_ratelimit = line.starts_with("  ratelimit: ");
            let without_time = line.split(";t=").next().unwrap();
            if is_ratelimit { without_time } else { line }
        })
        .collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_explains_as_text_too_and_refuses_an_invalid_query() {
    let tollgate = Tollgate::start(Settings {
        rules: RULES,
        ..Settings::default()
    })
    .await;
    let text = post(&tollgate, r#"{ "path": "/healthz" }"#, "accept: text/plain").await;
    assert_eq!(text.status, 200);
    assert!(
        text.body
            .contains("health   matches: allows it, and ends the walk"),
        "{}",
        text.body
    );
    assert!(
        text.body.contains("counters read from memory"),
        "{}",
        text.body
    );
    for (question, expected) in [
        ("", "this is not a query"),
        ("[]", "this is not a query"),
        (r#"{ "path": "/", "pth": 1 }"#, "unknown field `pth`"),
        (r#"{ "method": "GET" }"#, "missing field `path`"),
        (r#"{ "path": "healthz" }"#, "is not a path"),
        (r#"{ "path": "/", "ip": "here" }"#, "is not an address"),
        (
            r#"{ "path": "/", "headers": { "a b": "c" } }"#,
            "not the name of a header",
        ),
    ] {
        let answer = post(&tollgate, question, "accept: */*").await;
        assert_eq!(answer.status, 400, "{question}");
        assert!(
            answer.body.contains(expected),
            "{question}: {}",
            answer.body
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_redis_is_reported_not_guessed() {
    let mut redis = Redis::start();
    let tollgate = Tollgate::start(Settings {
        rules: RULES,
        redis: Some(&redis),
        ..Settings::default()
    })
    .await;
    let url = redis.url();
    redis.kill();
    let told = explained(&tollgate, &json!({ "path": "/other", "ip": "192.0.2.1" })).await;
    let error = told["counters"]["failed"].as_str().unwrap();
    assert!(error.contains("not connected"), "{error}");
    let (code, _, complaint) = explain(&["GET", "/", "--redis-url", &url], &tollgate.rules());
    assert_eq!(code, Some(1));
    assert!(
        complaint.contains("the counters in Redis cannot be read"),
        "{complaint}"
    );
    assert!(complaint.contains("hint: check --redis-url"), "{complaint}");
}

#[test]
fn wrong_usage_and_wrong_rules_have_their_exit_codes() {
    let (dir, rules) = rule_file();
    assert_eq!(explain(&["GET", "no-path"], &rules).0, Some(64));
    assert_eq!(explain(&["GET", "/", "-H", "no colon"], &rules).0, Some(64));
    assert_eq!(explain(&["GET", "/", "--ip", "here"], &rules).0, Some(64));
    assert_eq!(explain(&["GET"], &rules).0, Some(64));
    std::fs::write(&rules, "version: 1\nrules: [{ name: x, limit: 5 }]\n").unwrap();
    let (code, _, complaint) = explain(&["GET", "/"], &rules);
    assert_eq!(code, Some(2));
    assert!(complaint.contains("5 is not a rate"), "{complaint}");
    assert_eq!(
        explain(&["GET", "/"], &dir.path().join("none.yaml")).0,
        Some(2)
    );
}

/// Words as a shell splits them, with `'` and `"` around some.
fn words(line: &str) -> Vec<String> {
    let (mut out, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(q)) if c == q => quote = None,
            (' ', None) => out.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    out.push(word);
    out.retain(|word| !word.is_empty());
    out
}

/// Without the seconds until more is left, which the calendar changes.
fn timeless(text: &str) -> String {
    let mut parts = text.split(";t=");
    let mut out = parts.next().unwrap().to_owned();
    for part in parts {
        out = out + ";t=#" + part.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    out
}

/// Every command in the document prints the output below it. `UPDATE_DOCS=1` writes it there.
#[test]
fn the_examples_in_the_document_are_what_explain_prints() {
    let path = "docs/explain.md";
    let document = std::fs::read_to_string(path).unwrap();
    let mut fresh = String::new();
    let mut files = std::collections::BTreeSet::new();
    let mut rest = document.as_str();
    while let Some((before, block)) = rest.split_once("```console\n") {
        let (block, after) = block.split_once("```\n").unwrap();
        let command = block.lines().next().unwrap();
        let args = words(command.strip_prefix("$ tollgate explain ").unwrap());
        files.insert(args.last().unwrap().clone());
        let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .env_clear()
            .arg("explain")
            .args(&args)
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{command}\n{complaint}");
        let block = format!("{command}\n{printed}");
        fresh = format!("{fresh}{before}```console\n{block}```\n");
        rest = after;
    }
    fresh += rest;
    for example in std::fs::read_dir("config/examples").unwrap() {
        let name = example.unwrap().path().display().to_string();
        assert!(files.contains(&name), "{path} explains nothing by {name}");
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &fresh).unwrap();
    } else if timeless(&fresh) != timeless(&document) {
        std::fs::write("target/explain.md", &fresh).unwrap();
        panic!(
            "{path} does not say what explain says: compare it with target/explain.md, or run this test with UPDATE_DOCS=1"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_shows_no_secret_of_the_rule_file_and_survives_foreign_counters() {
    let redis = Redis::start();
    let tollgate = Tollgate::start(Settings {
        rules: "version: 1
forwarded_headers: '*'
rules:
  - { name: door, match: { headers: { x-token: sesame } }, action: allow }
  - { name: data, limit: 5/m, algorithm: fixed_window }
",
        redis: Some(&redis),
        ..Settings::default()
    })
    .await;
    let told = explained(
        &tollgate,
        &json!({ "path": "/", "headers": { "x-token": ["guess", "sesame2"] } }),
    )
    .await;
    assert!(!told.to_string().contains("sesame"), "{told:#}");
    assert_eq!(
        told["rules"][0]["reason"],
        "the header x-token has another value"
    );
    let key = told["rules"][1]["limits"][0]["stored_as"].as_str().unwrap();
    for value in ["18446744073709551615 1", "five"] {
        redis.cli(&["SET", key, value]);
        let told = explained(&tollgate, &json!({ "path": "/" })).await;
        let error = told["counters"]["failed"].as_str().unwrap();
        assert!(error.contains(key) && error.contains("DEL"), "{error}");
    }
    redis.cli(&["DEL", key]);
    redis.cli(&["RPUSH", key, "1"]);
    let told = explained(&tollgate, &json!({ "path": "/" })).await;
    let error = told["counters"]["failed"].as_str().unwrap();
    assert!(
        error.contains(key) && error.contains("WRONGTYPE"),
        "{error}"
    );
}
