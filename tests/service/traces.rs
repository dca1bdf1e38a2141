//! Traces: what a collector gets of checks, and what checks feel of a collector.

use crate::support::{
    client::{Connection, ask, head},
    collector::{Collector, Mood, Span},
    eventually, free_port,
    redis::Redis,
    tollgate::{Settings, Tollgate},
};

const RULES: &str = "version: 1
rules:
  - { name: data, match: { path: /data }, key: [{ header: x-api-key }], limit: 2/day }
  - { name: proxy, match: { path: /proxy }, limit: 2/day, on_store_error: proxy }
";

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SAMPLED: &str = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn start(args: &[&str], redis: Option<&Redis>) -> Tollgate {
    Tollgate::start(Settings {
        rules: RULES,
        redis,
        args,
        ..Settings::default()
    })
    .await
}

/// A check of `/data?page=2` by somebody with a secret.
fn check(lines: &[&str]) -> Vec<u8> {
    let mut all = vec![
        "x-forwarded-method: GET",
        "x-forwarded-uri: /data?page=2",
        "x-real-ip: 192.0.2.7",
        "x-api-key: k-1",
    ];
    all.extend(lines);
    head("GET", "/v1/check", &all)
}

fn of_trace(spans: &[Span], trace: &str) -> Vec<Span> {
    spans
        .iter()
        .filter(|span| span.trace == trace)
        .cloned()
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checks_span_joins_the_trace_of_the_proxy() {
    let (collector, redis) = (Collector::start().await, Redis::start());
    let tollgate = start(&[&collector.endpoint()], Some(&redis)).await;
    for status in [200, 200, 429] {
        let lines = [SAMPLED, "tracestate: congo=t61rcWkgMzE"];
        assert_eq!(ask(tollgate.addr(), &check(&lines)).await.status, status);
    }
    let checks = collector.until("check", 3).await;
    let charges = collector.until("charge", 2).await;
    assert_eq!(of_trace(&checks, TRACE).len(), 3);
    for span in &checks {
        assert_eq!(span.service, "tollgate");
        assert_eq!(span.parent, "b7ad6b7169203331");
        assert_eq!(span.trace_state, "congo=t61rcWkgMzE");
        assert_eq!(span.get("http.request.method"), "GET");
        assert_eq!(span.get("tollgate.rule"), "data");
        assert_eq!(span.get("tollgate.limit"), "data");
        assert!(span.start <= span.end && !span.is_error);
    }
    let values = |key: &str| -> Vec<String> { checks.iter().map(|span| span.get(key)).collect() };
    assert_eq!(values("tollgate.outcome"), ["allowed", "allowed", "denied"]);
    assert_eq!(values("http.response.status_code"), ["200", "200", "429"]);
    assert_eq!(values("tollgate.remaining"), ["1", "0", "0"]);
    assert!(!checks[2].get("tollgate.retry_after").is_empty());
    // The store's part lies within.
    let first = charges
        .iter()
        .find(|charge| charge.parent == checks[0].id)
        .unwrap();
    assert_eq!(first.get("db.system.name"), "redis");
    assert!(checks[0].start <= first.start && first.end <= checks[0].end);
    // Neither who asks nor what is theirs.
    for span in collector.spans() {
        let text = format!("{span:?}");
        for secret in ["k-1", "192.0.2.7", "page"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
    assert_eq!(tollgate.metric("tollgate_spans_dropped_total").await, 0);
}

/// Also what is no trace, of which a client may send any.
#[tokio::test(flavor = "multi_thread")]
async fn only_sampled_checks_have_spans() {
    let collector = Collector::start().await;
    let tollgate = start(&[&collector.endpoint()], None).await;
    let long = format!("traceparent: 00-{}-b7ad6b7169203331-01", "a".repeat(7_000));
    let state = format!("tracestate: a={}", "b".repeat(600));
    for lines in [
        &[][..],
        &["traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"],
        &["traceparent: "],
        &["traceparent: 00"],
        &["traceparent: 00-00000000000000000000000000000000-b7ad6b7169203331-01"],
        &["traceparent: 00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"],
        &["traceparent: 00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"],
        &["traceparent: ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
        &["traceparent: 00-xyz7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
        &["traceparent: 00-\u{e4}-\u{e4}-\u{e4}"],
        &[&long],
        &[SAMPLED, SAMPLED],
    ] {
        let answer = ask(tollgate.addr(), &check(lines)).await;
        assert!([200, 429].contains(&answer.status), "{lines:?}");
    }
    // Of this one the state is left out.
    ask(tollgate.addr(), &check(&[SAMPLED, &state])).await;
    let spans = collector.until("check", 1).await;
    assert_eq!(spans.len(), 1, "{spans:?}");
    assert_eq!(spans[0].trace_state, "");
    assert_eq!(tollgate.metric("tollgate_spans_exported_total").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_can_begin_traces() {
    let collector = Collector::start().await;
    let tollgate = start(&[&collector.endpoint(), "--trace-ratio=1"], None).await;
    for method in ["GET", "FROBNICATE"] {
        let line = format!("x-forwarded-method: {method}");
        let lines = [&line, "x-forwarded-uri: /data", "x-api-key: k"];
        ask(tollgate.addr(), &head("GET", "/v1/check", &lines)).await;
    }
    // The proxy's word counts, all the same.
    let unsampled = format!("traceparent: 00-{TRACE}-b7ad6b7169203331-00");
    ask(tollgate.addr(), &check(&[&unsampled])).await;
    // What waits at the end is sent.
    let mut tollgate = tollgate;
    tollgate.signal(rustix::process::Signal::TERM);
    assert!(tollgate.ended().await.success());
    let spans = collector.spans();
    let methods: Vec<_> = spans
        .iter()
        .map(|span| span.get("http.request.method"))
        .collect();
    assert_eq!(methods, ["GET", "_OTHER"]);
    assert!(spans.iter().all(|span| span.parent.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_shows() {
    let (collector, mut redis) = (Collector::start().await, Redis::start());
    let tollgate = start(&[&collector.endpoint()], Some(&redis)).await;
    redis.kill();
    let about = |path| format!("x-forwarded-uri: {path}");
    for (path, status) in [("/data", 200), ("/proxy", 503)] {
        let lines = ["x-forwarded-method: GET", &about(path), SAMPLED];
        let answer = ask(tollgate.addr(), &head("GET", "/v1/check", &lines)).await;
        assert_eq!(answer.status, status);
    }
    let spans = collector.until("check", 2).await;
    let outcomes: Vec<_> = spans
        .iter()
        .map(|span| span.get("tollgate.outcome"))
        .collect();
    assert_eq!(outcomes, ["fallback_allowed", "unavailable"]);
    assert_eq!([spans[0].is_error, spans[1].is_error], [false, true]);
    for charge in collector.until("charge", 2).await {
        assert!(charge.is_error && !charge.get("error.type").is_empty());
    }
}

/// Nobody there, a collector that refuses, and one that hangs while all are sampled.
#[tokio::test(flavor = "multi_thread")]
async fn checks_do_not_wait_for_a_collector() {
    let nobody = format!("--otlp-endpoint=http://127.0.0.1:{}", free_port());
    let tollgate = start(&[&nobody], None).await;
    assert_eq!(ask(tollgate.addr(), &check(&[SAMPLED])).await.status, 200);
    tollgate.until_logged("traces are not exported").await;
    assert_eq!(tollgate.metric("tollgate_spans_dropped_total").await, 1);

    let collector = Collector::start().await;
    let tollgate = start(&[&collector.endpoint()], None).await;
    collector.be(Mood::Refuses);
    ask(tollgate.addr(), &check(&[SAMPLED])).await;
    tollgate.until_logged("503").await;
    collector.be(Mood::Hangs);
    let mut connection = Connection::open(tollgate.addr()).await.unwrap();
    let sampled = check(&[SAMPLED]);
    // More than may wait.
    for _ in 0..6_000 {
        let answer = connection.ask(&sampled).await.unwrap();
        assert!([200, 429].contains(&answer.status));
    }
    assert!(tollgate.metric("tollgate_spans_dropped_total").await > 1_000);
    collector.be(Mood::Takes);
    eventually("spans come again", async || {
        ask(tollgate.addr(), &sampled).await;
        collector.spans().len() > 100
    })
    .await;
    tollgate.until_logged("traces are exported again").await;
    let warnings = tollgate.log().matches("traces are not exported").count();
    assert_eq!(warnings, 1);
}
