//! Leases: what is charged ahead, over a model of a store whose clock is moved.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use proptest::{prelude::*, test_runner::TestRunner};
use tokio::time::Instant;
use tollgate::{
    clock::{Clock as _, ManualClock},
    engine::Options,
    limit::{Limit, State},
    store::{
        Ahead, Batch, ChargeResult, ChargedAhead, Charging, ChargingAhead, GivingBack, Store,
        StoreError, Unused,
        read::{Read, Reads},
    },
};

use crate::support::world::{Ask, GET, World, compile, get};

const START: u64 = 1_700_000_000_000_000;
const SECOND: u64 = 1_000_000;

/// A store that can be charged ahead: the arithmetic of limits, and giving back as the script does.
#[derive(Default)]
struct Model {
    clock: ManualClock,
    counters: Mutex<HashMap<String, (State, u64)>>,
    /// What each counter was charged, less what was given back, whether or not it still counts.
    charged: Mutex<HashMap<String, u64>>,
    /// The windows of each counter with fixed ones.
    windows: Mutex<HashMap<String, BTreeSet<u64>>>,
    asked: AtomicU64,
    given_back: AtomicU64,
    /// How long a reply to a charge ahead takes.
    delay: Mutex<Duration>,
    is_away: Mutex<bool>,
}

impl Model {
    fn new() -> Arc<Self> {
        let model = Self::default();
        model.clock.set(START);
        Arc::new(model)
    }

    fn charge_now(&self, batch: &Batch) -> ChargeResult {
        let now = self.clock.now_us();
        let mut counters = self.counters.lock().unwrap();
        let mut steps = Vec::new();
        for charge in batch.charges() {
            let stored = counters.get(batch.key(charge));
            let stored = stored.filter(|(_, expires)| *expires > now);
            let state = stored.map(|(state, _)| state.clone());
            steps.push(charge.limit().unwrap().step(state, now, charge.cost));
        }
        let admitted = steps.iter().all(|step| step.outcome.allowed);
        let outcomes = steps.iter().map(|step| step.outcome).collect();
        for (charge, step) in batch.charges().iter().zip(steps) {
            if !admitted {
                break;
            }
            let key = batch.key(charge).to_owned();
            if let State::FixedWindow(state) = &step.state {
                let mut windows = self.windows.lock().unwrap();
                windows
                    .entry(key.clone())
                    .or_default()
                    .insert(state.start_us);
            }
            *self.charged.lock().unwrap().entry(key.clone()).or_default() += charge.cost;
            counters.insert(key, (step.state, step.expires_us));
        }
        ChargeResult {
            admitted,
            outcomes,
            shared: Vec::new(),
        }
    }

    fn take_back(&self, batch: &Batch, unused: &Unused) {
        let now = self.clock.now_us();
        let mut counters = self.counters.lock().unwrap();
        self.given_back
            .fetch_add(unused.copies.into(), Ordering::Relaxed);
        for (place, charge) in batch.charges().iter().enumerate() {
            let (key, limit) = (batch.key(charge), charge.limit().unwrap());
            let cost = charge.cost * u64::from(unused.copies);
            *self.charged.lock().unwrap().get_mut(key).unwrap() -= cost;
            if let Some((state, expires)) = counters.get_mut(key)
                && *expires > now
            {
                let before = unused.used_before(place, limit, charge.cost);
                take_back(state, limit, cost, before, (unused.charged_us, now));
            }
        }
    }

    /// How much of the counters whose keys contain all of `words` was charged, and not given back.
    fn charged(&self, words: &[&str]) -> u64 {
        let charged = self.charged.lock().unwrap();
        let meant = charged
            .iter()
            .filter(|(key, _)| words.iter().all(|word| key.contains(word)));
        meant.map(|(_, charged)| charged).sum()
    }
}

