//! Sources of time: [`SystemClock`] in the program, [`ManualClock`] in tests.
//!
//! Only the store in memory asks this clock. With Redis, `TIME` inside Redis decides, and no
//! replica's clock matters.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of time, in integer microseconds since the Unix epoch.
pub trait Clock: Send + Sync {
    /// Microseconds since the Unix epoch; never less than an earlier answer of the same clock.
    fn now_us(&self) -> u64;
}

/// The machine's time: the wall clock as it was at [`SystemClock::new`], advanced by the monotonic
/// clock.
///
/// Windows must not be re-opened when an administrator or NTP sets the wall clock back, so the wall
/// clock is read once. The price is drift over a long life of the process, which no limit can
/// notice.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    wall_us: u64,
    started: Instant,
}

impl SystemClock {
    /// Reads the wall clock once. A wall clock before 1970 counts as 1970.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the wall clock; everything else takes a Clock"
    )]
    pub fn new() -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            wall_us: micros(wall),
            started: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now_us(&self) -> u64 {
        self.wall_us.saturating_add(micros(self.started.elapsed()))
    }
}

/// A clock that moves only when it is moved.
#[derive(Debug, Default)]
pub struct ManualClock {
    now_us: AtomicU64,
}

impl ManualClock {
    /// Creates a clock that shows `now_us` microseconds since the Unix epoch.
    pub const fn new(now_us: u64) -> Self {
        Self {
            now_us: AtomicU64::new(now_us),
        }
    }

    /// Sets the clock to `now_us`, also backwards: how a store copes with that is worth a test.
    pub fn set(&self, now_us: u64) {
        self.now_us.store(now_us, Ordering::SeqCst);
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.now_us.fetch_add(micros(by), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_us(&self) -> u64 {
        self.now_us.load(Ordering::SeqCst)
    }
}

impl<C: Clock + ?Sized> Clock for std::sync::Arc<C> {
    fn now_us(&self) -> u64 {
        (**self).now_us()
    }
}

/// Whole microseconds, rounded down; u64 holds 584,000 years of them.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn system_clock_is_in_this_century_and_never_goes_back() {
        let clock = SystemClock::new();
        let mut last = clock.now_us();
        assert!(
            last > 1_700_000_000_000_000,
            "{last} is before 2023: not microseconds?"
        );
        for _ in 0..10_000 {
            let now = clock.now_us();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn a_manual_clock_moves_only_on_request() {
        let clock = Arc::new(ManualClock::new(5));
        assert_eq!(clock.now_us(), 5);
        clock.advance(Duration::from_millis(2));
        assert_eq!(clock.now_us(), 2_005);
        clock.set(1);
        assert_eq!(clock.now_us(), 1);
    }
}
