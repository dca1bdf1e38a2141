//! `token_bucket`: N per period on average, and at most `burst` at once.
//!
//! The arithmetic is that of GCRA. GCRA stores one time (the "theoretical arrival time"), which is
//! a verdict under one rate: change the rate, and it means something else. Here consumption is
//! stored: `used` tokens since `since_us`. By `now`, `floor((now - since) * amount / window)` of
//! them have flowed back. So that nothing is lost to rounding, `since_us` moves only by whole
//! periods in which a whole number of tokens flows back (`window / gcd`), or to now when the bucket
//! is full.

use super::{
    division::mul_div_floor,
    outcome::{Outcome, Step},
    rate::Rate,
    spec::Limit,
};

/// The tokens taken from the bucket since it was last known to the microsecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Tokens taken since `since_us`, or owed from before it.
    pub used: u64,
    /// In microseconds since the Unix epoch.
    pub since_us: u64,
}

pub(super) fn step(limit: &Limit, state: Option<State>, now_us: u64, cost: u64) -> Step<State> {
    let rate = limit.rate();
    let capacity = limit.burst();
    let (mut state, refilled) = refilled(state, now_us, rate);
    let owed = state.used - refilled;
    let allowed = owed + cost <= capacity;
    if allowed {
        state.used += cost;
    }
    let owed_after = state.used - refilled;
    let until = |tokens: u64| state.since_us + rate.time_for(tokens) - now_us;
    let wait_us = if allowed {
        if owed_after == 0 {
            0
        } else {
            until(refilled + 1)
        }
    } else if cost > capacity {
        limit.window_us()
    } else {
        until(refilled + owed + cost - capacity)
    };
    Step {
        state,
        expires_us: state.since_us + rate.time_for(state.used),
        outcome: Outcome {
            allowed,
            remaining: capacity.saturating_sub(owed_after),
            wait_us,
        },
    }
}

/// The state at `now_us`, and how much of `used` has flowed back since its `since_us`.
fn refilled(state: Option<State>, now_us: u64, rate: Rate) -> (State, u64) {
    let full = State {
        used: 0,
        since_us: now_us,
    };
    let Some(mut state) = state else {
        return (full, 0);
    };
    state.since_us = state.since_us.min(now_us);
    let periods = (now_us - state.since_us) / rate.period_us;
    if u128::from(periods) * u128::from(rate.tokens) >= u128::from(state.used) {
        return (full, 0);
    }
    state.since_us += periods * rate.period_us;
    state.used -= periods * rate.tokens;
    let refilled = mul_div_floor(now_us - state.since_us, rate.tokens, rate.period_us);
    if refilled >= state.used {
        return (full, 0);
    }
    (state, refilled)
}