/// As `give_back.lua`.
fn take_back(state: &mut State, limit: &Limit, cost: u64, before: u64, (then, now): (u64, u64)) {
    let signed = cost.cast_signed();
    match state {
        State::FixedWindow(state) if state.start_us <= then => {
            state.count = (state.count - signed).max(0);
        }
        State::SlidingWindow(state) => {
            for span in [&mut state.current, &mut state.previous] {
                if span.start_us <= then && then <= span.last_us {
                    span.count = (span.count - signed).max(0);
                    break;
                }
            }
        }
        State::SlidingLog(state) => {
            let mut left = signed;
            for entry in &mut state.entries {
                if entry.at_us == then {
                    let taken = left.min(entry.cost);
                    entry.cost -= taken;
                    left -= taken;
                }
            }
            state.entries.retain(|entry| entry.cost > 0);
            state.total -= signed - left;
        }
        State::TokenBucket(state) if state.since_us <= then => {
            let rate = limit.rate();
            let filling = before.saturating_sub(1) * rate.period_us / rate.tokens;
            let full = (now - then).saturating_sub(filling);
            if full * rate.tokens < cost * rate.period_us {
                state.used = (state.used - signed).max(0);
                state.since_us += full;
            }
        }
        _ => {}
    }
}

fn away() -> StoreError {
    StoreError::Unavailable("test".to_owned())
}

/// A replica's way to the model.
struct Replica(Arc<Model>);

impl Read for Replica {
    fn read<'a>(&'a self, _: &'a Batch) -> Reads<'a> {
        Box::pin(async { Err(away()) })
    }
}

impl Store for Replica {
    fn charge<'a>(&'a self, batch: &'a Batch, _: Instant) -> Charging<'a> {
        self.0.asked.fetch_add(1, Ordering::Relaxed);
        if *self.0.is_away.lock().unwrap() {
            return Charging::known(Err(away()));
        }
        Charging::known(Ok(self.0.charge_now(batch).into()))
    }

    fn now_us(&self) -> u64 {
        self.0.clock.now_us()
    }

    fn ahead(&self) -> Option<&dyn Ahead> {
        Some(self)
    }

    fn name(&self) -> &'static str {
        "model"
    }
}

impl Ahead for Replica {
    fn charge_ahead<'a>(&'a self, batch: &'a Batch, times: u32, _: Instant) -> ChargingAhead<'a> {
        self.0.asked.fetch_add(1, Ordering::Relaxed);
        if *self.0.is_away.lock().unwrap() {
            return Box::pin(async { Err(away()) });
        }
        let mut granted = 0;
        let mut result = self.0.charge_now(batch);
        while result.admitted {
            granted += 1;
            if granted == times {
                break;
            }
            let next = self.0.charge_now(batch);
            if !next.admitted {
                break;
            }
            result = next;
        }
        let charged = ChargedAhead {
            answer: result.into(),
            granted,
            charged_us: self.0.clock.now_us(),
        };
        let delay = *self.0.delay.lock().unwrap();
        Box::pin(async move {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            Ok(charged)
        })
    }

    fn replicas(&self) -> Option<u64> {
        Some(1)
    }

    fn give_back(&self, batch: &Batch, unused: &Unused) -> Vec<GivingBack> {
        let (model, batch, unused) = (Arc::clone(&self.0), batch.clone(), unused.clone());
        vec![Box::pin(async move { model.take_back(&batch, &unused) })]
    }
}

fn replica(yaml: &str, model: &Arc<Model>, replicas: u64) -> World {
    let options = Options {
        replicas,
        remember_denials: true,
        ..Options::default()
    };
    World::build_as(yaml, options, |_| Arc::new(Replica(Arc::clone(model))))
}

/// Lets what was begun in tasks of their own end.
async fn settle() {
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
}

async fn pass(model: &Model, by: Duration) {
    tokio::time::advance(by).await;
    model.clock.advance(by);
}

