//! The grammar of keys in the store: how the key of a counter or a ban is put together.
//!
//! ```text
//! counter   = prefix "{" rule ":" descriptor "}:" algorithm ":" window [ "@" timezone ] [ ":try" ]
//! ban       = prefix "{" rule ":" descriptor "}" ( ":ban" / ":shadow_ban" )
//! overflow  = prefix "{" rule "}" ":overflow:" algorithm ":" window [ "@" timezone ] [ ":try" ]
//! new keys  = prefix "{" rule "}" ":new_keys"
//!
//! prefix     = "tollgate:"                     ; unless --key-prefix says another
//! descriptor = [ part *( "," part ) ]          ; empty for a rule without `key`
//! part       = name [ "=" value ]              ; without value: the request has none
//! ```
//!
//! * The braces are a hash tag: Redis Cluster keeps all limits of one rule for one client in one
//!   slot.
//! * Keys are injective. Rule names and part names hold none of `, = { }`, and values are encoded
//!   so that they hold none either (`:` separates nothing inside the braces after the first). A
//!   hash begins with `#`, which no encoded value holds. A property test checks it.
//! * Algorithm and window are in the key because values differ in form: changing either begins a
//!   new counter instead of misreading an old one. Changing the amount does not.
//! * The names and values of a descriptor's parts are written by [`rules::key`](crate::rules::key);
//!   everything around them is written here and nowhere else.

use std::{fmt, str::FromStr, sync::Arc};

use crate::{hash::HashKey, limit::Algorithm, problem::Problem};

/// How the key of a ban ends.
pub const BAN_SUFFIX: &str = ":ban";
/// How the key of a shadow rule's ban ends: enforcing the rule later bans nobody retroactively.
pub const SHADOW_BAN_SUFFIX: &str = ":shadow_ban";
/// How the key of a limit ends that is only tried out: enforcing it later begins at nothing.
pub const TRY_SUFFIX: &str = ":try";
/// What an overflow key has in place of a descriptor. It follows the braces, so no descriptor has
/// it.
const OVERFLOW: &str = ":overflow";
/// How the key of a rule's budget of new counters ends.
const NEW_KEYS: &str = ":new_keys";

/// How keys are written. All that share counters must agree on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySettings {
    /// How every key begins.
    pub prefix: KeyPrefix,
    /// The key under which secrets are hashed.
    pub hash_key: HashKey,
}

/// How every key begins, and what `redis-cli --scan --pattern 'tollgate:*'` finds.
///
/// 1 to 64 characters of graphic ASCII. Braces would be another hash tag, and characters that mean
/// something in patterns would keep `--scan` and ACL rules from finding the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPrefix(Arc<str>);

impl KeyPrefix {
    /// The longest prefix, in characters.
    pub const MAX: usize = 64;

    /// The prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for KeyPrefix {
    fn default() -> Self {
        Self("tollgate:".into())
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for KeyPrefix {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let is_fine = |b: u8| b.is_ascii_graphic() && !br"{}*?[]\^".contains(&b);
        if (1..=Self::MAX).contains(&text.len()) && text.bytes().all(is_fine) {
            return Ok(Self(text.into()));
        }
        Err(Problem::new(
            format!("{text:?} cannot begin keys"),
            "write 1 to 64 letters, digits or signs like : - _ / . (no braces, no blanks, nothing that \
             means something in patterns), for example tollgate:",
        ))
    }
}

/// `tollgate:{rule:descriptor}`: what all keys of one rule for one client begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    text: String,
    /// Where the descriptor begins.
    descriptor: usize,
}

impl Subject {
    /// The subject of a rule; `write` appends the descriptor. Also returns what `write` returned.
    pub fn new<T>(
        prefix: &KeyPrefix,
        rule: &str,
        write: impl FnOnce(&mut String) -> T,
    ) -> (Self, T) {
        let mut text = String::with_capacity(64);
        text.push_str(&prefix.0);
        text.push('{');
        text.push_str(rule);
        text.push(':');
        let descriptor = text.len();
        let written = write(&mut text);
        text.push('}');
        (Self { text, descriptor }, written)
    }

