//! Rule files: what is accepted, what is said about what is not, and what the rules decide.
//!
//! Nothing here opens a socket: decisions are asked of an engine with counters in memory.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod bans;
mod corpus;
mod decisions;
mod properties;
mod schema;
