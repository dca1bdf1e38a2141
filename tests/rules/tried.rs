//! Limits that are tried out: they count, report what they would deny, and change nothing.

use std::time::Duration;

use proptest::{prelude::*, test_runner::TestRunner};
use tollgate::{
    engine::{Options, Verdict},
    limit::Algorithm,
};

use crate::support::world::{Ask, GET, World, get};

fn would_deny(world: &World, limit: &str) -> u64 {
    world.metric(&format!(
        "tollgate_would_deny_total{{rule=\"data\",limit=\"{limit}\"}}"
    ))
}

#[tokio::test]
async fn a_candidate_denies_nobody_and_reports_whom_it_would_have_denied() {
    for algorithm in Algorithm::ALL {
        let world = World::new(&format!(
            "version: 1\nrules: [{{ name: data, key: client_ip, \
             limit: {{ rate: 5/m, try: 3/m, algorithm: {algorithm} }} }}]\n"
        ));
        for left in (0..5).rev() {
            let decision = world.ask(GET).await;
            assert_eq!(decision.verdict, Verdict::Allowed, "{algorithm}");
            let quotas: Vec<_> = decision
                .quotas
                .iter()
                .map(|quota| quota.remaining)
                .collect();
            assert_eq!(
                quotas,
                [left],
                "{algorithm}: the response is that of the limit alone"
            );
        }
        assert_eq!(world.admitted(4, GET).await, 0, "{algorithm}");
        // Two of those that were admitted; who is denied anyway is not reported again.
        assert_eq!(would_deny(&world, "data"), 2, "{algorithm}");
        assert_eq!(world.decisions("data", "allowed"), 5, "{algorithm}");
        assert_eq!(world.decisions("data", "denied"), 4, "{algorithm}");
    }
}

#[tokio::test]
async fn each_limit_of_a_rule_has_its_own() {
    let world = World::new(
        "version: 1\nrules: [{ name: data, key: client_ip, limits: [\
         { rate: 4/s, try: 2/s }, 100/m, { rate: 20/h, try: 3/h, algorithm: fixed_window }] }]\n",
    );
    assert_eq!(world.admitted(4, GET).await, 4);
    assert_eq!(would_deny(&world, "data/1s"), 2);
    assert_eq!(would_deny(&world, "data/3600s"), 1);
    world.clock.advance(Duration::from_secs(10));
    assert_eq!(world.admitted(2, GET).await, 2);
    assert_eq!(would_deny(&world, "data/1s"), 2);
    assert_eq!(would_deny(&world, "data/3600s"), 3);
    assert!(
        !world
            .metrics
            .encode()
            .contains("would_deny_total{rule=\"data\",limit=\"data/60s\"}")
    );
}

#[tokio::test]
async fn a_burst_is_kept_unless_another_is_written() {
    for (limit, denied) in [
        ("{ rate: 10/s, burst: 6, try: 5/s }", 0),
        ("{ rate: 10/s, burst: 6, try: 5/s burst 4 }", 2),
        ("{ rate: 10/s burst 6, try: 5/s }", 0),
    ] {
        let world = World::new(&format!(
            "version: 1\nrules: [{{ name: data, key: client_ip, limit: {limit} }}]\n"
        ));
        assert_eq!(world.admitted(6, GET).await, 6);
        assert_eq!(would_deny(&world, "data"), denied, "{limit}");
    }
}

#[tokio::test(start_paused = true)]
async fn denials_of_such_a_rule_are_remembered_too() {
    let options = Options {
        remember_denials: true,
        ..Options::default()
    };
    let yaml =
        "version: 1\nrules: [{ name: data, key: client_ip, limit: { rate: 3/m, try: 1/m } }]\n";
    let world = World::build_as(yaml, options, |memory| std::sync::Arc::new(memory));
    assert_eq!(world.admitted(10, GET).await, 3);
    assert_eq!(would_deny(&world, "data"), 2);
    assert_eq!(world.metric("tollgate_denials_remembered_total"), 6);
}

