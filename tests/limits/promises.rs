//! The properties of each algorithm, for any limit and any arrivals.

use proptest::prelude::*;
use tollgate::limit::{
    Algorithm, Limit, MAX_LOG, MAX_WAIT_US, Outcome, State, Step, calendar::Edges,
};

const START: u64 = 1_700_000_000_000_000;

fn algorithm() -> impl Strategy<Value = Algorithm> {
    prop::sample::select(Algorithm::ALL.to_vec())
}

fn limit(algorithm: impl Strategy<Value = Algorithm>) -> impl Strategy<Value = Limit> {
    (algorithm, 1_u64..40, 1_000_u64..100_000, 1_u64..60).prop_filter_map(
        "a burst that never refills",
        |(algorithm, amount, window, burst)| {
            Limit::new(algorithm, amount, window, Some(burst)).ok()
        },
    )
}

/// Arrivals: the pause before each, in microseconds, and its cost. Pauses of 0 make bursts.
fn arrivals(window: u64) -> impl Strategy<Value = Vec<(u64, u64)>> {
    let pause = prop_oneof![3 => Just(0), 3 => 0..window / 10 + 1, 1 => 0..window * 3];
    prop::collection::vec(
        (pause, prop_oneof![4 => Just(1_u64), 1 => 1_u64..5]),
        1..120,
    )
}

fn limited() -> impl Strategy<Value = (Limit, Vec<(u64, u64)>)> {
    limit(algorithm()).prop_flat_map(|limit| (Just(limit), arrivals(limit.window_us())))
}

/// A caller with one limit, with its state kept as by a store.
struct Caller {
    limit: Limit,
    state: Option<State>,
    now: u64,
}

impl Caller {
    fn new(limit: Limit) -> Self {
        Self {
            limit,
            state: None,
            now: START,
        }
    }

    fn peek(&self, at: u64, cost: u64) -> Step<State> {
        self.limit.step(self.state.clone(), at, cost)
    }

    fn ask(&mut self, cost: u64) -> Step<State> {
        let step = self.peek(self.now, cost);
        if step.outcome.allowed {
            self.state = Some(step.state.clone());
        }
        step
    }
}

/// Arrivals, before some of which more is granted.
fn granted() -> impl Strategy<Value = (Limit, Vec<(u64, u64, Option<u64>)>)> {
    let arrivals = |limit: Limit| {
        let more = prop::option::weighted(0.1, prop_oneof![1_u64..20, 1_u64..200]);
        arrivals(limit.window_us()).prop_flat_map(move |arrivals| {
            let more = prop::collection::vec(more.clone(), arrivals.len());
            (Just(arrivals), more).prop_map(|(arrivals, more)| {
                let both = arrivals.into_iter().zip(more);
                both.map(|((pause, cost), more)| (pause, cost, more))
                    .collect()
            })
        })
    };
    limit(algorithm()).prop_flat_map(move |limit| (Just(limit), arrivals(limit)))
}

