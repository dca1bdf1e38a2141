//! The examples in `config/examples`, run through the check endpoint.

use std::{collections::BTreeSet, fs};

use crate::support::{
    client::{Response, ask, head},
    eventually,
    tollgate::{Settings, Tollgate},
};
use tollgate::rulefile;
use tollgate::rules::{
    Action, Cost, RuleSet,
    key::Part,
    matcher::{Conditions, Matcher},
};

const GOOD: u16 = 200;
const OVER: u16 = 429;
const SHUT: u16 = 403;

/// The examples that have a test below.
const PLAYED: &[&str] = &[
    "api-plans",
    "crawler",
    "downloads",
    "emergency-brake",
    "graphql-cost",
    "internal-exemption",
    "login-brute-force",
    "multi-tenant-quota",
    "signed-in-users",
    "webhook-burst",
];

/// The text of an example.
fn example(name: &str) -> String {
    assert!(PLAYED.contains(&name), "{name}");
    let path = format!("config/examples/{name}.yaml");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A tollgate with the rules of an example.
struct Stage(Tollgate);

/// The client and the request.
#[derive(Clone, Copy)]
struct Play<'a> {
    method: &'a str,
    uri: &'a str,
    ip: &'a str,
    lines: &'a [&'a str],
}

const fn get(uri: &str) -> Play<'_> {
    Play {
        method: "GET",
        uri,
        ip: "203.0.113.7",
        lines: &[],
    }
}

const fn post(uri: &str) -> Play<'_> {
    Play {
        method: "POST",
        ..get(uri)
    }
}

impl<'a> Play<'a> {
    const fn from(self, ip: &'a str) -> Self {
        Self { ip, ..self }
    }

    const fn with(self, lines: &'a [&'a str]) -> Self {
        Self { lines, ..self }
    }
}

impl Stage {
    async fn of(name: &str) -> Self {
        let rules = example(name);
        Self(
            Tollgate::start(Settings {
                rules: &rules,
                ..Settings::default()
            })
            .await,
        )
    }

    async fn play(&self, play: Play<'_>) -> Response {
        let method = format!("x-forwarded-method: {}", play.method);
        let uri = format!("x-forwarded-uri: {}", play.uri);
        let ip = format!("x-real-ip: {}", play.ip);
        let mut lines = vec![&*method, &*uri, &*ip];
        lines.extend(play.lines);
        ask(self.0.addr(), &head("GET", "/v1/check", &lines)).await
    }

    /// Sends the request a number of times, checks the status of each response, and returns the
    /// last one.
    async fn expect(&self, status: u16, times: usize, play: Play<'_>) -> Response {
        assert!(times > 0);
        let mut last = None;
        for time in 1..=times {
            let answer = self.play(play).await;
            assert_eq!(
                answer.status, status,
                "{time} of {times}: {} {} {:?} from {}\n{answer:?}",
                play.method, play.uri, play.lines, play.ip
            );
            last = Some(answer);
        }
        last.unwrap()
    }

    /// How often a rule in shadow mode would have denied.
    async fn shadow_denied(&self, rule: &str) -> u64 {
        let name = format!("tollgate_decisions_total{{rule=\"{rule}\",outcome=\"shadow_denied\"}}");
        self.0.metric(&name).await
    }
}

/// The name in `x-tollgate-rule`.
fn rule(answer: &Response) -> &str {
    answer.header("x-tollgate-rule").unwrap_or_default()
}

