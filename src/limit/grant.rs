//! More than a limit holds, because a person says so.
//!
//! What is used is taken back, and may go below zero: then so many more fit than the limit holds. A
//! request is charged as ever, and finds that more fits, so a grant costs a check nothing. It
//! belongs to the window that is under way and ends with it; see each algorithm. Only people make a
//! count go below zero. What is given back of charges stops there.

use super::{
    MAX_AMOUNT, fixed_window, sliding_log, sliding_window,
    spec::{Algorithm, Limit},
    state::State,
    token_bucket,
};

impl Limit {
    /// The state in which `more` fits than at `now_us`, at most [`MAX_AMOUNT`]; and when it
    /// expires, in microseconds since the Unix epoch.
    #[must_use]
    pub fn grant(&self, state: Option<State>, now_us: u64, more: u64) -> (State, u64) {
        let more = more.min(MAX_AMOUNT).cast_signed();
        match self.algorithm() {
            Algorithm::FixedWindow => {
                let state = match state {
                    Some(State::FixedWindow(state)) => Some(state),
                    _ => None,
                };
                let (state, expires_us) = fixed_window::grant(self, state, now_us, more);
                (State::FixedWindow(state), expires_us)
            }
            Algorithm::SlidingWindow => {
                let state = match state {
                    Some(State::SlidingWindow(state)) => Some(state),
                    _ => None,
                };
                let (state, expires_us) = sliding_window::grant(self, state, now_us, more);
                (State::SlidingWindow(state), expires_us)
            }
            Algorithm::SlidingLog => {
                let state = match state {
                    Some(State::SlidingLog(state)) => Some(state),
                    _ => None,
                };
                let (state, expires_us) = sliding_log::grant(self, state, now_us, more);
                (State::SlidingLog(state), expires_us)
            }
            Algorithm::TokenBucket => {
                let state = match state {
                    Some(State::TokenBucket(state)) => Some(state),
                    _ => None,
                };
                let (state, expires_us) = token_bucket::grant(self, state, now_us, more);
                (State::TokenBucket(state), expires_us)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000_000;
    const WINDOW: u64 = 60_000_000;

    fn limit(algorithm: Algorithm) -> Limit {
        Limit::new(algorithm, 5, WINDOW, None).unwrap()
    }

    /// How many of so many requests are admitted at `now_us`.
    fn admitted(limit: &Limit, state: &mut Option<State>, now_us: u64, of: usize) -> usize {
        let fits = |state: &mut Option<State>| {
            let step = limit.step(state.clone(), now_us, 1);
            if step.outcome.allowed {
                *state = Some(step.state);
            }
            step.outcome.allowed
        };
        (0..of).filter(|_| fits(state)).count()
    }

    #[test]
    fn so_many_more_fit_and_not_one_more() {
        for (algorithm, more) in Algorithm::ALL
            .into_iter()
            .flat_map(|algorithm| [1_u64, 3, 5, 6, 50].map(|more| (algorithm, more)))
        {
            let limit = limit(algorithm);
            let mut state = None;
            for second in 0..5 {
                let now = NOW + second * 1_000_000;
                assert_eq!(admitted(&limit, &mut state, now, 1), 1, "{algorithm}");
            }
            let now = NOW + 5_000_000;
            assert_eq!(admitted(&limit, &mut state, now, 1), 0, "{algorithm}");
            state = Some(limit.grant(state, now, more).0);
            let text = state.as_ref().unwrap().to_string();
            assert_eq!(State::parse(algorithm, &text), state, "{algorithm}: {text}");
            let more = usize::try_from(more).unwrap();
            let fit = admitted(&limit, &mut state, now, 100);
            assert_eq!(fit, more, "{algorithm}: {text}");
        }
    }

    #[test]
    fn who_has_used_nothing_may_have_more_too() {
        for algorithm in Algorithm::ALL {
            let limit = limit(algorithm);
            let (state, expires_us) = limit.grant(None, NOW, 7);
            assert_eq!(expires_us, NOW + WINDOW, "{algorithm}");
            let mut state = Some(state);
            let last = NOW + WINDOW - 1;
            assert_eq!(admitted(&limit, &mut state, last, 100), 12, "{algorithm}");
        }
    }

    #[test]
    fn what_is_not_used_ends_with_the_window() {
        for algorithm in Algorithm::ALL {
            let limit = limit(algorithm);
            let mut state = None;
            assert_eq!(admitted(&limit, &mut state, NOW, 5), 5, "{algorithm}");
            let granted_at = NOW + WINDOW / 2;
            let mut state = Some(limit.grant(state, granted_at, 50).0);
            // Some of it is used.
            let used = admitted(&limit, &mut state, granted_at, 10);
            assert_eq!(used, 10, "{algorithm}");
            // Where windows are those of requests, it ends with that of the first.
            let ends = match algorithm {
                Algorithm::FixedWindow | Algorithm::SlidingWindow => NOW + WINDOW,
                Algorithm::SlidingLog | Algorithm::TokenBucket => granted_at + WINDOW,
            };
            let left = |at| {
                let step = limit.step(state.clone(), at, 0);
                step.outcome.remaining
            };
            assert!(left(ends - 1) >= 40, "{algorithm}: {}", left(ends - 1));
            assert_eq!(left(ends), 5, "{algorithm}");
            assert_eq!(left(ends + WINDOW), 5, "{algorithm}");
        }
    }

    #[test]
    fn the_window_after_a_grant_that_was_spent_is_a_plain_one() {
        for algorithm in Algorithm::ALL {
            let limit = limit(algorithm);
            let mut state = Some(limit.grant(None, NOW, 50).0);
            assert_eq!(admitted(&limit, &mut state, NOW, 100), 55, "{algorithm}");
            let later = NOW + WINDOW;
            assert_eq!(admitted(&limit, &mut state, later, 100), 5, "{algorithm}");
        }
    }

    /// It never says that more will be left at the end of what was granted, because less is.
    #[test]
    fn an_admission_says_when_the_grant_ends() {
        for algorithm in Algorithm::ALL {
            let limit = limit(algorithm);
            for more in [4, 3] {
                let state = limit.grant(None, NOW, more).0;
                let step = limit.step(Some(state), NOW + 1_000_000, 3);
                assert_eq!(step.outcome.remaining, 2 + more, "{algorithm}");
                assert_eq!(step.outcome.wait_us, WINDOW - 1_000_000, "{algorithm}");
                assert!(step.expires_us >= NOW + WINDOW, "{algorithm}");
            }
        }
    }
}
