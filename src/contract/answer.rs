//! Turns a decision into the response that a proxy understands.
//!
//! * `RateLimit` and `RateLimit-Policy`: draft-ietf-httpapi-ratelimit-headers-11, as RFC 9651 lists
//!   with one member per limit. `t` is the time until more is left; in a denial it equals
//!   `Retry-After`.
//! * The body of a denial is `application/problem+json` (RFC 9457) with the draft's
//!   `quota-exceeded` type; for a ban, its `abnormal-usage-detected`.
//! * Exactly 200 admits: Envoy takes 204 for a denial.

use std::io::{self, Write as _};

use http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{fault::Fault, refusal::Refusal};
use crate::{
    engine::{Decision, Quota, Verdict},
    jitter,
    metrics::Contract as Endpoint,
    rules::answer::{Body, Facts, Json},
    wire::Response,
};

/// The rule that decided.
const X_TOLLGATE_RULE: &str = "x-tollgate-rule";
/// The limit that denied.
const X_TOLLGATE_LIMIT: &str = "x-tollgate-limit";
const PROBLEM_JSON: &str = "application/problem+json";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";
const ABNORMAL_USAGE: &str =
    "https://iana.org/assignments/http-problem-types#abnormal-usage-detected";

/// What responses carry beyond the standard.
#[derive(Debug, Clone, Copy, Default)]
pub struct AnswerOptions {
    /// Also send `X-RateLimit-Limit`, `-Remaining` and `-Reset` (seconds), which older clients
    /// know.
    pub legacy_headers: bool,
}

/// The body of a denial.
#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(rename = "violated-policies", skip_serializing_if = "<[_]>::is_empty")]
    violated_policies: &'a [&'a str],
    #[serde(rename = "retry-after", skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

/// The response to a check. A HEAD check gets only the headers, with the length of the body.
pub fn answer(decision: &Decision<'_>, endpoint: Endpoint, options: AnswerOptions) -> Response {
    let mut response = match decision.verdict {
        Verdict::Allowed => Response::new(StatusCode::OK),
        Verdict::Limited { retry_after_us } | Verdict::Banned { retry_after_us } => {
            let jitter = decision
                .answer
                .as_ref()
                .map_or(0, |answer| jitter::up_to(answer.retry_after_jitter_us));
            // A client that comes back too early is only denied again: round up, and never say 0.
            let retry_after = seconds(retry_after_us + jitter).max(1);
            denied(decision, endpoint, Some(retry_after))
        }
        Verdict::Forbidden => denied(decision, endpoint, None),
        Verdict::Unavailable => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "the rate limiter cannot decide at the moment",
            decision.rule.as_deref(),
        ),
    };
    describe(&mut response, decision, options);
    response
}

/// Adds the headers that say which rule decided and what is left of its limits.
fn describe(response: &mut Response, decision: &Decision<'_>, options: AnswerOptions) {
    if let Some(rule) = &decision.rule {
        response.set(X_TOLLGATE_RULE, &**rule);
    }
    let quotas = &decision.quotas;
    if decision.verdict != Verdict::Allowed
        && let Some(denied) = quotas.first()
    {
        response.set(X_TOLLGATE_LIMIT, &*denied.name);
    }
    let Some(nearest) = quotas.iter().min_by_key(|quota| quota.remaining) else {
        return;
    };
    response.write("ratelimit-policy", |out| {
        joined(out, quotas, |out, quota| {
            out.write_all(quota.policy.as_bytes())
        })
    });
    response.write("ratelimit", |out| {
        joined(out, quotas, |out, quota| {
            let (name, remaining) = (&quota.name, quota.remaining);
            let wait = seconds(quota.wait_us);
            write!(out, "\"{name}\";r={remaining};t={wait}")
        })
    });
    if options.legacy_headers {
        legacy(response, nearest);
    }
}

/// The response to a check that cannot be understood: never a 4xx, which would reach clients as a
/// denial.
pub fn fault_answer(fault: &Fault) -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, fault.to_string(), None)
}

