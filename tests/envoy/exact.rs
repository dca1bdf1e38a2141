//! With a limit of 100, 1,000 concurrent requests get exactly 100 and 900, for each algorithm, with
//! one and with three replicas.

use std::{collections::BTreeMap, net::Ipv4Addr};

use tollgate::{limit::Algorithm, server::ListenAddr};

use super::support::{
    client::{all_at_once, head, statuses},
    envoy::{Config, Envoy},
    process::raise_open_files,
    redis::Redis,
    tollgate::{Settings, Tollgate},
    upstream::Upstream,
};

/// A day, so that nothing flows back meanwhile on a slow machine (100 an hour is a token every 36
/// s).
///
/// `proxy`, with an Envoy that fails closed: if Redis is late, the result is a 503 and the test
/// fails, instead of counting in another place.
const RULES: &str = "
version: 1
defaults: { on_store_error: proxy }
rules:
  - { name: fixed, match: { path: /fixed_window }, key: [client_ip], limit: 100/day, algorithm: fixed_window }
  - { name: sliding, match: { path: /sliding_window }, key: [client_ip], limit: 100/day, algorithm: sliding_window }
  - { name: log, match: { path: /sliding_log }, key: [client_ip], limit: 100/day, algorithm: sliding_log }
  - { name: bucket, match: { path: /token_bucket }, key: [client_ip], limit: 100/day, algorithm: token_bucket }
";

async fn exactly_100_of_1000_pass(replicas: usize) {
    raise_open_files();
    let redis = Redis::start();
    let upstream = Upstream::start().await;
    let mut tollgates = Vec::new();
    for _ in 0..replicas {
        // A thousand checks at once on a slow machine take longer than the default deadline.
        let args = &["--deadline=20s"];
        tollgates.push(
            Tollgate::start(Settings {
                rules: RULES,
                redis: Some(&redis),
                args,
                ..Settings::default()
            })
            .await,
        );
    }
    let addrs: Vec<&ListenAddr> = tollgates.iter().map(|tollgate| &tollgate.listen).collect();
    // A time-out would decide here instead of the limit.
    let envoy = Envoy::start(Config::shipped().fail_closed().patient(), &addrs, &upstream).await;

    for algorithm in Algorithm::ALL {
        let request = head("GET", &format!("/{algorithm}"), &[]);
        let answers = all_at_once(Ipv4Addr::LOCALHOST, envoy.addr, &request, 1_000).await;
        assert_eq!(
            statuses(&answers),
            BTreeMap::from([(200, 100), (429, 900)]),
            "{algorithm}"
        );
    }
    assert_eq!(upstream.count(), 400);
    for tollgate in &tollgates {
        let checks = tollgate.metric("tollgate_checks_total").await;
        assert!(checks > 0, "each replica is asked");
    }
    assert_eq!(envoy.check_errors().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_100_of_1000_pass_one_tollgate() {
    exactly_100_of_1000_pass(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_100_of_1000_pass_three_tollgates_that_share_a_redis() {
    exactly_100_of_1000_pass(3).await;
}
