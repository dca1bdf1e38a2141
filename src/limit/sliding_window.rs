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
    outcome::{Outcome, Step, left},
    spec::Limit,
};

/// A count and the times of its first and last request, in microseconds since the epoch. All zero
/// when empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// The number of requests admitted in this span. Below zero, so many more than the limit may
    /// be: only in the current window.
    pub count: i64,
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
    fn remaining_at(self, now_us: u64, window: u64) -> i64 {
        let length = self.last_us - self.start_us;
        let left = (self.last_us + window).saturating_sub(now_us);
        if left == 0 {
            0
        } else if left >= length {
            self.count
        } else {
            mul_div_ceil(left, self.count.unsigned_abs(), length).cast_signed()
        }
    }

    /// The first instant at which at most `target` (less than the count, and not below zero) of
    /// this span's requests still count.
    fn fades_to(self, target: i64, window: u64) -> u64 {
        let length = self.last_us - self.start_us;
        let (target, count) = (target.unsigned_abs(), self.count.unsigned_abs());
        self.last_us + window - mul_div_floor(length, target, count)
    }
}

pub(super) fn step(limit: &Limit, state: Option<State>, now_us: u64, cost: u64) -> Step<State> {
    let window = limit.window_us();
    let mut state = rolled(state.unwrap_or_default(), now_us, window);
    let fading = state.previous.remaining_at(now_us, window);
    let used = state.current.count + fading;
    let (amount, cost) = (limit.amount().cast_signed(), cost.cast_signed());
    let allowed = used + cost <= amount;

    if allowed && cost > 0 {
        let before = state.current.count;
        state.current.count += cost;
        state.current.last_us = now_us;
        // The first request that counts: those before it were granted.
        if before <= 0 && state.current.count > 0 {
            state.current.start_us = now_us;
        }
    }
    let used_after = state.current.count + fading;
    let target = if allowed {
        used_after - 1
    } else {
        amount - cost
    };
    let current = state.current;
    let wait_us = if target >= current.count {
        state.previous.fades_to(target - current.count, window) - now_us
    } else if target >= 0 {
        // While the current window's requests fade, the previous one's are long gone.
        current.fades_to(target, window) - now_us
    } else if !allowed {
        window
    } else if current.count < 0 || cost > 0 {
        // What was granted ends with the window.
        current.start_us + window - now_us
    } else {
        0
    };
    Step {
        state,
        expires_us: state.current.last_us.max(state.previous.last_us) + window,
        outcome: Outcome {
            allowed,
            remaining: left(limit.amount(), used_after),
            wait_us,
        },
    }
}

/// The state with `more` granted, and when it expires. It is granted in the current window, which
/// begins now if it is empty; so it ends with that one, and what fades meanwhile leaves as ever.
pub(super) fn grant(limit: &Limit, state: Option<State>, now_us: u64, more: i64) -> (State, u64) {
    let window = limit.window_us();
    let mut state = rolled(state.unwrap_or_default(), now_us, window);
    if state.current.count == 0 {
        state.current.start_us = now_us;
        state.current.last_us = now_us;
    }
    state.current.count -= more;
    let last_us = state.current.last_us.max(state.previous.last_us);
    (state, last_us + window)
}

/// The state at `now_us`: the current window becomes the previous one when it is over, and the
/// previous one is dropped when all of it has left. What was granted ends with its window.
fn rolled(state: State, now_us: u64, window: u64) -> State {
    let mut current = state.current.not_after(now_us);
    let mut previous = state.previous.not_after(now_us);
    if now_us >= current.start_us + window {
        previous = Span {
            count: current.count.max(0),
            ..current
        };
        current = Span::default();
    }
    if now_us >= previous.last_us + window {
        previous = Span::default();
    }
    State { current, previous }
}
