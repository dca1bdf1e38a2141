//! All counters in the store, looked through page by page: whose are near their limit, and whose
//! are over it.

use serde::{Deserialize, Serialize};

use super::{Engine, Live};
use crate::{
    counter_key::{BAN_SUFFIX, SHADOW_BAN_SUFFIX},
    limit::{State, ban},
    rules::{LimitAction, NamedLimit, Rule},
    store::{Place, StoreError},
};

/// Which counters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Of the rule of this name.
    pub rule: Option<String>,
    /// Of callers whose descriptor begins with this.
    pub key: Option<String>,
    /// Of which so much is used at least, in percent.
    pub near: Option<u8>,
    /// Of which nothing is left, and bans.
    pub over: bool,
    /// Where to go on, as the last page says.
    pub from: Option<Next>,
}

/// A place in all counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Next {
    /// The number of the node, in a cluster.
    pub node: usize,
    /// Its cursor.
    pub cursor: u64,
}

/// Some of the counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// How many keys were looked at.
    pub seen: usize,
    /// Those that were asked for.
    pub counters: Vec<ListedCounter>,
    /// Where it goes on; without it, this was the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Next>,
}

/// A counter or a ban of one caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedCounter {
    /// The rule.
    pub rule: String,
    /// The caller.
    pub key: String,
    /// The limit, by its name.
    pub limit: String,
    /// The limit as the rule file says it; of a ban, `5 denials within 10m`.
    pub rate: String,
    /// What is used of it now; of a ban, denials.
    pub used: u64,
    /// How much the limit holds; of a ban, the denials after which it begins.
    pub holds: u64,
    /// How many more than that a person has granted, as far as they are not used.
    #[serde(default, skip_serializing_if = "is_none")]
    pub granted: u64,
    /// Whether it denies a request now.
    pub over: bool,
    /// The key in the store.
    pub stored_as: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_none(granted: &u64) -> bool {
    *granted == 0
}

impl ListedCounter {
    /// How much of the limit is used, in thousandths.
    pub fn use_per_mille(&self) -> u64 {
        let used = u128::from(self.used) * 1_000 / u128::from(self.holds.max(1));
        u64::try_from(used).unwrap_or(u64::MAX)
    }
}

impl Engine {
    /// A page of counters. Which tier a caller is in is not in the key: unless it has an override,
    /// its counters are compared with the rule's own limits, if those count in the same way.
    pub async fn list(&self, live: &Live, filter: &Filter) -> Result<Listed, StoreError> {
        let edit = self.store.edit().ok_or_else(|| {
            StoreError::Refused(format!("the store {} cannot be listed", self.store.name()))
        })?;
        let mut prefix = format!("{}{{", live.set.keys.prefix);
        if let Some(rule) = &filter.rule {
            prefix.push_str(rule);
            prefix.push(':');
            prefix.push_str(filter.key.as_deref().unwrap_or_default());
        }
        let from = filter.from.map(|from| Place {
            node: from.node,
            cursor: from.cursor,
        });
        let page = edit.page(&prefix, from.unwrap_or_default()).await?;
        let counters = page.counters.iter();
        let counters = counters.filter_map(|(key, text)| listed(live, key, text, page.now_us));
        let counters = counters.filter(|counter| filter.takes(counter));
        Ok(Listed {
            seen: page.counters.len(),
            counters: counters.collect(),
            next: page.next.map(|next| Next {
                node: next.node,
                cursor: next.cursor,
            }),
        })
    }
}

impl Filter {
    fn takes(&self, counter: &ListedCounter) -> bool {
        let is_of_rule = self.rule.as_ref().is_none_or(|rule| *rule == counter.rule);
        let key = self.key.as_deref().unwrap_or_default();
        let near = self.near.map_or(0, |near| u64::from(near) * 10);
        is_of_rule
            && counter.key.starts_with(key)
            && counter.use_per_mille() >= near
            && (counter.over || !self.over)
    }
}

/// The counter under a key; `None` if it is not one of a rule in force, or not in use.
fn listed(live: &Live, stored_as: &str, text: &str, now_us: u64) -> Option<ListedCounter> {
    let rest = stored_as.strip_prefix(live.set.keys.prefix.as_str())?;
    let (tag, suffix) = rest.strip_prefix('{')?.split_once('}')?;
    let (rule, key) = tag.split_once(':')?;
    let rule = live.set.rules.iter().find(|known| *known.name == *rule)?;
    let action = rule.limit_action()?;
    let counter = if [BAN_SUFFIX, SHADOW_BAN_SUFFIX].contains(&suffix) {
        of_ban(action, text, now_us)?
    } else {
        of_limit(limit_of(action, key, suffix)?, text, now_us)?
    };
    Some(ListedCounter {
        rule: rule_name(rule),
        key: key.to_owned(),
        stored_as: stored_as.to_owned(),
        ..counter
    })
}

fn rule_name(rule: &Rule) -> String {
    rule.name.to_string()
}

/// The limit whose keys end like this: of the caller's override, else the rule's own, else one of a
/// tier.
fn limit_of<'a>(action: &'a LimitAction, key: &str, suffix: &str) -> Option<&'a NamedLimit> {
    let own = action.overrides.get(key).map_or(&action.plan, |plan| plan);
    let tiers = action.tiers.iter().flat_map(|tier| tier.plan.limits());
    let mut limits = own.limits().iter().chain(tiers);
    limits.find(|limit| *limit.key_suffix == *suffix)
}

fn of_limit(limit: &NamedLimit, text: &str, now_us: u64) -> Option<ListedCounter> {
    let at_now = limit.at(now_us);
    let state = State::parse(at_now.algorithm(), text)?;
    let outcome = at_now.step(Some(state), now_us, 1).outcome;
    let left = if outcome.allowed {
        outcome.remaining + 1
    } else {
        outcome.remaining
    };
    Some(ListedCounter {
        rule: String::new(),
        key: String::new(),
        limit: limit.name.to_string(),
        rate: limit.text.to_string(),
        used: at_now.burst().saturating_sub(left),
        holds: at_now.burst(),
        granted: left.saturating_sub(at_now.burst()),
        over: !outcome.allowed,
        stored_as: String::new(),
    })
}

fn of_ban(action: &LimitAction, text: &str, now_us: u64) -> Option<ListedCounter> {
    let ban = action.ban.as_ref()?;
    let state = ban::State::parse(text)?;
    let outcome = ban.ban.step(Some(state), now_us, true).outcome;
    Some(ListedCounter {
        rule: String::new(),
        key: String::new(),
        limit: ban.name.to_string(),
        rate: ban.text.to_string(),
        used: if outcome.allowed {
            ban.ban.after().saturating_sub(outcome.remaining)
        } else {
            ban.ban.after()
        },
        holds: ban.ban.after(),
        granted: 0,
        over: !outcome.allowed,
        stored_as: String::new(),
    })
}
