//! The command line: subcommands and exit codes.
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

pub mod client;
mod counters;
mod explain;
mod failure;
pub mod healthcheck;
mod output;
mod redis;
mod replay;
mod rules;
mod runtime;
pub mod serve;
pub mod upstream;
mod validate;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

pub use self::failure::Failure;
use self::{
    output::print,
    runtime::{LogFormat, block_on, start_logging},
};
use crate::{app, rulefile};

/// A rate limiter that is itself an external-authorization service.
///
/// Envoy (ext_authz), nginx (auth_request) and other forward-auth proxies ask it about each
/// request; it matches the rule file, charges counters in Redis, and answers 200 or 429. Without a
/// subcommand it serves.
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
    /// Check a rule file and print all of its problems
    Validate(validate::ValidateArgs),
    /// Explain what would be decided about a request, and why; charges nothing
    Explain(Box<explain::ExplainArgs>),
    /// Look at counters and change them, over the admin port of a running tollgate
    Counters(Box<counters::CountersArgs>),
    /// Rehearse a rule file on an access log: who would have been denied
    Replay(replay::ReplayArgs),
    /// Print the JSON Schema of rule files, for editors
    Schema,
    /// Run a small demo application to put behind a proxy
    Upstream(upstream::UpstreamArgs),
    /// Ask a running tollgate whether it is ready, for container health checks
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Print a script that completes commands and options, for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap reports --help and --version as errors.
            let code = if error.use_stderr() { 64 } else { 0 };
            // There is nowhere else to report to.
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
        Command::Counters(args) => block_on(counters::run(*args)),
        Command::Replay(args) => replay::run(args),
        Command::Schema => print(rulefile::SCHEMA.trim_end()),
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
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tollgate", &mut script);
            print(String::from_utf8_lossy(&script).trim_end())
        }
    }
}
