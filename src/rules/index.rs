//! Which rules to try for a request, without trying them all.
//!
//! Every rule stands in one place of the index, under its most selective condition: the one that it shares with the fewest other
//! rules. A request looks in each of the few places that it could be found in, and what it finds is a superset of the rules
//! that match: their conditions are then tried in full. So a thousand rules cost little more than the ones that are near.
//!
//! * Paths: a tree of segments. A segment that is no literal, and all that follows `**`, is left to the conditions.
//! * Hosts: exact names, and names below which all are meant.
//! * Headers and query parameters: exact values.
//! * Addresses: CIDR blocks, by their length.
//!
//! * Regular expressions of paths: under the segments that they begin with, if these are plain to see; else all in an
//!   automaton, which reads the path once and says which of them describe it.
//!
//! Rules with none of these are tried always.

use std::{collections::HashMap, net::IpAddr};

use foldhash::fast::RandomState;
use http::HeaderName;
use ipnet::IpNet;

use super::{
    Rule,
    matcher::{
        Conditions, HeaderTest, PathPattern, Pattern, PatternSet, QueryTest, Segment, SetLimits,
    },
};
use crate::request::Attributes;

type Map<K, V> = HashMap<Box<K>, V, RandomState>;

/// A rule is not put into more places than this for one of its conditions.
const MAX_SPOTS: usize = 1_000;
/// Shorter blocks of addresses, of IPv4 and IPv6, say next to nothing.
const SHORTEST_BLOCKS: (u8, u8) = (8, 16);
/// The automaton of all regular expressions takes about as long as it takes to try so many of them.
const CROWD_OF_PATTERNS: usize = 8;

/// Rules by their place in the file, ascending.
type Numbers = Vec<u32>;

/// Finds the rules that may match a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    paths: Node,
    hosts: Map<str, Numbers>,
    domains: Map<str, Numbers>,
    headers: Vec<(HeaderName, Map<[u8], Numbers>)>,
    query: Vec<(String, Map<[u8], Numbers>)>,
    networks: Blocks,
    patterns: PatternSet,
    /// The rule of each of the patterns.
    of_patterns: Numbers,
    always: Numbers,
}

/// A place in the tree of paths: what may follow, and which rules end here or have anything below.
#[derive(Debug, Clone, Default)]
struct Node {
    literals: Map<str, Node>,
    /// After any segment.
    any: Option<Box<Node>>,
    /// Rules whose path ends here.
    ends: Numbers,
    /// Rules with `**` here.
    open: Numbers,
}

/// Rules by blocks of addresses.
#[derive(Debug, Clone, Default)]
struct Blocks {
    rules: HashMap<IpNet, Numbers, RandomState>,
    /// The lengths that there are, of IPv4 and IPv6.
    lengths: (Vec<u8>, Vec<u8>),
}

/// A place of the index.
#[derive(Debug, Clone, Copy)]
enum Spot<'a> {
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
        for spot in rules
            .iter()
            .flat_map(|rule| choices(&rule.matcher.when))
            .flatten()
        {
            *crowd.entry(spot.bucket()).or_default() += 1;
        }
        let crowded = |spot: &Spot<'_>| match spot {
            Spot::Pattern(_) => CROWD_OF_PATTERNS,
            _ => crowd.get(&spot.bucket()).copied().unwrap_or(0),
        };
        let mut patterns = Vec::new();
        for (number, rule) in rules.iter().enumerate() {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            // A rule with several paths stands at each of them; the most crowded one tells how selective that is.
            let choices = choices(&rule.matcher.when).into_iter();
            let best = choices.min_by_key(|spots| spots.iter().map(crowded).max().unwrap_or(0));
            for spot in best.iter().flatten() {
                match *spot {
                    Spot::Pattern(pattern) => patterns.push((pattern, number)),
                    spot => index.place(spot).push(number),
                }
            }
            if best.is_none() {
                index.always.push(number);
            }
        }
        let (patterns, mut of_patterns): (Vec<&Pattern>, Numbers) = patterns.into_iter().unzip();
        index.patterns = PatternSet::new(&patterns, limits);
        index
            .always
            .extend(of_patterns.drain(index.patterns.len()..));
        index.of_patterns = of_patterns;
        index
    }

    /// The rules at a spot that is not one of the automaton's.
    fn place(&mut self, spot: Spot<'_>) -> &mut Numbers {
        match spot {
            Spot::Path(pattern) => self.paths.place(pattern),
            Spot::Pattern(_) => &mut self.always,
            Spot::Host(name) => self.hosts.entry(name.into()).or_default(),
            Spot::Domain(name) => self.domains.entry(name.into()).or_default(),
            Spot::Header(name, value) => {
                let values = values_of(&mut self.headers, name);
                values.entry(value.as_bytes().into()).or_default()
            }
            Spot::Query(name, value) => {
                let values = values_of(&mut self.query, name);
                values.entry(value.as_bytes().into()).or_default()
            }
            Spot::Network(block) => self.networks.place(block),
        }
    }

    /// The numbers of the rules that may match, ascending.
    pub(super) fn candidates(&self, request: &Attributes<'_>) -> Vec<u32> {
        let mut found = Vec::with_capacity(16);
        found.extend_from_slice(&self.always);
        let path = request.path.strip_prefix('/').unwrap_or(&request.path);
        self.paths.collect(path, &mut found);
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
                && let Some(rules) = values.get(value.as_bytes())
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
        let described = self.patterns.matching(request.path.as_bytes());
        found.extend(described.map(|pattern| self.of_patterns[pattern]));
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// The values of a header or parameter that rules ask for.
fn values_of<'a, N: for<'n> From<&'n K> + PartialEq<K>, K: ?Sized>(
    names: &'a mut Vec<(N, Map<[u8], Numbers>)>,
    name: &K,
) -> &'a mut Map<[u8], Numbers> {
    let at = names.iter().position(|(known, _)| known == name);
    let at = at.unwrap_or_else(|| {
        names.push((name.into(), HashMap::default()));
        names.len() - 1
    });
    &mut names[at].1
}

