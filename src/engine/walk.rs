//! The walk over the rules: which apply to a request, what each would have it charged, and where the walk ends.
//!
//! It counts nothing and tells nobody: an explanation takes the same walk as a decision.

use std::{ops::Range, sync::Arc};

use super::{Decision, Verdict};
use crate::{
    request::Attributes,
    rules::{
        Action, LimitAction, Mode, NamedBan, NamedLimit, Plan, PlanSource, Rule, RuleSet,
        key::{OnMissing, PREFIX},
        matcher::Params,
    },
    store::{BAN_SUFFIX, Batch, ENFORCED, SHADOW_BAN_SUFFIX},
};

/// What the walk found.
#[derive(Default)]
pub(super) struct Matched<'a> {
    /// The rules that match, from the top to the one that ended the walk.
    pub(super) met: Vec<Met<'a>>,
    /// What is to be charged for all of them.
    pub(super) batch: Batch,
}

/// A rule that matches.
#[derive(Clone)]
pub(super) struct Met<'a> {
    /// Its place in the file.
    pub(super) index: usize,
    pub(super) rule: &'a Rule,
    pub(super) effect: Effect<'a>,
}

/// What a rule that matches does.
#[derive(Clone)]
pub(super) enum Effect<'a> {
    /// Lets the request pass, and ends the walk.
    Allows,
    /// Turns it away, and ends the walk; in shadow mode it does neither.
    Denies { mode: Mode, why: Denial<'a> },
    /// Does not apply, because the request lacks a part of its key.
    Skips { subject: Subject },
    /// Applies, and counts nothing.
    Unlimited {
        subject: Subject,
        source: PlanSource<'a>,
    },
    /// Counts.
    Counts(Counting<'a>),
}

/// Why a request is denied that nothing counts.
#[derive(Clone)]
pub(super) enum Denial<'a> {
    /// The rule denies all that it matches.
    Action,
    /// The request lacks a part of the rule's key.
    MissingKey { subject: Subject },
    /// The caller may have nothing.
    Nothing {
        subject: Subject,
        source: PlanSource<'a>,
    },
}

/// What a rule counts for one request.
#[derive(Clone)]
pub(super) struct Counting<'a> {
    pub(super) action: &'a LimitAction,
    pub(super) subject: Subject,
    pub(super) source: PlanSource<'a>,
    pub(super) limits: &'a [NamedLimit],
    pub(super) ban: Option<&'a NamedBan>,
    pub(super) cost: u64,
    /// Its charges in the batch: one for each limit, then one for the ban if there is one.
    pub(super) charges: Range<usize>,
}

/// Whom a rule counts: `tollgate:{rule:descriptor}`, the beginning of all of its keys.
#[derive(Clone)]
pub(super) struct Subject {
    text: String,
    /// Where the descriptor begins.
    at: usize,
}

impl Subject {
    fn begin(rule: &str) -> Self {
        let mut text = String::with_capacity(64);
        text.push_str(PREFIX);
        text.push('{');
        text.push_str(rule);
        text.push(':');
        let at = text.len();
        Self { text, at }
    }

    /// `client_ip=203.0.113.7`: the caller as keys show it. Secrets are hashed in it.
    pub(super) fn descriptor(&self) -> &str {
        let descriptor = &self.text[self.at..];
        // No encoded value holds a brace: this one is the key's.
        descriptor.strip_suffix('}').unwrap_or(descriptor)
    }
}

impl<'a> Matched<'a> {
    /// From top to bottom: every limit that matches applies, until a rule ends the walk. `now_us` is the store's time, as well
    /// as it is known.
    pub(super) fn walk(set: &'a RuleSet, request: &'a Attributes<'_>, now_us: u64) -> Self {
        let mut matched = Self::default();
        for (index, rule, params) in set.matching(request) {
            let effect = match &rule.action {
                Action::Allow => Effect::Allows,
                Action::Deny(mode) => Effect::Denies {
                    mode: *mode,
                    why: Denial::Action,
                },
                Action::Limit(action) => {
                    let place = Place {
                        index,
                        rule,
                        now_us,
                    };
                    matched.apply(set, place, action, request, &params)
                }
            };
            let ends = effect.ends();
            matched.met.push(Met {
                index,
                rule,
                effect,
            });
            if ends {
                break;
            }
        }
        matched
    }

