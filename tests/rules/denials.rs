//! Denials that are remembered: the same decisions as without, and fewer questions to the store.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use proptest::{prelude::*, test_runner::TestRunner};
use tokio::time::Instant;
use tollgate::{
    engine::{Options, Verdict},
    store::{
        Batch, Charging, Store,
        memory::MemoryStore,
        read::{Read, Reads},
    },
};

use crate::support::world::{Ask, GET, World};

const RULES: &str = "
version: 1
rules:
  - { name: fixed, match: { path: /fixed }, key: client_ip, limit: 3/s, algorithm: fixed_window }
  - { name: sliding, match: { path: /sliding }, key: client_ip, limit: 4/s }
  - { name: log, match: { path: /log }, key: client_ip, limit: 3/2s, algorithm: sliding_log }
  - { name: bucket, match: { path: /bucket }, key: client_ip, limit: { rate: 2/s, burst: 3, algorithm: token_bucket },
      cost: { header: x-cost, max: 4 } }
  - { name: shared, match: { path: /shared }, limit: 9/s, algorithm: fixed_window }
  - { name: day, match: { path: /shared }, key: client_ip, limits: [6/2s, 12/day] }
  - { name: banned, match: { path: /banned }, key: client_ip, limit: 2/s,
      ban: { after: 3, within: 4s, for: 3s } }
  - { name: tried, match: { path: /tried }, key: client_ip, limit: 2/s }
  - { name: dark, match: { path: /tried }, key: client_ip, limit: 1/s, mode: shadow,
      ban: { after: 3, within: 4s, for: 3s } }
";

const PATHS: [&str; 7] = [
    "/fixed", "/sliding", "/log", "/bucket", "/shared", "/banned", "/tried",
];

/// What a store in memory counts, and what it says of its clock.
#[derive(Default)]
struct Seen {
    /// How often it was asked.
    asked: AtomicU64,
    is_in_doubt: AtomicBool,
}

/// A store in memory that counts how often it is asked.
struct Counting {
    memory: MemoryStore,
    seen: Arc<Seen>,
}

impl Read for Counting {
    fn read<'a>(&'a self, batch: &'a Batch) -> Reads<'a> {
        self.memory.read(batch)
    }
}

impl Store for Counting {
    fn charge<'a>(&'a self, batch: &'a Batch, deadline: Instant) -> Charging<'a> {
        self.seen.asked.fetch_add(1, Ordering::Relaxed);
        self.memory.charge(batch, deadline)
    }

    fn now_us(&self) -> u64 {
        self.memory.now_us()
    }

    fn clock_is_in_doubt(&self, _now: Instant) -> bool {
        self.seen.is_in_doubt.load(Ordering::Relaxed)
    }

    fn name(&self) -> &'static str {
        "counting"
    }
}

/// A world, and what its store has seen.
fn world(yaml: &str, remember_denials: bool) -> (World, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let options = Options {
        remember_denials,
        ..Options::default()
    };
    let world = World::build_as(yaml, options, |memory| {
        let seen = Arc::clone(&seen);
        Arc::new(Counting { memory, seen })
    });
    (world, seen)
}

#[derive(Debug, Clone)]
struct Arrival {
    after: Duration,
    path: &'static str,
    client: &'static str,
    cost: &'static str,
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let after = prop_oneof![
        4 => Just(0_u64),
        3 => 0_u64..200_000,
        2 => 200_000_u64..1_500_000,
        // To the edge of a window.
        1 => prop::sample::select(vec![999_999_u64, 1_000_000, 1_000_001, 2_000_000]),
    ];
    let arrival = (
        after,
        prop::sample::select(&PATHS[..]),
        prop::sample::select(&["192.0.2.1", "192.0.2.2"][..]),
        prop::sample::select(&["1", "2", "4"][..]),
    );
    let arrival = arrival.prop_map(|(after, path, client, cost)| Arrival {
        after: Duration::from_micros(after),
        path,
        client,
        cost,
    });
    // Few paths at a time, so that callers get to their limits.
    (
        prop::collection::vec(arrival, 1..80),
        1..=2_usize,
        0..PATHS.len(),
    )
        .prop_map(|(mut arrivals, paths, first)| {
            for arrival in &mut arrivals {
                let place = PATHS.iter().position(|path| *path == arrival.path);
                arrival.path = PATHS[(first + place.unwrap() % paths) % PATHS.len()];
            }
            arrivals
        })
}