/// The conditions by which a rule could be found, each as all of its places.
fn choices<'a>(when: &'a Conditions) -> Vec<Vec<Spot<'a>>> {
    let mut out = Vec::new();
    let is_regex = |pattern: &PathPattern| matches!(pattern, PathPattern::Regex { .. });
    // Regular expressions by their beginning, or as a whole.
    let spot = |pattern: &'a PathPattern, is_whole| match pattern {
        PathPattern::Template(template) => {
            // `/**` and `/{x}/**` say next to nothing.
            let mut front = template.front().iter();
            let says = !template.is_open() || !front.all(|s| matches!(s, Segment::Any(_)));
            says.then_some(Spot::Path(pattern))
        }
        PathPattern::Regex { pattern: regex, .. } if is_whole => Some(Spot::Pattern(regex)),
        PathPattern::Regex { pattern: regex, .. } => {
            (!regex_front(regex.as_str()).is_empty()).then_some(Spot::Path(pattern))
        }
    };
    let forms: &[bool] = if when.paths.iter().any(is_regex) {
        &[false, true]
    } else {
        &[false]
    };
    for is_whole in forms {
        let spots = when.paths.iter().map(|pattern| spot(pattern, *is_whole));
        out.extend(spots.collect::<Option<Vec<_>>>());
    }
    let hosts = when.hosts.iter().map(|host| match host.parts() {
        (name, false) => Spot::Host(name),
        (name, true) => Spot::Domain(name),
    });
    out.push(hosts.collect());
    for HeaderTest { name, test } in &when.headers {
        let values = test.exact.as_slice().iter();
        out.push(values.map(|value| Spot::Header(name, value)).collect());
    }
    for QueryTest { name, test } in &when.query {
        let values = test.exact.as_slice().iter();
        out.push(values.map(|value| Spot::Query(name, value)).collect());
    }
    if let Some(networks) = &when.client_ip {
        let narrow = |block: &IpNet| match block {
            IpNet::V4(v4) => v4.prefix_len() >= SHORTEST_BLOCKS.0,
            IpNet::V6(v6) => v6.prefix_len() >= SHORTEST_BLOCKS.1,
        };
        let spots = networks.blocks().iter();
        let spots = spots.map(|block| narrow(block).then(|| Spot::Network(block.trunc())));
        out.extend(spots.collect::<Option<Vec<_>>>());
    }
    out.retain(|spots| (1..=MAX_SPOTS).contains(&spots.len()));
    out
}

/// The whole segments that every path begins with which a regular expression describes; none if that is not plain to see.
fn regex_front(regex: &str) -> Vec<&str> {
    let end = regex
        .find(|c: char| "\\.+*?()|[]{}^$#".contains(c) || c.is_whitespace())
        .unwrap_or(regex.len());
    // What follows may say that the last character need not be there, or another alternative altogether.
    let literal = &regex[..end];
    let literal = match literal.char_indices().next_back() {
        Some((last, _)) if regex[end..].starts_with(['?', '*', '+', '{']) => &literal[..last],
        _ => literal,
    };
    let whole = literal.rfind('/').map_or("", |slash| &literal[..slash]);
    match whole.strip_prefix('/') {
        Some(segments) if !regex.contains('|') && !segments.is_empty() => {
            segments.split('/').collect()
        }
        _ => Vec::new(),
    }
}

