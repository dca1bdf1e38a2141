//! Compiles `answer`: the response for a denied request.

use std::sync::Arc;

use http::{
    HeaderName, HeaderValue,
    header::{CONNECTION, CONTENT_LENGTH, LOCATION, TRANSFER_ENCODING, UPGRADE},
};

use super::{Compiler, value};
use crate::{
    rulefile::{
        decode::Field,
        model,
        yaml::{FieldPath, describe},
    },
    rules::answer::{Answer, Body, Facts, Json, Template},
};

/// Headers that frame the response belong to the server.
const FRAMING: [HeaderName; 4] = [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, UPGRADE];

/// The longest jitter: with more, clients would wait for nothing.
const MAX_JITTER_US: u64 = 3_600_000_000;

impl Compiler<'_, '_> {
    /// The answer in `field`, completed from `defaults`.
    pub(super) fn answer(
        &self,
        field: Option<&Field<model::Answer>>,
        defaults: &Arc<Answer>,
    ) -> Arc<Answer> {
        let Some((field, given)) = field.and_then(|field| Some((field, field.value.as_ref()?)))
        else {
            return Arc::clone(defaults);
        };
        let mut answer = Answer::clone(defaults);
        if let Some(status) = self.status(given.status.as_ref()) {
            answer.status = Some(status);
        }
        for (name, value) in self.headers(given) {
            answer.headers.retain(|(known, _)| *known != name);
            answer.headers.push((name, value));
        }
        if let Some(body) = self.body(field, given) {
            answer.body = Some(body);
        }
        if let Some(field) = &given.retry_after_jitter
            && let Some(jitter) = field.value
        {
            if jitter.0 > MAX_JITTER_US {
                self.error(
                    field,
                    "the jitter is longer than an hour",
                    "write 1h, or less",
                );
            }
            answer.retry_after_jitter_us = jitter.0;
        }
        let location = |(name, _): &(HeaderName, Template)| *name == LOCATION;
        if answer.status.is_some_and(|status| status < 400) && !answer.headers.iter().any(location)
        {
            self.error(
                field,
                "a redirection without the header `location` leads nowhere",
                "add it, like headers: { location: /slow-down }",
            );
        }
        Arc::new(answer)
    }

    fn status(&self, field: Option<&Field<u64>>) -> Option<u16> {
        let field = field?;
        let status = field.value?;
        let (message, hint) = match status {
            301 | 302 | 303 | 307 | 308 | 400..=499 => return u16::try_from(status).ok(),
            200..=299 => (
                format!("{status} is not a denial"),
                "to let these requests pass, write `action: allow`",
            ),
            500..=599 => (
                format!(
                    "to a proxy, {status} means that tollgate failed, and the proxy may let the request through"
                ),
                "write a 4xx like 429",
            ),
            _ => (
                format!("{status} is not a status that denies"),
                "write a 4xx like 429",
            ),
        };
        self.error(field, message, hint);
        None
    }

    fn headers(&self, answer: &model::Answer) -> Vec<(HeaderName, Template)> {
        let mut out = Vec::new();
        for (name, field) in value(answer.headers.as_ref()).into_iter().flatten() {
            let Some(text) = field.value.as_deref() else {
                continue;
            };
            let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
                self.problems.error_at_name(
                    &self.path(field),
                    format!("{name:?} is not the name of a header"),
                    "write it like x-reason",
                );
                continue;
            };
            if FRAMING.contains(&header) {
                self.problems.error_at_name(
                    &self.path(field),
                    format!("{name} is the server's own"),
                    "remove it",
                );
                continue;
            }
            match Template::parse(text) {
                Err(problem) => self.report(field, problem),
                Ok(template) if HeaderValue::try_from(template.render(&SAMPLE)).is_err() => self
                    .error(
                        field,
                        "the value of a header is one line of printable characters",
                        "remove line breaks and control characters",
                    ),
                Ok(template) => out.push((header, template)),
            }
        }
        out
    }

    fn body(&self, field: &Field<model::Answer>, answer: &model::Answer) -> Option<Body> {
        let bodies = [
            answer.text.is_some(),
            answer.json.is_some(),
            answer.problem.is_some(),
        ];
        if bodies.into_iter().filter(|given| *given).count() > 1 {
            self.error(
                field,
                "the answer has more than one body",
                "keep one of `text`, `json` and `problem`",
            );
            return None;
        }
        if let Some(field) = &answer.text {
            return match Template::parse(field.value.as_deref()?) {
                Ok(template) => Some(Body::Text(template)),
                Err(problem) => {
                    self.report(field, problem);
                    None
                }
            };
        }
        if let Some(field) = &answer.json {
            let path = self.path(field);
            return self.json(field.value.as_ref()?, &path).map(Body::Json);
        }
        let field = answer.problem.as_ref()?;
        let path = self.path(field);
        let value = serde_yaml::Value::Mapping(field.value.clone()?);
        match self.json(&value, &path)? {
            Json::Object(members) => Some(Body::Problem(members)),
            _ => None,
        }
    }

    fn json(&self, value: &serde_yaml::Value, path: &FieldPath) -> Option<Json> {
        use serde_yaml::Value;
        match value {
            Value::String(text) => match Template::parse(text) {
                Ok(template) => Some(Json::Text(template)),
                Err(problem) => {
                    self.problems.error(path, problem.message, problem.hint);
                    None
                }
            },
            Value::Sequence(items) => items
                .iter()
                .enumerate()
                .map(|(index, item)| self.json(item, &path.index(index)))
                .collect::<Option<_>>()
                .map(Json::List),
            Value::Mapping(members) => {
                let mut out = Vec::with_capacity(members.len());
                for (name, value) in members {
                    let Some(name) = name.as_str() else {
                        self.problems.error(
                            path,
                            format!("the name of a member is a text, not {}", describe(name)),
                            "quote it",
                        );
                        return None;
                    };
                    let at = path.key(name);
                    out.push((name.to_owned(), self.json(value, &at)?));
                }
                Some(Json::Object(out))
            }
            plain => {
                // JSON has neither infinities nor NaN, and would write null.
                let is_finite = plain.as_f64().is_none_or(f64::is_finite);
                let value = serde_json::to_value(plain).ok().filter(|_| is_finite);
                if value.is_none() {
                    self.problems.error(
                        path,
                        format!("JSON cannot hold {}", describe(plain)),
                        "write it as text",
                    );
                }
                value.map(Json::Plain)
            }
        }
    }
}

/// Names and rates hold nothing that a header could not, so one rendering shows whether all can be
/// sent.
const SAMPLE: Facts<'_> = Facts {
    rule: "rule",
    limit: "rule/60s",
    rate: "5/m",
    retry_after: 60,
    status: 429,
};
