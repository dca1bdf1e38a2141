//! `/explain`: what would be decided about a request by the rules in force, and why.

use http::{StatusCode, header::ACCEPT};

use super::answer;
use crate::{
    contract::AnswerOptions,
    engine::Engine,
    explain::{Counters, ExplainReport, Query},
    problem::Problem,
    wire::{Body, Request, Response},
};

/// The longest query that is read, in bytes.
pub(super) const MAX_QUERY: usize = 128 * 1024;

/// What a query looks like, for whoever sent something else.
const EXAMPLE: &str = r#"{"method":"GET","path":"/v1/items?page=2","host":"api.example.com","ip":"203.0.113.7","headers":{"x-api-key":"k"}}"#;

/// Explains the request that the body describes as JSON; as text for `Accept: text/plain`.
pub(super) async fn explain(
    engine: &Engine,
    options: AnswerOptions,
    request: &Request,
) -> Response {
    let accept = request.headers().get(&ACCEPT);
    let as_text = accept.is_some_and(|accept| accept.starts_with(b"text/plain"));
    let query = match request.body() {
        Body::Whole(query) => query,
        other => return answer::incomplete(other, MAX_QUERY),
    };
    match report(engine, options, query).await {
        Ok(report) if as_text => answer::text(StatusCode::OK, format!("{report}\n")),
        Ok(report) => answer::json(StatusCode::OK, report.to_json() + "\n"),
        Err(problem) => answer::text(StatusCode::BAD_REQUEST, format!("{problem}\n")),
    }
}

async fn report(
    engine: &Engine,
    options: AnswerOptions,
    query: &[u8],
) -> Result<ExplainReport, Problem> {
    let query: Query = serde_json::from_slice(query)
        .map_err(|error| Problem::new(format!("this is not a query: {error}"), EXAMPLE))?;
    let query = query.checked()?;
    let live = engine.live();
    let request = query
        .attributes(live.set.paths)
        .map_err(|refusal| refusal.explained())?;
    let (explanation, error) = engine.explain(&live, &request).await;
    let counters = match error {
        None => Counters::Read(engine.store_name()),
        Some(error) => Counters::Failed(error.to_string()),
    };
    Ok(ExplainReport::new(&request, explanation, counters, options))
}
