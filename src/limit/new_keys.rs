//! `max_new_keys`: how many counters of a rule may come into being.
//!
//! A client that invents keys (API keys, IPv6 prefixes) makes a counter with each, and would fill
//! the store for everybody. So each rule has a budget: as many new counters per second, and at most
//! a minute's worth at once, so that a store that has lost its counters is not an outage for the
//! clients of a busy rule. It is a [token bucket](super::token_bucket). Clients beyond it share the
//! rule's overflow counter, with the limits of the rule. A client that has any counter of the rule
//! is known, and needs none of the budget.
//!
//! Counters of [short windows](lasts) have no budget: they cannot pile up, and a client that comes
//! back after a pause would be new each time.

use super::spec::{Algorithm, Limit};

/// The budget of a rule that does not say another: new counters per second.
pub const DEFAULT: u32 = 1_000;

/// The largest budget, in new counters per second.
pub const MAX: u32 = 1_000_000;

/// How many seconds' worth can be saved up.
const SAVED: u64 = 60;

/// The longest window whose counters live so briefly that they need no budget, in microseconds.
const BRIEF_US: u64 = 10_000_000;

/// Whether the counters of `limit` live long enough to pile up.
pub fn lasts(limit: &Limit) -> bool {
    limit.window_us() > BRIEF_US
}

/// The bucket of a budget; `None` if there is none.
pub fn budget(max_new_keys: u32) -> Option<Limit> {
    let rate = u64::from(max_new_keys);
    Limit::new(Algorithm::TokenBucket, rate, 1_000_000, Some(SAVED * rate)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minutes_worth_can_be_saved() {
        assert_eq!(budget(0), None);
        let most = budget(MAX).unwrap();
        assert_eq!((most.amount(), most.burst()), (1_000_000, 60_000_000));
    }
}
