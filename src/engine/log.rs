//! The decision log: who was denied by what, one structured line each, and never more lines than one can read.
//!
//! Lines have the target `tollgate::decision`. Callers stand in them as they do in keys, so secrets are hashed; paths are
//! without their query.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;
use tracing::info;

use crate::{metrics::Outcome, request::Attributes};

/// What is logged of decisions.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Which decisions.
    pub which: Which,
    /// The most lines a second; the others are counted, and the next line says how many they were.
    pub per_second: u32,
}

/// Which decisions are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Which {
    /// None.
    None,
    /// Denials, and what rules in shadow mode would have denied.
    #[default]
    Denied,
    /// All.
    All,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            which: Which::default(),
            per_second: 10,
        }
    }
}

/// Writes decisions into the log.
pub(super) struct DecisionLog {
    options: Options,
    began: Instant,
    /// The last second with a line, counted from the beginning, in the upper half; its lines in the lower.
    second: AtomicU64,
    /// Since the last line.
    unlogged: AtomicU64,
}

/// What is to be said of a decision.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) outcome: Outcome,
    /// The rule that decided.
    pub(super) rule: Option<&'a str>,
    /// The limit that denied.
    pub(super) limit: Option<&'a str>,
    /// Why, if it was no limit.
    pub(super) reason: Option<&'a str>,
    /// The caller as keys show it.
    pub(super) key: Option<&'a str>,
    /// Microseconds.
    pub(super) retry_after_us: Option<u64>,
}

impl<'a> Entry<'a> {
    /// What a rule decided, and nothing more about it.
    pub(super) fn of(outcome: Outcome, rule: Option<&'a str>) -> Self {
        Self {
            outcome,
            rule,
            limit: None,
            reason: None,
            key: None,
            retry_after_us: None,
        }
    }
}

/// The longest path, host or method that is logged whole, in characters: a client chooses them.
const MAX_LOGGED: usize = 256;

fn begun(text: &str) -> &str {
    match text.char_indices().nth(MAX_LOGGED) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

impl DecisionLog {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            began: Instant::now(),
            second: AtomicU64::new(0),
            unlogged: AtomicU64::new(0),
        }
    }

    /// Whether admissions are logged too.
    pub(super) fn wants_all(&self) -> bool {
        self.options.which == Which::All
    }

    pub(super) fn tell(&self, request: &Attributes<'_>, entry: Entry<'_>) {
        if self.options.which == Which::None {
            return;
        }
        let Some(unlogged) = self.room(self.began.elapsed()) else {
            return;
        };
        info!(
            target: "tollgate::decision",
            outcome = entry.outcome.as_str(),
            rule = entry.rule,
            limit = entry.limit,
            reason = entry.reason,
            key = entry.key,
            retry_after_ms = entry.retry_after_us.map(|us| us.div_ceil(1_000)),
            method = begun(request.method),
            host = begun(&request.host),
            path = begun(&request.path),
            client = request.client_ip.map(tracing::field::display),
            unlogged = (unlogged > 0).then_some(unlogged),
            "decided"
        );
    }

    /// Whether there is room for a line so long after the beginning; with it comes how many were not logged since the last one.
    /// Without a lock: in a flood of denials all threads come by here.
    fn room(&self, now: Duration) -> Option<u64> {
        let this_second = now.as_secs() << 32;
        let next = |last: u64| {
            // A thread that was late counts to the second that others have begun.
            let begun = last.max(this_second);
            (begun & u64::from(u32::MAX) < u64::from(self.options.per_second)).then_some(begun + 1)
        };
        if self.second.fetch_update(Relaxed, Relaxed, next).is_ok() {
            return Some(self.unlogged.swap(0, Relaxed));
        }
        self.unlogged.fetch_add(1, Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_a_second_and_the_next_one_says_what_is_missing() {
        let log = DecisionLog::new(Options {
            which: Which::Denied,
            per_second: 2,
        });
        let after = Duration::from_millis;
        assert_eq!(log.room(after(0)), Some(0));
        assert_eq!(log.room(after(999)), Some(0));
        for _ in 0..5 {
            assert_eq!(log.room(after(999)), None);
        }
        assert_eq!(log.room(after(1_000)), Some(5));
        assert_eq!(log.room(after(1_000)), Some(0));
        assert_eq!(log.room(after(1_001)), None);
        // One that read the clock before the others.
        assert_eq!(log.room(after(999)), None);
        assert_eq!(log.room(after(60_000)), Some(2));
    }
}
