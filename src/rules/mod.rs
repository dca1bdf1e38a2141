//! The rule file: read, checked, compiled, matched.
//!
//! [`load`] is the whole way from text to a [`RuleSet`]. A rule set is immutable; a changed file makes a new one.

pub mod answer;
mod compile;
mod decode;
pub mod diagnostic;
mod file;
mod index;
pub mod key;
mod locate;
pub mod matcher;
pub mod quota;
mod rule;
mod syntax;
mod yaml;

use std::{io, path::Path};

pub use self::{
    compile::SHIPPED_HEADERS,
    diagnostic::{Diagnostic, Report, Severity},
    rule::{
        Action, Cost, LimitAction, Mode, NamedBan, NamedLimit, OnStoreError, Plan, PlanSource,
        Rule, Tier,
    },
};
use self::{
    index::Index,
    matcher::{Named, Params},
};
use crate::{
    hash::HashKey,
    request::{Attributes, ClientIpPolicy},
};

/// What a rule file needs beside its own text.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The key of the hash of secrets.
    pub hash_key: &'a HashKey,
    /// Reads a file that the rule file names, by its path relative to the rule file's directory.
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
}

/// What became of a rule file.
#[derive(Debug)]
pub struct Loaded {
    /// The rules; `None` if there was an error.
    pub set: Option<RuleSet>,
    /// Everything that could be told in one go, warnings included.
    pub report: Report,
}

/// Reads and compiles the text of a rule file. `name` is how messages call the file.
pub fn load_with(name: &str, text: &str, surroundings: Surroundings<'_>) -> Loaded {
    let mut document = yaml::Document::new(name, text);
    let set = compile::compile(&mut document, surroundings);
    let report = document.report();
    Loaded {
        set: set.filter(|_| !report.has_errors()),
        report,
    }
}

/// The JSON Schema of rule files, for editors (draft 2020-12).
pub fn schema() -> serde_json::Value {
    file::schema()
}

/// As [`load_with`], for a file that stands alone, without a secret for its hashes. On an error the report holds everything
/// that could be told in one go.
pub fn load(name: &str, text: &str) -> Result<RuleSet, Report> {
    let alone = |path: &Path| {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("{} belongs to a file on disk", path.display()),
        ))
    };
    let loaded = load_with(
        name,
        text,
        Surroundings {
            hash_key: &HashKey::default(),
            read: &alone,
        },
    );
    loaded.set.ok_or(loaded.report)
}

/// All rules of a file, ready to be matched.
#[derive(Debug, Clone)]
pub struct RuleSet {
    /// The rules, in the order of the file.
    pub rules: Vec<Rule>,
    /// How a client's address is found and keyed.
    pub client_ip: ClientIpPolicy,
    /// How secrets are hashed.
    pub hash_key: HashKey,
    index: Index,
}

/// The index follows from the rules.
impl PartialEq for RuleSet {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules
            && self.client_ip == other.client_ip
            && self.hash_key == other.hash_key
    }
}

impl Eq for RuleSet {}

impl RuleSet {
    fn new(rules: Vec<Rule>, client_ip: ClientIpPolicy, hash_key: HashKey) -> Self {
        Self {
            index: Index::new(&rules),
            rules,
            client_ip,
            hash_key,
        }
    }

    /// The rules that match, in the order of the file, with their number and the parameters of the path.
    pub fn matching<'a>(
        &'a self,
        request: &'a Attributes<'_>,
    ) -> impl Iterator<Item = (usize, &'a Rule, Params<'a>)> {
        let candidates = self.index.candidates(request).into_iter();
        candidates.filter_map(|number| {
            let index = usize::try_from(number).ok()?;
            let rule = self.rules.get(index)?;
            Some((index, rule, rule.matcher.matches(request)?))
        })
    }

    /// How values become parts of keys.
    pub fn key_context(&self) -> key::Context<'_> {
        key::Context {
            client_ip: &self.client_ip,
            hash_key: &self.hash_key,
        }
    }

    /// Whether a key of some rule has a part of which only a hash may be seen.
    pub fn has_secrets(&self) -> bool {
        let actions = self.rules.iter().filter_map(Rule::limit_action);
        actions
            .flat_map(|action| &action.descriptor.parts)
            .any(key::Part::is_secret)
    }

    /// Whether some rule has this in its key and marks it as secret.
    pub fn marks_secret(&self, named: Named<'_>) -> bool {
        let actions = self.rules.iter().filter_map(Rule::limit_action);
        let mut parts = actions.flat_map(|action| &action.descriptor.parts);
        parts.any(|part| match (part, named) {
            (key::Part::Header { name, secret }, Named::Header(asked)) => *secret && name == asked,
            (key::Part::Query { name, secret }, Named::Query(asked)) => *secret && name == asked,
            _ => false,
        })
    }

    /// All limits of all rules.
    pub fn limits(&self) -> impl Iterator<Item = &NamedLimit> {
        let actions = self.rules.iter().filter_map(Rule::limit_action);
        actions.flat_map(LimitAction::plans).flat_map(Plan::limits)
    }
}

#[cfg(test)]
mod tests;
