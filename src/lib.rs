//! tollgate: a rate limiter that is itself an external-authorization service.
//!
//! ```text
//! client → proxy ──check──▶ server ─▶ contract ─▶ engine ─▶ store ──EVALSHA──▶ Redis
//!            │ 200                                   │         └─ memory
//!            ▼                                       └─ rules, limit
//!         upstream
//! ```
//!
//! * [`limit`]: the arithmetic. Pure.
//! * [`rules`]: the rule file, from text to a rule set that matches requests and makes keys.
//! * [`request`]: what is known of a request, whichever proxy told it.
//! * [`store`]: where consumption is kept, in memory or in Redis, and the one call that decides and charges.
//! * [`engine`]: one decision.
//! * [`contract`]: what each proxy sends and accepts.
//! * [`explain`]: one decision, told to people.
//!
//! Imports point down: `cli → app → server, reload, explain → contract → engine → rules, store → limit`. A test keeps it so.

pub mod app;
pub mod cli;
pub mod clock;
pub mod contract;
pub mod engine;
pub mod explain;
pub mod hash;
pub mod health;
pub mod limit;
pub mod metrics;
pub mod reload;
pub mod request;
pub mod rules;
pub mod server;
pub mod store;
