//! One caller's counters: what is in them, and changes that people make.
//!
//! A change is made in the store as a whole; then this process forgets what it remembers of the
//! store, and so do the other replicas, before the change is reported as done. So the caller's next
//! request finds it, at whichever replica.

use serde::Serialize;
use tokio::time::Instant;

use super::{
    Engine, Live,
    trace::{LimitStatuses, status_of},
    walk::{Walk, WalkContext},
};
use crate::{
    counter_key::{BAN_SUFFIX, SHADOW_BAN_SUFFIX, Subject},
    limit::MAX_AMOUNT,
    nearest::nearest,
    problem::Problem,
    request::Attributes,
    rules::{LimitAction, Mode, Rule, key::Part, span::span_text},
    store::{Batch, Edit, StoreError, read::Read as _},
};

/// Which caller of a rule.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// What the caller sends, as far as it is known: which tier it is in, and who it is if there is
    /// no `key`.
    pub request: &'a Attributes<'a>,
    /// Its descriptor, as keys and logs have it: `client_ip=203.0.113.7`.
    pub key: Option<&'a str>,
}

/// The most that can be granted at once.
pub const MAX_GRANT: u64 = MAX_AMOUNT;

/// A change to the counters of one caller of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Removes its counters, and its ban.
    Reset,
    /// Lets it have so many more, until the window of each limit ends.
    Grant(u64),
    /// Bans it, for so many microseconds or else for as long as the rule says.
    Ban(Option<u64>),
    /// Ends its ban.
    Unban,
}

impl Change {
    /// Its name, as people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Grant(_) => "grant",
            Self::Ban(_) => "ban",
            Self::Unban => "unban",
        }
    }
}

/// The counters of one caller of one rule.
#[derive(Debug, Clone, Serialize)]
pub struct CallerStatus {
    /// The rule.
    pub rule: String,
    /// The caller, its limits and their state.
    #[serde(flatten)]
    pub counts: LimitStatuses,
}

/// A change that was made.
#[derive(Debug, Clone, Serialize)]
pub struct Changed {
    /// Before the change.
    pub before: CallerStatus,
    /// After it, and after all replicas have heard of it.
    pub after: CallerStatus,
    /// Replicas that have not confirmed it. They may deny for another second what they remember.
    pub unconfirmed: u64,
}

/// Why the counters of a caller cannot be shown or changed.
#[derive(Debug, thiserror::Error)]
pub enum CallerError {
    /// There is no such rule, no such caller, or nothing to change.
    #[error("{0}")]
    Problem(Problem),
    /// The store did not answer.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl From<Problem> for CallerError {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// A caller of a rule that counts.
pub(super) struct Found<'a> {
    pub(super) index: usize,
    pub(super) action: &'a LimitAction,
    pub(super) subject: Subject,
}

impl Engine {
    /// What is counted for a caller of the rule of this name.
    pub async fn caller(
        &self,
        live: &Live,
        rule: &str,
        who: Who<'_>,
    ) -> Result<CallerStatus, CallerError> {
        let found = find(live, rule, who)?;
        Ok(self.status(live, &found, who).await?)
    }

    /// Changes what is counted for a caller, and waits until all replicas have heard of it.
    pub async fn change(
        &self,
        live: &Live,
        rule: &str,
        who: Who<'_>,
        change: Change,
    ) -> Result<Changed, CallerError> {
        let found = find(live, rule, who)?;
        let edit = self.store.edit().ok_or_else(|| {
            StoreError::Refused(format!("the store {} cannot be changed", self.store.name()))
        })?;
        let before = self.status(live, &found, who).await?;
        self.apply(live, &found, who, edit, change).await?;
        self.forget(Instant::now()).await;
        let announced = edit.announce().await?;
        Ok(Changed {
            before,
            after: self.status(live, &found, who).await?,
            unconfirmed: announced.missing,
        })
    }

    async fn apply(
        &self,
        live: &Live,
        found: &Found<'_>,
        who: Who<'_>,
        edit: &dyn Edit,
        change: Change,
    ) -> Result<(), CallerError> {
        let ban_suffix = match found.action.mode {
            Mode::Enforce => BAN_SUFFIX,
            Mode::Shadow => SHADOW_BAN_SUFFIX,
        };
        let key = |suffix: &str| format!("{}{suffix}", found.subject.as_str());
        match change {
            Change::Reset => {
                edit.remove(&found.keys()).await?;
            }
            Change::Unban => {
                edit.remove(&[key(ban_suffix)]).await?;
            }
            Change::Ban(for_us) => {
                let Some(ban) = &found.action.ban else {
                    return Err(Problem::new(
                        "the rule has no ban, so nothing would look for one",
                        "add `ban: { after: …, within: …, for: … }` to the rule, or an override with `limit: 0`",
                    )
                    .into());
                };
                let longest = ban.ban.for_us();
                let for_us = for_us.unwrap_or(longest);
                if for_us > longest {
                    return Err(Problem::new(
                        format!("bans of this rule last {} at most", span_text(longest)),
                        "write less, or raise `for` in the ban of the rule",
                    )
                    .into());
                }
                edit.ban(&key(ban_suffix), for_us).await?;
            }
            Change::Grant(more) => {
                let walk = walk_of(live, found, who, self.store.now_us());
                let batch = walk.batch_of_limits();
                edit.grant(&batch, more).await?;
            }
        }
        Ok(())
    }

