//! `tollgate counters list`: all counters, or the most used of them, a page at a time.

use std::{cmp::Reverse, collections::BinaryHeap, io::IsTerminal as _};

use clap::Args;
use serde_json::json;

use super::ask::AskArgs;
use crate::{
    cli::{
        failure::Failure,
        output::{Format, print},
    },
    engine::listing::{Filter, Listed, ListedCounter},
};

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only of this rule
    #[arg(value_name = "RULE")]
    rule: Option<String>,

    /// Only of callers whose key begins like this: client_ip=203.0.113.
    #[arg(long, value_name = "TEXT", requires = "rule")]
    key: Option<String>,

    /// Only those that deny now
    #[arg(long)]
    over: bool,

    /// Only those of which so much is used, like 80%
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    near: Option<u8>,

    /// Only so many, those most used first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    top: Option<u32>,

    #[command(flatten)]
    ask: AskArgs,
}

/// Orders counters by how much of them is used.
#[derive(PartialEq, Eq)]
struct ByUse(ListedCounter);

impl Ord for ByUse {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let rank =
            |counter: &ListedCounter| (counter.use_per_mille(), Reverse(counter.stored_as.clone()));
        rank(&self.0).cmp(&rank(&other.0))
    }
}

impl PartialOrd for ByUse {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

pub(super) async fn list(args: ListArgs) -> Result<(), Failure> {
    let ListArgs {
        rule,
        key,
        over,
        near,
        top,
        ask,
    } = args;
    let mut filter = Filter {
        rule,
        key,
        near,
        over,
        from: None,
    };
    let most = top.map(|top| usize::try_from(top).unwrap_or(usize::MAX));
    let mut largest = BinaryHeap::new();
    let mut progress = Progress::default();
    let source = ask.open().await?;
    loop {
        let question = json!(filter).to_string();
        let page: Listed = source.post("/counters/list", question).await?;
        progress.add(page.seen);
        match most {
            // As they come: a caller whose counters change meanwhile may come twice.
            None => {
                for counter in page.counters {
                    print_line(&ask, &counter)?;
                }
            }
            Some(most) => {
                for counter in page.counters {
                    largest.push(Reverse(ByUse(counter)));
                    if largest.len() > most {
                        largest.pop();
                    }
                }
            }
        }
        match page.next {
            Some(next) => filter.from = Some(next),
            None => break,
        }
    }
    progress.end();
    let mut largest: Vec<ByUse> = largest
        .into_iter()
        .map(|Reverse(counter)| counter)
        .collect();
    largest.sort_by(|a, b| b.cmp(a));
    largest.dedup_by(|a, b| a.0.stored_as == b.0.stored_as);
    for ByUse(counter) in &largest {
        print_line(&ask, counter)?;
    }
    Ok(())
}

/// A line for a counter: in JSON, an object.
fn print_line(ask: &AskArgs, counter: &ListedCounter) -> Result<(), Failure> {
    match ask.format {
        Format::Json => print(&json!(counter).to_string()),
        Format::Text => {
            let ListedCounter {
                rule,
                key,
                limit,
                rate,
                used,
                holds,
                granted,
                over,
                stored_as: _,
            } = counter;
            let note = match (over, granted) {
                (true, _) => "  over".to_owned(),
                (false, 0) => String::new(),
                (false, granted) => format!("  and {granted} granted"),
            };
            print(&format!(
                "{rule}  {key}  {limit} ({rate})  {used} of {holds}{note}"
            ))
        }
    }
}

/// How far a listing is, on a terminal.
#[derive(Default)]
struct Progress(usize);

impl Progress {
    fn add(&mut self, seen: usize) {
        self.0 += seen;
        if std::io::stderr().is_terminal() {
            eprint!("\r{} counters looked at", self.0);
        }
    }

    fn end(&self) {
        if std::io::stderr().is_terminal() && self.0 > 0 {
            eprintln!();
        }
    }
}

fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number
        .filter(|percent| (1..=100).contains(percent))
        .ok_or_else(|| "write it like 80%".to_owned())
}
