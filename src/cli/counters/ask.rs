//! What `tollgate counters` asks: a running tollgate, or Redis itself.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use http::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    app::Direct,
    cli::{
        client::{Question, ask},
        failure::Failure,
        output::{Format, print},
        redis::RedisArgs,
        rules::{self, RulesArg},
    },
    problem::Problem,
    server::ListenAddr,
};

/// How long a change may take: replicas are waited for.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The longest answer that is read: a page of counters.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Which tollgate is asked, and how it answers.
#[derive(Debug, Args)]
pub(super) struct AskArgs {
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
    pub(super) format: Format,
}

/// What is asked: a running tollgate, or Redis.
pub(super) enum Source {
    Admin {
        addr: ListenAddr,
        token: Option<String>,
    },
    Direct(Direct),
}

impl AskArgs {
    pub(super) async fn open(&self) -> Result<Source, Failure> {
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

    pub(super) fn show(&self, json: &Value, text: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.format {
            Format::Text => print(text().trim_end()),
            Format::Json => print(&format!("{json:#}")),
        }
    }
}

impl Source {
    pub(super) async fn post<T: DeserializeOwned>(
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
