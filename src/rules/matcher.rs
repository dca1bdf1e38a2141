//! Which requests a rule is about: path, methods, host. Everything is in normal form before it is compared.

use std::fmt;

use crate::request::{Attributes, normal_host, normal_path};

/// All conditions of one rule; an empty list is no condition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matcher {
    /// One of these paths.
    pub paths: Vec<PathPattern>,
    /// One of these methods.
    pub methods: Vec<String>,
    /// One of these hosts.
    pub hosts: Vec<HostPattern>,
}

impl Matcher {
    /// The parameters of the path if the request matches.
    pub fn matches<'a>(&self, request: &'a Attributes<'_>) -> Option<Params<'a>> {
        if !self.matches_method(request.method) {
            return None;
        }
        if !self.hosts.is_empty() && !self.hosts.iter().any(|host| host.matches(&request.host)) {
            return None;
        }
        if self.paths.is_empty() {
            return Some(Params::default());
        }
        self.paths
            .iter()
            .find_map(|path| path.matches(&request.path))
    }

    /// `GET` includes `HEAD`: servers answer it with the same work, and a limit on `GET` that `HEAD` evades is none.
    fn matches_method(&self, method: &str) -> bool {
        self.methods.is_empty()
            || self
                .methods
                .iter()
                .any(|m| m == method || (m == "GET" && method == "HEAD"))
    }
}

/// The segments that stood where a template has `{name}`, in the order of the template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Params<'a> {
    values: [Option<&'a str>; MAX_PARAMS],
}

/// The most parameters of one path template.
pub const MAX_PARAMS: usize = 8;

impl<'a> Params<'a> {
    /// The segment in place of the `index`th parameter, in the normal form of a path.
    pub fn get(&self, index: usize) -> Option<&'a str> {
        self.values.get(index).copied().flatten()
    }
}

/// A path: `/data`, `/users/{id}`, `/static/**`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
    segments: Vec<Segment>,
    /// Whether `/**` ends it: the path itself and everything below.
    open: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Param(String),
}

