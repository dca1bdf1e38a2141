//! The Lua in Redis and the Rust in memory are one arithmetic: driven with the same limits, costs and times on a real
//! Redis, they give the same answers, store the same text and keep it for the same time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use proptest::{prelude::*, test_runner::TestRunner};
use redis::Value;
use support::{redis::Redis, script::Scripted};
use tollgate::{
    limit::{
        Algorithm, Limit, MAX_AMOUNT, MAX_WINDOW_US, Outcome, State,
        ban::Ban,
        calendar::{Calendar, Edges, Period},
        sliding_log::MAX_LOG,
    },
    store::{BAN_SUFFIX, Batch, ENFORCED, StoreError, Verdict, redis::script},
};

const START: u64 = 1_700_000_000_000_000;

fn amount() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 1_u64..20, 2 => 1_u64..100_000, 1 => MAX_AMOUNT - 10..=MAX_AMOUNT]
}

fn window() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => prop::sample::select(vec![1_000_000_u64, 60_000_000, 3_600_000_000, 86_400_000_000]),
        2 => 1_000_u64..10_000_000,
        1 => MAX_WINDOW_US - 1_000..=MAX_WINDOW_US,
    ]
}

fn limit() -> impl Strategy<Value = Limit> {
    (
        prop::sample::select(Algorithm::ALL.to_vec()),
        amount(),
        window(),
        prop::option::of(amount()),
    )
        .prop_filter_map(
            "a burst that never refills",
            |(algorithm, amount, window, burst)| {
                let most = if algorithm == Algorithm::SlidingLog {
                    MAX_LOG
                } else {
                    MAX_AMOUNT
                };
                Limit::new(algorithm, amount.min(most), window, burst).ok()
            },
        )
}

/// The windows of a limit that does not begin them with a request.
#[derive(Debug, Clone)]
enum Windows {
    Calendar(Calendar),
    /// So many microseconds each, since the epoch.
    Even(u64),
}

impl Windows {
    fn edges(&self, now: u64) -> Edges {
        match self {
            Self::Calendar(calendar) => calendar.edges(now),
            Self::Even(length) => {
                let begin = now - now % length;
                Edges::new(
                    [-1, 0, 1, 2].map(|n: i64| {
                        begin.saturating_add_signed(n * i64::try_from(*length).unwrap())
                    }),
                )
                .unwrap()
            }
        }
    }
}

/// A limit, and its windows if a calendar gives them.
#[derive(Debug, Clone)]
struct Counter {
    limit: Limit,
    windows: Option<Windows>,
}

impl Counter {
    /// The limit as it stands at `now`.
    fn at(&self, now: u64) -> Limit {
        match &self.windows {
            Some(windows) => self.limit.aligned(windows.edges(now)),
            None => self.limit,
        }
    }
}

fn counter() -> impl Strategy<Value = Counter> {
    let begun = limit().prop_map(|limit| Counter {
        limit,
        windows: None,
    });
    let calendar = (
        prop::sample::select(Period::ALL.to_vec()),
        prop::sample::select(vec!["UTC", "Europe/Paris", "Australia/Lord_Howe"]),
    )
        .prop_map(|(period, zone)| {
            let calendar = Calendar::new(period, zone).unwrap();
            (Windows::Calendar(calendar), period.usual_us())
        });
    let even = window().prop_map(|length| (Windows::Even(length), length));
    let aligned =
        (amount(), prop_oneof![calendar, even]).prop_map(|(amount, (windows, usual))| Counter {
            limit: Limit::new(Algorithm::FixedWindow, amount, usual, None).unwrap(),
            windows: Some(windows),
        });
    prop_oneof![5 => begun, 2 => aligned]
}

/// A ban on those whom some of the limits before it deny.
fn ban() -> impl Strategy<Value = (Ban, usize)> {
    let after = prop_oneof![3 => 1_u64..4, 1 => 1_u64..20];
    (after, window(), window(), 0_usize..4).prop_map(|(after, within, duration, span)| {
        (Ban::new(after, within, duration).unwrap(), span)
    })
}

/// A rule: its limits, its ban if it has one, and its group.
#[derive(Debug, Clone)]
struct Rule {
    counters: Vec<Counter>,
    ban: Option<(Ban, usize)>,
    group: u32,
}