#[test]
fn remembering_changes_no_decision() {
    let spared = AtomicU64::new(0);
    let config = ProptestConfig {
        cases: 300,
        ..ProptestConfig::default()
    };
    let mut runner = TestRunner::new(config);
    let spared_by = |arrivals: &[Arrival]| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (plain, all) = world(RULES, false);
            let (remembering, some) = world(RULES, true);
            for arrival in arrivals {
                tokio::time::advance(arrival.after).await;
                plain.clock.advance(arrival.after);
                remembering.clock.advance(arrival.after);
                let headers = [("x-cost", arrival.cost)];
                let ask = Ask {
                    target: arrival.path,
                    ip: Some(arrival.client),
                    headers: &headers,
                    ..GET
                };
                let expected = plain.ask(ask.clone()).await;
                let decision = remembering.ask(ask).await;
                match arrival.path {
                    // Of several limits, another may have been reached in the meantime, and another
                    // cost may have been admitted. That makes the wait longer.
                    "/shared" | "/bucket" => assert_eq!(
                        decision.verdict == Verdict::Allowed,
                        expected.verdict == Verdict::Allowed,
                    ),
                    _ => {
                        assert_eq!(decision.verdict, expected.verdict);
                        assert_eq!(decision.rule, expected.rule);
                    }
                }
            }
            // Shadow rules and bans have seen the same.
            for rule in ["tried", "dark", "banned"] {
                for outcome in ["allowed", "denied", "shadow_denied"] {
                    assert_eq!(
                        remembering.decisions(rule, outcome),
                        plain.decisions(rule, outcome),
                        "{rule} {outcome}"
                    );
                }
            }
            all.asked.load(Ordering::Relaxed) - some.asked.load(Ordering::Relaxed)
        })
    };
    runner
        .run(&arrivals(), |arrivals| {
            spared.fetch_add(spared_by(&arrivals), Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
    let spared = spared.into_inner();
    assert!(spared > 100, "{spared}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_over_its_limit_costs_the_store_one_question_a_second() {
    let yaml = "version: 1\nrules: [{ name: all, key: client_ip, limit: 5/day }]\n";
    let (world, seen) = world(yaml, true);
    ten_seconds(&world).await;
    // Five admissions, and a denial in each second.
    assert_eq!(seen.asked.load(Ordering::Relaxed), 5 + 10);
    assert_eq!(world.decisions("all", "allowed"), 5);
    assert_eq!(world.decisions("all", "denied"), 995);
    assert_eq!(world.metric("tollgate_denials_remembered_total"), 985);
}

/// A caller that asks ten times every 100 ms.
async fn ten_seconds(world: &World) {
    for _ in 0..100 {
        for _ in 0..10 {
            world.ask(GET).await;
        }
        let step = Duration::from_millis(100);
        tokio::time::advance(step).await;
        world.clock.advance(step);
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_clock_is_in_doubt_the_store_is_asked_ten_times_a_second() {
    let yaml = "version: 1\nrules: [{ name: all, key: client_ip, limit: 5/day, algorithm: fixed_window }]\n";
    let (world, seen) = world(yaml, true);
    seen.is_in_doubt.store(true, Ordering::Relaxed);
    ten_seconds(&world).await;
    assert_eq!(seen.asked.load(Ordering::Relaxed), 5 + 100);
    // The clock jumps a day: what had been denied fits, and is admitted within 100 ms.
    world.clock.advance(Duration::from_hours(24));
    assert_eq!(world.admitted(1, GET).await, 1);
    // It is as it was when nobody doubts it any more.
    assert_eq!(world.admitted(10, GET).await, 4);
    seen.is_in_doubt.store(false, Ordering::Relaxed);
    let before = seen.asked.load(Ordering::Relaxed);
    ten_seconds(&world).await;
    // The last denial holds for the first second.
    assert_eq!(seen.asked.load(Ordering::Relaxed), before + 9);
}

#[tokio::test(start_paused = true)]
async fn a_changed_rule_ends_it_at_once() {
    let rules = |amount: u32| {
        format!("version: 1\nrules: [{{ name: all, key: client_ip, limit: {amount}/day }}]\n")
    };
    let (world, _) = world(&rules(5), true);
    assert_eq!(world.admitted(10, GET).await, 5);
    world
        .engine
        .replace(crate::support::world::compile(&rules(6)));
    assert_eq!(world.admitted(10, GET).await, 1);
    // And once more.
    world
        .engine
        .replace(crate::support::world::compile(&rules(7)));
    assert_eq!(world.admitted(10, GET).await, 1);
}
