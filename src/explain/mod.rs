//! `explain`: what would be decided about a request and why, for people and for programs.
//!
//! The command line and the admin port take a [`Query`] and return an [`ExplainReport`].

mod query;
mod text;

use std::{collections::BTreeMap, net::IpAddr};

use serde::Serialize;

pub use self::query::{InvalidQuery, Lines, Query, ValidQuery, parse_header};
use crate::{
    contract::{self, AnswerOptions, Endpoint},
    engine::trace::{Explained, Explanation},
    request::{Attributes, Scheme},
};

/// Where the counters of an explanation come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Counters {
    /// The store of this name: `redis` or `memory`.
    Read(&'static str),
    /// None were read; all limits are taken as unused.
    NotRead,
    /// They could not be read; all limits are taken as unused.
    Failed(String),
}

/// An explanation, ready to be shown.
#[derive(Debug, Clone, Serialize)]
pub struct ExplainReport {
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
    #[serde(skip_serializing_if = "Option::is_none")]
    scheme: Option<&'static str>,
    host: String,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_ip: Option<IpAddr>,
}

impl Shown {
    fn new(request: &Attributes<'_>) -> Self {
        // A new attribute must be shown here, or left out for a reason: query and headers may hold
        // secrets.
        let Attributes {
            method,
            scheme,
            host,
            path,
            // Named where it makes a difference.
            with_parameters: _,
            query: _,
            client_ip,
            headers: _,
        } = request;
        Self {
            method: method.clone().into_owned(),
            scheme: scheme.map(Scheme::as_str),
            host: host.clone().into_owned(),
            path: path.clone().into_owned(),
            client_ip: *client_ip,
        }
    }
}

impl ExplainReport {
    /// Builds the report of `explanation` about `request`.
    pub fn new(
        request: &Attributes<'_>,
        explanation: Explanation<'_>,
        counters: Counters,
        options: AnswerOptions,
    ) -> Self {
        let answer = contract::answer(&explanation.decision, Endpoint::Check, options);
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let headers = answer
            .fields()
            .map(|(name, value)| (text(name), text(value)));
        Self {
            request: Shown::new(request),
            counters,
            admitted: answer.status() == http::StatusCode::OK,
            status: answer.status().as_u16(),
            headers: headers.collect(),
            rules: explanation.rules,
        }
    }

    /// As indented JSON.
    pub fn to_json(&self) -> String {
        // This is plain data with text keys, so serialising it cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}