/// The response for a request that is refused before any rule is asked: a denial.
pub fn refusal_answer(refusal: &Refusal, endpoint: Endpoint) -> Response {
    let status = match endpoint {
        Endpoint::Check | Endpoint::Envoy => StatusCode::BAD_REQUEST,
        Endpoint::AuthRequest => StatusCode::FORBIDDEN,
    };
    problem(status, refusal.problem().message, None)
}

/// The response for a denied request, as the rule's answer or else as usual. `retry_after` is in
/// seconds, if waiting helps.
fn denied(decision: &Decision<'_>, endpoint: Endpoint, retry_after: Option<u64>) -> Response {
    let usual = match retry_after {
        Some(_) => StatusCode::TOO_MANY_REQUESTS,
        None => StatusCode::FORBIDDEN,
    };
    let custom = decision.answer.as_deref();
    let status = match endpoint {
        Endpoint::Check | Endpoint::Envoy => custom
            .and_then(|answer| StatusCode::from_u16(answer.status?).ok())
            .unwrap_or(usual),
        // nginx's auth_request passes on 401 and 403 only; anything else would become its 500.
        Endpoint::AuthRequest => StatusCode::FORBIDDEN,
    };
    let reached = decision.quotas.first();
    let facts = Facts {
        rule: decision.rule.as_deref().unwrap_or_default(),
        limit: reached.map_or("", |quota| &quota.name),
        rate: reached.map_or("", |quota| &quota.text),
        retry_after: retry_after.unwrap_or(0),
        status: status.as_u16(),
    };
    let (content_type, mut body) = match custom.and_then(|answer| answer.body.as_ref()) {
        Some(Body::Text(template)) => (TEXT, template.render(&facts).into_bytes()),
        Some(Body::Json(json)) => (JSON, to_vec(&json.filled(&facts))),
        Some(Body::Problem(members)) => (
            PROBLEM_JSON,
            to_vec(&with_members(
                usual_problem(decision, &facts),
                members,
                &facts,
            )),
        ),
        None => (PROBLEM_JSON, to_vec(&usual_problem(decision, &facts))),
    };
    if body.last().is_some_and(|byte| *byte != b'\n') {
        body.push(b'\n');
    }
    let mut response = Response::new(status).with_body(body);
    response.set("content-type", content_type);
    response.set("cache-control", "no-store");
    if let Some(seconds) = retry_after {
        response.write("retry-after", |out| write!(out, "{seconds}"));
    }
    for (name, template) in custom.into_iter().flat_map(|answer| &answer.headers) {
        response.set(name.as_str(), template.render(&facts));
    }
    response
}

/// The members of the usual problem, in order.
fn usual_problem(decision: &Decision<'_>, facts: &Facts<'_>) -> Map<String, Value> {
    let (kind, title, detail) = match (decision.verdict, decision.quotas.first()) {
        (Verdict::Limited { .. }, Some(quota)) => (
            QUOTA_EXCEEDED,
            "Too Many Requests",
            format!(
                "the limit {} of {} is reached; try again in {} s",
                quota.name, quota.text, facts.retry_after
            ),
        ),
        (Verdict::Banned { .. }, quota) => (
            ABNORMAL_USAGE,
            "Too Many Requests",
            format!(
                "banned after {}; try again in {} s",
                quota.map_or("too many denials", |quota| &quota.text),
                facts.retry_after
            ),
        ),
        (Verdict::Limited { .. }, None) => (
            QUOTA_EXCEEDED,
            "Too Many Requests",
            format!(
                "requests cannot be counted at the moment; try again in {} s",
                facts.retry_after
            ),
        ),
        _ => (
            "about:blank",
            "Forbidden",
            "requests like this are not admitted".to_owned(),
        ),
    };
    let problem = Problem {
        kind,
        title,
        status: facts.status,
        detail,
        rule: decision.rule.as_deref(),
        violated_policies: &decision
            .quotas
            .iter()
            .map(|quota| &*quota.name)
            .collect::<Vec<_>>(),
        retry_after: matches!(
            decision.verdict,
            Verdict::Limited { .. } | Verdict::Banned { .. }
        )
        .then_some(facts.retry_after),
    };
    match serde_json::to_value(problem) {
        Ok(Value::Object(members)) => members,
        // A struct with text keys is always an object.
        _ => Map::new(),
    }
}

