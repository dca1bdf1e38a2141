//! `tollgate explain`: what would be decided about a request, and why.

use std::collections::BTreeMap;

use clap::Args;

use super::{
    failure::Failure,
    output::{Format, print},
    redis::RedisArgs,
    rules::{self, RulesArg},
};
use crate::{
    clock::{Clock as _, SystemClock},
    contract::AnswerOptions,
    engine::trace::{self, ExplainRequest},
    explain::{Counters, ExplainReport, InvalidQuery, Lines, Query, parse_header},
    problem::Problem,
    store::{
        StoreError,
        read::{Read, Untouched},
        redis::Reader,
    },
};

/// Options of `tollgate explain`.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The method, like GET
    #[arg(value_name = "METHOD")]
    method: String,

    /// Path and query, or a whole URL
    #[arg(value_name = "PATH")]
    target: String,

    /// A header as the proxy would forward it, like 'x-api-key: k'; can be repeated
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,

    /// The client's address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,

    /// The client's host [default: the URL's]
    #[arg(long, value_name = "HOST")]
    host: Option<String>,

    #[command(flatten)]
    rules: RulesArg,

    #[command(flatten)]
    redis: RedisArgs,

    /// The output format
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) async fn run(args: ExplainArgs) -> Result<(), Failure> {
    let ExplainArgs {
        method,
        target,
        headers,
        ip,
        host,
        rules,
        redis,
        format,
    } = args;
    let query = Query {
        method,
        target,
        host,
        ip,
        headers: header_lines(&headers)?,
    };
    let query = query.checked().map_err(usage)?;
    let set = rules::load_or_fail(&rules.rules, &redis.keys())?;
    let request = query
        .attributes(set.paths)
        .map_err(|refusal| Failure::Runtime(refusal.explained().into()))?;
    let reader = match redis.options().map_err(Failure::Usage)? {
        Some(options) => Some(Reader::new(&options).map_err(Failure::Usage)?),
        None => None,
    };
    let now_us = SystemClock::new().now_us();
    let untouched = Untouched { now_us };
    let (counters, source): (&dyn Read, _) = match &reader {
        Some(reader) => (reader, Counters::Read("redis")),
        None => (&untouched, Counters::NotRead),
    };
    let explained = ExplainRequest {
        set: &set,
        request: &request,
        now_us,
        shows_values: true,
    };
    let (explanation, error) = trace::explain(&explained, counters).await;
    if let Some(error) = error {
        return Err(Failure::Runtime(unreadable(&error).into()));
    }
    let report = ExplainReport::new(&request, explanation, source, AnswerOptions::default());
    match format {
        Format::Text => print(&report.to_string()),
        Format::Json => print(&report.to_json()),
    }
}

/// The lines of each header, in the order of the command line.
pub(super) fn header_lines(headers: &[String]) -> Result<BTreeMap<String, Lines>, Failure> {
    let mut lines: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for header in headers {
        let (name, value) = parse_header(header).map_err(usage)?;
        lines.entry(name).or_default().push(value);
    }
    let lines = lines.into_iter();
    Ok(lines
        .map(|(name, lines)| (name, Lines::Many(lines)))
        .collect())
}

fn usage(error: InvalidQuery) -> Failure {
    Failure::Usage(error.into())
}

fn unreadable(error: &StoreError) -> Problem {
    let hint = match error {
        // Redis was reached, and the error says what to do.
        StoreError::Refused(_) | StoreError::Malformed(_) => "",
        _ => "check --redis-url (REDIS_URL); without it, explain takes all limits as unused",
    };
    Problem::new(
        format!("the counters in Redis cannot be read: {error}"),
        hint,
    )
}
