//! What docs/proxies.md says for browsers, tried as it is written there.

use std::net::SocketAddr;

use crate::support::{
    caddy::{self, Caddy},
    client::{Response, ask, head},
    haproxy::{self, Haproxy},
    nginx::{Config, Nginx},
    tollgate::{Settings, Tollgate},
    upstream::Upstream,
};

const RULES: &str = "
version: 1
rules:
  - { name: all, key: [client_ip], limit: 3/day }
";

const ORIGIN: &str = "https://app.example.com";

/// The lines below the comment `# PLACE` in the block of docs/proxies.md for this proxy, indented.
fn lines(proxy: &str, place: &str, indent: &str) -> String {
    let text = include_str!("../../docs/proxies.md");
    let part = |text: &'static str, from: &str, to: &str| {
        let (_, rest) = text
            .split_once(from)
            .unwrap_or_else(|| panic!("docs/proxies.md has no {from:?} for {proxy}"));
        rest.split(to).next().unwrap()
    };
    let block = part(text, &format!("\n```{proxy}\n"), "\n```\n");
    let lines = part(block, &format!("# {place}\n"), "\n#").lines();
    lines
        .filter(|line| !line.is_empty())
        .flat_map(|line| [indent, line, "\n"])
        .collect()
}

/// Behind a proxy at an address.
struct Stack {
    addr: SocketAddr,
    tollgate: Tollgate,
    upstream: Upstream,
}

async fn parts() -> (Tollgate, Upstream) {
    let settings = Settings {
        rules: RULES,
        ..Settings::default()
    };
    (Tollgate::start(settings).await, Upstream::start().await)
}

/// The names in a list of headers.
fn names(answer: &Response, list: &str) -> Vec<String> {
    let lines = answer
        .headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case(list));
    lines
        .flat_map(|(_, line)| line.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect()
}

impl Stack {
    async fn ask(&self, method: &str, target: &str, lines: &[&str]) -> Response {
        ask(self.addr, &head(method, target, lines)).await
    }

    async fn lets_pages_read_denials_and_ask_for_free(self) {
        let origin = format!("origin: {ORIGIN}");
        let ours: &[&str] = &[&origin];
        for (target, status) in [
            ("/", 200),
            ("/for-all-origins", 200),
            ("/", 200),
            ("/", 429),
        ] {
            let answer = self.ask("GET", target, ours).await;
            assert_eq!(answer.status, status, "{answer:?}");
            assert_eq!(
                answer.header("access-control-allow-origin"),
                Some(ORIGIN),
                "one, in place of the application's"
            );
            let exposed = names(&answer, "access-control-expose-headers");
            assert!(exposed.contains(&"ratelimit".to_owned()), "{answer:?}");
            assert!(exposed.contains(&"retry-after".to_owned()), "{answer:?}");
            assert!(names(&answer, "vary").contains(&"origin".to_owned()));
            assert_eq!(answer.remaining().0, 3 - self.upstream.count() as u64);
            assert_eq!(answer.header("retry-after").is_some(), status == 429);
            assert_eq!(answer.header("access-control-allow-methods"), None);
        }
        let checks = self.tollgate.metric("tollgate_checks_total").await;
        assert_eq!((checks, self.upstream.count()), (4, 3));

        for target in ["/", "/data?x=1"] {
            let lines = [&*origin, "access-control-request-method: POST"];
            let preflight = self.ask("OPTIONS", target, &lines).await;
            assert_eq!(preflight.status, 204, "{preflight:?}");
            assert_eq!(
                preflight.header("access-control-allow-origin"),
                Some(ORIGIN)
            );
            assert_eq!(
                names(&preflight, "access-control-allow-methods"),
                ["get", "post"]
            );
            let allowed = names(&preflight, "access-control-allow-headers");
            assert_eq!(allowed, ["content-type", "x-api-key"]);
            assert_eq!(preflight.header("ratelimit"), None);
        }
        let after = self.tollgate.metric("tollgate_checks_total").await;
        assert_eq!(after, checks, "no preflight is charged");

        // What is no preflight is charged, and a page of another origin reads nothing.
        let asks = "access-control-request-method: POST";
        for (method, lines) in [
            ("OPTIONS", ours),
            ("POST", &[&*origin, asks, "content-length: 0"]),
            ("GET", &[]),
            ("GET", &["origin: https://app.example.com.evil.test"]),
            ("GET", &["origin: null"]),
        ] {
            let answer = self.ask(method, "/", lines).await;
            assert_eq!(answer.status, 429, "{method} {lines:?}");
            let is_ours = lines.contains(&&*origin);
            let allowed = answer.header("access-control-allow-origin");
            assert_eq!(allowed, is_ours.then_some(ORIGIN), "{method} {lines:?}");
        }
        let lines = ["origin: https://other.test", asks];
        let other = self.ask("OPTIONS", "/", &lines).await;
        assert_eq!(other.header("access-control-allow-origin"), None);
        assert_eq!(self.upstream.count(), 3);
        let faults = self.tollgate.metric("tollgate_contract_faults_total");
        assert_eq!(faults.await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_nginx_preflights_are_free_and_denials_can_be_read() {
    let [http, server, location] = [
        ("in http", "    "),
        ("in server, below the other add_header lines", "        "),
        ("in location /, at the top", "            "),
    ]
    .map(|(place, indent)| lines("nginx", place, indent));
    let last = "        add_header X-RateLimit-Reset     $tollgate_legacy_reset     always;\n";
    let config = Config::shipped()
        .with("proxy_connect_timeout 1s;", "proxy_connect_timeout 20s;")
        .with("proxy_send_timeout    1s;", "proxy_send_timeout 20s;")
        .with("proxy_read_timeout    1s;", "proxy_read_timeout 20s;")
        .with("    server {\n", &format!("{http}    server {{\n"))
        .with(last, &format!("{last}{server}"))
        .with(
            "        location / {\n",
            &format!("        location / {{\n{location}"),
        );
    let (tollgate, upstream) = parts().await;
    let nginx = Nginx::start(config, tollgate.addr(), upstream.addr).await;
    let stack = Stack {
        addr: nginx.addr,
        tollgate,
        upstream,
    };
    stack.lets_pages_read_denials_and_ask_for_free().await;
    assert_eq!(nginx.log(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_caddy_preflights_are_free_and_denials_can_be_read() {
    let route = lines("caddy", "in route, before the check", "\t\t");
    let config = caddy::patient().with("\troute {\n", &format!("\troute {{\n{route}"));
    let (tollgate, upstream) = parts().await;
    let caddy = Caddy::start(config, tollgate.addr(), upstream.addr).await;
    let stack = Stack {
        addr: caddy.addr,
        tollgate,
        upstream,
    };
    stack.lets_pages_read_denials_and_ask_for_free().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_haproxy_preflights_are_free_and_denials_can_be_read() {
    let frontend = lines("haproxy", "in frontend ingress, before the check", "    ");
    let check = "    http-request lua.tollgate ";
    let config = haproxy::patient().with(check, &format!("{frontend}{check}"));
    let (tollgate, upstream) = parts().await;
    let haproxy = Haproxy::start(config, tollgate.addr(), upstream.addr).await;
    let stack = Stack {
        addr: haproxy.addr,
        tollgate,
        upstream,
    };
    stack.lets_pages_read_denials_and_ask_for_free().await;
}
