//! The rate of a limit, in lowest terms.

use super::division::mul_div_ceil;

/// No wait is reported as longer than this (2^46 µs, 2.2 years): a counter can hold more than a
/// lowered limit can ever explain.
pub const MAX_WAIT_US: u64 = 1 << 46;

/// A rate in lowest terms: `tokens` flow back in every `period_us` microseconds, and no shorter
/// period has a whole number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Tokens per period.
    pub tokens: u64,
    /// The period, in microseconds.
    pub period_us: u64,
}

impl Rate {
    pub(super) fn new(amount: u64, window_us: u64) -> Self {
        let divisor = gcd(amount, window_us);
        Self {
            tokens: amount / divisor,
            period_us: window_us / divisor,
        }
    }

    /// The time until `tokens` have flowed back, at most [`MAX_WAIT_US`].
    pub(super) fn time_for(self, tokens: u64) -> u64 {
        let periods = tokens / self.tokens;
        if u128::from(periods) * u128::from(self.period_us) >= u128::from(MAX_WAIT_US) {
            return MAX_WAIT_US;
        }
        periods * self.period_us + mul_div_ceil(self.period_us, tokens % self.tokens, self.tokens)
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
