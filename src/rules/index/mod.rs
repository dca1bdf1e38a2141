//! Which rules to try for a request, without trying them all.
//!
//! Every rule is filed under one key of the index, its most selective condition: the one that it
//! shares with the fewest other rules. A request looks under each of the few keys that it has, and
//! finds a superset of the rules that match; their conditions are then tried in full. So a thousand
//! rules cost little more than the ones that are near.
//!
//! * Paths: a tree of segments. Segments that are not literals, and all that follows `**`, are left
//!   to the conditions.
//! * Hosts: exact names, and names with all names below them.
//! * Headers and query parameters: exact values.
//! * Addresses: CIDR blocks, by their length.
//! * Regular expressions of paths: under the segments that they begin with, if these are obvious;
//!   else all in one automaton, which reads the path once and says which of them match.
//!
//! Rules with none of these are always tried.

mod blocks;
mod ids;
mod tree;

use std::collections::HashMap;

use http::HeaderName;
use ipnet::IpNet;

use self::{
    blocks::Blocks,
    ids::{Candidates, Map, RuleIds},
    tree::{Node, regex_front},
};
use super::{
    Rule,
    matcher::{
        Conditions, HeaderTest, Networks, PathPattern, Pattern, PatternSet, QueryTest, Segment,
        SetLimits,
    },
};
use crate::request::Attributes;

/// The most keys that a rule is filed under for one of its conditions.
const MAX_KEYS: usize = 1_000;
/// The shortest prefixes that are selective, for IPv4 and IPv6.
const SHORTEST_BLOCKS: (u8, u8) = (8, 16);
/// The automaton of all regular expressions costs about as much as trying this many of them.
const CROWD_OF_PATTERNS: usize = 8;

/// Finds the rules that may match a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    paths: Node,
    hosts: Map<str, RuleIds>,
    domains: Map<str, RuleIds>,
    headers: Vec<(HeaderName, Map<[u8], RuleIds>)>,
    query: Vec<(String, Map<[u8], RuleIds>)>,
    networks: Blocks,
    patterns: PatternSet,
    /// The rule of each pattern in the automaton.
    of_patterns: RuleIds,
    always: RuleIds,
}

