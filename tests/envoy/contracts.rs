//! The responses that clients get, for each way in which Envoy can ask.

use super::{
    Stack,
    support::{
        client::{all_at_once, ask, get, head, statuses},
        envoy::Config,
        eventually,
        redis::Redis,
        tollgate::Settings,
    },
};
use std::{collections::BTreeMap, net::Ipv4Addr};

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_configuration_turns_200_into_429_after_five() {
    let redis = Redis::start();
    let rules = include_str!("../../config/rules.yaml");
    // Only the time-outs differ from the shipped configuration: on a slow machine they would decide
    // instead of the limit.
    let settings = Settings {
        rules,
        redis: Some(&redis),
        args: &["--deadline=20s"],
        ..Settings::default()
    };
    let stack = Stack::start(Config::shipped().patient(), settings).await;

    for left in (0..5).rev() {
        let answer = get(stack.envoy.addr, "/data").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("ratelimit-policy"), Some("\"data\";q=5;w=60"));
        assert_eq!(answer.remaining().0, left);
        assert_eq!(answer.header("retry-after"), None);
        assert_eq!(
            answer.header("x-tollgate-rule"),
            None,
            "is for the access log"
        );
        assert_eq!(answer.json()["path"], "/data", "the application's answer");
    }
    for _ in 0..2 {
        let answer = get(stack.envoy.addr, "/data").await;
        assert_eq!(answer.status, 429, "{answer:?}");
        assert_eq!(answer.header("ratelimit-policy"), Some("\"data\";q=5;w=60"));
        let (left, wait) = answer.remaining();
        assert_eq!(left, 0);
        assert!((1..=60).contains(&wait), "{wait}");
        assert_eq!(
            answer.header("retry-after"),
            Some(wait.to_string().as_str())
        );
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(
            answer.header("x-tollgate-rule"),
            None,
            "is for the access log"
        );
        // README shows this response after one second.
        let as_shown = answer.body.replace(&format!("in {wait} s"), "in 59 s");
        let as_shown = as_shown.replace(&format!(":{wait}}}"), ":59}");
        assert!(
            include_str!("../../README.md").contains(&as_shown),
            "{as_shown}"
        );
        let problem = answer.json();
        assert_eq!(
            problem["type"],
            "https://iana.org/assignments/http-problem-types#quota-exceeded"
        );
        assert_eq!(
            (&problem["status"], &problem["rule"]),
            (&429.into(), &"data".into())
        );
        assert_eq!(problem["retry-after"], wait);
    }
    assert_eq!(
        stack.upstream.count(),
        5,
        "what is denied does not reach the application"
    );
    assert_eq!(get(stack.envoy.addr, "/healthz").await.status, 200);
    assert_eq!(stack.envoy.check_errors().await, 0);

    eventually("the access log names the rule", async || {
        let log = stack.envoy.access_log();
        let denied = log.lines().find(|line| line.contains("\"status\":429"));
        denied.is_some_and(|line| {
            line.contains("\"rule\":\"data\"")
                && line.contains("\"limit\":\"data\"")
                && line.contains("ext_authz_denied")
        })
    })
    .await;
}

/// The name has method, host and path, so that a missing attribute is noticed.
const RULES: &str = "
version: 1
rules:
  - name: data
    match: { path: '/{tenant}/data', methods: [POST], host: api.example.com }
    key: [client_ip, method, host, { path: tenant }, { header: x-api-key }]
    limit: 3/day
";

