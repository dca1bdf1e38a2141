//! What the script takes back leaves no client with more than if it had never been charged.

use proptest::{prelude::*, test_runner::TestRunner};
use tollgate::{
    limit::{
        Algorithm, Limit, State,
        calendar::{Calendar, Period},
    },
    store::{Batch, ENFORCED, Unused},
};

use crate::support::script::Scripted;

const START: u64 = 1_700_000_000_000_000;
const WINDOW: u64 = 1_000_000;

/// A request: how long after the one before, and its cost.
type Request = (u64, u64);

#[derive(Debug, Clone)]
struct Case {
    limit: Limit,
    before: Vec<Request>,
    /// Equal requests of one time: how many are kept, and how many are taken back.
    kept: u32,
    copies: u32,
    taken_back: Request,
    /// So many more are granted before that, or after it.
    granted: Option<(bool, u64)>,
    meanwhile: Vec<Request>,
    after: Vec<Request>,
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    prop::collection::vec((0..WINDOW, 1_u64..4), 0..6)
}

fn case() -> impl Strategy<Value = Case> {
    let algorithm = prop::sample::select(Algorithm::ALL.to_vec());
    let limit = (algorithm, 3_u64..12, prop::option::of(3_u64..12)).prop_map(
        |(algorithm, amount, burst)| {
            let burst = burst.filter(|_| algorithm == Algorithm::TokenBucket);
            Limit::new(algorithm, amount, WINDOW, burst).unwrap()
        },
    );
    let calendar = Just(
        Limit::new(Algorithm::FixedWindow, 5, 86_400_000_000, None)
            .unwrap()
            .aligned(Calendar::new(Period::Day, "UTC").unwrap().edges(START)),
    );
    let limit = prop_oneof![8 => limit, 1 => calendar];
    let request = (0..WINDOW, 1_u64..4);
    let equal = (prop_oneof![2 => Just(0_u32), 1 => 1_u32..4], 1_u32..4);
    let granted = prop::option::weighted(0.3, (any::<bool>(), 1_u64..20));
    let times = (requests(), requests(), requests());
    (limit, equal, request, granted, times).prop_map(
        |(limit, (kept, copies), taken_back, granted, (before, meanwhile, after))| Case {
            limit,
            before,
            kept,
            copies,
            taken_back,
            granted,
            meanwhile,
            after,
        },
    )
}

fn batch(key: &str, limit: Limit, cost: u64) -> Batch {
    let mut batch = Batch::default();
    batch.push(limit, cost, ENFORCED, |out| out.push_str(key));
    batch
}

/// One counter, and its time.
struct Counter<'a> {
    script: &'a Scripted,
    key: String,
    limit: Limit,
    now: u64,
}

impl Counter<'_> {
    /// What each request is admitted for, and what is left after it.
    fn charge(&mut self, requests: &[Request]) -> Vec<(bool, u64)> {
        let mut answers = Vec::new();
        for (pause, cost) in requests {
            self.now += pause;
            let batch = batch(&self.key, self.limit, *cost);
            let verdict = self.script.charge(&batch, self.now).verdict.unwrap();
            let outcome = verdict.outcomes[0];
            answers.push((outcome.allowed, outcome.remaining));
            self.is_whole();
        }
        answers
    }

    fn grant(&self, granted: Option<(bool, u64)>, is_after: bool) {
        if let Some((after, more)) = granted
            && after == is_after
        {
            self.script.grant(&self.key, &self.limit, self.now, more);
        }
    }

    /// What is stored is a state of the algorithm.
    fn is_whole(&self) -> Option<State> {
        let (text, _) = self.script.stored(&self.key)?;
        let state = State::parse(self.limit.algorithm(), &text);
        assert!(state.is_some(), "{} {text:?}", self.limit.algorithm());
        state
    }
}

