//! The walk over the rules: which of them apply to a request, what they charge, and where it ends.
//!
//! It counts and logs nothing: an explanation takes the same walk as a decision.

use std::{borrow::Cow, ops::Range};

use smallvec::SmallVec;

use super::decision::{Decision, Verdict};
use crate::{
    counter_key::{BAN_SUFFIX, SHADOW_BAN_SUFFIX, Subject},
    request::Attributes,
    rules::{
        Action, LimitAction, Mode, NamedBan, NamedLimit, Plan, PlanSource, Rule, RuleSet,
        key::OnMissing, matcher::Params,
    },
    store::{Batch, CANDIDATES, ENFORCED},
};

/// The result of the walk.
#[derive(Default)]
pub(super) struct Walk<'a> {
    /// The rules that match, from the top to the one that ended the walk.
    pub(super) rules: SmallVec<[MatchedRule<'a>; 2]>,
    /// The charges of all of them.
    pub(super) batch: Batch,
}

/// A rule that matches.
#[derive(Clone)]
pub(super) struct MatchedRule<'a> {
    /// Its position in the file.
    pub(super) index: usize,
    pub(super) rule: &'a Rule,
    pub(super) effect: Effect<'a>,
}

/// The effect of a rule that matches.
#[derive(Clone)]
pub(super) enum Effect<'a> {
    /// Admits the request, and ends the walk.
    Allows,
    /// Denies the request, and ends the walk; in shadow mode it does neither.
    Denies { mode: Mode, why: DenyReason<'a> },
    /// Does not apply, because the request lacks a part of its key.
    Skips { subject: Subject },
    /// Applies, and counts nothing.
    Unlimited {
        subject: Subject,
        source: PlanSource<'a>,
    },
    /// Counts.
    Counts(Charges<'a>),
}

/// Why a request is denied without counting.
#[derive(Clone)]
pub(super) enum DenyReason<'a> {
    /// The rule denies everything that it matches.
    Action,
    /// The request lacks a part of the rule's key.
    MissingKey { subject: Subject },
    /// The client's limit is 0.
    Nothing {
        subject: Subject,
        source: PlanSource<'a>,
    },
}

/// What a rule counts for one request.
#[derive(Clone)]
pub(super) struct Charges<'a> {
    pub(super) action: &'a LimitAction,
    pub(super) subject: Subject,
    pub(super) source: PlanSource<'a>,
    pub(super) limits: Cow<'a, [NamedLimit]>,
    pub(super) ban: Option<&'a NamedBan>,
    pub(super) cost: u64,
    /// Its charges in the batch: one for each limit, then one for the ban if there is one.
    pub(super) in_batch: Range<usize>,
    /// The charges of limits that are tried out, in the order of the limits beside which they are.
    pub(super) candidates: Range<usize>,
}

/// What the walk is over, and when.
#[derive(Clone, Copy)]
pub(super) struct WalkContext<'a> {
    pub(super) set: &'a RuleSet,
    pub(super) request: &'a Attributes<'a>,
    /// The store's time as well as it is known, in microseconds since the Unix epoch.
    pub(super) now_us: u64,
}

impl<'a> Walk<'a> {
    /// Walks from top to bottom: every limit that matches applies, until a rule ends the walk.
    pub(super) fn over(context: WalkContext<'a>) -> Self {
        let mut walk = Self::default();
        for (index, rule, params) in context.set.matching(context.request) {
            let effect = match &rule.action {
                Action::Allow => Effect::Allows,
                Action::Deny(mode) => Effect::Denies {
                    mode: *mode,
                    why: DenyReason::Action,
                },
                Action::Limit(action) => walk.apply(context, (index, rule), action, &params),
            };
            let ends = effect.ends();
            walk.rules.push(MatchedRule {
                index,
                rule,
                effect,
            });
            if ends {
                break;
            }
        }
        walk
    }

    /// Takes one rule alone, for a caller who is known.
    pub(super) fn of_caller(
        context: WalkContext<'a>,
        index: usize,
        action: &'a LimitAction,
        subject: Subject,
    ) -> Self {
        let mut walk = Self::default();
        let (plan, source) = action.plan_for(subject.descriptor(), context.request);
        let effect = match plan {
            Plan::Limits(limits) => {
                let given = (&limits[..], source);
                Effect::Counts(walk.charge(context, index, action, subject, given))
            }
            Plan::Unlimited => Effect::Unlimited { subject, source },
            Plan::Nothing => Effect::Denies {
                mode: action.mode,
                why: DenyReason::Nothing { subject, source },
            },
        };
        walk.rules.push(MatchedRule {
            index,
            rule: &context.set.rules[index],
            effect,
        });
        walk
    }

