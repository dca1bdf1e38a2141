//! tollgate behind a real Envoy with the shipped configuration.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod contracts;
mod drain;
mod exact;
mod faults;
mod grpc;
mod keys;
mod language;
mod meshes;
mod misuse;
mod reload;
mod replay;
mod soak;
mod store_away;
mod traces;

use support::{
    envoy::{Config, Envoy},
    tollgate::{Settings, Tollgate},
    upstream::Upstream,
};

/// Client → Envoy → tollgate, and the application behind Envoy.
struct Stack {
    envoy: Envoy,
    tollgate: Tollgate,
    upstream: Upstream,
}

impl Stack {
    async fn start(config: Config, settings: Settings<'_>) -> Self {
        let upstream = Upstream::start().await;
        let tollgate = Tollgate::start(settings).await;
        let envoy = Envoy::start(config, &[&tollgate.listen], &upstream).await;
        Self {
            envoy,
            tollgate,
            upstream,
        }
    }

    /// With these rules, counting in memory.
    async fn with_rules(config: Config, rules: &str) -> Self {
        Self::start(
            config,
            Settings {
                rules,
                ..Settings::default()
            },
        )
        .await
    }
}