/// What was admitted and not reported is what the candidate admits when it is the limit.
#[test]
fn a_candidate_says_exactly_what_a_lower_limit_would_have_done() {
    let times = prop::collection::vec((0_u64..20_000, 0..2_usize), 1..60);
    let config = ProptestConfig {
        cases: 40,
        ..ProptestConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    TestRunner::new(config)
        .run(&(times, 1_u64..6), |(arrivals, candidate)| {
            let rules = |limit: &str| {
                format!(
                    "version: 1\nrules: [{{ name: data, key: client_ip, algorithm: fixed_window, limit: {limit} }}]\n"
                )
            };
            // Nobody reaches the limit itself, so both see the same requests.
            let tried = World::new(&rules(&format!("{{ rate: 1000/m, try: {candidate}/m }}")));
            let lowered = World::new(&rules(&format!("{candidate}/m")));
            runtime.block_on(async {
                for (after, client) in &arrivals {
                    let ask = Ask {
                        ip: Some(["192.0.2.1", "192.0.2.2"][*client]),
                        ..GET
                    };
                    for world in [&tried, &lowered] {
                        world.clock.advance(Duration::from_millis(*after));
                    }
                    assert!(tried.admits(ask.clone()).await);
                    lowered.ask(ask).await;
                    assert_eq!(
                        would_deny(&tried, "data"),
                        lowered.decisions("data", "denied")
                    );
                }
            });
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn admissions_are_counted_for_each_limit_and_those_near_it() {
    let world = World::new(
        "version: 1\nrules:\n\
         \x20 - { name: data, match: { path: /data }, key: client_ip, limits: [10/m, 100/h] }\n\
         \x20 - { name: dark, match: { path: /data }, key: client_ip, limit: 3/m, mode: shadow }\n",
    );
    assert_eq!(world.admitted(12, get("/data")).await, 10);
    let metric = |name: &str, rule: &str, limit: &str| {
        world.metric(&format!(
            "tollgate_{name}{{rule=\"{rule}\",limit=\"{limit}\"}}"
        ))
    };
    assert_eq!(metric("admissions_total", "data", "data/60s"), 10);
    assert_eq!(metric("admissions_total", "data", "data/3600s"), 10);
    // After the eighth, eight tenths are used.
    assert_eq!(metric("near_limit_total", "data", "data/60s"), 3);
    assert_eq!(metric("near_limit_total", "data", "data/3600s"), 0);
    assert_eq!(metric("denials_total", "data", "data/60s"), 2);
    assert_eq!(metric("admissions_total", "dark", "dark"), 3);
    assert_eq!(metric("near_limit_total", "dark", "dark"), 1);
    assert_eq!(metric("limit", "data", "data/60s"), 10);
    assert_eq!(metric("limit", "data", "data/3600s"), 100);
    let text = world.metrics.encode();
    let window = "tollgate_limit_window_seconds{rule=\"data\",limit=\"data/3600s\"} 3600.0\n";
    assert!(text.contains(window), "{text}");
}

#[tokio::test]
async fn a_changed_limit_is_shown_and_a_removed_one_is_not() {
    let rules = |limit: &str| {
        let yaml =
            format!("version: 1\nrules: [{{ name: data, key: client_ip, limit: {limit} }}]\n");
        crate::support::world::compile(&yaml)
    };
    let world = World::new(
        "version: 1\nrules: [{ name: data, key: client_ip, limit: { rate: 5/m, try: 1/m } }]\n",
    );
    world.admitted(2, GET).await;
    let limit = "{rule=\"data\",limit=\"data\"}";
    let tried = format!("tollgate_would_deny_total{limit}");
    assert_eq!(world.metric(&tried), 1);
    // A limit whose candidate is another goes on.
    world.engine.replace(rules("{ rate: 7/m, try: 2/m }"));
    assert_eq!(world.metric(&tried), 1);
    world.engine.replace(rules("7/m"));
    assert!(!world.metrics.encode().contains(&tried));
    world.admitted(1, GET).await;
    assert_eq!(world.metric(&format!("tollgate_limit{limit}")), 7);
    assert_eq!(
        world.metric(&format!("tollgate_admissions_total{limit}")),
        3
    );
    world.engine.replace(rules("unlimited"));
    let text = world.metrics.encode();
    assert!(!text.contains(limit), "{text}");
}
