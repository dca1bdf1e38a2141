//! Conditions on the path: templates of segments, and regular expressions.

use std::fmt;

use super::{
    params::{MAX_PARAMS, Params},
    pattern::Pattern,
    template::{Segment, Template},
};

use crate::problem::Problem;

/// A path: `/data`, `/users/{id}`, `/files/*/raw`, `/img/*.png`, `/static/**`, `/a/**/z`, or a
/// regular expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathPattern {
    /// Segments.
    Template(Template),
    /// A regular expression of the whole path.
    Regex {
        /// The pattern.
        pattern: Pattern,
        /// The names and indices of its named groups, in order.
        params: Vec<(String, usize)>,
    },
}

impl PathPattern {
    /// Compiles a template of at most 1,000 bytes. The error says what is wrong, and what to write
    /// instead.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        Template::parse(text).map(Self::Template)
    }

    /// Compiles a regular expression of the whole path; its named groups are parameters. Errors as
    /// for [`Pattern::parse`].
    pub fn regex(text: &str) -> Result<Self, Problem> {
        let pattern = Pattern::parse(text)?;
        let params: Vec<(String, usize)> = pattern
            .regex()
            .capture_names()
            .enumerate()
            .filter_map(|(index, name)| Some((name?.to_owned(), index)))
            .collect();
        if params.len() > MAX_PARAMS {
            return Err(Problem::new(
                format!("the regex has more than {MAX_PARAMS} named groups"),
                "write (?:…) for groups that no key uses",
            ));
        }
        let is_literal = !text.contains(['.', '[', '\\', '(']);
        let begins_otherwise = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if (!text.contains('/') && is_literal) || (!text.contains('|') && begins_otherwise) {
            let whole = if text.contains('|') {
                format!("/({text})")
            } else {
                format!("/{text}")
            };
            return Err(Problem::new(
                format!("the regex {text:?} cannot match any path: paths begin with a slash"),
                format!("write {whole}"),
            ));
        }
        Ok(Self::Regex { pattern, params })
    }

    /// The names of the parameters, in order.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        let (segments, groups) = match self {
            Self::Template(template) => (Some(template.segments()), None),
            Self::Regex { params, .. } => (None, Some(params)),
        };
        let segments = segments.into_iter().flatten().filter_map(Segment::param);
        let groups = groups.into_iter().flatten().map(|(name, _)| name.as_str());
        segments.chain(groups)
    }

    /// The parameters, if `path`, in normal form, matches.
    pub fn matches<'a>(&self, path: &'a str) -> Option<Params<'a>> {
        match self {
            Self::Template(template) => template.matches(path),
            Self::Regex { pattern, params } if params.is_empty() => pattern
                .matches(path.as_bytes())
                .then_some(Params::default()),
            Self::Regex { pattern, params } => {
                let groups = pattern.regex().captures(path.as_bytes())?;
                let mut found = Params::default();
                for (place, (_, group)) in params.iter().enumerate() {
                    // A path in normal form is ASCII; in any other, a group could end within a
                    // character.
                    let value = groups.get(*group).and_then(|found| path.get(found.range()));
                    found.set(place, value);
                }
                Some(found)
            }
        }
    }

    /// Whether this pattern matches everything that `other` matches; `true` only if that can be
    /// shown.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Template(ours), Self::Template(theirs)) => ours.covers(theirs),
            (Self::Template(ours), Self::Regex { .. }) => ours.is_everything(),
            (Self::Regex { pattern, .. }, Self::Template(theirs)) => theirs
                .literal()
                .is_some_and(|path| pattern.matches(path.as_bytes())),
            (Self::Regex { pattern, .. }, Self::Regex { pattern: other, .. }) => pattern == other,
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Template(template) => template.fmt(f),
            Self::Regex { pattern, .. } => write!(f, "regex {pattern}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pattern: &PathPattern, path: &str) -> Option<Vec<String>> {
        let params = pattern.matches(path)?;
        let values = (0..MAX_PARAMS).filter_map(|i| params.get(i));
        Some(values.map(str::to_owned).collect())
    }

    fn params(pattern: &str, path: &str) -> Option<Vec<String>> {
        found(&PathPattern::parse(pattern).unwrap(), path)
    }

    #[test]
    fn paths_match_whole_segments() {
        let none: Option<Vec<String>> = None;
        let empty = Some(vec![]);
        let one = |value: &str| Some(vec![value.to_owned()]);
        let two = |a: &str, b: &str| Some(vec![a.to_owned(), b.to_owned()]);
        for (pattern, path, expected) in [
            ("/data", "/data", &empty),
            ("/data", "/data2", &none),
            ("/data", "/data/x", &none),
            ("/data/", "/data", &empty),
            ("/", "/", &empty),
            ("/", "/x", &none),
            ("/**", "/", &empty),
            ("/**", "/a/b", &empty),
            ("/v1/**", "/v1", &empty),
            ("/v1/**", "/v1/a/b", &empty),
            ("/v1/**", "/v10", &none),
            ("/v1/**/", "/v1/a", &empty),
            ("/users/{id}", "/users/7", &one("7")),
            ("/users/{id}", "/users", &none),
            ("/users/{id}", "/users/7/x", &none),
            ("/{a}/x/{b}/**", "/1/x/2/3/4", &two("1", "2")),
            ("/caf\u{e9}", "/caf%C3%A9", &empty),
            ("/*", "/x", &empty),
            ("/*", "/", &none),
            ("/*", "/x/y", &none),
            ("/files/*/raw", "/files/x/raw", &empty),
            ("/files/*/raw", "/files/raw", &none),
            ("/*/{id}", "/x/7", &one("7")),
            ("/img/*.png", "/img/a.png", &empty),
            ("/img/*.png", "/img/.png", &empty),
            ("/img/*.png", "/img/a.png.gif", &none),
            ("/img/*.png", "/img/a/b.png", &none),
            ("/v*/x", "/v/x", &empty),
            ("/v*/x", "/v12/x", &empty),
            ("/v*/x", "/w1/x", &none),
            ("/ab*ba", "/aba", &none),
            ("/ab*ba", "/abba", &empty),
            ("/\u{e9}*", "/%C3%A9t%C3%A9", &empty),
            ("/a/**/z", "/a/z", &empty),
            ("/a/**/z", "/a/b/c/z", &empty),
            ("/a/**/z", "/a", &none),
            ("/a/**/z", "/z", &none),
            ("/a/**/a", "/a", &none),
            ("/**/z", "/z", &empty),
            ("/**/z", "/x/y", &none),
            ("/**/*.png", "/x/y.png", &empty),
            ("/{a}/**/{b}/z/{c}", "/1/2/z", &none),
            ("/{a}/**/{b}/z", "/1/x/2/z", &two("1", "2")),
            ("/{a}/**/{b}/z", "/1/2/z", &two("1", "2")),
        ] {
            assert_eq!(&params(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn named_groups_of_a_regex_are_parameters() {
        let pattern =
            PathPattern::regex("/v[0-9]+/(?P<tenant>[^/]+)(/x(y)?)?/(?<id>[0-9]+)?").unwrap();
        let names: Vec<&str> = pattern.params().collect();
        assert_eq!(names, ["tenant", "id"]);
        let params = pattern.matches("/v2/acme/xy/7").unwrap();
        assert_eq!((params.get(0), params.get(1)), (Some("acme"), Some("7")));
        let params = pattern.matches("/v2/acme/").unwrap();
        assert_eq!((params.get(0), params.get(1)), (Some("acme"), None));
        assert_eq!(pattern.matches("/v2/acme/7/x"), None);
        assert_eq!(pattern.matches("/x/v2/acme/7"), None);
        // Not in normal form, and no reason to panic.
        let odd = PathPattern::regex("/(?P<a>.)(?P<b>.)").unwrap();
        assert_eq!(odd.matches("/\u{e9}").unwrap().get(0), None);
        let many = (0..9).fold(String::new(), |text, i| text + &format!("(?P<b{i}>b)"));
        assert!(
            PathPattern::regex(&many)
                .unwrap_err()
                .message
                .contains("named groups")
        );
        assert!(
            PathPattern::regex("data")
                .unwrap_err()
                .message
                .contains("slash")
        );
    }

    #[test]
    fn patterns_that_can_match_nothing_are_refused() {
        let long = format!("/{}", "a".repeat(1_000));
        for (text, expected) in [
            ("data", "begin with a slash"),
            ("/data?x=1", "without the query"),
            ("/a//b", "after normalisation"),
            ("//", "after normalisation"),
            ("/a/../b", "after normalisation"),
            ("/%2e%2E/x", "is resolved before"),
            ("/a/b**", "not a whole segment"),
            ("/a/**b", "not a whole segment"),
            ("/a/***", "not a whole segment"),
            ("/a/*b*", "more than one `*`"),
            ("/**/a/**", "more than one `**`"),
            ("/{}", "is not a parameter"),
            ("/{*}", "is not a parameter"),
            ("/x{id}", "is a whole segment, but"),
            ("/{a}/{a}", "twice"),
            ("/{a}/**/{a}", "twice"),
            ("/{a}/{b}/{c}/{d}/{e}/**/{f}/{g}/{h}/{i}", "more than 8"),
            (&long, "1001 bytes"),
        ] {
            let error = PathPattern::parse(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(error.contains("\nhint: "), "{text}: {error}");
        }
    }

    #[test]
    fn one_pattern_covers_another() {
        let pattern = |text: &str| match text.strip_prefix('~') {
            Some(regex) => PathPattern::regex(regex).unwrap(),
            None => PathPattern::parse(text).unwrap(),
        };
        for (a, b) in [
            ("/**", "/data"),
            ("/**", "/a/**/z"),
            ("/**", "~/x.*"),
            ("/v1/**", "/v1/{x}/y"),
            ("/users/{id}", "/users/7"),
            ("/users/*", "/users/*.png"),
            ("/*.png", "/a*b.png"),
            ("/*.png", "/a.png"),
            ("/a/**/z", "/a/b/z"),
            ("/a/**/z", "/a/b/**/y/z"),
            ("~/d.*", "/data"),
        ] {
            assert!(pattern(a).covers(&pattern(b)), "{a} {b}");
            assert!(!pattern(b).covers(&pattern(a)), "{b} {a}");
            assert!(pattern(a).covers(&pattern(a)) && pattern(b).covers(&pattern(b)));
        }
        assert!(!pattern("/data").covers(&pattern("/data2")));
        assert!(!pattern("/a/**/a").covers(&pattern("/a")));
        assert!(!pattern("~/d.*").covers(&pattern("/d*")));
    }
}
