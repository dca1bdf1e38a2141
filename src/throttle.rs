//! Keeps the log readable: a maximum of lines per second, each event once, the rest counted.
//!
//! | type            | lets through               | used by                                        |
//! |-----------------|----------------------------|------------------------------------------------|
//! | [`Throttle`]    | one per interval           | accept errors, refused connections, Redis' state |
//! | [`RateCap`]     | N per second, without lock | the decision log, on the check path            |
//! | [`FirstTime`]   | each key once              | faults of a proxy's configuration              |

use std::{
    collections::HashSet,
    hash::Hash,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

/// Lets one event through per interval, and counts the others.
#[derive(Debug)]
pub struct Throttle {
    interval: Duration,
    last: Option<Instant>,
    suppressed: u64,
}

impl Throttle {
    /// A throttle that has let nothing through yet.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            last: None,
            suppressed: 0,
        }
    }

    /// Whether to let an event through at `now`; if so, how many were suppressed since the last
    /// one.
    pub fn permit(&mut self, now: Instant) -> Option<u64> {
        let is_early = |last| now.saturating_duration_since(last) < self.interval;
        if self.last.is_some_and(is_early) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// Lets a number of events through per second, and counts the others.
///
/// Without a lock: in a flood of denials every worker thread comes by here.
#[derive(Debug)]
pub struct RateCap {
    per_second: u32,
    /// The last second with an event in the upper half; its events in the lower half.
    second: AtomicU64,
    suppressed: AtomicU64,
}

impl RateCap {
    /// A cap of `per_second` events.
    pub fn new(per_second: u32) -> Self {
        Self {
            per_second,
            second: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
        }
    }

    /// Whether to let an event through, `elapsed` after some fixed instant; if so, how many were
    /// suppressed since the last one.
    pub fn permit(&self, elapsed: Duration) -> Option<u64> {
        let this_second = elapsed.as_secs() << 32;
        let next = |last: u64| {
            // A thread that read the clock late counts towards the second that others have begun.
            let current = last.max(this_second);
            let events = current & u64::from(u32::MAX);
            (events < u64::from(self.per_second)).then_some(current + 1)
        };
        if self.second.fetch_update(Relaxed, Relaxed, next).is_ok() {
            return Some(self.suppressed.swap(0, Relaxed));
        }
        self.suppressed.fetch_add(1, Relaxed);
        None
    }
}

/// Lets each key through once. Meant for keys of which there are few.
#[derive(Debug)]
pub struct FirstTime<K>(Mutex<HashSet<K>>);

impl<K: Eq + Hash> FirstTime<K> {
    /// Whether `key` comes for the first time.
    pub fn permit(&self, key: K) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(key)
    }
}

impl<K> Default for FirstTime<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttle_lets_one_through_per_interval_and_counts_the_rest() {
        let mut throttle = Throttle::new(Duration::from_secs(1));
        let start = Instant::now();
        assert_eq!(throttle.permit(start), Some(0));
        assert_eq!(throttle.permit(start), None);
        assert_eq!(throttle.permit(start + Duration::from_millis(999)), None);
        assert_eq!(throttle.permit(start + Duration::from_secs(1)), Some(2));
        assert_eq!(throttle.permit(start + Duration::from_secs(5)), Some(0));
    }

    #[test]
    fn a_rate_cap_lets_n_through_per_second_and_counts_the_rest() {
        let cap = RateCap::new(2);
        let after = Duration::from_millis;
        assert_eq!(cap.permit(after(0)), Some(0));
        assert_eq!(cap.permit(after(999)), Some(0));
        for _ in 0..5 {
            assert_eq!(cap.permit(after(999)), None);
        }
        assert_eq!(cap.permit(after(1_000)), Some(5));
        assert_eq!(cap.permit(after(1_000)), Some(0));
        assert_eq!(cap.permit(after(1_001)), None);
        // One that read the clock before the others.
        assert_eq!(cap.permit(after(999)), None);
        assert_eq!(cap.permit(after(60_000)), Some(2));
    }

    #[test]
    fn each_key_is_permitted_once() {
        let first = FirstTime::default();
        assert!(first.permit("a"));
        assert!(first.permit("b"));
        assert!(!first.permit("a"));
    }
}
