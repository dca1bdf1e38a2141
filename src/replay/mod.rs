//! `replay`: what rules would have done about the requests of an access log.
//!
//! ```text
//! input ─▶ lines ─▶ formats ─▶ merge ─▶ run ─▶ tally ─▶ report
//! gzip     bounded  a record   by time  the    callers  text, JSON, HTML
//! zstd                                  engine
//! ```
//!
//! Time comes from the log, and decisions from [`engine::rehearse`](crate::engine::rehearse): the
//! walk, the arithmetic and the conclusion of a real check. Memory is bounded, whatever is in the
//! log: lines have a longest length, and callers beyond a number are counted together.

mod formats;
mod input;
mod lines;
mod merge;
mod record;
mod report;
mod run;
mod tally;
mod time;
mod timeline;
mod unread;
mod wanted;

pub use self::{
    formats::Format,
    input::Input,
    merge::Unopened,
    report::{
        Against, CallerReport, CallersChanged, CandidateReport, Enough, LimitReport, LogReport,
        Missing, Report, RuleChange, RuleReport, html, text,
    },
    timeline::Timeline,
    unread::{Broken, Example, Unread, Why},
    wanted::Wanted,
};
use self::{merge::Merged, report::Parts, run::Run, wanted::HeldCounts};
use crate::rules::RuleSet;

/// A rule set with the name of its file.
#[derive(Debug)]
pub struct Named {
    /// The name of the file, for reports.
    pub file: String,
    /// The rules.
    pub set: RuleSet,
}

/// What to rehearse.
#[derive(Debug)]
pub struct Options {
    /// The logs.
    pub inputs: Vec<Input>,
    /// Their format.
    pub format: Format,
    /// The rules that are rehearsed.
    pub rules: Named,
    /// The rules that they are compared with.
    pub against: Option<Named>,
    /// How many callers are told apart, and half as many as there may be counters.
    pub max_callers: usize,
}

/// How far a rehearsal has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that were read, as they are stored.
    pub bytes: u64,
    /// Requests that were decided.
    pub requests: u64,
}

/// After how many requests progress is reported.
const REPORTED_EVERY: u64 = 16_384;

/// Reads the logs and decides about their requests. `progress` is called now and then.
pub fn replay(options: Options, mut progress: impl FnMut(Progress)) -> Result<Report, Unopened> {
    let Options {
        inputs,
        format,
        rules,
        against,
        max_callers,
    } = options;
    let sets = [Some(&rules), against.as_ref()];
    let wanted = Wanted::of(sets.into_iter().flatten().map(|named| &named.set));
    let names = inputs.iter().map(Input::name).collect();
    let mut log = Merged::open(inputs, format, &wanted)?;
    let mut run = Run::new(rules.set, max_callers);
    let mut before = against.map(|named| (named.file, Run::new(named.set, max_callers)));
    let mut changes = report::Changes::new(&run, before.as_ref().map(|(_, run)| run));
    let mut held = HeldCounts::default();
    let mut seen = LogReport::new(names);
    while let Some(record) = log.next() {
        let (now_us, after_us) = seen.count(record);
        held.count(record.holds);
        let fate = run.decide(record, now_us, after_us);
        if let Some((_, before)) = &mut before {
            changes.count(before.decide(record, now_us, after_us), fate);
        }
        if seen.requests.is_multiple_of(REPORTED_EVERY) {
            progress(Progress {
                bytes: log.bytes(),
                requests: seen.requests,
            });
        }
    }
    Ok(Report::new(Parts {
        file: rules.file,
        run,
        before,
        changes,
        held,
        wanted: &wanted,
        log: seen,
        unread: std::mem::take(&mut log.unread),
    }))
}
