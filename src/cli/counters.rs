//! `tollgate counters`: looks at counters and changes them, over the admin port of a running
//! tollgate, or straight in Redis.

use std::{
    cmp::Reverse, collections::BinaryHeap, io::IsTerminal as _, path::PathBuf, time::Duration,
};

use clap::{Args, Subcommand};
use http::Method;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{
    client::{Question, ask},
    explain::header_lines,
    failure::Failure,
    output::{Format, print},
    redis::RedisArgs,
    rules::{self, RulesArg},
    runtime::{LogFormat, start_logging},
};
use crate::{
    app::Direct,
    engine::{
        callers::MAX_GRANT,
        listing::{Filter, Listed, ListedCounter},
    },
    explain::Lines,
    problem::Problem,
    server::ListenAddr,
};

/// How long a change may take: replicas are waited for.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The longest answer that is read: a page of counters.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

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

/// Which tollgate is asked, and how it answers.
#[derive(Debug, Args)]
struct AskArgs {
    /// The admin port of a running tollgate: HOST:PORT or unix:/path
    #[arg(
        long,
        env = "TOLLGATE_ADMIN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8082"
    )]
    admin: ListenAddr,

    /// The file that holds a token, for changes
    #[arg(long, env = "TOLLGATE_ADMIN_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Ask Redis itself (--redis-url), by the rules of --rules, because no tollgate runs
    #[arg(long)]
    direct: bool,

    #[command(flatten)]
    rules: RulesArg,

    #[command(flatten)]
    redis: RedisArgs,

    /// The output format
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What is asked: a running tollgate, or Redis.
enum Source {
    Admin {
        addr: ListenAddr,
        token: Option<String>,
    },
    Direct(Direct),
}

#[derive(Debug, Args)]
struct ListArgs {
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

impl AskArgs {
    async fn open(&self) -> Result<Source, Failure> {
        if self.direct {
            let options = self.redis.options().map_err(Failure::Usage)?;
            let options = options.ok_or_else(|| {
                let hint = "give its URL, in --redis-url or REDIS_URL";
                Failure::Usage(Problem::new("--direct asks Redis, and none is named", hint))
            })?;
            let rules = rules::load_or_fail(&self.rules.rules, &self.redis.keys())?;
            return Ok(Source::Direct(Direct::connect(rules, &options).await?));
        }
        let token = match &self.token_file {
            None => None,
            Some(file) => {
                let text = std::fs::read_to_string(file).map_err(|error| {
                    let message = format!("{} cannot be read: {error}", file.display());
                    Failure::Runtime(anyhow::Error::msg(message))
                })?;
                Some(text.trim().to_owned())
            }
        };
        Ok(Source::Admin {
            addr: self.admin.clone(),
            token,
        })
    }

    fn show(&self, json: &Value, text: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.format {
            Format::Text => print(text().trim_end()),
            Format::Json => print(&format!("{json:#}")),
        }
    }
}

impl Source {
    async fn post<T: DeserializeOwned>(
        &self,
        path: &'static str,
        body: String,
    ) -> Result<T, Failure> {
        let (status, answer) = match self {
            Self::Direct(direct) => direct.ask(path, &body).await?,
            Self::Admin { addr, token } => {
                let question = Question {
                    method: Method::POST,
                    path,
                    body,
                    token: token.clone(),
                    timeout: TIMEOUT,
                    most: MAX_ANSWER,
                };
                let answer = ask(addr, question).await.map_err(anyhow::Error::from)?;
                (answer.0, answer.1.to_vec())
            }
        };
        if !status.is_success() {
            let text = String::from_utf8_lossy(&answer);
            return Err(Failure::Runtime(anyhow::Error::msg(text.trim().to_owned())));
        }
        let answer = serde_json::from_slice(&answer).map_err(|error| {
            anyhow::Error::msg(format!("the answer is not that of a tollgate: {error}"))
        })?;
        Ok(answer)
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

async fn list(args: ListArgs) -> Result<(), Failure> {
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
