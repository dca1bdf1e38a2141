//! What happened when, in few intervals however long the log is.

use serde::Serialize;

/// The most intervals. When there would be more, two become one each.
const MOST: usize = 120;

/// Requests over time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Timeline {
    /// The length of an interval, in seconds.
    pub seconds: u64,
    /// The requests of each interval, from the first request of the log on.
    pub requests: Vec<u64>,
    /// How many of them were denied.
    pub denied: Vec<u64>,
}

impl Timeline {
    pub(super) const fn new() -> Self {
        Self {
            seconds: 1,
            requests: Vec::new(),
            denied: Vec::new(),
        }
    }

    /// Counts a request that came `after_us` microseconds after the first one of the log.
    pub(super) fn add(&mut self, after_us: u64, is_denied: bool) {
        let after = after_us / 1_000_000;
        while after / self.seconds >= MOST as u64 {
            self.halve();
        }
        let at = usize::try_from(after / self.seconds).unwrap_or(MOST - 1);
        if self.requests.len() <= at {
            self.requests.resize(at + 1, 0);
            self.denied.resize(at + 1, 0);
        }
        self.requests[at] += 1;
        self.denied[at] += u64::from(is_denied);
    }

    fn halve(&mut self) {
        self.seconds *= 2;
        for counts in [&mut self.requests, &mut self.denied] {
            *counts = counts.chunks(2).map(|pair| pair.iter().sum()).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_long_it_is_nothing_is_lost() {
        let mut line = Timeline::new();
        for second in 0..100_000 {
            line.add(second * 1_000_000, second % 10 == 0);
        }
        assert!(line.requests.len() <= MOST && line.requests.len() >= MOST / 2);
        assert_eq!(line.requests.iter().sum::<u64>(), 100_000);
        assert_eq!(line.denied.iter().sum::<u64>(), 10_000);
        assert_eq!(line.requests[0], line.seconds);
        line.add(u64::MAX, true);
        assert_eq!(line.denied.iter().sum::<u64>(), 10_001);
        assert!(line.requests.len() <= MOST);
    }
}