const RULES: &str = "
version: 1
rules:
  - { name: fixed, match: { path: /fixed }, key: client_ip, limit: 40/2s, algorithm: fixed_window,
      cost: { header: x-cost, max: 5 }, lease: { share: 50%, ttl: 700ms } }
  - { name: all, match: { path: /both }, limit: 60/2s, algorithm: fixed_window,
      lease: { share: 40%, ttl: 1s } }
  - { name: each, match: { path: /both }, key: client_ip, limit: 40/1s, algorithm: fixed_window,
      lease: { share: 50%, ttl: 700ms } }
  - { name: sliding, match: { path: /sliding }, key: client_ip, limit: 40/2s,
      lease: { share: 50%, ttl: 700ms } }
  - { name: log, match: { path: /log }, key: client_ip, limit: 40/2s, algorithm: sliding_log,
      lease: { share: 50%, ttl: 700ms } }
  - { name: bucket, match: { path: /bucket }, key: client_ip, lease: { share: 50%, ttl: 700ms },
      limit: { rate: 20/s, burst: 30, algorithm: token_bucket } }
";

/// A rule that counts, and what both replicas together may hold.
type Counting = (&'static str, u64);

/// The paths, with the rules that count them.
const PATHS: [(&str, &[Counting]); 5] = [
    ("/fixed", &[("fixed", 20)]),
    ("/both", &[("all", 24), ("each", 20)]),
    ("/sliding", &[("sliding", 20)]),
    ("/log", &[("log", 20)]),
    ("/bucket", &[("bucket", 10)]),
];

#[derive(Debug, Clone)]
struct Burst {
    after: Duration,
    replica: usize,
    client: &'static str,
    cost: u64,
    count: usize,
    /// Whether leases that are over are looked for before.
    sweeps: bool,
}

fn bursts() -> impl Strategy<Value = (usize, Vec<Burst>)> {
    let after = prop_oneof![
        4 => 0_u64..50_000,
        3 => 50_000_u64..800_000,
        1 => 800_000_u64..2_500_000,
        1 => prop::sample::select(vec![699_999_u64, 700_000, 1_000_000, 2_000_000]),
    ];
    let client = prop::sample::select(&["192.0.2.1", "192.0.2.2"][..]);
    let cost = prop_oneof![3 => Just(1_u64), 1 => 2_u64..6];
    let burst = (after, 0..2_usize, client, cost, 1..30_usize, any::<bool>()).prop_map(
        |(after, replica, client, cost, count, sweeps)| Burst {
            after: Duration::from_micros(after),
            replica,
            client,
            cost,
            count,
            sweeps,
        },
    );
    (0..PATHS.len(), prop::collection::vec(burst, 1..40))
}

/// A request that was admitted: when, whose, and what it costs.
struct Admitted {
    at_us: u64,
    client: &'static str,
    cost: u64,
}

/// No span holds more than the algorithm promises, and what could be held at its beginning.
fn check_bounds(path: &str, model: &Model, admitted: &[Admitted]) {
    for first in admitted {
        let at = first.at_us;
        let own = admitted.iter().filter(|one| one.client == first.client);
        let sum_until = |to: u64| -> u64 {
            let inside = own.clone().filter(|one| (at..to).contains(&one.at_us));
            inside.map(|one| one.cost).sum()
        };
        match path {
            "/log" => assert!(sum_until(at + 2 * SECOND) <= 40 + 20),
            // Two windows can meet in a span, as without leases.
            "/sliding" => assert!(sum_until(at + 2 * SECOND) < 2 * 40 + 20),
            "/bucket" => {
                for last in own.clone().filter(|last| last.at_us >= at) {
                    let flown = (last.at_us - at) * 20 / SECOND;
                    assert!(sum_until(last.at_us + 1) <= 30 + flown + 1 + 10);
                }
            }
            _ => {}
        }
    }
    // Fixed windows: exactly, by the windows that the store had.
    for (key, starts) in &*model.windows.lock().unwrap() {
        let (limit, window) = match key {
            _ if key.contains("{all") => (60, 2 * SECOND),
            _ if key.contains("{each") => (40, SECOND),
            _ => (40, 2 * SECOND),
        };
        let mut sums: HashMap<u64, u64> = HashMap::new();
        let is_meant = |one: &&Admitted| key.contains("{all") || key.contains(one.client);
        for one in admitted.iter().filter(is_meant) {
            let start = *starts.range(..=one.at_us).next_back().unwrap();
            assert!(one.at_us < start + window, "admitted between windows");
            *sums.entry(start).or_default() += one.cost;
        }
        assert!(sums.values().all(|sum| *sum <= limit), "{key} {sums:?}");
    }
}

async fn run((path, counting): (&str, &[Counting]), bursts: &[Burst]) -> (u64, u64) {
    let model = Model::new();
    let replicas = [replica(RULES, &model, 2), replica(RULES, &model, 2)];
    let mut admitted: Vec<Admitted> = Vec::new();
    // What each client has used.
    let mut used: HashMap<&str, u64> = HashMap::new();
    for burst in bursts {
        pass(&model, burst.after).await;
        let world = &replicas[burst.replica];
        if burst.sweeps {
            world.engine.sweep_leases(Instant::now());
            settle().await;
        }
        let cost = if path == "/fixed" { burst.cost } else { 1 };
        let text = cost.to_string();
        for _ in 0..burst.count {
            let headers = [("x-cost", text.as_str())];
            let ask = Ask {
                target: path,
                ip: Some(burst.client),
                headers: &headers,
                ..GET
            };
            if world.admits(ask).await {
                *used.entry(burst.client).or_default() += cost;
                admitted.push(Admitted {
                    at_us: model.clock.now_us(),
                    client: burst.client,
                    cost,
                });
            }
            settle().await;
            // What is charged and not used is within the share, whatever clients choose.
            for &(rule, share) in counting {
                let rule_start = format!("{{{rule}:");
                let (client, used) = if rule == "all" {
                    ("", used.values().sum())
                } else {
                    let used = used.get(burst.client).copied();
                    (burst.client, used.unwrap_or(0))
                };
                let charged = model.charged(&[&rule_start, client]);
                assert!(
                    (used..=used + share).contains(&charged),
                    "{rule} {client}: {charged} charged, {used} used"
                );
            }
        }
    }
    // In the end, all that was not used is given back.
    pass(&model, Duration::from_secs(1)).await;
    for world in &replicas {
        world.engine.sweep_leases(Instant::now());
    }
    settle().await;
    let used: u64 = admitted.iter().map(|one| one.cost).sum();
    for (rule, _) in counting {
        assert_eq!(model.charged(&[&format!("{{{rule}:")]), used, "{rule}");
    }
    check_bounds(path, &model, &admitted);
    let spared = replicas
        .iter()
        .map(|world| world.metric("tollgate_lease_admissions_total"))
        .sum();
    (spared, model.given_back.load(Ordering::Relaxed))
}

fn paused(test: impl Future) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(test);
}