/// The amount admitted in the half-open span of one window that ends with `now`. Of all spans that
/// hold the same requests, one ends with the last of them.
fn within(log: &[(u64, u64)], limit: &Limit, now: u64) -> u64 {
    let counts = log.iter().filter(|(at, _)| at + limit.window_us() > now);
    counts.map(|(_, cost)| cost).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// It is denied at every instant before that one, and admitted at it, if no other request
    /// comes.
    #[test]
    fn retry_after_is_exact((limit, arrivals) in limited()) {
        let mut caller = Caller::new(limit);
        for (pause, cost) in arrivals {
            caller.now += pause;
            let outcome = caller.ask(cost).outcome;
            if outcome.allowed || cost > limit.burst() {
                continue;
            }
            let at = caller.now + outcome.wait_us;
            prop_assert!(outcome.wait_us > 0 && outcome.wait_us < MAX_WAIT_US);
            prop_assert!(caller.peek(at, cost).outcome.allowed, "not admitted at the promised time");
            for early in [at - 1, caller.now + outcome.wait_us / 2, caller.now] {
                prop_assert!(!caller.peek(early, cost).outcome.allowed, "admitted {} us early", at - early);
            }
        }
    }

    /// `remaining` is the highest cost that a request can have.
    #[test]
    fn remaining_is_what_can_still_be_had((limit, arrivals) in limited()) {
        let mut caller = Caller::new(limit);
        for (pause, cost) in arrivals {
            caller.now += pause;
            let remaining = caller.ask(cost).outcome.remaining;
            prop_assert!(!caller.peek(caller.now, remaining + 1).outcome.allowed);
            prop_assert!(remaining == 0 || caller.peek(caller.now, remaining).outcome.allowed);
        }
    }

    /// More is left after `wait`, and not before.
    #[test]
    fn an_admission_says_when_more_will_be_left((limit, arrivals) in limited()) {
        let mut caller = Caller::new(limit);
        for (pause, cost) in arrivals {
            caller.now += pause;
            let outcome = caller.ask(cost).outcome;
            if outcome.allowed {
                let at = caller.now + outcome.wait_us;
                let more = outcome.remaining + 1;
                prop_assert!(caller.peek(at, more).outcome.allowed);
                prop_assert!(!caller.peek(at - 1, more).outcome.allowed);
            }
        }
    }

    /// From `expires` on, the state equals no state: a store may forget it then and not earlier.
    #[test]
    fn an_expired_state_means_nothing((limit, arrivals) in limited()) {
        let mut caller = Caller::new(limit);
        for (pause, cost) in arrivals {
            caller.now += pause;
            let step = caller.ask(cost);
            if step.outcome.allowed {
                let fresh = limit.step(None, step.expires_us, 1);
                prop_assert_eq!(caller.peek(step.expires_us, 1), fresh);
            }
        }
    }

    /// As much more fits as is granted, at once and exactly. What is promised holds as ever, and
    /// one window later nothing of it is left.
    #[test]
    fn a_grant_is_so_many_more_and_ends((limit, arrivals) in granted()) {
        let mut caller = Caller::new(limit);
        let mut ends = 0;
        for (pause, cost, more) in arrivals {
            caller.now += pause;
            let now = caller.now;
            if let Some(more) = more {
                let before = caller.peek(now, 0).outcome.remaining;
                let (state, expires) = limit.grant(caller.state.take(), now, more);
                caller.state = Some(state);
                prop_assert_eq!(caller.peek(now, 0).outcome.remaining, before + more);
                prop_assert_eq!(caller.peek(expires, 1), limit.step(None, expires, 1));
                ends = now + limit.window_us();
            }
            let step = caller.ask(cost);
            let Outcome { allowed, remaining, wait_us } = step.outcome;
            prop_assert!(remaining <= limit.burst() || now < ends);
            prop_assert!(!caller.peek(now, remaining + 1).outcome.allowed);
            prop_assert!(remaining == 0 || caller.peek(now, remaining).outcome.allowed);
            if allowed {
                prop_assert_eq!(caller.peek(step.expires_us, 1), limit.step(None, step.expires_us, 1));
            } else if cost <= limit.burst() {
                prop_assert!(caller.peek(now + wait_us, cost).outcome.allowed);
                prop_assert!(!caller.peek(now + wait_us - 1, cost).outcome.allowed);
            }
        }
    }

    /// What is admitted in all is at most what the limit admits to such requests, and what was
    /// granted. So nobody has more by when it comes.
    #[test]
    fn a_grant_makes_no_limit_wider_in_the_end(
        (limit, arrivals) in granted(),
    ) {
        let mut caller = Caller::new(limit);
        let (mut log, mut grants) = (Vec::new(), Vec::new());
        for (pause, cost, more) in arrivals {
            caller.now += pause;
            if let Some(more) = more {
                caller.state = Some(limit.grant(caller.state.take(), caller.now, more).0);
                grants.push((caller.now, more));
            }
            if caller.ask(cost).outcome.allowed {
                log.push((caller.now, cost));
            }
            // Of the grants of the window before too, something may have been used in this one.
            let since = caller.now.saturating_sub(2 * limit.window_us());
            let granted: u64 = grants.iter().filter(|(at, _)| *at > since).map(|(_, more)| more).sum();
            let in_a_window = limit.burst().max(limit.amount());
            let most = 2 * in_a_window + 1 + granted;
            prop_assert!(within(&log, &limit, caller.now) <= most);
        }
    }

    /// Between two beginnings of a window, never more than N; so in no span of one window more than
    /// twice N.
    #[test]
    fn a_fixed_window_admits_no_more_than_its_limit(
        (limit, arrivals) in limit(Just(Algorithm::FixedWindow)).prop_flat_map(|l| (Just(l), arrivals(l.window_us()))),
    ) {
        let mut caller = Caller::new(limit);
        let mut log: Vec<(u64, u64)> = Vec::new();
        let (mut start, mut admitted) = (0, 0);
        for (pause, cost) in arrivals {
            caller.now += pause;
            let begins = caller.now >= start + limit.window_us();
            let fits = caller.ask(cost).outcome.allowed;
            let before = if begins { 0 } else { admitted };
            prop_assert_eq!(fits, before + cost <= limit.amount());
            if fits {
                if begins {
                    start = caller.now;
                }
                admitted = before + cost;
                log.push((caller.now, cost));
            }
            prop_assert!(within(&log, &limit, caller.now) <= 2 * limit.amount());
        }
    }

    /// Between two edges, never more than N, and the outcome turns exactly at the edge.
    #[test]
    fn a_window_with_edges_admits_no_more_than_its_limit(
        (limit, arrivals) in limit(Just(Algorithm::FixedWindow)).prop_flat_map(|l| (Just(l), arrivals(l.window_us()))),
        lengths in [1_u64..100_000, 1_u64..100_000, 1_u64..100_000],
    ) {
        let [a, b, c] = lengths;
        let edges = [START, START + a, START + a + b, START + a + b + c];
        let mut caller = Caller::new(limit.aligned(Edges::new(edges).unwrap()));
        let mut admitted = [0; 3];
        for (pause, cost) in arrivals {
            caller.now += pause;
            let Some(window) = (0..3).find(|i| edges[*i] <= caller.now && caller.now < edges[i + 1]) else {
                prop_assert!(!caller.limit.covers(caller.now));
                break;
            };
            prop_assert!(caller.limit.covers(caller.now));
            let step = caller.ask(cost);
            prop_assert_eq!(step.expires_us, edges[window + 1]);
            prop_assert_eq!(step.outcome.allowed, admitted[window] + cost <= limit.amount());
            if step.outcome.allowed {
                admitted[window] += cost;
            } else if cost <= limit.amount() {
                let end = edges[window + 1];
                prop_assert_eq!(caller.now + step.outcome.wait_us, end);
                prop_assert!(!caller.peek(end - 1, cost).outcome.allowed);
                prop_assert!(end == edges[3] || caller.peek(end, cost).outcome.allowed);
            }
            prop_assert_eq!(step.outcome.remaining, limit.amount() - admitted[window]);
        }
    }

    /// In no span of one window as many as twice N, and never more than N at once.
    #[test]
    fn a_sliding_window_keeps_its_bound(
        (limit, arrivals) in limit(Just(Algorithm::SlidingWindow)).prop_flat_map(|l| (Just(l), arrivals(l.window_us()))),
    ) {
        let mut caller = Caller::new(limit);
        let mut log: Vec<(u64, u64)> = Vec::new();
        for (pause, cost) in arrivals {
            caller.now += pause;
            if caller.ask(cost).outcome.allowed {
                log.push((caller.now, cost));
            }
            let within = within(&log, &limit, caller.now);
            prop_assert!(within < 2 * limit.amount() || within <= limit.amount(), "{} of {}", within, limit.amount());
        }
    }

    /// For requests that came evenly, the estimate is at most one too high and never too low.
    /// Requests that came at once leave at once.
    #[test]
    fn a_sliding_window_knows_what_came_evenly(
        count in 1_u64..50,
        gap in 0_u64..1_000,
        rest in 1_u64..1_000,
        later in 0_u64..2_000_000,
    ) {
        let window = gap * (count - 1) + rest + 1_000;
        let limit = Limit::new(Algorithm::SlidingWindow, 2 * count, window, None).unwrap();
        let mut caller = Caller::new(limit);
        let mut log: Vec<(u64, u64)> = Vec::new();
        for _ in 0..count {
            prop_assert!(caller.ask(1).outcome.allowed);
            log.push((caller.now, 1));
            caller.now += gap;
        }
        for at in [START + window + later % window, START + window, START + window - 1] {
            let exact = within(&log, &limit, at);
            let estimate = limit.amount() - caller.peek(at, 1).outcome.remaining - 1;
            prop_assert!((exact..=exact + u64::from(gap > 0)).contains(&estimate), "{estimate} of {exact}");
        }
    }

    /// In no half-open span of one window more than N, wherever it begins.
    #[test]
    fn a_sliding_log_is_exact_in_any_window(
        (limit, arrivals) in limit(Just(Algorithm::SlidingLog)).prop_flat_map(|l| (Just(l), arrivals(l.window_us()))),
    ) {
        let mut caller = Caller::new(limit);
        let mut log: Vec<(u64, u64)> = Vec::new();
        for (pause, cost) in arrivals {
            caller.now += pause;
            let within = within(&log, &limit, caller.now);
            let fits = caller.ask(cost).outcome.allowed;
            prop_assert_eq!(fits, within + cost <= limit.amount());
            if fits {
                log.push((caller.now, cost));
            }
        }
    }

    /// In any span, at most the burst and the tokens that flowed back meanwhile.
    #[test]
    fn a_token_bucket_keeps_its_bound(
        (limit, arrivals) in limit(Just(Algorithm::TokenBucket)).prop_flat_map(|l| (Just(l), arrivals(l.window_us()))),
    ) {
        let mut caller = Caller::new(limit);
        let mut log: Vec<(u64, u64)> = Vec::new();
        for (pause, cost) in arrivals {
            caller.now += pause;
            if caller.ask(cost).outcome.allowed {
                log.push((caller.now, cost));
            }
            let mut sum = 0;
            for (at, cost) in log.iter().rev() {
                sum += cost;
                // Whole tokens flow back, so a span may have one more than its length alone
                // explains.
                let refilled = u128::from(caller.now - at) * u128::from(limit.amount()) / u128::from(limit.window_us());
                prop_assert!(u128::from(sum) <= u128::from(limit.burst()) + refilled + 1);
            }
        }
    }

    /// A clock that goes back opens no window: the used amount stays used, and the wait stays
    /// bounded.
    #[test]
    fn a_clock_that_goes_back_frees_no_quota((limit, arrivals) in limited(), back in 1_u64..10_000_000_000) {
        let mut caller = Caller::new(limit);
        for (pause, cost) in arrivals {
            caller.now += pause;
            caller.ask(cost);
        }
        let before = caller.peek(caller.now, 1).outcome;
        let after = caller.peek(caller.now - back, 1).outcome;
        prop_assert!(before.allowed || !after.allowed);
        if !after.allowed {
            prop_assert!(after.wait_us <= 2 * limit.window_us() * limit.burst().max(1));
        }
    }

    /// A raised limit adds the difference at once; a lowered limit removes it at once.
    #[test]
    fn a_changed_limit_acts_on_what_is_counted(algorithm in algorithm(), used in 1_u64..20, more in 0_u64..20) {
        let small = Limit::new(algorithm, used, 60_000_000, None).unwrap();
        let mut caller = Caller::new(small);
        for _ in 0..used {
            prop_assert!(caller.ask(1).outcome.allowed);
        }
        prop_assert!(!caller.ask(1).outcome.allowed);
        caller.limit = Limit::new(algorithm, used + more, 60_000_000, None).unwrap();
        for _ in 0..more {
            prop_assert!(caller.ask(1).outcome.allowed);
        }
        prop_assert!(!caller.ask(1).outcome.allowed);
    }
}

