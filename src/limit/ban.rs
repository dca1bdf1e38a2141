//! Bans: a client that is denied too often is denied for longer.
//!
//! A ban accompanies the limits of a rule and counts how often one of them does not fit. The window
//! of that count begins with its first denial. A denial by the ban itself does not count, so a ban
//! ends on time however often its client comes back meanwhile. After that, the count begins at
//! zero.
//!
//! A ban is the only thing that is written when a request is denied.

use std::fmt;

use super::{
    outcome::Outcome,
    spec::{MAX_WINDOW_US, MIN_WINDOW_US},
    text::numbers,
};

/// The largest number of denials before a ban.
pub const MAX_AFTER: u64 = 1_000_000;

/// Denies for `for_us`, after `after` denials within `within_us`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ban {
    after: u64,
    within_us: u64,
    for_us: u64,
}

/// Why a ban cannot be built. Each variant names the bound that was crossed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBan {
    /// No denial, or more than [`MAX_AFTER`].
    #[error("a ban comes after 1 to 1000000 denials")]
    After,
    /// The window of the count is too short or too long.
    #[error("a ban counts denials within 1 ms to 366 days")]
    Within,
    /// The ban is too short or too long.
    #[error("a ban lasts between 1 ms and 366 days")]
    For,
}

/// The stored state: a count of denials, or the end of a ban. Times are microseconds since the Unix
/// epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Denials in the window that began at `since_us`; 0 while a ban is in force.
    pub denials: u64,
    /// The time of the first of these denials, or the beginning of the ban.
    pub since_us: u64,
    /// The end of the ban; 0 if there is none.
    pub until_us: u64,
}

/// The text that Redis stores: the numbers in the order of the fields.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.denials, self.since_us, self.until_us)
    }
}

impl State {
    /// A ban that begins now and lasts for so many microseconds.
    pub fn until(now_us: u64, for_us: u64) -> Self {
        Self {
            denials: 0,
            since_us: now_us,
            until_us: now_us.saturating_add(for_us),
        }
    }

    /// Parses what [`Display`](fmt::Display) writes; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let [denials, since_us, until_us] = numbers(text)?;
        Some(Self {
            denials,
            since_us,
            until_us,
        })
    }
}

/// The result of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What to store, whether or not the request is admitted, and when (microseconds since the Unix
    /// epoch) it expires. `None` leaves what is stored.
    pub write: Option<(State, u64)>,
    /// Allowed: not banned, and `remaining` denials are left before a ban. Denied: banned for
    /// `wait_us`; `remaining` is 1 if the ban begins with this denial, and 0 if it was in force
    /// already.
    pub outcome: Outcome,
}

impl Ban {
    /// Creates a ban of `for_us` microseconds after `after` denials within `within_us`
    /// microseconds.
    pub fn new(after: u64, within_us: u64, for_us: u64) -> Result<Self, InvalidBan> {
        let windows = MIN_WINDOW_US..=MAX_WINDOW_US;
        if !(1..=MAX_AFTER).contains(&after) {
            return Err(InvalidBan::After);
        }
        if !windows.contains(&within_us) {
            return Err(InvalidBan::Within);
        }
        if !windows.contains(&for_us) {
            return Err(InvalidBan::For);
        }
        Ok(Self {
            after,
            within_us,
            for_us,
        })
    }

    /// Denials before the ban begins.
    pub const fn after(&self) -> u64 {
        self.after
    }

    /// How long a denial counts, in microseconds since the first of them.
    pub const fn within_us(&self) -> u64 {
        self.within_us
    }

    /// How long the ban lasts, in microseconds.
    pub const fn for_us(&self) -> u64 {
        self.for_us
    }

    /// The next state at `now_us`, when the limits that the ban covers fit or do not.
    pub fn step(&self, state: Option<State>, now_us: u64, limits_fit: bool) -> Step {
        let mut state = state.unwrap_or(State {
            denials: 0,
            since_us: now_us,
            until_us: 0,
        });
        // If the clock went back, nothing may lie in the future.
        state.since_us = state.since_us.min(now_us);
        // A ban lasts no longer than the rule file says now, counted from its beginning. The new
        // end is stored: otherwise it would move along with a clock that went back.
        let latest = state.since_us + self.for_us;
        let is_cut = state.until_us > latest;
        state.until_us = state.until_us.min(latest);
        if state.until_us > now_us {
            return Step {
                write: is_cut.then_some((state, state.until_us)),
                outcome: banned(state.until_us - now_us, false),
            };
        }
        if state.denials == 0 || now_us >= state.since_us + self.within_us {
            state.denials = 0;
            state.since_us = now_us;
        }
        if !limits_fit {
            state.denials += 1;
            if state.denials >= self.after {
                let until_us = now_us + self.for_us;
                let ban = State {
                    denials: 0,
                    since_us: now_us,
                    until_us,
                };
                return Step {
                    write: Some((ban, until_us)),
                    outcome: banned(self.for_us, true),
                };
            }
        }
        state.until_us = 0;
        Step {
            write: (!limits_fit).then_some((state, state.since_us + self.within_us)),
            outcome: Outcome {
                allowed: true,
                // If `after` was lowered, the next denial begins the ban.
                remaining: self.after.saturating_sub(state.denials).max(1),
                wait_us: 0,
            },
        }
    }
}

const fn banned(wait_us: u64, begins: bool) -> Outcome {
    Outcome {
        allowed: false,
        remaining: begins as u64,
        wait_us,
    }
}
