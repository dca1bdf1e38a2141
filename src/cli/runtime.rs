//! Logging and the async runtime of a command.

use std::{io::IsTerminal as _, time::Duration};

use clap::ValueEnum;
use tokio::runtime::Builder;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    Layer as _, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use super::failure::Failure;
use crate::problem::Problem;

/// The most log lines that wait to be written. If their reader hangs, further lines are dropped:
/// checks do not wait for a log.
const WAITING_LINES: usize = 8_192;

/// Begins to log to stderr. Lines that are logged before the guard is dropped are written, if they
/// are read.
pub(super) fn start_logging(level: &str, format: LogFormat) -> Result<WorkerGuard, Failure> {
    let filter: Targets = level.parse().map_err(|error| {
        Failure::Usage(Problem::new(
            format!("--log-level {level:?} is not valid: {error}"),
            "write it like info or info,tollgate=debug",
        ))
    })?;
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING_LINES)
        .thread_name("log")
        .finish(std::io::stderr());
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(lines)
        .with(filter)
        .init();
    Ok(guard)
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people
    Text,
    /// One object a line
    Json,
}

/// How long the process waits at its end for blocking calls.
const PATIENCE_AT_END: Duration = Duration::from_secs(1);

/// Runs a command to its end.
pub(super) fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    block_on_threads(None, command)
}

/// Runs a command to its end, with so many threads for the tasks that it spawns; as many as cores
/// unless given.
pub(super) fn block_on_threads(
    threads: Option<usize>,
    command: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let mut runtime = Builder::new_multi_thread();
    if let Some(threads) = threads {
        runtime.worker_threads(threads);
    }
    let runtime = runtime.enable_all().build().map_err(anyhow::Error::from)?;
    let result = runtime.block_on(command);
    // A file system that hangs must not hold up the end of the process.
    runtime.shutdown_timeout(PATIENCE_AT_END);
    result
}
