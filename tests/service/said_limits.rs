//! Limits whose amount a header says, over several replicas with one Redis, and without it.

use std::{collections::BTreeMap, net::Ipv4Addr};

use crate::support::{
    client::{Response, all_at_once, ask, head, statuses},
    redis::Redis,
    tollgate::{Settings, Tollgate},
};

const RULES: &str = "
version: 1
forwarded_headers: [x-limit]
rules:
  - name: plans
    key: [client_ip]
    limits: [{ header: x-limit, default: 4, max: 10, per: 1day }]
    on_store_error: local
";

/// Two replicas with one Redis.
async fn replicas(redis: &Redis) -> [Tollgate; 2] {
    let settings = || Settings {
        rules: RULES,
        redis: Some(redis),
        args: &["--replicas=2", "--deadline=1s"],
        ..Settings::default()
    };
    [
        Tollgate::start(settings()).await,
        Tollgate::start(settings()).await,
    ]
}

/// The check for a request from 192.0.2.`client` with these lines.
fn check(client: u8, lines: &[&str]) -> Vec<u8> {
    let ip = format!("x-real-ip: 192.0.2.{client}");
    let mut all = vec!["x-forwarded-method: GET", "x-forwarded-uri: /", &*ip];
    all.extend(lines);
    head("GET", "/v1/check", &all)
}

/// How many of 12 requests in turn are admitted, over the replicas by turns.
async fn admitted(replicas: &[Tollgate], client: u8, lines: &[&str]) -> usize {
    let mut admitted = 0;
    for turn in 0..12 {
        let replica = &replicas[turn % replicas.len()];
        let answer = ask(replica.addr(), &check(client, lines)).await;
        assert!(matches!(answer.status, 200 | 429), "{answer:?}");
        admitted += usize::from(answer.status == 200);
    }
    admitted
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_header_says_acts_at_once_on_what_all_replicas_count() {
    let redis = Redis::start();
    let replicas = replicas(&redis).await;
    let amount = |answer: &Response| {
        let policy = answer.header("ratelimit-policy").unwrap().to_owned();
        (policy, answer.remaining().0)
    };
    // Each line of the table adds to what the ones before it have used.
    for (lines, expected, policy) in [
        (&["x-limit: 3"][..], 3, "q=3"),
        (&["x-limit: 3"], 0, "q=3"),
        (&[], 1, "q=4"),
        (&["x-limit: many"], 0, "q=4"),
        (&["x-limit: 6"], 2, "q=6"),
        (&["x-limit: 1"], 0, "q=1"),
        (&["x-limit: 5", "x-limit: 9"], 0, "q=5"),
        (&["x-limit: 99999999999999999999999"], 4, "q=10"),
        (&["x-limit: 11"], 0, "q=10"),
    ] {
        assert_eq!(admitted(&replicas, 1, lines).await, expected, "{lines:?}");
        for replica in &replicas {
            let denied = ask(replica.addr(), &check(1, lines)).await;
            let expected = format!("\"plans\";{policy};w=86400");
            assert_eq!((denied.status, amount(&denied)), (429, (expected, 0)));
        }
    }
    // One counter, whatever the header said.
    let key = "tollgate:{plans:client_ip=192.0.2.1}:sliding_window:86400s";
    assert_eq!(redis.counters(), key);
    let stored = redis.cli(&["GET", key]);
    assert_eq!(stored.split(' ').next(), Some("10"), "{stored}");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_once_as_many_are_admitted_as_the_header_says() {
    let redis = Redis::start();
    let replicas = replicas(&redis).await;
    for (client, said, expected) in [(1, "x-limit: 7", 7), (2, "x-limit: 70", 10), (3, "x: 1", 4)] {
        let check = check(client, &[said]);
        let [one, other] = [&replicas[0], &replicas[1]]
            .map(|replica| all_at_once(Ipv4Addr::LOCALHOST, replica.addr(), &check, 20));
        let (mut answers, others) = tokio::join!(one, other);
        answers.extend(others);
        assert_eq!(
            statuses(&answers),
            BTreeMap::from([(200, expected), (429, 40 - expected)]),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_each_replica_has_its_share_of_what_the_header_says() {
    let mut redis = Redis::start();
    let replicas = replicas(&redis).await;
    redis.kill();
    for replica in &replicas {
        replica.until_status("degraded").await;
        let alone = std::slice::from_ref(replica);
        // Half of 4, 6 and 10; each line adds to what the ones before it have used.
        for (lines, expected) in [
            (&[][..], 2),
            (&["x-limit: many"], 0),
            (&["x-limit: 6"], 1),
            (&["x-limit: 2"], 0),
            (&["x-limit: 1000"], 2),
            (&["x-limit: 20"], 0),
        ] {
            assert_eq!(admitted(alone, 1, lines).await, expected, "{lines:?}");
        }
        // Not fewer than one.
        assert_eq!(admitted(alone, 2, &["x-limit: 1"]).await, 1);
    }
    redis.resume_process();
    for replica in &replicas {
        replica.until_status("ok").await;
    }
    assert_eq!(admitted(&replicas, 1, &["x-limit: 6"]).await, 6);
}
