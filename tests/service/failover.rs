//! Three replicas of tollgate behind Sentinels, while the primary dies.

use std::collections::BTreeMap;

use crate::support::{
    client::{ask, head},
    eventually,
    sentinel::{NAME, Sentinels},
    tollgate::{Settings, Tollgate},
};

const RULES: &str = "
version: 1
rules:
  - { name: data, limit: 200/day, algorithm: fixed_window, on_store_error: deny }
";

/// The statuses of `count` checks, one after the other over all replicas.
async fn play(replicas: &[Tollgate], count: usize) -> BTreeMap<u16, usize> {
    let check = head(
        "GET",
        "/v1/check",
        &[
            "x-forwarded-method: GET",
            "x-forwarded-uri: /data",
            "x-real-ip: 192.0.2.1",
        ],
    );
    let mut statuses = BTreeMap::new();
    for replica in replicas.iter().cycle().take(count) {
        *statuses
            .entry(ask(replica.addr(), &check).await.status)
            .or_default() += 1;
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_follow_a_failover_and_lose_no_count_that_was_replicated() {
    let mut all = Sentinels::start(None).await;
    let url = format!("--redis-url=redis+sentinel://{}/{NAME}", all.hosts());
    let mut replicas = Vec::new();
    for _ in 0..3 {
        let settings = Settings {
            rules: RULES,
            args: &[&url],
            ..Settings::default()
        };
        replicas.push(Tollgate::start(settings).await);
    }
    assert_eq!(play(&replicas, 99).await, BTreeMap::from([(200, 99)]));

    let old = all.primary();
    all.servers[old].until_replicated(2).await;
    all.servers[old].kill();
    // Without a primary, the rule denies. What was admitted meanwhile was charged to the new one.
    let mut admitted = 99;
    let without = play(&replicas, 30).await;
    assert!(
        without.keys().all(|status| [200, 429].contains(status)),
        "{without:?}"
    );
    admitted += without.get(&200).copied().unwrap_or(0);
    let new = all.until_another_than(old).await;
    for replica in &replicas {
        replica.until_status("ok").await;
    }
    let rest = play(&replicas, 300).await;
    admitted += rest.get(&200).copied().unwrap_or(0);
    assert_eq!(admitted, 200, "{without:?}, then {rest:?}");

    // The old one comes back as a replica, and changes nothing.
    all.servers[new].until_replicated(1).await;
    all.servers[old].resume_process();
    eventually("the old primary is a replica", async || {
        all.servers[old].role().as_deref() == Some("slave")
    })
    .await;
    assert_eq!(play(&replicas, 30).await, BTreeMap::from([(429, 30)]));
}
