//! How wide a limit would have to be.
//!
//! The *peak* of a caller is the most that it would have used of a limit at a time, had the limit
//! denied nothing. It is counted by the limit's own algorithm, in a counter that is as wide as a
//! limit can be. So a limit of that amount is the smallest by which this caller is never denied:
//! for `fixed_window`, `sliding_window` and `sliding_log` the amount per window, for `token_bucket`
//! the burst at the same rate.

use serde::Serialize;

use super::share::share;
use crate::{
    limit::Algorithm,
    replay::tally::{BEYOND, LimitTally, RuleTally},
};

/// What came of a limit.
#[derive(Debug, Serialize)]
pub struct LimitReport {
    /// Its name: `data`, `search/1s`, `data/pro`.
    pub name: String,
    /// The limit as the rule file says it: `5/m`.
    pub limit: String,
    /// How it counts.
    pub algorithm: Algorithm,
    /// The most that it admits at once: its amount, or its burst.
    pub admits: u64,
    /// How many callers it counted.
    pub callers: usize,
    /// The highest peak; `None` if it counted nobody, or more than can be counted.
    pub peak: Option<u64>,
    /// The limits by which most callers would never have been denied.
    pub enough: Vec<Enough>,
    /// What the limit under `try` beside it would have done.
    #[serde(rename = "try", skip_serializing_if = "Option::is_none")]
    pub candidate: Option<CandidateReport>,
    /// How many callers have a peak of up to an eighth, a quarter, half, all of the limit, up to
    /// twice, four times, eight times as much, and more.
    pub peaks: [usize; 8],
}

/// What a limit under `try` would have done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CandidateReport {
    /// The limit as the rule file says it.
    pub limit: String,
    /// The most that it admits at once.
    pub admits: u64,
    /// Requests that it was tried on: those that were admitted.
    pub requests: u64,
    /// Those of them that it would have denied.
    pub would_deny: u64,
    /// Of how many callers, as far as they were told apart.
    pub callers_would_deny: usize,
}

/// A limit by which so many callers would never have been denied.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Enough {
    /// How many callers, in percent.
    pub percent: f64,
    /// The smallest amount (or burst) by which they are never denied; `None` if it is more than a
    /// limit of this algorithm can be.
    pub admits: Option<u64>,
    /// That limit, as a rule file says it.
    pub limit: Option<String>,
}

/// Of 1,000 callers, how many are never denied.
const OF_1000: [usize; 2] = [990, 999];

impl LimitReport {
    /// The peak as a part of the limit.
    pub(super) fn peak_share(&self) -> f64 {
        share(self.peak.unwrap_or(0), self.admits)
    }
}

/// What came of the limits of a rule.
pub(super) fn limits(tally: &RuleTally) -> Vec<LimitReport> {
    // Of each limit: the peaks of its callers, and how many the one under `try` would have denied.
    let mut counted = vec![(Vec::new(), 0); tally.limits.len()];
    for peak in tally.callers.values().flat_map(|caller| &caller.peaks) {
        if let Some((peaks, would_deny)) = counted.get_mut(usize::from(peak.limit)) {
            peaks.push(peak.most);
            *would_deny += usize::from(peak.would_deny > 0);
        }
    }
    let limits = tally.limits.iter().zip(counted);
    limits
        .map(|(limit, (peaks, would_deny))| report(limit, peaks, would_deny))
        .collect()
}

fn report(tally: &LimitTally, mut peaks: Vec<u64>, callers_would_deny: usize) -> LimitReport {
    peaks.sort_unstable();
    let admits = tally.limit.burst();
    let known = |peak: u64| (peak != BEYOND).then_some(peak);
    let enough = OF_1000.iter().filter_map(|of_1000| {
        let place = (peaks.len() * of_1000).div_ceil(1_000).checked_sub(1)?;
        let admits = known(*peaks.get(place)?);
        Some(Enough {
            percent: share(*of_1000 as u64, 10),
            admits,
            limit: admits.map(|admits| written(tally, admits)),
        })
    });
    LimitReport {
        name: tally.name.to_string(),
        limit: tally.text.to_string(),
        algorithm: tally.limit.algorithm(),
        admits,
        callers: peaks.len(),
        peak: peaks.last().copied().and_then(known),
        enough: enough.collect(),
        candidate: tally.candidate.as_ref().map(|candidate| CandidateReport {
            limit: candidate.text.to_string(),
            admits: candidate.limit.burst(),
            requests: candidate.counts.requests,
            would_deny: candidate.counts.denied,
            callers_would_deny,
        }),
        peaks: by_part(&peaks, admits),
    }
}

/// The limit with another amount, or another burst, as a rule file says it.
fn written(tally: &LimitTally, admits: u64) -> String {
    let text = &*tally.text;
    match tally.limit.algorithm() {
        Algorithm::TokenBucket => {
            let rate = text.split(" burst ").next().unwrap_or(text);
            format!("{rate} burst {admits}")
        }
        Algorithm::FixedWindow | Algorithm::SlidingWindow | Algorithm::SlidingLog => {
            // `5/m`, `5 per 15 minutes`.
            let per = text.find(['/', ' ']).map_or("", |at| &text[at..]);
            format!("{admits}{per}")
        }
    }
}

fn by_part(peaks: &[u64], admits: u64) -> [usize; 8] {
    let mut parts = [0; 8];
    for peak in peaks {
        let eighths = u128::from(*peak) * 8;
        let doubled = (0..7).find(|n| eighths <= u128::from(admits) << n);
        parts[doubled.unwrap_or(7)] += 1;
    }
    parts
}
