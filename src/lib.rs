//! tollgate: a rate limiter that is itself an external-authorization service.
//!
//! ```text
//! client → proxy ──check──▶ server ─▶ check ─▶ contract ─▶ engine ─▶ store ──EVALSHA──▶ Redis
//!            │ 200                                           │         └─ memory
//!            ▼                                               └─ rules, limit
//!         upstream                          rule file ─▶ rulefile ─▶ rules
//! ```
//!
//! The way of one check: [`server`] reads it from a connection, [`check`] has [`contract`] read the
//! client's request out of it, [`engine`] walks the [`rules`] and has the [`store`] charge what
//! they [`limit`], and [`contract`] turns the decision into a response. [`rulefile`] makes rules of
//! a file, [`watch`] notices that it changed, and [`app`] puts everything together.
//!
//! docs/architecture.md has a line for every file. Imports point down, and no two files import each
//! other; `tests/` holds both.

pub mod admin;
pub mod app;
pub mod check;
pub mod cli;
pub mod clock;
pub mod contract;
pub mod counter_key;
pub mod engine;
pub mod explain;
mod glob;
pub mod hash;
pub mod health;
pub mod jitter;
pub mod limit;
pub mod metrics;
pub mod nearest;
pub mod problem;
pub mod replay;
pub mod request;
pub mod rulefile;
pub mod rules;
pub mod server;
pub mod store;
pub mod throttle;
pub mod traces;
pub mod watch;
pub mod wire;
mod words;
pub mod workers;
