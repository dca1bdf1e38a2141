//! One step of a limit: the dispatch to its algorithm.

use super::{
    fixed_window,
    outcome::Step,
    sliding_log, sliding_window,
    spec::{Algorithm, Limit},
    state::State,
    token_bucket,
};

impl Limit {
    /// The next state when `cost` arrives at `now_us`. A `state` of another algorithm counts as
    /// none.
    pub fn step(&self, state: Option<State>, now_us: u64, cost: u64) -> Step<State> {
        match self.algorithm() {
            Algorithm::FixedWindow => {
                let state = match state {
                    Some(State::FixedWindow(state)) => Some(state),
                    _ => None,
                };
                fixed_window::step(self, state, now_us, cost).map(State::FixedWindow)
            }
            Algorithm::SlidingWindow => {
                let state = match state {
                    Some(State::SlidingWindow(state)) => Some(state),
                    _ => None,
                };
                sliding_window::step(self, state, now_us, cost).map(State::SlidingWindow)
            }
            Algorithm::SlidingLog => {
                let state = match state {
                    Some(State::SlidingLog(state)) => Some(state),
                    _ => None,
                };
                sliding_log::step(self, state, now_us, cost).map(State::SlidingLog)
            }
            Algorithm::TokenBucket => {
                let state = match state {
                    Some(State::TokenBucket(state)) => Some(state),
                    _ => None,
                };
                token_bucket::step(self, state, now_us, cost).map(State::TokenBucket)
            }
        }
    }
}
