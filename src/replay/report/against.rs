//! What other rules would change, and for which callers.

use std::collections::BTreeSet;

use serde::Serialize;

use super::rule::{CallerReport, worst};
use crate::replay::{
    run::{Fate, Run},
    tally::{Caller, RuleTally},
};

/// The comparison with other rules.
#[derive(Debug, Serialize)]
pub struct Against {
    /// The file of the rules that are compared with.
    pub rules_file: String,
    /// Requests that those admit.
    pub admitted_before: u64,
    /// Requests that those deny.
    pub denied_before: u64,
    /// Requests that were admitted, and would be denied.
    pub newly_denied: u64,
    /// Requests that were denied, and would be admitted.
    pub no_longer_denied: u64,
    /// What changes for each rule, by name.
    pub rules: Vec<RuleChange>,
}

/// What changes for a rule.
#[derive(Debug, Serialize)]
pub struct RuleChange {
    /// The rule.
    pub name: String,
    /// Requests that it denied before; `None` if there was no such rule.
    pub denied_before: Option<u64>,
    /// Requests that it denies now; `None` if there is no such rule.
    pub denied: Option<u64>,
    /// Requests that it denies, and that were admitted before.
    pub newly_denied: u64,
    /// Requests that it denied before, and that are admitted now.
    pub no_longer_denied: u64,
    /// Callers that it never denied before.
    pub callers_newly_denied: CallersChanged,
    /// Callers that it denied before, and never denies now.
    pub callers_no_longer_denied: CallersChanged,
}

/// Callers for which something changes.
#[derive(Debug, Default, Serialize)]
pub struct CallersChanged {
    /// How many.
    pub callers: usize,
    /// Those with the most denials.
    pub most: Vec<CallerReport>,
}

/// Requests whose decision changes, by the position of the rule that denies them.
pub(in crate::replay) struct Changes {
    /// Newly denied, by the rules that are rehearsed.
    newly: Vec<u64>,
    /// No longer denied, by the rules that are compared with.
    no_longer: Vec<u64>,
}

impl Changes {
    pub(in crate::replay) fn new(now: &Run, before: Option<&Run>) -> Self {
        Self {
            newly: vec![0; now.rules.len()],
            no_longer: vec![0; before.map_or(0, |run| run.rules.len())],
        }
    }

    /// Counts a request by what became of it before, and what becomes of it now.
    pub(in crate::replay) fn count(&mut self, before: Fate, now: Fate) {
        let counter = match (before, now) {
            (Fate::Admitted, Fate::Denied(rule)) => self.newly.get_mut(rule),
            (Fate::Denied(rule), Fate::Admitted) => self.no_longer.get_mut(rule),
            _ => None,
        };
        if let Some(counter) = counter {
            *counter += 1;
        }
    }

    pub(super) fn report(&self, file: String, before: &Run, now: &Run) -> Against {
        let names = |run: &Run| {
            let rules = run.set.rules.iter().enumerate();
            let names = rules.map(|(index, rule)| (rule.name.to_string(), index));
            names.collect::<Vec<_>>()
        };
        let (before_names, now_names) = (names(before), names(now));
        let find = |names: &[(String, usize)], name: &str| {
            let mut names = names.iter();
            names.find_map(|(own, index)| (own == name).then_some(*index))
        };
        let mut seen = BTreeSet::new();
        let all = now_names.iter().chain(&before_names);
        let all = all.filter(|(name, _)| seen.insert(name.clone()));
        let rules = all.map(|(name, _)| {
            let (old, new) = (find(&before_names, name), find(&now_names, name));
            let old_tally = old.map(|index| &before.rules[index]);
            let new_tally = new.map(|index| &now.rules[index]);
            let at = |counts: &[u64], index: Option<usize>| {
                index
                    .and_then(|index| counts.get(index))
                    .copied()
                    .unwrap_or(0)
            };
            RuleChange {
                name: name.clone(),
                denied_before: old_tally.map(|tally| tally.counts.denied),
                denied: new_tally.map(|tally| tally.counts.denied),
                newly_denied: at(&self.newly, new),
                no_longer_denied: at(&self.no_longer, old),
                callers_newly_denied: changed(new_tally, old_tally),
                callers_no_longer_denied: changed(old_tally, new_tally),
            }
        });
        Against {
            rules: rules.collect(),
            rules_file: file,
            admitted_before: before.admitted,
            denied_before: before.denied,
            newly_denied: self.newly.iter().sum(),
            no_longer_denied: self.no_longer.iter().sum(),
        }
    }
}

/// The callers that `these` denied and `others` did not.
fn changed(these: Option<&RuleTally>, others: Option<&RuleTally>) -> CallersChanged {
    let Some(these) = these else {
        return CallersChanged::default();
    };
    let is_denied = |caller: &Caller| caller.counts.denied > 0;
    let denied_there = |name: &str| {
        let callers = others.map(|others| &others.callers);
        callers.is_some_and(|callers| callers.get(name).is_some_and(is_denied))
    };
    let callers = these.callers.iter();
    let changed = callers
        .filter(|(name, caller)| is_denied(caller) && !denied_there(name))
        .map(|(name, caller)| (&**name, caller));
    CallersChanged {
        callers: changed.clone().count(),
        most: worst(changed),
    }
}
