//! Random delays, so that many clients or replicas do not act in step.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

/// A random number from 0 to `most`.
///
/// The randomness is that of a fresh hasher: enough to spread load, and no dependency.
pub fn up_to(most: u64) -> u64 {
    match most.checked_add(1) {
        Some(values) => RandomState::new().hash_one(()) % values,
        None => RandomState::new().hash_one(()),
    }
}

/// Between half and the whole of `pause`.
pub fn half_to_whole(pause: Duration) -> Duration {
    let half = pause / 2;
    let spread = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
    half + Duration::from_micros(up_to(spread))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_its_bounds() {
        let second = Duration::from_secs(1);
        for _ in 0..1_000 {
            assert!(up_to(3) <= 3);
            assert!((second / 2..=second).contains(&half_to_whole(second)));
        }
        assert_eq!(up_to(0), 0);
        assert_eq!(half_to_whole(Duration::ZERO), Duration::ZERO);
    }
}
