//! `/counters/…`: the counters of callers, looked at and changed.

use std::{collections::BTreeMap, fmt::Write as _};

use http::StatusCode;
use serde::{Deserialize, Serialize};
use tracing::info;

use super::{access::Access, answer};
use crate::{
    engine::{
        Engine, Live,
        callers::{CallerError, CallerStatus, Change, Changed, MAX_GRANT, Who},
        listing::Filter,
    },
    explain::{Lines, Query},
    problem::Problem,
    rules::span::span_us,
    wire::{Body, Request, Response},
};

/// The longest question that is read, in bytes.
pub(super) const MAX_QUESTION: usize = 128 * 1024;

/// What a question looks like, for whoever sent something else.
const EXAMPLE: &str = r#"{"rule":"data","request":{"ip":"203.0.113.7","headers":{"x-api-key":"k"}}} or {"rule":"data","key":"client_ip=203.0.113.7"}"#;

/// Which caller of which rule, and what is to be changed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    /// The rule.
    rule: String,
    /// The caller, as keys and logs have it.
    key: Option<String>,
    /// What the caller sends.
    request: Option<Sent>,
    /// How many more are granted.
    more: Option<u64>,
    /// How long a ban lasts.
    #[serde(rename = "for")]
    lasts: Option<String>,
}

/// What a caller sends, as far as it is known.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sent {
    method: Option<String>,
    path: Option<String>,
    host: Option<String>,
    ip: Option<String>,
    headers: BTreeMap<String, Lines>,
}

impl From<Sent> for Query {
    fn from(sent: Sent) -> Self {
        let Sent {
            method,
            path,
            host,
            ip,
            headers,
        } = sent;
        Self {
            method: method.unwrap_or_else(|| "GET".to_owned()),
            target: path.unwrap_or_else(|| "/".to_owned()),
            host,
            ip,
            headers,
        }
    }
}

/// What is done to counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Get,
    Reset,
    Grant,
    Ban,
    Unban,
}

/// Lists counters, a page at a time.
///
/// Who looks at one caller has to know who that is. A list names all of them, so it needs what a
/// change needs.
pub(super) async fn list(engine: &Engine, access: &Access, request: &Request) -> Response {
    if let Err(refusal) = access.check(request) {
        return refusal;
    }
    let body = match whole(request) {
        Ok(body) => body,
        Err(response) => return response,
    };
    let filter = if body.is_empty() {
        Ok(Filter::default())
    } else {
        serde_json::from_slice(body)
    };
    let filter: Filter = match filter {
        Ok(filter) => filter,
        Err(error) => {
            let example = r#"{"rule":"data","near":80,"from":{"node":0,"cursor":17}}"#;
            return invalid(&Problem::new(
                format!("this is no filter: {error}"),
                example,
            ));
        }
    };
    match engine.list(&engine.live(), &filter).await {
        Ok(listed) => json(&listed),
        Err(error) => failed(&CallerError::Store(error)),
    }
}

/// Shows or changes the counters of one caller.
pub(super) async fn act(
    engine: &Engine,
    access: &Access,
    action: Action,
    request: &Request,
) -> Response {
    let by = match action {
        Action::Get => None,
        Action::Reset | Action::Grant | Action::Ban | Action::Unban => {
            match access.check(request) {
                Ok(name) => Some(name),
                Err(refusal) => return refusal,
            }
        }
    };
    let body = match whole(request) {
        Ok(body) => body,
        Err(response) => return response,
    };
    let question: Question = match serde_json::from_slice(body) {
        Ok(question) => question,
        Err(error) => {
            let message = format!("this names no caller: {error}");
            return invalid(&Problem::new(message, EXAMPLE));
        }
    };
    match answered(engine, action, question, by).await {
        Ok(response) => response,
        Err(error) => failed(&error),
    }
}

