//! Requests with many headers, or large ones, behind the real proxies: those that a client may send
//! are decided about, and others are refused. None gets around its limit.

use std::{net::SocketAddr, sync::atomic::Ordering};

use crate::support::{
    caddy::{self, Caddy},
    client::{Connection, ask, get, head},
    envoy::{self, Envoy},
    forwarder::Forwarder,
    haproxy::{self, Haproxy},
    nginx::{self, Nginx},
    tollgate::{Settings, Tollgate},
    upstream::Upstream,
};

const RULES: &str = "
version: 1
rules:
  - { name: data, match: { path: /data }, key: [client_ip], limit: 2/day }
";

/// What is in front of tollgate. All but ingress-nginx let a request through whose check is an
/// error. Each takes larger requests than it does by default, if it can be told so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// With the limit of headers raised, and all of these sent along.
    Envoy,
    /// Sends along only what its file names.
    Nginx,
    /// Its file is changed to send everything along.
    NginxWithAll,
    IngressNginx,
    Caddy,
    Haproxy,
}

const KINDS: [Kind; 6] = [
    Kind::Envoy,
    Kind::Nginx,
    Kind::NginxWithAll,
    Kind::IngressNginx,
    Kind::Caddy,
    Kind::Haproxy,
];

enum Proxy {
    Envoy(Envoy),
    Nginx(Nginx),
    Caddy(Caddy),
    Haproxy(Haproxy),
}

impl Proxy {
    async fn start(kind: Kind, tollgate: &Tollgate, app: SocketAddr) -> Self {
        let asked = tollgate.addr();
        match kind {
            Kind::Envoy => {
                let refused = "headers_with_underscores_action: REJECT_REQUEST\n";
                let more = format!("{refused}            max_headers_count: 5000\n");
                let config = envoy::Config::shipped()
                    .patient()
                    .with(refused, &more)
                    .with(
                        "- { exact: x-api-key, ignore_case: true }",
                        "- { prefix: h, ignore_case: true }",
                    );
                Self::Envoy(Envoy::start(config, &[&tollgate.listen], &Upstream::at(app)).await)
            }
            Kind::Nginx | Kind::NginxWithAll | Kind::IngressNginx => {
                let config = match kind {
                    Kind::IngressNginx => nginx::Config::of(include_str!("ingress-nginx.conf")),
                    _ => nginx::Config::shipped()
                        .with("proxy_connect_timeout 1s;", "proxy_connect_timeout 20s;")
                        .with("proxy_read_timeout    1s;", "proxy_read_timeout 20s;"),
                };
                let config = if kind == Kind::NginxWithAll {
                    let with = |switch| format!("proxy_pass_request_headers {switch};");
                    config.with(&with("off"), &with("on"))
                } else {
                    config
                };
                let config = config.with("http {", "http { large_client_header_buffers 100 16k;");
                Self::Nginx(Nginx::start(config, asked, app).await)
            }
            Kind::Caddy => {
                let config = caddy::patient().with(
                    "\tpersist_config off\n",
                    "\tpersist_config off\n\tservers {\n\t\tmax_header_size 1MB\n\t}\n",
                );
                Self::Caddy(Caddy::start(config, asked, app).await)
            }
            Kind::Haproxy => Self::Haproxy(Haproxy::start(haproxy::patient(), asked, app).await),
        }
    }

    fn addr(&self) -> SocketAddr {
        match self {
            Self::Envoy(envoy) => envoy.addr,
            Self::Nginx(nginx) => nginx.addr,
            Self::Caddy(caddy) => caddy.addr,
            Self::Haproxy(haproxy) => haproxy.addr,
        }
    }
}

async fn tollgate() -> Tollgate {
    let settings = Settings {
        rules: RULES,
        ..Settings::default()
    };
    Tollgate::start(settings).await
}

/// A request for `/data` with so many headers, each with a value of so many bytes.
fn request(count: usize, length: usize) -> Vec<u8> {
    let value = "v".repeat(length);
    let lines: Vec<String> = (0..count).map(|n| format!("h{n}: {value}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    head("GET", "/data", &lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_hundreds_of_headers_is_limited_like_any_other() {
    for kind in KINDS {
        let (tollgate, upstream) = (tollgate().await, Upstream::start().await);
        let proxy = Proxy::start(kind, &tollgate, upstream.addr).await;
        // HAProxy takes no more than a hundred.
        let counts = if kind == Kind::Haproxy {
            [80, 90, 90]
        } else {
            [150, 980, 980]
        };
        let mut client = Connection::open(proxy.addr()).await.unwrap();
        for (asked, count) in (1..).zip(counts) {
            let answer = client.ask(&request(count, 8)).await.unwrap();
            if asked <= 2 {
                assert_eq!(answer.status, 200, "{kind:?}: {answer:?}");
                let headers = upstream.last().headers;
                let last = format!("h{}", count - 1);
                assert!(headers.contains_key(last), "{kind:?}: {headers:?}");
            } else {
                assert!(matches!(answer.status, 403 | 429), "{kind:?}: {answer:?}");
            }
        }
        let decided = tollgate.metric("tollgate_decisions_total").await;
        assert_eq!((decided, upstream.count()), (3, 2), "{kind:?}");
        // In between, and afterwards, others are decided as ever.
        assert!(matches!(get(proxy.addr(), "/data").await.status, 403 | 429));
        assert_eq!(get(proxy.addr(), "/").await.status, 200, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_number_of_headers_and_no_size_gets_around_a_limit() {
    for kind in KINDS {
        let (tollgate, upstream) = (tollgate().await, Upstream::start().await);
        // The limit is used up without the proxy, so that it has no connection to the application.
        let lines = [
            "x-forwarded-method: GET",
            "x-forwarded-uri: /data",
            "x-real-ip: 127.0.0.1",
        ];
        for _ in 0..2 {
            let check = head("GET", "/v1/check", &lines);
            assert_eq!(ask(tollgate.addr(), &check).await.status, 200);
        }
        let app = Forwarder::start(upstream.addr).await;
        let proxy = Proxy::start(kind, &tollgate, app.addr).await;
        for (count, length) in [
            (0, 0),
            (95, 1),
            (101, 1),
            (150, 1),
            (450, 8),
            (980, 1),
            // As many as tollgate takes, and more.
            (1_000, 1),
            (1_030, 1),
            (3_500, 1),
            // As much as nginx takes by default: four buffers of 8 kB.
            (4, 7_900),
            (400, 70),
            // As much as tollgate takes, and more.
            (7, 8_000),
            (400, 150),
            (1_000, 60),
            (8, 8_000),
            (1, 200_000),
            // As much as Caddy takes.
            (90, 10_000),
            (60_000, 5),
        ] {
            // A proxy may close a connection that sends too much, which is no admission.
            let mut client = Connection::open(proxy.addr()).await.unwrap();
            if client.send(request(count, length)).await.is_ok()
                && let Some(answer) = client.response().await
            {
                // 500 is how nginx refuses what is neither admitted nor denied.
                let is_refused = matches!(answer.status, 400..=494 | 500);
                assert!(is_refused, "{kind:?}: {count} of {length}: {answer:?}");
            }
            let reached = app.connections.load(Ordering::Relaxed);
            assert_eq!(reached, 0, "{kind:?}: {count} of {length}");
        }
        assert_eq!(get(proxy.addr(), "/").await.status, 200, "{kind:?}");
        assert_eq!(app.connections.load(Ordering::Relaxed), 1);
    }
}
