//! An independent model of every limit. It is slow, written from the definitions in docs/rules.md
//! and the modules of `limit` and not from their code. It must decide like the store in memory and
//! the script in Redis.
//!
//! It keeps every charged request and evaluates its definitions for each new one. Remaining amount
//! and wait follow from one value: the amount used at an instant.

use std::{fmt::Write as _, sync::Arc};

use crate::support::script::Scripted;
use proptest::{prelude::*, test_runner::TestRunner};
use tollgate::{
    clock::{Clock, ManualClock},
    counter_key::BAN_SUFFIX,
    limit::{
        Algorithm, Limit, MAX_AMOUNT, MAX_LOG, MAX_WINDOW_US, Outcome, ban::Ban, calendar::Edges,
    },
    store::{Batch, ChargeResult, ENFORCED, memory::MemoryStore},
};

const START: u64 = 1_700_000_000_000_000;

/// The definition of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Definition {
    /// N per window, which begins with the first request after the last one ended.
    Fixed,
    /// N per window, and all windows are as long and follow each other since the epoch.
    Aligned,
    /// N in any window, with the requests of the previous one taken as evenly spread.
    Sliding,
    /// N in any window, exactly.
    Log,
    /// A number of tokens, N of which flow back per window.
    Bucket { capacity: u64 },
}

/// A limit: the definition, N and the window.
#[derive(Debug, Clone, Copy)]
struct Defined {
    definition: Definition,
    amount: u64,
    window: u64,
}

/// A request that was charged.
#[derive(Debug, Clone, Copy)]
struct Charged {
    at: u64,
    cost: u64,
}

impl Defined {
    /// The most that can be used at one instant.
    fn capacity(self) -> u64 {
        match self.definition {
            Definition::Bucket { capacity } => capacity,
            _ => self.amount,
        }
    }

    /// The amount used at `at`, if these requests were charged and no others come.
    fn used(self, log: &[Charged], at: u64) -> u64 {
        let window = self.window;
        match self.definition {
            Definition::Log => {
                let counts = log.iter().filter(|c| c.at + window > at);
                counts.map(|c| c.cost).sum()
            }
            Definition::Aligned => {
                let counts = log.iter().filter(|c| c.at / window == at / window);
                counts.map(|c| c.cost).sum()
            }
            Definition::Fixed => {
                let last = windows(log, window).pop().unwrap_or_default();
                let is_over = last.first().is_none_or(|first| first.at + window <= at);
                if is_over { 0 } else { sum(&last) }
            }
            Definition::Sliding => {
                let mut windows = windows(log, window);
                let last = windows.pop().unwrap_or_default();
                let is_over = last.first().is_none_or(|first| first.at + window <= at);
                if is_over {
                    fading(&last, window, at)
                } else {
                    let previous = windows.pop().unwrap_or_default();
                    sum(&last) + fading(&previous, window, at)
                }
            }
            Definition::Bucket { .. } => self.owed(log, at),
        }
    }

    /// The tokens that a bucket lacks. They flow back in whole ones, counted from when it was full
    /// last.
    fn owed(self, log: &[Charged], at: u64) -> u64 {
        let flowed = |from: u64, to: u64| {
            u128::from(to - from) * u128::from(self.amount) / u128::from(self.window)
        };
        let (mut taken, mut since) = (0_u128, 0);
        for charged in log {
            if flowed(since, charged.at) >= taken {
                (taken, since) = (0, charged.at);
            }
            taken += u128::from(charged.cost);
        }
        let owed = taken.saturating_sub(flowed(since, at));
        u64::try_from(owed).unwrap()
    }

    /// The outcome for a request of `cost` at `now`.
    fn says(self, log: &[Charged], now: u64, cost: u64) -> Outcome {
        let capacity = self.capacity();
        let allowed = self.used(log, now) + cost <= capacity;
        let mut after = log.to_vec();
        if allowed {
            after.push(Charged { at: now, cost });
        }
        let used = self.used(&after, now);
        let wait_us = if cost > capacity {
            // It never fits.
            self.window
        } else if allowed && used == 0 {
            0
        } else {
            // Until more is left, or until this one fits.
            let target = if allowed { used - 1 } else { capacity - cost };
            first(now, |at| self.used(&after, at) <= target) - now
        };
        Outcome {
            allowed,
            remaining: capacity.saturating_sub(used),
            wait_us,
        }
    }

