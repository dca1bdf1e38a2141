//! `tollgate replay`: what rules would have done about the requests of an access log.

use std::path::PathBuf;

use clap::{Args, ValueEnum, builder::PossibleValue, value_parser};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    failure::Failure,
    output::print,
    redis::HashKeyArg,
    rules::{self, RulesArg},
};
use crate::{
    counter_key::KeySettings,
    problem::Problem,
    replay::{self, Input, Named, Progress, Report},
};

/// Options of `tollgate replay`.
#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// Access logs, also compressed with gzip or Zstandard; `-` is standard input. Several are read
    /// as one, in the order of their times
    #[arg(value_name = "LOG", required = true)]
    logs: Vec<PathBuf>,

    #[command(flatten)]
    rules: RulesArg,

    /// Another rule file, like the one in force: what changes, and for which callers
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,

    /// The format of the logs
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = replay::Format::Auto)]
    log_format: replay::Format,

    /// How many callers are told apart; a million takes up to 500 MB, with `--against` twice that
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 1_000_000,
        value_parser = value_parser!(u32).range(1..)
    )]
    max_callers: u32,

    /// The output format
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    format: Format,

    #[command(flatten)]
    hash_key: HashKeyArg,
}

/// How a rehearsal is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
    /// For people, in one file with charts
    Html,
}

impl ValueEnum for replay::Format {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::Auto => "By the beginning of each line",
            Self::Nginx => "Of nginx and Apache (common, combined), and of the shipped nginx.conf",
            Self::Json => "JSON of nginx, Envoy or Caddy, one object a line",
            Self::Envoy => "Envoy's default text, also Istio's",
        };
        Some(PossibleValue::new(self.as_str()).help(help))
    }
}

pub(super) fn run(args: ReplayArgs) -> Result<(), Failure> {
    let ReplayArgs {
        logs,
        rules,
        against,
        log_format,
        max_callers,
        format,
        hash_key,
    } = args;
    let keys = KeySettings {
        hash_key: hash_key.key(),
        ..KeySettings::default()
    };
    let named = |file: PathBuf| {
        let set = rules::load_or_fail(&file, &keys)?;
        let file = file.display().to_string();
        Ok::<_, Failure>(Named { file, set })
    };
    let inputs: Vec<Input> = logs.into_iter().map(input).collect();
    if inputs
        .iter()
        .filter(|input| **input == Input::Stdin)
        .count()
        > 1
    {
        return Err(Failure::Usage(Problem::new(
            "standard input is named twice",
            "write `-` once",
        )));
    }
    let size = inputs.iter().map(Input::size).sum();
    let options = replay::Options {
        inputs,
        format: log_format,
        rules: named(rules.rules)?,
        against: against.map(named).transpose()?,
        max_callers: usize::try_from(max_callers).unwrap_or(usize::MAX),
    };
    let bar = bar(size);
    let report = replay::replay(options, |Progress { bytes, requests }| {
        bar.set_position(bytes);
        bar.set_message(format!("{requests} requests"));
    });
    bar.finish_and_clear();
    let report = report.map_err(|error| {
        let hint = "give the path of an access log, or `-` for standard input";
        Failure::Runtime(Problem::new(error.to_string(), hint).into())
    })?;
    if report.log.requests == 0 {
        return Err(Failure::Runtime(nothing_read(&report, log_format).into()));
    }
    match format {
        Format::Text => print(&report.to_string()),
        Format::Json => print(&report.to_json()),
        Format::Html => print(&replay::html::page(&report)),
    }
}

fn input(path: PathBuf) -> Input {
    if path.as_os_str() == "-" {
        Input::Stdin
    } else {
        Input::File(path)
    }
}

/// Why there is nothing to report.
fn nothing_read(report: &Report, format: replay::Format) -> Problem {
    let lines = replay::text::unread(report);
    if lines.is_empty() {
        return Problem::new(
            "there is no line in the log",
            "give an access log of nginx, Envoy, Caddy or Apache",
        );
    }
    let tried = match format {
        replay::Format::Auto => "formats tried: nginx (common, combined, that of the shipped \
            nginx.conf), Envoy's text, JSON of nginx, Envoy and Caddy (see docs/rehearsal.md)"
            .to_owned(),
        other => format!(
            "format tried: {}; leave --log-format out for all",
            other.as_str()
        ),
    };
    Problem::new(format!("no line of the log can be read\n{lines}"), tried)
}

/// A progress bar, if standard error is a terminal. `size` is 0 if it is not known.
fn bar(size: u64) -> ProgressBar {
    let (bar, template) = match size {
        0 => (
            ProgressBar::no_length(),
            "{spinner} {bytes} {msg}, {bytes_per_sec}",
        ),
        _ => (
            ProgressBar::new(size),
            "{wide_bar} {percent} % {msg}, {eta} left",
        ),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr());
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        // A template of ours has no mistake.
        Err(_) => bar,
    }
}