impl Spot<'_> {
    /// What rules share that stand here.
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

impl Blocks {
    fn place(&mut self, block: IpNet) -> &mut Numbers {
        let lengths = match block {
            IpNet::V4(_) => &mut self.lengths.0,
            IpNet::V6(_) => &mut self.lengths.1,
        };
        if !lengths.contains(&block.prefix_len()) {
            lengths.push(block.prefix_len());
        }
        self.rules.entry(block).or_default()
    }

    fn collect(&self, ip: IpAddr, found: &mut Vec<u32>) {
        let lengths = match ip {
            IpAddr::V4(_) => &self.lengths.0,
            IpAddr::V6(_) => &self.lengths.1,
        };
        for length in lengths {
            if let Ok(block) = IpNet::new(ip, *length)
                && let Some(rules) = self.rules.get(&block.trunc())
            {
                found.extend_from_slice(rules);
            }
        }
    }
}

impl Node {
    /// Where the rules of a pattern stand.
    fn place(&mut self, pattern: &PathPattern) -> &mut Vec<u32> {
        let mut node = self;
        let template = match pattern {
            PathPattern::Template(template) => template,
            PathPattern::Regex { pattern, .. } => {
                for segment in regex_front(pattern.as_str()) {
                    node = node.literals.entry(segment.into()).or_default();
                }
                return &mut node.open;
            }
        };
        for segment in template.front() {
            node = match segment {
                Segment::Literal(literal) => {
                    node.literals.entry(literal.as_str().into()).or_default()
                }
                Segment::Any(_) | Segment::Glob(..) => node.any.get_or_insert_default(),
            };
        }
        if template.is_open() {
            &mut node.open
        } else {
            &mut node.ends
        }
    }

    fn collect(&self, rest: &str, found: &mut Vec<u32>) {
        found.extend_from_slice(&self.open);
        if rest.is_empty() {
            found.extend_from_slice(&self.ends);
            return;
        }
        let (head, tail) = rest.split_once('/').unwrap_or((rest, ""));
        if let Some(node) = self.literals.get(head) {
            node.collect(tail, found);
        }
        if let Some(node) = &self.any {
            node.collect(tail, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Index, SetLimits, regex_front};
    use crate::{
        request::{Attributes, normal_path},
        rules,
    };

    /// What does not fit into the automata is tried always.
    #[test]
    fn no_rule_is_lost_when_there_are_too_many_patterns() {
        use std::fmt::Write as _;
        let mut text = "version: 1\nrules:\n".to_owned();
        for number in 0..20 {
            writeln!(text, "  - {{ name: r{number}, match: {{ path: {{ regex: \"/[a-z]+/{number}\" }} }}, limit: 1/s }}").unwrap();
        }
        let set = rules::load("rules.yaml", &text).unwrap();
        let headers = http::HeaderMap::new();
        for (compiled, automata) in [(2_000_000, 32), (2_000, 2), (100, 2), (2_000_000, 0)] {
            let limits = SetLimits { compiled, automata };
            let index = Index::within(limits, &set.rules);
            assert_eq!(
                index.always.is_empty(),
                compiled == 2_000_000 && automata > 0
            );
            for number in 0..20 {
                let request = Attributes {
                    method: "GET",
                    host: "".into(),
                    path: normal_path(&format!("/abc/{number}")).into_owned().into(),
                    query: "".into(),
                    client_ip: None,
                    headers: &headers,
                };
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
        let set = rules::load("rules.yaml", &text).unwrap();
        assert_eq!(Index::new(&set.rules).always, [0]);
    }

    #[test]
    fn a_regular_expression_begins_with_the_segments_that_are_plain_to_see() {
        for (regex, front) in [
            ("/v1/service7/(?P<id>[^/]+)", &["v1", "service7"][..]),
            ("/a/b.*", &["a"]),
            ("/a/b/?", &["a"]),
            ("/a/?b", &[]),
            ("/a/{2}b", &[]),
            ("/a/b", &["a"]),
            ("/a|/b/c", &[]),
            ("/a/b|/c", &[]),
            ("(?i)/a/b", &[]),
            ("(/a)?/b/c", &[]),
            ("/[ab]/c", &[]),
            ("/v[0-9]+/c/.*", &[]),
            (".*", &[]),
        ] {
            assert_eq!(regex_front(regex), front, "{regex}");
        }
    }
}
