//! Rules by the segments of their paths.

use super::ids::{Candidates, Map, RuleIds};
use crate::rules::matcher::{PathPattern, Segment};

/// A node of the path tree: the nodes that may follow, and the rules that end here or below.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    literals: Map<str, Node>,
    /// The node after any segment.
    any: Option<Box<Node>>,
    /// Rules whose path ends here.
    ends: RuleIds,
    /// Rules with `**` here.
    open: RuleIds,
}

impl Node {
    /// The list of rules for a pattern.
    pub(super) fn place(&mut self, pattern: &PathPattern) -> &mut RuleIds {
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

    pub(super) fn collect(&self, rest: &str, found: &mut Candidates) {
        found.extend_from_slice(&self.open);
        if rest.is_empty() {
            found.extend_from_slice(&self.ends);
            return;
        }
        let (head, tail) = match memchr::memchr(b'/', rest.as_bytes()) {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => (rest, ""),
        };
        if let Some(node) = self.literals.get(head) {
            node.collect(tail, found);
        }
        if let Some(node) = &self.any {
            node.collect(tail, found);
        }
    }
}

/// The literal segments at the beginning of a path's regular expression; none if they are not
/// obvious.
pub(super) fn regex_front(regex: &str) -> Vec<&str> {
    let end = regex
        .find(|c: char| "\\.+*?()|[]{}^$#".contains(c) || c.is_whitespace())
        .unwrap_or(regex.len());
    // What follows may make the last character optional, or offer another alternative altogether.
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

#[cfg(test)]
mod tests {
    use super::regex_front;

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