#[test]
fn five_a_minute_after_a_burst_means_again_in_a_minute() {
    for algorithm in [
        Algorithm::FixedWindow,
        Algorithm::SlidingWindow,
        Algorithm::SlidingLog,
    ] {
        let mut caller = Caller::new(Limit::new(algorithm, 5, 60_000_000, None).unwrap());
        for left in (0..5).rev() {
            assert_eq!(caller.ask(1).outcome.remaining, left);
            caller.now += 1_000;
        }
        let wait = caller.ask(1).outcome.wait_us;
        assert!(
            (59_000_000..=60_000_000).contains(&wait),
            "{algorithm}: {wait}"
        );
    }
}

#[test]
fn a_sliding_window_allows_no_double_burst_where_a_fixed_one_does() {
    let admitted = |algorithm| {
        let mut caller = Caller::new(Limit::new(algorithm, 10, 60_000_000, None).unwrap());
        let mut admitted = u64::from(caller.ask(1).outcome.allowed);
        caller.now += 59_900_000;
        for _ in 0..20 {
            admitted += u64::from(caller.ask(1).outcome.allowed);
        }
        caller.now += 200_000;
        for _ in 0..20 {
            admitted += u64::from(caller.ask(1).outcome.allowed);
        }
        admitted
    };
    assert_eq!(admitted(Algorithm::FixedWindow), 20);
    // The first request has left by then; the estimate, rounded up, still counts it.
    assert_eq!(admitted(Algorithm::SlidingWindow), 10);
}

