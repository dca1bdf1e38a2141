//! The built program: command line, ports, reload, drain, explanations, nginx.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod alerts;
mod callers;
mod cli;
mod cluster;
mod cluster_names;
mod cors;
mod counters;
mod drain;
mod examples;
mod explain;
mod failover;
mod hostile;
mod junk;
mod kubernetes;
mod language;
mod leases;
mod many_headers;
mod new_keys;
mod nginx;
mod offenders;
mod outage;
mod page;
mod proxies;
mod readings;
mod release;
mod replay;
mod said_limits;
mod secrets;
mod server;
mod service;
mod traces;
mod tried;
mod watch;
