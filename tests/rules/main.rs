//! Rule files: which are accepted, the messages for those that are not, and the decisions of rules.
//!
//! Nothing here opens a socket: decisions come from an engine with counters in memory.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod allocations;
mod bans;
mod corpus;
mod decisions;
mod denials;
mod leases;
mod properties;
mod schema;
mod targets;
mod tried;