    /// The whole of it, to which a suffix is appended.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `client_ip=203.0.113.7`: the client as keys, logs and explanations show it.
    pub fn descriptor(&self) -> &str {
        &self.text[self.descriptor..self.text.len() - 1]
    }
}

/// `:sliding_window:60s`: how the keys of a limit end.
pub fn limit_suffix(algorithm: Algorithm, window: &str, timezone: Option<&str>) -> String {
    match timezone {
        None => format!(":{algorithm}:{window}"),
        Some(timezone) => format!(":{algorithm}:{window}@{timezone}"),
    }
}

/// The key of the overflow counter that stands in for `key` when the store is full.
///
/// Clients without a counter of their own share it, one for each rule and limit.
pub fn overflow(key: &str) -> String {
    let prefix = key.split_once('{').map_or("", |(prefix, _)| prefix);
    let suffix = key.rsplit_once('}').map_or("", |(_, suffix)| suffix);
    format!("{prefix}{{{}}}{OVERFLOW}{suffix}", rule_of(key))
}

/// The key of the budget of new counters of the rule that `key` belongs to.
pub fn new_keys(key: &str) -> String {
    let prefix = key.split_once('{').map_or("", |(prefix, _)| prefix);
    format!("{prefix}{{{}}}{NEW_KEYS}", rule_of(key))
}

/// The rule that a key belongs to.
pub fn rule_of(key: &str) -> &str {
    let tag = key.split_once('{').map_or(key, |(_, tag)| tag);
    tag.split([':', '}']).next().unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "tollgate:{data:client_ip=2001:db8::/64}:sliding_window:60s";

    #[test]
    fn a_subject_and_a_suffix_make_a_key() {
        let (subject, missing) = Subject::new(&KeyPrefix::default(), "data", |out| {
            out.push_str("client_ip=2001:db8::/64");
            false
        });
        assert!(!missing);
        assert_eq!(subject.descriptor(), "client_ip=2001:db8::/64");
        let suffix = limit_suffix(Algorithm::SlidingWindow, "60s", None);
        assert_eq!(format!("{}{suffix}", subject.as_str()), KEY);
        let calendar = limit_suffix(Algorithm::FixedWindow, "day", Some("Europe/Paris"));
        assert_eq!(calendar, ":fixed_window:day@Europe/Paris");
        let other: KeyPrefix = "shop/prod:".parse().unwrap();
        let (all, ()) = Subject::new(&other, "all", |_| ());
        assert_eq!((all.as_str(), all.descriptor()), ("shop/prod:{all:}", ""));
    }

    #[test]
    fn an_overflow_key_names_the_rule_and_the_limit() {
        let overflow = overflow(KEY);
        assert_eq!(overflow, "tollgate:{data}:overflow:sliding_window:60s");
        assert_eq!(rule_of(&overflow), "data");
        assert_eq!(new_keys(KEY), "tollgate:{data}:new_keys");
        assert_eq!(rule_of(KEY), "data");
        assert_eq!(rule_of("tollgate:{all:}:fixed_window:1s"), "all");
        assert_eq!(
            super::overflow("shop:{all:a=1}:fixed_window:1s"),
            "shop:{all}:overflow:fixed_window:1s"
        );
    }

    #[test]
    fn a_prefix_breaks_neither_slots_nor_patterns() {
        for prefix in ["t", "tollgate:", "shop/prod.1:", &"p".repeat(64)] {
            assert_eq!(prefix.parse::<KeyPrefix>().unwrap().as_str(), prefix);
        }
        for prefix in ["", "a{b}", "a*", "a b", "ä:", "a\n", &"p".repeat(65)] {
            let problem = prefix.parse::<KeyPrefix>().unwrap_err();
            assert!(
                problem.to_string().contains("cannot begin keys"),
                "{problem}"
            );
        }
    }
}
