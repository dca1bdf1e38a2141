//! Limits: what each algorithm promises, and that memory and Redis keep the same promise.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod bans;
mod differential;
mod promises;
mod reference;
mod stores;
