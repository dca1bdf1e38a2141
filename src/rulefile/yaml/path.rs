//! The way from the root of a YAML document to one of its nodes.

use std::fmt;

/// One step from a node to a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::rulefile) enum Segment {
    /// To the value of a key.
    Key(String),
    /// To an item of a list, counted from 0.
    Index(usize),
}

/// The path of a node; empty for the root. Written as `rules[2].match.path`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::rulefile) struct FieldPath(Vec<Segment>);

impl FieldPath {
    /// The path of the root.
    pub(in crate::rulefile) fn root() -> Self {
        Self::default()
    }

    /// The path of the value of a key in this mapping.
    pub(in crate::rulefile) fn key(&self, name: &str) -> Self {
        self.child(Segment::Key(name.to_owned()))
    }

    /// The path of an item of this list.
    pub(in crate::rulefile) fn index(&self, index: usize) -> Self {
        self.child(Segment::Index(index))
    }

    fn child(&self, segment: Segment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }

    /// Its segments, from the root on.
    pub(in crate::rulefile) fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// The path of the node that this one is directly in; `None` for the root.
    pub(in crate::rulefile) fn parent(&self) -> Option<&[Segment]> {
        self.0.split_last().map(|(_, parent)| parent)
    }

    /// The path cut to its first `count` segments.
    pub(in crate::rulefile) fn first(&self, count: usize) -> Self {
        Self(self.0.iter().take(count).cloned().collect())
    }

    /// Whether the node is `ancestor` or within it.
    pub(in crate::rulefile) fn is_within(&self, ancestor: &Self) -> bool {
        self.0.starts_with(&ancestor.0)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Key(key) if index == 0 => write!(f, "{key}")?,
                Segment::Key(key) => write!(f, ".{key}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}
