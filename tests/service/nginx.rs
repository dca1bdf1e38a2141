//! tollgate behind a real nginx that runs the configuration we ship.
use std::{collections::BTreeMap, net::Ipv4Addr, sync::atomic::Ordering};

use crate::support::{
    client::{Connection, all_at_once, ask, ask_from, get, head, statuses},
    eventually,
    forwarder::Forwarder,
    nginx::{Config, Nginx},
    redis::Redis,
    tollgate::{Settings, Tollgate},
    upstream::Upstream,
};
use rustix::process::Signal;

const RULES: &str = "
version: 1
rules:
  - { name: internal, match: { path: '/internal/**' }, action: deny }
  - { name: free, match: { path: '/free/**' }, action: allow }
  - { name: data, match: { path: /data, methods: [GET, POST], host: app.test }, key: [client_ip], limit: 2/day }
  - { name: api, match: { path: /api }, key: [{ header: x-api-key }], limit: 2/day }
";

struct Stack {
    nginx: Nginx,
    tollgate: Tollgate,
    upstream: Upstream,
}

impl Stack {
    async fn start(config: Config, rules: &str) -> Self {
        let upstream = Upstream::start().await;
        let tollgate = Tollgate::start(Settings {
            rules,
            ..Settings::default()
        })
        .await;
        let nginx = Nginx::start(config, tollgate.addr(), upstream.addr).await;
        Self {
            nginx,
            tollgate,
            upstream,
        }
    }
}

/// With such long time-outs that none of nginx's decides on a slow machine.
fn patient() -> Config {
    Config::shipped()
        .with("proxy_connect_timeout 1s;", "proxy_connect_timeout 20s;")
        .with("proxy_send_timeout    1s;", "proxy_send_timeout 20s;")
        .with("proxy_read_timeout    1s;", "proxy_read_timeout 20s;")
}

