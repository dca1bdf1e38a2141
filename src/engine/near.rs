//! From when on a limit counts as nearly reached.

use std::{fmt, str::FromStr};

use crate::problem::Problem;

/// The share of a limit from which on it counts as nearly reached, in percent: 1 to 99.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NearLimit(u8);

impl Default for NearLimit {
    fn default() -> Self {
        Self(80)
    }
}

impl NearLimit {
    /// Whether it is reached when `remaining` is left of what a limit holds.
    pub fn is_reached(self, holds: u64, remaining: u64) -> bool {
        let rest = u128::from(100 - self.0);
        u128::from(remaining) * 100 <= u128::from(holds) * rest
    }
}

impl fmt::Display for NearLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl FromStr for NearLimit {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let percent = text.strip_suffix('%').unwrap_or(text).parse().ok();
        let percent = percent.filter(|percent| (1..=99).contains(percent));
        percent.map(Self).ok_or_else(|| {
            Problem::new(
                format!("{text:?} is no share of a limit"),
                "write one from 1% to 99%, like 80%",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_reached_when_so_much_is_used() {
        let near = NearLimit::default();
        let reached = |holds, remaining| near.is_reached(holds, remaining);
        assert_eq!(
            [3, 2, 1, 0].map(|left| reached(10, left)),
            [false, true, true, true]
        );
        // Of a small limit, the last request alone may be near.
        assert_eq!([1, 0].map(|left| reached(4, left)), [false, true]);
        assert!(reached(u64::MAX, u64::MAX / 5));
        assert!(!reached(u64::MAX, u64::MAX / 5 + 1));
    }

    #[test]
    fn it_is_written_in_percent() {
        assert_eq!("80%".parse::<NearLimit>().unwrap(), NearLimit::default());
        assert_eq!("5".parse::<NearLimit>().unwrap().to_string(), "5%");
        for text in ["0%", "100%", "0.8", "", "%", "-5%"] {
            assert!(text.parse::<NearLimit>().is_err(), "{text}");
        }
    }
}