fn with_members(
    mut problem: Map<String, Value>,
    members: &[(String, Json)],
    facts: &Facts<'_>,
) -> Map<String, Value> {
    for (name, json) in members {
        let value = serde_json::to_value(json.filled(facts)).unwrap_or_default();
        problem.insert(name.clone(), value);
    }
    problem
}

/// Plain data with text keys: serialising it cannot fail.
fn to_vec(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// A response that is about no limit: its problem has the title of its status.
fn problem(status: StatusCode, detail: impl Into<String>, rule: Option<&str>) -> Response {
    let mut body = to_vec(&Problem {
        kind: "about:blank",
        title: status.canonical_reason().unwrap_or_default(),
        status: status.as_u16(),
        detail: detail.into(),
        rule,
        violated_policies: &[],
        retry_after: None,
    });
    body.push(b'\n');
    let mut response = Response::new(status).with_body(body);
    response.set("content-type", PROBLEM_JSON);
    response.set("cache-control", "no-store");
    response
}

/// Writes one member of a list for each quota.
fn joined(
    out: &mut Vec<u8>,
    quotas: &[Quota<'_>],
    mut write: impl FnMut(&mut Vec<u8>, &Quota<'_>) -> io::Result<()>,
) -> io::Result<()> {
    for (index, quota) in quotas.iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        write(out, quota)?;
    }
    Ok(())
}

fn legacy(response: &mut Response, quota: &Quota<'_>) {
    for (name, value) in [
        ("x-ratelimit-limit", quota.amount),
        ("x-ratelimit-remaining", quota.remaining),
        ("x-ratelimit-reset", seconds(quota.wait_us)),
    ] {
        response.write(name, |out| write!(out, "{value}"));
    }
}

/// Whole seconds, rounded up.
fn seconds(us: u64) -> u64 {
    us.div_ceil(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::DecisionLabel;

    fn quota(name: &str, remaining: u64, wait_us: u64) -> Quota<'_> {
        Quota {
            name: name.into(),
            policy: format!("\"{name}\";q=5;w=60").into(),
            text: "5/m".into(),
            amount: 5,
            remaining,
            wait_us,
        }
    }

    fn decision(verdict: Verdict, quotas: Vec<Quota<'_>>) -> Decision<'_> {
        Decision {
            verdict,
            outcome: DecisionLabel::Allowed,
            rule: Some("data".into()),
            quotas: quotas.into(),
            answer: None,
            store: None,
        }
    }

    fn header<'a>(response: &'a Response, name: &str) -> &'a str {
        std::str::from_utf8(response.get(name).unwrap_or_default()).unwrap()
    }

    fn body(response: &Response) -> &str {
        std::str::from_utf8(response.body()).unwrap()
    }

    #[test]
    fn an_admission_is_200_with_one_member_for_each_limit_and_no_body() {
        let decision = decision(
            Verdict::Allowed,
            vec![quota("a/1s", 3, 36_500_000), quota("a/60s", 2, 1)],
        );
        let response = answer(&decision, Endpoint::Check, AnswerOptions::default());
        assert_eq!(response.status(), 200);
        assert_eq!(
            header(&response, "ratelimit"),
            "\"a/1s\";r=3;t=37, \"a/60s\";r=2;t=1"
        );
        assert_eq!(
            header(&response, "ratelimit-policy"),
            "\"a/1s\";q=5;w=60, \"a/60s\";q=5;w=60"
        );
        assert_eq!(header(&response, "x-tollgate-rule"), "data");
        assert_eq!(header(&response, "retry-after"), "");
        assert_eq!(header(&response, "x-ratelimit-limit"), "");
        assert_eq!(body(&response), "");
    }

    #[test]
    fn a_denial_says_when_and_why() {
        let decision = decision(
            Verdict::Limited {
                retry_after_us: 36_000_001,
            },
            vec![quota("data", 0, 36_000_001)],
        );
        let response = answer(
            &decision,
            Endpoint::Check,
            AnswerOptions {
                legacy_headers: true,
            },
        );
        assert_eq!(response.status(), 429);
        assert_eq!(header(&response, "retry-after"), "37");
        assert_eq!(header(&response, "ratelimit"), "\"data\";r=0;t=37");
        assert_eq!(
            header(&response, "content-type"),
            "application/problem+json"
        );
        assert_eq!(header(&response, "cache-control"), "no-store");
        assert_eq!(header(&response, "x-ratelimit-limit"), "5");
        assert_eq!(header(&response, "x-ratelimit-remaining"), "0");
        assert_eq!(header(&response, "x-ratelimit-reset"), "37");
        insta::assert_snapshot!(body(&response), @r#"{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Too Many Requests","status":429,"detail":"the limit data of 5/m is reached; try again in 37 s","rule":"data","violated-policies":["data"],"retry-after":37}"#);
    }

    #[test]
    fn retry_after_is_never_zero() {
        let decision = decision(Verdict::Limited { retry_after_us: 0 }, vec![]);
        assert_eq!(
            header(
                &answer(&decision, Endpoint::Check, AnswerOptions::default()),
                "retry-after"
            ),
            "1"
        );
    }

    #[test]
    fn auth_request_denies_with_403_and_the_same_headers() {
        let decision = decision(
            Verdict::Limited { retry_after_us: 1 },
            vec![quota("data", 0, 1)],
        );
        let response = answer(&decision, Endpoint::AuthRequest, AnswerOptions::default());
        assert_eq!(response.status(), 403);
        assert_eq!(header(&response, "retry-after"), "1");
        assert_eq!(header(&response, "ratelimit"), "\"data\";r=0;t=1");
    }

    #[test]
    fn not_knowing_is_503_and_never_4xx() {
        let unavailable = decision(Verdict::Unavailable, vec![]);
        for endpoint in [Endpoint::Check, Endpoint::Envoy, Endpoint::AuthRequest] {
            assert_eq!(
                answer(&unavailable, endpoint, AnswerOptions::default()).status(),
                503
            );
        }
        assert_eq!(fault_answer(&Fault::UnknownPath).status(), 503);
    }

    #[test]
    fn an_answer_without_a_limit_has_the_title_of_its_status() {
        let refused = |endpoint| refusal_answer(&Refusal::Method, endpoint);
        let unavailable = decision(Verdict::Unavailable, Vec::new());
        let unavailable = answer(&unavailable, Endpoint::Check, AnswerOptions::default());
        let mut told = String::new();
        for response in [
            refused(Endpoint::Check),
            refused(Endpoint::AuthRequest),
            fault_answer(&Fault::UnknownPath),
            unavailable,
        ] {
            assert_eq!(
                header(&response, "content-type"),
                "application/problem+json"
            );
            assert_eq!(header(&response, "cache-control"), "no-store");
            told += body(&response);
        }
        insta::assert_snapshot!(told, @r#"
        {"type":"about:blank","title":"Bad Request","status":400,"detail":"the request method is not a valid token"}
        {"type":"about:blank","title":"Forbidden","status":403,"detail":"the request method is not a valid token"}
        {"type":"about:blank","title":"Service Unavailable","status":503,"detail":"no check endpoint at this path\nhint: Envoy: set http_service.path_override: /v1/check (1.38 and later) or path_prefix: /v1/envoy; nginx: proxy_pass http://…/v1/check; others: point forward-auth to /v1/check"}
        {"type":"about:blank","title":"Service Unavailable","status":503,"detail":"the rate limiter cannot decide at the moment","rule":"data"}
        "#);
    }
}
