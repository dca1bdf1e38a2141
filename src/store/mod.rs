//! Where consumption is kept: one trait, a store in memory and one in Redis.
//!
//! # The promise
//!
//! [`Store::charge`] decides about a whole request at once. Either every enforced limit of the [`Batch`] fits and all of
//! them are charged, or nothing is charged anywhere. Concurrent calls, from however many replicas share the store,
//! behave as if they came one after the other. An error means that the store's answer is not known; the charge may have
//! been made. The store's own clock decides about time.

pub mod guard;
pub mod memory;
pub mod redis;

use std::{fmt::Write as _, future::Future, ops::Range, pin::Pin};

use tokio::time::Instant;

use crate::{
    limit::{Limit, Outcome},
    metrics::StoreFailure,
};

/// The group of charges that can deny a request. Every other group is one rule in shadow mode.
pub const ENFORCED: u32 = 0;

/// One limit to be charged for one caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    key: Range<usize>,
    /// The limit.
    pub limit: Limit,
    /// How much, at least 1.
    pub cost: u64,
    /// [`ENFORCED`], or a number of its own for each shadow rule.
    pub group: u32,
}

/// Everything that one request has to satisfy. The keys share one buffer.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    keys: String,
    charges: Vec<Charge>,
}

impl Batch {
    /// Adds a charge; `write_key` appends its key, which must differ from all others of the batch.
    pub fn push(
        &mut self,
        limit: Limit,
        cost: u64,
        group: u32,
        write_key: impl FnOnce(&mut String),
    ) {
        let start = self.keys.len();
        write_key(&mut self.keys);
        self.charges.push(Charge {
            key: start..self.keys.len(),
            limit,
            cost,
            group,
        });
    }

    /// The charges, in the order in which they were added.
    pub fn charges(&self) -> &[Charge] {
        &self.charges
    }

    /// The key of one of this batch's charges.
    pub fn key(&self, charge: &Charge) -> &str {
        &self.keys[charge.key.clone()]
    }

    /// Whether there is nothing to charge.
    pub fn is_empty(&self) -> bool {
        self.charges.is_empty()
    }
}

/// What the store said about a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether every enforced limit fits; if not, nothing was charged.
    pub admitted: bool,
    /// One answer for each charge. When the request was not admitted, only those that do not fit mean anything.
    pub outcomes: Vec<Outcome>,
}

/// Why a store gave no verdict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No connection; nothing was charged.
    #[error("not connected: {0}")]
    Unavailable(String),
    /// No answer in time.
    #[error("no answer before the deadline")]
    Deadline,
    /// The connection broke while an answer was awaited.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The store answered with an error.
    #[error("{0}")]
    Refused(String),
    /// The store answered something that is not a verdict.
    #[error("{0}")]
    Malformed(String),
    /// Too many checks wait for the store already; nothing was charged.
    #[error("too many checks wait for the store")]
    Overloaded,
    /// The store's time lies outside the edges of a window of the calendar; nothing was charged. The store knows its time better
    /// now: with the edges around [`Store::now_us`] it will decide.
    #[error(
        "the store's clock shows a time outside of the calendar windows that it was given, and nothing was charged: \
         it was set, or differs from ours"
    )]
    Clock,
}

impl StoreError {
    /// The word for metrics and logs.
    pub const fn kind(&self) -> StoreFailure {
        match self {
            Self::Unavailable(_) => StoreFailure::Unavailable,
            Self::Deadline => StoreFailure::Deadline,
            Self::Broken(_) => StoreFailure::Broken,
            Self::Refused(_) => StoreFailure::Refused,
            Self::Malformed(_) => StoreFailure::Malformed,
            Self::Overloaded => StoreFailure::Overloaded,
            Self::Clock => StoreFailure::Clock,
        }
    }

    /// That there is no connection, because of this error.
    #[must_use]
    pub fn into_unavailable(self) -> Self {
        match self {
            Self::Unavailable(_) => self,
            other => Self::Unavailable(other.to_string()),
        }
    }
}

/// The answer of [`Store::charge`], some time.
pub type Charging<'a> = Pin<Box<dyn Future<Output = Result<Verdict, StoreError>> + Send + 'a>>;

/// Keeps consumption. See the module for what must hold.
pub trait Store: Send + Sync {
    /// Decides about the batch and charges it. Past `deadline` nobody waits for the answer: a store that has not begun
    /// by then must not charge.
    fn charge<'a>(&'a self, batch: &'a Batch, deadline: Instant) -> Charging<'a>;

    /// The store's clock as well as it is known here, in microseconds since the epoch.
    fn now_us(&self) -> u64;

    /// "memory" or "redis".
    fn name(&self) -> &'static str;
}

/// Appends `value` so that no two values look alike, whatever bytes they hold: what is not plain is percent-encoded, and
/// what would be longer than [`MAX_VALUE`] bytes is replaced by its hash. `#` never occurs otherwise.
///
/// `:`, `/`, `@` and `+` stay, so that addresses and e-mail addresses can be read.
pub fn push_value(out: &mut String, value: &[u8]) {
    let start = out.len();
    for &byte in value {
        if byte.is_ascii_alphanumeric() || b"-._~:/@+".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
        if out.len() - start > MAX_VALUE {
            out.truncate(start);
            push_hash(out, value);
            return;
        }
    }
}

/// Appends `#` and 128 bits of the SHA-256 of `value`: for what is long or secret. A cryptographic hash, because a caller
/// who could find two values with one hash could spend another caller's quota.
pub fn push_hash(out: &mut String, value: &[u8]) {
    use sha2::{Digest as _, Sha256};
    out.push('#');
    for byte in &Sha256::digest(value)[..16] {
        let _ = write!(out, "{byte:02x}");
    }
}

/// The longest value that stands in a key as it is, in bytes after encoding.
pub const MAX_VALUE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn value(bytes: &[u8]) -> String {
        let mut out = String::from("k=");
        push_value(&mut out, bytes);
        out.split_off(2)
    }

    #[test]
    fn plain_values_are_readable() {
        assert_eq!(value(b"203.0.113.7"), "203.0.113.7");
        assert_eq!(value(b"2001:db8::/64"), "2001:db8::/64");
    }

    #[test]
    fn separators_globs_and_control_bytes_are_encoded() {
        assert_eq!(value(b"{}*,=%#\n?"), "%7B%7D%2A%2C%3D%25%23%0A%3F");
        assert_eq!(value(&[0xff, 0x00]), "%FF%00");
    }

    #[test]
    fn long_values_become_a_short_stable_hash() {
        let hashed = value(&[b'a'; 10_000]);
        assert_eq!(hashed.len(), 33, "{hashed}");
        assert_eq!(hashed, value(&[b'a'; 10_000]));
        assert_ne!(hashed, value(&[b'a'; 10_001]));
        assert_eq!(value(&[b'a'; 64]), "a".repeat(64));
        assert!(value(&[b'a'; 65]).starts_with('#'));
        assert!(
            value(&[b'*'; 22]).starts_with('#'),
            "the encoded length counts"
        );
    }
}
