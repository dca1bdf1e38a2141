//! An explanation as text.

use std::fmt;

use super::{Counters, ExplainReport, Shown};
use crate::{
    engine::trace::{Explained, LimitStatus, LimitStatuses, RuleResult},
    rules::{Mode, span::span_text},
};

/// A paragraph for each rule, then the decision.
impl fmt::Display for ExplainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shown {
            method,
            scheme,
            host,
            path,
            client_ip,
        } = &self.request;
        match scheme {
            Some(scheme) => write!(f, "{method} {scheme}://{host}{path}")?,
            None => write!(f, "{method} {host}{path}")?,
        }
        match client_ip {
            Some(ip) => writeln!(f, " from {ip}")?,
            None => writeln!(f, " from no known address")?,
        }
        match &self.counters {
            Counters::Read(store) => writeln!(f, "counters read from {store}")?,
            Counters::NotRead => writeln!(f, "counters not read: all limits are taken as unused")?,
            Counters::Failed(error) => writeln!(
                f,
                "counters cannot be read: {error}\nso all limits are taken as unused"
            )?,
        }
        writeln!(f)?;
        let width = self.rules.iter().map(|rule| rule.rule.len()).max();
        let width = width.unwrap_or(0).min(24);
        for rule in &self.rules {
            rule_text(f, rule, width)?;
        }
        let verdict = if self.admitted { "admitted" } else { "denied" };
        write!(f, "\n{verdict}: {}", self.status)?;
        for (name, value) in &self.headers {
            write!(f, "\n  {name}: {value}")?;
        }
        Ok(())
    }
}

fn rule_text(f: &mut fmt::Formatter<'_>, rule: &Explained, width: usize) -> fmt::Result {
    write!(f, "{:width$}  ", rule.rule)?;
    let shadow = match rule.mode {
        Mode::Shadow => " (shadow: denies nobody)",
        Mode::Enforce => "",
    };
    match &rule.result {
        RuleResult::NotReached { ended_by } => {
            writeln!(f, "not reached: {ended_by} ended the walk")
        }
        RuleResult::NoMatch { reason } => writeln!(f, "does not match: {reason}"),
        RuleResult::Allows => writeln!(f, "matches: allows it, and ends the walk"),
        RuleResult::Denies {
            reason,
            key,
            source,
        } => {
            let ends = match rule.mode {
                Mode::Enforce => ", and ends the walk",
                Mode::Shadow => "",
            };
            writeln!(f, "matches: denies it ({reason}){ends}{shadow}")?;
            detail(f, width, "key", key.as_deref().unwrap_or_default())?;
            detail(f, width, "from", source.as_deref().unwrap_or_default())
        }
        RuleResult::Skips { key } => {
            writeln!(f, "matches: skips it, because a part of the key is missing")?;
            detail(f, width, "key", key)
        }
        RuleResult::Unlimited { key, source } => {
            writeln!(f, "matches: unlimited{shadow}")?;
            detail(f, width, "key", key)?;
            detail(f, width, "from", source)
        }
        RuleResult::Counts(counts) => {
            let fits = counts
                .limits
                .iter()
                .chain(&counts.ban)
                .all(|limit| limit.fits);
            let verdict = if fits { "has room" } else { "denies it" };
            writeln!(f, "matches: {verdict}{shadow}")?;
            counts_text(f, counts, width)
        }
    }
}

fn counts_text(f: &mut fmt::Formatter<'_>, counts: &LimitStatuses, width: usize) -> fmt::Result {
    detail(f, width, "key", &counts.key)?;
    // A part without a value has no `=`.
    if !counts.key.is_empty() && counts.key.split(',').any(|part| !part.contains('=')) {
        detail(
            f,
            width,
            "",
            "a part is missing: all requests without it share these counters",
        )?;
    }
    if counts.source != "rule" {
        detail(f, width, "from", &counts.source)?;
    }
    if counts.cost != 1 {
        detail(f, width, "cost", &counts.cost.to_string())?;
    }
    for limit in &counts.limits {
        let LimitStatus {
            name,
            rate,
            algorithm,
            left,
            left_after,
            ..
        } = limit;
        let room = match limit.wait_us {
            None if left_after == left => format!("{left} left"),
            None => format!("{left} left, {left_after} after this request"),
            Some(wait) => format!(
                "{left} left: does not fit until {} from now",
                wait_text(wait)
            ),
        };
        detail(
            f,
            width,
            "limit",
            &format!("{name}: {rate}, {algorithm}: {room}"),
        )?;
        stored_text(f, limit, width)?;
        if let Some(candidate) = &limit.candidate {
            let verdict = match candidate.wait_us {
                None => format!("{} left", candidate.left),
                Some(_) => "would deny it".to_owned(),
            };
            let rate = &candidate.rate;
            detail(f, width, "try", &format!("{name}: {rate}: {verdict}"))?;
            stored_text(f, candidate, width)?;
        }
    }
    if let Some(lease) = &counts.lease {
        detail(f, width, "lease", lease)?;
    }
    if let Some(ban) = &counts.ban {
        let LimitStatus {
            name, rate, left, ..
        } = ban;
        let progress = match (ban.wait_us, left) {
            (None, 1) => "not banned, 1 denial to go".to_owned(),
            (None, _) => format!("not banned, {left} denials to go"),
            (Some(_), 1) => "not banned, and this request would begin it".to_owned(),
            (Some(wait), _) => format!("banned for {}", wait_text(wait)),
        };
        detail(f, width, "ban", &format!("{name}: {rate}: {progress}"))?;
        stored_text(f, ban, width)?;
    }
    Ok(())
}

fn stored_text(f: &mut fmt::Formatter<'_>, standing: &LimitStatus, width: usize) -> fmt::Result {
    let LimitStatus {
        stored_as,
        stored,
        shared,
        ..
    } = standing;
    let stored = match stored {
        Some(text) => format!("{text:?}"),
        None => "nothing yet".to_owned(),
    };
    if *shared {
        let why = "shared: there is no room for another counter (max_new_keys, --max-keys)";
        detail(f, width, "", why)?;
    }
    detail(f, width, "", &format!("{stored_as} = {stored}"))
}

/// A line under a rule; none if the text is empty.
fn detail(f: &mut fmt::Formatter<'_>, width: usize, what: &str, text: &str) -> fmt::Result {
    if text.is_empty() {
        return Ok(());
    }
    writeln!(f, "{:width$}    {what:<6} {text}", "")
}

/// In whole seconds, rounded up, as `Retry-After` is.
fn wait_text(us: u64) -> String {
    span_text(us.div_ceil(1_000_000) * 1_000_000)
}
