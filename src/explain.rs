//! `explain`: a request in, and out of it what would be decided and why, for people and for programs.
//!
//! The command line and the admin port ask with a [`Question`] and answer with a [`Report`].

use std::{collections::BTreeMap, fmt, net::IpAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header::HOST};
use serde::{Deserialize, Serialize};

use crate::{
    contract::{self, AnswerOptions, Endpoint},
    engine::explain::{Counts, Explained, Explanation, Fate, Standing},
    request::{Attributes, normal_host, normal_path, parse_ip, query_of},
    rules::{Mode, quota::span_text},
};

/// A request to be explained.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The client's method.
    #[serde(default = "get")]
    pub method: String,
    /// Path and query, or a whole URL.
    #[serde(rename = "path", alias = "uri")]
    pub target: String,
    /// The client's host; by default that of the URL, or of a `Host` header.
    pub host: Option<String>,
    /// The client's address.
    pub ip: Option<String>,
    /// The client's headers, as the proxy would forward them.
    #[serde(default)]
    pub headers: BTreeMap<String, Lines>,
}

/// The line of a header, or its lines.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Lines {
    /// One.
    One(String),
    /// As many as there are, in their order.
    Many(Vec<String>),
}

fn get() -> String {
    "GET".to_owned()
}

/// A question that cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unaskable {
    /// Not a method.
    #[error("{0:?} is not a method: write one like GET or POST")]
    Method(String),
    /// Neither a path nor a URL.
    #[error("{0:?} is not a path: write one like /v1/items?page=2, or a URL")]
    Target(String),
    /// Not an address.
    #[error("{0:?} is not an address: write one like 203.0.113.7 or 2001:db8::1")]
    Ip(String),
    /// Not a host.
    #[error("{0:?} is not a host: write one like api.example.com")]
    Host(String),
    /// Not the name of a header.
    #[error("{0:?} is not the name of a header: write it like x-api-key")]
    HeaderName(String),
    /// Not a value of a header.
    #[error("the header {0} cannot have this value: it is one line of printable characters")]
    HeaderValue(String),
    /// A header on the command line without a colon.
    #[error("{0:?} is not a header: write it like 'x-api-key: k'")]
    Header(String),
}

/// A question that can be asked.
#[derive(Debug, Clone)]
pub struct Asked {
    method: String,
    target: String,
    host: String,
    ip: Option<IpAddr>,
    headers: HeaderMap,
}

impl Question {
    /// Checks the question.
    pub fn checked(self) -> Result<Asked, Unaskable> {
        if Method::from_bytes(self.method.as_bytes()).is_err() {
            return Err(Unaskable::Method(self.method));
        }
        let (authority, target) = match self.target.split_once("://") {
            Some((scheme, rest)) if !scheme.contains(['/', '?', '#']) => {
                let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let authority = &rest[..at];
                // User and password are not the host.
                let host = authority
                    .rsplit_once('@')
                    .map_or(authority, |(_, host)| host);
                (Some(host), &rest[at..])
            }
            _ if self.target.starts_with('/') => (None, &*self.target),
            _ => return Err(Unaskable::Target(self.target)),
        };
        let mut headers = HeaderMap::new();
        for (name, lines) in &self.headers {
            let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
                return Err(Unaskable::HeaderName(name.clone()));
            };
            let lines = match lines {
                Lines::One(line) => std::slice::from_ref(line),
                Lines::Many(lines) => lines,
            };
            for line in lines {
                let value = HeaderValue::from_str(line)
                    .map_err(|_| Unaskable::HeaderValue(name.clone()))?;
                headers.append(&header, value);
            }
        }
        let named = headers.get(HOST).and_then(|value| value.to_str().ok());
        let host = self.host.as_deref().or(authority).or(named);
        let host = host.unwrap_or_default();
        if host.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(Unaskable::Host(host.to_owned()));
        }
        // Read as that of a check is.
        let ip = match &self.ip {
            None => None,
            Some(text) => Some(parse_ip(text).ok_or_else(|| Unaskable::Ip(text.clone()))?),
        };
        Ok(Asked {
            ip,
            host: host.to_owned(),
            target: target.to_owned(),
            method: self.method,
            headers,
        })
    }
}

/// `name: value`, as curl's `-H` takes it.
pub fn parse_header(line: &str) -> Result<(String, String), Unaskable> {
    match line.split_once(':') {
        Some((name, value)) => Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned())),
        None => Err(Unaskable::Header(line.to_owned())),
    }
}

impl Asked {
    /// The request as a proxy would have described it.
    pub fn attributes(&self) -> Attributes<'_> {
        Attributes {
            method: &self.method,
            host: normal_host(&self.host),
            path: normal_path(&self.target),
            query: query_of(&self.target).into(),
            client_ip: self.ip,
            headers: &self.headers,
        }
    }
}

