//! Path templates: `/users/{id}`, `/static/**`.

use std::{borrow::Cow, fmt};

use super::params::{MAX_PARAMS, Params};
use crate::{
    problem::Problem,
    request::{normal_part, normal_path},
};

/// The longest template, in bytes.
const MAX_TEMPLATE: usize = 1_000;

/// A path template, by segments.
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
    /// Any segment with this beginning and end: `*.png`.
    Glob(String, String),
}

/// The problem of a path that no request can have.
fn matches_nothing(
    text: &str,
    why: impl fmt::Display,
    hint: impl Into<Cow<'static, str>>,
) -> Problem {
    Problem::new(
        format!("the path {text:?} cannot match any path: {why}"),
        hint,
    )
}

/// The path behind its first slash.
fn relative(text: &str) -> Result<&str, Problem> {
    if text.len() > MAX_TEMPLATE {
        let length = text.len();
        return Err(Problem::new(
            format!("the path has {length} bytes, but at most {MAX_TEMPLATE} are allowed"),
            "use /** for the rest of the path",
        ));
    }
    let Some(rest) = text.strip_prefix('/') else {
        if let Some((_, rest)) = text.split_once("://") {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let hint = format!("write /{path}, and {host} under `host`");
            return Err(matches_nothing(text, "paths begin after the host", hint));
        }
        let hint = match text {
            "*" | "**" => "write /**".to_owned(),
            _ => format!("write /{text}"),
        };
        return Err(matches_nothing(text, "paths begin with a slash", hint));
    };
    if let Some(at) = text.find(['?', '#']) {
        let path = &text[..at];
        let hint = format!("write {path}, and put conditions on parameters under `query`");
        return Err(matches_nothing(
            text,
            "paths are matched without the query",
            hint,
        ));
    }
    Ok(rest)
}

impl Segment {
    /// A segment of the template `text`.
    fn parse(text: &str, segment: &str) -> Result<Self, Problem> {
        if let Some(name) = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
            return Self::parameter(text, segment, name);
        }
        if segment.contains(['{', '}']) {
            return Err(Problem::new(
                format!(
                    "a parameter is a whole segment, but {segment:?} in {text:?} has more than that"
                ),
                "write /{name}/ between slashes, or { regex: \"…\" }",
            ));
        }
        if segment == "*" {
            return Ok(Self::Any(None));
        }
        if let Some((start, end)) = segment.split_once('*') {
            return Self::glob(text, segment, start, end);
        }
        let normal = normal_path(segment);
        if normal == "/" {
            return Err(matches_nothing(
                text,
                format!("{segment:?} is resolved before paths are matched"),
                "leave it out",
            ));
        }
        Ok(Self::Literal(normal[1..].to_owned()))
    }

    /// `{name}`.
    fn parameter(text: &str, segment: &str, name: &str) -> Result<Self, Problem> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if !name.is_empty() && name.bytes().all(is_plain) {
            return Ok(Self::Any(Some(name.to_owned())));
        }
        let message = format!("{segment:?} in {text:?} is not a parameter");
        Err(match name.split_once(':') {
            Some((name, pattern)) => Problem::new(
                format!("{message}: a parameter cannot contain a pattern"),
                format!(
                    "write {{{name}}}, or the whole path as {{ regex: \"/…/(?P<{name}>{pattern})\" }}"
                ),
            ),
            None => Problem::new(message, "names are letters, digits, _ and -, like {id}"),
        })
    }

    /// `start*end`.
    fn glob(text: &str, segment: &str, start: &str, end: &str) -> Result<Self, Problem> {
        if end.starts_with('*') {
            return Err(Problem::new(
                format!("`**` in {text:?} is not a whole segment"),
                "write /**/ between slashes, or one * within a segment",
            ));
        }
        if end.contains('*') {
            return Err(Problem::new(
                format!("{segment:?} in {text:?} has more than one `*`"),
                "keep one, or write { regex: \"…\" }",
            ));
        }
        Ok(Self::Glob(normal_part(start), normal_part(end)))
    }

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
    /// Compiles a template of at most [`MAX_TEMPLATE`] bytes.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let rest = relative(text)?;
        let mut template = Self {
            text: text.to_owned(),
            front: Vec::new(),
            back: None,
        };
        // A trailing slash means nothing; a lone one is an empty segment.
        let rest = match rest {
            "/" => rest,
            _ => rest.strip_suffix('/').unwrap_or(rest),
        };
        for segment in rest.split('/').filter(|_| !rest.is_empty()) {
            template.push(segment)?;
        }
        template.check_names()?;
        Ok(template)
    }

    fn push(&mut self, segment: &str) -> Result<(), Problem> {
        let text = &self.text;
        match segment {
            "" | "." | ".." => {
                return Err(matches_nothing(
                    text,
                    format!("requests never have the segment {segment:?} after normalisation"),
                    "leave it out",
                ));
            }
            "**" if self.back.is_some() => {
                return Err(Problem::new(
                    format!("the path {text:?} has more than one `**`"),
                    "keep one, or write { regex: \"…\" }",
                ));
            }
            "**" => self.back = Some(Vec::new()),
            _ => {
                let segment = Segment::parse(text, segment)?;
                self.back.as_mut().unwrap_or(&mut self.front).push(segment);
            }
        }
        Ok(())
    }

    fn check_names(&self) -> Result<(), Problem> {
        let text = &self.text;
        let names: Vec<&str> = self.segments().filter_map(Segment::param).collect();
        let mut numbered = names.iter().enumerate();
        if let Some((_, name)) = numbered.find(|(i, name)| names[..*i].contains(name)) {
            return Err(Problem::new(
                format!("the path {text:?} names {{{name}}} twice"),
                "give each parameter its own name",
            ));
        }
        if names.len() > MAX_PARAMS {
            return Err(Problem::new(
                format!("the path {text:?} has more than {MAX_PARAMS} parameters"),
                "write * for parameters that no key uses",
            ));
        }
        Ok(())
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

    /// The one path that it matches, if it is only one.
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

/// The template as written.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