    /// The rule that ended the walk, if one did.
    pub(super) fn end(&self) -> Option<&MatchedRule<'a>> {
        self.rules.last().filter(|matched| matched.effect.ends())
    }

    /// The rule that ended the walk with a denial, and why, if one did.
    pub(super) fn forbidden(&self) -> Option<(&MatchedRule<'a>, &DenyReason<'a>)> {
        let end = self.end()?;
        match &end.effect {
            Effect::Denies { why, .. } => Some((end, why)),
            _ => None,
        }
    }

    /// The decision, with the rule that admitted the request by ending the walk, if one did.
    pub(super) fn ended(&self, mut decision: Decision<'a>) -> Decision<'a> {
        if decision.verdict == Verdict::Allowed
            && let Some(end) = self.end()
        {
            decision.rule = Some(Cow::Borrowed(&end.rule.name));
        }
        decision
    }

    /// The rules that count, with what they count.
    pub(super) fn charges(&self) -> impl Iterator<Item = (&MatchedRule<'a>, &Charges<'a>)> + Clone {
        self.rules
            .iter()
            .filter_map(|matched| match &matched.effect {
                Effect::Counts(charges) => Some((matched, charges)),
                _ => None,
            })
    }

    /// The effect of a rule that counts. Its charges are added to the batch.
    fn apply(
        &mut self,
        context: WalkContext<'a>,
        (index, rule): (usize, &'a Rule),
        action: &'a LimitAction,
        params: &Params<'_>,
    ) -> Effect<'a> {
        let WalkContext { set, request, .. } = context;
        let mode = action.mode;
        let (subject, is_missing) = Subject::new(&set.keys.prefix, &rule.name, |out| {
            let descriptor = &action.descriptor;
            descriptor.push(out, request, params, set.key_context())
        });
        if is_missing {
            match action.descriptor.on_missing {
                OnMissing::Shared => {}
                OnMissing::Skip => return Effect::Skips { subject },
                OnMissing::Deny => {
                    let why = DenyReason::MissingKey { subject };
                    return Effect::Denies { mode, why };
                }
            }
        }
        let (plan, source) = action.plan_for(subject.descriptor(), request);
        let limits = match plan {
            Plan::Limits(limits) => limits,
            Plan::Unlimited => return Effect::Unlimited { subject, source },
            Plan::Nothing => {
                let why = DenyReason::Nothing { subject, source };
                return Effect::Denies { mode, why };
            }
        };
        Effect::Counts(self.charge(context, index, action, subject, (limits, source)))
    }

    /// Adds the charges of a rule to the batch.
    fn charge(
        &mut self,
        context: WalkContext<'_>,
        index: usize,
        action: &'a LimitAction,
        subject: Subject,
        (limits, source): (&'a [NamedLimit], PlanSource<'a>),
    ) -> Charges<'a> {
        let (group, ban_suffix) = match action.mode {
            Mode::Enforce => (ENFORCED, BAN_SUFFIX),
            // Any number of its own will do. Rule 0 may be a shadow rule too, hence the 1.
            Mode::Shadow => (
                u32::try_from(index).unwrap_or(u32::MAX - 1) + 1,
                SHADOW_BAN_SUFFIX,
            ),
        };
        let limits = NamedLimit::for_request(limits, context.request);
        let cost = action.cost.of(context.request);
        let start = self.batch.charges().len();
        for limit in &*limits {
            let at_now = limit.at(context.now_us);
            self.batch.push(at_now, cost, group, |key| {
                key.push_str(subject.as_str());
                key.push_str(&limit.key_suffix);
            });
        }
        if let Some(ban) = &action.ban {
            self.batch.push_ban(ban.ban, limits.len(), group, |key| {
                key.push_str(subject.as_str());
                key.push_str(ban_suffix);
            });
        }
        let end = self.batch.charges().len();
        for candidate in limits.iter().filter_map(|limit| limit.candidate.as_deref()) {
            let at_now = candidate.at(context.now_us);
            // Its place is a number that no other group has.
            let place = u32::try_from(self.batch.charges().len()).unwrap_or(u32::MAX);
            self.batch.push(at_now, cost, CANDIDATES | place, |key| {
                key.push_str(subject.as_str());
                key.push_str(&candidate.key_suffix);
            });
        }
        self.batch.set_max_new_keys(start, action.max_new_keys);
        Charges {
            action,
            subject,
            source,
            limits,
            ban: action.ban.as_ref(),
            cost,
            in_batch: start..end,
            candidates: end..self.batch.charges().len(),
        }
    }
}

impl Charges<'_> {
    /// The limits that are tried out, with the places of their charges.
    pub(super) fn candidates(&self) -> impl Iterator<Item = (usize, &NamedLimit)> {
        let limits = self.limits.iter();
        let candidates = limits.filter_map(|limit| limit.candidate.as_deref());
        self.candidates.clone().zip(candidates)
    }
}

impl DenyReason<'_> {
    /// The reason in the words of the rule file.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Action => "action: deny",
            Self::MissingKey { .. } => "on_missing: deny",
            Self::Nothing { .. } => "limit: 0",
        }
    }

    /// The client that is denied, if the reason depends on it.
    pub(super) fn subject(&self) -> Option<&Subject> {
        match self {
            Self::Action => None,
            Self::MissingKey { subject } | Self::Nothing { subject, .. } => Some(subject),
        }
    }
}

impl Effect<'_> {
    /// Whether no later rule is asked.
    pub(super) fn ends(&self) -> bool {
        match self {
            Self::Allows => true,
            Self::Denies { mode, .. } => *mode == Mode::Enforce,
            Self::Skips { .. } | Self::Unlimited { .. } | Self::Counts(_) => false,
        }
    }
}
