//! `sliding_window`: N per sliding window, estimated from two counters.
//!
//! The usual form of this algorithm (Cloudflare, "How we built rate limiting capable of scaling to
//! millions of domains") keeps a count for the current and the previous window on a fixed grid, and
//! assumes that the previous window's requests were spread evenly over it. Here a window begins
//! with its first request and also remembers its last. That costs one more number and makes two
//! things exact that the grid only estimates:
//!
//! * requests of the previous window are assumed to be spread evenly between its *first and last*
//!   request, so a burst leaves when it is one window old, neither earlier (which would admit too
//!   much) nor later (`5/m` after five requests at once means "again in 60 s", not in up to 120 s);
//! * all requests of the current window are less than one window old, so they count in full.
//!
//! The estimate is rounded up. It is exact if the previous window's requests came at once; if they
//! came evenly, it counts at most one too many. The worst that an adversary can do is to send one
//! early request and N - 1 at the end of a window: while those fade too early, fewer than 2N are
//! admitted in some span of one window. `sliding_log` has no such case.
//!
//! ```text
//!      first        last            now - window                 now
//!  ──────┼───────────┼───────────────────┼────────────────────────┼──▶
//!        └ previous ─┘                   └── what counts ─────────┘
//! ```

use super::{
    division::{mul_div_ceil, mul_div_floor},
    outcome::{Outcome, Step},
    spec::Limit,
};

/// A count and the times of its first and last request, in microseconds since the epoch. All zero
/// when empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// The number of requests admitted in this span.
    pub count: u64,
    /// The first request: the beginning of the window.
    pub start_us: u64,
    /// The time of the last request.
    pub last_us: u64,
}

/// The current window and the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State {
    /// Requests less than one window old.
    pub current: Span,
    /// Requests that are leaving.
    pub previous: Span,
}

impl Span {
    /// If the clock went back, nothing may lie in the future.
    fn not_after(self, now_us: u64) -> Self {
        Self {
            count: self.count,
            start_us: self.start_us.min(now_us),
            last_us: self.last_us.min(now_us),
        }
    }

    /// How many of this span's requests still count at `now_us`, rounded up.
    fn remaining_at(self, now_us: u64, window: u64) -> u64 {
        let length = self.last_us - self.start_us;
        let left = (self.last_us + window).saturating_sub(now_us);
        if left == 0 {
            0
        } else if left >= length {
            self.count
        } else {
            mul_div_ceil(left, self.count, length)
        }
    }

    /// The first instant at which at most `target` (less than the count) of this span's requests
    /// still count.
    fn fades_to(self, target: u64, window: u64) -> u64 {
        let length = self.last_us - self.start_us;
        self.last_us + window - mul_div_floor(length, target, self.count)
    }
}

pub(super) fn step(limit: &Limit, state: Option<State>, now_us: u64, cost: u64) -> Step<State> {
    let window = limit.window_us();
    let mut state = rolled(state.unwrap_or_default(), now_us, window);
    let fading = state.previous.remaining_at(now_us, window);
    let used = state.current.count + fading;
    let allowed = used + cost <= limit.amount();

    if allowed && cost > 0 {
        if state.current.count == 0 {
            state.current.start_us = now_us;
        }
        state.current.count += cost;
        state.current.last_us = now_us;
    }
    let used_after = state.current.count + fading;
    let target = if allowed {
        used_after.checked_sub(1)
    } else {
        limit.amount().checked_sub(cost)
    };
    let wait_us = match target {
        Some(target) if target >= state.current.count => {
            state
                .previous
                .fades_to(target - state.current.count, window)
                - now_us
        }
        // While the current window's requests fade, the previous one's are long gone.
        Some(target) => state.current.fades_to(target, window) - now_us,
        None if allowed => 0,
        None => window,
    };
    Step {
        state,
        expires_us: state.current.last_us.max(state.previous.last_us) + window,
        outcome: Outcome {
            allowed,
            remaining: limit.amount().saturating_sub(used_after),
            wait_us,
        },
    }
}

/// The state at `now_us`: the current window becomes the previous one when it is over, and the
/// previous one is dropped when all of it has left.
fn rolled(state: State, now_us: u64, window: u64) -> State {
    let mut current = state.current.not_after(now_us);
    let mut previous = state.previous.not_after(now_us);
    if now_us >= current.start_us + window {
        previous = current;
        current = Span::default();
    }
    if now_us >= previous.last_us + window {
        previous = Span::default();
    }
    State { current, previous }
}