/// A key of the index.
#[derive(Debug, Clone, Copy)]
enum IndexKey<'a> {
    Path(&'a PathPattern),
    Pattern(&'a Pattern),
    Host(&'a str),
    Domain(&'a str),
    Header(&'a HeaderName, &'a str),
    Query(&'a str, &'a str),
    Network(IpNet),
}

impl Index {
    pub(super) fn new(rules: &[Rule]) -> Self {
        Self::within(SetLimits::default(), rules)
    }

    fn within(limits: SetLimits, rules: &[Rule]) -> Self {
        let mut index = Self::default();
        let mut crowd: HashMap<String, usize> = HashMap::new();
        for key in rules
            .iter()
            .flat_map(|rule| choices(&rule.matcher.when))
            .flatten()
        {
            *crowd.entry(key.bucket()).or_default() += 1;
        }
        let crowded = |key: &IndexKey<'_>| match key {
            IndexKey::Pattern(_) => CROWD_OF_PATTERNS,
            _ => crowd.get(&key.bucket()).copied().unwrap_or(0),
        };
        let mut patterns = Vec::new();
        for (number, rule) in rules.iter().enumerate() {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            // A rule with several paths is filed under each of them; the most crowded one says how
            // selective that is.
            let choices = choices(&rule.matcher.when).into_iter();
            let best = choices.min_by_key(|keys| keys.iter().map(crowded).max().unwrap_or(0));
            for key in best.iter().flatten() {
                index.put(*key, number, &mut patterns);
            }
            if best.is_none() {
                index.always.push(number);
            }
        }
        let (patterns, mut of_patterns): (Vec<&Pattern>, RuleIds) = patterns.into_iter().unzip();
        index.patterns = PatternSet::new(&patterns, limits);
        index
            .always
            .extend(of_patterns.drain(index.patterns.len()..));
        index.of_patterns = of_patterns;
        index
    }

    /// Files a rule under one of its keys; if that is the automaton, among its patterns.
    fn put<'a>(&mut self, key: IndexKey<'a>, number: u32, patterns: &mut Vec<(&'a Pattern, u32)>) {
        let rules = match key {
            IndexKey::Path(pattern) => self.paths.place(pattern),
            IndexKey::Pattern(pattern) => return patterns.push((pattern, number)),
            IndexKey::Host(name) => self.hosts.entry(name.into()).or_default(),
            IndexKey::Domain(name) => self.domains.entry(name.into()).or_default(),
            IndexKey::Header(name, value) => {
                let values = values_of(&mut self.headers, name);
                values.entry(value.as_bytes().into()).or_default()
            }
            IndexKey::Query(name, value) => {
                let values = values_of(&mut self.query, name);
                values.entry(value.as_bytes().into()).or_default()
            }
            IndexKey::Network(block) => self.networks.place(block),
        };
        rules.push(number);
    }

    /// The numbers of the rules that may match, ascending.
    pub(super) fn candidates(&self, request: &Attributes<'_>) -> Candidates {
        let mut found = Candidates::new();
        found.extend_from_slice(&self.always);
        for path in request.paths() {
            let segments = path.strip_prefix('/').unwrap_or(path);
            self.paths.collect(segments, &mut found);
            let described = self.patterns.matching(path.as_bytes());
            found.extend(described.map(|pattern| self.of_patterns[pattern]));
        }
        if !self.hosts.is_empty()
            && let Some(rules) = self.hosts.get(&*request.host)
        {
            found.extend_from_slice(rules);
        }
        if !self.domains.is_empty() {
            let mut rest = &*request.host;
            while let Some((_, domain)) = rest.split_once('.') {
                if let Some(rules) = self.domains.get(domain) {
                    found.extend_from_slice(rules);
                }
                rest = domain;
            }
        }
        for (name, values) in &self.headers {
            if let Some(value) = request.headers.get(name)
                && let Some(rules) = values.get(value)
            {
                found.extend_from_slice(rules);
            }
        }
        for (name, values) in &self.query {
            if let Some(value) = request.query_value(name)
                && let Some(rules) = values.get(&*value)
            {
                found.extend_from_slice(rules);
            }
        }
        if let Some(ip) = request.client_ip {
            self.networks.collect(ip, &mut found);
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// The values of a header or parameter that rules ask for.
fn values_of<'a, N: for<'n> From<&'n K> + PartialEq<K>, K: ?Sized>(
    names: &'a mut Vec<(N, Map<[u8], RuleIds>)>,
    name: &K,
) -> &'a mut Map<[u8], RuleIds> {
    let at = names.iter().position(|(known, _)| known == name);
    let at = at.unwrap_or_else(|| {
        names.push((name.into(), HashMap::default()));
        names.len() - 1
    });
    &mut names[at].1
}

/// The conditions that a rule could be filed under, each with all of its keys.
fn choices<'a>(when: &'a Conditions) -> Vec<Vec<IndexKey<'a>>> {
    let Conditions {
        paths,
        methods: _, // too few of them to select by
        schemes: _, // likewise
        hosts,
        client_ip,
        headers,
        query,
    } = when;
    let mut out = Vec::new();
    let is_regex = |pattern: &PathPattern| matches!(pattern, PathPattern::Regex { .. });
    // Regular expressions by their beginning, or as a whole.
    let key = |pattern: &'a PathPattern, is_whole| match pattern {
        PathPattern::Template(template) => {
            // `/**` and `/{x}/**` select next to nothing.
            let mut front = template.front().iter();
            let says = !template.is_open() || !front.all(|s| matches!(s, Segment::Any(_)));
            says.then_some(IndexKey::Path(pattern))
        }
        PathPattern::Regex { pattern: regex, .. } if is_whole => Some(IndexKey::Pattern(regex)),
        PathPattern::Regex { pattern: regex, .. } => {
            (!regex_front(regex.as_str()).is_empty()).then_some(IndexKey::Path(pattern))
        }
    };
    let forms: &[bool] = if paths.iter().any(is_regex) {
        &[false, true]
    } else {
        &[false]
    };
    for is_whole in forms {
        let keys = paths.iter().map(|pattern| key(pattern, *is_whole));
        out.extend(keys.collect::<Option<Vec<_>>>());
    }
    let names = hosts.iter().map(|host| match host.parts() {
        (name, false) => IndexKey::Host(name),
        (name, true) => IndexKey::Domain(name),
    });
    out.push(names.collect());
    for HeaderTest { name, test } in headers {
        let values = test.exact.as_slice().iter();
        out.push(values.map(|value| IndexKey::Header(name, value)).collect());
    }
    for QueryTest { name, test } in query {
        let values = test.exact.as_slice().iter();
        out.push(values.map(|value| IndexKey::Query(name, value)).collect());
    }
    // Lists are not filed: they are long, and looking an address up in one costs little.
    if let Some(blocks) = client_ip.as_ref().and_then(Networks::blocks) {
        let narrow = |block: &IpNet| match block {
            IpNet::V4(v4) => v4.prefix_len() >= SHORTEST_BLOCKS.0,
            IpNet::V6(v6) => v6.prefix_len() >= SHORTEST_BLOCKS.1,
        };
        let keys = blocks.iter();
        let keys = keys.map(|block| narrow(block).then(|| IndexKey::Network(block.trunc())));
        out.extend(keys.collect::<Option<Vec<_>>>());
    }
    out.retain(|keys| (1..=MAX_KEYS).contains(&keys.len()));
    out
}

