//! `tollgate explain`: what would be decided about a request, and why.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;

use super::{Failure, Format, serve::RedisArgs, validate};
use crate::{
    clock::{Clock as _, SystemClock},
    contract::AnswerOptions,
    engine,
    explain::{Counters, Lines, Question, Report, parse_header},
    store::{
        StoreError,
        reading::{Read, Untouched},
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

    /// The rule file
    #[arg(
        long,
        env = "TOLLGATE_RULES",
        value_name = "FILE",
        default_value = "config/rules.yaml"
    )]
    rules: PathBuf,

    #[command(flatten)]
    redis: RedisArgs,

    /// How the answer is printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) async fn run(args: ExplainArgs) -> Result<(), Failure> {
    let usage = |error: crate::explain::Unaskable| Failure::Usage(error.to_string());
    let mut lines: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in &args.headers {
        let (name, value) = parse_header(line).map_err(usage)?;
        lines.entry(name).or_default().push(value);
    }
    let headers = lines.into_iter();
    let headers = headers.map(|(name, lines)| (name, Lines::Many(lines)));
    let question = Question {
        method: args.method,
        target: args.target,
        host: args.host,
        ip: args.ip,
        headers: headers.collect(),
    };
    let asked = question.checked().map_err(usage)?;
    let hash_key = args.redis.hash_key();
    let set = validate::load_or_fail(&args.rules, &hash_key)?;
    let request = asked.attributes();
    let now_us = SystemClock::new().now_us();
    let reader = args
        .redis
        .options()
        .map(|options| Reader::new(&options))
        .transpose()
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let untouched = Untouched { now_us };
    let source: &dyn Read = match &reader {
        Some(reader) => reader,
        None => &untouched,
    };
    let asked = engine::explain::Asked {
        set: &set,
        request: &request,
        now_us,
        shows_values: true,
    };
    let (explanation, error) = engine::explain::explain(&asked, source).await;
    let counters = match (error, &reader) {
        (Some(error), _) => {
            return Err(Failure::Runtime(anyhow::anyhow!(
                "the counters in Redis cannot be read: {error}{}",
                match error {
                    StoreError::Refused(_) | StoreError::Malformed(_) => "",
                    _ =>
                        "\nhint: check --redis-url (REDIS_URL); without it, explain supposes that nobody has come yet",
                }
            )));
        }
        (None, Some(_)) => Counters::Read("redis"),
        (None, None) => Counters::NotRead,
    };
    let report = Report::new(&request, explanation, counters, AnswerOptions::default());
    match args.format {
        Format::Text => super::print(&report.to_string()),
        Format::Json => super::print(&report.to_json()),
    }
}
