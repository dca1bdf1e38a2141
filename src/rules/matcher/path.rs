//! Paths that a rule is about: templates of segments, and regular expressions.

use std::fmt;

use super::{MAX_PARAMS, Params, Pattern};
use crate::request::{normal_part, normal_path};

/// The longest template, in bytes.
const MAX_TEMPLATE: usize = 1_000;

/// A path: `/data`, `/users/{id}`, `/files/*/raw`, `/img/*.png`, `/static/**`, `/a/**/z`, or a regular expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathPattern {
    /// Segments.
    Template(Template),
    /// A pattern of the whole path, with the names of its parameters and the groups that they are.
    Regex {
        /// The pattern.
        pattern: Pattern,
        /// Names and indices of its named groups, in order.
        params: Vec<(String, usize)>,
    },
}

/// A path by its segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    /// The segments before `**`, or all.
    front: Vec<Segment>,
    /// The segments after `**`, if there is one.
    back: Option<Vec<Segment>>,
}

/// A segment of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Itself.
    Literal(String),
    /// Any segment: `{name}`, or `*` without name.
    Any(Option<String>),
    /// Any segment that begins and ends so: `*.png`.
    Glob(String, String),
}

impl Segment {
    fn matches(&self, segment: &str) -> bool {
        match self {
            Self::Literal(literal) => literal == segment,
            Self::Any(_) => true,
            Self::Glob(start, end) => {
                segment.len() >= start.len() + end.len()
                    && segment.starts_with(start.as_str())
                    && segment.ends_with(end.as_str())
            }
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any(_), _) => true,
            (_, Self::Literal(literal)) => self.matches(literal),
            (Self::Glob(start, end), Self::Glob(their_start, their_end)) => {
                their_start.starts_with(start.as_str()) && their_end.ends_with(end.as_str())
            }
            _ => false,
        }
    }

    fn param(&self) -> Option<&str> {
        match self {
            Self::Any(name) => name.as_deref(),
            _ => None,
        }
    }
}

impl PathPattern {
    /// Compiles a template of at most 1,000 bytes. The error says what cannot be, and what to write instead (`hint: …`).
    pub fn parse(text: &str) -> Result<Self, String> {
        Template::parse(text).map(Self::Template)
    }

    /// Compiles a regular expression of the whole path; its named groups are parameters. Errors as for [`Pattern::parse`].
    pub fn regex(text: &str) -> Result<Self, String> {
        let pattern = Pattern::parse(text)?;
        let params: Vec<(String, usize)> = pattern
            .regex()
            .capture_names()
            .enumerate()
            .filter_map(|(index, name)| Some((name?.to_owned(), index)))
            .collect();
        if params.len() > MAX_PARAMS {
            return Err(format!(
                "the regex has more than {MAX_PARAMS} named groups\nhint: write (?:…) for those that are in no key"
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
            return Err(format!(
                "the regex {text:?} can match nothing: paths begin with a slash\nhint: write {whole}"
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

    /// The parameters if `path`, in normal form, matches.
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
                    // A path in normal form is ASCII; in another, a group could end within a character.
                    let value = groups.get(*group).and_then(|found| path.get(found.range()));
                    found.set(place, value);
                }
                Some(found)
            }
        }
    }

    /// Whether everything that `other` matches is matched by this one too; `true` only if that can be shown.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Template(ours), Self::Template(theirs)) => ours.covers(theirs),
            (Self::Template(ours), Self::Regex { .. }) => {
                ours.front.is_empty() && ours.back.as_ref().is_some_and(Vec::is_empty)
            }
            (Self::Regex { pattern, .. }, Self::Template(theirs)) => theirs
                .literal()
                .is_some_and(|path| pattern.matches(path.as_bytes())),
            (Self::Regex { pattern, .. }, Self::Regex { pattern: other, .. }) => pattern == other,
        }
    }
}

