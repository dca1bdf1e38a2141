//! What the admin port answers about counters, straight from Redis: for when no tollgate runs.

use std::sync::Arc;

use http::StatusCode;
use tokio::time::Duration;

use crate::{
    admin::{Access, Admin},
    clock::SystemClock,
    contract::AnswerOptions,
    engine::{Engine, Options},
    health::Health,
    metrics::Metrics,
    rules::RuleSet,
    store::{
        deadline::Guarded,
        memory::MemoryStore,
        redis::{self, RedisStore},
    },
    wire::{Body, Request},
};

/// How long Redis may take to be reached.
const PATIENCE: Duration = Duration::from_secs(3);

/// Answers about counters in Redis.
pub struct Direct(Admin);

impl Direct {
    /// Connects to Redis, for rules that are in force there. Must be called within a tokio runtime.
    pub async fn connect(rules: RuleSet, options: &redis::Options) -> anyhow::Result<Self> {
        let (failed, failure) = tokio::sync::watch::channel(None);
        let on_change = move |change: Result<(), &_>| {
            let change = change.err().map(ToString::to_string);
            failed.send_replace(change);
        };
        let store = RedisStore::start(options, Box::new(on_change))?;
        if !store.connected_within(PATIENCE).await {
            let why = failure.borrow().clone().unwrap_or_default();
            anyhow::bail!("Redis cannot be reached: {why}");
        }
        let metrics = Arc::new(Metrics::new());
        let memory = MemoryStore::new(1, Arc::new(SystemClock::new()), Box::new(|_| {}));
        let engine = Engine::new(
            rules,
            Guarded::new(Arc::new(store), Arc::clone(&metrics)),
            Arc::new(memory),
            Arc::clone(&metrics),
            Options::default(),
        );
        let access = Access {
            tokens: None,
            is_local: true,
        };
        Ok(Self(Admin::new(
            Health::new(),
            metrics,
            Arc::new(engine),
            AnswerOptions::default(),
            access,
        )))
    }

    /// Answers a question that is asked with `POST`.
    pub async fn ask(&self, path: &str, question: &str) -> anyhow::Result<(StatusCode, Vec<u8>)> {
        let headers = [("host", "localhost"), ("content-type", "application/json")];
        let request = Request::of("POST", path, &headers)
            .map_err(|_| anyhow::Error::msg(format!("{path} is no path")))?;
        let body = Body::Whole(question.as_bytes().to_vec());
        let response = self.0.respond(request.with_body(body)).await;
        Ok((response.status(), response.body().to_vec()))
    }
}
