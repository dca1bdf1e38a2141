//! The report as text.

use std::fmt::{self, Display, Write as _};

use super::{
    Against, CallersChanged, CandidateReport, LimitReport, Report, RuleChange, RuleReport,
    share::share,
};
use crate::{
    replay::unread::Why,
    rules::{Mode, span::span_text},
};

/// A text without characters that a terminal obeys: logs and file names are not ours.
pub(super) fn harmless(text: &str) -> String {
    let is_harmless = |c: char| {
        // What changes the direction of text is not a control character.
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        !c.is_control() && !turns
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmless(c) {
            out.push(c);
        } else {
            out.extend(c.escape_unicode());
        }
    }
    out
}

/// `5.0 %`; a share that is not 0 is never shown as 0.
pub(super) fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.000_5 {
        "< 0.1 %".to_owned()
    } else {
        format!("{:.1} %", share * 100.0)
    }
}

/// `1 caller`, `2 callers`, with a space between thousands.
pub(super) fn counted(number: impl Into<u128>, what: &str) -> String {
    let number = number.into();
    let s = if number == 1 { "" } else { "s" };
    format!("{} {what}{s}", grouped(number))
}

/// `1 234 567`.
pub(super) fn grouped(number: impl Into<u128>) -> String {
    let digits = number.into().to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// The name of a caller; that of a rule without a key is nobody's.
pub(super) fn caller(name: &str) -> String {
    match name {
        "" => "everybody".to_owned(),
        _ => harmless(name),
    }
}

/// What could not be read, in lines.
pub fn unread(report: &Report) -> String {
    harmless_lines(&report.unread_lines())
}

fn harmless_lines(lines: &[String]) -> String {
    let lines = lines.iter().map(|line| harmless(line));
    lines.collect::<Vec<_>>().join("\n")
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut out);
        f.write_str(out.trim_end())
    }
}

impl Report {
    fn write(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "{}", harmless_lines(&self.summary()))?;
        for rule in &self.rules {
            writeln!(out)?;
            rule.write(out)?;
        }
        if let Some(against) = &self.against {
            writeln!(out)?;
            against.write(out)?;
        }
        if !self.unread.examples.is_empty() || !self.unread.broken.is_empty() {
            writeln!(out, "\n{}", unread(self))?;
        }
        Ok(())
    }

    /// What is true of all rules together, a line each.
    pub(super) fn summary(&self) -> Vec<String> {
        let log = &self.log;
        let names = match &log.names[..] {
            [one] => one.clone(),
            many => counted(many.len() as u64, "log"),
        };
        let mut lines = vec![format!("{names}: {}", counted(log.requests, "request"))];
        if let (Some(from), Some(to)) = (&log.from, &log.to) {
            let span = span_text(log.span_us());
            lines.push(format!("from {from} to {to} ({span})"));
        }
        let decided = self.admitted + self.denied;
        lines.push(format!(
            "{} would admit {} and deny {} ({}); the log has {} answers with 429",
            self.rules_file,
            grouped(self.admitted),
            grouped(self.denied),
            percent(share(self.denied, decided)),
            grouped(log.answered_429),
        ));
        for (reason, requests) in &self.refused {
            let requests = counted(*requests, "request");
            lines.push(format!(
                "{requests} would be refused before any rule is asked: {reason}"
            ));
        }
        if log.out_of_order > 0 {
            lines.push(format!(
                "{} out of order, by up to {} s: decided at the time of the latest request above",
                counted(log.out_of_order, "request"),
                log.most_out_of_order_seconds,
            ));
        }
        if self.shared_counters > 0 {
            lines.push(format!(
                "too many counters: {} to shared ones, so that there may be too many denials; \
                 raise --max-callers",
                counted(self.shared_counters, "charge"),
            ));
        }
        lines
    }

    /// What could not be read, a line each.
    pub(super) fn unread_lines(&self) -> Vec<String> {
        let unread = &self.unread;
        let mut lines = Vec::new();
        if unread.lines > 0 {
            let why = Why::ALL.iter().filter_map(|why| {
                let lines = unread.why.get(why.as_str())?;
                Some(format!("{} {}", grouped(*lines), why.in_words()))
            });
            let why = why.collect::<Vec<_>>().join(", ");
            lines.push(format!(
                "not read: {}: {why}",
                counted(unread.lines, "line")
            ));
        }
        for example in &unread.examples {
            lines.push(format!(
                "  {}:{}: {}: {}",
                example.log,
                example.line,
                example.why.in_words(),
                example.text
            ));
        }
        for broken in &unread.broken {
            lines.push(format!(
                "  {} ends after line {}: {}",
                broken.log, broken.lines, broken.error
            ));
        }
        lines
    }
}

