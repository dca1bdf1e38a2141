//! The server side of tollgate: what does not know of rules or limits.

pub mod cli;
pub mod clock;
pub mod health;
pub mod metrics;
pub mod reload;
pub mod server;
