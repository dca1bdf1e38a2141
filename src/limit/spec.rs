//! A limit: how many requests, in which window, counted by which algorithm; and its bounds.

use super::{calendar::Edges, rate::Rate};
use crate::words::words;

/// The largest amount or burst.
pub const MAX_AMOUNT: u64 = 1_000_000_000;
/// The longest window, 366 days in microseconds: below 2^45, which the exact division in
/// `charge.lua` needs.
pub const MAX_WINDOW_US: u64 = 366 * 86_400 * 1_000_000;
/// The largest amount of a `sliding_log`: it stores every request, and a step reads those that have
/// left one by one.
pub const MAX_LOG: u64 = 1_000;
/// The shortest window, 1 ms in microseconds: the resolution of a Redis TTL.
pub const MIN_WINDOW_US: u64 = 1_000;
words! {
    /// How a limit counts.
    pub enum Algorithm {
        /// N per window that begins with the first request, or with the calendar.
        FixedWindow => "fixed_window",
        /// N in any window, estimated from two counters: no double burst where windows meet.
        SlidingWindow => "sliding_window",
        /// N in any window, exactly: every request is remembered, so N is at most 1,000.
        SlidingLog => "sliding_log",
        /// N per window on average, and a burst at once.
        TokenBucket => "token_bucket",
    }
}

impl Algorithm {
    /// Whether a limit may admit more at once than its amount.
    pub const fn has_burst(self) -> bool {
        match self {
            Self::TokenBucket => true,
            Self::FixedWindow | Self::SlidingWindow | Self::SlidingLog => false,
        }
    }

    /// Whether its windows may be those of a calendar.
    pub const fn follows_calendar(self) -> bool {
        match self {
            Self::FixedWindow => true,
            Self::SlidingWindow | Self::SlidingLog | Self::TokenBucket => false,
        }
    }
}

/// One limit: an amount per window, and how it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limit {
    algorithm: Algorithm,
    amount: u64,
    window_us: u64,
    burst: u64,
    rate: Rate,
    edges: Option<Edges>,
}

/// Why a limit cannot be built. Each variant names the bound that was crossed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLimit {
    /// An amount or burst of zero, or above [`MAX_AMOUNT`].
    #[error("a limit allows between 1 and 1000000000 requests")]
    Amount,
    /// A window outside [`MIN_WINDOW_US`]..=[`MAX_WINDOW_US`].
    #[error("a window lasts between 1 ms and 366 days")]
    Window,
    /// A bucket that would take longer than [`MAX_WINDOW_US`] to fill.
    #[error("a burst must refill within 366 days")]
    Refill,
    /// A log of more than [`MAX_LOG`].
    #[error("sliding_log remembers every request and allows at most 1000 per window")]
    Log,
}

impl Limit {
    /// Creates a limit of `amount` requests per `window_us` microseconds.
    ///
    /// `burst` is the capacity of a token bucket, by default `amount`; the algorithms with windows
    /// ignore it.
    pub fn new(
        algorithm: Algorithm,
        amount: u64,
        window_us: u64,
        burst: Option<u64>,
    ) -> Result<Self, InvalidLimit> {
        let burst = burst.unwrap_or(amount);
        if !(1..=MAX_AMOUNT).contains(&amount) || !(1..=MAX_AMOUNT).contains(&burst) {
            return Err(InvalidLimit::Amount);
        }
        if !(MIN_WINDOW_US..=MAX_WINDOW_US).contains(&window_us) {
            return Err(InvalidLimit::Window);
        }
        // Bounds of single algorithms. A new one must state its own here.
        match algorithm {
            Algorithm::FixedWindow | Algorithm::SlidingWindow => {}
            Algorithm::SlidingLog => {
                if amount > MAX_LOG {
                    return Err(InvalidLimit::Log);
                }
            }
            Algorithm::TokenBucket => {
                let refill = u128::from(burst) * u128::from(window_us) / u128::from(amount);
                if refill > u128::from(MAX_WINDOW_US) {
                    return Err(InvalidLimit::Refill);
                }
            }
        }
        Ok(Self {
            algorithm,
            amount,
            window_us,
            burst,
            rate: Rate::new(amount, window_us),
            edges: None,
        })
    }

    /// The same limit with calendar windows; `edges` are those around now. Only `fixed_window` uses
    /// them, and its `window_us` is then only what responses report.
    #[must_use]
    pub const fn aligned(self, edges: Edges) -> Self {
        Self {
            edges: Some(edges),
            ..self
        }
    }

    /// The edges of its windows, if it follows the calendar.
    pub const fn edges(&self) -> Option<Edges> {
        if self.algorithm.follows_calendar() {
            self.edges
        } else {
            None
        }
    }

    /// Whether the limit can count at `now_us`: always, unless it has edges and `now_us` lies
    /// outside them.
    pub fn covers(&self, now_us: u64) -> bool {
        self.edges()
            .is_none_or(|edges| edges.window_at(now_us).is_some())
    }

    /// The algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Requests per window.
    pub const fn amount(&self) -> u64 {
        self.amount
    }

    /// The window, in microseconds.
    pub const fn window_us(&self) -> u64 {
        self.window_us
    }

    /// Its rate in lowest terms, for the token bucket and its script.
    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// The most that can be admitted at one instant.
    pub const fn burst(&self) -> u64 {
        if self.algorithm.has_burst() {
            self.burst
        } else {
            self.amount
        }
    }

    /// The same limit with another amount, between 1 and [`MAX_AMOUNT`]; the capacity of a token
    /// bucket is then that amount too.
    #[must_use]
    pub fn with_amount(&self, amount: u64) -> Self {
        let amount = amount.clamp(1, MAX_AMOUNT);
        Self {
            amount,
            burst: amount,
            rate: Rate::new(amount, self.window_us),
            ..*self
        }
    }

    /// The same limit, as wide as a limit can be: its counters hold what would be used if this one
    /// had denied nothing.
    ///
    /// The rate of a token bucket stays, because what flows back depends on it; its burst is the
    /// widest.
    #[must_use]
    pub fn widest(&self) -> Self {
        match self.algorithm {
            Algorithm::FixedWindow | Algorithm::SlidingWindow => self.with_amount(MAX_AMOUNT),
            Algorithm::SlidingLog => self.with_amount(MAX_LOG),
            Algorithm::TokenBucket => {
                let refilled = u128::from(MAX_WINDOW_US) * u128::from(self.amount)
                    / u128::from(self.window_us);
                let burst = u64::try_from(refilled)
                    .unwrap_or(MAX_AMOUNT)
                    .min(MAX_AMOUNT);
                Self { burst, ..*self }
            }
        }
    }

    /// This limit's share for one of `replicas` that cannot see each other, rounded up: together
    /// they admit at most `replicas - 1` more than the limit, and each admits at least one.
    #[must_use]
    pub fn divided(&self, replicas: u64) -> Self {
        let amount = self.amount.div_ceil(replicas.max(1));
        Self {
            amount,
            burst: self.burst.div_ceil(replicas.max(1)),
            rate: Rate::new(amount, self.window_us),
            ..*self
        }
    }
}
