//! The options that say how to reach Redis, for `serve` and `explain`.

#![expect(
    clippy::doc_markdown,
    reason = "doc comments of options are their help texts"
)]

use std::{fmt, ops::Deref, path::PathBuf, time::Duration};

use clap::Args;

use crate::{
    counter_key::{KeyPrefix, KeySettings},
    hash::HashKey,
    problem::Problem,
    store::redis::{Options, SentinelLogin, TlsFiles},
};

/// How long a reply is awaited before the connection counts as broken, and the fewest deadlines
/// that it lasts: a Redis that is only slow is not reconnected again and again.
pub(super) const ANSWER_TIMEOUT: (Duration, u32) = (Duration::from_millis(250), 4);

/// A value that `Debug` does not show.
#[derive(Clone)]
struct Secret(String);

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

impl Deref for Secret {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Which Redis, and how secrets appear in it.
#[derive(Debug, Args)]
pub(super) struct RedisArgs {
    /// Redis: redis://[user[:password]@]host[:port][/db], unix:///path,
    /// redis+sentinel://host[:port],host[:port]/primary[/db] or
    /// redis-cluster://host[:port],host[:port]; rediss://, rediss+sentinel:// and rediss-cluster://
    /// use TLS
    #[arg(long, env = "REDIS_URL", value_name = "URL", hide_env_values = true)]
    redis_url: Option<Secret>,

    /// The file with the password of Redis, read for each connection
    #[arg(long, env = "TOLLGATE_REDIS_PASSWORD_FILE", value_name = "FILE")]
    redis_password_file: Option<PathBuf>,

    /// The authorities that may have signed Redis' certificate (PEM) [default: the system's]
    #[arg(long, env = "TOLLGATE_REDIS_CA", value_name = "FILE")]
    redis_ca: Option<PathBuf>,

    /// Our certificate for Redis (PEM), read for each connection
    #[arg(long, env = "TOLLGATE_REDIS_CERT", value_name = "FILE")]
    redis_cert: Option<PathBuf>,

    /// The private key of our certificate for Redis (PEM)
    #[arg(long, env = "TOLLGATE_REDIS_KEY", value_name = "FILE")]
    redis_key: Option<PathBuf>,

    /// The user at Sentinels, if they have one
    #[arg(long, env = "TOLLGATE_SENTINEL_USER", value_name = "NAME")]
    sentinel_user: Option<String>,

    /// The file with the password of Sentinels, if they have one
    #[arg(long, env = "TOLLGATE_SENTINEL_PASSWORD_FILE", value_name = "FILE")]
    sentinel_password_file: Option<PathBuf>,

    /// How all keys in Redis begin; the same for all that share counters
    #[arg(
        long,
        env = "TOLLGATE_KEY_PREFIX",
        value_name = "TEXT",
        default_value_t = KeyPrefix::default()
    )]
    key_prefix: KeyPrefix,

    #[command(flatten)]
    hash_key: HashKeyArg,
}

/// The key under which secrets are hashed.
#[derive(Debug, Args)]
pub(super) struct HashKeyArg {
    /// The key under which secrets are hashed in Redis and logs; the same for all that share a
    /// Redis
    #[arg(
        long,
        env = "TOLLGATE_HASH_KEY",
        value_name = "SECRET",
        hide_env_values = true
    )]
    hash_key: Option<Secret>,
}

impl HashKeyArg {
    /// The key; by default that of everybody.
    pub(super) fn key(&self) -> HashKey {
        let given = self.hash_key.as_deref();
        given
            .filter(|secret| !secret.is_empty())
            .map_or_else(HashKey::default, |secret| HashKey::new(secret.as_bytes()))
    }
}

impl RedisArgs {
    /// How to reach Redis; `None` if no URL is given.
    pub(super) fn options(&self) -> Result<Option<Options>, Problem> {
        let Self {
            redis_url,
            redis_password_file,
            redis_ca,
            redis_cert,
            redis_key,
            sentinel_user,
            sentinel_password_file,
            key_prefix,
            hash_key: _,
        } = self;
        let Some(url) = redis_url.as_deref().filter(|url| !url.is_empty()) else {
            return Ok(None);
        };
        let mut options = Options::parse(url)?;
        options.password_file.clone_from(redis_password_file);
        options.tls = TlsFiles {
            ca: redis_ca.clone(),
            cert: redis_cert.clone(),
            key: redis_key.clone(),
        };
        options.sentinel = SentinelLogin {
            user: sentinel_user.clone(),
            password_file: sentinel_password_file.clone(),
        };
        options.key_prefix.clone_from(key_prefix);
        options.answer_timeout = ANSWER_TIMEOUT.0;
        Ok(Some(options))
    }

    /// How keys are written.
    pub(super) fn keys(&self) -> KeySettings {
        KeySettings {
            prefix: self.key_prefix.clone(),
            hash_key: self.hash_key.key(),
        }
    }
}