impl RuleReport {
    /// What the rule does, in a few words.
    pub(super) fn kind(&self) -> String {
        match (self.action, self.mode) {
            ("limit", Mode::Enforce) => String::new(),
            ("limit", Mode::Shadow) => " (shadow: denies nothing)".to_owned(),
            (action, Mode::Enforce) => format!(" (action: {action})"),
            (action, Mode::Shadow) => format!(" (action: {action}, shadow: denies nothing)"),
        }
    }

    /// What is true of it, as pairs of a title and a line; without its limits and callers.
    pub(super) fn facts(&self) -> Vec<(&'static str, String)> {
        let would = format!(
            "{}, of which {} ({}) would be denied",
            grouped(self.requests),
            grouped(self.denied),
            percent(self.denied_share)
        );
        let mut facts = vec![("requests", would)];
        if self.denied_by_ban > 0 || self.bans > 0 {
            let bans = counted(self.bans, "ban");
            let denials = counted(self.denied_by_ban, "denial");
            facts.push(("bans", format!("{bans}, {denials}")));
        }
        if self.skipped > 0 {
            let skipped = counted(self.skipped, "request");
            facts.push(("skipped", format!("{skipped} without a part of the key")));
        }
        if self.shared_new > 0 {
            let shared = counted(self.shared_new, "request");
            facts.push((
                "new callers",
                format!("{shared} shared a counter (max_new_keys)"),
            ));
        }
        if self.callers > 0 {
            let denied = share(self.callers_denied as u64, self.callers as u64);
            let callers = format!(
                "{}, of which {} ({}) would be denied at least once",
                grouped(self.callers as u64),
                grouped(self.callers_denied as u64),
                percent(denied)
            );
            facts.push(("callers", callers));
        }
        if self.not_told_apart > 0 {
            facts.push((
                "others",
                format!(
                    "{} of callers that were not told apart, {} denied; raise --max-callers",
                    counted(self.not_told_apart, "request"),
                    grouped(self.not_told_apart_denied)
                ),
            ));
        }
        for missing in &self.not_in_log {
            let what = &missing.what;
            let effect = &missing.effect;
            let what = if missing.everywhere {
                format!("{what}: {effect}")
            } else {
                let requests = counted(missing.requests, "request");
                format!("{what}, for {requests}: {effect}")
            };
            facts.push(("not in log", what));
        }
        facts
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "rule {}{}", self.name, self.kind())?;
        for (title, line) in self.facts() {
            writeln!(out, "  {title:<14} {line}")?;
        }
        for limit in &self.limits {
            for (at, line) in limit.lines().iter().enumerate() {
                let title = if at == 0 { "limit" } else { "" };
                writeln!(out, "  {title:<14} {line}")?;
            }
        }
        for (at, worst) in self.worst.iter().enumerate() {
            let title = if at == 0 { "most denied" } else { "" };
            writeln!(
                out,
                "  {title:<14} {}: {} of {}",
                caller(&worst.caller),
                grouped(worst.denied),
                counted(worst.requests, "request")
            )?;
        }
        Ok(())
    }
}

