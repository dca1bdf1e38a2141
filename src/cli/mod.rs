//! The command line: what can be said, and which exit code says what.
//!
//! | code | meaning                                         |
//! |------|-------------------------------------------------|
//! | 0    | done                                            |
//! | 1    | something failed at run time: a taken port, …   |
//! | 2    | the rule file is not valid                      |
//! | 64   | the command line is not valid (`EX_USAGE`)      |

#![expect(
    clippy::doc_markdown,
    reason = "doc comments of options are their help texts"
)]

mod explain;
pub mod healthcheck;
mod rules;
pub mod serve;
pub mod upstream;
mod validate;

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand, ValueEnum};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::{app, problem::Problem, rulefile};

/// A rate limiter that is itself an external-authorization service.
///
/// Envoy (ext_authz), nginx (auth_request) and other forward-auth proxies ask it about each request; it matches the
/// rule file, charges counters in Redis, and answers 200 or 429. Without a subcommand it serves.
#[derive(Debug, Parser)]
#[command(
    name = "tollgate",
    version,
    max_term_width = 100,
    help_expected = true,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer checks (the default)
    Serve(Box<serve::ServeArgs>),
    /// Check a rule file and print everything that is wrong with it
    Validate(validate::ValidateArgs),
    /// Say what would be decided about a request, and why; charges nothing
    Explain(Box<explain::ExplainArgs>),
    /// Print the JSON Schema of rule files, for editors
    Schema,
    /// Run a small demo application to put behind a proxy
    Upstream(upstream::UpstreamArgs),
    /// Ask a running tollgate whether it is ready; for container health checks
    Healthcheck(healthcheck::HealthcheckArgs),
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Something failed at run time.
    #[error("{0:#}")]
    Runtime(#[from] anyhow::Error),
    /// The rule file is not valid; the text says all of why.
    #[error("{0}")]
    Rules(String),
    /// The rule file is not valid, and the JSON that was printed says why.
    #[error("the rule file is not valid")]
    Reported,
    /// The options contradict each other.
    #[error("{0}")]
    Usage(Problem),
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Runtime(_) => ExitCode::from(1),
            Self::Rules(_) | Self::Reported => ExitCode::from(2),
            Self::Usage(_) => ExitCode::from(64),
        }
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // --help and --version are errors to clap, and not to us.
            let code = if error.use_stderr() { 64 } else { 0 };
            // Where nobody reads, nothing can be said.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !matches!(failure, Failure::Reported) {
                eprintln!("error: {failure}");
            }
            failure.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli
        .command
        .unwrap_or_else(|| Command::Serve(Box::new(cli.serve)))
    {
        Command::Serve(args) => serve::run(*args),
        Command::Validate(args) => validate::run(&args),
        Command::Explain(args) => block_on(explain::run(*args)),
        Command::Schema => print(&format!("{:#}", rulefile::schema())),
        Command::Upstream(args) => block_on(async {
            let _logging = start_logging("info", LogFormat::Text)?;
            upstream::run(&args, app::signalled()?)
                .await
                .map_err(anyhow::Error::from)?;
            Ok(())
        }),
        Command::Healthcheck(args) => block_on(async {
            let report = healthcheck::run(&args).await.map_err(anyhow::Error::from)?;
            print(&report)
        }),
    }
}

/// Prints what was asked for. A reader that has seen enough of it, like `head`, is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Runtime(
            anyhow::Error::new(error).context("the answer cannot be written"),
        )),
        _ => Ok(()),
    }
}

/// Lines that wait to be written. When whoever reads them hangs and these are full, further ones are dropped: checks do not wait
/// for a log.
const WAITING_LINES: usize = 8_192;

/// Begins to log to stderr. What is logged until the guard is dropped gets written, if somebody reads it.
fn start_logging(level: &str, format: LogFormat) -> Result<WorkerGuard, Failure> {
    let filter = EnvFilter::try_new(level).map_err(|error| {
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
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(guard)
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// One object a line
    Json,
}

/// How a command's answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// How long the end of the process waits for calls that block.
const PATIENCE_AT_END: Duration = Duration::from_secs(1);

fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Runtime::new().map_err(anyhow::Error::from)?;
    let result = runtime.block_on(command);
    // A file system that hangs must not hold up the end of the process.
    runtime.shutdown_timeout(PATIENCE_AT_END);
    result
}
