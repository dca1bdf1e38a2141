//! Lua in Redis and Rust in memory do the same arithmetic. With the same limits, costs and times on
//! a real Redis, they return the same results, store the same text and keep it for the same time.

use crate::support::{redis::Redis, script::Scripted};
use proptest::{prelude::*, test_runner::TestRunner};
use tollgate::{
    counter_key::BAN_SUFFIX,
    limit::{
        Algorithm, Limit, MAX_AMOUNT, MAX_LOG, MAX_WINDOW_US, Outcome, State,
        ban::Ban,
        calendar::{Calendar, Edges, Period},
    },
    store::{
        Batch, ChargeResult, ENFORCED, StoreError,
        redis::{
            replies,
            script::{self, Check},
        },
    },
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

/// The windows of a limit that do not begin with a request.
#[derive(Debug, Clone)]
enum Windows {
    Calendar(Calendar),
    /// Of a fixed length in microseconds, aligned to the epoch.
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

/// A limit, its version after a change of the rule file, and its windows if a calendar gives them.
#[derive(Debug, Clone)]
struct Counter {
    limit: Limit,
    changed: Limit,
    windows: Option<Windows>,
}

impl Counter {
    /// The limit at `now`, before or after the change.
    fn at(&self, now: u64, is_changed: bool) -> Limit {
        let limit = if is_changed { self.changed } else { self.limit };
        match &self.windows {
            Some(windows) => limit.aligned(windows.edges(now)),
            None => limit,
        }
    }
}

fn counter() -> impl Strategy<Value = Counter> {
    // Another window or algorithm would be another counter.
    let begun = (limit(), amount()).prop_map(|(limit, amount)| Counter {
        changed: Limit::new(limit.algorithm(), amount, limit.window_us(), None).unwrap_or(limit),
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
    let aligned = (amount(), amount(), prop_oneof![calendar, even]).prop_map(
        |(amount, changed, (windows, usual))| {
            let limit = |n| Limit::new(Algorithm::FixedWindow, n, usual, None).unwrap();
            Counter {
                limit: limit(amount),
                changed: limit(changed),
                windows: Some(windows),
            }
        },
    );
    prop_oneof![5 => begun, 2 => aligned]
}

fn ban() -> impl Strategy<Value = Ban> {
    let after = prop_oneof![3 => 1_u64..4, 1 => 1_u64..20];
    (after, window(), window())
        .prop_map(|(after, within, duration)| Ban::new(after, within, duration).unwrap())
}

/// A ban for denials by some of the limits before it.
#[derive(Debug, Clone, Copy)]
struct Banned {
    ban: Ban,
    changed: Ban,
    span: usize,
}

fn banned() -> impl Strategy<Value = Banned> {
    (ban(), ban(), 0_usize..4).prop_map(|(ban, changed, span)| Banned { ban, changed, span })
}

/// A rule: its limits, its ban if it has one, and its group.
#[derive(Debug, Clone)]
struct Rule {
    counters: Vec<Counter>,
    banned: Option<Banned>,
    group: u32,
}

fn rule() -> impl Strategy<Value = Rule> {
    (
        prop::collection::vec(counter(), 1..3),
        prop::option::of(banned()),
        prop_oneof![3 => Just(ENFORCED), 1 => 1_u32..3],
    )
        .prop_map(|(counters, banned, group)| Rule {
            banned: banned.map(|banned| Banned {
                span: banned.span.min(counters.len()),
                ..banned
            }),
            counters,
            group,
        })
}

/// How the clock moves before a request.
#[derive(Debug, Clone, Copy)]
enum Movement {
    /// By a share of the longest window, in millionths; it may go back.
    Share(i64),
    /// To the instant that the last outcome of a limit or a ban promised, or one microsecond beside
    /// it: comparisons turn there.
    Promised { charge: usize, beside: i64 },
    /// As [`Promised`](Self::Promised), to an edge of a window of the calendar.
    Edge {
        charge: usize,
        edge: usize,
        beside: i64,
    },
    /// As [`Promised`](Self::Promised), to one window or ban after an earlier request.
    Since {
        request: usize,
        span: usize,
        beside: i64,
    },
}

fn movement() -> impl Strategy<Value = Movement> {
    let promised = (0_usize..6, -1_i64..=1);
    let edge = (0_usize..6, 0_usize..4, -1_i64..=1);
    let since = (0_usize..40, 0_usize..9, -1_i64..=1);
    prop_oneof![
        5 => Just(Movement::Share(0)),
        6 => (0_i64..100_000).prop_map(Movement::Share),
        2 => (0_i64..2_500_000).prop_map(Movement::Share),
        1 => (-500_000_i64..0).prop_map(Movement::Share),
        5 => promised.prop_map(|(charge, beside)| Movement::Promised { charge, beside }),
        2 => edge.prop_map(|(charge, edge, beside)| Movement::Edge { charge, edge, beside }),
        2 => since.prop_map(|(request, span, beside)| Movement::Since { request, span, beside }),
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
    /// Whether the rules are those after the change.
    is_changed: bool,
    /// How much more a person grants before it, in thousandths of the burst.
    granted: Option<u64>,
}

#[derive(Debug, Clone)]
struct Scenario {
    rules: Vec<Rule>,
    requests: Vec<Request>,
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let cost = prop_oneof![3 => Just(0_u64), 2 => 0_u64..1_100];
    let request = (
        movement(),
        cost,
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
        prop::option::weighted(0.1, prop_oneof![0_u64..1_000, 0_u64..5_000]),
    )
        .prop_map(|(movement, cost, is_late, is_changed, granted)| Request {
            movement,
            cost,
            is_late,
            is_changed,
            granted,
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
    /// The number of entries before it that it counts.
    Ban(Ban, usize),
}

/// The entries of a request at `now`, each with its group.
fn charges(rules: &[Rule], now: u64, request: &Request) -> Vec<(Charge, u32)> {
    let mut out = Vec::new();
    for rule in rules {
        for counter in &rule.counters {
            let limit = counter.at(now, request.is_changed);
            let cost = (limit.burst() * request.cost / 1_000).clamp(1, MAX_AMOUNT);
            out.push((Charge::Limit(limit, cost), rule.group));
        }
        if let Some(banned) = rule.banned {
            let ban = if request.is_changed {
                banned.changed
            } else {
                banned.ban
            };
            out.push((Charge::Ban(ban, banned.span), rule.group));
        }
    }
    out
}

/// A share of what a limit holds, in thousandths; at least 1.
fn more(limit: &Limit, share: u64) -> u64 {
    (limit.burst() * share / 1_000).clamp(1, MAX_AMOUNT)
}

impl Charge {
    /// The window of a limit; for a ban, the time in which denials count.
    fn span(&self) -> u64 {
        match self {
            Self::Limit(limit, _) => limit.window_us(),
            Self::Ban(ban, _) => ban.within_us(),
        }
    }
}

/// The results of the Rust arithmetic, kept as a store would.
#[derive(Default)]
struct Model {
    states: Vec<Option<(State, u64)>>,
}

impl Model {
    /// Grants more of each limit.
    fn grant(&mut self, now: u64, charges: &[(Charge, u32)], share: u64) {
        self.states.resize(charges.len(), None);
        for ((charge, _), kept) in charges.iter().zip(&mut self.states) {
            if let Charge::Limit(limit, _) = charge
                && limit.covers(now)
            {
                let state = kept.take().map(|(state, _)| state);
                let (state, expires) = limit.grant(state, now, more(limit, share));
                *kept = Some((state, (expires - now).div_ceil(1_000)));
            }
        }
    }

    fn charge(&mut self, now: u64, charges: &[(Charge, u32)]) -> Result<ChargeResult, StoreError> {
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
        Ok(ChargeResult {
            admitted,
            outcomes,
            shared: Vec::new(),
        })
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
    let mut now = START;
    let mut times = vec![START];
    // The limits that the previous request was charged to, and its waits.
    let mut last: Vec<(Charge, u32)> = Vec::new();
    let mut waits = vec![longest];
    for request in &scenario.requests {
        let before = now;
        now = match request.movement {
            Movement::Share(share) => {
                let by = i128::from(share) * i128::from(longest) / 1_000_000;
                now.saturating_add_signed(i64::try_from(by).unwrap())
            }
            Movement::Promised { charge, beside } => {
                (now + waits[charge % waits.len()]).saturating_add_signed(beside)
            }
            Movement::Edge {
                charge,
                edge,
                beside,
            } => {
                let edges: Vec<Edges> = last
                    .iter()
                    .filter_map(|(charge, _)| match charge {
                        Charge::Limit(limit, _) => limit.edges(),
                        Charge::Ban(..) => None,
                    })
                    .collect();
                let edges = edges.get(charge % edges.len().max(1));
                edges.map_or(now, |edges| edges.get()[edge].saturating_add_signed(beside))
            }
            Movement::Since {
                request,
                span,
                beside,
            } => {
                let span = last.get(span % last.len().max(1)).map(|(c, _)| c.span());
                let at = times[request % times.len()] + span.unwrap_or(longest);
                at.saturating_add_signed(beside)
            }
        };
        times.push(now);
        let known = if request.is_late { before } else { now };
        let charges = charges(&scenario.rules, known, request);
        last.clone_from(&charges);
        let mut batch = Batch::default();
        for (i, (charge, group)) in charges.iter().enumerate() {
            let write = |out: &mut String| out.push_str(&key(i, charge));
            match charge {
                Charge::Limit(limit, cost) => batch.push(*limit, *cost, *group, write),
                Charge::Ban(ban, span) => batch.push_ban(*ban, *span, *group, write),
            }
        }
        if let Some(share) = request.granted {
            model.grant(now, &charges, share);
            for (i, (charge, _)) in charges.iter().enumerate() {
                if let Charge::Limit(limit, _) = charge {
                    redis.grant(&key(i, charge), limit, now, more(limit, share));
                }
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
        cases: 1_000,
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
        (vec!["SET", "k", "1 -5"], "not a counter of tollgate"),
        (vec!["SET", "k", "- 5"], "not a counter of tollgate"),
        (vec!["SET", "k", ""], "not a counter of tollgate"),
        (vec!["RPUSH", "l", "5"], "WRONGTYPE"),
    ] {
        redis.cli(&set);
        for algorithm in Algorithm::ALL {
            let mut batch = Batch::default();
            let limit = Limit::new(algorithm, 5, 60_000_000, None).unwrap();
            batch.push(limit, 1, ENFORCED, |key| key.push_str(set[1]));
            let check = Check::new(&batch, batch.charges().iter(), script::Mode::Charge);
            let command = script::command("EVAL", script::SOURCE, std::iter::once((&check, 1)));
            let answer = runtime.block_on(connection.send_packed_command(&command));
            let error = replies::decode(answer.unwrap(), 1).unwrap_err();
            assert!(
                error.to_string().contains(expected),
                "{set:?} {algorithm}: {error}"
            );
        }
    }
}
