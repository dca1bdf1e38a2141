//! Times after others.

use std::time::Duration;

use tokio::time::Instant;

/// A time after another. One beyond what the clock can hold counts as 30 years.
pub(super) fn later(time: Instant, by: Duration) -> Instant {
    time.checked_add(by)
        .unwrap_or_else(|| time + Duration::from_secs(30 * 365 * 24 * 60 * 60))
}