/// Where the counters of an explanation are from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Counters {
    /// The store of this name: `redis` or `memory`.
    Read(&'static str),
    /// None were read: as if nobody had come yet.
    NotRead,
    /// They could not be read: as if nobody had come yet.
    Failed(String),
}

/// An explanation, ready to be shown.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    request: Shown,
    counters: Counters,
    admitted: bool,
    status: u16,
    headers: BTreeMap<String, String>,
    rules: Vec<Explained>,
}

/// The request as rules see it.
#[derive(Debug, Clone, Serialize)]
struct Shown {
    method: String,
    host: String,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_ip: Option<IpAddr>,
}

impl Report {
    /// What `explanation` says about `request`.
    pub fn new(
        request: &Attributes<'_>,
        explanation: Explanation,
        counters: Counters,
        options: AnswerOptions,
    ) -> Self {
        let answer = contract::answer(&explanation.decision, Endpoint::Check, options);
        let headers = answer.headers().iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.to_string(), value)
        });
        Self {
            request: Shown {
                method: request.method.to_owned(),
                host: request.host.clone().into_owned(),
                path: request.path.clone().into_owned(),
                client_ip: request.client_ip,
            },
            counters,
            admitted: answer.status() == http::StatusCode::OK,
            status: answer.status().as_u16(),
            headers: headers.collect(),
            rules: explanation.rules,
        }
    }

    /// As indented JSON.
    pub fn to_json(&self) -> String {
        // Plain data with text keys: serialising it cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// For people: a paragraph for each rule, then the verdict.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shown {
            method,
            host,
            path,
            client_ip,
        } = &self.request;
        write!(f, "{method} {host}{path}")?;
        match client_ip {
            Some(ip) => writeln!(f, " from {ip}")?,
            None => writeln!(f, " from no known address")?,
        }
        match &self.counters {
            Counters::Read(store) => writeln!(f, "counters as they stand in {store}")?,
            Counters::NotRead => writeln!(f, "counters not read: as if nobody had come yet")?,
            Counters::Failed(error) => writeln!(
                f,
                "counters cannot be read: {error}\nso this is as if nobody had come yet"
            )?,
        }
        writeln!(f)?;
        let width = self.rules.iter().map(|rule| rule.rule.len()).max();
        let width = width.unwrap_or(0).min(24);
        for rule in &self.rules {
            rule_text(f, rule, width)?;
        }
        let verdict = if self.admitted { "admitted" } else { "denied" };
        write!(f, "\n{verdict}: {}", self.status)?;
        for (name, value) in &self.headers {
            write!(f, "\n  {name}: {value}")?;
        }
        Ok(())
    }
}

fn rule_text(f: &mut fmt::Formatter<'_>, rule: &Explained, width: usize) -> fmt::Result {
    write!(f, "{:width$}  ", rule.rule)?;
    let shadow = match rule.mode {
        Mode::Shadow => " (shadow: denies nobody)",
        Mode::Enforce => "",
    };
    match &rule.fate {
        Fate::NotReached { ended_by } => writeln!(f, "not reached: {ended_by} ended the walk"),
        Fate::NoMatch { reason } => writeln!(f, "does not match: {reason}"),
        Fate::Allows => writeln!(f, "matches: allows it, and ends the walk"),
        Fate::Denies {
            reason,
            key,
            source,
        } => {
            let ends = match rule.mode {
                Mode::Enforce => ", and ends the walk",
                Mode::Shadow => "",
            };
            writeln!(f, "matches: denies it ({reason}){ends}{shadow}")?;
            detail(f, width, "key", key.as_deref().unwrap_or_default())?;
            detail(f, width, "from", source.as_deref().unwrap_or_default())
        }
        Fate::Skips { key } => {
            writeln!(f, "matches: skips it, which lacks a part of the key")?;
            detail(f, width, "key", key)
        }
        Fate::Unlimited { key, source } => {
            writeln!(f, "matches: unlimited{shadow}")?;
            detail(f, width, "key", key)?;
            detail(f, width, "from", source)
        }
        Fate::Counts(counts) => {
            let fits = counts
                .limits
                .iter()
                .chain(&counts.ban)
                .all(|limit| limit.fits);
            let verdict = if fits { "has room" } else { "denies it" };
            writeln!(f, "matches: {verdict}{shadow}")?;
            counts_text(f, counts, width)
        }
    }
}

