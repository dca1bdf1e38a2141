//! Redis' clock as well as it is known here.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::clock::{Clock as _, SystemClock};

/// Follows the clock of Redis by the times in its replies. It is late by the time that the last
/// reply took to arrive, which is nothing beside the windows of a calendar.
pub(super) struct RedisTime {
    own: SystemClock,
    /// Redis' time minus ours, in microseconds.
    offset_us: AtomicI64,
}

impl RedisTime {
    /// Creates a clock that shows our own time until Redis sends its own.
    pub(super) fn new() -> Self {
        Self {
            own: SystemClock::new(),
            offset_us: AtomicI64::new(0),
        }
    }

    /// Notes the time in a reply that has just arrived.
    pub(super) fn observe(&self, now_us: u64) {
        // Both are far below 2^63, so the difference of the wrapped values is that of the times.
        let offset = now_us.wrapping_sub(self.own.now_us()).cast_signed();
        self.offset_us.store(offset, Ordering::Relaxed);
    }

    pub(super) fn now_us(&self) -> u64 {
        let offset = self.offset_us.load(Ordering::Relaxed);
        self.own.now_us().saturating_add_signed(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_that_of_the_last_answer_and_goes_on() {
        const MINUTE: u64 = 60_000_000;
        let time = RedisTime::new();
        let ours = time.now_us();
        for told in [ours + 500 * MINUTE, ours - 500 * MINUTE, 0, 1 << 53] {
            time.observe(told);
            let now = time.now_us();
            assert!(
                (told..told + MINUTE).contains(&now),
                "told {told}, then {now}"
            );
        }
    }
}
