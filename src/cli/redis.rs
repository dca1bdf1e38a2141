//! The options that say how to reach Redis, for `serve` and `explain`.

#![expect(
    clippy::doc_markdown,
    reason = "doc comments of options are their help texts"
)]

use std::time::Duration;

use clap::Args;

use crate::{hash::HashKey, store::redis::Options};

/// How long a reply is awaited before the connection counts as broken, and the fewest deadlines
/// that it lasts: a Redis that is only slow is not reconnected again and again.
pub(super) const ANSWER_TIMEOUT: (Duration, u32) = (Duration::from_millis(250), 4);

/// Which Redis, and how secrets appear in it.
#[derive(Debug, Args)]
pub(super) struct RedisArgs {
    /// Redis: redis://[user[:password]@]host[:port][/db], or unix:///path
    #[arg(long, env = "REDIS_URL", value_name = "URL", hide_env_values = true)]
    redis_url: Option<String>,

    /// The key under which secrets are hashed in Redis and logs; the same for all that share a
    /// Redis
    #[arg(
        long,
        env = "TOLLGATE_HASH_KEY",
        value_name = "SECRET",
        hide_env_values = true
    )]
    hash_key: Option<String>,
}

impl RedisArgs {
    /// How to reach Redis; `None` if no URL is given.
    pub(super) fn options(&self) -> Option<Options> {
        let url = self.redis_url.as_deref().filter(|url| !url.is_empty())?;
        Some(Options {
            url: url.to_owned(),
            lanes: 1,
            answer_timeout: ANSWER_TIMEOUT.0,
        })
    }

    pub(super) fn hash_key(&self) -> HashKey {
        let given = self.hash_key.as_deref();
        given
            .filter(|secret| !secret.is_empty())
            .map_or_else(HashKey::default, |secret| HashKey::new(secret.as_bytes()))
    }
}
