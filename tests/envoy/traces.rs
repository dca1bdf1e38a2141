//! Traces of Envoy, with the checks in them.

use std::fs;

use super::{
    Stack,
    support::{
        client::{ask, head},
        collector::Collector,
        envoy::Config,
        tollgate::Settings,
    },
};

const RULES: &str = "
version: 1
rules:
  - { name: data, match: { path: /data }, key: [client_ip], limit: 2/day }
";

/// What the documents say for Envoy, to begin so many columns in.
fn documented(columns: usize) -> String {
    let text = fs::read_to_string("docs/operations.md").unwrap();
    let (_, rest) = text.split_once("```yaml\ntracing:\n").unwrap();
    let (block, _) = rest.split_once("```").unwrap();
    let lines = block.lines().map(|line| format!("{:columns$}{line}\n", ""));
    format!("{:columns$}tracing:\n{}", "", lines.collect::<String>())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checks_span_is_a_child_in_the_trace_of_envoy() {
    let collector = Collector::start().await;
    let all = documented(10).replace("value: 1 }", "value: 100 }");
    let cluster = format!(
        "  clusters:\n  - name: collector\n    connect_timeout: 1s\n    load_assignment:\n      \
         cluster_name: collector\n      endpoints:\n      - lb_endpoints:\n        - endpoint:\n            \
         address:\n              socket_address: {{ address: {}, port_value: {} }}\n",
        collector.addr.ip(),
        collector.addr.port(),
    );
    let config = Config::shipped()
        .with(
            "          stat_prefix: ingress\n",
            &format!("          stat_prefix: ingress\n{all}"),
        )
        .with("  clusters:\n", &cluster);
    let settings = Settings {
        rules: RULES,
        args: &[&collector.endpoint()],
        ..Settings::default()
    };
    let stack = Stack::start(config, settings).await;
    // The last one brings a trace of its own.
    let own = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (lines, status) in [(&[][..], 200), (&[], 200), (&[own], 429)] {
        let answer = ask(stack.envoy.addr, &head("GET", "/data", lines)).await;
        assert_eq!(answer.status, status);
    }
    let checks = collector.until("check", 3).await;
    let outcomes: Vec<_> = checks
        .iter()
        .map(|span| span.get("tollgate.outcome"))
        .collect();
    assert_eq!(outcomes, ["allowed", "allowed", "denied"]);
    assert_eq!(checks[2].trace, "0af7651916cd43dd8448eb211c80319c");
    assert_ne!(
        checks[2].parent, "b7ad6b7169203331",
        "it is a child of Envoy's"
    );
    for check in checks {
        assert_eq!(check.service, "tollgate");
        let is_parent = |span: &&super::support::collector::Span| {
            span.service == "envoy" && span.trace == check.trace && span.id == check.parent
        };
        super::support::eventually("Envoy's span of the check", async || {
            collector.spans().iter().find(is_parent).is_some()
        })
        .await;
    }
}
