//! tollgate behind a real Caddy and a real HAProxy that run the configurations we ship.

use std::{net::SocketAddr, sync::atomic::Ordering};

use crate::support::{
    caddy::{self, Caddy},
    client::{Connection, Response, ask, ask_from, get, head},
    forwarder::Forwarder,
    haproxy::{self, Haproxy},
    program::Config,
    tollgate::{Settings, Tollgate},
    upstream::Upstream,
};
use rustix::process::Signal;

const RULES: &str = "
version: 1
rules:
  - { name: internal, match: { path: '/internal/**' }, action: deny }
  - { name: plain, match: { path: /plain, scheme: http }, action: deny }
  - { name: free, match: { path: ['/free/**', '/status/*'] }, action: allow }
  - { name: data, match: { path: /data, methods: [GET, POST], host: app.test }, key: [client_ip], limit: 2/day }
  - { name: api, match: { path: /api }, key: [{ header: x-api-key }], limit: 2/day }
";

#[derive(Debug, Clone, Copy)]
enum Kind {
    Caddy,
    Haproxy,
}

const KINDS: [Kind; 2] = [Kind::Caddy, Kind::Haproxy];

impl Kind {
    /// The shipped file, with long time-outs: none of the proxy's may decide on a slow machine.
    fn patient(self) -> Config {
        match self {
            Self::Caddy => caddy::patient(),
            Self::Haproxy => haproxy::patient(),
        }
    }

    /// As the file says how to fail closed.
    fn closed(self) -> Config {
        match self {
            Self::Caddy => self
                .patient()
                .with(
                    "request_header X-Tollgate-Failure-Mode allowed",
                    "respond 503",
                )
                .with(
                    "handle @unchecked {\n\t\t\treverse_proxy upstream:8083 {\n\t\t\t\theader_up X-Tollgate-Failure-Mode allowed\n\t\t\t}\n",
                    "handle @unchecked {\n\t\t\trespond 503\n",
                )
                // Caddy::start replaces this address in two places.
                .with(
                    "\t\tvars checked yes\n",
                    "\t\tvars checked yes\n\t\t# reverse_proxy upstream:8083\n",
                ),
            Self::Haproxy => self.patient().with("30000 open", "30000 closed"),
        }
    }

    async fn start(self, config: Config, tollgate: SocketAddr, upstream: SocketAddr) -> Proxy {
        match self {
            Self::Caddy => Proxy::Caddy(Caddy::start(config, tollgate, upstream).await),
            Self::Haproxy => Proxy::Haproxy(Haproxy::start(config, tollgate, upstream).await),
        }
    }
}

enum Proxy {
    Caddy(Caddy),
    Haproxy(Haproxy),
}

impl Proxy {
    fn addr(&self) -> SocketAddr {
        match self {
            Self::Caddy(caddy) => caddy.addr,
            Self::Haproxy(haproxy) => haproxy.addr,
        }
    }
}

struct Stack {
    proxy: Proxy,
    tollgate: Tollgate,
    upstream: Upstream,
}

impl Stack {
    async fn start(kind: Kind, config: Config) -> Self {
        let upstream = Upstream::start().await;
        let tollgate = Tollgate::start(Settings {
            rules: RULES,
            ..Settings::default()
        })
        .await;
        let proxy = kind.start(config, tollgate.addr(), upstream.addr).await;
        Self {
            proxy,
            tollgate,
            upstream,
        }
    }

    fn addr(&self) -> SocketAddr {
        self.proxy.addr()
    }

    async fn ask(&self, method: &str, target: &str, lines: &[&str]) -> Response {
        ask(self.addr(), &head(method, target, lines)).await
    }