#[test]
fn no_more_is_admitted_than_the_limit_and_what_may_be_held() {
    let config = ProptestConfig {
        cases: 200,
        ..ProptestConfig::default()
    };
    let seen: [AtomicU64; 2] = Default::default();
    TestRunner::new(config)
        .run(&bursts(), |(path, bursts)| {
            paused(async {
                let (spared, given_back) = run(PATHS[path], &bursts).await;
                seen[0].fetch_add(spared, Ordering::Relaxed);
                seen[1].fetch_add(given_back, Ordering::Relaxed);
            });
            Ok(())
        })
        .unwrap();
    let [spared, given_back] = seen.map(AtomicU64::into_inner);
    assert!(
        spared > 1_000 && given_back > 1_000,
        "{spared} {given_back}"
    );
}

/// The only replica: what it holds, it uses or gives back before anybody else asks.
#[test]
fn fixed_windows_decide_as_without_leases() {
    let config = ProptestConfig {
        cases: 200,
        ..ProptestConfig::default()
    };
    let plain_rules = regex::Regex::new(r"lease: \{[^}]*\}").unwrap();
    let plain_rules = plain_rules.replace_all(RULES, "mode: enforce");
    TestRunner::new(config)
        .run(&bursts(), |(_, bursts)| {
            paused(async {
                let (model, plain_model) = (Model::new(), Model::new());
                let leased = replica(RULES, &model, 1);
                let plain = replica(&plain_rules, &plain_model, 1);
                for burst in &bursts {
                    pass(&model, burst.after).await;
                    plain_model.clock.advance(burst.after);
                    leased.engine.sweep_leases(Instant::now());
                    settle().await;
                    for _ in 0..burst.count {
                        let ask = Ask {
                            ip: Some(burst.client),
                            ..get("/fixed")
                        };
                        let (decision, expected) =
                            (leased.ask(ask.clone()).await, plain.ask(ask).await);
                        assert_eq!(decision, expected);
                        settle().await;
                    }
                }
            });
            Ok(())
        })
        .unwrap();
}

