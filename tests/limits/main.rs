//! Limits: the properties of each algorithm, and that memory and Redis agree.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod bans;
mod clusters;
mod differential;
mod give_back;
mod leases;
mod promises;
mod reference;
mod replay;
mod stores;
mod together;
mod topologies;
