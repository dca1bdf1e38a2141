//! The decision log: one structured line for a decision, and never more lines than can be read.
//!
//! Lines have the target `tollgate::decision`. Clients appear as they do in keys, so secrets are
//! hashed; paths have no query.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    metrics::DecisionLabel,
    request::Attributes,
    throttle::{RateCap, Throttle},
};

/// Options of the decision log.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Which decisions are logged.
    pub which: Which,
    /// The most lines per second. The rest is counted, and the next line reports the count.
    pub per_second: u32,
}

/// Which decisions are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Which {
    /// No decisions.
    None,
    /// Denials, including those of shadow rules and of limits that are tried out.
    #[default]
    Denied,
    /// All decisions.
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
    cap: RateCap,
    /// Spares the log when an attack invents keys.
    new_keys: Mutex<Throttle>,
}

/// What a line says of a decision.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) outcome: &'static str,
    /// The rule that decided.
    pub(super) rule: Option<&'a str>,
    /// The limit that denied.
    pub(super) limit: Option<&'a str>,
    /// Why, if it was not a limit.
    pub(super) reason: Option<&'a str>,
    /// The client as it appears in keys.
    pub(super) key: Option<&'a str>,
    /// In microseconds.
    pub(super) retry_after_us: Option<u64>,
}

impl<'a> Entry<'a> {
    /// An entry with the outcome and the rule, and nothing else.
    pub(super) fn of(outcome: DecisionLabel, rule: Option<&'a str>) -> Self {
        Self {
            outcome: outcome.as_str(),
            rule,
            limit: None,
            reason: None,
            key: None,
            retry_after_us: None,
        }
    }
}

/// How often it is logged that new clients share a counter.
const NEW_KEYS_PAUSE: Duration = Duration::from_secs(10);

/// The longest path, host or method logged whole, in characters: clients choose them.
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
            cap: RateCap::new(options.per_second),
            new_keys: Mutex::new(Throttle::new(NEW_KEYS_PAUSE)),
        }
    }

    /// Warns that clients of a rule share a counter, because too many of them are new.
    pub(super) fn new_key_shared(&self, rule: &str, max_new_keys: u32) {
        let mut pause = self.new_keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unlogged) = pause.permit(Instant::now()) {
            warn!(
                rule,
                max_new_keys,
                unlogged,
                "too many new counters: new clients of this rule share one; if they are real clients, raise max_new_keys"
            );
        }
    }

    /// Whether admissions are logged too.
    pub(super) fn wants_all(&self) -> bool {
        self.options.which == Which::All
    }

    pub(super) fn write(&self, request: &Attributes<'_>, entry: Entry<'_>) {
        if self.options.which == Which::None {
            return;
        }
        let Some(unlogged) = self.cap.permit(self.began.elapsed()) else {
            return;
        };
        info!(
            target: "tollgate::decision",
            outcome = entry.outcome,
            rule = entry.rule,
            limit = entry.limit,
            reason = entry.reason,
            key = entry.key,
            retry_after_ms = entry.retry_after_us.map(|us| us.div_ceil(1_000)),
            method = begun(&request.method),
            host = begun(&request.host),
            path = begun(&request.path),
            client = request.client_ip.map(tracing::field::display),
            unlogged = (unlogged > 0).then_some(unlogged),
            "decided"
        );
    }
}