#[test]
fn a_share_is_rounded_up_and_never_zero() {
    let limit = Limit::new(Algorithm::TokenBucket, 10, 1_000_000, Some(15)).unwrap();
    let share = limit.divided(4);
    assert_eq!((share.amount(), share.burst()), (3, 4));
    assert_eq!(limit.divided(1_000).amount(), 1);
    assert_eq!(limit.divided(0), limit);
}

#[test]
fn limits_out_of_bounds_cannot_be_built() {
    use tollgate::limit::InvalidLimit::{self, Amount, Refill, Window};
    let new = |amount, window, burst| Limit::new(Algorithm::TokenBucket, amount, window, burst);
    assert_eq!(new(0, 1_000_000, None), Err(Amount));
    assert_eq!(new(1_000_000_001, 1_000_000, None), Err(Amount));
    assert_eq!(new(1, 1_000_000, Some(0)), Err(Amount));
    assert_eq!(new(1, 999, None), Err(Window));
    assert_eq!(new(1, 367 * 86_400_000_000, None), Err(Window));
    assert_eq!(new(1, 86_400_000_000, Some(367)), Err(Refill));
    assert!(new(1, 86_400_000_000, Some(366)).is_ok());
    let log = |amount| Limit::new(Algorithm::SlidingLog, amount, 1_000_000, None);
    assert!(log(MAX_LOG).is_ok());
    let error = log(MAX_LOG + 1).unwrap_err();
    assert_eq!(error, InvalidLimit::Log);
    assert!(error.to_string().contains(&MAX_LOG.to_string()), "{error}");
}
