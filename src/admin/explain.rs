//! `/explain`: what would be decided about a request by the rules in force, and why.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header::ACCEPT};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body;
use tokio::time::timeout;

use super::answer::{Answer, BoxError};
use crate::{
    contract::AnswerOptions,
    engine::Engine,
    explain::{Counters, ExplainReport, Query},
    problem::Problem,
};

/// The longest query that is read, in bytes.
pub(super) const MAX_QUERY: usize = 128 * 1024;

/// How long a query may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a query looks like, for whoever sent something else.
const EXAMPLE: &str = r#"{"method":"GET","path":"/v1/items?page=2","host":"api.example.com","ip":"203.0.113.7","headers":{"x-api-key":"k"}}"#;

/// Explains the request that the body describes as JSON; as text for `Accept: text/plain`.
pub(super) async fn explain<B>(
    engine: &Engine,
    options: AnswerOptions,
    request: Request<B>,
) -> Answer
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let (parts, body) = request.into_parts();
    let accept = parts.headers.get(ACCEPT);
    let as_text = accept.is_some_and(|accept| accept.as_bytes().starts_with(b"text/plain"));
    let query = match read(body).await {
        Ok(query) => query,
        Err(refusal) => return refusal,
    };
    match report(engine, options, &query).await {
        Ok(report) if as_text => Answer::text(StatusCode::OK, format!("{report}\n")),
        Ok(report) => Answer::json(StatusCode::OK, report.to_json() + "\n"),
        Err(problem) => Answer::text(StatusCode::BAD_REQUEST, format!("{problem}\n")),
    }
}

/// The whole body, if it is not too long and does not take too long.
async fn read<B>(body: B) -> Result<Bytes, Answer>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let collected = Limited::new(body, MAX_QUERY).collect();
    let (status, text) = match timeout(PATIENCE, collected).await {
        Ok(Ok(query)) => return Ok(query.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => (
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a query has at most {MAX_QUERY} bytes\n"),
        ),
        Ok(Err(error)) => (
            StatusCode::BAD_REQUEST,
            format!("the query broke off: {error}\n"),
        ),
        Err(_) => (
            StatusCode::REQUEST_TIMEOUT,
            format!("the query did not arrive within {PATIENCE:?}\n"),
        ),
    };
    Err(Answer::text(status, text))
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
