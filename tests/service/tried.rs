//! A limit that is tried out, in Redis and with several replicas.

use serde_json::json;

use crate::{
    explain::explained,
    support::{
        client::{ask, head},
        redis::Redis,
        tollgate::{Settings, Tollgate},
    },
};

const RULES: &str = "version: 1
rules:
  - name: data
    match: { path: /data }
    key: [{ header: x-api-key }]
    limit: { rate: 5/day, try: 3/day }
    max_new_keys: 1
";

fn check(key: &str) -> Vec<u8> {
    let key = format!("x-api-key: {key}");
    let lines = ["x-forwarded-method: GET", "x-forwarded-uri: /data", &key];
    head("GET", "/v1/check", &lines)
}

async fn start(redis: &Redis) -> Tollgate {
    Tollgate::start(Settings {
        rules: RULES,
        redis: Some(redis),
        ..Settings::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_try_a_limit_out_together_and_say_so() {
    let redis = Redis::start();
    let replicas = [
        start(&redis).await,
        start(&redis).await,
        start(&redis).await,
    ];
    let mut statuses = Vec::new();
    for n in 0..7 {
        let answer = ask(replicas[n % 3].addr(), &check("a")).await;
        statuses.push(answer.status);
    }
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429]);
    let mut would_deny = 0;
    for replica in &replicas {
        let series = "tollgate_would_deny_total{rule=\"data\",limit=\"data\"}";
        would_deny += replica.metric(series).await;
    }
    assert_eq!(would_deny, 2);
    let key = "tollgate:{data:header.x-api-key=a}:sliding_window:86400s:try";
    assert!(redis.cli(&["GET", key]).starts_with("3 "));
    let fourth = &replicas[0];
    fourth.until_logged("outcome=\"would_deny\"").await;

    let question = json!({ "method": "GET", "path": "/data", "headers": { "x-api-key": "a" } });
    let explained = explained(fourth, &question).await;
    let limit = &explained["rules"][0]["limits"][0];
    assert_eq!(limit["try"]["rate"], "3/day", "{explained:#}");
    assert_eq!(limit["try"]["fits"], false, "{explained:#}");
    assert_eq!(limit["try"]["stored_as"], key, "{explained:#}");
}

/// A client that invents keys has no more counters of a limit that is tried out than of others.
#[tokio::test(flavor = "multi_thread")]
async fn invented_keys_get_no_more_counters() {
    let redis = Redis::start();
    let tollgate = start(&redis).await;
    for n in 0..300 {
        ask(tollgate.addr(), &check(&n.to_string())).await;
    }
    let keys = redis.cli(&["--scan", "--pattern", "tollgate:{data:*"]);
    let (tried, live): (Vec<_>, Vec<_>) = keys.lines().partition(|key| key.ends_with(":try"));
    assert!(
        tried.len() <= 70 && live.len() <= 70,
        "{} {}",
        tried.len(),
        live.len()
    );
    let shared = "tollgate:{data}:overflow:sliding_window:86400s:try";
    assert!(redis.cli(&["GET", shared]).starts_with("3 "));
}