fn check(script: &Scripted, case: &Case, name: &str) {
    let counter = |name: String| Counter {
        script,
        key: name,
        limit: case.limit,
        now: START,
    };
    // The same requests, with and without the one that is taken back.
    let mut given = counter(format!("given:{name}"));
    let mut never = counter(format!("never:{name}"));
    given.charge(&case.before);
    never.charge(&case.before);
    let (pause, cost) = case.taken_back;
    never.now += pause;
    given.now += pause;
    given.grant(case.granted, false);
    never.grant(case.granted, false);
    let charged_at = given.now;
    let equal = batch(&given.key, case.limit, cost);
    let reply = script.charge_ahead(&equal, case.kept + case.copies, charged_at);
    let granted = reply.granted;
    let kept = granted.min(case.kept.into());
    never.charge(&(0..kept).map(|_| (0, cost)).collect::<Vec<_>>());
    let outcome = reply.verdict.unwrap().outcomes[0];
    let unused = Unused {
        copies: u32::try_from(granted - kept).unwrap(),
        charged_us: charged_at,
        remaining: vec![outcome.remaining],
    };
    given.grant(case.granted, true);
    never.grant(case.granted, true);
    let between = given.charge(&case.meanwhile);
    // What was denied meanwhile only because of it would have been charged.
    let admitted: Vec<Request> = case
        .meanwhile
        .iter()
        .zip(&between)
        .scan(0, |waited, (&(pause, cost), &(allowed, _))| {
            *waited += pause;
            Some(allowed.then(|| (std::mem::take(waited), cost)))
        })
        .flatten()
        .collect();
    never.charge(&admitted);
    never.now = given.now;
    // What was charged to a grant, and comes back after that has ended, is left of the limit.
    let kept = |(_, more): (bool, u64)| more.min(u64::from(unused.copies) * cost);
    let kept = case.granted.map_or(0, kept);
    if unused.copies > 0 {
        let expires = script.stored(&given.key).map(|(_, ttl)| ttl);
        script.take_back(&equal, &unused, given.now);
        assert_eq!(
            expires,
            script.stored(&given.key).map(|(_, ttl)| ttl),
            "no counter is kept for longer, and none is made"
        );
        given.is_whole();
        // At once, it is as if nothing had been charged.
        let is_plain = case.granted.is_none();
        if is_plain
            && case.meanwhile.is_empty()
            && case.limit.algorithm() != Algorithm::SlidingWindow
        {
            let (with, without) = (given.charge(&case.after), never.charge(&case.after));
            assert_eq!(with, without);
            return;
        }
        let begins_with_a_request = match case.limit.algorithm() {
            Algorithm::SlidingWindow => true,
            Algorithm::FixedWindow => case.limit.edges().is_none(),
            Algorithm::SlidingLog | Algorithm::TokenBucket => false,
        };
        if begins_with_a_request {
            // What counts depends on when the window began, so it is compared within that window.
            let passed: u64 = case.meanwhile.iter().map(|(pause, _)| pause).sum();
            if passed < WINDOW {
                let (with, without) = (given.charge(&[(0, 1)])[0], never.charge(&[(0, 1)])[0]);
                assert!(with.1 <= without.1 + kept, "{with:?} {without:?}");
            }
            return;
        }
    }
    for request in &case.after {
        let (with, without) = (given.charge(&[*request])[0], never.charge(&[*request])[0]);
        assert!(
            with.1 <= without.1 + kept || with.0 != without.0,
            "more is left than without it: {with:?}, {without:?}"
        );
        if with.0 != without.0 {
            assert!(without.0 || kept > 0, "more is admitted than without it");
            return; // From here on the two have different requests behind them.
        }
    }
}

#[test]
fn nobody_has_more_after_a_charge_was_taken_back() {
    let script = Scripted::start();
    let mut runner = TestRunner::new(ProptestConfig::with_cases(1_000));
    let count = std::cell::Cell::new(0);
    let outcome = runner.run(&case(), |case| {
        count.set(count.get() + 1);
        check(&script, &case, &count.get().to_string());
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn a_counter_that_is_gone_or_not_ours_stays_so() {
    let script = Scripted::start();
    for algorithm in Algorithm::ALL {
        let limit = Limit::new(algorithm, 5, WINDOW, None).unwrap();
        let batch = batch(algorithm.as_str(), limit, 2);
        script.give_back(&batch, START, START);
        assert_eq!(script.stored(algorithm.as_str()), None);
        script.charge(&batch, START);
        script.expire(algorithm.as_str());
        script.give_back(&batch, START, START);
        assert_eq!(script.stored(algorithm.as_str()), None);

        // Taken back twice, by whatever mistake: never below zero.
        script.charge(&batch, START);
        for _ in 0..3 {
            script.give_back(&batch, START, START);
        }
        let reply = script.charge(&batch, START).verdict.unwrap();
        assert_eq!(reply.outcomes[0].remaining, 3, "{algorithm}");
    }
}

#[test]
fn a_bucket_gets_back_what_has_not_flowed_in_without_it() {
    let script = Scripted::start();
    let limit = Limit::new(Algorithm::TokenBucket, 10, WINDOW, None).unwrap();
    // Three tokens flow back. With two used before, it could have been full for two tokens' time.
    for (used_before, is_known, left) in [(5, true, 6), (3, true, 8), (1, true, 8), (5, false, 4)] {
        let key = format!("{used_before} {is_known}");
        script.charge(&batch(&key, limit, used_before), START);
        let equal = batch(&key, limit, 1);
        let reply = script.charge_ahead(&equal, 3, START);
        let remaining = vec![reply.verdict.unwrap().outcomes[0].remaining];
        let unused = Unused {
            copies: 2,
            charged_us: START,
            remaining: if is_known { remaining } else { Vec::new() },
        };
        let now = START + 300_000;
        script.take_back(&equal, &unused, now);
        let reply = script.charge(&equal, now).verdict.unwrap();
        assert_eq!(reply.outcomes[0].remaining, left, "{key}");
    }
}
