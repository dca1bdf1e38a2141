//! `tollgate serve`: the options, and what they mean together.

#![expect(
    clippy::doc_markdown,
    reason = "doc comments of options are their help texts"
)]

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args, ValueEnum, builder::NonEmptyStringValueParser};

use super::{
    failure::Failure,
    redis::{ANSWER_TIMEOUT, RedisArgs},
    rules::{self, RulesArg},
    runtime::{LogFormat, block_on_threads, start_logging},
};
use crate::{
    app::{self, Settings, StoreSettings},
    contract::AnswerOptions,
    engine::{self, NearLimit},
    problem::Problem,
    rules::span::span_us,
    server::{self, ListenAddr},
    store::redis,
    traces,
};

/// Options of `serve`. Each can be given as a flag or by its environment variable.
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    rules: RulesArg,

    /// The check port, for proxies: HOST:PORT or unix:/path
    #[arg(
        long,
        env = "TOLLGATE_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8081"
    )]
    listen: ListenAddr,

    /// The admin port (/livez /readyz /metrics /rules /explain /counters): HOST:PORT or unix:/path
    #[arg(
        long,
        env = "TOLLGATE_ADMIN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8082"
    )]
    admin: ListenAddr,

    /// The file with the tokens of those who may change counters, one `NAME TOKEN` in a line, read
    /// for each change [default: none, and changes only from this machine]
    #[arg(long, env = "TOLLGATE_ADMIN_TOKENS", value_name = "FILE")]
    admin_tokens: Option<PathBuf>,

    /// Where counters are kept [default: redis if --redis-url is given, else memory]
    #[arg(long, env = "TOLLGATE_STORE", value_name = "STORE")]
    store: Option<StoreKind>,

    #[command(flatten)]
    redis: RedisArgs,

    /// Connections to Redis that carry checks, for each thread
    #[arg(long, env = "TOLLGATE_REDIS_LANES", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    redis_lanes: u16,

    /// The most checks in one script call; 1: each by itself
    #[arg(long, env = "TOLLGATE_REDIS_BATCH", value_name = "N", default_value_t = redis::BATCH, value_parser = batch)]
    redis_batch: usize,

    /// The longest that a check waits for Redis; less if the proxy waits less
    #[arg(long, env = "TOLLGATE_DEADLINE", value_name = "TIME", default_value = "50ms", value_parser = duration)]
    deadline: Duration,

    /// The fewest replicas that on_store_error: local divides limits among; more are counted by
    /// their heartbeats in Redis
    #[arg(long, env = "TOLLGATE_REPLICAS", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    replicas: u64,

    /// Deny without asking Redis for as long as a denial holds, at most a second
    #[arg(long, env = "TOLLGATE_REMEMBER_DENIALS", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, default_value_t = true, default_missing_value = "true")]
    remember_denials: bool,

    /// The most counters in memory (up to 150 bytes each); when full, clients share one per limit
    #[arg(long, env = "TOLLGATE_MAX_KEYS", value_name = "N", default_value_t = 250_000, value_parser = clap::value_parser!(u64).range(1..))]
    max_keys: u64,

    /// Threads that serve checks [default: the cores that the process may use]
    #[arg(long, env = "TOLLGATE_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// The most connections from proxies; more are closed at once
    #[arg(long, env = "TOLLGATE_MAX_CONNECTIONS", value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32,

    /// The memory for checks being read and answered, in MB; when it is used up, others wait
    #[arg(long, env = "TOLLGATE_MAX_REQUEST_MEMORY", value_name = "MB", default_value_t = 24, value_parser = clap::value_parser!(u32).range(4..))]
    max_request_memory: u32,

    /// The longest that a proxy may take to send the head of a check
    #[arg(long, env = "TOLLGATE_HEADER_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = duration)]
    header_timeout: Duration,

    /// How long an unused connection is kept; longer than any proxy keeps it (Envoy: 1 hour)
    #[arg(long, env = "TOLLGATE_IDLE_TIMEOUT", value_name = "TIME", default_value = "75m", value_parser = duration)]
    idle_timeout: Duration,

    /// How long a shutdown waits for checks in progress
    #[arg(long, env = "TOLLGATE_DRAIN_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = duration)]
    drain_timeout: Duration,

    /// Also send X-RateLimit-Limit, -Remaining and -Reset
    #[arg(long, env = "TOLLGATE_LEGACY_HEADERS", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    legacy_headers: bool,

    /// The share of a limit from which on it counts as nearly reached, in metrics
    #[arg(long, env = "TOLLGATE_NEAR_LIMIT", value_name = "PERCENT", default_value_t = NearLimit::default())]
    near_limit: NearLimit,

    /// Which decisions are logged
    #[arg(long, env = "TOLLGATE_LOG_DECISIONS", value_name = "WHICH", value_enum, default_value_t = LogDecisions::Denied)]
    log_decisions: LogDecisions,

    /// The most decisions logged per second; the next line says how many were left out
    #[arg(long, env = "TOLLGATE_LOG_DECISIONS_RATE", value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    log_decisions_rate: u32,

    /// The collector of OpenTelemetry that traces of checks are sent to (OTLP over HTTP), like
    /// http://collector:4318 [default: none, and no traces]
    #[arg(long, env = "TOLLGATE_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<traces::Endpoint>,

    /// The share of checks that begin a trace, of those whose proxy has none: 0 to 1
    #[arg(long, env = "TOLLGATE_TRACE_RATIO", value_name = "SHARE", default_value_t = 0.0, value_parser = ratio)]
    trace_ratio: f64,

    /// The format of log lines
    #[arg(long, env = "TOLLGATE_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// What is logged: error, warn, info, debug or trace, or a filter like info,tollgate=debug
    #[arg(long, env = "TOLLGATE_LOG_LEVEL", value_name = "LEVEL", default_value = "info", value_parser = NonEmptyStringValueParser::new())]
    log_level: String,
}

