//! The rule set: all rules of a file, ready to be matched.

use super::{
    LimitAction, NamedLimit, Rule,
    index::Index,
    key,
    matcher::{Named, Params},
};
use crate::{
    counter_key::KeySettings,
    request::{Attributes, ClientIpPolicy, PathPolicy},
};

/// All rules of a file, ready to be matched.
#[derive(Debug, Clone)]
pub struct RuleSet {
    /// The rules, in the order of the file.
    pub rules: Vec<Rule>,
    /// How a client's address is found and written into keys.
    pub client_ip: ClientIpPolicy,
    /// How paths are read.
    pub paths: PathPolicy,
    /// How keys are written.
    pub keys: KeySettings,
    index: Index,
}

/// The index follows from the rules, and is not compared.
impl PartialEq for RuleSet {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules
            && self.client_ip == other.client_ip
            && self.paths == other.paths
            && self.keys == other.keys
    }
}

impl Eq for RuleSet {}

impl RuleSet {
    /// A set of these rules, with their index.
    pub(crate) fn new(
        rules: Vec<Rule>,
        client_ip: ClientIpPolicy,
        paths: PathPolicy,
        keys: KeySettings,
    ) -> Self {
        Self {
            index: Index::new(&rules),
            rules,
            client_ip,
            paths,
            keys,
        }
    }

    /// The rules that match, in the order of the file, each with its number and the parameters of
    /// the path.
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

    /// What values need to become parts of keys.
    pub fn key_context(&self) -> key::Context<'_> {
        key::Context {
            client_ip: &self.client_ip,
            hash_key: &self.keys.hash_key,
        }
    }

    /// Whether some rule has a secret in its key.
    pub fn has_secrets(&self) -> bool {
        let actions = self.rules.iter().filter_map(Rule::limit_action);
        actions
            .flat_map(|action| &action.descriptor.parts)
            .any(key::Part::is_secret)
    }

    /// Whether some rule has this value in its key and marks it secret.
    pub fn marks_secret(&self, named: Named<'_>) -> bool {
        let actions = self.rules.iter().filter_map(Rule::limit_action);
        let mut parts = actions.flat_map(|action| &action.descriptor.parts);
        parts.any(|part| match part {
            key::Part::Header { name, secret } => *secret && named == Named::Header(name),
            key::Part::Query { name, secret } => *secret && named == Named::Query(name),
            key::Part::ClientIp
            | key::Part::Method
            | key::Part::Scheme
            | key::Part::Host
            | key::Part::Path { .. }
            | key::Part::Cookie { .. }
            | key::Part::Jwt { .. } => false,
        })
    }

    /// All limits of all rules.
    pub fn limits(&self) -> impl Iterator<Item = &NamedLimit> {
        let actions = self.rules.iter().filter_map(Rule::limit_action);
        actions.flat_map(LimitAction::limits)
    }
}
