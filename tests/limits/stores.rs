//! One suite of behaviour for both stores, and tests of what only one of them can do.

use std::{
    fmt::Write as _,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::{
    cluster::Cluster,
    eventually,
    fault_proxy::{FaultProxy, Mode},
    redis::Redis,
};
use tokio::{task::JoinSet, time::Instant};
use tollgate::{
    clock::{Clock, ManualClock, Ratchet, SystemClock},
    limit::{
        Algorithm, Limit,
        ban::Ban,
        calendar::{Calendar, Edges, Period},
    },
    store::{
        Batch, ChargeResult, ENFORCED, Store, StoreError,
        memory::MemoryStore,
        redis::{Options, RedisStore},
    },
};

const HOUR: u64 = 3_600_000_000;
const PATIENCE: Duration = Duration::from_secs(10);

fn limit(algorithm: Algorithm, amount: u64) -> Limit {
    Limit::new(algorithm, amount, HOUR, None).unwrap()
}

fn batch(charges: &[(&str, Limit, u32)]) -> Batch {
    let mut batch = Batch::default();
    for (key, limit, group) in charges {
        batch.push(*limit, 1, *group, |out| out.push_str(key));
    }
    batch
}

async fn charge(store: &dyn Store, batch: &Batch) -> ChargeResult {
    store
        .charge(batch, Instant::now() + PATIENCE)
        .await
        .unwrap()
        .result
}

fn memory(max_keys: usize, clock: Arc<dyn Clock>) -> MemoryStore {
    MemoryStore::new(max_keys, clock, Box::new(|_| {}))
}

async fn redis_store(redis: &Redis, lanes: usize) -> RedisStore {
    let mut options = Options::parse(&redis.url()).unwrap();
    options.lanes = lanes;
    let store = RedisStore::start(&options, Box::new(|_| {})).unwrap();
    assert!(store.connected_within(PATIENCE).await);
    store
}

/// Runs a test over the store in memory and over one Redis.
async fn on_both<F, Fut>(test: F)
where
    F: Fn(Arc<dyn Store>) -> Fut,
    Fut: Future<Output = ()>,
{
    test(Arc::new(memory(1_000, Arc::new(SystemClock::new())))).await;
    let redis = Redis::start();
    test(Arc::new(redis_store(&redis, 2).await)).await;
}

/// Runs a test of the suite over the store in memory, in one Redis, and in a cluster.
async fn on_all<F, Fut>(test: F)
where
    F: Fn(Arc<dyn Store>) -> Fut,
    Fut: Future<Output = ()>,
{
    on_both(&test).await;
    // One node has all slots, and still what is in several slots takes several calls.
    let cluster = Cluster::start(1, 0).await;
    test(Arc::new(cluster_store(&cluster).await)).await;
}

async fn cluster_store(cluster: &Cluster) -> RedisStore {
    let options = Options::parse(&cluster.url()).unwrap();
    let store = RedisStore::start(&options, Box::new(|_| {})).unwrap();
    assert!(store.connected_within(PATIENCE).await);
    store
}

#[tokio::test]
async fn each_algorithm_admits_exactly_its_limit() {
    on_all(|store| async move {
        for algorithm in Algorithm::ALL {
            let batch = batch(&[(algorithm.as_str(), limit(algorithm, 5), ENFORCED)]);
            for left in (0..5).rev() {
                let verdict = charge(&*store, &batch).await;
                assert!(verdict.admitted);
                assert_eq!(
                    verdict.outcomes[0].remaining,
                    left,
                    "{algorithm} in {}",
                    store.name()
                );
            }
            let verdict = charge(&*store, &batch).await;
            assert!(!verdict.admitted);
            assert!(verdict.outcomes[0].wait_us > 0);
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_that_one_limit_denies_charges_none() {
    on_all(|store| async move {
        for algorithm in Algorithm::ALL {
            let wide = format!("{algorithm}:wide");
            let narrow = format!("{algorithm}:narrow");
            let both = batch(&[
                (&wide, limit(algorithm, 10), ENFORCED),
                (&narrow, limit(algorithm, 2), ENFORCED),
            ]);
            for _ in 0..2 {
                assert!(charge(&*store, &both).await.admitted);
            }
            for _ in 0..20 {
                let verdict = charge(&*store, &both).await;
                assert!(
                    !verdict.admitted
                        && verdict.outcomes[0].allowed
                        && !verdict.outcomes[1].allowed
                );
            }
            let alone = charge(&*store, &batch(&[(&wide, limit(algorithm, 10), ENFORCED)])).await;
            assert_eq!(
                alone.outcomes[0].remaining,
                7,
                "{algorithm} in {}",
                store.name()
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_shadow_rule_neither_denies_nor_charges_what_it_would_have_denied() {
    on_all(|store| async move {
        let window = Algorithm::FixedWindow;
        let charges = [
            ("enforced", limit(window, 10), ENFORCED),
            ("{shadow}:wide", limit(window, 10), 7),
            ("{shadow}:narrow", limit(window, 1), 7),
        ];
        for _ in 0..3 {
            assert!(charge(&*store, &batch(&charges)).await.admitted);
        }
        let enforced = charge(&*store, &batch(&charges[..1])).await;
        assert_eq!(enforced.outcomes[0].remaining, 6, "charged each time");
        let shadow = charge(&*store, &batch(&charges[1..2])).await;
        assert_eq!(
            shadow.outcomes[0].remaining, 8,
            "charged as one, only when all of the rule's limits fit"
        );
    })
    .await;
}

#[tokio::test]
async fn a_denied_request_charges_no_shadow_rule_either() {
    on_all(|store| async move {
        let window = Algorithm::FixedWindow;
        let charges = [
            ("full", limit(window, 1), ENFORCED),
            ("shadow", limit(window, 10), 1),
        ];
        for _ in 0..5 {
            charge(&*store, &batch(&charges)).await;
        }
        let shadow = charge(&*store, &batch(&charges[1..])).await;
        assert_eq!(shadow.outcomes[0].remaining, 8);
    })
    .await;
}

#[tokio::test]
async fn a_changed_limit_acts_at_once_on_what_is_counted() {
    on_all(|store| async move {
        for algorithm in Algorithm::ALL {
            let key = algorithm.as_str();
            for _ in 0..5 {
                charge(&*store, &batch(&[(key, limit(algorithm, 5), ENFORCED)])).await;
            }
            assert!(
                !charge(&*store, &batch(&[(key, limit(algorithm, 5), ENFORCED)]))
                    .await
                    .admitted
            );
            let raised = charge(&*store, &batch(&[(key, limit(algorithm, 10), ENFORCED)])).await;
            assert!(raised.admitted);
            assert_eq!(
                raised.outcomes[0].remaining,
                4,
                "{algorithm} in {}",
                store.name()
            );
        }
    })
    .await;
}

#[tokio::test]
async fn callers_do_not_share() {
    on_all(|store| async move {
        for caller in 0..100 {
            let key = format!("caller:{caller}");
            assert!(
                charge(
                    &*store,
                    &batch(&[(&key, limit(Algorithm::SlidingWindow, 1), ENFORCED)])
                )
                .await
                .admitted
            );
        }
    })
    .await;
}

/// How many of 1,000 concurrent requests, spread over the replicas, are admitted.
async fn admitted_of_1000(replicas: &[Arc<dyn Store>], charges: &[(&str, Limit, u32)]) -> usize {
    let admitted = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for request in 0..1_000 {
        let store = Arc::clone(&replicas[request % replicas.len()]);
        let admitted = Arc::clone(&admitted);
        let batch = batch(charges);
        tasks.spawn(async move {
            if charge(&*store, &batch).await.admitted {
                admitted.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    tasks.join_all().await;
    admitted.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_at_once_are_counted_exactly_by_three_replicas() {
    let redis = Redis::start();
    let mut replicas: Vec<Arc<dyn Store>> = Vec::new();
    for _ in 0..3 {
        replicas.push(Arc::new(redis_store(&redis, 2).await));
    }
    let memory: [Arc<dyn Store>; 1] = [Arc::new(memory(1_000, Arc::new(SystemClock::new())))];
    for algorithm in Algorithm::ALL {
        let one = [(algorithm.as_str(), limit(algorithm, 100), ENFORCED)];
        assert_eq!(
            admitted_of_1000(&replicas, &one).await,
            100,
            "{algorithm} in redis"
        );
        assert_eq!(
            admitted_of_1000(&memory, &one).await,
            100,
            "{algorithm} in memory"
        );
    }
    let two = [
        ("a", limit(Algorithm::FixedWindow, 100), ENFORCED),
        ("b", limit(Algorithm::TokenBucket, 60), ENFORCED),
    ];
    assert_eq!(admitted_of_1000(&replicas, &two).await, 60);
    assert_eq!(admitted_of_1000(&memory, &two).await, 60);
    assert_eq!(
        redis.cli(&["GET", "a"]).split(' ').next(),
        Some("60"),
        "the denied ones charged nothing"
    );
}

/// A limit of `amount` an hour, and a ban of an hour after `after` denials.
fn with_ban(caller: &str, amount: u64, after: u64, group: u32) -> Batch {
    let mut batch = Batch::default();
    let window = limit(Algorithm::FixedWindow, amount);
    batch.push(window, 1, group, |out| out.push_str(&limit_key(caller)));
    let ban = Ban::new(after, HOUR, HOUR).unwrap();
    batch.push_ban(ban, 1, group, |out| out.push_str(&ban_key(caller)));
    batch
}

fn limit_key(caller: &str) -> String {
    format!("tollgate:{{login:header.x={caller}}}:fixed_window:3600s")
}

fn ban_key(caller: &str) -> String {
    format!("tollgate:{{login:header.x={caller}}}:ban")
}

#[tokio::test]
async fn a_caller_denied_too_often_is_banned_and_not_charged_meanwhile() {
    on_all(|store| async move {
        let batch = with_ban("a", 1, 3, ENFORCED);
        let first = charge(&*store, &batch).await;
        assert!(first.admitted);
        assert_eq!(first.outcomes[1].remaining, 3);
        for left in [2, 1] {
            let denied = charge(&*store, &batch).await;
            assert!(!denied.admitted && denied.outcomes[1].allowed);
            assert_eq!(denied.outcomes[1].remaining, left, "{}", store.name());
        }
        let banned = charge(&*store, &batch).await;
        assert!(!banned.admitted && !banned.outcomes[1].allowed);
        assert_eq!(banned.outcomes[1].wait_us, HOUR);
        // With a raised limit there would be room, but the ban still denies, and nothing is
        // charged.
        let raised = with_ban("a", 10, 3, ENFORCED);
        for _ in 0..5 {
            let banned = charge(&*store, &raised).await;
            assert!(!banned.admitted);
            assert!(banned.outcomes[0].allowed && !banned.outcomes[1].allowed);
            assert_eq!(banned.outcomes[0].remaining, 8, "{}", store.name());
            assert!(banned.outcomes[1].wait_us <= HOUR);
        }
        assert!(
            charge(&*store, &with_ban("b", 1, 3, ENFORCED))
                .await
                .admitted
        );
    })
    .await;
}

#[tokio::test]
async fn a_ban_counts_what_its_own_limits_deny_and_nothing_else() {
    on_all(|store| async move {
        let mut batch = with_ban("a", 10, 1, ENFORCED);
        batch.push(limit(Algorithm::FixedWindow, 1), 1, ENFORCED, |out| {
            out.push_str("another rule's");
        });
        assert!(charge(&*store, &batch).await.admitted);
        for _ in 0..5 {
            let denied = charge(&*store, &batch).await;
            assert!(!denied.admitted);
            assert!(denied.outcomes[1].allowed, "{}", store.name());
        }
    })
    .await;
}

#[tokio::test]
async fn a_ban_of_a_shadow_rule_denies_nobody() {
    on_all(|store| async move {
        let batch = with_ban("a", 1, 2, 7);
        for denials in 0..6 {
            let verdict = charge(&*store, &batch).await;
            assert!(verdict.admitted);
            assert_eq!(verdict.outcomes[1].allowed, denials < 2);
        }
    })
    .await;
}

const DAY: u64 = 24 * HOUR;

fn edges(first: u64) -> Edges {
    Edges::new([first, first + DAY, first + 2 * DAY, first + 3 * DAY]).unwrap()
}

#[tokio::test]
async fn a_calendar_window_ends_on_time() {
    on_all(|store| async move {
        let today = Calendar::new(Period::Day, "Pacific/Kiritimati").unwrap();
        let edges = today.edges(store.now_us());
        let window = limit(Algorithm::FixedWindow, 2).aligned(edges);
        let batch = batch(&[("k", window, ENFORCED)]);
        let first = charge(&*store, &batch).await;
        let now = store.now_us();
        let (_, end) = edges.window_at(now).unwrap();
        assert!(first.admitted);
        assert!(
            first.outcomes[0].wait_us.abs_diff(end - now) < 60_000_000,
            "{} of {} in {}",
            first.outcomes[0].wait_us,
            end - now,
            store.name()
        );
        assert!(charge(&*store, &batch).await.admitted);
        assert!(!charge(&*store, &batch).await.admitted);
    })
    .await;
}

#[tokio::test]
async fn edges_that_do_not_hold_the_stores_time_charge_nothing_and_teach_it() {
    on_all(|store| async move {
        let ours = store.now_us();
        for first in [0, ours - 30 * DAY, ours + DAY] {
            let window = limit(Algorithm::FixedWindow, 1);
            let other = limit(Algorithm::FixedWindow, 2);
            let both = [
                ("other", other, ENFORCED),
                ("window", window.aligned(edges(first)), ENFORCED),
            ];
            let answer = store.charge(&batch(&both), Instant::now() + PATIENCE).await;
            let error = match answer {
                Err(error) => error,
                // In a cluster, where the two are apart. Nobody has settled the other one.
                Ok(mut answer) => {
                    answer.unsettled.give_back(Instant::now() + PATIENCE).await;
                    answer.lost.remove(0).error
                }
            };
            assert_eq!(error, StoreError::Clock, "{} {first}", store.name());
        }
        let around = edges(store.now_us() - DAY - HOUR);
        let both = [
            ("other", limit(Algorithm::FixedWindow, 2), ENFORCED),
            (
                "window",
                limit(Algorithm::FixedWindow, 1).aligned(around),
                ENFORCED,
            ),
        ];
        let verdict = charge(&*store, &batch(&both)).await;
        assert!(verdict.admitted);
        assert_eq!(
            verdict.outcomes[0].remaining, 1,
            "nothing had been charged before"
        );
    })
    .await;
}

// === memory

#[tokio::test]
async fn memory_follows_its_clock() {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000_000));
    let store = memory(10, clock.clone());
    let batch = batch(&[("k", limit(Algorithm::FixedWindow, 1), ENFORCED)]);
    assert!(store.charge_now(&batch).admitted);
    clock.advance(Duration::from_micros(HOUR - 1));
    assert!(!store.charge_now(&batch).admitted);
    clock.advance(Duration::from_micros(1));
    assert!(store.charge_now(&batch).admitted);
}

/// The two clocks of a machine, as the system's clock reads them.
struct Machine {
    wall_us: AtomicU64,
    monotonic_us: AtomicU64,
    ahead: Ratchet,
}

impl Clock for Machine {
    fn now_us(&self) -> u64 {
        self.ahead.time(
            self.wall_us.load(Ordering::SeqCst),
            self.monotonic_us.load(Ordering::SeqCst),
        )
    }
}

impl Machine {
    /// Started a minute ago.
    fn at(wall_us: u64) -> Arc<Self> {
        Arc::new(Self {
            wall_us: wall_us.into(),
            monotonic_us: 60_000_000.into(),
            ahead: Ratchet::default(),
        })
    }

    fn runs(&self, us: u64) {
        self.monotonic_us.fetch_add(us, Ordering::SeqCst);
        self.wall_us.fetch_add(us, Ordering::SeqCst);
    }

    /// Suspended, it has a monotonic clock that stands still.
    fn sleeps(&self, us: u64) {
        self.wall_us.fetch_add(us, Ordering::SeqCst);
    }

    fn is_set_back(&self, us: u64) {
        self.wall_us.fetch_sub(us, Ordering::SeqCst);
    }
}

/// Midnight between 8 and 9 June 2026 in Paris.
const MIDNIGHT: u64 = 1_780_956_000_000_000;

/// Two a day in Paris, with the windows around the store's time.
fn two_a_day(store: &MemoryStore) -> Batch {
    let today = Calendar::new(Period::Day, "Europe/Paris").unwrap();
    let window = Limit::new(Algorithm::FixedWindow, 2, DAY, None).unwrap();
    batch(&[("k", window.aligned(today.edges(store.now_us())), ENFORCED)])
}

#[tokio::test]
async fn after_a_suspend_the_window_is_the_new_days() {
    let machine = Machine::at(MIDNIGHT - HOUR);
    let store = memory(10, machine.clone());
    let before = two_a_day(&store);
    for _ in 0..2 {
        assert!(charge(&store, &before).await.admitted);
    }
    machine.runs(HOUR / 2);
    let denied = charge(&store, &two_a_day(&store)).await;
    assert!(!denied.admitted);
    assert_eq!(denied.outcomes[0].wait_us, HOUR / 2, "until midnight");

    machine.sleeps(HOUR);
    let first = charge(&store, &two_a_day(&store)).await;
    assert!(first.admitted, "a new day");
    assert_eq!(first.outcomes[0].remaining, 1);
    assert_eq!(first.outcomes[0].wait_us, 24 * HOUR - HOUR / 2);
    // A check that began before the suspend is counted in the new day as well.
    let second = charge(&store, &before).await;
    assert!(second.admitted);
    assert_eq!(second.outcomes[0].remaining, 0);
    assert!(!charge(&store, &two_a_day(&store)).await.admitted);

    // Days later, where the windows of a check that began before do not reach.
    machine.sleeps(3 * DAY);
    let answer = store.charge(&before, Instant::now() + PATIENCE).await;
    assert_eq!(answer.unwrap_err(), StoreError::Clock);
    assert!(charge(&store, &two_a_day(&store)).await.admitted);
}

#[tokio::test]
async fn a_wall_clock_that_is_set_back_reopens_no_window() {
    let machine = Machine::at(MIDNIGHT - HOUR);
    let store = memory(10, machine.clone());
    let yesterday = charge(&store, &two_a_day(&store)).await;
    assert_eq!(yesterday.outcomes[0].remaining, 1, "one is left of 8 June");
    machine.runs(2 * HOUR);
    for _ in 0..2 {
        assert!(charge(&store, &two_a_day(&store)).await.admitted);
    }
    for back in [2 * HOUR, 40 * DAY] {
        machine.is_set_back(back);
        let denied = charge(&store, &two_a_day(&store)).await;
        assert!(!denied.admitted, "8 June is over");
        assert_eq!(denied.outcomes[0].wait_us, 23 * HOUR);
    }
    // Time goes on as the monotonic clock does, and the day ends when it would have.
    machine.runs(23 * HOUR - 1);
    let denied = charge(&store, &two_a_day(&store)).await;
    assert!(!denied.admitted);
    assert_eq!(denied.outcomes[0].wait_us, 1);
    machine.runs(1);
    assert!(charge(&store, &two_a_day(&store)).await.admitted);
    // The wall clock is right again: no day is skipped either.
    machine.sleeps(40 * DAY + 2 * HOUR);
    let second = charge(&store, &two_a_day(&store)).await;
    assert_eq!(second.outcomes[0].remaining, 0);
    assert_eq!(second.outcomes[0].wait_us, DAY);
}

#[tokio::test]
async fn a_wall_clock_that_is_set_back_gives_nothing_back() {
    for algorithm in Algorithm::ALL {
        let machine = Machine::at(MIDNIGHT);
        let store = memory(10, machine.clone());
        let two = batch(&[("k", limit(algorithm, 2), ENFORCED)]);
        for _ in 0..2 {
            assert!(charge(&store, &two).await.admitted);
        }
        let wait = charge(&store, &two).await.outcomes[0].wait_us;
        for back in [HOUR, 40 * DAY] {
            machine.is_set_back(back);
            let denied = charge(&store, &two).await;
            assert!(!denied.admitted, "{algorithm}");
            assert_eq!(denied.outcomes[0].wait_us, wait, "{algorithm}");
        }
        machine.runs(wait - 1);
        assert!(!charge(&store, &two).await.admitted, "{algorithm}");
        machine.runs(1);
        assert!(charge(&store, &two).await.admitted, "{algorithm}");
    }
}

#[tokio::test]
async fn memory_forgets_what_has_expired() {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000_000));
    let store = memory(10_000, clock.clone());
    for caller in 0..1_000 {
        store.charge_now(&batch(&[(
            &format!("k{caller}"),
            limit(Algorithm::SlidingWindow, 1),
            ENFORCED,
        )]));
    }
    assert_eq!(store.keys(), 1_000);
    for _ in 0..64 {
        store.sweep();
    }
    assert_eq!(store.keys(), 1_000, "nothing has expired yet");
    clock.advance(Duration::from_micros(HOUR));
    for _ in 0..64 {
        store.sweep();
    }
    assert_eq!(store.keys(), 0);
}

#[tokio::test]
async fn when_memory_is_full_new_callers_share_and_known_ones_stay() {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000_000));
    let overflows = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&overflows);
    let store = MemoryStore::new(
        10,
        clock.clone(),
        Box::new(move |key| {
            assert_eq!(key, "tollgate:{data}:overflow:fixed_window:3600s");
            seen.fetch_add(1, Ordering::Relaxed);
        }),
    );
    let ask = |caller: usize| {
        let key = format!("tollgate:{{data:header.x={caller}}}:fixed_window:3600s");
        store
            .charge_now(&batch(&[(
                &key,
                limit(Algorithm::FixedWindow, 3),
                ENFORCED,
            )]))
            .admitted
    };
    assert!((0..10).all(&ask), "ten callers fit");
    assert_eq!(overflows.load(Ordering::Relaxed), 0);
    let strangers = (100..200).filter(|caller| ask(*caller)).count();
    assert_eq!(strangers, 3, "all the others together have one limit");
    assert_eq!(overflows.load(Ordering::Relaxed), 100);
    assert!((0..10).all(&ask), "who is counted keeps its own counter");
    assert!(store.keys() <= 11);
    clock.advance(Duration::from_micros(HOUR));
    for _ in 0..64 {
        store.sweep();
    }
    assert!((300..310).all(&ask), "expired counters make room");
}

#[tokio::test]
async fn when_memory_is_full_no_caller_is_banned_for_the_denials_of_others() {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000_000));
    let store = memory(2, clock.clone());
    let ask = |caller: &str| store.charge_now(&with_ban(caller, 1, 2, ENFORCED));
    assert!(ask("a").admitted && ask("b").admitted);
    // New callers share a limit, but no ban.
    assert!(ask("c").admitted);
    for stranger in ["d", "e", "f", "g"] {
        let denied = ask(stranger);
        assert!(!denied.outcomes[0].allowed && denied.outcomes[1].allowed);
    }
    // Known callers are limited as before. There is no room to count their denials.
    for _ in 0..5 {
        let known = ask("a");
        assert!(!known.outcomes[0].allowed && known.outcomes[1].allowed);
    }
    assert!(store.keys() <= 4, "{}", store.keys());
    clock.advance(Duration::from_micros(HOUR));
    assert!(ask("g").admitted, "all of it ends");
}

/// The limits of a rule with a budget of one new counter per second: 60 can be saved.
fn with_budget(rule: &str, client: &str, amount: u64) -> Batch {
    let mut batch = Batch::default();
    for window in ["60s", "3600s"] {
        let limit = limit(Algorithm::FixedWindow, amount);
        batch.push(limit, 1, ENFORCED, |key| {
            write!(
                key,
                "tollgate:{{{rule}:client={client}}}:fixed_window:{window}"
            )
            .unwrap();
        });
    }
    batch.set_max_new_keys(0, 1);
    let ban = Ban::new(1, HOUR, HOUR).unwrap();
    batch.push_ban(ban, 2, ENFORCED, |key| {
        write!(key, "tollgate:{{{rule}:client={client}}}:ban").unwrap();
    });
    batch
}

#[tokio::test]
async fn whoever_invents_keys_shares_a_counter_and_known_clients_keep_theirs() {
    on_all(|store| async move {
        let store = &*store;
        let ask = async |client: &str| charge(store, &with_budget("data", client, 100)).await;
        // Two counters each.
        for n in 0..30 {
            let verdict = ask(&format!("early:{n}")).await;
            assert!(verdict.admitted && verdict.shared.is_empty(), "{n}");
        }
        // Others may come into being while this runs, one per second.
        let (mut shared, mut last) = (0, 100);
        for n in 0..60 {
            let verdict = ask(&format!("late:{n}")).await;
            assert!(verdict.admitted, "{n}");
            if verdict.shared == [0, 1] {
                shared += 1;
                let left = verdict.outcomes[0].remaining;
                assert!(left < last, "they share: {left} left of {last}");
                last = left;
            }
        }
        assert!(shared >= 20, "{shared}");
        let known = ask("early:0").await;
        assert_eq!(known.outcomes[0].remaining, 98);
        assert!(known.shared.is_empty());
        // A known client gets a counter for another limit.
        let mut known = with_budget("data", "early:2", 100);
        known.push(limit(Algorithm::FixedWindow, 5), 1, ENFORCED, |key| {
            key.push_str("tollgate:{data:client=early:2}:fixed_window:86400s");
        });
        known.set_max_new_keys(0, 1);
        let verdict = charge(store, &known).await;
        assert!(verdict.shared.is_empty());
        assert_eq!(verdict.outcomes[3].remaining, 4);
        // Counters of short windows cannot pile up.
        for n in 0..100 {
            let mut brief = Batch::default();
            let limit = Limit::new(Algorithm::FixedWindow, 5, 10_000_000, None).unwrap();
            brief.push(limit, 1, ENFORCED, |key| {
                write!(key, "tollgate:{{data:client=brief:{n}}}:fixed_window:10s").unwrap();
            });
            brief.set_max_new_keys(0, 1);
            assert!(charge(store, &brief).await.shared.is_empty());
        }
        // Another rule has a budget of its own.
        let other = charge(store, &with_budget("other", "new", 100)).await;
        assert!(other.shared.is_empty());

        // What the shared counter denies, it denies to all who share it, and bans nobody.
        let flood = with_budget("data", "flood", 60);
        while charge(store, &flood).await.admitted {}
        let reading = store.read(&flood).await.unwrap();
        if reading.shared == [0, 1] {
            let verdict = reading.verdict(&flood);
            assert!(!verdict.admitted, "{verdict:?}");
            assert_eq!(reading.states[2], None, "no ban has begun to count");
        }
        assert_eq!(ask("early:1").await.outcomes[0].remaining, 98);
    })
    .await;
}

#[tokio::test]
async fn a_denied_request_spends_no_budget() {
    on_both(|store| async move {
        for n in 0..100 {
            let mut denied = with_budget("data", &format!("denied:{n}"), 1);
            denied.push(limit(Algorithm::FixedWindow, 1), 2, ENFORCED, |key| {
                key.push_str("tollgate:{full:}:fixed_window:3600s");
            });
            assert!(!charge(&*store, &denied).await.admitted);
        }
        for n in 0..30 {
            let verdict = charge(&*store, &with_budget("data", &n.to_string(), 1)).await;
            assert!(verdict.admitted && verdict.shared.is_empty(), "{n}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_bounded_under_a_flood_of_keys() {
    let store = Arc::new(memory(1_000, Arc::new(SystemClock::new())));
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            for i in 0..5_000 {
                let key = format!("tollgate:{{r:header.x={task}-{i}}}:fixed_window:3600s");
                store.charge_now(&batch(&[(
                    &key,
                    limit(Algorithm::FixedWindow, 3),
                    ENFORCED,
                )]));
            }
        });
    }
    tasks.join_all().await;
    assert!(store.keys() <= 1_010, "{}", store.keys());
}

// === redis

#[tokio::test]
async fn every_key_in_redis_has_a_time_to_live() {
    let redis = Redis::start();
    let store = redis_store(&redis, 1).await;
    for algorithm in Algorithm::ALL {
        let key = format!("tollgate:{{data:client_ip=192.0.2.1}}:{algorithm}:3600s");
        charge(&store, &batch(&[(&key, limit(algorithm, 5), ENFORCED)])).await;
        let ttl: i64 = redis.cli(&["PTTL", &key]).parse().unwrap();
        // A token bucket of 5 an hour that lost one is full again after 12 minutes.
        let longest = if algorithm == Algorithm::TokenBucket {
            720_000
        } else {
            3_600_000
        };
        assert!(
            ttl > longest - 60_000 && ttl <= longest,
            "{algorithm}: {ttl}"
        );
    }
}

#[tokio::test]
async fn redis_decides_by_its_own_time() {
    let redis = Redis::start();
    let store = redis_store(&redis, 1).await;
    charge(
        &store,
        &batch(&[("k", limit(Algorithm::FixedWindow, 5), ENFORCED)]),
    )
    .await;
    let start: u64 = redis
        .cli(&["GET", "k"])
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let now: u64 = redis
        .cli(&["TIME"])
        .lines()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!((now - start / 1_000_000) < 60);
}

/// Replies that are late say nothing about the clock.
#[tokio::test]
async fn a_slow_way_to_redis_leaves_its_clock_beyond_doubt() {
    let redis = Redis::start();
    let to = (Ipv4Addr::LOCALHOST, redis.port());
    let mut proxy = FaultProxy::start(to.into()).await;
    let mut options = Options::parse(&format!("redis://{}", proxy.addr)).unwrap();
    options.answer_timeout = PATIENCE;
    let store = RedisStore::start(&options, Box::new(|_| {})).unwrap();
    assert!(store.connected_within(PATIENCE).await);
    let a = batch(&[(
        "tollgate:{a:}:sw",
        limit(Algorithm::SlidingWindow, 5),
        ENFORCED,
    )]);
    charge(&store, &a).await;
    let slow = Duration::from_millis(200);
    for delay in [slow, Duration::ZERO, slow] {
        proxy.set(Mode::Delay(delay, delay)).await;
        charge(&store, &a).await;
        assert!(!store.clock_is_in_doubt(Instant::now()), "{delay:?}");
    }
}

#[tokio::test]
async fn a_forgotten_script_is_loaded_again() {
    let redis = Redis::start();
    let store = redis_store(&redis, 1).await;
    let batch = batch(&[("k", limit(Algorithm::FixedWindow, 5), ENFORCED)]);
    charge(&store, &batch).await;
    redis.cli(&["SCRIPT", "FLUSH"]);
    assert_eq!(
        charge(&store, &batch).await.outcomes[0].remaining,
        3,
        "counted once, not twice"
    );
}

/// Waits until the store reaches Redis.
async fn until_it_charges(store: &RedisStore, batch: &Batch) {
    eventually("the store reaches redis", async || {
        let charged = store.charge(batch, Instant::now() + PATIENCE).await;
        charged.is_ok()
    })
    .await;
}

/// Waits until the store gives up at once.
async fn until_it_is_unavailable(store: &RedisStore, batch: &Batch) {
    eventually("the store notices that redis is down", async || {
        let charged = store.charge(batch, Instant::now() + PATIENCE).await;
        matches!(charged, Err(StoreError::Unavailable(_)))
    })
    .await;
}

#[tokio::test]
async fn a_missing_redis_is_reported_at_once_and_used_when_it_starts() {
    let mut redis = Redis::stopped();
    let mut options = Options::parse(&redis.url()).unwrap();
    options.lanes = 2;
    let store = RedisStore::start(&options, Box::new(|_| {})).unwrap();
    let batch = batch(&[("k", limit(Algorithm::FixedWindow, 5), ENFORCED)]);
    let error = store
        .charge(&batch, Instant::now() + PATIENCE)
        .await
        .unwrap_err();
    assert_eq!(error.kind().as_str(), "unavailable", "{error}");
    redis.resume_process();
    until_it_charges(&store, &batch).await;
    redis.kill();
    until_it_is_unavailable(&store, &batch).await;
    redis.resume_process();
    until_it_charges(&store, &batch).await;
}

#[tokio::test]
async fn a_hanging_redis_is_given_up_and_used_again_when_it_resumes() {
    let redis = Redis::start();
    let store = redis_store(&redis, 2).await;
    let batch = batch(&[("k", limit(Algorithm::FixedWindow, 1_000_000), ENFORCED)]);
    charge(&store, &batch).await;
    redis.pause();
    let error = store
        .charge(&batch, Instant::now() + PATIENCE)
        .await
        .unwrap_err();
    assert_eq!(error.kind().as_str(), "deadline", "{error}");
    until_it_is_unavailable(&store, &batch).await;
    redis.unpause();
    until_it_charges(&store, &batch).await;
}

#[tokio::test]
async fn a_check_that_is_past_its_deadline_is_not_charged() {
    let redis = Redis::start();
    let store = redis_store(&redis, 1).await;
    let batch = batch(&[("k", limit(Algorithm::FixedWindow, 5), ENFORCED)]);
    // No check waits for these any more when the lane reaches them.
    for _ in 0..3 {
        let late = store.charge(&batch, Instant::now());
        assert!(late.await.is_err());
    }
    assert_eq!(charge(&store, &batch).await.outcomes[0].remaining, 4);
}

#[tokio::test]
async fn redis_errors_are_reported_with_a_hint() {
    let redis = Redis::start();
    let store = redis_store(&redis, 1).await;
    redis.cli(&["RPUSH", "tollgate:{x:}:fixed_window:1s", "oops"]);
    let batch = batch(&[(
        "tollgate:{x:}:fixed_window:1s",
        limit(Algorithm::FixedWindow, 5),
        ENFORCED,
    )]);
    let error = store
        .charge(&batch, Instant::now() + PATIENCE)
        .await
        .unwrap_err();
    assert_eq!(error.kind().as_str(), "refused");
    assert!(
        error.to_string().contains("was not written by tollgate"),
        "{error}"
    );
}

/// With Redis hanging, only the first few checks wait for their deadline.
#[tokio::test]
async fn a_run_of_late_checks_ends_the_waiting_for_all() {
    let redis = Redis::start();
    let mut options = Options::parse(&redis.url()).unwrap();
    options.lanes = 2;
    // No lane gives its connection up during this test.
    options.answer_timeout = PATIENCE * 10;
    let changes: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&changes);
    let store = RedisStore::start(
        &options,
        Box::new(move |change| {
            let text = change.map_or_else(ToString::to_string, |()| "up".to_owned());
            log.lock().unwrap().push(text);
        }),
    )
    .unwrap();
    assert!(store.connected_within(PATIENCE).await);
    let batches: Vec<Batch> = (0..10)
        .map(|i| {
            batch(&[(
                &format!("k{i}"),
                limit(Algorithm::FixedWindow, 100),
                ENFORCED,
            )])
        })
        .collect();
    redis.pause();
    let mut kinds = Vec::new();
    for batch in &batches {
        let charging = store.charge(batch, Instant::now() + options.deadline);
        kinds.push(charging.await.unwrap_err().kind().as_str());
    }
    let expected = [["deadline"; 3].as_slice(), &["unavailable"; 7]].concat();
    assert_eq!(kinds, expected, "whichever lane they would have gone to");

    redis.unpause();
    eventually("the breaker closes", async || {
        let charging = store.charge(&batches[0], Instant::now() + PATIENCE);
        charging.await.is_ok()
    })
    .await;
    let changes = changes.lock().unwrap();
    assert!(
        changes.iter().any(|change| change.contains("hangs")),
        "{changes:?}"
    );
    assert_eq!(
        changes.last().map(String::as_str),
        Some("up"),
        "{changes:?}"
    );
}

/// A client whose proxy passes its headers on can choose how long a check may take.
#[tokio::test]
async fn a_check_with_less_time_says_nothing_about_redis() {
    let redis = Redis::start();
    let mut options = Options::parse(&redis.url()).unwrap();
    options.deadline = PATIENCE;
    options.answer_timeout = PATIENCE * 10;
    let store = RedisStore::start(&options, Box::new(|_| {})).unwrap();
    assert!(store.connected_within(PATIENCE).await);
    let batch = batch(&[("k", limit(Algorithm::FixedWindow, 100), ENFORCED)]);
    redis.pause();
    for _ in 0..10 {
        let soon = Instant::now() + Duration::from_millis(10);
        let error = store.charge(&batch, soon).await.unwrap_err();
        assert_eq!(error.kind().as_str(), "deadline");
    }
    redis.unpause();
    charge(&store, &batch).await;
}