/// Answers 503 when tollgate does not answer.
fn closed() -> Config {
    patient().with(
        "location @no_answer { return 204; }",
        "location @no_answer { return 403; }",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundreds_and_429s_carry_their_headers() {
    let stack = Stack::start(closed(), RULES).await;
    for left in [1, 0] {
        let answer = get(stack.nginx.addr, "/data").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.remaining().0, left);
        assert_eq!(
            answer.header("ratelimit-policy"),
            Some("\"data\";q=2;w=86400")
        );
        assert_eq!(
            (
                answer.header("retry-after"),
                answer.header("x-tollgate-rule")
            ),
            (None, None)
        );
        assert_eq!(answer.json()["path"], "/data", "the application's answer");
    }
    let answer = get(stack.nginx.addr, "/data").await;
    assert_eq!(answer.status, 429, "{answer:?}");
    let (left, wait) = answer.remaining();
    assert_eq!(left, 0);
    assert!((86_000..=86_400).contains(&wait), "{wait}");
    assert_eq!(
        answer.header("retry-after"),
        Some(wait.to_string().as_str())
    );
    assert_eq!(
        answer.header("ratelimit-policy"),
        Some("\"data\";q=2;w=86400")
    );
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.json()["status"], 429);
    assert!(
        answer.body.contains(&format!("retry after {wait} s")),
        "{}",
        answer.body
    );
    assert_eq!(stack.upstream.count(), 2);
    eventually("the access log names the rule", async || {
        stack
            .nginx
            .access_log()
            .contains("\"GET /data\" 429 tollgate=429 rule=data limit=data")
    })
    .await;
    assert_eq!(stack.nginx.log(), "", "a denial is no error of nginx's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_denies_is_a_403_and_the_applications_own_answers_pass() {
    let stack = Stack::start(closed(), RULES).await;
    let answer = get(stack.nginx.addr, "/internal/x").await;
    assert_eq!((answer.status, answer.header("ratelimit")), (403, None));
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(answer.json()["title"], "Forbidden");
    assert_eq!(stack.upstream.count(), 0);
    for status in [401, 403, 404, 429, 500, 503] {
        let answer = get(stack.nginx.addr, &format!("/status/{status}")).await;
        assert_eq!(answer.status, status);
        assert_eq!(
            answer.json()["service"],
            "upstream",
            "untouched: {answer:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_custom_status_is_a_denial_and_not_a_500() {
    let rules = "
version: 1
rules:
  - { name: dark, match: { path: /dark }, action: deny, answer: { status: 451, text: dark } }
  - { name: moved, match: { path: /moved }, action: deny, answer: { status: 302, headers: { location: /x } } }
  - { name: paid, match: { path: /paid }, limit: 1/day, answer: { status: 402 } }
";
    let stack = Stack::start(closed(), rules).await;
    assert_eq!(get(stack.nginx.addr, "/paid").await.status, 200);
    for (path, status) in [("/dark", "451"), ("/moved", "302"), ("/paid", "402")] {
        let answer = get(stack.nginx.addr, path).await;
        assert_eq!(answer.status, 403, "{path}: {answer:?}");
        assert_eq!(answer.json()["title"], "Forbidden");
        let logged = format!("\"GET {path}\" 403 tollgate={status}");
        eventually("the access log has the status", async || {
            stack.nginx.access_log().contains(&logged)
        })
        .await;
    }
    assert_eq!(stack.upstream.count(), 1);
    assert_eq!(stack.nginx.log(), "", "a denial is no error of nginx's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_at_once_are_counted_exactly_in_redis() {
    let redis = Redis::start();
    let rules = "
version: 1
rules:
  - { name: data, match: { path: /data }, key: [client_ip], limit: 10/day, on_store_error: proxy }
";
    let upstream = Upstream::start().await;
    let settings = Settings {
        rules,
        redis: Some(&redis),
        args: &["--deadline=20s"],
        ..Settings::default()
    };
    let tollgate = Tollgate::start(settings).await;
    let nginx = Nginx::start(closed(), tollgate.addr(), upstream.addr).await;
    let answers = all_at_once(
        Ipv4Addr::LOCALHOST,
        nginx.addr,
        &head("GET", "/data", &[]),
        100,
    )
    .await;
    assert_eq!(statuses(&answers), BTreeMap::from([(200, 10), (429, 90)]));
    assert_eq!(
        redis.counters(),
        "tollgate:{data:client_ip=127.0.0.1}:sliding_window:86400s"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_to_tollgate_and_to_the_client() {
    let upstream = Upstream::start().await;
    let tollgate = Tollgate::start(Settings {
        rules: RULES,
        ..Settings::default()
    })
    .await;
    let counted = Forwarder::start(tollgate.addr()).await;
    // Workers have connections of their own; with one worker they can be counted.
    let config = closed().with("worker_processes auto;", "worker_processes 1;");
    let nginx = Nginx::start(config, counted.addr, upstream.addr).await;
    let mut client = Connection::open(nginx.addr).await.unwrap();
    let mut counts = BTreeMap::new();
    for path in ["/data", "/free/x", "/internal/x", "/status/500"]
        .iter()
        .cycle()
        .take(60)
    {
        let answer = client
            .ask(&head("GET", path, &[]))
            .await
            .expect("the connection is kept after every answer");
        *counts.entry(answer.status).or_default() += 1;
    }
    assert_eq!(
        counts,
        BTreeMap::from([(200, 2 + 15), (403, 15), (429, 13), (500, 15)])
    );
    assert_eq!(tollgate.metric("tollgate_checks_total").await, 60);
    assert_eq!(
        counted.connections.load(Ordering::Relaxed),
        1,
        "one check after the other needs one connection"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_arrives_whole_and_is_limited() {
    let stack = Stack::start(closed(), RULES).await;
    let body = "x".repeat(100_000);
    let length = format!("content-length: {}", body.len());
    let mut post = head("POST", "/data", &[&length]);
    post.extend_from_slice(body.as_bytes());
    for _ in 0..2 {
        assert_eq!(ask(stack.nginx.addr, &post).await.status, 200);
        let seen = stack.upstream.last();
        assert_eq!(
            (seen.method.as_str(), seen.body.len()),
            ("POST", body.len())
        );
    }
    assert_eq!(ask(stack.nginx.addr, &post).await.status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_can_change_neither_its_limit_nor_anothers() {
    let stack = Stack::start(closed(), RULES).await;
    for _ in 0..2 {
        assert_eq!(get(stack.nginx.addr, "/data").await.status, 200);
    }
    for line in [
        "x-forwarded-for: 127.0.0.9",
        "x-real-ip: 127.0.0.9",
        "x-real-ip: 198.51.100.1\r\nx-real-ip: 127.0.0.9",
        "x-forwarded-uri: /free/x",
        "x-forwarded-method: DELETE",
        "x-forwarded-host: free.test",
        "x-original-uri: /free/x",
        "host: APP.test:80",
        "x-envoy-expected-rq-timeout-ms: 0",
    ] {
        let answer = ask(stack.nginx.addr, &head("GET", "/data", &[line])).await;
        assert_eq!(answer.status, 429, "{line}");
    }
    for target in [
        "/%64ata",
        "/data/",
        "/data//",
        "/data?x=/free",
        "http://app.test/data",
    ] {
        let answer = ask(stack.nginx.addr, &head("GET", target, &[])).await;
        assert_eq!(answer.status, 429, "{target}");
    }
    // An encoded slash is ambiguous: nginx would route it to /data, and tollgate would match
    // /free/**.
    for target in ["/free/..%2fdata", "/free/%2E%2E%2Fdata", "/%2Fdata"] {
        let answer = ask(stack.nginx.addr, &head("GET", target, &[])).await;
        assert_eq!(answer.status, 400, "{target}");
    }
    // nginx passes any bytes on unchanged; tollgate must not answer "cannot decide" to them.
    for target in [&b"/data?x=\xff"[..], b"/data/\xfe", b"/data\xa0"] {
        let request = [b"GET ", target, b" HTTP/1.1\r\nhost: app.test\r\n\r\n"].concat();
        let answer = ask(stack.nginx.addr, &request).await;
        assert_eq!(answer.status, 403, "{}", target.escape_ascii());
    }
    assert_eq!(
        ask(stack.nginx.addr, &head("HEAD", "/data", &[]))
            .await
            .status,
        429
    );
    assert_eq!(stack.upstream.count(), 2);
    let stranger = ask_from(
        Ipv4Addr::new(127, 0, 0, 9),
        stack.nginx.addr,
        &head("GET", "/data", &[]),
    )
    .await;
    assert_eq!(
        stranger.remaining().0,
        1,
        "nobody else was charged: {stranger:?}"
    );
    assert_eq!(
        stack
            .tollgate
            .metric("tollgate_contract_faults_total")
            .await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_the_configuration_names_are_keys() {
    let stack = Stack::start(closed(), RULES).await;
    for key in ["x-api-key: a", "x-api-key: b"] {
        for status in [200, 200, 429] {
            assert_eq!(
                ask(stack.nginx.addr, &head("GET", "/api", &[key]))
                    .await
                    .status,
                status,
                "{key}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_is_not_for_clients() {
    let rules = "
version: 1
rules:
  - { name: all, key: [client_ip], limit: 5/day }
";
    let stack = Stack::start(closed(), rules).await;
    let hidden = get(stack.nginx.addr, "/_tollgate").await;
    assert_eq!(
        (hidden.status, stack.upstream.count()),
        (403, 0),
        "{hidden:?}"
    );
    for (used, path) in (1..).zip([
        "/metrics",
        "/rules",
        "/v1/check",
        "/v1/auth-request",
        "/v1/envoy/x",
    ]) {
        let answer = get(stack.nginx.addr, path).await;
        assert_eq!(
            (answer.status, answer.remaining().0),
            (200, 5 - used),
            "{path} is charged like any other"
        );
        assert_eq!(answer.json()["path"], path, "the application's answer");
    }
    assert_eq!(get(stack.nginx.addr, "/metrics").await.status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tollgate_requests_pass_or_not_as_configured() {
    for (config, status) in [(patient(), 200), (closed(), 503)] {
        let mut stack = Stack::start(config, RULES).await;
        stack.tollgate.signal(Signal::KILL);
        stack.tollgate.ended().await;
        let mut client = Connection::open(stack.nginx.addr).await.unwrap();
        for _ in 0..3 {
            let answer = client
                .ask(&head("GET", "/data", &[]))
                .await
                .expect("the connection is kept");
            assert_eq!(
                (answer.status, answer.header("ratelimit")),
                (status, None),
                "{answer:?}"
            );
        }
        stack.tollgate.start_again().await;
        let answers = all_at_once(
            Ipv4Addr::LOCALHOST,
            stack.nginx.addr,
            &head("GET", "/data", &[]),
            8,
        )
        .await;
        assert_eq!(
            statuses(&answers),
            BTreeMap::from([(200, 2), (429, 6)]),
            "it limits again by itself"
        );
    }
}

/// Set-ups that cannot pass on a 429 ask here and pass on a 403.
#[tokio::test(flavor = "multi_thread")]
async fn plain_auth_request_denies_with_403_and_the_headers_of_the_limit() {
    let plain = patient()
        .with(
            "proxy_pass http://tollgate/v1/check;",
            "proxy_pass http://tollgate/v1/auth-request;",
        )
        .with(
            "proxy_set_header X-Forwarded-Method $request_method;",
            "proxy_set_header X-Original-Method $request_method;",
        )
        .with(
            "proxy_set_header X-Forwarded-Uri    $request_uri;",
            "proxy_set_header X-Original-URL $scheme://$http_host$request_uri;",
        )
        .with("proxy_intercept_errors on;", "")
        .with(
            "error_page 301 302 303 307 308 400 402 404 405 406 409 410 418 422 423 425 426 428 429 431 451 = @over_limit;",
            "",
        )
        .with("error_page 500 502 503 504 = @no_answer;", "")
        .with("error_page 403 = @refused; ", "");
    let stack = Stack::start(plain, RULES).await;
    for left in [1, 0] {
        let answer = get(stack.nginx.addr, "/data").await;
        assert_eq!((answer.status, answer.remaining().0), (200, left));
    }
    let answer = get(stack.nginx.addr, "/data").await;
    assert_eq!(
        (answer.status, answer.remaining().0),
        (403, 0),
        "{answer:?}"
    );
    assert_eq!(
        answer.header("retry-after").unwrap(),
        answer.remaining().1.to_string()
    );
    assert_eq!(
        answer.header("ratelimit-policy"),
        Some("\"data\";q=2;w=86400")
    );
    let forbidden = get(stack.nginx.addr, "/internal/x").await;
    assert_eq!(
        (forbidden.status, forbidden.header("ratelimit")),
        (403, None)
    );
    assert_eq!(stack.upstream.count(), 2);
    assert_eq!(
        stack
            .tollgate
            .metric("tollgate_checks_total{contract=\"auth_request\"}")
            .await,
        4
    );
}

/// What the template of ingress-nginx sends is enough for every kind of rule, and nothing of it is
/// the client's: it passes all headers of the client on.
#[tokio::test(flavor = "multi_thread")]
async fn ingress_nginx_needs_no_snippet() {
    let rules = "
version: 1
rules:
  - { name: internal, match: { host: internal.test }, action: deny }
  - { name: plain, match: { path: /plain, scheme: http }, action: deny }
  - { name: posts, match: { path: /data, methods: POST, host: app.test }, key: [client_ip, host], limit: 2/day }
";
    let config = Config::of(include_str!("ingress-nginx.conf"));
    let stack = Stack::start(config, rules).await;
    let addr = stack.nginx.addr;
    let post = |target: &str, lines: &[&str]| {
        let mut all = vec!["content-length: 2"];
        all.extend(lines);
        let mut request = head("POST", target, &all);
        request.extend(b"{}");
        request
    };
    for left in [1, 0] {
        assert_eq!(ask(addr, &post("/data", &[])).await.status, 200);
        let seen = stack.upstream.last().headers;
        let told = seen["ratelimit"].to_str().unwrap().to_owned();
        assert!(told.starts_with(&format!("\"posts\";r={left};")), "{told}");
    }
    for lines in [
        &[][..],
        &["x-forwarded-host: other.test"],
        &["x-forwarded-host: a", "x-forwarded-host: b"],
        &["x-forwarded-method: GET", "x-forwarded-uri: /free"],
        &[
            "x-original-url: http://free.test/free",
            "x-original-method: GET",
        ],
        &[
            "X-Original-URL: x",
            "X-Original-URL: y",
            "x-original_url: z",
        ],
        &["x-real-ip: 127.0.0.9", "x-forwarded-for: 127.0.0.9"],
        &["connection: x-original-url, x-original-method, x-real-ip"],
        &["x-sent-from: me", "x-envoy-expected-rq-timeout-ms: 0"],
        &["host: APP.test:80"],
    ] {
        let answer = ask(addr, &post("/data", lines)).await;
        assert_eq!(answer.status, 403, "{lines:?}");
    }
    for target in [
        "/x/../data",
        "//data",
        "/%64ata",
        "/data?x=1",
        "http://app.test/data",
    ] {
        let answer = ask(addr, &post(target, &[])).await;
        assert_eq!(answer.status, 403, "{target}");
    }
    // What means two things is refused. ingress-nginx has no line for it, so tollgate does it.
    for target in [
        "/#/../data",
        "/a%2f..%2f..%2fdata",
        "/x\\..\\data",
        "/x/..;/data",
        "/data//..",
    ] {
        let answer = ask(addr, &post(target, &[])).await;
        assert!(matches!(answer.status, 400 | 403), "{target}: {answer:?}");
    }
    for host in ["a.test, b.test", "a@b", "a:b:c", "app.test?x"] {
        let answer = ask(addr, &post("/data", &[&format!("host: {host}")])).await;
        assert!(matches!(answer.status, 400 | 403), "{host}: {answer:?}");
    }
    // A chunked body is not sent along, and not waited for.
    let chunked = "transfer-encoding: chunked";
    let mut request = head("POST", "/data", &[chunked]);
    request.extend(b"2\r\n{}\r\n0\r\n\r\n");
    assert_eq!(ask(addr, &request).await.status, 403);
    assert_eq!(stack.upstream.count(), 2);

    assert_eq!(
        ask(addr, &head("GET", "/", &["host: internal.test"]))
            .await
            .status,
        403
    );
    assert_eq!(get(addr, "/plain").await.status, 403);
    let spoofed = head("GET", "/plain", &["x-forwarded-proto: https"]);
    assert_eq!(ask(addr, &spoofed).await.status, 403);
    assert_eq!(get(addr, "/data").await.status, 200, "another method");
    let other = head("POST", "/data", &["host: other.test", "content-length: 0"]);
    assert_eq!(ask(addr, &other).await.status, 200, "another host");
    let answer = ask(addr, b"GET /data HTTP/1.0\r\n\r\n").await;
    assert_eq!(answer.status, 200, "no host at all: {answer:?}");
    assert_eq!(
        stack
            .tollgate
            .metric("tollgate_contract_faults_total")
            .await,
        0
    );
}

/// nginx goes by an absolute target's host, and ingress-nginx reports that of `Host`. The document
/// has the line that refuses such targets.
#[tokio::test(flavor = "multi_thread")]
async fn ingress_nginx_can_refuse_absolute_targets() {
    let line = r#"if ($request ~ "^[^ ]+ +[^ /]+://") { return 400; }"#;
    assert!(include_str!("../../docs/proxies.md").contains(line));
    let server = "server_name _;";
    let config = Config::of(include_str!("ingress-nginx.conf"))
        .with(server, &format!("{server}\n        {line}"));
    let rules = "
version: 1
rules:
  - { name: internal, match: { host: internal.test }, action: deny }
";
    let stack = Stack::start(config, rules).await;
    let at = |host: &str, target: &str| head("GET", target, &[&format!("host: {host}")]);
    for (host, target, status) in [
        ("internal.test", "/", 403),
        ("other.test", "http://internal.test/", 400),
        ("other.test", "HTTPS://internal.test/", 400),
        ("other.test", "/?next=http://internal.test/", 200),
        ("other.test", "/a", 200),
    ] {
        let answer = ask(stack.nginx.addr, &at(host, target)).await;
        assert_eq!(answer.status, status, "{host} {target}: {answer:?}");
    }
}

/// As its template has it: no check waits for the connection of another, and none is lost.
#[tokio::test(flavor = "multi_thread")]
async fn ingress_nginx_opens_a_connection_for_each_check() {
    let rules = "
version: 1
rules:
  - { name: data, match: { path: /data }, key: [client_ip], limit: 10/day }
";
    let upstream = Upstream::start().await;
    let tollgate = Tollgate::start(Settings {
        rules,
        ..Settings::default()
    })
    .await;
    let counted = Forwarder::start(tollgate.addr()).await;
    let config = Config::of(include_str!("ingress-nginx.conf"));
    let nginx = Nginx::start(config, counted.addr, upstream.addr).await;
    let mut client = Connection::open(nginx.addr).await.unwrap();
    let mut counts = BTreeMap::new();
    for _ in 0..20 {
        let answer = client
            .ask(&head("GET", "/data", &[]))
            .await
            .expect("the client's connection is kept");
        *counts.entry(answer.status).or_default() += 1;
    }
    assert_eq!(counts, BTreeMap::from([(200, 10), (403, 10)]));
    assert_eq!(tollgate.metric("tollgate_checks_total").await, 20);
    assert_eq!(counted.connections.load(Ordering::Relaxed), 20);
}

/// `index`, `try_files` and `error_page` redirect within nginx, which then asks again.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_nginx_redirects_within_is_charged_once() {
    let files = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("index.html", "the index"),
        ("a.txt", "a file"),
        ("oops.html", "oops"),
    ] {
        std::fs::write(files.path().join(name), text).unwrap();
    }
    // Started by root, its workers run as another user.
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(files.path(), readable).unwrap();
    let root = files.path().display();
    // Every place that a request can be led to asks, as people write it.
    let config = closed()
        .with(
            "            error_page 403 = @refused;",
            &format!("            root {root}; index index.html; try_files $uri $uri/ /app$uri;\n            error_page 404 /oops.html;\n            error_page 403 = @refused;"),
        )
        .with("            proxy_pass http://app;\n", "")
        .with(
            "        location = /_tollgate {",
            &format!(
                "        location /app {{
            auth_request /_tollgate;
            error_page 404 /oops.html;
            proxy_intercept_errors on;
            rewrite ^ /status/404 break;
            proxy_pass http://app;
        }}
        location = /oops.html {{ root {root}; auth_request /_tollgate; }}
        location = /_tollgate {{"
            ),
        );
    let rules = "
version: 1
rules:
  - { name: all, key: [client_ip], limit: 4/day }
";
    let stack = Stack::start(config, rules).await;
    for (left, target, status, body) in [
        (3, "/", 200, "the index"),
        (2, "/a.txt", 200, "a file"),
        (1, "/other", 404, "oops"),
        (0, "/", 200, "the index"),
    ] {
        let answer = get(stack.nginx.addr, target).await;
        assert_eq!((answer.status, &*answer.body), (status, body), "{target}");
        let checks = stack.tollgate.metric("tollgate_checks_total").await;
        assert_eq!(checks, 4 - left, "{target}");
        if target != "/other" {
            assert_eq!(answer.remaining().0, left, "{target}");
        }
    }
    for target in ["/", "/a.txt", "/other"] {
        assert_eq!(get(stack.nginx.addr, target).await.status, 429, "{target}");
    }
    assert_eq!(stack.upstream.count(), 1);
}

/// nginx cuts at a `#` and passes it on; an application that keeps it resolves the `..` behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_means_two_things_is_refused() {
    let stack = Stack::start(patient(), RULES).await;
    for target in [
        "/#/../data",
        "/free/#/../../data",
        "/free/x?y#/../../data",
        "/free/..\\data",
        "/free/..%5cdata",
        "/free/..%5Cdata",
        "/free/..%2fdata",
        "/free/%2e%2e%2Fdata",
        "/free/..;/data",
        "/free/..;x=1/data",
        "/data%00",
        "/free//..",
        "/data%0a",
        "/free/../data",
        "/data/../free",
        "/./data",
        "/free/%2e%2e/data",
        "//data",
        "//free/data",
    ] {
        let answer = ask(stack.nginx.addr, &head("GET", target, &[])).await;
        assert!(matches!(answer.status, 400 | 403), "{target}: {answer:?}");
    }
    assert_eq!(stack.upstream.count(), 0);
    // In a query a slash separates nothing.
    assert_eq!(
        get(stack.nginx.addr, "/free/x?y=a%2Fb%5C").await.status,
        200
    );
}