impl Template {
    fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_TEMPLATE {
            return Err(format!(
                "the path has {} bytes, and the most is {MAX_TEMPLATE}\nhint: use /** for the rest of the path",
                text.len()
            ));
        }
        let Some(rest) = text.strip_prefix('/') else {
            if let Some((_, rest)) = text.split_once("://") {
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                return Err(format!(
                    "the path {text:?} can match nothing: paths begin after the host\nhint: write /{path}, and {host} under `host`"
                ));
            }
            let whole = match text {
                "*" | "**" => "/**".to_owned(),
                _ => format!("/{text}"),
            };
            return Err(format!(
                "the path {text:?} can match nothing: paths begin with a slash\nhint: write {whole}"
            ));
        };
        if let Some(at) = text.find(['?', '#']) {
            return Err(format!(
                "the path {text:?} can match nothing: paths are compared without query\nhint: write {}, and conditions on parameters under `query`",
                &text[..at]
            ));
        }
        let mut template = Self {
            text: text.to_owned(),
            front: Vec::new(),
            back: None,
        };
        // A slash at the end means nothing; one alone is an empty segment.
        let rest = match rest {
            "/" => rest,
            _ => rest.strip_suffix('/').unwrap_or(rest),
        };
        for segment in rest.split('/').filter(|_| !rest.is_empty()) {
            match segment {
                "" | "." | ".." => {
                    return Err(format!(
                        "the path {text:?} can match nothing: requests never have the segment {segment:?} after normalisation\nhint: leave it out"
                    ));
                }
                "**" if template.back.is_some() => {
                    return Err(format!(
                        "the path {text:?} has more than one `**`\nhint: keep one, or write {{ regex: \"…\" }}"
                    ));
                }
                "**" => template.back = Some(Vec::new()),
                _ => {
                    let segment = Self::segment(text, segment)?;
                    let end = template.back.as_mut().unwrap_or(&mut template.front);
                    end.push(segment);
                }
            }
        }
        let names: Vec<&str> = template.segments().filter_map(Segment::param).collect();
        if let Some(name) = names
            .iter()
            .enumerate()
            .find_map(|(i, n)| names[..i].contains(n).then_some(n))
        {
            return Err(format!(
                "the path {text:?} names {{{name}}} twice\nhint: give each parameter its own name"
            ));
        }
        if names.len() > MAX_PARAMS {
            return Err(format!(
                "the path {text:?} has more than {MAX_PARAMS} parameters\nhint: write * for those that are in no key"
            ));
        }
        Ok(template)
    }

    fn segment(text: &str, segment: &str) -> Result<Segment, String> {
        if let Some(name) = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
            let valid = !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            return if valid {
                Ok(Segment::Any(Some(name.to_owned())))
            } else if let Some((name, pattern)) = name.split_once(':') {
                Err(format!(
                    "{segment:?} in {text:?} is not a parameter: there is no pattern in it\nhint: write {{{name}}}, or all of the path as {{ regex: \"/…/(?P<{name}>{pattern})\" }}"
                ))
            } else {
                Err(format!(
                    "{segment:?} in {text:?} is not a parameter\nhint: names are letters, digits, _ and -, like {{id}}"
                ))
            };
        }
        if segment.contains(['{', '}']) {
            return Err(format!(
                "a parameter is a whole segment, and {segment:?} in {text:?} is more\nhint: write /{{name}}/ between slashes, or {{ regex: \"…\" }}"
            ));
        }
        if segment == "*" {
            return Ok(Segment::Any(None));
        }
        if let Some((start, end)) = segment.split_once('*') {
            return if end.starts_with('*') {
                Err(format!(
                    "`**` in {text:?} is not a whole segment\nhint: write /**/ between slashes, or one * within a segment"
                ))
            } else if end.contains('*') {
                Err(format!(
                    "{segment:?} in {text:?} has more than one `*`\nhint: keep one, or write {{ regex: \"…\" }}"
                ))
            } else {
                Ok(Segment::Glob(normal_part(start), normal_part(end)))
            };
        }
        let normal = normal_path(segment);
        if normal == "/" {
            return Err(format!(
                "the path {text:?} can match nothing: {segment:?} is resolved before paths are compared\nhint: leave it out"
            ));
        }
        Ok(Segment::Literal(normal[1..].to_owned()))
    }

    /// The segments before `**`, or all if there is none.
    pub fn front(&self) -> &[Segment] {
        &self.front
    }

    /// Whether it has a `**`.
    pub fn is_open(&self) -> bool {
        self.back.is_some()
    }

    fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.front.iter().chain(self.back.iter().flatten())
    }

    /// The one path that it is, if it is only one.
    fn literal(&self) -> Option<String> {
        if self.back.is_some() {
            return None;
        }
        let mut path = String::new();
        for segment in &self.front {
            let Segment::Literal(literal) = segment else {
                return None;
            };
            path.push('/');
            path.push_str(literal);
        }
        if path.is_empty() {
            path.push('/');
        }
        Some(path)
    }

    fn matches<'a>(&self, path: &'a str) -> Option<Params<'a>> {
        let mut params = Params::default();
        let mut place = 0;
        let mut rest = path.strip_prefix('/').unwrap_or(path);
        for segment in &self.front {
            if rest.is_empty() {
                return None;
            }
            let (head, tail) = rest.split_once('/').unwrap_or((rest, ""));
            if !segment.matches(head) {
                return None;
            }
            if segment.param().is_some() {
                params.set(place, Some(head));
                place += 1;
            }
            rest = tail;
        }
        let Some(back) = &self.back else {
            return rest.is_empty().then_some(params);
        };
        // From the end; the parameters keep the order of the template.
        place += back.iter().filter(|s| s.param().is_some()).count();
        for segment in back.iter().rev() {
            if rest.is_empty() {
                return None;
            }
            let (head, tail) = rest.rsplit_once('/').unwrap_or(("", rest));
            if !segment.matches(tail) {
                return None;
            }
            if segment.param().is_some() {
                place -= 1;
                params.set(place, Some(tail));
            }
            rest = head;
        }
        Some(params)
    }

    fn covers(&self, other: &Self) -> bool {
        fn all<'a>(
            ours: impl Iterator<Item = &'a Segment>,
            theirs: impl Iterator<Item = &'a Segment>,
        ) -> bool {
            ours.zip(theirs).all(|(ours, theirs)| ours.covers(theirs))
        }
        match (&self.back, &other.back) {
            (None, None) => {
                self.front.len() == other.front.len() && all(self.front.iter(), other.front.iter())
            }
            (None, Some(_)) => false,
            (Some(back), None) => {
                other.front.len() >= self.front.len() + back.len()
                    && all(self.front.iter(), other.front.iter())
                    && all(back.iter().rev(), other.front.iter().rev())
            }
            (Some(back), Some(theirs)) => {
                other.front.len() >= self.front.len()
                    && theirs.len() >= back.len()
                    && all(self.front.iter(), other.front.iter())
                    && all(back.iter().rev(), theirs.iter().rev())
            }
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Template(template) => f.write_str(&template.text),
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
                .contains("named groups")
        );
        assert!(PathPattern::regex("data").unwrap_err().contains("slash"));
    }

    #[test]
    fn patterns_that_can_match_nothing_are_refused() {
        let long = format!("/{}", "a".repeat(MAX_TEMPLATE));
        for (text, expected) in [
            ("data", "begin with a slash"),
            ("/data?x=1", "without query"),
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
            ("/x{id}", "is a whole segment"),
            ("/{a}/{a}", "twice"),
            ("/{a}/**/{a}", "twice"),
            ("/{a}/{b}/{c}/{d}/{e}/**/{f}/{g}/{h}/{i}", "more than 8"),
            (&long, "1001 bytes"),
        ] {
            let error = PathPattern::parse(text).expect_err(text);
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
