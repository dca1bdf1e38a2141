//! Redis' clock as well as it is known here, and whether it can be relied on.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use crate::clock::{Clock as _, SystemClock};

/// How far Redis' clock may be from where it is expected to be, in microseconds. Clocks that are
/// kept in step are slewed by less within a reply, and the nodes of a cluster are no further apart.
const TOLERANCE_US: u64 = 50_000;

/// How long a clock is in doubt after it was somewhere else.
const DOUBT: Duration = Duration::from_secs(10);

/// Follows the clock of Redis by the times in its replies. It may be wrong by the time that a reply
/// takes, which is nothing beside the windows of a calendar.
pub(super) struct RedisTime {
    own: SystemClock,
    /// Redis' time minus ours, in microseconds.
    offset_us: AtomicI64,
    born: Instant,
    /// Until when it is in doubt, in microseconds after `born`.
    doubt_us: AtomicU64,
}

impl RedisTime {
    /// Creates a clock that shows our own time until Redis sends its own.
    pub(super) fn new() -> Self {
        Self {
            own: SystemClock::new(),
            offset_us: AtomicI64::new(0),
            born: Instant::now(),
            doubt_us: AtomicU64::new(0),
        }
    }

    /// Notes the time in a reply that has just arrived, to a call of `asked`.
    ///
    /// Redis read its clock at some time between then and now. As long as what was known of its
    /// clock agrees with that, nothing new is learnt.
    pub(super) fn observe(&self, now_us: u64, asked: Instant) {
        let now = Instant::now();
        let span = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        // Both are far below 2^63, so the difference of the wrapped values is that of the times.
        let least = now_us.wrapping_sub(self.own.now_us()).cast_signed();
        let most = least.saturating_add(span(now.saturating_duration_since(asked)));
        let before = self.offset_us.load(Ordering::Relaxed);
        let offset = before.clamp(least, most);
        if offset == before {
            return;
        }
        self.offset_us.store(offset, Ordering::Relaxed);
        if offset.abs_diff(before) > TOLERANCE_US {
            let until = now + DOUBT - self.born;
            let until = u64::try_from(until.as_micros()).unwrap_or(u64::MAX);
            self.doubt_us.fetch_max(until, Ordering::Relaxed);
        }
    }

    pub(super) fn now_us(&self) -> u64 {
        let offset = self.offset_us.load(Ordering::Relaxed);
        self.own.now_us().saturating_add_signed(offset)
    }

    /// Whether it was lately somewhere else than expected: somebody has set it, another server has
    /// taken over, or the nodes of a cluster disagree.
    pub(super) fn is_in_doubt(&self, now: Instant) -> bool {
        let until = Duration::from_micros(self.doubt_us.load(Ordering::Relaxed));
        now.saturating_duration_since(self.born) < until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000_000;

    #[test]
    fn the_time_is_that_of_the_last_answer_and_goes_on() {
        let time = RedisTime::new();
        let ours = time.now_us();
        for theirs in [ours + 500 * MINUTE, ours - 500 * MINUTE, 0, 1 << 53] {
            time.observe(theirs, Instant::now());
            let now = time.now_us();
            assert!(
                (theirs..theirs + MINUTE).contains(&now),
                "Redis said {theirs}, then {now}"
            );
        }
    }

    #[test]
    fn a_clock_that_jumps_is_in_doubt_for_a_while_in_either_direction() {
        for jump in [i64::MIN / 4, -60_000_000, -200_000, 200_000, 60_000_000] {
            let time = RedisTime::new();
            let ours = time.now_us();
            time.observe(ours, Instant::now());
            assert!(!time.is_in_doubt(Instant::now()), "{jump}");
            time.observe(ours.wrapping_add_signed(jump), Instant::now());
            let now = Instant::now();
            assert!(time.is_in_doubt(now), "{jump}");
            assert!(!time.is_in_doubt(now + DOUBT), "{jump}");
        }
    }

    #[test]
    fn a_late_reply_is_no_jump() {
        let time = RedisTime::new();
        let asked = Instant::now().checked_sub(Duration::from_secs(3)).unwrap();
        let ours = time.now_us();
        time.observe(ours, Instant::now());
        // Redis read its clock when it was asked, three seconds ago, and then when it answered.
        time.observe(ours - 3_000_000, asked);
        time.observe(ours, asked);
        time.observe(ours, Instant::now());
        assert!(!time.is_in_doubt(Instant::now()));
        time.observe(ours - 3_500_000, asked);
        assert!(time.is_in_doubt(Instant::now()));
    }
}