    /// Forgets all that is remembered of the store: denials, and what was charged ahead.
    pub async fn forget(&self, now: Instant) {
        if let Some(denials) = &self.denials {
            denials.forget(now);
        }
        self.end_leases(now + PATIENCE).await;
    }

    async fn status(
        &self,
        live: &Live,
        found: &Found<'_>,
        who: Who<'_>,
    ) -> Result<CallerStatus, StoreError> {
        let mut walk = walk_of(live, found, who, self.store.now_us());
        let mut reading = self.store.read(&walk.batch).await?;
        if !reading.is_covered_by(&walk.batch) {
            walk = walk_of(live, found, who, reading.now_us);
            reading = self.store.read(&walk.batch).await?;
        }
        Ok(CallerStatus {
            rule: live.set.rules[found.index].name.to_string(),
            counts: status_of(&walk, &reading),
        })
    }
}

/// A walk that takes only the rule of the caller.
fn walk_of<'a>(live: &'a Live, found: &Found<'a>, who: Who<'a>, now_us: u64) -> Walk<'a> {
    let context = WalkContext {
        set: &live.set,
        request: who.request,
        now_us,
    };
    Walk::of_caller(context, found.index, found.action, found.subject.clone())
}

/// How long leases may take to be given back.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

impl Found<'_> {
    /// The keys of all that may be stored for the caller: of the rule's own limits, of those of its
    /// tiers and overrides, and of bans.
    fn keys(&self) -> Vec<String> {
        let limits = self.action.limits();
        let candidates = self
            .action
            .limits()
            .filter_map(|limit| limit.candidate.as_deref());
        let suffixes = limits.chain(candidates).map(|limit| &*limit.key_suffix);
        let suffixes = suffixes.chain([BAN_SUFFIX, SHADOW_BAN_SUFFIX]);
        let mut keys: Vec<String> = suffixes
            .map(|suffix| format!("{}{suffix}", self.subject.as_str()))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

/// The caller, if the rule is there and counts.
fn find<'a>(live: &'a Live, rule: &str, who: Who<'_>) -> Result<Found<'a>, Problem> {
    let mut rules = live.set.rules.iter().enumerate();
    let Some((index, rule)) = rules.find(|(_, known)| &*known.name == rule) else {
        let names: Vec<&str> = live.set.rules.iter().map(|rule| &*rule.name).collect();
        let hint = match nearest(rule, &names) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("the rules are {}", names.join(", ")),
        };
        return Err(Problem::new(format!("there is no rule {rule:?}"), hint));
    };
    let Some(action) = rule.limit_action() else {
        return Err(Problem::new(
            format!("the rule {} counts nothing", rule.name),
            "name a rule with a limit",
        ));
    };
    let subject = match who.key {
        Some(key) => {
            check_key(action, key)?;
            let prefix = &live.set.keys.prefix;
            Subject::new(prefix, &rule.name, |out| out.push_str(key)).0
        }
        None => subject_of(live, rule, action, who.request)?,
    };
    Ok(Found {
        index,
        action,
        subject,
    })
}

/// The caller that sends a request.
fn subject_of(
    live: &Live,
    rule: &Rule,
    action: &LimitAction,
    request: &Attributes<'_>,
) -> Result<Subject, Problem> {
    let matched = rule.matcher.matches(request);
    let is_of_path = |part: &Part| matches!(part, Part::Path { .. });
    if matched.is_none() && action.descriptor.parts.iter().any(is_of_path) {
        return Err(Problem::new(
            format!(
                "the key of {} has a part of the path, and the request does not match the rule",
                rule.name
            ),
            "give a path that the rule matches, or the caller as the log shows it (--key)",
        ));
    }
    let params = matched.unwrap_or_default();
    let (subject, is_missing) = Subject::new(&live.set.keys.prefix, &rule.name, |out| {
        let context = live.set.key_context();
        action.descriptor.push(out, request, &params, context)
    });
    if is_missing {
        return Err(Problem::new(
            format!(
                "the key of {} is {}, and not all of it is given: {}",
                rule.name,
                action.descriptor.names().join(", "),
                subject.descriptor()
            ),
            "give what the caller sends (--ip, -H, --path …), or the caller as the log shows it (--key)",
        ));
    }
    Ok(subject)
}

/// Whether a text can be the descriptor of a caller of a rule.
fn check_key(action: &LimitAction, key: &str) -> Result<(), Problem> {
    let names = action.descriptor.names();
    let given = key.split(',').map(|part| part.split('=').next());
    let is_shaped = if names.is_empty() {
        key.is_empty()
    } else {
        given.eq(names.iter().map(|name| Some(&**name)))
    };
    let is_plain = key
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"{}".contains(&byte));
    if is_shaped && is_plain {
        return Ok(());
    }
    let shape: Vec<String> = names.iter().map(|name| format!("{name}=…")).collect();
    Err(Problem::new(
        format!("{key:?} is no caller of this rule"),
        format!(
            "callers look like {:?}, as the log and `explain` show them",
            shape.join(",")
        ),
    ))
}

impl Walk<'_> {
    /// The charges of limits alone.
    fn batch_of_limits(&self) -> Batch {
        let mut batch = Batch::default();
        for charge in self.batch.charges() {
            if let Some(limit) = charge.limit()
                && !charge.is_candidate()
            {
                let key = self.batch.key(charge);
                batch.push(*limit, charge.cost, charge.group, |out| out.push_str(key));
            }
        }
        batch
    }
}