    /// The limit in tollgate's terms, with the edges around `now`.
    fn limit(self, now: u64) -> Limit {
        let new = |algorithm, burst| Limit::new(algorithm, self.amount, self.window, burst);
        match self.definition {
            Definition::Fixed => new(Algorithm::FixedWindow, None),
            Definition::Sliding => new(Algorithm::SlidingWindow, None),
            Definition::Log => new(Algorithm::SlidingLog, None),
            Definition::Bucket { capacity } => new(Algorithm::TokenBucket, Some(capacity)),
            Definition::Aligned => {
                let edge = |n: u64| (now / self.window + n - 1) * self.window;
                let edges = Edges::new([edge(0), edge(1), edge(2), edge(3)]).unwrap();
                new(Algorithm::FixedWindow, None).map(|limit| limit.aligned(edges))
            }
        }
        .unwrap()
    }
}

/// The requests by windows, each of which begins with the first request after the one before it
/// ended.
fn windows(log: &[Charged], window: u64) -> Vec<Vec<Charged>> {
    let mut windows: Vec<Vec<Charged>> = Vec::new();
    for charged in log {
        match windows.last_mut() {
            Some(last) if charged.at < last[0].at + window => last.push(*charged),
            _ => windows.push(vec![*charged]),
        }
    }
    windows
}

fn sum(log: &[Charged]) -> u64 {
    log.iter().map(|charged| charged.cost).sum()
}

/// How many of a window's requests still count at `at`, as if they were spread evenly between the
/// first and the last; rounded up.
fn fading(log: &[Charged], window: u64, at: u64) -> u64 {
    let (Some(first), Some(last)) = (log.first(), log.last()) else {
        return 0;
    };
    if last.at + window <= at {
        return 0;
    }
    if first.at + window >= at {
        return sum(log);
    }
    let (left, length) = (last.at + window - at, last.at - first.at);
    let count = (u128::from(sum(log)) * u128::from(left)).div_ceil(u128::from(length));
    u64::try_from(count).unwrap()
}

/// The first instant from `now` on at which `holds` is true; from then on it stays true.
fn first(now: u64, is_so: impl Fn(u64) -> bool) -> u64 {
    let (mut not_yet, mut so) = (now, now + (1 << 47));
    assert!(!is_so(not_yet) && is_so(so));
    while so - not_yet > 1 {
        let middle = not_yet + (so - not_yet) / 2;
        if is_so(middle) {
            so = middle;
        } else {
            not_yet = middle;
        }
    }
    so
}

/// A rule: its limits, its ban if it has one, and its group.
#[derive(Debug, Clone)]
struct Rule {
    limits: Vec<Defined>,
    ban: Option<Ban>,
    group: u32,
}

/// What a rule has counted: requests charged to each limit, and denials outside bans.
#[derive(Debug, Clone, Default)]
struct Counted {
    logs: Vec<Vec<Charged>>,
    denials: Vec<u64>,
}

impl Counted {
    /// The denials that count at `at`, and the end of the ban in force.
    fn denied(&self, ban: Ban, at: u64) -> (u64, Option<u64>) {
        let (mut count, mut since, mut until) = (0, 0, 0);
        for denial in &self.denials {
            if count == 0 || denial - since >= ban.within_us() {
                (count, since) = (0, *denial);
            }
            count += 1;
            if count == ban.after() {
                (count, until) = (0, denial + ban.for_us());
            }
        }
        if count > 0 && at - since >= ban.within_us() {
            count = 0;
        }
        (count, (at < until).then_some(until))
    }

    /// The outcome of a ban, given whether the limits of its rule fit. Notes a denial.
    fn says(&mut self, ban: Ban, now: u64, fit: bool) -> Outcome {
        let (_, before) = self.denied(ban, now);
        if before.is_none() && !fit {
            self.denials.push(now);
        }
        let (count, banned) = self.denied(ban, now);
        Outcome {
            allowed: banned.is_none(),
            // `remaining` is 1 for a ban that begins now.
            remaining: banned.map_or(ban.after() - count, |_| u64::from(before.is_none())),
            wait_us: banned.map_or(0, |until| until - now),
        }
    }
}

/// Everything that was charged or denied.
struct Model<'a> {
    rules: &'a [Rule],
    counted: Vec<Counted>,
}

