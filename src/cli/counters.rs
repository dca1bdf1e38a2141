//! `tollgate counters`: looks at counters and changes them, over the admin port of a running
//! tollgate, or straight in Redis.

mod ask;
mod list;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use self::{
    ask::AskArgs,
    list::{ListArgs, list},
};
use super::{
    explain::header_lines,
    failure::Failure,
    runtime::{LogFormat, start_logging},
};
use crate::{engine::callers::MAX_GRANT, explain::Lines, problem::Problem};

/// Options of `tollgate counters`.
#[derive(Debug, Args)]
pub(super) struct CountersArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List counters: all of them, or those near their limit
    List(ListArgs),
    /// Show what is counted for a caller of a rule
    Get(CallerArgs),
    /// Remove a caller's counters and its ban: it begins anew
    Reset(CallerArgs),
    /// Let a caller have so many more requests, until the window ends
    Grant(GrantArgs),
    /// Ban a caller, if the rule has a ban
    Ban(BanArgs),
    /// End a caller's ban
    Unban(CallerArgs),
}

#[derive(Debug, Args)]
struct CallerArgs {
    /// The rule
    #[arg(value_name = "RULE")]
    rule: String,

    /// The caller as the log and `explain` show it: client_ip=203.0.113.7
    #[arg(long, value_name = "TEXT")]
    key: Option<String>,

    /// The caller's address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,

    /// A header that the caller sends, like 'x-api-key: k'; can be repeated
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,

    /// The host that the caller asks for
    #[arg(long, value_name = "HOST")]
    host: Option<String>,

    /// The method that the caller sends
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,

    /// The path and query that the caller sends
    #[arg(long, value_name = "PATH")]
    path: Option<String>,

    #[command(flatten)]
    ask: AskArgs,
}

#[derive(Debug, Args)]
struct GrantArgs {
    /// How many more, of each limit of the rule
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_GRANT))]
    more: u64,

    #[command(flatten)]
    caller: CallerArgs,
}

#[derive(Debug, Args)]
struct BanArgs {
    /// How long, like 2h [default: as the rule says]
    #[arg(long = "for", value_name = "TIME")]
    lasts: Option<String>,

    #[command(flatten)]
    caller: CallerArgs,
}

pub(super) async fn run(args: CountersArgs) -> Result<(), Failure> {
    // A change that is made from here leaves its line here.
    let _logging = start_logging("tollgate::audit=info", LogFormat::Text)?;
    match args.action {
        Action::List(args) => list(args).await,
        Action::Get(args) => {
            let caller: Value = args.post("/counters/get", Map::new()).await?;
            args.ask.show(&caller, || caller_text(&caller))
        }
        Action::Reset(args) => args.change("/counters/reset", Map::new()).await,
        Action::Unban(args) => args.change("/counters/unban", Map::new()).await,
        Action::Grant(args) => {
            let more = [("more".to_owned(), json!(args.more))];
            let more = more.into_iter().collect();
            args.caller.change("/counters/grant", more).await
        }
        Action::Ban(args) => {
            let lasts = args.lasts.map(|lasts| ("for".to_owned(), json!(lasts)));
            let lasts = lasts.into_iter().collect();
            args.caller.change("/counters/ban", lasts).await
        }
    }
}

impl CallerArgs {
    /// Asks about the caller, with further members.
    async fn post(
        &self,
        path: &'static str,
        mut question: Map<String, Value>,
    ) -> Result<Value, Failure> {
        let Self {
            rule,
            key,
            ip,
            headers,
            host,
            method,
            path: target,
            ask,
        } = self;
        let headers: Map<String, Value> = header_lines(headers)?
            .into_iter()
            .map(|(name, lines)| match lines {
                Lines::One(line) => (name, json!(line)),
                Lines::Many(lines) => (name, json!(lines)),
            })
            .collect();
        let mut request = Map::new();
        for (name, value) in [
            ("ip", ip),
            ("host", host),
            ("method", method),
            ("path", target),
        ] {
            if let Some(value) = value {
                request.insert(name.to_owned(), json!(value));
            }
        }
        request.insert("headers".to_owned(), Value::Object(headers));
        question.insert("rule".to_owned(), json!(rule));
        question.insert("request".to_owned(), Value::Object(request));
        if let Some(key) = key {
            question.insert("key".to_owned(), json!(key));
        }
        let source = ask.open().await?;
        let question = Value::Object(question).to_string();
        source.post(path, question).await
    }

    async fn change(&self, path: &'static str, members: Map<String, Value>) -> Result<(), Failure> {
        let changed = self.post(path, members).await?;
        self.ask.show(&changed, || {
            let mut text = String::from("before:\n");
            text += &caller_text(&changed["before"]);
            text += "after, on all replicas:\n";
            text += &caller_text(&changed["after"]);
            text
        })?;
        match changed["unconfirmed"].as_u64() {
            None | Some(0) => Ok(()),
            Some(unconfirmed) => Err(Failure::Runtime(anyhow::Error::new(Problem::new(
                format!("{unconfirmed} replicas have not confirmed the change"),
                "what they remember is over within a second",
            )))),
        }
    }
}

/// The counters of a caller, in words.
fn caller_text(caller: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = vec![format!(
        "  {} {}",
        text(&caller["rule"]),
        text(&caller["key"])
    )];
    let limits = caller["limits"].as_array().into_iter().flatten();
    for limit in limits.chain(caller.get("ban")) {
        let (name, rate, left) = (text(&limit["name"]), text(&limit["rate"]), &limit["left"]);
        let wait = limit["wait_us"].as_u64().map(|us| us.div_ceil(1_000_000));
        let wait = wait.map(|seconds| format!(", again in {seconds} s"));
        let wait = wait.unwrap_or_default();
        lines.push(format!("    {name} ({rate}): {left} left{wait}"));
    }
    if caller["limits"].as_array().is_some_and(Vec::is_empty) {
        lines.push(format!("    no limit, by the {}", text(&caller["source"])));
    }
    lines.join("\n") + "\n"
}
