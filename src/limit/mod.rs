//! The arithmetic of limits: pure, integer, and identical to `store/redis/charge.lua`.
//!
//! A step takes the stored state, the time and a cost; it returns the next state and whether the
//! cost fits. It never writes: a store that must satisfy several limits keeps all the new states or
//! none. What is stored is consumption (how much, since when), not a verdict, so a changed limit
//! acts at once on what is already counted.
//!
//! All times are microseconds since the Unix epoch. All numbers stay within 2^53, where the doubles
//! of Redis' Lua are exact; the bounds in [`Limit::new`] see to that. A differential property test
//! compares the two implementations.

//!
//! Imports go one way: [`Limit`] ← an algorithm ← [`State`] ← [`Limit::step`].

pub mod ban;
pub mod calendar;
mod division;
pub mod fixed_window;
mod grant;
pub mod new_keys;
mod outcome;
mod rate;
pub mod sliding_log;
pub mod sliding_window;
mod spec;
mod state;
mod step;
mod text;
pub mod token_bucket;

pub use self::{
    outcome::{Outcome, Step},
    rate::{MAX_WAIT_US, Rate},
    spec::{Algorithm, InvalidLimit, Limit, MAX_AMOUNT, MAX_LOG, MAX_WINDOW_US, MIN_WINDOW_US},
    state::State,
};