/// `Retry-After`, in seconds.
fn wait(answer: &Response) -> u64 {
    answer.header("retry-after").unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn login_brute_force() {
    let stage = Stage::of("login-brute-force").await;
    stage.expect(GOOD, 4, post("/login")).await;
    let fifth = stage.expect(GOOD, 1, post("/log%69n/")).await;
    assert!(
        fifth.header("ratelimit").unwrap().contains("login/900s"),
        "{fifth:?}"
    );
    let denied = stage.expect(OVER, 2, post("/login")).await;
    assert_eq!(rule(&denied), "login");
    assert!((1..=900 + 30).contains(&wait(&denied)), "{denied:?}");
    assert_eq!(denied.json()["error"], "too_many_attempts");
    assert_eq!(denied.json()["retry_after"], wait(&denied));
    // Another spelling of the path; the form; and another address.
    stage.expect(OVER, 1, post("/oauth/token")).await;
    stage.expect(GOOD, 20, get("/login")).await;
    stage
        .expect(GOOD, 5, post("/login").from("203.0.113.8"))
        .await;
    // The tenth denial is one too many.
    let ninth = stage.expect(OVER, 6, post("/login")).await;
    assert_eq!(ninth.header("x-tollgate-limit"), Some("login/900s"));
    let banned = stage.expect(OVER, 3, post("/login")).await;
    assert_eq!(banned.header("x-tollgate-limit"), Some("login/ban"));
    assert!(wait(&banned) > 7_000, "{banned:?}");
    stage.expect(GOOD, 1, get("/login")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn api_plans() {
    let stage = Stage::of("api-plans").await;
    let (free, pro) = (["x-api-key: a"], ["x-api-key: b", "x-plan: pro-2024"]);
    let (enterprise, acme) = (
        ["x-api-key: c", "x-plan: enterprise"],
        ["x-api-key: acme-7f3c2a91"],
    );
    let call = get("/v1/things");

    stage.expect(GOOD, 10, call).await;
    let anonymous = stage.expect(OVER, 1, call).await;
    assert_eq!(rule(&anonymous), "anonymous");
    assert!(anonymous.body.contains("https://example.com/signup"));

    stage.expect(GOOD, 100, call.with(&free)).await;
    let denied = stage.expect(OVER, 1, call.with(&free)).await;
    assert_eq!(rule(&denied), "api");
    assert_eq!(
        denied.header("x-upgrade"),
        Some("https://example.com/plans?from=api")
    );
    assert_eq!(denied.json()["title"], "Your plan allows no more for now");
    assert_eq!(denied.json()["status"], 429);

    let policy = async |lines: &'static str, status: u16, play: Play<'_>| {
        let answer = stage.expect(status, 1, play).await;
        let policy = answer.header("ratelimit-policy").unwrap_or_default();
        assert!(policy.contains(lines), "{lines}: {answer:?}");
    };
    policy("\"api/pro/60s\";q=120;w=60", GOOD, call.with(&pro)).await;
    policy(
        "\"api/enterprise/86400s\";q=500000",
        GOOD,
        call.with(&enterprise),
    )
    .await;
    policy("\"api/acme\";q=50000;w=3600", GOOD, call.with(&acme)).await;
    stage
        .expect(GOOD, 120, call.with(&["x-api-key: fetch-19be44d0"]))
        .await;
    let leaked = ["x-api-key: pro-5e2d90c7", "x-plan: pro"];
    let shut = stage.expect(SHUT, 1, call.with(&leaked)).await;
    assert_eq!(shut.header("retry-after"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn graphql_cost() {
    let stage = Stage::of("graphql-cost").await;
    let key = "x-api-key: a";
    // At most 250, whatever the header says; without a cost, 5; then 245 are left.
    let costs = [
        [key, "x-query-cost: 99999"],
        [key, "x-query-cost: 250"],
        [key, "x-query-cost: 250"],
        [key, "x-other: 1"],
    ];
    for lines in &costs {
        stage.expect(GOOD, 1, post("/graphql").with(lines)).await;
    }
    let dear = [key, "x-query-cost: 246"];
    let denied = stage.expect(OVER, 1, post("/graphql").with(&dear)).await;
    let error = &denied.json()["errors"][0];
    assert_eq!(error["message"], "1000/h points are spent");
    assert_eq!(error["extensions"]["code"], "RATE_LIMITED");
    assert_eq!(error["extensions"]["retryAfter"], wait(&denied));
    let rest = [key, "x-query-cost: 245"];
    stage.expect(GOOD, 1, post("/graphql").with(&rest)).await;
    stage.expect(SHUT, 1, post("/graphql")).await;

    let schema = get("/graphql?query=%7B__schema%7Btypes%7Bname%7D%7D%7D");
    let other = ["x-api-key: b"];
    stage.expect(GOOD, 10, schema.with(&other)).await;
    let denied = stage.expect(OVER, 1, schema.with(&other)).await;
    assert_eq!(rule(&denied), "introspection");
    stage.expect(GOOD, 1, post("/graphql").with(&other)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn crawler() {
    let stage = Stage::of("crawler").await;
    let page = get("/shop/7");
    let google = ["user-agent: Mozilla/5.0 (compatible; Googlebot/2.1)"];
    let bing = ["user-agent: Mozilla/5.0 (compatible; bingbot/2.0)"];
    stage.expect(GOOD, 30, page.with(&google)).await;
    stage
        .expect(GOOD, 30, page.with(&bing).from("192.0.2.1"))
        .await;
    let denied = stage.expect(OVER, 1, page.with(&google)).await;
    assert_eq!(rule(&denied), "search-engines");
    assert!(wait(&denied) >= 1);

    let curl = ["user-agent: curl/8.5.0"];
    stage.expect(GOOD, 30, page.with(&curl)).await;
    let denied = stage.expect(OVER, 1, page.with(&curl)).await;
    assert_eq!(rule(&denied), "scripts");
    stage
        .expect(GOOD, 1, page.with(&curl).from("192.0.2.1"))
        .await;
    stage.expect(GOOD, 10, page).await;
    assert_eq!(rule(&stage.expect(OVER, 1, page).await), "no-user-agent");

    let greedy = ["user-agent: GreedyBot/1.0"];
    let denied = stage.expect(SHUT, 1, page.with(&greedy)).await;
    assert!(denied.body.contains("not welcome"), "{denied:?}");
    stage
        .expect(GOOD, 1, get("/robots.txt").with(&greedy))
        .await;
    let person = ["user-agent: Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"];
    stage.expect(GOOD, 100, page.with(&person)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn multi_tenant_quota() {
    let stage = Stage::of("multi-tenant-quota").await;
    stage.expect(GOOD, 25, get("/t/demo/things")).await;
    let denied = stage.expect(OVER, 1, post("/t/demo/other/things")).await;
    assert_eq!(rule(&denied), "tenant");
    assert!((1..=31 * 86_400 + 3_600).contains(&wait(&denied)));
    assert_eq!(denied.json()["title"], "Limit reached");
    assert_eq!(denied.json()["detail"], "tenant/trial allows 25/month");
    assert_eq!(denied.json()["usage"], "https://example.com/usage");
    // The pages about the quota stay readable, and other tenants have quotas of their own.
    stage.expect(GOOD, 1, get("/t/demo/usage")).await;
    stage.expect(GOOD, 1, get("/t/demo/invoices/2026/01")).await;
    stage.expect(OVER, 1, post("/t/demo/usage")).await;
    for (tenant, policy) in [
        ("umbrella", "\"tenant/month\";q=100000"),
        ("acme", "\"tenant/large/month\";q=5000000"),
    ] {
        let uri = format!("/t/{tenant}/things");
        let answer = stage.expect(GOOD, 1, get(&uri)).await;
        let said = answer.header("ratelimit-policy").unwrap();
        assert!(said.contains(policy), "{policy}: {said}");
        assert!(!said.contains("month\";q=100000;w="), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_burst() {
    let stage = Stage::of("webhook-burst").await;
    stage.expect(GOOD, 50, post("/hooks/github")).await;
    let denied = stage.expect(OVER, 1, post("/hooks/github")).await;
    assert_eq!(rule(&denied), "hooks");
    // One more in 12 seconds, and up to a minute more to spread clients out.
    assert!((1..=12 + 60).contains(&wait(&denied)), "{denied:?}");
    assert_eq!(denied.body, format!("Try again in {} s.\n", wait(&denied)));
    stage.expect(GOOD, 1, post("/hooks/gitlab")).await;
    stage.expect(GOOD, 52, post("/hooks/payments")).await;
    assert!((1..=2).contains(&stage.shadow_denied("payments").await));
}

#[tokio::test(flavor = "multi_thread")]
async fn internal_exemption() {
    let stage = Stage::of("internal-exemption").await;
    let page = get("/page");
    for ip in ["10.1.2.3", "198.51.100.9", "2001:db8:1:7::1"] {
        stage.expect(GOOD, 120, page.from(ip)).await;
    }
    // The bucket is empty after 100 requests at once; on a machine that is too slow for that, the
    // limit of the hour denies.
    for ip in ["203.0.113.7", "10.66.0.1"] {
        let mut denied = None;
        for _ in 0..700 {
            let answer = stage.play(page.from(ip)).await;
            if answer.status != GOOD {
                denied = Some(answer);
                break;
            }
        }
        let denied = denied.unwrap_or_else(|| panic!("{ip} was never denied"));
        assert_eq!((denied.status, rule(&denied)), (OVER, "everybody"));
    }
    let export = get("/export/all.csv").from("10.1.2.4");
    stage.expect(GOOD, 5, export).await;
    assert_eq!(rule(&stage.expect(OVER, 1, export).await), "export");
    stage
        .expect(GOOD, 1, get("/admin/users").from("198.51.100.9"))
        .await;
    stage
        .expect(SHUT, 1, get("/admin/users").from("10.1.2.3"))
        .await;
    // Behind the load balancer, the client is the one in `X-Forwarded-For`.
    let balanced = get("/admin/users").from("192.0.2.10");
    let office = ["x-forwarded-for: 198.51.100.9"];
    stage.expect(GOOD, 1, balanced.with(&office)).await;
    let stranger = ["x-forwarded-for: 198.51.100.9, 203.0.113.9"];
    stage.expect(SHUT, 1, balanced.with(&stranger)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn emergency_brake() {
    let stage = Stage::of("emergency-brake").await;
    let search = get("/search?q=all");
    let office = search.from("198.51.100.9");
    stage.expect(GOOD, 3, search).await;
    assert_eq!(stage.shadow_denied("brake").await, 3);

    let report = |ip| get("/reports/7").from(ip);
    let mine = stage.expect(GOOD, 10, report("203.0.113.1")).await;
    assert!(mine.header("ratelimit").is_some(), "{mine:?}");
    let denied = stage.expect(OVER, 1, report("203.0.113.1")).await;
    assert_eq!(rule(&denied), "reports-each");
    stage.expect(GOOD, 10, report("203.0.113.2")).await;
    stage.expect(GOOD, 10, report("203.0.113.3")).await;
    let denied = stage.expect(OVER, 1, report("203.0.113.4")).await;
    assert_eq!(rule(&denied), "reports");

    // The single edit that switches the brake on.
    let pulled = example("emergency-brake").replace("mode: shadow", "mode: enforce");
    let lines = |text: &str| text.lines().filter(|l| l.trim() == "mode: enforce").count();
    assert_eq!(lines(&pulled), 1);
    fs::write(stage.0.rules(), pulled).unwrap();
    eventually("the brake holds", async || {
        stage.play(search).await.status == OVER
    })
    .await;
    let denied = stage.expect(OVER, 1, search).await;
    assert_eq!((rule(&denied), wait(&denied)), ("brake", 120));
    assert_eq!(denied.json()["title"], "Switched off for some minutes");
    stage.expect(GOOD, 1, office).await;
    stage.expect(GOOD, 1, get("/healthz")).await;
    stage.expect(GOOD, 1, get("/")).await;

    fs::write(stage.0.rules(), example("emergency-brake")).unwrap();
    eventually("it is let go", async || {
        stage.play(search).await.status == GOOD
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads() {
    let stage = Stage::of("downloads").await;
    let (one, other) = (["cookie: a=b; session=one"], ["cookie: session=other"]);
    let song = get("/downloads/song.flac");
    stage.expect(GOOD, 4, song.with(&one)).await;
    let head = Play {
        method: "HEAD",
        ..song
    };
    stage.expect(GOOD, 1, head.with(&one)).await;
    let denied = stage
        .expect(OVER, 1, get("/downloads/live/2.flac").with(&one))
        .await;
    assert_eq!(rule(&denied), "downloads");
    assert!((3_000..=3_600).contains(&wait(&denied)), "{denied:?}");
    let preview = get("/downloads/song.flac?preview=1");
    stage.expect(GOOD, 20, preview.with(&one)).await;

    let archive = get("/downloads/live/all.zip");
    let preview = get("/downloads/live/all.zip?preview=1");
    stage.expect(GOOD, 3, preview.with(&other)).await;
    stage.expect(GOOD, 1, archive.with(&other)).await;
    let denied = stage.expect(OVER, 1, archive.with(&other)).await;
    assert_eq!(rule(&denied), "archives");
    stage.expect(GOOD, 4, song.with(&other)).await;
    stage.expect(OVER, 1, song.with(&other)).await;

    let denied = stage.expect(SHUT, 1, song).await;
    assert_eq!(denied.header("retry-after"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_in_users() {
    let stage = Stage::of("signed-in-users").await;
    // {"sub":"a"}, {"sub":"b"} and {}; checking the signature is the proxy's task.
    let a = ["authorization: Bearer e30.eyJzdWIiOiJhIn0.x"];
    let b = ["authorization: Bearer e30.eyJzdWIiOiJiIn0.x"];
    let nobody = ["authorization: Bearer e30.e30.x"];
    let read = get("/api/things");
    stage.expect(GOOD, 20, read).await;
    assert_eq!(rule(&stage.expect(OVER, 1, read).await), "guests");
    // From the same address, and then from another.
    stage.expect(GOOD, 20, read.with(&a)).await;
    stage
        .expect(GOOD, 20, read.with(&a).from("192.0.2.9"))
        .await;
    let denied = stage.expect(OVER, 1, read.with(&a)).await;
    assert_eq!(rule(&denied), "users");
    assert!((1..=30).contains(&wait(&denied)), "{denied:?}");

    let write = post("/api/things").with(&b);
    stage.expect(GOOD, 10, write).await;
    assert_eq!(rule(&stage.expect(OVER, 1, write).await), "writers");
    stage.expect(GOOD, 1, read.with(&b)).await;
    stage.expect(SHUT, 1, read.with(&nobody)).await;
}

#[test]
fn every_example_is_valid_without_a_warning_and_has_a_play() {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir("config/examples").unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let name = file.strip_suffix(".yaml").unwrap_or(&file).to_owned();
        let (set, report) = load(&name);
        assert!(report.is_empty(), "{report}");
        assert!(set.rules.len() > 1, "{name}");
        names.insert(name);
    }
    assert!(names.len() >= 9, "{names:?}");
    let played: BTreeSet<String> = PLAYED.iter().map(ToString::to_string).collect();
    assert_eq!(names, played);
    // Each has a test of its name.
    let tests = include_str!("examples.rs");
    for name in &names {
        let play = format!("async fn {}()", name.replace('-', "_"));
        assert!(tests.contains(&play), "{name} has no play");
    }
}

#[test]
fn every_example_says_what_the_proxies_must_forward() {
    for name in PLAYED {
        let text = example(name);
        let comment: Vec<&str> = text.lines().take_while(|l| l.starts_with('#')).collect();
        let comment = comment.join("\n");
        assert!(comment.len() > 300, "{name} says too little about itself");
        let (set, _) = load(name);
        let asked = headers_asked_for(&set);
        for header in &asked {
            let envoy = format!("\n#   - {{ exact: {header}, ignore_case: true }}");
            assert!(comment.contains(&envoy), "{name}: {envoy}");
            let nginx = format!("\n#   proxy_set_header {header} ");
            let lower = comment.to_lowercase();
            assert!(lower.contains(&nginx), "{name}: {nginx}");
        }
        let needs_nothing = comment.contains("must forward nothing beyond");
        assert_eq!(asked.is_empty(), needs_nothing, "{name}: {asked:?}");
        for rule in &set.rules {
            for (header, _) in &rule.answer.headers {
                let envoy = format!("\n#   - {{ exact: {header}, ignore_case: true }}");
                let is_shipped = header == "retry-after";
                assert!(is_shipped || comment.contains(&envoy), "{name}: {envoy}");
            }
        }
    }
}

/// An example as rules, and its diagnostics.
fn load(name: &str) -> (RuleSet, String) {
    let loaded = rulefile::load_with(
        name,
        &example(name),
        rulefile::LoadContext {
            keys: &tollgate::counter_key::KeySettings::default(),
            read: &|path| fs::read_to_string(format!("config/examples/{}", path.display())),
            list: &|_, _| Ok(Vec::new()),
            locate: &std::path::Path::to_path_buf,
        },
    );
    let report = loaded.diagnostics.to_string();
    let set = loaded.set.unwrap_or_else(|| panic!("{report}"));
    (set, report)
}

/// The request headers that rules ask for, beside those that the shipped configurations forward.
fn headers_asked_for(set: &RuleSet) -> BTreeSet<String> {
    fn of_conditions(conditions: &Conditions) -> impl Iterator<Item = String> {
        conditions.headers.iter().map(|test| test.name.to_string())
    }
    fn of_matcher(matcher: &Matcher) -> impl Iterator<Item = String> {
        let not = matcher.not.iter().flat_map(of_conditions);
        of_conditions(&matcher.when).chain(not)
    }
    let mut names = BTreeSet::new();
    for rule in &set.rules {
        names.extend(of_matcher(&rule.matcher));
        let Action::Limit(action) = &rule.action else {
            continue;
        };
        names.extend(
            action
                .tiers
                .iter()
                .flat_map(|tier| of_matcher(&tier.when).collect::<Vec<_>>()),
        );
        names.extend(
            action
                .descriptor
                .parts
                .iter()
                .filter_map(|part| match part {
                    Part::Header { name, .. } => Some(name.to_string()),
                    Part::Cookie { .. } => Some("cookie".to_owned()),
                    Part::Jwt { .. } => Some("authorization".to_owned()),
                    _ => None,
                }),
        );
        if let Cost::Header { name, .. } = &action.cost {
            names.insert(name.to_string());
        }
    }
    names.remove("x-api-key");
    names
}
