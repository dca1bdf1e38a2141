//! A client can neither avoid its limit nor charge another's, over both of Envoy's contracts.

use std::net::Ipv4Addr;

use super::{
    Stack,
    support::{
        client::{ask, ask_from, get, head},
        envoy::Config,
    },
};

/// Two requests a day for each address, and then no more.
const RULES: &str = "
version: 1
rules:
  - name: data
    match: { path: /data, methods: [GET], host: app.test }
    key: [client_ip]
    limit: 2/day
";

/// The contracts, with long time-outs and failing closed: a time-out must look like neither an
/// admission nor a denial.
fn contracts() -> [(&'static str, Config); 2] {
    let fixed = Config::shipped().fail_closed().patient();
    [
        ("fixed path", fixed.clone()),
        ("path prefix", fixed.path_prefix()),
    ]
}

/// A client that has used up its limit sends each of `requests`. None may get through.
async fn none_escapes(requests: &[Vec<u8>]) {
    for (contract, config) in contracts() {
        none_escapes_from(contract, config, RULES, requests).await;
    }
}

async fn none_escapes_from(contract: &str, config: Config, rules: &str, requests: &[Vec<u8>]) {
    let stack = Stack::with_rules(config, rules).await;
    for left in [1, 0] {
        assert_eq!(
            get(stack.envoy.addr, "/data").await.remaining().0,
            left,
            "{contract}"
        );
    }
    for request in requests {
        let answer = ask(stack.envoy.addr, request).await;
        let sent = String::from_utf8_lossy(request);
        assert_eq!(answer.status, 429, "{contract}: {sent}");
    }
    assert_eq!(stack.upstream.count(), 2, "{contract}");
    // No other client was charged: a new one has all of its limit.
    let stranger = ask_from(
        Ipv4Addr::new(127, 0, 0, 9),
        stack.envoy.addr,
        &head("GET", "/data", &[]),
    )
    .await;
    assert_eq!(stranger.remaining().0, 1, "{contract}: {stranger:?}");
    let unclear = stack
        .tollgate
        .metric("tollgate_contract_faults_total")
        .await;
    assert_eq!(
        unclear, 0,
        "{contract}: no check may look like a fault of the proxy's configuration"
    );
}

fn with_lines(lines: &[&str]) -> Vec<u8> {
    head("GET", "/data", lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoofed_x_forwarded_for_changes_nothing() {
    none_escapes(&[
        with_lines(&["x-forwarded-for: 127.0.0.9"]),
        with_lines(&["x-forwarded-for: 198.51.100.1, 127.0.0.9"]),
        with_lines(&[
            "x-forwarded-for: 198.51.100.1",
            "x-forwarded-for: 127.0.0.9",
        ]),
        with_lines(&["x-forwarded-for: garbage"]),
        with_lines(&["x-forwarded-for:"]),
        with_lines(&[
            "forwarded: for=127.0.0.9",
            "true-client-ip: 127.0.0.9",
            "x-envoy-external-address: 127.0.0.9",
        ]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoofed_x_real_ip_changes_nothing() {
    none_escapes(&[
        with_lines(&["x-real-ip: 127.0.0.9"]),
        with_lines(&["X-REAL-IP: 127.0.0.9"]),
        with_lines(&["x-real-ip: 198.51.100.1", "x-real-ip: 127.0.0.9"]),
        with_lines(&["x-real-ip: garbage"]),
        with_lines(&["x-real-ip:"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoofed_x_forwarded_uri_changes_nothing() {
    none_escapes(&[
        with_lines(&["x-forwarded-uri: /free"]),
        with_lines(&["x-forwarded-uri: /free", "x-forwarded-uri: /free"]),
        with_lines(&["x-forwarded-uri:"]),
        with_lines(&[
            "x-original-uri: /free",
            "x-original-url: /free",
            "x-envoy-original-path: /free",
            "x-rewrite-url: /free",
        ]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoofed_x_forwarded_method_changes_nothing() {
    none_escapes(&[
        with_lines(&["x-forwarded-method: POST"]),
        with_lines(&["x-forwarded-method: POST", "x-forwarded-method: POST"]),
        with_lines(&["x-http-method-override: POST", "x-original-method: POST"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoofed_x_forwarded_host_changes_nothing() {
    none_escapes(&[
        with_lines(&["x-forwarded-host: free.test"]),
        with_lines(&["x-forwarded-host: free.test", "x-forwarded-host: free.test"]),
        with_lines(&["x-original-host: free.test", "x-host: free.test"]),
        with_lines(&["host: APP.test:8080"]),
        head("GET", "http://app.test/data", &["host: free.test"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoofed_time_budget_or_answer_of_tollgate_changes_nothing() {
    none_escapes(&[
        with_lines(&[
            "x-envoy-expected-rq-timeout-ms: 0",
            "x-envoy-upstream-rq-timeout-ms: 1",
        ]),
        with_lines(&[
            "x-envoy-auth-failure-mode-allowed: true",
            "x-tollgate-rule: free",
        ]),
        with_lines(&["connection: x-real-ip, x-forwarded-uri, x-forwarded-method"]),
    ])
    .await;
}

/// Targets that a server takes for `/data`.
fn spellings() -> Vec<Vec<u8>> {
    [
        "/x/../data",
        "//data",
        "/./data",
        "/%64ata",
        "/dat%61",
        "/data/",
        "/data/?x",
        "/data?x=1",
        "/x/%2e%2E/data",
        "/data//",
        "/../data",
    ]
    .iter()
    .map(|target| head("GET", target, &[]))
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_spelling_of_the_path_has_the_same_limit() {
    none_escapes(&spellings()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_spelling_has_the_same_limit_when_envoy_does_not_normalise() {
    let rules = format!("{RULES}paths: {{ dot_segments: resolve, leading_slashes: merge }}\n");
    for (contract, config) in contracts() {
        none_escapes_from(contract, config.raw_paths(), &rules, &spellings()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_envoy_does_not_normalise_is_refused() {
    for (contract, config) in contracts() {
        let stack = Stack::with_rules(config.raw_paths(), RULES).await;
        for target in [
            "/x/../data",
            "/data/../x",
            "/./data",
            "/x/%2e%2E/data",
            "//data",
            "//x/data",
        ] {
            let answer = get(stack.envoy.addr, target).await;
            assert_eq!(answer.status, 400, "{contract}: {target}");
        }
        assert_eq!(stack.upstream.count(), 0, "{contract}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_means_two_things_is_refused() {
    let stack = Stack::with_rules(Config::shipped().fail_closed().patient(), RULES).await;
    for target in ["/data%2F", "/free/..%2fdata", "/%2Fdata"] {
        assert_eq!(get(stack.envoy.addr, target).await.status, 400, "{target}");
    }
    assert_eq!(stack.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn head_counts_as_get() {
    none_escapes(&[head("HEAD", "/data", &[]), head("HEAD", "//data/?x", &[])]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tollgates_own_paths_are_the_applications_paths_to_a_client() {
    let rules = "
version: 1
rules:
  - { name: all, key: [client_ip], limit: 11/day }
paths: { dot_segments: resolve, leading_slashes: merge }
";
    let paths = [
        "/metrics",
        "/rules",
        "/livez",
        "/readyz",
        "/v1/check",
        "/v1/check?x-forwarded-uri=/free",
        "/v1/auth-request",
        "/v1/envoy",
        "/v1/envoy/data",
        "/v1/envoy/../check",
        "/../v1/check",
    ];
    let raw = contracts().map(|(contract, config)| (contract, config.raw_paths()));
    for (contract, config) in contracts().into_iter().chain(raw) {
        let stack = Stack::with_rules(config, rules).await;
        for (used, path) in (1..).zip(paths) {
            let answer = get(stack.envoy.addr, path).await;
            assert_eq!(answer.status, 200, "{contract}: {path}");
            assert_eq!(
                answer.remaining().0,
                11 - used,
                "{contract}: {path} is charged like any other"
            );
            // The demo upstream answers `/readyz` itself.
            assert!(
                path == "/readyz" || answer.json()["service"] == "upstream",
                "{contract}: {path}: {answer:?}"
            );
            assert_eq!(
                stack.upstream.count() as u64,
                used,
                "{contract}: {path} reaches the application"
            );
        }
        for path in paths {
            assert_eq!(
                get(stack.envoy.addr, path).await.status,
                429,
                "{contract}: {path}"
            );
        }
        assert_eq!(
            stack
                .tollgate
                .metric("tollgate_contract_faults_total")
                .await,
            0,
            "{contract}"
        );
    }
}