    /// Uses up the limit of `/data`.
    async fn exhaust(&self) {
        for left in [1, 0] {
            let answer = get(self.addr(), "/data").await;
            assert_eq!((answer.status, answer.remaining().0), (200, left));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn admissions_and_denials_carry_their_headers() {
    for kind in KINDS {
        let stack = Stack::start(kind, kind.patient()).await;
        for left in [1, 0] {
            let answer = get(stack.addr(), "/data").await;
            assert_eq!(answer.status, 200, "{kind:?}: {answer:?}");
            assert_eq!(answer.remaining().0, left, "{kind:?}");
            assert_eq!(
                answer.header("ratelimit-policy"),
                Some("\"data\";q=2;w=86400")
            );
            assert_eq!(
                answer.json()["path"],
                "/data",
                "{kind:?}: the application's answer"
            );
            assert_eq!(answer.header("x-tollgate-rule"), None, "{kind:?}");
        }
        let answer = get(stack.addr(), "/data").await;
        assert_eq!(answer.status, 429, "{kind:?}: {answer:?}");
        let (left, wait) = answer.remaining();
        assert_eq!(left, 0);
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
        assert_eq!(
            answer.json()["violated-policies"][0],
            "data",
            "{kind:?}: tollgate's body"
        );
        for name in ["x-tollgate-rule", "x-tollgate-limit"] {
            assert_eq!(answer.header(name), None, "{kind:?}");
        }
        let one_of_each = |name: &str| {
            let names = answer.headers.iter().map(|(name, _)| name);
            names
                .filter(|found| found.eq_ignore_ascii_case(name))
                .count()
        };
        for name in ["ratelimit", "retry-after", "content-type"] {
            assert_eq!(one_of_each(name), 1, "{kind:?}: {name}");
        }
        assert_eq!(
            get(stack.addr(), "/internal/x").await.status,
            403,
            "{kind:?}"
        );
        assert_eq!(get(stack.addr(), "/plain").await.status, 403, "{kind:?}");
        assert_eq!(stack.upstream.count(), 2, "{kind:?}");
        let denied = stack.ask("HEAD", "/data", &[]).await;
        assert_eq!(denied.status, 429, "{kind:?}");
        let body = "x".repeat(100_000);
        let mut post = head(
            "POST",
            "/data",
            &[&format!("content-length: {}", body.len())],
        );
        post.extend_from_slice(body.as_bytes());
        assert_eq!(ask(stack.addr(), &post).await.status, 429, "{kind:?}");
        assert_eq!(
            stack
                .tollgate
                .metric("tollgate_contract_faults_total")
                .await,
            0
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_client_sends_changes_its_limit() {
    for kind in KINDS {
        let stack = Stack::start(kind, kind.patient()).await;
        stack.exhaust().await;
        for lines in [
            &["x-real-ip: 127.0.0.9"][..],
            &["x-real-ip: 198.51.100.1", "x-real-ip: 127.0.0.9"],
            &["x-forwarded-for: 127.0.0.9"],
            &["x-forwarded-uri: /free/x", "x-forwarded-uri: /free/x"],
            &["x-forwarded-method: PUT"],
            &["x-forwarded-host: free.test", "x-forwarded-host: free.test"],
            &[
                "x-original-url: http://free.test/free",
                "x-original-method: PUT",
            ],
            &["connection: x-real-ip, x-forwarded-uri, x-forwarded-method, x-forwarded-host"],
            &["x-envoy-expected-rq-timeout-ms: 0", "expect: 100-continue"],
            &["connection: upgrade", "upgrade: websocket"],
            &[
                "x-tollgate-rule: free",
                "x-tollgate-failure-mode: allowed",
                "te: trailers",
            ],
            &["host: APP.test:8080"],
            &["host: app.test."],
        ] {
            let answer = stack.ask("GET", "/data", lines).await;
            // HAProxy refuses a WebSocket without a key.
            let denied = matches!(answer.status, 400 | 429);
            assert!(denied, "{kind:?}: {lines:?}: {answer:?}");
        }
        let many: Vec<String> = (0..150).map(|i| format!("h{i}: x")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let long = format!("x-long: {}", "a".repeat(30_000));
        let longer = format!("x-api-key: {}", "a".repeat(200_000));
        for lines in [&many[..], &[&long], &[&longer]] {
            // A proxy may close a connection that sends too much, which is no admission.
            let mut client = Connection::open(stack.addr()).await.unwrap();
            if client.send(head("GET", "/data", lines)).await.is_ok()
                && let Some(answer) = client.response().await
            {
                assert!(matches!(answer.status, 400..=431), "{kind:?}: {answer:?}");
            }
        }
        let old = ask(
            stack.addr(),
            b"GET /data HTTP/1.0\r\nHost: app.test\r\n\r\n",
        )
        .await;
        assert_eq!(old.status, 429, "{kind:?}");
        assert_eq!(stack.upstream.count(), 2, "{kind:?}");
        let stranger = [127, 0, 0, 9].into();
        let answer = ask_from(stranger, stack.addr(), &head("GET", "/data", &[])).await;
        assert_eq!(answer.remaining().0, 1, "{kind:?}: nobody else was charged");
        for scheme in ["https", "wss"] {
            let line = format!("x-forwarded-proto: {scheme}");
            assert_eq!(
                stack.ask("GET", "/plain", &[&line]).await.status,
                403,
                "{kind:?}"
            );
        }
        // A header that the configuration passes on is a key.
        for _ in 0..2 {
            assert_eq!(
                stack.ask("GET", "/api", &["x-api-key: k"]).await.status,
                200
            );
        }
        assert_eq!(
            stack.ask("GET", "/api", &["x-api-key: k"]).await.status,
            429
        );
        assert_eq!(
            stack.ask("GET", "/api", &["x-api-key: l"]).await.status,
            200
        );
        assert_eq!(
            stack
                .tollgate
                .metric("tollgate_contract_faults_total")
                .await,
            0
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_check_after_the_other_needs_one_connection() {
    for kind in KINDS {
        let upstream = Upstream::start().await;
        let tollgate = Tollgate::start(Settings {
            rules: RULES,
            ..Settings::default()
        })
        .await;
        let forwarder = Forwarder::start(tollgate.addr()).await;
        let proxy = kind
            .start(kind.patient(), forwarder.addr, upstream.addr)
            .await;
        let mut client = Connection::open(proxy.addr()).await.unwrap();
        for i in 0..20 {
            let answer = client.ask(&head("GET", "/data", &[])).await.unwrap();
            assert_eq!(answer.status, if i < 2 { 200 } else { 429 }, "{kind:?}");
        }
        assert_eq!(forwarder.connections.load(Ordering::Relaxed), 1, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tollgate_requests_pass_or_not_as_configured() {
    for kind in KINDS {
        for (config, status) in [(kind.patient(), 200), (kind.closed(), 503)] {
            let mut stack = Stack::start(kind, config).await;
            stack.tollgate.signal(Signal::KILL);
            stack.tollgate.ended().await;
            for asked in 1..=3 {
                let answer = get(stack.addr(), "/data").await;
                assert_eq!(answer.status, status, "{kind:?}: {answer:?}");
                assert_eq!(answer.header("ratelimit"), None, "{kind:?}");
                let reached = if status == 200 { asked } else { 0 };
                assert_eq!(stack.upstream.count(), reached, "{kind:?}");
            }
            stack.tollgate.start_again().await;
            stack.exhaust().await;
            assert_eq!(
                get(stack.addr(), "/data").await.status,
                429,
                "{kind:?}: it limits again"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_503_of_tollgate_is_no_denial() {
    for kind in KINDS {
        for (config, status) in [(kind.patient(), 200), (kind.closed(), 503)] {
            // tollgate answers 503 at a path that is none of its own.
            let wrong = match kind {
                Kind::Caddy => config.with("rewrite /v1/check?", "rewrite /v1/nothing?"),
                Kind::Haproxy => config.with("8084/v1/check", "8084/v1/nothing"),
            };
            let stack = Stack::start(kind, wrong).await;
            let answer = get(stack.addr(), "/data").await;
            assert_eq!(answer.status, status, "{kind:?}: {answer:?}");
            let faults = stack
                .tollgate
                .metric("tollgate_contract_faults_total")
                .await;
            assert_eq!(faults, 1, "{kind:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_the_application_passes_and_is_not_asked_for_twice() {
    for kind in KINDS {
        let stack = Stack::start(kind, kind.patient()).await;
        for (asked, status) in (1..).zip([403, 429, 500, 502, 503, 504]) {
            let answer = get(stack.addr(), &format!("/status/{status}")).await;
            assert_eq!(answer.status, status, "{kind:?}");
            assert_eq!(answer.json()["service"], "upstream", "{kind:?}");
            assert_eq!(stack.upstream.count(), asked, "{kind:?}: {status}");
        }
    }
}

/// The application can tell a request that was not checked from one that was.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_say_that_its_check_failed() {
    let stack = Stack::start(Kind::Caddy, caddy::patient()).await;
    let answer = stack
        .ask("GET", "/data", &["x-tollgate-failure-mode: allowed"])
        .await;
    assert_eq!(answer.status, 200);
    let seen = stack.upstream.last();
    assert_eq!(seen.headers.get("x-tollgate-failure-mode"), None);
}

/// To HAProxy, `X_Api_Key` and `X-Api-Key` are two headers, and one to applications that read CGI
/// variables. Caddy does not pass on names with an underscore.
#[tokio::test(flavor = "multi_thread")]
async fn a_header_has_no_second_name() {
    for kind in KINDS {
        let stack = Stack::start(kind, kind.patient()).await;
        let lines = ["x-api-key: k", "X_Api_Key: l"];
        let answer = stack.ask("GET", "/api", &lines).await;
        match kind {
            Kind::Haproxy => assert_eq!((answer.status, stack.upstream.count()), (400, 0)),
            Kind::Caddy => {
                assert_eq!(answer.status, 200);
                assert_eq!(stack.upstream.last().headers.get("x_api_key"), None);
            }
        }
    }
}

/// Checks come to HAProxy itself. If clients could take all of its connections, theirs would not be
/// asked about.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_take_every_connection_are_still_limited() {
    let few = haproxy::patient()
        .with("maxconn 4000 ", "maxconn 20 ")
        .with("maxconn 1900 ", "maxconn 9 ");
    let stack = Stack::start(Kind::Haproxy, few).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Connection::open(stack.addr()).await.unwrap();
        client.send(head("GET", "/data", &[])).await.unwrap();
        clients.push(client);
    }
    // Those that are not served yet wait until others have gone.
    let mut statuses = Vec::new();
    for mut client in clients {
        statuses.push(client.response().await.unwrap().status);
    }
    let admitted = statuses.iter().filter(|&&status| status == 200).count();
    assert_eq!(admitted, 2, "{statuses:?}");
    assert_eq!(stack.upstream.count(), 2);
}

/// What goes through a tunnel is not checked.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_opens_no_tunnel() {
    for kind in KINDS {
        let stack = Stack::start(kind, kind.patient()).await;
        for (method, target) in [
            ("CONNECT", "app.test:80"),
            ("CONNECT", "/free/x"),
            ("Connect", "/free/x"),
        ] {
            let answer = stack.ask(method, target, &[]).await;
            assert!(
                matches!(answer.status, 400 | 405),
                "{kind:?}: {method} {target}: {answer:?}"
            );
        }
        assert_eq!(stack.upstream.count(), 0, "{kind:?}");
        for lines in [
            &[
                "connection: upgrade, http2-settings",
                "upgrade: h2c",
                "http2-settings: AAMAAABk",
            ][..],
            &["connection: upgrade", "upgrade: websocket, h2c"],
            &["connection: upgrade", "upgrade: h2c", "upgrade: websocket"],
            &["connection: upgrade", "upgrade: websocket", "upgrade: h2c"],
            &["connection: upgrade", "upgrade: TLS/1.3"],
            &["connection: upgrade", "upgrade: foo", "upgrade: websocket"],
            &["connection: upgrade", "upgrade: websocket", "upgrade: foo"],
        ] {
            let key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==";
            let lines = [lines, &["sec-websocket-version: 13", key]].concat();
            let answer = stack.ask("GET", "/free/x", &lines).await;
            if answer.status == 200 {
                let passed = stack.upstream.last().headers;
                let upgrades: Vec<_> = passed.get_all("upgrade").iter().collect();
                let harmless = upgrades.iter().all(|&upgrade| upgrade == "websocket");
                assert!(harmless, "{kind:?}: {lines:?}: {upgrades:?}");
            } else {
                assert_eq!(answer.status, 400, "{kind:?}: {lines:?}: {answer:?}");
            }
        }
        let websocket = [
            "connection: Upgrade",
            "upgrade: websocket",
            "sec-websocket-version: 13",
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        ];
        let answer = stack.ask("GET", "/free/x", &websocket).await;
        assert_eq!(answer.status, 200, "{kind:?}: {answer:?}");
        let passed = stack.upstream.last().headers;
        assert_eq!(passed.get("upgrade").unwrap(), "websocket", "{kind:?}");
    }
}

/// A request without a `Host` could name its host in the target.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_host_is_not_another_hosts() {
    for kind in KINDS {
        let stack = Stack::start(kind, kind.patient()).await;
        stack.exhaust().await;
        for request in [
            "GET http://app.test/data HTTP/1.0\r\n\r\n",
            "GET http://app.test/data HTTP/1.1\r\n\r\n",
            "GET http://app.test/data HTTP/1.1\r\nhost: b.test\r\n\r\n",
            "GET http://app.test/data HTTP/1.1\r\nhost:\r\n\r\n",
        ] {
            let answer = ask(stack.addr(), request.as_bytes()).await;
            let denied = matches!(answer.status, 400 | 429);
            assert!(denied, "{kind:?}: {request:?}: {answer:?}");
        }
        assert_eq!(stack.upstream.count(), 2, "{kind:?}");
    }
}

/// Over HTTP/2, one client would need a hundred connections for its checks.
#[tokio::test(flavor = "multi_thread")]
async fn haproxy_does_not_take_http2_in_plain_text() {
    let stack = Stack::start(Kind::Haproxy, haproxy::patient()).await;
    let mut client = Connection::open(stack.addr()).await.unwrap();
    client
        .send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let answer = client.response().await.unwrap();
    assert!(matches!(answer.status, 400..=499), "{answer:?}");
    assert_eq!(stack.upstream.count(), 0);
}