    /// The rule that ended the walk, if one did.
    pub(super) fn end(&self) -> Option<&Met<'a>> {
        self.met.last().filter(|met| met.effect.ends())
    }

    /// The rule that ended the walk with a denial, and why, if one did.
    pub(super) fn forbidden(&self) -> Option<(&Met<'a>, &Denial<'a>)> {
        let end = self.end()?;
        match &end.effect {
            Effect::Denies { why, .. } => Some((end, why)),
            _ => None,
        }
    }

    /// A decision, with the rule that let the request pass if one did.
    pub(super) fn ended(&self, mut decision: Decision) -> Decision {
        if decision.verdict == Verdict::Allowed
            && let Some(end) = self.end()
        {
            decision.rule = Some(Arc::clone(&end.rule.name));
        }
        decision
    }

    /// The rules that count, with what they count.
    pub(super) fn counting(&self) -> impl Iterator<Item = (&Met<'a>, &Counting<'a>)> {
        self.met.iter().filter_map(|met| match &met.effect {
            Effect::Counts(counting) => Some((met, counting)),
            _ => None,
        })
    }

    fn apply(
        &mut self,
        set: &'a RuleSet,
        place: Place<'a>,
        action: &'a LimitAction,
        request: &Attributes<'_>,
        params: &Params<'_>,
    ) -> Effect<'a> {
        let mode = action.mode;
        let mut subject = Subject::begin(&place.rule.name);
        let missing = action
            .descriptor
            .push(&mut subject.text, request, params, set.key_context());
        subject.text.push('}');
        if missing {
            match action.descriptor.on_missing {
                OnMissing::Shared => {}
                OnMissing::Skip => return Effect::Skips { subject },
                OnMissing::Deny => {
                    let why = Denial::MissingKey { subject };
                    return Effect::Denies { mode, why };
                }
            }
        }
        let (plan, source) = action.plan_for(subject.descriptor(), request);
        let limits = match plan {
            Plan::Limits(limits) => limits,
            Plan::Unlimited => return Effect::Unlimited { subject, source },
            Plan::Nothing => {
                let why = Denial::Nothing { subject, source };
                return Effect::Denies { mode, why };
            }
        };
        let group = match mode {
            Mode::Enforce => ENFORCED,
            // Any number of its own will do; rule 0 may be a shadow rule too.
            Mode::Shadow => u32::try_from(place.index).unwrap_or(u32::MAX - 1) + 1,
        };
        let cost = action.cost.of(request);
        let start = self.batch.charges().len();
        for limit in limits {
            self.batch.push(limit.at(place.now_us), cost, group, |key| {
                key.push_str(&subject.text);
                key.push_str(&limit.key_suffix);
            });
        }
        if let Some(ban) = &action.ban {
            self.batch.push_ban(ban.ban, limits.len(), group, |key| {
                key.push_str(&subject.text);
                key.push_str(match mode {
                    Mode::Enforce => BAN_SUFFIX,
                    // Who is banned by a rule that is only tried must not be shut out when it denies in earnest.
                    Mode::Shadow => SHADOW_BAN_SUFFIX,
                });
            });
        }
        Effect::Counts(Counting {
            action,
            subject,
            source,
            limits,
            ban: action.ban.as_ref(),
            cost,
            charges: start..self.batch.charges().len(),
        })
    }
}

/// Where the walk stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    index: usize,
    rule: &'a Rule,
    now_us: u64,
}

impl Denial<'_> {
    /// As the rule file says it.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Action => "action: deny",
            Self::MissingKey { .. } => "on_missing: deny",
            Self::Nothing { .. } => "limit: 0",
        }
    }

    /// Whom it denies, if that matters.
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