/// Where counters are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StoreKind {
    /// In this process: for one replica, or to try it out
    Memory,
    /// In Redis: shared by all replicas
    Redis,
}

/// Which decisions are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogDecisions {
    /// None
    None,
    /// Denials, including those of rules in shadow mode
    Denied,
    /// All
    All,
}

impl From<LogDecisions> for engine::LogDecisions {
    fn from(which: LogDecisions) -> Self {
        match which {
            LogDecisions::None => Self::None,
            LogDecisions::Denied => Self::Denied,
            LogDecisions::All => Self::All,
        }
    }
}

/// A duration of at least 1 ms, in the grammar of the rule file.
fn duration(text: &str) -> Result<Duration, String> {
    let number = text.trim().starts_with(|c: char| c.is_ascii_digit());
    let us = span_us(text).ok().filter(|_| number);
    match us {
        Some(0) => Err("it must be at least 1ms".to_owned()),
        Some(us) => Ok(Duration::from_micros(us)),
        None => Err("write it like 50ms, 10s or 75m".to_owned()),
    }
}

/// A share of 0 to 1.
fn ratio(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("it must be a number from 0 to 1, like 0.01".to_owned()),
    }
}

/// A number of checks that a lane sends at once.
fn batch(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(checks @ 1..=256) => Ok(checks),
        _ => Err("it must be a number from 1 to 256".to_owned()),
    }
}

fn store(
    kind: Option<StoreKind>,
    redis: &RedisArgs,
    (lanes, batch): (u16, usize),
    deadline: Duration,
) -> Result<StoreSettings, Failure> {
    let options = redis.options().map_err(anyhow::Error::from)?;
    match (kind, options) {
        (Some(StoreKind::Memory), _) | (None, None) => Ok(StoreSettings::Memory),
        (_, Some(mut options)) => {
            options.lanes = usize::from(lanes);
            options.batch = batch;
            options.deadline = deadline;
            options.answer_timeout = ANSWER_TIMEOUT.0.max(deadline * ANSWER_TIMEOUT.1);
            Ok(StoreSettings::Redis(Box::new(options)))
        }
        (Some(StoreKind::Redis), None) => Err(Failure::Usage(Problem::new(
            "--store redis needs a URL",
            "add --redis-url redis://127.0.0.1:6379, or set REDIS_URL",
        ))),
    }
}

/// The cores that the process may use, by its affinity and the quota of its cgroup.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

pub(super) fn run(args: ServeArgs) -> Result<(), Failure> {
    // Every option by name: one that is forgotten does not compile.
    let ServeArgs {
        rules,
        listen,
        admin,
        admin_tokens,
        store,
        redis,
        redis_lanes,
        redis_batch,
        deadline,
        replicas,
        remember_denials,
        max_keys,
        threads,
        max_connections,
        max_request_memory,
        header_timeout,
        idle_timeout,
        drain_timeout,
        legacy_headers,
        near_limit,
        log_decisions,
        log_decisions_rate,
        otlp_endpoint,
        trace_ratio,
        log_format,
        log_level,
    } = args;
    let _logging = start_logging(&log_level, log_format)?;
    let settings = Settings {
        rules: rules.rules,
        keys: redis.keys(),
        listen,
        admin,
        admin_tokens,
        store: self::store(store, &redis, (redis_lanes, redis_batch), deadline)?,
        deadline,
        replicas,
        remember_denials,
        near_limit,
        max_keys: usize::try_from(max_keys).unwrap_or(usize::MAX),
        threads: threads.map_or_else(cores, usize::from),
        server: server::Options {
            max_connections: usize::try_from(max_connections).unwrap_or(usize::MAX),
            request_memory: usize::try_from(max_request_memory)
                .unwrap_or(usize::MAX)
                .saturating_mul(1_000_000),
            header_timeout,
            idle_timeout,
            drain_timeout,
            ..server::Options::default()
        },
        log: engine::LogOptions {
            which: log_decisions.into(),
            per_second: log_decisions_rate,
        },
        traces: otlp_endpoint.map(|endpoint| traces::Options {
            endpoint,
            ratio: trace_ratio,
        }),
        answers: AnswerOptions { legacy_headers },
    };
    let rules = rules::load_or_fail(&settings.rules, &settings.keys)?;
    // Checks have threads of their own. One is left for all that goes on beside them.
    block_on_threads(Some(1), async { Ok(app::serve(settings, rules).await?) })
}
