//! Paths by their segments.

use std::fmt;

use super::{MAX_PARAMS, Params};
use crate::{
    problem::Problem,
    request::{normal_part, normal_path},
};

/// The longest template, in bytes.
const MAX_TEMPLATE: usize = 1_000;

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

    pub(super) fn param(&self) -> Option<&str> {
        match self {
            Self::Any(name) => name.as_deref(),
            _ => None,
        }
    }
}

impl Template {
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        if text.len() > MAX_TEMPLATE {
            return Err(Problem::new(
                format!(
                    "the path has {} bytes, and the most is {MAX_TEMPLATE}",
                    text.len()
                ),
                "use /** for the rest of the path",
            ));
        }
        let Some(rest) = text.strip_prefix('/') else {
            if let Some((_, rest)) = text.split_once("://") {
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                return Err(Problem::new(
                    format!("the path {text:?} can match nothing: paths begin after the host"),
                    format!("write /{path}, and {host} under `host`"),
                ));
            }
            let whole = match text {
                "*" | "**" => "/**".to_owned(),
                _ => format!("/{text}"),
            };
            return Err(Problem::new(
                format!("the path {text:?} can match nothing: paths begin with a slash"),
                format!("write {whole}"),
            ));
        };
        if let Some(at) = text.find(['?', '#']) {
            return Err(Problem::new(
                format!("the path {text:?} can match nothing: paths are compared without query"),
                format!(
                    "write {}, and conditions on parameters under `query`",
                    &text[..at]
                ),
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
                    return Err(Problem::new(
                        format!(
                            "the path {text:?} can match nothing: requests never have the segment {segment:?} after normalisation"
                        ),
                        "leave it out",
                    ));
                }
                "**" if template.back.is_some() => {
                    return Err(Problem::new(
                        format!("the path {text:?} has more than one `**`"),
                        "keep one, or write { regex: \"…\" }",
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
            return Err(Problem::new(
                format!("the path {text:?} names {{{name}}} twice"),
                "give each parameter its own name",
            ));
        }
        if names.len() > MAX_PARAMS {
            return Err(Problem::new(
                format!("the path {text:?} has more than {MAX_PARAMS} parameters"),
                "write * for those that are in no key",
            ));
        }
        Ok(template)
    }

    fn segment(text: &str, segment: &str) -> Result<Segment, Problem> {
        if let Some(name) = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
            let valid = !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            return if valid {
                Ok(Segment::Any(Some(name.to_owned())))
            } else if let Some((name, pattern)) = name.split_once(':') {
                Err(Problem::new(
                    format!(
                        "{segment:?} in {text:?} is not a parameter: there is no pattern in it"
                    ),
                    format!(
                        "write {{{name}}}, or all of the path as {{ regex: \"/…/(?P<{name}>{pattern})\" }}"
                    ),
                ))
            } else {
                Err(Problem::new(
                    format!("{segment:?} in {text:?} is not a parameter"),
                    "names are letters, digits, _ and -, like {id}",
                ))
            };
        }
        if segment.contains(['{', '}']) {
            return Err(Problem::new(
                format!("a parameter is a whole segment, and {segment:?} in {text:?} is more"),
                "write /{name}/ between slashes, or { regex: \"…\" }",
            ));
        }
        if segment == "*" {
            return Ok(Segment::Any(None));
        }
        if let Some((start, end)) = segment.split_once('*') {
            return if end.starts_with('*') {
                Err(Problem::new(
                    format!("`**` in {text:?} is not a whole segment"),
                    "write /**/ between slashes, or one * within a segment",
                ))
            } else if end.contains('*') {
                Err(Problem::new(
                    format!("{segment:?} in {text:?} has more than one `*`"),
                    "keep one, or write { regex: \"…\" }",
                ))
            } else {
                Ok(Segment::Glob(normal_part(start), normal_part(end)))
            };
        }
        let normal = normal_path(segment);
        if normal == "/" {
            return Err(Problem::new(
                format!(
                    "the path {text:?} can match nothing: {segment:?} is resolved before paths are compared"
                ),
                "leave it out",
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

    /// Whether it is `/**`.
    pub(super) fn is_everything(&self) -> bool {
        self.front.is_empty() && self.back.as_ref().is_some_and(Vec::is_empty)
    }

    pub(super) fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.front.iter().chain(self.back.iter().flatten())
    }

    /// The one path that it is, if it is only one.
    pub(super) fn literal(&self) -> Option<String> {
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

    pub(super) fn matches<'a>(&self, path: &'a str) -> Option<Params<'a>> {
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

    pub(super) fn covers(&self, other: &Self) -> bool {
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

/// As it was written.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
