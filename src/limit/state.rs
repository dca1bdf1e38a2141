//! The stored state of a limit, and its text.

use std::fmt;

use super::{
    ban, fixed_window, sliding_log, sliding_window,
    spec::Algorithm,
    text::{number, signed, signed_numbers},
    token_bucket,
};

/// The stored state of one counter or one ban.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// See [`fixed_window::State`].
    FixedWindow(fixed_window::State),
    /// See [`sliding_window::State`].
    SlidingWindow(sliding_window::State),
    /// See [`sliding_log::State`].
    SlidingLog(sliding_log::State),
    /// See [`token_bucket::State`].
    TokenBucket(token_bucket::State),
    /// A ban. It belongs to no algorithm: see [`ban::State`].
    Ban(ban::State),
}

/// The text in Redis: the numbers in the order of the fields, separated by spaces. A log has its
/// total and the time of its newest entry in front of the entries, so that the script need not read
/// all of it.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FixedWindow(s) => write!(f, "{} {}", s.count, s.start_us),
            Self::SlidingWindow(s) => write!(
                f,
                "{} {} {} {} {} {}",
                s.current.count,
                s.current.start_us,
                s.current.last_us,
                s.previous.count,
                s.previous.start_us,
                s.previous.last_us
            ),
            Self::SlidingLog(s) => {
                write!(f, "{} {}", s.total, s.last_us())?;
                for entry in &s.entries {
                    write!(f, " {} {}", entry.at_us, entry.cost)?;
                }
                Ok(())
            }
            Self::TokenBucket(s) => write!(f, "{} {}", s.used, s.since_us),
            Self::Ban(s) => s.fmt(f),
        }
    }
}

impl State {
    /// Parses what [`Display`](fmt::Display) writes for this algorithm; `None` for any other text.
    /// For bans, see [`ban::State::parse`].
    pub fn parse(algorithm: Algorithm, text: &str) -> Option<Self> {
        Some(match algorithm {
            Algorithm::FixedWindow => {
                let (count, [start_us]) = signed_numbers(text)?;
                Self::FixedWindow(fixed_window::State { count, start_us })
            }
            Algorithm::SlidingWindow => {
                let (count, rest) = signed_numbers(text)?;
                let [start_us, last_us, old, old_start, old_last] = rest;
                if start_us > last_us || old_start > old_last {
                    return None;
                }
                Self::SlidingWindow(sliding_window::State {
                    current: sliding_window::Span {
                        count,
                        start_us,
                        last_us,
                    },
                    previous: sliding_window::Span {
                        count: old.cast_signed(),
                        start_us: old_start,
                        last_us: old_last,
                    },
                })
            }
            Algorithm::SlidingLog => Self::SlidingLog(parse_log(text)?),
            Algorithm::TokenBucket => {
                let (used, [since_us]) = signed_numbers(text)?;
                Self::TokenBucket(token_bucket::State { used, since_us })
            }
        })
    }
}

fn parse_log(text: &str) -> Option<sliding_log::State> {
    let mut words = text.split(' ');
    let (total, last_us) = (signed(words.next()?)?, number(words.next()?)?);
    let mut entries = Vec::new();
    let mut sum = 0_i64;
    while let Some(at_us) = words.next() {
        let (at_us, cost) = (number(at_us)?, signed(words.next()?)?);
        sum = sum.checked_add(cost)?;
        entries.push(sliding_log::Entry { at_us, cost });
    }
    // What is left of a grant stands alone.
    let is_granted = |entry: &sliding_log::Entry| entry.cost < 0;
    if entries.len() > 1 && entries.iter().any(is_granted) {
        return None;
    }
    let state = sliding_log::State { total, entries };
    let is_whole = sum == total
        && state.last_us() == last_us
        && state.entries.is_sorted_by_key(|entry| entry.at_us);
    is_whole.then_some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_as_it_was_written() {
        for (algorithm, text) in [
            (Algorithm::FixedWindow, "5 1700000000000000"),
            (Algorithm::SlidingWindow, "1 2 3 4 5 6"),
            (Algorithm::SlidingLog, "0 0"),
            (Algorithm::SlidingLog, "5 17 16 2 17 3"),
            (Algorithm::TokenBucket, "7 8"),
            (Algorithm::FixedWindow, "-5 1700000000000000"),
            (Algorithm::SlidingWindow, "-1 2 3 4 5 6"),
            (Algorithm::SlidingLog, "-5 17 17 -5"),
            (Algorithm::TokenBucket, "-7 8"),
        ] {
            let state = State::parse(algorithm, text).unwrap();
            assert_eq!(state.to_string(), text, "{algorithm}");
        }
    }

    #[test]
    fn a_text_that_tollgate_did_not_write_is_none() {
        for algorithm in Algorithm::ALL {
            for text in [
                "",
                " ",
                "1",
                "+1 2",
                "1 -2",
                "- 2",
                "--1 2",
                "-9007199254740993 1",
                "1 2 3 -4 5 6",
                "1  2",
                "1 2 ",
                "1 2 3",
                "one two",
                "18446744073709551616 1",
                "18446744073709551615 1",
                "9007199254740993 1",
                "1 9007199254740993",
                "1 3 2 4 5 6",
                "1 2 3 4 6 5",
            ] {
                assert_eq!(State::parse(algorithm, text), None, "{algorithm} {text:?}");
            }
        }
        for ban in ["", "1 2", "1 2 3 4", "1 2 x", "18446744073709551615 1 1"] {
            assert_eq!(ban::State::parse(ban), None, "{ban}");
        }
        let ban = ban::State::parse("1 2 3").unwrap();
        assert_eq!((ban.denials, ban.since_us, ban.until_us), (1, 2, 3));
        assert_eq!(State::Ban(ban).to_string(), "1 2 3");
        for log in [
            "4 17 16 2 17 3",
            "5 16 16 2 17 3",
            "5 16 17 2 16 3",
            "5 17",
            "-1 17 16 -3 17 2",
        ] {
            assert_eq!(State::parse(Algorithm::SlidingLog, log), None, "{log}");
        }
    }
}
