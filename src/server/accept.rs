//! What keeps an accept loop calm when accepting fails.

use std::time::Duration;

use tokio::time::Instant;

/// Pauses between failed accepts: out of file descriptors, the next accept fails at once, and without a pause the loop would
/// burn a core until a connection ends.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    last: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(5);
    const LONGEST: Duration = Duration::from_secs(1);

    /// How long to pause now: twice as long as before.
    pub(super) fn next(&mut self) -> Duration {
        self.last = (self.last * 2).clamp(Self::FIRST, Self::LONGEST);
        self.last
    }

    /// An accept succeeded.
    pub(super) fn reset(&mut self) {
        self.last = Duration::ZERO;
    }
}

/// Lets one log line through per second, and counts the others.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    last: Option<Instant>,
    held_back: u64,
}

impl Throttle {
    const INTERVAL: Duration = Duration::from_secs(1);

    /// Whether to log now, and if so how many times that was refused since the last.
    pub(super) fn permit(&mut self, now: Instant) -> Option<u64> {
        if self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < Self::INTERVAL)
        {
            self.held_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_a_second_and_starts_again() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..10).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.next(), Backoff::FIRST);
    }

    #[test]
    fn throttle_lets_one_through_per_second_and_tells_of_the_rest() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        assert_eq!(throttle.permit(start), Some(0));
        assert_eq!(throttle.permit(start), None);
        assert_eq!(throttle.permit(start + Duration::from_millis(999)), None);
        assert_eq!(throttle.permit(start + Duration::from_secs(1)), Some(2));
        assert_eq!(throttle.permit(start + Duration::from_secs(5)), Some(0));
    }
}