fn counts_text(f: &mut fmt::Formatter<'_>, counts: &Counts, width: usize) -> fmt::Result {
    detail(f, width, "key", &counts.key)?;
    // A part without a value stands alone.
    if !counts.key.is_empty() && counts.key.split(',').any(|part| !part.contains('=')) {
        detail(
            f,
            width,
            "",
            "a part is missing: all who lack it share these counters",
        )?;
    }
    if counts.source != "rule" {
        detail(f, width, "from", &counts.source)?;
    }
    if counts.cost != 1 {
        detail(f, width, "cost", &counts.cost.to_string())?;
    }
    for limit in &counts.limits {
        let Standing {
            name,
            rate,
            algorithm,
            left,
            left_after,
            ..
        } = limit;
        let room = match limit.wait_us {
            None if left_after == left => format!("{left} left"),
            None => format!("{left} left, {left_after} after this request"),
            Some(wait) => format!("{left} left: does not fit for {}", wait_text(wait)),
        };
        detail(
            f,
            width,
            "limit",
            &format!("{name}: {rate}, {algorithm}: {room}"),
        )?;
        stored_text(f, limit, width)?;
    }
    if let Some(ban) = &counts.ban {
        let Standing {
            name, rate, left, ..
        } = ban;
        let stands = match (ban.wait_us, left) {
            (None, 1) => "not banned, 1 denial to go".to_owned(),
            (None, _) => format!("not banned, {left} denials to go"),
            (Some(_), 1) => "not banned, and this request would begin it".to_owned(),
            (Some(wait), _) => format!("banned for {}", wait_text(wait)),
        };
        detail(f, width, "ban", &format!("{name}: {rate}: {stands}"))?;
        stored_text(f, ban, width)?;
    }
    Ok(())
}

fn stored_text(f: &mut fmt::Formatter<'_>, standing: &Standing, width: usize) -> fmt::Result {
    let Standing {
        stored_as, stored, ..
    } = standing;
    let stored = match stored {
        Some(text) => format!("{text:?}"),
        None => "nothing yet".to_owned(),
    };
    detail(f, width, "", &format!("{stored_as} = {stored}"))
}

/// A line under a rule; none if there is nothing to say.
fn detail(f: &mut fmt::Formatter<'_>, width: usize, what: &str, text: &str) -> fmt::Result {
    if text.is_empty() {
        return Ok(());
    }
    writeln!(f, "{:width$}    {what:<6} {text}", "")
}

/// In whole seconds, rounded up, as `Retry-After` is.
fn wait_text(us: u64) -> String {
    span_text(us.div_ceil(1_000_000) * 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(target: &str) -> Question {
        Question {
            method: get(),
            target: target.to_owned(),
            host: None,
            ip: None,
            headers: BTreeMap::new(),
        }
    }

    #[test]
    fn a_path_or_a_whole_url() {
        let seen = |target: &str| {
            let asked = question(target).checked().unwrap();
            let request = asked.attributes();
            format!("{} {} {}", request.host, request.path, request.query)
        };
        assert_eq!(seen("/a/../b?x=1"), " /b x=1");
        assert_eq!(
            seen("https://API.example.com:8443/b?x=1"),
            "api.example.com /b x=1"
        );
        assert_eq!(seen("http://example.com"), "example.com / ");
        assert_eq!(seen("http://user:pw@example.com/p"), "example.com /p ");
        assert_eq!(seen("/a?next=http://x/"), " /a next=http://x/");
        let with_host = Question {
            headers: [("Host".to_owned(), Lines::One("h.example.com".to_owned()))].into(),
            ..question("/")
        };
        assert_eq!(
            with_host.checked().unwrap().attributes().host,
            "h.example.com"
        );
    }

    #[test]
    fn what_cannot_be_asked_is_said() {
        let error = |question: Question| question.checked().unwrap_err().to_string();
        assert!(error(question("data")).contains("\"data\" is not a path"));
        let method = Question {
            method: "G T".to_owned(),
            ..question("/")
        };
        assert!(error(method).contains("is not a method"));
        let host = Question {
            host: Some("a\u{1b}b".to_owned()),
            ..question("/")
        };
        assert!(error(host).contains("is not a host"));
        let ip = |text: &str| Question {
            ip: Some(text.to_owned()),
            ..question("/")
        };
        assert!(error(ip("here")).contains("is not an address"));
        let mapped = ip("::ffff:10.0.0.1").checked().unwrap();
        assert_eq!(mapped.attributes().client_ip, "10.0.0.1".parse().ok());
        for (name, value, expected) in [
            ("a b", "x", "not the name of a header"),
            ("a", "x\ny", "cannot have this value"),
        ] {
            let bad = Question {
                headers: [(name.to_owned(), Lines::One(value.to_owned()))].into(),
                ..question("/")
            };
            assert!(error(bad).contains(expected));
        }
        assert!(parse_header("no colon").is_err());
        assert_eq!(
            parse_header("X-Api-Key:  a:b ").unwrap(),
            ("x-api-key".to_owned(), "a:b".to_owned())
        );
    }
}