fn rule() -> impl Strategy<Value = Rule> {
    (
        prop::collection::vec(counter(), 1..3),
        prop::option::of(ban()),
        prop_oneof![3 => Just(ENFORCED), 1 => 1_u32..3],
    )
        .prop_map(|(counters, ban, group)| Rule {
            ban: ban.map(|(ban, span)| (ban, span.min(counters.len()))),
            counters,
            group,
        })
}

/// How the clock moves before a request.
#[derive(Debug, Clone, Copy)]
enum Movement {
    /// By a share of the longest window, in millionths; it may go back.
    Share(i64),
    /// To the instant that the last answer of a limit or a ban promised, or one microsecond beside it: where the comparisons turn.
    Promised { charge: usize, beside: i64 },
}

fn movement() -> impl Strategy<Value = Movement> {
    let promised = (0_usize..6, -1_i64..=1);
    prop_oneof![
        5 => Just(Movement::Share(0)),
        6 => (0_i64..100_000).prop_map(Movement::Share),
        2 => (0_i64..2_500_000).prop_map(Movement::Share),
        1 => (-500_000_i64..0).prop_map(Movement::Share),
        5 => promised.prop_map(|(charge, beside)| Movement::Promised { charge, beside }),
    ]
}

/// One request.
#[derive(Debug, Clone, Copy)]
struct Request {
    movement: Movement,
    /// A share of the burst, in thousandths; 0 is a cost of one.
    cost: u64,
    /// Whether the edges are those of the request before it.
    is_late: bool,
}

#[derive(Debug, Clone)]
struct Scenario {
    rules: Vec<Rule>,
    requests: Vec<Request>,
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let cost = prop_oneof![3 => Just(0_u64), 2 => 0_u64..1_100];
    let request =
        (movement(), cost, prop::bool::weighted(0.1)).prop_map(|(movement, cost, is_late)| {
            Request {
                movement,
                cost,
                is_late,
            }
        });
    (
        prop::collection::vec(rule(), 1..4),
        prop::collection::vec(request, 1..40),
    )
        .prop_map(|(rules, requests)| Scenario { rules, requests })
}

/// One entry of a batch.
#[derive(Debug, Clone, Copy)]
enum Charge {
    Limit(Limit, u64),
    /// For so many entries before it.
    Ban(Ban, usize),
}

/// The entries of a request whose rules have the limits of `now`, each with its group.
fn charges(rules: &[Rule], now: u64, share: u64) -> Vec<(Charge, u32)> {
    let mut out = Vec::new();
    for rule in rules {
        for counter in &rule.counters {
            let cost = (counter.limit.burst() * share / 1_000).clamp(1, MAX_AMOUNT);
            out.push((Charge::Limit(counter.at(now), cost), rule.group));
        }
        if let Some((ban, span)) = rule.ban {
            out.push((Charge::Ban(ban, span), rule.group));
        }
    }
    out
}

/// What the Rust arithmetic says, kept as a store would.
#[derive(Default)]
struct Model {
    states: Vec<Option<(State, u64)>>,
}

impl Model {
    fn charge(&mut self, now: u64, charges: &[(Charge, u32)]) -> Result<Verdict, StoreError> {
        let covers = |charge: &Charge| match charge {
            Charge::Limit(limit, _) => limit.covers(now),
            Charge::Ban(..) => true,
        };
        if !charges.iter().all(|(charge, _)| covers(charge)) {
            return Err(StoreError::Clock);
        }
        self.states.resize(charges.len(), None);
        let mut outcomes: Vec<Outcome> = Vec::new();
        let mut next = Vec::new();
        for (i, (charge, _)) in charges.iter().enumerate() {
            let state = self.states[i].clone().map(|(state, _)| state);
            match charge {
                Charge::Limit(limit, cost) => {
                    let step = limit.step(state, now, *cost);
                    outcomes.push(step.outcome);
                    next.push(Some((step.state, step.expires_us)));
                }
                Charge::Ban(ban, span) => {
                    let state = match state {
                        Some(State::Ban(state)) => Some(state),
                        _ => None,
                    };
                    let fit = outcomes[i - span..].iter().all(|o| o.allowed);
                    let step = ban.step(state, now, fit);
                    outcomes.push(step.outcome);
                    next.push(step.write.map(|(state, at)| (State::Ban(state), at)));
                }
            }
        }
        let denied: Vec<u32> = charges
            .iter()
            .zip(&outcomes)
            .filter(|(_, outcome)| !outcome.allowed)
            .map(|((_, group), _)| *group)
            .collect();
        let admitted = !denied.contains(&ENFORCED);
        for (i, (charge, group)) in charges.iter().enumerate() {
            let is_charged = match charge {
                Charge::Limit(..) => admitted && !denied.contains(group),
                Charge::Ban(..) => true,
            };
            if is_charged && let Some((state, expires)) = next[i].take() {
                let ttl = (expires - now).div_ceil(1_000).max(1);
                self.states[i] = Some((state, ttl));
            }
        }
        Ok(Verdict { admitted, outcomes })
    }
}

