//! Uses of a limit that are taken back, because somebody may have more.

use super::State;

impl State {
    /// Takes back up to `cost` of what is counted, the newest first. Returns how much that was.
    ///
    /// The rest is as if these requests had never come. A ban counts no uses, and is left as it is.
    pub fn take_back(&mut self, cost: u64) -> u64 {
        match self {
            Self::FixedWindow(state) => take(&mut state.count, cost),
            Self::TokenBucket(state) => take(&mut state.used, cost),
            Self::SlidingWindow(state) => {
                let of_current = take(&mut state.current.count, cost);
                of_current + take(&mut state.previous.count, cost - of_current)
            }
            Self::SlidingLog(state) => {
                let mut left = cost;
                while left > 0
                    && let Some(newest) = state.entries.last_mut()
                {
                    left -= take(&mut newest.cost, left);
                    if newest.cost == 0 {
                        state.entries.pop();
                    }
                }
                state.total -= cost - left;
                cost - left
            }
            Self::Ban(_) => 0,
        }
    }
}

/// Takes up to `cost` from a count.
fn take(count: &mut u64, cost: u64) -> u64 {
    let taken = cost.min(*count);
    *count -= taken;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{Algorithm, Limit};

    const NOW: u64 = 1_700_000_000_000_000;

    #[test]
    fn so_many_more_fit_and_not_one_more() {
        for algorithm in Algorithm::ALL {
            let limit = Limit::new(algorithm, 5, 60_000_000, None).unwrap();
            let fits = |state: &mut Option<State>, now_us: u64| {
                let step = limit.step(state.clone(), now_us, 1);
                if step.outcome.allowed {
                    *state = Some(step.state);
                }
                step.outcome.allowed
            };
            let mut state = None;
            for second in 0..5 {
                assert!(fits(&mut state, NOW + second * 1_000_000), "{algorithm}");
            }
            let now = NOW + 5_000_000;
            assert!(!fits(&mut state, now), "{algorithm}");
            let taken = state.as_mut().unwrap().take_back(3);
            assert_eq!(taken, 3, "{algorithm}");
            let more = (0..9).filter(|_| fits(&mut state, now)).count();
            assert_eq!(more, 3, "{algorithm}");
            // No more than was used.
            assert_eq!(state.as_mut().unwrap().take_back(100), 5, "{algorithm}");
            assert_eq!(state.as_mut().unwrap().take_back(1), 0, "{algorithm}");
            let text = state.as_ref().unwrap().to_string();
            assert_eq!(State::parse(algorithm, &text), state, "{algorithm}: {text}");
        }
    }
}
