//! Leases in the program: most checks of a hot caller ask no Redis, and what it does not use comes
//! back, also when tollgate ends.

use rustix::process::Signal;

use crate::support::{
    client::{Connection, head},
    eventually,
    redis::Redis,
    tollgate::{Settings, Tollgate},
};

const RULES: &str = "
version: 1
rules:
  - { name: hot, key: client_ip, limit: 100000/day, algorithm: fixed_window,
      lease: { share: 10%, ttl: 1s } }
";

/// Sends so many checks, one after the other; all are admitted.
async fn send(tollgate: &Tollgate, count: usize) {
    let lines = [
        "x-forwarded-method: GET",
        "x-forwarded-uri: /",
        "x-real-ip: 192.0.2.1",
    ];
    let check = head("GET", "/v1/check", &lines);
    let mut connection = Connection::open(tollgate.addr()).await.unwrap();
    for _ in 0..count {
        assert_eq!(connection.ask(&check).await.unwrap().status, 200);
    }
}

fn counted(redis: &Redis) -> usize {
    let key = "tollgate:{hot:client_ip=192.0.2.1}:fixed_window:86400s";
    let text = redis.cli(&["GET", key]);
    text.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_a_hot_caller_does_not_use_comes_back_also_at_the_end() {
    let redis = Redis::start();
    let settings = || Settings {
        rules: RULES,
        redis: Some(&redis),
        ..Settings::default()
    };
    let mut tollgate = Tollgate::start(settings()).await;
    // The first heartbeat has to be answered before.
    eventually("there is a lease", async || {
        send(&tollgate, 10).await;
        tollgate.metric("tollgate_lease_grants_total").await > 0
    })
    .await;
    let before = tollgate
        .metric("tollgate_decisions_total{rule=\"hot\",outcome=\"allowed\"}")
        .await;
    send(&tollgate, 1_000).await;
    let mut used = usize::try_from(before).unwrap() + 1_000;
    assert!(counted(&redis) >= used);
    let spared = tollgate.metric("tollgate_lease_admissions_total").await;
    assert!(spared > 900, "{spared}");
    eventually("the unused ones are back", async || counted(&redis) == used).await;

    // It ends while a lease is held.
    eventually("a lease is held", async || {
        send(&tollgate, 50).await;
        used += 50;
        counted(&redis) > used
    })
    .await;
    tollgate.signal(Signal::TERM);
    assert!(tollgate.ended().await.success());
    assert_eq!(counted(&redis), used);
}

#[tokio::test]
async fn an_explanation_says_that_a_rule_is_leased() {
    let tollgate = Tollgate::start(Settings {
        rules: RULES,
        ..Settings::default()
    })
    .await;
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["explain", "GET", "/", "--ip", "192.0.2.1", "--rules"])
        .arg(tollgate.rules())
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        told.contains("lease  up to 10% charged ahead, for 1s\n"),
        "{told}"
    );
    // In memory there is nothing to spare.
    send(&tollgate, 50).await;
    assert_eq!(tollgate.metric("tollgate_lease_grants_total").await, 0);
}