impl IndexKey<'_> {
    /// The name of the key, which rules under the same key share.
    fn bucket(&self) -> String {
        match self {
            Self::Path(PathPattern::Template(template)) => {
                let mut out = String::from("path");
                for segment in template.front() {
                    out.push('/');
                    out.push_str(match segment {
                        Segment::Literal(literal) => literal,
                        Segment::Any(_) | Segment::Glob(..) => "*",
                    });
                }
                out.push_str(if template.is_open() { "/**" } else { "" });
                out
            }
            Self::Path(PathPattern::Regex { pattern, .. }) => {
                format!("path/{}/**", regex_front(pattern.as_str()).join("/"))
            }
            Self::Pattern(_) => "pattern".to_owned(),
            Self::Host(name) => format!("host {name}"),
            Self::Domain(name) => format!("domain {name}"),
            Self::Header(name, value) => format!("header {name} {value}"),
            Self::Query(name, value) => format!("query {name} {value}"),
            Self::Network(block) => format!("network {block}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Index, SetLimits};
    use crate::{request::Attributes, rulefile};

    /// A pattern that does not fit into the automata is always tried.
    #[test]
    fn no_rule_is_lost_when_there_are_too_many_patterns() {
        use std::fmt::Write as _;
        let mut text = "version: 1\nrules:\n".to_owned();
        for number in 0..20 {
            writeln!(text, "  - {{ name: r{number}, match: {{ path: {{ regex: \"/[a-z]+/{number}\" }} }}, limit: 1/s }}").unwrap();
        }
        let set = rulefile::load("rules.yaml", &text).unwrap();
        let headers = crate::wire::Headers::default();
        for (compiled, automata) in [(2_000_000, 32), (2_000, 2), (100, 2), (2_000_000, 0)] {
            let limits = SetLimits { compiled, automata };
            let index = Index::within(limits, &set.rules);
            assert_eq!(
                index.always.is_empty(),
                compiled == 2_000_000 && automata > 0
            );
            for number in 0..20 {
                let target = format!("/abc/{number}");
                let request = Attributes::new("GET", "", &target, None, &headers);
                assert!(
                    index.candidates(&request).contains(&number),
                    "{number} of {limits:?}"
                );
            }
        }
    }

    #[test]
    fn a_rule_with_very_many_values_is_tried_always() {
        let values: Vec<String> = (0..1_001).map(|number| format!("v{number}")).collect();
        let text = format!(
            "version: 1\nrules: [{{ name: a, match: {{ headers: {{ x: [{}] }} }}, limit: 1/s }}]\n",
            values.join(", ")
        );
        let set = rulefile::load("rules.yaml", &text).unwrap();
        assert_eq!(Index::new(&set.rules).always, [0]);
    }

    /// Not even under the blocks beside it, because clients of the list are not in those.
    #[test]
    fn a_rule_with_a_list_is_not_filed_under_addresses() {
        let text = "version: 1
rules:
  - { name: a, match: { client_ip: [10.0.0.0/8, { file: b.txt }] }, limit: 1/s }
  - { name: b, match: { path: /b, client_ip: { file: b.txt } }, limit: 1/s }
";
        let context = rulefile::LoadContext {
            keys: &crate::counter_key::KeySettings::default(),
            read: &|_| Ok("192.0.2.1\n".to_owned()),
            list: &|_, _| Ok(Vec::new()),
            locate: &std::path::Path::to_path_buf,
        };
        let set = rulefile::load_with("rules.yaml", text, context)
            .set
            .unwrap();
        let index = Index::new(&set.rules);
        assert_eq!(index.always, [0]);
        let headers = crate::wire::Headers::default();
        let ip = Some([192, 0, 2, 1].into());
        let request = Attributes::new("GET", "", "/b", ip, &headers);
        assert_eq!(index.candidates(&request)[..], [0, 1]);
    }
}