impl LimitReport {
    /// What is true of the limit, a line each.
    pub(super) fn lines(&self) -> Vec<String> {
        let Self { name, limit, .. } = self;
        let algorithm = self.algorithm.as_str();
        if self.callers == 0 {
            return vec![format!("{name}, {limit} ({algorithm}): counted nobody")];
        }
        let peak = match self.peak {
            Some(peak) => format!("at most {} at a time", grouped(peak)),
            None => "more than can be counted".to_owned(),
        };
        let enough = self.enough.iter().map(|enough| {
            let percent = enough.percent;
            match &enough.limit {
                Some(limit) => format!("{percent} % of callers never exceed {limit}"),
                None => format!("no {algorithm} is enough for {percent} % of callers"),
            }
        });
        let first = format!("{name}, {limit} ({algorithm}): a caller used {peak}");
        let tried = self.candidate.iter().map(CandidateReport::line);
        std::iter::once(first).chain(enough).chain(tried).collect()
    }
}

impl CandidateReport {
    /// What it would have done.
    fn line(&self) -> String {
        format!(
            "try {} would deny {} of {} ({}), of {}",
            self.limit,
            grouped(self.would_deny),
            counted(self.requests, "admitted request"),
            percent(share(self.would_deny, self.requests)),
            counted(self.callers_would_deny as u64, "caller")
        )
    }
}

impl Against {
    /// What changes for all rules together, a line each.
    pub(super) fn summary(&self) -> Vec<String> {
        vec![
            format!(
                "against {}, which admits {} and denies {}:",
                self.rules_file,
                grouped(self.admitted_before),
                grouped(self.denied_before)
            ),
            format!(
                "{} newly denied, {} no longer denied",
                counted(self.newly_denied, "request"),
                grouped(self.no_longer_denied)
            ),
        ]
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "{}", harmless_lines(&self.summary()))?;
        for rule in &self.rules {
            for line in rule.lines() {
                writeln!(out, "  {line}")?;
            }
        }
        Ok(())
    }
}

impl RuleChange {
    /// What changes for the rule, a line each.
    pub(super) fn lines(&self) -> Vec<String> {
        let denied = |denied: Option<u64>| denied.map_or("no such rule".to_owned(), grouped);
        let mut lines = vec![format!(
            "rule {}: denied {} before, {} now",
            self.name,
            denied(self.denied_before),
            denied(self.denied)
        )];
        let changes = [
            (&self.callers_newly_denied, "newly denied"),
            (&self.callers_no_longer_denied, "no longer denied"),
        ];
        for (changed, what) in changes {
            changed.write(what, &mut lines);
        }
        lines
    }
}

impl CallersChanged {
    fn write(&self, what: &str, lines: &mut Vec<String>) {
        if self.callers == 0 {
            return;
        }
        lines.push(format!(
            "  {what}: {}",
            counted(self.callers as u64, "caller")
        ));
        for one in &self.most {
            lines.push(format!(
                "    {}: {} of {}",
                caller(&one.caller),
                grouped(one.denied),
                counted(one.requests, "request")
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(grouped(0_u64), "0");
        assert_eq!(grouped(999_u64), "999");
        assert_eq!(grouped(1_000_u64), "1 000");
        assert_eq!(grouped(1_234_567_u64), "1 234 567");
        assert_eq!(counted(1_u64, "line"), "1 line");
        assert_eq!(percent(0.0), "0.0 %");
        assert_eq!(percent(0.000_01), "< 0.1 %");
        assert_eq!(percent(0.25), "25.0 %");
    }

    #[test]
    fn a_terminal_obeys_no_log() {
        assert_eq!(
            harmless("a\u{1b}[2Jb\u{9b}\u{202e}c\nd"),
            "a\\u{1b}[2Jb\\u{9b}\\u{202e}c\\u{a}d"
        );
        assert_eq!(harmless("grüße €"), "grüße €");
    }
}