impl PathPattern {
    /// Compiles a pattern. The error says what cannot be, and what to write instead (`hint: …`).
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!(
                "the path {text:?} can match nothing: paths begin with a slash\nhint: write /{text}"
            ));
        };
        if let Some(at) = text.find(['?', '#']) {
            return Err(format!(
                "the path {text:?} can match nothing: paths are compared without query\nhint: write {}",
                &text[..at]
            ));
        }
        let (rest, open) = match rest.strip_suffix("**") {
            Some("") => ("", true),
            Some(rest) if rest.ends_with('/') => (&rest[..rest.len() - 1], true),
            Some(_) => {
                return Err(format!(
                    "`**` in {text:?} is not a whole segment\nhint: write /** at the end, after a slash"
                ));
            }
            None => (rest, false),
        };
        let mut segments = Vec::new();
        for (index, segment) in rest.split('/').enumerate() {
            match segment {
                "" if rest.is_empty() || index == rest.split('/').count() - 1 => {}
                "" | "." | ".." => {
                    return Err(format!(
                        "the path {text:?} can match nothing: requests never have the segment {segment:?} after normalisation\nhint: leave it out"
                    ));
                }
                _ => segments.push(Self::segment(text, segment)?),
            }
        }
        let pattern = Self {
            text: text.to_owned(),
            segments,
            open,
        };
        let names: Vec<&str> = pattern.params().collect();
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
                "the path {text:?} has more than {MAX_PARAMS} parameters\nhint: use /** for the rest of the path"
            ));
        }
        Ok(pattern)
    }

    fn segment(text: &str, segment: &str) -> Result<Segment, String> {
        if let Some(name) = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
            let valid = !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            return if valid {
                Ok(Segment::Param(name.to_owned()))
            } else {
                Err(format!(
                    "{segment:?} in {text:?} is not a parameter\nhint: names are letters, digits, _ and -, like {{id}}"
                ))
            };
        }
        if segment.contains(['{', '}']) {
            return Err(format!(
                "a parameter is a whole segment, and {segment:?} in {text:?} is more\nhint: write /{{name}}/ between slashes"
            ));
        }
        if segment.contains('*') {
            return Err(format!(
                "{segment:?} in {text:?} is not supported\nhint: use {{name}} for one segment, and /** at the end for any number"
            ));
        }
        let normal = normal_path(segment);
        if normal == "/" {
            return Err(format!(
                "the path {text:?} can match nothing: {segment:?} is resolved before paths are compared\nhint: leave it out"
            ));
        }
        Ok(Segment::Literal(normal[1..].to_owned()))
    }

    /// The names of the parameters, in order.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Param(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// The parameters if `path`, in normal form, matches.
    pub fn matches<'a>(&self, path: &'a str) -> Option<Params<'a>> {
        let mut params = Params::default();
        let mut count = 0;
        let mut rest = path.strip_prefix('/').unwrap_or(path);
        for segment in &self.segments {
            if rest.is_empty() {
                return None;
            }
            let (head, tail) = rest.split_once('/').unwrap_or((rest, ""));
            match segment {
                Segment::Literal(literal) if literal != head => return None,
                Segment::Literal(_) => {}
                Segment::Param(_) => {
                    params.values[count] = Some(head);
                    count += 1;
                }
            }
            rest = tail;
        }
        (self.open || rest.is_empty()).then_some(params)
    }

    /// Whether everything that `other` matches is matched by this one too.
    pub fn covers(&self, other: &Self) -> bool {
        let enough = if self.open {
            other.segments.len() >= self.segments.len()
        } else {
            !other.open && other.segments.len() == self.segments.len()
        };
        enough
            && self
                .segments
                .iter()
                .zip(&other.segments)
                .all(|(ours, theirs)| match (ours, theirs) {
                    (Segment::Param(_), _) => true,
                    (Segment::Literal(a), Segment::Literal(b)) => a == b,
                    (Segment::Literal(_), Segment::Param(_)) => false,
                })
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A host: `api.example.com`, or `*.example.com` for every name below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern {
    name: String,
    below: bool,
}

impl HostPattern {
    /// Compiles a pattern. The error says what cannot be, and what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, below) = match text.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let normal = normal_host(name);
        if name.contains("://") || name.contains('/') {
            return Err(format!(
                "{text:?} is not a host\nhint: write only the name, like api.example.com; the path goes into `path`"
            ));
        }
        if normal.is_empty() || normal.contains(['*', ' ', '{', '?']) {
            return Err(format!(
                "{text:?} is not a host\nhint: write a name like api.example.com or *.example.com"
            ));
        }
        if normal.len() != name.strip_suffix('.').unwrap_or(name).len() {
            return Err(format!(
                "{text:?} has a port, and hosts are compared without\nhint: write {normal}"
            ));
        }
        Ok(Self {
            name: normal.into_owned(),
            below,
        })
    }

    fn matches(&self, host: &str) -> bool {
        if self.below {
            host.strip_suffix(self.name.as_str())
                .is_some_and(|front| front.len() > 1 && front.ends_with('.'))
        } else {
            host == self.name
        }
    }

    /// Whether everything that `other` matches is matched by this one too.
    pub fn covers(&self, other: &Self) -> bool {
        match (self.below, other.below) {
            (false, true) => false,
            (true, true) if self.name == other.name => true,
            _ => self.matches(&other.name),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pattern: &str, path: &str) -> Option<Vec<String>> {
        let pattern = PathPattern::parse(pattern).unwrap();
        let params = pattern.matches(path)?;
        Some(
            (0..MAX_PARAMS)
                .map_while(|i| params.get(i))
                .map(str::to_owned)
                .collect(),
        )
    }

    #[test]
    fn paths_match_whole_segments() {
        let none: Option<Vec<String>> = None;
        let empty = Some(vec![]);
        assert_eq!(params("/data", "/data"), empty);
        assert_eq!(params("/data", "/data2"), none);
        assert_eq!(params("/data", "/data/x"), none);
        assert_eq!(params("/data/", "/data"), empty);
        assert_eq!(params("/", "/"), empty);
        assert_eq!(params("/", "/x"), none);
        assert_eq!(params("/**", "/"), empty);
        assert_eq!(params("/**", "/a/b"), empty);
        assert_eq!(params("/v1/**", "/v1"), empty);
        assert_eq!(params("/v1/**", "/v1/a/b"), empty);
        assert_eq!(params("/v1/**", "/v10"), none);
        assert_eq!(
            params("/users/{id}", "/users/7"),
            Some(vec!["7".to_owned()])
        );
        assert_eq!(params("/users/{id}", "/users"), none);
        assert_eq!(params("/users/{id}", "/users/7/x"), none);
        assert_eq!(
            params("/{a}/x/{b}/**", "/1/x/2/3/4"),
            Some(vec!["1".to_owned(), "2".to_owned()])
        );
        assert_eq!(params("/caf\u{e9}", "/caf%C3%A9"), empty);
    }

    #[test]
    fn patterns_that_can_match_nothing_are_refused() {
        for (text, expected) in [
            ("data", "begin with a slash"),
            ("/data?x=1", "without query"),
            ("/a//b", "after normalisation"),
            ("/a/../b", "after normalisation"),
            ("/%2e%2E/x", "is resolved before"),
            ("/a/b**", "not a whole segment"),
            ("/a/*/b", "is not supported"),
            ("/a/**/b", "is not supported"),
            ("/{}", "is not a parameter"),
            ("/x{id}", "is a whole segment"),
            ("/{a}/{a}", "twice"),
        ] {
            let error = PathPattern::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(error.contains("\nhint: "), "{text}: {error}");
        }
    }

    #[test]
    fn hosts_match_exactly_or_below() {
        let matches =
            |pattern: &str, host: &str| HostPattern::parse(pattern).unwrap().matches(host);
        assert!(matches("api.Example.com", "api.example.com"));
        assert!(!matches("example.com", "api.example.com"));
        assert!(matches("*.example.com", "a.b.example.com"));
        assert!(!matches("*.example.com", "example.com"));
        assert!(!matches("*.example.com", "badexample.com"));
        for text in ["", "*", "a*b.com", "http://x", "x/y", "x.com:80"] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn one_pattern_covers_another() {
        let covers = |a: &str, b: &str| {
            PathPattern::parse(a)
                .unwrap()
                .covers(&PathPattern::parse(b).unwrap())
        };
        assert!(covers("/**", "/data"));
        assert!(covers("/v1/**", "/v1/{x}/y"));
        assert!(covers("/users/{id}", "/users/7"));
        assert!(covers("/data", "/data"));
        assert!(!covers("/users/7", "/users/{id}"));
        assert!(!covers("/v1", "/v1/**"));
        assert!(!covers("/data", "/data2"));
    }
}