/// Three requests get through and the fourth does not; another tenant, key, method or host is not
/// affected.
async fn limits(name: &str, config: Config, unix: bool, contract: &str) {
    let settings = Settings {
        rules: RULES,
        unix,
        ..Settings::default()
    };
    let stack = Stack::start(config, settings).await;
    let post = |target: &str, host: &str, key: &str| {
        head("POST", target, &[host, key, "content-length: 0"])
    };
    let (host, key) = ("host: api.example.com", "x-api-key: k");
    let ours = post("/a/data?x=/b/data", host, key);
    let answers = all_at_once(Ipv4Addr::LOCALHOST, stack.envoy.addr, &ours, 8).await;
    assert_eq!(
        statuses(&answers),
        BTreeMap::from([(200, 3), (429, 5)]),
        "{name}"
    );
    for other in [
        post("/b/data", host, key),
        post("/a/data", "host: www.example.com", key),
        post("/a/data", host, "x-api-key: l"),
        head("GET", "/a/data", &[host, key]),
    ] {
        let answer = ask(stack.envoy.addr, &other).await;
        assert_eq!(
            answer.status,
            200,
            "{name}: {}",
            String::from_utf8_lossy(&other)
        );
    }
    assert_eq!(ask(stack.envoy.addr, &ours).await.status, 429, "{name}");
    assert_eq!(stack.envoy.check_errors().await, 0, "{name}");
    let checks = format!("tollgate_checks_total{{contract=\"{contract}\"}}");
    assert_eq!(
        stack.tollgate.metric(&checks).await,
        13,
        "{name}: every request is checked, and so"
    );
}

/// The transports, with long time-outs, because nothing here is about Envoy giving up.
fn transports() -> [(&'static str, Config, bool); 2] {
    let config = Config::shipped().fail_closed().patient();
    [
        ("TCP", config.clone(), false),
        ("a Unix socket", config, true),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fixed_path_limits_over_each_transport() {
    for (name, config, unix) in transports() {
        limits(name, config, unix, "check").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_path_prefix_limits_over_each_transport() {
    for (name, config, unix) in transports() {
        limits(name, config.path_prefix(), unix, "envoy").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_that_asks_over_http2_is_told_why_not() {
    let config = Config::shipped().fail_closed().patient().http2();
    let stack = Stack::with_rules(config, RULES).await;
    assert_eq!(get(stack.envoy.addr, "/x").await.status, 503);
    let faults = stack
        .tollgate
        .metric("tollgate_contract_faults_total{kind=\"http2\"}")
        .await;
    assert!(faults >= 1, "{faults}");
    let log = stack.tollgate.log();
    assert!(
        log.contains("HTTP/2") && log.contains("http_protocol_options: {}"),
        "{log}"
    );
    assert_eq!(stack.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_denies_is_a_403_with_no_limit() {
    let rules = "
version: 1
rules:
  - { name: internal, match: { path: '/internal/**' }, action: deny }
";
    let stack = Stack::with_rules(Config::shipped(), rules).await;
    let answer = get(stack.envoy.addr, "/internal/x").await;
    assert_eq!(answer.status, 403);
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(
        (answer.header("ratelimit"), answer.header("retry-after")),
        (None, None)
    );
    assert_eq!(stack.upstream.count(), 0);
    assert_eq!(
        get(stack.envoy.addr, "/status/403").await.json()["status"],
        403,
        "the application's own passes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tollgate_closes_no_connection_that_envoy_has_to_spare() {
    let rules = "{ version: 1, rules: [{ name: all, limit: 1000000/day }] }";
    // Envoy opens a connection for each check that waits, and then gives the check to whichever is
    // free first. Those that came too late stay unused until the next burst, which must not find
    // them closed.
    let args = &["--header-timeout=100ms"];
    let settings = Settings {
        rules,
        args,
        ..Settings::default()
    };
    let stack = Stack::start(Config::shipped().fail_closed().patient(), settings).await;
    for _ in 0..10 {
        let request = head("GET", "/x", &[]);
        let answers = all_at_once(Ipv4Addr::LOCALHOST, stack.envoy.addr, &request, 200).await;
        assert_eq!(statuses(&answers), BTreeMap::from([(200, 200)]));
    }
    let closed = stack
        .envoy
        .stat("cluster.tollgate.upstream_cx_destroy_remote")
        .await;
    assert_eq!(closed, 0, "connections that tollgate has closed");
}
