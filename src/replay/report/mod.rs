//! What a rehearsal says, for people and for programs.

mod against;
pub mod html;
mod limits;
mod rule;
mod share;
pub mod text;

use std::collections::BTreeMap;

use serde::Serialize;

pub(super) use self::against::Changes;
pub use self::{
    against::{Against, CallersChanged, RuleChange},
    limits::{CandidateReport, Enough, LimitReport},
    rule::{CallerReport, Missing, RuleReport},
};
use super::{
    record::Record,
    run::Run,
    time,
    unread::Unread,
    wanted::{HeldCounts, Wanted},
};

/// What rules would have done about the requests of a log.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The log.
    pub log: LogReport,
    /// The file of the rules.
    pub rules_file: String,
    /// Requests that would be admitted.
    pub admitted: u64,
    /// Requests that would be denied by a rule.
    pub denied: u64,
    /// Requests that would be refused before any rule is asked, by reason: those that servers read
    /// differently.
    pub refused: BTreeMap<&'static str, u64>,
    /// Charges to a counter that callers had to share, because there were more than
    /// `--max-callers`. If there are any, denials may be too many.
    pub shared_counters: u64,
    /// What came of each rule, in the order of the file.
    pub rules: Vec<RuleReport>,
    /// The comparison with other rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<Against>,
    /// What could not be read.
    pub unread: Unread,
}

/// What was read of the logs.
#[derive(Debug, Default, Serialize)]
pub struct LogReport {
    /// The logs.
    pub names: Vec<String>,
    /// Requests.
    pub requests: u64,
    /// How many of them the log says were answered with 429.
    pub answered_429: u64,
    /// The time of the first request, in UTC.
    pub from: Option<String>,
    /// The time of the last request, in UTC.
    pub to: Option<String>,
    /// Requests whose time is before that of one above them. They were decided at the later time.
    pub out_of_order: u64,
    /// How much earlier at most, in seconds.
    pub most_out_of_order_seconds: f64,
    #[serde(skip)]
    first_us: u64,
    #[serde(skip)]
    now_us: u64,
    #[serde(skip)]
    most_us: u64,
}

impl LogReport {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self {
            names,
            ..Self::default()
        }
    }

    /// Counts a request; its time, never before that of an earlier one, and how long after the
    /// first it is.
    pub(super) fn count(&mut self, record: &Record) -> (u64, u64) {
        if self.requests == 0 {
            self.first_us = record.time_us;
        }
        self.requests += 1;
        self.answered_429 += u64::from(record.status == 429);
        if record.time_us < self.now_us {
            self.out_of_order += 1;
            self.most_us = self.most_us.max(self.now_us - record.time_us);
        }
        self.now_us = self.now_us.max(record.time_us);
        (self.now_us, self.now_us - self.first_us)
    }

    #[expect(clippy::cast_precision_loss, reason = "days, in microseconds")]
    fn finish(&mut self) {
        if self.requests > 0 {
            self.from = Some(time::shown(self.first_us));
            self.to = Some(time::shown(self.now_us));
        }
        self.most_out_of_order_seconds = self.most_us as f64 / 1e6;
    }

    /// From the first request to the last, in microseconds.
    fn span_us(&self) -> u64 {
        self.now_us - self.first_us
    }
}

/// What a report is made of.
pub(super) struct Parts<'a> {
    pub(super) file: String,
    pub(super) run: Run,
    pub(super) before: Option<(String, Run)>,
    pub(super) changes: Changes,
    pub(super) held: HeldCounts,
    pub(super) wanted: &'a Wanted,
    pub(super) log: LogReport,
    pub(super) unread: Unread,
}

impl Report {
    pub(super) fn new(parts: Parts<'_>) -> Self {
        let Parts {
            file,
            run,
            before,
            changes,
            mut held,
            wanted,
            mut log,
            unread,
        } = parts;
        log.finish();
        let missing = |index, held: &mut HeldCounts| {
            rule::missing(&run.set, index, held, wanted, log.requests)
        };
        let rules = run.rules.iter().enumerate();
        let rules = rules
            .map(|(index, tally)| {
                let missing = missing(index, &mut held);
                RuleReport::new(&run.set.rules[index], tally, missing)
            })
            .collect();
        Self {
            rules,
            rules_file: file,
            admitted: run.admitted,
            denied: run.denied,
            refused: run.refused.clone(),
            shared_counters: run.overflows(),
            against: before.map(|(file, before)| changes.report(file, &before, &run)),
            log,
            unread,
        }
    }

    /// As indented JSON.
    pub fn to_json(&self) -> String {
        // This is plain data with text keys, so serialising it cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}
