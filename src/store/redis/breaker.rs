//! The breaker: with Redis hanging, checks are answered at once instead of one late one after the
//! other.
//!
//! It is one for the whole store. It opens after a run of checks that were late while no reply came
//! at all, over any lane, and closes with the next reply. No check is needed to find out: lanes
//! still wait for the replies to what they have sent, reconnect with back-off and jitter, and probe
//! when they are idle.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// How many late checks in a row open the breaker.
const RUN: u32 = 3;

/// Whether Redis is worth waiting for.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    late: AtomicU32,
    open: AtomicBool,
}

impl Breaker {
    /// Whether checks are answered without asking.
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// A check was late. Returns whether this opened the breaker.
    pub(super) fn late(&self) -> bool {
        let run = self.late.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        run >= RUN && !self.open.swap(true, Ordering::Relaxed)
    }

    /// Redis has replied. Returns whether this closed the breaker.
    pub(super) fn replied(&self) -> bool {
        // Reading is cheap; writing what is there already would move the cache line.
        if self.late.load(Ordering::Relaxed) != 0 {
            self.late.store(0, Ordering::Relaxed);
        }
        self.is_open() && self.open.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_late_checks_opens_it_and_a_reply_closes_it() {
        let breaker = Breaker::default();
        for _ in 0..2 {
            assert!(!breaker.late() && !breaker.late());
            assert!(!breaker.is_open());
            assert!(!breaker.replied(), "it was closed");
        }
        assert!(!breaker.late() && !breaker.late());
        assert!(breaker.late() && breaker.is_open());
        assert!(!breaker.late(), "it is open already");
        assert!(breaker.replied() && !breaker.is_open());
        assert!(!breaker.late());
    }
}
