//! Conditions on the value of a header or a query parameter.

use http::HeaderName;

use super::pattern::Pattern;

/// A condition on a request header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderTest {
    /// The header.
    pub name: HeaderName,
    /// The condition on its value.
    pub test: ValueTest,
}

/// A condition on a query parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryTest {
    /// The parameter's decoded name.
    pub name: String,
    /// The condition on its decoded value.
    pub test: ValueTest,
}

/// A condition on a value; all of its parts must hold. Without parts it only asks that there is a
/// value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ValueTest {
    /// There must be no value; then there are no other parts.
    pub absent: bool,
    /// One of these values; empty is no condition.
    pub exact: Exact,
    /// One of these beginnings; empty is no condition.
    pub prefix: Vec<String>,
    /// A pattern of the whole value.
    pub regex: Option<Pattern>,
}

/// A set of values, found by binary search.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exact(Vec<String>);

impl FromIterator<String> for Exact {
    fn from_iter<I: IntoIterator<Item = String>>(values: I) -> Self {
        let mut values: Vec<String> = values.into_iter().collect();
        values.sort_unstable();
        values.dedup();
        Self(values)
    }
}

impl Exact {
    /// The values, in ascending order.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }

    fn holds(&self, value: &[u8]) -> bool {
        self.0.is_empty()
            || self
                .0
                .binary_search_by(|known| known.as_bytes().cmp(value))
                .is_ok()
    }
}

impl ValueTest {
    /// Whether a value, or its absence, satisfies the condition.
    pub fn holds(&self, value: Option<&[u8]>) -> bool {
        match value {
            None => self.absent,
            Some(value) => {
                !self.absent
                    && self.exact.holds(value)
                    && (self.prefix.is_empty()
                        || self
                            .prefix
                            .iter()
                            .any(|prefix| value.starts_with(prefix.as_bytes())))
                    && self
                        .regex
                        .as_ref()
                        .is_none_or(|pattern| pattern.matches(value))
            }
        }
    }

    /// Whether it only asks that there is a value.
    pub fn is_presence(&self) -> bool {
        *self == Self::default()
    }

    /// Whether this condition holds for every value for which `other` holds; `true` only if that
    /// can be shown.
    pub fn covers(&self, other: &Self) -> bool {
        if self.absent || other.absent {
            return self.absent && other.absent;
        }
        if !other.exact.0.is_empty() {
            return other
                .exact
                .0
                .iter()
                .all(|value| self.holds(Some(value.as_bytes())));
        }
        let prefix = self.prefix.is_empty()
            || (!other.prefix.is_empty()
                && other
                    .prefix
                    .iter()
                    .all(|theirs| self.prefix.iter().any(|ours| theirs.starts_with(ours))));
        self.exact.0.is_empty()
            && prefix
            && self
                .regex
                .as_ref()
                .is_none_or(|pattern| other.regex.as_ref() == Some(pattern))
    }

    /// Whether it can be shown that no value satisfies the condition, because its parts contradict
    /// each other.
    pub fn is_impossible(&self) -> bool {
        !self.exact.0.is_empty()
            && !self
                .exact
                .0
                .iter()
                .any(|value| self.holds(Some(value.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(values: &[&str]) -> ValueTest {
        ValueTest {
            exact: values.iter().map(ToString::to_string).collect(),
            ..ValueTest::default()
        }
    }

    fn prefix(values: &[&str]) -> ValueTest {
        ValueTest {
            prefix: values.iter().map(ToString::to_string).collect(),
            ..ValueTest::default()
        }
    }

    fn regex(text: &str) -> ValueTest {
        ValueTest {
            regex: Some(Pattern::parse(text).unwrap()),
            ..ValueTest::default()
        }
    }

    fn absent() -> ValueTest {
        ValueTest {
            absent: true,
            ..ValueTest::default()
        }
    }

    #[test]
    fn values_are_compared_as_bytes() {
        for (test, good, bad) in [
            (exact(&["gold"]), "gold", "Gold"),
            (exact(&["b", "c", "a"]), "c", "d"),
            (exact(&[""]), "", " "),
            (prefix(&["v1", "v2"]), "v2.3", "xv1"),
            (regex("v[0-9]"), "v1", "v10"),
        ] {
            assert!(test.holds(Some(good.as_bytes())), "{test:?}");
            assert!(!test.holds(Some(bad.as_bytes())), "{test:?}");
            assert!(!test.holds(Some(b"\xff")), "{test:?}");
            assert!(!test.holds(None), "{test:?}");
        }
        assert!(ValueTest::default().holds(Some(b"\xff")));
        assert!(!ValueTest::default().holds(None));
        assert!(absent().holds(None));
        assert!(!absent().holds(Some(b"")));
        let both = ValueTest {
            regex: regex(".*x").regex,
            ..prefix(&["v"])
        };
        assert!(both.holds(Some(b"vx")));
        assert!(!both.holds(Some(b"v")));
        assert!(!both.holds(Some(b"x")));
    }

    #[test]
    fn one_test_covers_another() {
        let any = ValueTest::default();
        for (a, b) in [
            (any.clone(), exact(&["a"])),
            (exact(&["a", "b"]), exact(&["b"])),
            (prefix(&["a"]), exact(&["ab", "a"])),
            (prefix(&["a"]), prefix(&["ab", "ac"])),
            (regex("a+"), exact(&["aa"])),
        ] {
            assert!(a.covers(&a) && b.covers(&b));
            assert!(a.covers(&b), "{a:?} {b:?}");
            assert!(!b.covers(&a), "{a:?} {b:?}");
        }
        assert!(absent().covers(&absent()));
        assert!(!absent().covers(&any) && !any.covers(&absent()));
        assert!(!regex("a+").covers(&regex("a")));
    }

    #[test]
    fn contradictions_are_seen() {
        let clash = ValueTest {
            prefix: vec!["v".to_owned()],
            ..exact(&["a", "b"])
        };
        assert!(clash.is_impossible());
        let some = ValueTest {
            prefix: vec!["v".to_owned()],
            ..exact(&["a", "v1"])
        };
        assert!(!some.is_impossible());
    }
}
