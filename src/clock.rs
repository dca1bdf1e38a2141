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

/// The machine's time: the wall clock forward, never back.
///
/// When an administrator or NTP sets the wall clock back, windows must not be re-opened: time then
/// goes on by the monotonic clock, until the wall clock has caught up. The monotonic clock alone
/// would not do, because it stands still while a machine is suspended.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
    ahead: Ratchet,
}

impl SystemClock {
    /// Starts the clock. A wall clock before 1970 counts as 1970.
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            ahead: Ratchet::default(),
        }
    }
}

/// How far the wall clock was ahead of the monotonic clock at most, in microseconds.
#[derive(Debug, Default)]
pub struct Ratchet(AtomicU64);

impl Ratchet {
    /// The time when one clock shows `wall_us` and the other `monotonic_us`.
    pub fn time(&self, wall_us: u64, monotonic_us: u64) -> u64 {
        let now = wall_us.saturating_sub(monotonic_us);
        let before = self.0.fetch_max(now, Ordering::Relaxed);
        monotonic_us.saturating_add(before.max(now))
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the wall clock; everything else takes a Clock"
    )]
    fn now_us(&self) -> u64 {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        self.ahead.time(
            micros(wall.unwrap_or_default()),
            micros(self.started.elapsed()),
        )
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
    fn time_follows_the_wall_clock_forward_and_never_back() {
        let ahead = Ratchet::default();
        assert_eq!(ahead.time(1_000, 0), 1_000);
        assert_eq!(ahead.time(1_500, 500), 1_500);
        // Suspended: the monotonic clock stood still for 9,000.
        assert_eq!(ahead.time(10_600, 600), 10_600);
        // Set back by 5,000: time goes on, but does not jump.
        assert_eq!(ahead.time(5_700, 700), 10_700);
        assert_eq!(ahead.time(6_000, 1_000), 11_000);
        // Set right again, and beyond.
        assert_eq!(ahead.time(11_100, 1_100), 11_100);
        assert_eq!(ahead.time(13_000, 1_200), 13_000);
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
