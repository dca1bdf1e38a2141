//! Whatever a client sends or breaks off, its check is a decision: an error would be let through.
//!
//! All of it fails open, as shipped: a check that becomes an error shows as a 200.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::JoinSet};

use super::{
    Stack,
    support::{
        client::{Connection, ask, ask_from, get, head},
        envoy::Config,
    },
};

/// A caller's first request is its last of the day; a host of its own has a limit of its own.
const RULES: &str = "
version: 1
rules:
  - { name: internal, match: { path: '/internal/**' }, action: deny }
  - { name: plain, match: { path: /plain, scheme: http }, action: deny }
  - { name: all, key: [client_ip], limit: 1/day }
";

/// The contracts, failing open as shipped, with long time-outs.
fn contracts() -> [Config; 2] {
    let fixed = Config::shipped().patient();
    [fixed.clone(), fixed.path_prefix()]
}

async fn http2(addr: SocketAddr) -> SendRequest<Empty<Bytes>> {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (client, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

/// Every check so far was answered with a decision.
async fn all_were_decided(stack: &Stack) {
    assert_eq!(stack.envoy.check_errors().await, 0, "checks that failed");
    assert_eq!(
        stack
            .tollgate
            .metric("tollgate_contract_faults_total")
            .await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_host_is_no_way_around_a_limit() {
    for config in contracts() {
        let stack = Stack::with_rules(config, RULES).await;
        assert_eq!(get(stack.envoy.addr, "/").await.status, 200);
        for host in [
            "::1",
            "a:b:c",
            "a:",
            ":",
            "app.test:port",
            "app.test, other.test",
            "user@app.test",
            "[::1",
            "a b",
            "app.test/x",
            "app.test?x",
            "app.test#x",
            "app.test\\x",
            "<app.test>",
            "\"app.test\"",
            "app..test",
            "%61pp.test",
            "b\u{fc}cher.test",
            "",
        ] {
            let answer = ask(
                stack.envoy.addr,
                &head("GET", "/", &[&format!("host: {host}")]),
            )
            .await;
            assert!(matches!(answer.status, 400 | 429), "{host:?}: {answer:?}");
        }
        // HTTP/1.0 knows requests without a host, two are none.
        let two = head("GET", "/", &["host: app.test", "host: other.test"]);
        let answer = ask(stack.envoy.addr, &two).await;
        assert!(matches!(answer.status, 400 | 429), "{answer:?}");
        assert_eq!(stack.upstream.count(), 1);
        all_were_decided(&stack).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_target_is_no_way_around_a_limit() {
    for config in contracts() {
        let stack = Stack::with_rules(config, RULES).await;
        assert_eq!(get(stack.envoy.addr, "/").await.status, 200);
        let long = format!("/{}", "a".repeat(50_000));
        let long_query = format!("/?{}", "a".repeat(50_000));
        for target in [
            "/?<",
            "/?\"",
            "/?{}|^`",
            "/<>",
            "/\"",
            "/?\u{e9}",
            "/\u{e9}",
            "/#/../data",
            "/a#b",
            "/%",
            "/%zz",
            "/%00",
            "/a%0Ab",
            "/\\..\\data",
            "/..;/data",
            "//..",
            "*",
            "/*",
            "http://other.test/data",
            "http://app.test:x/",
            "ftp://app.test/",
            "?x",
            &long,
            &long_query,
        ] {
            let answer = ask(stack.envoy.addr, &head("GET", target, &[])).await;
            let shown = &target[..target.len().min(40)];
            assert!(matches!(answer.status, 400..=431), "{shown:?}: {answer:?}");
        }
        assert_eq!(stack.upstream.count(), 1);
        all_were_decided(&stack).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_in_another_case_has_the_same_limit() {
    let rules = "
version: 1
rules:
  - { name: posts, match: { methods: POST }, key: [client_ip], limit: 1/day }
";
    for config in contracts() {
        let stack = Stack::with_rules(config, rules).await;
        let post = head("POST", "/", &["content-length: 0"]);
        assert_eq!(ask(stack.envoy.addr, &post).await.status, 200);
        for method in ["post", "Post", "pOST"] {
            let answer = ask(stack.envoy.addr, &head(method, "/", &["content-length: 0"])).await;
            assert!(matches!(answer.status, 400 | 429), "{method}: {answer:?}");
            let mut client = http2(stack.envoy.addr).await;
            let request = Request::builder()
                .method(Method::from_bytes(method.as_bytes()).unwrap())
                .uri("http://app.test/");
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            let answer = client.send_request(request).await.unwrap();
            assert_eq!(answer.status(), 429, "{method}");
        }
        assert_eq!(stack.upstream.count(), 1);
        all_were_decided(&stack).await;
    }
}

/// Somebody over the limit asks on and on, until told to stop; returns how often.
async fn is_denied_until(stop: Arc<AtomicBool>, addr: SocketAddr, from: Ipv4Addr) -> usize {
    let mut asked = 0;
    while !stop.load(Ordering::Relaxed) {
        let answer = ask_from(from, addr, &head("GET", "/", &[])).await;
        assert_eq!(answer.status, 429, "after {asked}: {answer:?}");
        asked += 1;
    }
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_breaks_off_its_requests_does_not_end_the_checks_of_others() {
    let other = Ipv4Addr::new(127, 0, 0, 9);
    for config in contracts() {
        let stack = Stack::with_rules(config, RULES).await;
        let addr = stack.envoy.addr;
        assert_eq!(
            ask_from(other, addr, &head("GET", "/", &[])).await.status,
            200
        );
        let stop = Arc::new(AtomicBool::new(false));
        let denied = tokio::spawn(is_denied_until(Arc::clone(&stop), addr, other));
        for _ in 0..20 {
            // HEADERS and RST_STREAM, many at once.
            let mut client = http2(addr).await;
            for _ in 0..50 {
                let get = Request::get("http://app.test/").body(Empty::<Bytes>::new());
                client.ready().await.unwrap();
                drop(client.send_request(get.unwrap()));
            }
            // And clients of HTTP/1.1 that hang up.
            for _ in 0..40 {
                let mut stream = TcpStream::connect(addr).await.unwrap();
                stream.write_all(&head("GET", "/", &[])).await.unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(denied.await.unwrap() > 0);
        all_were_decided(&stack).await;
    }
}

/// Envoy sends the client's body along with the check.
fn with_body(config: Config) -> Config {
    config.with(
        "              transport_api_version: V3\n",
        "              transport_api_version: V3\n              \
         with_request_body: { max_request_bytes: 4000000, allow_partial_message: true }\n",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_with_the_check_costs_no_connection() {
    let rules = "
version: 1
rules:
  - { name: internal, match: { path: '/internal/**' }, action: deny }
";
    for config in contracts() {
        let stack = Stack::with_rules(with_body(config), rules).await;
        let mut client = Connection::open(stack.envoy.addr).await.unwrap();
        for round in 0..60 {
            for length in [5, 5_000, 300_000] {
                let length = length + round;
                let lines = format!("content-length: {length}");
                for (path, status) in [("/internal/x", 403), ("/x", 200)] {
                    let mut request = head("POST", path, &[&lines]);
                    request.resize(request.len() + length, b'x');
                    let answer = client.ask(&request).await.unwrap();
                    assert_eq!(answer.status, status, "{path} {length}");
                }
            }
        }
        assert_eq!(stack.upstream.count(), 180, "none of `action: deny`");
        let connections = stack.envoy.stat("cluster.tollgate.upstream_cx_total").await;
        assert!(
            connections <= 36,
            "{connections} connections for 360 checks"
        );
        all_were_decided(&stack).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_long_to_read_loses_no_check() {
    let config = with_body(Config::shipped().patient()).with(
        "  - name: ingress\n    address:\n",
        "  - name: ingress\n    per_connection_buffer_limit_bytes: 4000000\n    address:\n",
    );
    let stack = Stack::with_rules(config, RULES).await;
    let mut client = Connection::open(stack.envoy.addr).await.unwrap();
    for _ in 0..20 {
        let mut request = head("POST", "/internal/x", &["content-length: 3000000"]);
        request.resize(request.len() + 3_000_000, b'x');
        assert_eq!(client.ask(&request).await.unwrap().status, 403);
    }
    assert_eq!(stack.upstream.count(), 0);
    all_were_decided(&stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_with_underscores_is_refused() {
    let stack = Stack::with_rules(Config::shipped().patient(), RULES).await;
    for name in ["x_api_key", "X_Real_Ip", "x-forwarded_for"] {
        let answer = ask(
            stack.envoy.addr,
            &head("GET", "/", &[&format!("{name}: k")]),
        )
        .await;
        assert_eq!(answer.status, 400, "{name}");
    }
    assert_eq!(stack.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_cors_policy_preflights_are_free_and_denials_can_be_read() {
    let config = Config::shipped().patient().with(
        "              domains: [\"*\"]\n",
        "              domains: [\"*\"]
              typed_per_filter_config:
                envoy.filters.http.cors:
                  \"@type\": type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy
                  allow_origin_string_match: [{ exact: \"https://app.example.com\" }]
                  allow_methods: \"GET, POST\"
                  expose_headers: \"retry-after, ratelimit, ratelimit-policy\"
",
    );
    let stack = Stack::with_rules(config, RULES).await;
    let origin = "origin: https://app.example.com";
    for _ in 0..5 {
        let lines = [origin, "access-control-request-method: POST"];
        let preflight = ask(stack.envoy.addr, &head("OPTIONS", "/", &lines)).await;
        assert_eq!(preflight.status, 200, "{preflight:?}");
        assert_eq!(
            preflight.header("access-control-allow-methods"),
            Some("GET, POST")
        );
    }
    for status in [200, 429] {
        let answer = ask(stack.envoy.addr, &head("GET", "/", &[origin])).await;
        assert_eq!(answer.status, status);
        assert_eq!(
            answer.header("access-control-allow-origin"),
            Some("https://app.example.com")
        );
        assert_eq!(
            answer.header("access-control-expose-headers"),
            Some("retry-after, ratelimit, ratelimit-policy")
        );
    }
}

/// Envoy breaks off the check of a CONNECT itself, right after sending it, and counts an error. So
/// tunnels cannot be limited behind it: the shipped file has none, and one that has them must fail
/// closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_is_refused() {
    let tunnels = Config::shipped()
        .patient()
        .fail_closed()
        .with(
            "              - match: { prefix: \"/\" }\n",
            "              - match: { connect_matcher: {} }
                route: { cluster: upstream, upgrade_configs: [{ upgrade_type: CONNECT, connect_config: {} }] }
              - match: { prefix: \"/\" }\n",
        )
        .with(
            "          http_filters:\n",
            "          upgrade_configs: [{ upgrade_type: CONNECT }]\n          http_filters:\n",
        );
    for (config, statuses) in [
        (Config::shipped().patient(), 400..=404),
        (tunnels, 503..=503),
    ] {
        let stack = Stack::with_rules(config, RULES).await;
        let mut client = Connection::open(stack.envoy.addr).await.unwrap();
        let connect = "CONNECT other.test:443 HTTP/1.1\r\nhost: other.test:443\r\n\r\n";
        client.send(connect).await.unwrap();
        let answer = client.response().await.unwrap();
        assert!(statuses.contains(&answer.status), "{answer:?}");
        assert_eq!(stack.upstream.count(), 0);

        // The check as Envoy sends it. Whether tollgate reads it is a race with Envoy's close.
        let check = "CONNECT other.test:443 HTTP/1.1\r\nhost: other.test:443\r\ncontent-length: 0\r\n\
                     x-forwarded-method: CONNECT\r\nx-real-ip: 127.0.0.1\r\n\r\n";
        let mut envoy = Connection::open(stack.tollgate.addr()).await.unwrap();
        envoy.send(check).await.unwrap();
        assert_eq!(envoy.response().await.unwrap().status, 503);
        stack
            .tollgate
            .until_logged("a check came as a CONNECT")
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scheme_is_not_the_clients_to_choose() {
    let stack = Stack::with_rules(Config::shipped().patient(), RULES).await;
    for lines in [
        &[][..],
        &["x-forwarded-proto: https"],
        &["x-forwarded-proto: https", "x-forwarded-proto: https"],
        &[
            "forwarded: proto=https",
            "x-scheme: https",
            "x-forwarded-scheme: https",
        ],
    ] {
        let answer = ask(stack.envoy.addr, &head("GET", "/plain", lines)).await;
        assert_eq!(answer.status, 403, "{lines:?}");
    }
    for scheme in ["http", "https"] {
        let mut client = http2(stack.envoy.addr).await;
        let request = Request::get(format!("{scheme}://app.test/plain"));
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let answer = client.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 403, "{scheme}");
        answer.into_body().collect().await.unwrap();
    }
    assert_eq!(stack.upstream.count(), 0);
    all_were_decided(&stack).await;
}

/// Each check at a time needs a connection of its own. A thousand at once would be late.
#[tokio::test(flavor = "multi_thread")]
async fn one_connection_has_a_bounded_number_of_checks() {
    let stack = Stack::with_rules(Config::shipped().patient(), RULES).await;
    let client = http2(stack.envoy.addr).await;
    let ask = async |mut client: SendRequest<Empty<Bytes>>| {
        let request = Request::get("http://app.test/").body(Empty::<Bytes>::new());
        let answer = client.send_request(request.unwrap()).await.unwrap();
        answer.status().as_u16()
    };
    // By the end of this one, the client knows Envoy's settings.
    assert_eq!(ask(client.clone()).await, 200);
    let mut asked = JoinSet::new();
    for _ in 0..1_000 {
        asked.spawn(ask(client.clone()));
    }
    let statuses = asked.join_all().await;
    assert!(statuses.iter().all(|&status| status == 429), "{statuses:?}");
    let connections = stack.envoy.stat("cluster.tollgate.upstream_cx_total").await;
    assert!((1..=100).contains(&connections), "{connections}");
    all_were_decided(&stack).await;
}