impl Model<'_> {
    /// A request is admitted if every enforced limit has room; then all are charged. A shadow rule
    /// is charged if it has room itself.
    fn charge(&mut self, now: u64, share: u64) -> ChargeResult {
        let mut outcomes = Vec::new();
        let mut denied = Vec::new();
        for (rule, counted) in self.rules.iter().zip(&mut self.counted) {
            counted.logs.resize(rule.limits.len(), Vec::new());
            let says =
                |(limit, log): (&Defined, &Vec<Charged>)| limit.says(log, now, cost(*limit, share));
            let mut said: Vec<Outcome> = rule.limits.iter().zip(&counted.logs).map(says).collect();
            let fit = said.iter().all(|outcome| outcome.allowed);
            said.extend(rule.ban.map(|ban| counted.says(ban, now, fit)));
            if said.iter().any(|outcome| !outcome.allowed) {
                denied.push(rule.group);
            }
            outcomes.extend(said);
        }
        let admitted = !denied.contains(&ENFORCED);
        for (rule, counted) in self.rules.iter().zip(&mut self.counted) {
            if admitted && !denied.contains(&rule.group) {
                for (limit, log) in rule.limits.iter().zip(&mut counted.logs) {
                    let cost = cost(*limit, share);
                    log.push(Charged { at: now, cost });
                }
            }
        }
        ChargeResult {
            admitted,
            outcomes,
            shared: Vec::new(),
        }
    }
}

/// A share of what fits at once, in thousandths; at least 1.
fn cost(limit: Defined, share: u64) -> u64 {
    (limit.capacity() * share / 1_000).clamp(1, MAX_AMOUNT)
}

fn amount() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 1_u64..12, 2 => 1_u64..100_000, 1 => MAX_AMOUNT - 10..=MAX_AMOUNT]
}

fn window() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => prop::sample::select(vec![1_000_u64, 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000]),
        2 => 1_000_u64..10_000_000,
        1 => MAX_WINDOW_US - 1_000..=MAX_WINDOW_US,
    ]
}