fn compare(redis: &Scripted, number: u64, scenario: &Scenario) -> Result<(), TestCaseError> {
    let key = |i: usize, charge: &Charge| {
        let suffix = match charge {
            Charge::Limit(..) => "",
            Charge::Ban(..) => BAN_SUFFIX,
        };
        format!("tollgate:{{differential:{number}}}:{i}{suffix}")
    };
    let mut model = Model::default();
    let limits = scenario.rules.iter().flat_map(|rule| &rule.counters);
    let longest = limits
        .map(|counter| counter.limit.window_us())
        .max()
        .unwrap_or(1);
    let (mut now, mut before) = (START, START);
    let mut waits = vec![longest];
    for request in &scenario.requests {
        let by = match request.movement {
            Movement::Share(share) => i128::from(share) * i128::from(longest) / 1_000_000,
            Movement::Promised { charge, beside } => {
                i128::from(waits[charge % waits.len()]) + i128::from(beside)
            }
        };
        now = now.saturating_add_signed(i64::try_from(by).unwrap());
        let known = if request.is_late { before } else { now };
        before = now;
        let charges = charges(&scenario.rules, known, request.cost);
        let mut batch = Batch::default();
        for (i, (charge, group)) in charges.iter().enumerate() {
            let write = |out: &mut String| out.push_str(&key(i, charge));
            match charge {
                Charge::Limit(limit, cost) => batch.push(*limit, *cost, *group, write),
                Charge::Ban(ban, span) => batch.push_ban(*ban, *span, *group, write),
            }
        }
        let answer = redis.charge(&batch, now);
        let expected = model.charge(now, &charges);
        prop_assert_eq!(answer.now_us, now);
        prop_assert_eq!(&answer.verdict, &expected, "at {}: {:?}", now, charges);
        if let Ok(verdict) = answer.verdict {
            waits = verdict.outcomes.iter().map(|o| o.wait_us).collect();
        }
        for (i, (charge, _)) in charges.iter().enumerate() {
            let state = model.states.get(i).cloned().flatten();
            let expected = state.map(|(state, ttl)| (state.to_string(), ttl));
            prop_assert_eq!(
                redis.stored(&key(i, charge)),
                expected,
                "at {}: {:?}",
                now,
                charge
            );
        }
    }
    Ok(())
}

#[test]
fn lua_and_rust_agree_to_the_bit() {
    let redis = Scripted::start();
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 600,
        ..ProptestConfig::default()
    });
    let number = std::cell::Cell::new(0);
    let result = runner.run(&scenario(), |scenario| {
        number.set(number.get() + 1);
        compare(&redis, number.get(), &scenario)
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn a_counter_that_tollgate_did_not_write_is_an_error_and_not_a_free_pass() {
    let redis = Redis::start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = runtime
        .block_on(client.get_multiplexed_async_connection())
        .unwrap();
    for (set, expected) in [
        (vec!["SET", "k", "five"], "not a counter of tollgate"),
        (vec!["SET", "k", "-1 5"], "not a counter of tollgate"),
        (vec!["SET", "k", ""], "not a counter of tollgate"),
        (vec!["RPUSH", "l", "5"], "WRONGTYPE"),
    ] {
        redis.cli(&set);
        for algorithm in Algorithm::ALL {
            let mut batch = Batch::default();
            let limit = Limit::new(algorithm, 5, 60_000_000, None).unwrap();
            batch.push(limit, 1, ENFORCED, |key| key.push_str(set[1]));
            let command = script::command("EVAL", script::SOURCE, &batch);
            let error = runtime
                .block_on(command.query_async::<Value>(&mut connection))
                .unwrap_err();
            assert!(
                error.to_string().contains(expected),
                "{set:?} {algorithm}: {error}"
            );
        }
    }
}