async fn answered(
    engine: &Engine,
    action: Action,
    question: Question,
    by: Option<String>,
) -> Result<Response, CallerError> {
    let Question {
        rule,
        key,
        request,
        more,
        lasts,
    } = question;
    if key.is_none() && request.is_none() {
        return Err(Problem::new("neither `key` nor `request` says which caller", EXAMPLE).into());
    }
    let change = change(action, more, lasts.as_deref())?;
    let query = Query::from(request.unwrap_or_default());
    let query = query.checked().map_err(Problem::from)?;
    let live = engine.live();
    let attributes = query
        .attributes(live.set.paths)
        .map_err(|refusal| refusal.explained())?;
    let who = Who {
        request: &attributes,
        key: key.as_deref(),
    };
    match change.zip(by) {
        None => Ok(json(&engine.caller(&live, &rule, who).await?)),
        Some((change, by)) => {
            let changed = change_by(engine, &live, (&rule, who), change, &by).await?;
            Ok(json(&changed))
        }
    }
}

/// Makes a change, and leaves a line about it.
async fn change_by(
    engine: &Engine,
    live: &Live,
    (rule, who): (&str, Who<'_>),
    change: Change,
    by: &str,
) -> Result<Changed, CallerError> {
    let changed = engine.change(live, rule, who, change).await;
    let action = change.name();
    match &changed {
        Ok(changed) => info!(
            target: "tollgate::audit",
            by,
            action,
            rule,
            key = changed.before.counts.key,
            before = in_short(&changed.before),
            after = in_short(&changed.after),
            unconfirmed = changed.unconfirmed,
            "counters changed"
        ),
        // It may have been made.
        Err(CallerError::Store(error)) => info!(
            target: "tollgate::audit",
            by,
            action,
            rule,
            key = who.key,
            %error,
            "counters may have been changed"
        ),
        Err(CallerError::Problem(_)) => {}
    }
    changed
}

/// `data: 0 of 5 left; login/ban: 3 left`.
fn in_short(status: &CallerStatus) -> String {
    let mut out = String::new();
    let counts = &status.counts;
    for limit in counts.limits.iter().chain(&counts.ban) {
        let separator = if out.is_empty() { "" } else { "; " };
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "{separator}{} {}: {} left",
            limit.name, limit.rate, limit.left
        );
    }
    out
}

/// The change that is asked for; `None` to look.
fn change(
    action: Action,
    more: Option<u64>,
    lasts: Option<&str>,
) -> Result<Option<Change>, Problem> {
    let refuse = |is_given: bool, name: &str| {
        if is_given {
            let message = format!("`{name}` does not belong here");
            return Err(Problem::new(
                message,
                "`more` is for grants, `for` is for bans",
            ));
        }
        Ok(())
    };
    refuse(more.is_some() && action != Action::Grant, "more")?;
    refuse(lasts.is_some() && action != Action::Ban, "for")?;
    Ok(Some(match action {
        Action::Get => return Ok(None),
        Action::Reset => Change::Reset,
        Action::Unban => Change::Unban,
        Action::Grant => match more {
            Some(more) if (1..=MAX_GRANT).contains(&more) => Change::Grant(more),
            _ => {
                let message = format!("a grant is of 1 to {MAX_GRANT} requests");
                let example = r#"say how many more, like "more": 10"#;
                return Err(Problem::new(message, example));
            }
        },
        Action::Ban => Change::Ban(match lasts {
            None => None,
            Some(text) => match span_us(text) {
                Ok(us) if us >= 1_000 => Some(us),
                _ => {
                    let message = format!("{text:?} is no length of time for a ban");
                    return Err(Problem::new(message, "write one like 10m or 2h"));
                }
            },
        }),
    }))
}

fn whole(request: &Request) -> Result<&[u8], Response> {
    match request.body() {
        Body::Whole(body) => Ok(body),
        other => Err(answer::incomplete(other, MAX_QUESTION)),
    }
}

fn failed(error: &CallerError) -> Response {
    match error {
        CallerError::Problem(problem) => invalid(problem),
        CallerError::Store(error) => answer::text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the store did not do it: {error}\n"),
        ),
    }
}

fn invalid(problem: &Problem) -> Response {
    answer::text(StatusCode::BAD_REQUEST, format!("{problem}\n"))
}

fn json(value: &impl Serialize) -> Response {
    // This is plain data with text keys, so serialising it cannot fail.
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    answer::json(StatusCode::OK, text + "\n")
}
