//! `/offenders`: who was denied most, whoever knew that they had to be denied.

use std::fs;

use serde_json::{Value, json};

use crate::support::{
    client::{Connection, head},
    eventually,
    redis::Redis,
    tollgate::{Settings, Tollgate},
};

const RULES: &str = "version: 1
forwarded_headers: \"*\"
rules:
  - { name: internal, match: { path: /internal }, action: deny }
  - { name: closed, match: { path: /closed }, key: client_ip, limit: 0 }
  - { name: tried, match: { path: /tried }, key: client_ip, limit: 2/day, mode: shadow }
  - { name: data, match: { path: /data }, key: [{ header: x-api-key, secret: true }], limit: 2/day }
";

async fn checks(connection: &mut Connection, path: &str, ip: &str, count: usize) {
    let (uri, ip) = (
        format!("x-forwarded-uri: {path}"),
        format!("x-real-ip: {ip}"),
    );
    let lines = [
        "x-forwarded-method: GET",
        &*uri,
        &*ip,
        "x-api-key: planted-key",
    ];
    for _ in 0..count {
        connection
            .ask(&head("GET", "/v1/check", &lines))
            .await
            .unwrap();
    }
}

async fn offenders(tollgate: &Tollgate) -> Value {
    let mut connection = Connection::open(tollgate.admin).await.unwrap();
    // Without tokens, the port is asked by its address.
    let host = format!("host: {}", tollgate.admin);
    let answer = connection.ask(&head("GET", "/offenders", &[&host])).await;
    answer.unwrap().json()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_denial_is_counted_by_rule_and_caller() {
    let redis = Redis::start();
    let tollgate = Tollgate::start(Settings {
        rules: RULES,
        redis: Some(&redis),
        args: &["--remember-denials=true"],
        ..Settings::default()
    })
    .await;
    assert_eq!(
        offenders(&tollgate).await,
        json!({ "minutes": 5, "rules": [] })
    );
    assert_eq!(tollgate.ask_admin("/offenders").await.status, 403);
    let mut connection = Connection::open(tollgate.addr()).await.unwrap();
    for (path, ip, count) in [
        ("/internal", "203.0.113.1", 3),
        ("/closed", "203.0.113.1", 4),
        ("/closed", "203.0.113.2", 5),
        ("/tried", "203.0.113.1", 3),
        ("/data", "203.0.113.1", 52),
    ] {
        checks(&mut connection, path, ip, count).await;
    }
    assert!(tollgate.metric("tollgate_denials_remembered_total").await > 0);
    let caller = |key: &str, denied: u64| json!({ "key": key, "denied_at_least": denied, "denied_at_most": denied });
    let rule = |name: &str, shadow: bool, denied: u64, callers: Vec<Value>| json!({ "rule": name, "shadow": shadow, "denied": denied, "missed": 0, "callers": callers });
    let mut seen = offenders(&tollgate).await;
    // A hash, as in the log.
    let secret = seen["rules"][3]["callers"][0]["key"].take();
    let secret = secret.as_str().unwrap().to_owned();
    seen["rules"][3]["callers"][0]["key"] = json!("secret");
    assert!(secret.starts_with("header.x-api-key=#"), "{secret}");
    let closed = vec![
        caller("client_ip=203.0.113.2", 5),
        caller("client_ip=203.0.113.1", 4),
    ];
    let expected = json!({ "minutes": 5, "rules": [
        rule("internal", false, 3, vec![caller("", 3)]),
        rule("closed", false, 9, closed),
        rule("tried", true, 1, vec![caller("client_ip=203.0.113.1", 1)]),
        rule("data", false, 50, vec![caller("secret", 50)]),
    ] });
    assert_eq!(seen, expected);
    // Never a label.
    let metrics = tollgate.ask_admin("/metrics").await.body;
    assert!(!metrics.contains("203.0.113") && !metrics.contains(&secret));

    // A rule that is gone has none, and one that means something else begins anew.
    let changed = RULES.replace("name: internal", "name: private");
    let changed = changed.replace("mode: shadow", "mode: enforce");
    fs::write(tollgate.rules(), changed).unwrap();
    eventually("the rules are in force", async || {
        offenders(&tollgate).await["rules"]
            .as_array()
            .unwrap()
            .len()
            == 2
    })
    .await;
    let rules = offenders(&tollgate).await;
    assert_eq!(
        (&rules["rules"][0]["rule"], &rules["rules"][0]["denied"]),
        (&json!("closed"), &json!(9))
    );
    assert_eq!(rules["rules"][1]["denied"], 50);
}