const HOT: &str = "
version: 1
rules:
  - { name: hot, match: { path: /hot }, key: client_ip, limit: 1000/day,
      lease: { share: 10%, ttl: 100ms } }
  - { name: beside, match: { path: /hot/plain }, key: client_ip, limit: 1000/day }
  - { name: tried, match: { path: /hot/tried }, key: client_ip, limit: 900/day, mode: shadow,
      lease: { share: 10%, ttl: 100ms } }
";

#[tokio::test(start_paused = true)]
async fn only_a_hot_caller_is_charged_ahead() {
    let model = Model::new();
    let world = replica(HOT, &model, 1);
    let asked = || model.asked.swap(0, Ordering::Relaxed);
    // A request in each lifetime of a lease.
    for _ in 0..20 {
        assert!(world.admits(get("/hot")).await);
        pass(&model, Duration::from_millis(100)).await;
    }
    assert_eq!((asked(), model.charged(&["{hot:"])), (20, 20));
    // Each lease is as long as what came before it.
    assert_eq!(world.admitted(400, get("/hot")).await, 400);
    let calls = asked();
    assert!(calls <= 16, "{calls}");
    assert!(model.charged(&["{hot:"]) <= 420 + 100);
    assert_eq!(world.metric("tollgate_lease_admissions_total"), 400 - calls);
    // What is left is said to be left.
    let decision = world.ask(get("/hot")).await;
    assert_eq!(decision.quotas[0].remaining, 1_000 - 421);
    // It is given back when its time is over.
    pass(&model, Duration::from_millis(100)).await;
    world.engine.sweep_leases(Instant::now());
    settle().await;
    assert_eq!(model.charged(&["{hot:"]), 421);
    let granted = world.metric("tollgate_lease_grants_total");
    let returned = world.metric("tollgate_lease_grants_returned_total");
    assert_eq!(
        granted - returned,
        world.metric("tollgate_lease_admissions_total")
    );
}

