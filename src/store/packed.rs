//! States of counters in little memory.
//!
//! A state is some counts and times. Counts are small, and times lie shortly before the one at
//! which the counter expires. So both are written as numbers of variable length (LEB128), times as
//! the distance to that one, and nearly every state fits into 31 bytes. One that does not is kept
//! as it is, in a box; so is a log, which has no fixed length.

use crate::limit::{State, ban, fixed_window, sliding_window, token_bucket};

const SIZE: usize = 31;

const FIXED_WINDOW: u8 = 0;
const SLIDING_WINDOW: u8 = 1;
const TOKEN_BUCKET: u8 = 2;
const BAN: u8 = 3;

/// A state, in 32 bytes.
#[derive(Debug)]
pub(super) enum Packed {
    /// The kind of state, then its numbers.
    Inline([u8; SIZE]),
    /// What does not fit.
    Boxed(Box<State>),
}

impl Packed {
    /// Packs the state of a counter that expires at `expires_us`.
    pub(super) fn new(state: State, expires_us: u64) -> Self {
        match Writer::write(&state, expires_us) {
            Some(bytes) => Self::Inline(bytes),
            None => Self::Boxed(Box::new(state)),
        }
    }

    /// The state; `expires_us` is that of [`new`](Self::new).
    pub(super) fn state(&self, expires_us: u64) -> State {
        let bytes = match self {
            Self::Inline(bytes) => bytes,
            Self::Boxed(state) => return State::clone(state),
        };
        let mut reader = Reader {
            bytes: bytes[1..].iter(),
            expires_us,
        };
        match bytes[0] {
            FIXED_WINDOW => State::FixedWindow(fixed_window::State {
                count: reader.count().cast_signed(),
                start_us: reader.time(),
            }),
            SLIDING_WINDOW => State::SlidingWindow(sliding_window::State {
                current: reader.span(),
                previous: reader.span(),
            }),
            TOKEN_BUCKET => State::TokenBucket(token_bucket::State {
                used: reader.count().cast_signed(),
                since_us: reader.time(),
            }),
            _ => State::Ban(ban::State {
                denials: reader.count(),
                since_us: reader.time(),
                until_us: reader.time(),
            }),
        }
    }
}

struct Writer {
    bytes: [u8; SIZE],
    length: usize,
    expires_us: u64,
}

impl Writer {
    fn write(state: &State, expires_us: u64) -> Option<[u8; SIZE]> {
        let mut writer = Self {
            bytes: [0; SIZE],
            length: 1,
            expires_us,
        };
        writer.bytes[0] = match state {
            State::FixedWindow(s) => {
                writer.used(s.count)?;
                writer.time(s.start_us)?;
                FIXED_WINDOW
            }
            State::SlidingWindow(s) => {
                writer.span(s.current)?;
                writer.span(s.previous)?;
                SLIDING_WINDOW
            }
            State::TokenBucket(s) => {
                writer.used(s.used)?;
                writer.time(s.since_us)?;
                TOKEN_BUCKET
            }
            State::Ban(s) => {
                writer.count(s.denials)?;
                writer.time(s.since_us)?;
                writer.time(s.until_us)?;
                BAN
            }
            State::SlidingLog(_) => return None,
        };
        Some(writer.bytes)
    }

    fn span(&mut self, span: sliding_window::Span) -> Option<()> {
        self.used(span.count)?;
        self.time(span.start_us)?;
        self.time(span.last_us)
    }

    /// Zero, which means "never", is itself; other times are one more than their distance.
    fn time(&mut self, time_us: u64) -> Option<()> {
        match time_us {
            0 => self.count(0),
            _ => self.count(self.expires_us.checked_sub(time_us)?.checked_add(1)?),
        }
    }

    /// What is below zero is rare, and kept in a box.
    fn used(&mut self, count: i64) -> Option<()> {
        self.count(u64::try_from(count).ok()?)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "only the lowest bits are meant"
    )]
    fn count(&mut self, mut number: u64) -> Option<()> {
        loop {
            let byte = self.bytes.get_mut(self.length)?;
            self.length += 1;
            if number < 0x80 {
                *byte = number as u8;
                return Some(());
            }
            *byte = number as u8 | 0x80;
            number >>= 7;
        }
    }
}

struct Reader<'a> {
    bytes: std::slice::Iter<'a, u8>,
    expires_us: u64,
}

impl Reader<'_> {
    fn span(&mut self) -> sliding_window::Span {
        sliding_window::Span {
            count: self.count().cast_signed(),
            start_us: self.time(),
            last_us: self.time(),
        }
    }

    fn time(&mut self) -> u64 {
        match self.count() {
            0 => 0,
            more => self.expires_us - (more - 1),
        }
    }

    fn count(&mut self) -> u64 {
        let mut number = 0;
        for (byte, shift) in self.bytes.by_ref().zip((0..).step_by(7)) {
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::sliding_log;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000_000_000;

    fn window(days: u64) -> State {
        let us = days * 86_400_000_000;
        let span = |count, ago| sliding_window::Span {
            count,
            start_us: NOW - ago - us / 2,
            last_us: NOW - ago,
        };
        State::SlidingWindow(sliding_window::State {
            current: span(9_999, 0),
            previous: span(9_999, us),
        })
    }

    #[test]
    fn what_limits_usually_are_fits_without_a_box() {
        assert_eq!(size_of::<Packed>(), 32);
        for days in [0, 1, 30] {
            let packed = Packed::new(window(days), NOW + days * 86_400_000_000);
            assert!(matches!(packed, Packed::Inline(_)), "{days} days");
        }
    }

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![
            Just(0),
            0..200_u64,
            NOW - 100_000_000..NOW + 100_000_000,
            any::<u64>()
        ]
    }

    proptest! {
        #[test]
        fn every_state_is_unpacked_as_it_was_packed(n in [number(), number(), number(), number(), number(), number()], expires in number()) {
            let used = |i: usize| n[i].cast_signed();
            let span = |i| sliding_window::Span { count: used(i), start_us: n[i + 1], last_us: n[i + 2] };
            for state in [
                State::FixedWindow(fixed_window::State { count: used(0), start_us: n[1] }),
                State::SlidingWindow(sliding_window::State { current: span(0), previous: span(3) }),
                State::TokenBucket(token_bucket::State { used: used(0), since_us: n[1] }),
                State::Ban(ban::State { denials: n[0], since_us: n[1], until_us: n[2] }),
                State::SlidingLog(sliding_log::State { total: used(0), entries: vec![sliding_log::Entry { at_us: n[1], cost: used(0) }] }),
            ] {
                let packed = Packed::new(state.clone(), expires);
                prop_assert_eq!(packed.state(expires), state);
            }
        }
    }
}
