//! A client that invents keys fills neither Redis nor the memory, and changes nothing for others.

use crate::support::{
    client::{Connection, ask, head},
    cluster::Cluster,
    redis::Redis,
    tollgate::{Settings, Tollgate},
};

/// 10 new counters per second; 600 are saved up.
const RULES: &str = "
version: 1
rules:
  - { name: keys, match: { path: /keys }, key: [{ header: x-api-key }], limit: 5/day, max_new_keys: 10 }
  - { name: other, match: { path: /other }, key: [client_ip], limit: 50/h, on_store_error: allow }
";

fn check(path: &str, key: &str) -> Vec<u8> {
    let uri = format!("x-forwarded-uri: {path}");
    let key = format!("x-api-key: {key}");
    let lines = [
        "x-forwarded-method: GET",
        &uri,
        "x-real-ip: 192.0.2.1",
        &key,
    ];
    head("GET", "/v1/check", &lines)
}

/// Asks with so many invented keys; returns how many were admitted.
async fn invent(tollgate: &Tollgate, name: &str, count: usize) -> usize {
    let mut connection = Connection::open(tollgate.addr()).await.unwrap();
    let mut admitted = 0;
    for n in 0..count {
        let answer = connection.ask(&check("/keys", &format!("{name}{n}"))).await;
        let status = answer.unwrap().status;
        assert!([200, 429].contains(&status), "{status}");
        admitted += usize::from(status == 200);
    }
    admitted
}

async fn is_bounded(tollgate: &Tollgate) {
    for left in [4, 3] {
        let known = ask(tollgate.addr(), &check("/keys", "known")).await;
        assert_eq!(known.remaining().0, left, "{known:?}");
    }
    let admitted = invent(tollgate, "a", 7_000).await;
    let seconds = 60;
    assert!(
        admitted < 600 + 10 * seconds + 5,
        "a minute's worth, what came back in {seconds} s, and the shared counter: {admitted}"
    );
    let shared = tollgate
        .metric("tollgate_new_keys_shared_total{rule=\"keys\"}")
        .await;
    assert!(shared > 1_000, "{shared}");
    tollgate.until_logged("too many new counters").await;

    // Who was known before is counted as before, and other rules are exact.
    for left in [2, 1] {
        let known = ask(tollgate.addr(), &check("/keys", "known")).await;
        assert_eq!(
            (known.status, known.remaining().0),
            (200, left),
            "{known:?}"
        );
    }
    let mut others = 0;
    for _ in 0..60 {
        others += usize::from(ask(tollgate.addr(), &check("/other", "x")).await.status == 200);
    }
    assert_eq!(others, 50);
}

/// Without the budget, Redis would be full after some 5,000 keys; then every `SET` fails, and all
/// rules fall back.
#[tokio::test(flavor = "multi_thread")]
async fn invented_keys_do_not_fill_redis() {
    let args = ["--maxmemory", "2mb", "--maxmemory-policy", "noeviction"];
    let redis = Redis::start_with(&args, None);
    let tollgate = Tollgate::start(Settings {
        rules: RULES,
        redis: Some(&redis),
        args: &["--deadline=1s"],
        ..Settings::default()
    })
    .await;
    is_bounded(&tollgate).await;
    let keys: usize = redis.cli(&["DBSIZE"]).parse().unwrap();
    assert!(keys < 600 + 10 * 60 + 10, "{keys}");
    assert_eq!(tollgate.metric("tollgate_store_up").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn invented_keys_do_not_fill_the_memory() {
    let tollgate = Tollgate::start(Settings {
        rules: RULES,
        ..Settings::default()
    })
    .await;
    is_bounded(&tollgate).await;
    let keys = tollgate.metric("tollgate_memory_keys").await;
    assert!(keys < 600 + 10 * 60 + 10, "{keys}");
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_that_a_counter_is_shared() {
    let redis = Redis::start();
    let cluster = Cluster::start(3, 0).await;
    let cluster = format!("--redis-url={}", cluster.url());
    let rules = RULES.replace("max_new_keys: 10", "max_new_keys: 1");
    let deadline = "--deadline=1s";
    let stores = [
        (None, &[][..]),
        (Some(&redis), &[deadline]),
        (None, &[&cluster, deadline]),
    ];
    for (redis, args) in stores {
        let tollgate = Tollgate::start(Settings {
            rules: &rules,
            redis,
            args,
            ..Settings::default()
        })
        .await;
        let query =
            r#"{"method":"GET","path":"/keys","ip":"192.0.2.1","headers":{"x-api-key":"new"}}"#;
        let explained = async || {
            let length = format!("content-length: {}", query.len());
            let mut request = head("POST", "/explain", &[&length]);
            request.extend_from_slice(query.as_bytes());
            let answer = ask(tollgate.admin, &request).await;
            let rules = answer.json()["rules"].clone();
            rules[0]["limits"][0].clone()
        };
        assert_eq!(explained().await["shared"], serde_json::Value::Null);
        crate::support::eventually("the budget is spent", async || {
            invent(&tollgate, "a", 200).await;
            let limit = explained().await;
            limit["shared"] == true
                && limit["stored_as"] == "tollgate:{keys}:overflow:sliding_window:86400s"
                && limit["fits"] == false
        })
        .await;
    }
}
