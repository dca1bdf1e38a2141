//! `token_bucket`: N per period on average, and at most `burst` at once.
//!
//! The arithmetic is that of GCRA. GCRA stores one time (the "theoretical arrival time"), which is
//! a verdict under one rate: change the rate, and it means something else. Here consumption is
//! stored: `used` tokens since `since_us`. By `now`, `floor((now - since) * amount / window)` of
//! them have flowed back. So that nothing is lost to rounding, `since_us` moves only by whole
//! periods in which a whole number of tokens flows back (`window / gcd`), or to now when the bucket
//! is full.
//!
//! Of a bucket of which more was [granted](super::Limit::grant), less than nothing is used:
//! nothing flows back, and `since_us` is when that was. It ends one window later.

use super::{
    division::mul_div_floor,
    outcome::{Outcome, Step, left},
    spec::Limit,
};

/// The tokens taken from the bucket since it was last known to the microsecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Tokens taken since `since_us`, or owed from before it. Below zero, so many more than the
    /// bucket holds are in it.
    pub used: i64,
    /// In microseconds since the Unix epoch.
    pub since_us: u64,
}

pub(super) fn step(limit: &Limit, state: Option<State>, now_us: u64, cost: u64) -> Step<State> {
    let rate = limit.rate();
    let capacity = limit.burst();
    let (mut state, refilled) = refilled(limit, state, now_us);
    let owed = state.used - refilled;
    let signed_cost = cost.cast_signed();
    let allowed = owed + signed_cost <= capacity.cast_signed();
    if allowed {
        // Tokens begin to flow back when what was granted is spent.
        if state.used < 0 && state.used + signed_cost > 0 {
            state.since_us = now_us;
        }
        state.used += signed_cost;
    }
    let owed_after = state.used - refilled;
    let until = |tokens: i64| state.since_us + rate.time_for(tokens.unsigned_abs()) - now_us;
    let wait_us = if allowed {
        if owed_after > 0 {
            until(refilled + 1)
        } else if state.used < 0 || cost > 0 {
            state.since_us + limit.window_us() - now_us
        } else {
            0
        }
    } else if cost > capacity {
        limit.window_us()
    } else {
        until(state.used + signed_cost - capacity.cast_signed())
    };
    Step {
        state,
        expires_us: expires_us(limit, state),
        outcome: Outcome {
            allowed,
            remaining: left(capacity, owed_after),
            wait_us,
        },
    }
}

/// The state with `more` granted, and when it expires.
pub(super) fn grant(limit: &Limit, state: Option<State>, now_us: u64, more: i64) -> (State, u64) {
    let (mut state, refilled) = refilled(limit, state, now_us);
    if state.used - refilled <= more {
        // It is full, or holds more than it can: nothing flows back.
        state.used -= refilled;
        state.since_us = now_us;
    }
    state.used -= more;
    (state, expires_us(limit, state))
}

/// When the bucket is as one that was never used.
fn expires_us(limit: &Limit, state: State) -> u64 {
    let lasts_us = match u64::try_from(state.used) {
        Ok(used) if used > 0 => limit.rate().time_for(used),
        _ => limit.window_us(),
    };
    state.since_us + lasts_us
}

/// The state at `now_us`, and how much of `used` has flowed back since its `since_us`.
fn refilled(limit: &Limit, state: Option<State>, now_us: u64) -> (State, i64) {
    let rate = limit.rate();
    let full = State {
        used: 0,
        since_us: now_us,
    };
    let Some(mut state) = state else {
        return (full, 0);
    };
    state.since_us = state.since_us.min(now_us);
    if state.used < 0 && now_us < state.since_us + limit.window_us() {
        return (state, 0);
    }
    let used = u64::try_from(state.used).unwrap_or(0);
    let periods = (now_us - state.since_us) / rate.period_us;
    if u128::from(periods) * u128::from(rate.tokens) >= u128::from(used) {
        return (full, 0);
    }
    state.since_us += periods * rate.period_us;
    let used = used - periods * rate.tokens;
    let refilled = mul_div_floor(now_us - state.since_us, rate.tokens, rate.period_us);
    if refilled >= used {
        return (full, 0);
    }
    state.used = used.cast_signed();
    (state, refilled.cast_signed())
}
