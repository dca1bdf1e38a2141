//! The response for a denied request: status, headers and body, with the facts of the denial filled
//! in.

use std::fmt;

use http::HeaderName;
use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};
use serde_json::Value;

use crate::problem::Problem;

/// The response for a denied request; what is `None` or empty stays as usual.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// The status, 400–499 or a redirection. Exactly 200 admits, and proxies take 5xx for a failure
    /// of ours.
    pub status: Option<u16>,
    /// Headers that are added to the usual ones, or replace them.
    pub headers: Vec<(HeaderName, Template)>,
    /// The body.
    pub body: Option<Body>,
    /// The most microseconds added to `Retry-After` at random, so that the clients of a burst do
    /// not all come back at once.
    pub retry_after_jitter_us: u64,
}

/// A body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// `text/plain`.
    Text(Template),
    /// `application/json`.
    Json(Json),
    /// `application/problem+json` (RFC 9457): these members replace the usual ones, or follow them.
    Problem(Vec<(String, Json)>),
}

/// The facts of a denial.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The rule that denied.
    pub rule: &'a str,
    /// The limit that was reached, as in `RateLimit`; empty if none was.
    pub limit: &'a str,
    /// That limit as the rule file says it; empty if none was.
    pub rate: &'a str,
    /// Seconds until a retry may succeed; 0 if waiting does not help.
    pub retry_after: u64,
    /// The status of the response.
    pub status: u16,
}

/// A text with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Fact(Fact),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fact {
    Rule,
    Limit,
    Rate,
    RetryAfter,
    Status,
}

impl Fact {
    const NAMES: [(&'static str, Self); 5] = [
        ("rule", Self::Rule),
        ("limit", Self::Limit),
        ("rate", Self::Rate),
        ("retry_after", Self::RetryAfter),
        ("status", Self::Status),
    ];

    /// What may be written in braces, for messages.
    const PLACES: &'static str =
        "{rule}, {limit}, {rate}, {retry_after} or {status}; write {{ or }} for a literal brace";

    fn parse(name: &str) -> Result<Self, Problem> {
        if let Some((_, fact)) = Self::NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(*fact);
        }
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"_-. ".contains(&b);
        Err(if name.bytes().all(is_plain) {
            Problem::new(
                format!("{{{name}}} is not known"),
                format!("write {}", Self::PLACES),
            )
        } else {
            Problem::new(
                "braces contain one name, but these contain more",
                "for JSON, use `json`; write {{ or }} for a literal brace",
            )
        })
    }
}

impl Template {
    /// Parses `{name}` as a placeholder, `{{` and `}}` as braces.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let tail = &rest[at..];
            if tail.starts_with("{{") || tail.starts_with("}}") {
                plain.push_str(&tail[..1]);
                rest = &tail[2..];
                continue;
            }
            let inner = tail.strip_prefix('{').and_then(|tail| tail.split_once('}'));
            let Some((name, after)) = inner else {
                return Err(Problem::new(
                    format!("there is a single brace in {text:?}"),
                    format!("write {}", Fact::PLACES),
                ));
            };
            let fact = Fact::parse(name)?;
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Fact(fact));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }

    /// The text with `facts` filled in.
    pub fn render(&self, facts: &Facts<'_>) -> String {
        Filled(self, facts).to_string()
    }

    /// The number, if the text is nothing but one number.
    fn number(&self, facts: &Facts<'_>) -> Option<u64> {
        match self.0[..] {
            [Piece::Fact(Fact::RetryAfter)] => Some(facts.retry_after),
            [Piece::Fact(Fact::Status)] => Some(u64::from(facts.status)),
            _ => None,
        }
    }
}

struct Filled<'a>(&'a Template, &'a Facts<'a>);

impl fmt::Display for Filled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Template(pieces), facts) = self;
        for piece in pieces {
            match piece {
                Piece::Text(text) => f.write_str(text)?,
                Piece::Fact(Fact::Rule) => f.write_str(facts.rule)?,
                Piece::Fact(Fact::Limit) => f.write_str(facts.limit)?,
                Piece::Fact(Fact::Rate) => f.write_str(facts.rate)?,
                Piece::Fact(Fact::RetryAfter) => write!(f, "{}", facts.retry_after)?,
                Piece::Fact(Fact::Status) => write!(f, "{}", facts.status)?,
            }
        }
        Ok(())
    }
}

/// JSON whose texts are templates. A text that is nothing but `{retry_after}` or `{status}` becomes
/// a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    /// A value without placeholders.
    Plain(Value),
    /// A text.
    Text(Template),
    /// A list.
    List(Vec<Json>),
    /// An object, in the order of the rule file.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// This JSON with `facts` filled in, to be serialised.
    pub fn filled<'a>(&'a self, facts: &'a Facts<'a>) -> impl Serialize + 'a {
        FilledJson(self, facts)
    }
}

struct FilledJson<'a>(&'a Json, &'a Facts<'a>);

impl Serialize for FilledJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(json, facts) = self;
        match json {
            Json::Plain(value) => value.serialize(serializer),
            Json::Text(template) => match template.number(facts) {
                Some(number) => serializer.serialize_u64(number),
                None => serializer.collect_str(&Filled(template, facts)),
            },
            Json::List(items) => {
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    seq.serialize_element(&FilledJson(item, facts))?;
                }
                seq.end()
            }
            Json::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (name, value) in members {
                    map.serialize_entry(name, &FilledJson(value, facts))?;
                }
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts<'_> = Facts {
        rule: "login",
        limit: "login/60s",
        rate: "5/m",
        retry_after: 37,
        status: 429,
    };

    #[test]
    fn templates_are_filled_in() {
        let render = |text: &str| Template::parse(text).unwrap().render(&FACTS);
        assert_eq!(
            render("{rule}: {limit} ({rate}), {retry_after} s, {status}"),
            "login: login/60s (5/m), 37 s, 429"
        );
        assert_eq!(render("{{rule}} {{{rule}}}"), "{rule} {login}");
        assert_eq!(render(""), "");
    }

    #[test]
    fn an_invalid_template_is_refused() {
        for (text, expected) in [
            ("{who}", "{who} is not known"),
            ("{}", "{} is not known"),
            ("{rule", "a single brace"),
            ("a } b", "a single brace"),
        ] {
            let error = Template::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(error.contains("\nhint: "), "{error}");
        }
    }

    #[test]
    fn texts_within_json_are_escaped_and_numbers_stay_numbers() {
        let text = |text: &str| Json::Text(Template::parse(text).unwrap());
        let json = Json::Object(vec![
            ("z".to_owned(), text("\"{rule}\"\n")),
            ("a".to_owned(), text("{retry_after}")),
            (
                "list".to_owned(),
                Json::List(vec![text("{status}!"), Json::Plain(Value::Null)]),
            ),
        ]);
        assert_eq!(
            serde_json::to_string(&json.filled(&FACTS)).unwrap(),
            r#"{"z":"\"login\"\n","a":37,"list":["429!",null]}"#
        );
    }
}
