//! The arithmetic of limits: pure, integer, and the same to the bit as `store/redis/charge.lua`.
//!
//! A step takes what is stored, the time and a cost, and says what would be stored and whether the cost fits. It never
//! writes: a caller that must satisfy several limits keeps all the new states or none of them. What is stored is
//! consumption (how much, since when), not a verdict, so a changed limit acts at once on what is already counted.
//!
//! All times are microseconds since the Unix epoch; all numbers stay within 2^53, where the doubles of Redis' Lua are
//! exact. The bounds below see to that, and a differential property test holds the two implementations together.

//!
//! Imports go one way: [`Limit`] ← an algorithm ← [`State`] ← [`Limit::step`].

pub mod ban;
pub mod calendar;
mod division;
pub mod fixed_window;
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