/// What is held for an hour of the calendar is not used in the next one.
#[tokio::test(start_paused = true)]
async fn a_lease_ends_with_its_window_of_the_calendar() {
    const RULE: &str = "
version: 1
rules:
  - { name: hour, limit: { rate: 100/hour, align: calendar, timezone: UTC },
      lease: { share: 50%, ttl: 1s } }
";
    let model = Model::new();
    let hour = 3_600 * SECOND;
    let until_then = hour - START % hour - 300_000;
    pass(&model, Duration::from_micros(until_then)).await;
    let world = replica(RULE, &model, 1);
    let mut used = 0;
    while model.charged(&["{hour:"]) < used + 10 {
        assert!(world.admits(GET).await);
        used += 1;
    }
    let asked = || model.asked.load(Ordering::Relaxed);
    let before = asked();
    pass(&model, Duration::from_micros(299_999)).await;
    assert!(world.admits(GET).await);
    assert_eq!(asked(), before, "the window has not ended");
    pass(&model, Duration::from_micros(1)).await;
    let decision = world.ask(GET).await;
    assert_eq!(asked(), before + 1);
    assert_eq!(decision.quotas[0].remaining, 99);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_others_count_too_asks_the_store() {
    let rules = HOT.replace("path: /hot }", "path: /hot/** }");
    for path in ["/hot/plain", "/hot/tried"] {
        let model = Model::new();
        let world = replica(&rules, &model, 1);
        assert_eq!(world.admitted(50, get(path)).await, 50);
        assert_eq!(model.asked.load(Ordering::Relaxed), 50, "{path}");
        assert_eq!(world.metric("tollgate_lease_admissions_total"), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn changed_rules_and_the_end_give_back_what_is_held() {
    let model = Model::new();
    let world = replica(HOT, &model, 1);
    assert_eq!(world.admitted(50, get("/hot")).await, 50);
    assert!(model.charged(&["{hot:"]) > 50);
    // The same rules in another order: the old lease is over all the same.
    model.asked.store(0, Ordering::Relaxed);
    world.engine.replace(compile(HOT));
    assert!(world.admits(get("/hot")).await);
    assert_eq!(model.asked.load(Ordering::Relaxed), 1);
    pass(&model, Duration::from_millis(1)).await;
    world
        .engine
        .replace(compile(&HOT.replace("1000/day", "51/day")));
    world.engine.sweep_leases(Instant::now());
    settle().await;
    assert_eq!(model.charged(&["{hot:"]), 51);
    assert!(!world.admits(get("/hot")).await);

    world.engine.replace(compile(HOT));
    assert_eq!(world.admitted(50, get("/hot")).await, 50);
    assert!(model.charged(&["{hot:"]) > 101);
    world
        .engine
        .end_leases(Instant::now() + Duration::from_secs(1))
        .await;
    assert_eq!(model.charged(&["{hot:"]), 101);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_is_broken_off_loses_no_more_than_itself() {
    let model = Model::new();
    let world = replica(HOT, &model, 1);
    assert_eq!(world.admitted(3, get("/hot")).await, 3);
    *model.delay.lock().unwrap() = Duration::from_millis(20);
    let broken_off = tokio::time::timeout(Duration::from_millis(10), world.ask(get("/hot")));
    assert!(broken_off.await.is_err());
    // It was the fourth, and fetched three. While they are on their way, others ask as ever.
    assert_eq!(model.asked.swap(0, Ordering::Relaxed), 4);
    assert_eq!(world.admitted(2, get("/hot")).await, 2);
    assert_eq!(model.asked.swap(0, Ordering::Relaxed), 2);
    tokio::time::sleep(Duration::from_millis(15)).await;
    assert_eq!(world.admitted(2, get("/hot")).await, 2);
    assert_eq!(model.asked.load(Ordering::Relaxed), 0);
    assert_eq!(model.charged(&["{hot:"]), 3 + 3 + 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_granted_too_late_stays_charged_and_another_fetch_follows() {
    let model = Model::new();
    let world = replica(&HOT.replace("1000/day", "999/day"), &model, 1);
    assert_eq!(world.admitted(3, get("/hot")).await, 3);
    // Longer than a check waits.
    *model.delay.lock().unwrap() = Duration::from_millis(60);
    assert!(world.admits(get("/hot")).await, "as on_store_error says");
    assert_eq!(world.decisions("hot", "fallback_allowed"), 1);
    *model.delay.lock().unwrap() = Duration::ZERO;
    assert_eq!(world.admitted(30, get("/hot")).await, 30);
    assert_eq!(model.charged(&["{hot:"]), 3 + 3 + 30, "none is held yet");
    pass(&model, Duration::from_millis(100)).await;
    assert_eq!(world.admitted(30, get("/hot")).await, 30);
    assert!(world.metric("tollgate_lease_admissions_total") > 20);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_held_is_used_while_the_store_is_away() {
    let model = Model::new();
    let rules = HOT.replace("lease:", "on_store_error: deny, lease:");
    let world = replica(&rules, &model, 1);
    let mut used = 0;
    while model.charged(&["{hot:"]) < used + 6 {
        assert!(world.admits(get("/hot")).await);
        used += 1;
    }
    let held = model.charged(&["{hot:"]) - used;
    *model.is_away.lock().unwrap() = true;
    let admitted = world.admitted(100, get("/hot")).await;
    assert_eq!(u64::try_from(admitted).unwrap(), held);
    assert_eq!(model.charged(&["{hot:"]), used + held);
}
