//! Everything that serving needs to know.

use std::{path::PathBuf, time::Duration};

use crate::{
    contract::AnswerOptions,
    counter_key::KeySettings,
    engine::{self, NearLimit},
    server::{self, ListenAddr},
    store::redis,
    traces,
};

/// Everything that `serve` needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The rule file.
    pub rules: PathBuf,
    /// The key under which secrets are hashed.
    pub keys: KeySettings,
    /// The address of the check port.
    pub listen: ListenAddr,
    /// The address of the admin port.
    pub admin: ListenAddr,
    /// The file with the tokens of those who may change counters.
    pub admin_tokens: Option<PathBuf>,
    /// Where counters are kept.
    pub store: StoreSettings,
    /// The longest that a check waits for the store.
    pub deadline: Duration,
    /// How many replicas share the store at least.
    pub replicas: u64,
    /// Whether denials of Redis are remembered for as long as they hold.
    pub remember_denials: bool,
    /// From when on a limit counts as nearly reached.
    pub near_limit: NearLimit,
    /// The most counters in memory.
    pub max_keys: usize,
    /// How many threads serve checks.
    pub threads: usize,
    /// Limits of the check port.
    pub server: server::Options,
    /// Options of the decision log.
    pub log: engine::LogOptions,
    /// Where traces go, if anywhere.
    pub traces: Option<traces::Options>,
    /// What responses carry beyond the standard.
    pub answers: AnswerOptions,
}

/// Where counters are kept.
#[derive(Debug, Clone)]
pub enum StoreSettings {
    /// In this process.
    Memory,
    /// In Redis.
    Redis(Box<redis::Options>),
}