fn defined() -> impl Strategy<Value = Defined> {
    (0_usize..5, amount(), window(), amount()).prop_map(|(which, amount, window, burst)| {
        // A bucket must fill within the longest window.
        let most = u128::from(amount) * u128::from(MAX_WINDOW_US) / u128::from(window);
        let capacity = burst.min(u64::try_from(most).unwrap_or(u64::MAX));
        let definition = match which {
            0 => Definition::Fixed,
            1 => Definition::Aligned,
            2 => Definition::Sliding,
            3 => Definition::Log,
            _ => Definition::Bucket { capacity },
        };
        let most = if definition == Definition::Log {
            MAX_LOG
        } else {
            MAX_AMOUNT
        };
        Defined {
            definition,
            amount: amount.min(most),
            window,
        }
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let ban = (1_u64..4, window(), window())
        .prop_map(|(after, within, duration)| Ban::new(after, within, duration).unwrap());
    (
        prop::collection::vec(defined(), 1..3),
        prop::option::weighted(0.4, ban),
        prop_oneof![3 => Just(None), 1 => Just(Some(()))],
    )
        .prop_map(|(limits, ban, shadow)| Rule {
            limits,
            ban,
            group: u32::from(shadow.is_some()),
        })
}

/// How the clock moves before a request; never back.
#[derive(Debug, Clone, Copy)]
enum Movement {
    /// By a share of the longest window, in millionths.
    Share(u64),
    /// To the instant that a response promised, or one microsecond beside it.
    Promised { charge: usize, beside: i64 },
    /// To one window, count of denials or ban after an earlier request, or one microsecond beside
    /// it.
    Since {
        request: usize,
        span: usize,
        beside: i64,
    },
}

fn movement() -> impl Strategy<Value = Movement> {
    let promised = (0_usize..9, -1_i64..=1);
    let since = (0_usize..40, 0_usize..9, -1_i64..=1);
    prop_oneof![
        4 => Just(Movement::Share(0)),
        5 => (0_u64..100_000).prop_map(Movement::Share),
        2 => (0_u64..2_500_000).prop_map(Movement::Share),
        5 => promised.prop_map(|(charge, beside)| Movement::Promised { charge, beside }),
        3 => since.prop_map(|(request, span, beside)| Movement::Since { request, span, beside }),
    ]
}

/// The rules, and the requests: how the clock moves before each, and its cost.
fn scenario() -> impl Strategy<Value = (Vec<Rule>, Vec<(Movement, u64)>)> {
    let cost = prop_oneof![3 => Just(0_u64), 2 => 0_u64..700, 1 => 0_u64..1_100];
    let rules = prop::collection::vec(rule(), 1..4).prop_map(|mut rules| {
        // Each shadow rule is a group of its own.
        for (number, rule) in (1..).zip(&mut rules) {
            rule.group *= number;
        }
        rules
    });
    (rules, prop::collection::vec((movement(), cost), 1..40))
}

/// The batch that the engine would make, its keys beginning with `start`.
fn batch(rules: &[Rule], now: u64, share: u64, start: &str) -> Batch {
    let mut batch = Batch::default();
    for (number, rule) in rules.iter().enumerate() {
        for (index, limit) in rule.limits.iter().enumerate() {
            batch.push(limit.limit(now), cost(*limit, share), rule.group, |key| {
                write!(key, "{start}{number}}}:{index}").unwrap();
            });
        }
        if let Some(ban) = rule.ban {
            batch.push_ban(ban, rule.limits.len(), rule.group, |key| {
                write!(key, "{start}{number}}}{BAN_SUFFIX}").unwrap();
            });
        }
    }
    batch
}

/// When the script wrote each counter, and the text.
#[derive(Default)]
struct Written(Vec<Option<(u64, (String, u64))>>);

impl Written {
    /// Forgets what Redis would have forgotten by `now`.
    fn expire(&mut self, redis: &Scripted, batch: &Batch, now: u64) {
        self.0.resize(batch.charges().len(), None);
        for (charge, written) in batch.charges().iter().zip(&mut self.0) {
            if let Some((at, (_, ttl))) = written
                && *at + *ttl * 1_000 <= now
            {
                redis.expire(batch.key(charge));
                *written = None;
            }
        }
    }

    fn note(&mut self, redis: &Scripted, batch: &Batch, now: u64) {
        for (charge, written) in batch.charges().iter().zip(&mut self.0) {
            let stored = redis.stored(batch.key(charge));
            if stored.as_ref() != written.as_ref().map(|(_, stored)| stored) {
                *written = stored.map(|stored| (now, stored));
            }
        }
    }
}

fn compare(
    redis: &Scripted,
    number: u64,
    rules: &[Rule],
    requests: &[(Movement, u64)],
) -> Result<(), TestCaseError> {
    let start = format!("tollgate:{{reference{number}:");
    let clock = Arc::new(ManualClock::new(START));
    let memory = MemoryStore::new(
        1_000,
        Arc::clone(&clock) as Arc<dyn Clock>,
        Box::new(|_| {}),
    );
    let mut model = Model {
        rules,
        counted: vec![Counted::default(); rules.len()],
    };
    let mut written = Written::default();
    let windows = rules.iter().flat_map(|rule| &rule.limits);
    let windows = windows.map(|limit| limit.window);
    let longest = windows.clone().max().unwrap_or(1);
    let bans = rules.iter().filter_map(|rule| rule.ban);
    let spans: Vec<u64> = windows
        .chain(bans.flat_map(|ban| [ban.within_us(), ban.for_us()]))
        .collect();
    let mut now = START;
    let mut times = vec![START];
    let mut waits = vec![longest];
    for (movement, share) in requests {
        now = match *movement {
            Movement::Share(share) => now + longest / 1_000 * share / 1_000,
            Movement::Promised { charge, beside } => {
                (now + waits[charge % waits.len()]).saturating_add_signed(beside)
            }
            Movement::Since {
                request,
                span,
                beside,
            } => (times[request % times.len()] + spans[span % spans.len()])
                .saturating_add_signed(beside),
        }
        .max(now);
        times.push(now);
        clock.set(now);
        let batch = batch(rules, now, *share, &start);
        written.expire(redis, &batch, now);
        let expected = model.charge(now, *share);
        let told = redis.charge(&batch, now).verdict.unwrap();
        prop_assert_eq!(&memory.charge_now(&batch), &expected, "memory at {}", now);
        prop_assert_eq!(&told, &expected, "Redis at {}", now);
        written.note(redis, &batch, now);
        waits = expected.outcomes.iter().map(|o| o.wait_us).collect();
    }
    Ok(())
}

#[test]
fn model_memory_and_redis_decide_alike() {
    let redis = Scripted::start();
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 800,
        ..ProptestConfig::default()
    });
    let number = std::cell::Cell::new(0);
    let result = runner.run(&scenario(), |(rules, requests)| {
        number.set(number.get() + 1);
        compare(&redis, number.get(), &rules, &requests)
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
