//! How Redis is reached: the options, and the pool that makes connections.

use std::time::Duration;

use deadpool_redis::{Manager, Pool, Runtime};
use redis::AsyncConnectionConfig;

use crate::problem::Problem;

/// How to reach Redis.
#[derive(Debug, Clone)]
pub struct Options {
    /// `redis://[user[:password]@]host[:port][/db]` or `unix:///path[?db=N]`.
    pub url: String,
    /// Connections that carry checks. Each is one task; two keep both Redis and two cores busy.
    pub lanes: usize,
    /// How long a reply is awaited before the connection counts as broken. Longer than a check's
    /// deadline: a Redis that is slow for a moment need not be reconnected.
    pub answer_timeout: Duration,
}

/// Creates a pool of at most `connections`. None is made before it is asked for.
pub(super) fn pool(options: &Options, connections: usize) -> Result<Pool, Problem> {
    if options.url.starts_with("rediss:") {
        return Err(Problem::new(
            "rediss:// (TLS) is not supported yet",
            "use redis:// on a trusted network",
        ));
    }
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(options.answer_timeout))
        .set_response_timeout(Some(options.answer_timeout));
    let manager = Manager::new_with_config(options.url.as_str(), config).map_err(|error| {
        // The URL is not repeated, because it may hold a password.
        Problem::new(
            format!("the Redis URL is not valid: {}", error.category()),
            "it looks like redis://[user[:password]@]host[:port][/db]",
        )
    })?;
    Pool::builder(manager)
        .max_size(connections)
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| Problem::new(format!("the connection pool cannot be built: {error}"), ""))
}
