//! How many replicas of tollgate share this Redis, by their heartbeats in it.
//!
//! `on_store_error: local` divides limits among the replicas, and is needed when Redis cannot be
//! asked. So the last number that is known counts. A replica that was started meanwhile is not in
//! it, and `--replicas` says how many there are at least.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use redis::Cmd;

use super::{replies::ScriptReply, script};
use crate::{counter_key::KeyPrefix, jitter};

/// The pause between two heartbeats, at most.
pub(super) const BEAT: Duration = Duration::from_secs(2);

/// How long a replica counts after its last heartbeat: three may be lost.
const LASTS: Duration = Duration::from_secs(8);

/// The replicas that are known.
pub(super) struct Replicas {
    key: String,
    /// Tells this process from others.
    id: String,
    /// 0 before Redis was asked.
    alive: AtomicU64,
}

impl Replicas {
    /// Only this one, as far as is known.
    pub(super) fn new(prefix: &KeyPrefix) -> Self {
        Self {
            key: format!("{prefix}replicas"),
            id: format!("{:016x}", jitter::up_to(u64::MAX)),
            alive: AtomicU64::new(0),
        }
    }

    /// How many were alive when Redis was last asked; at least 1.
    pub(super) fn alive(&self) -> u64 {
        self.known().unwrap_or(1)
    }

    /// Likewise, if Redis was asked.
    pub(super) fn known(&self) -> Option<u64> {
        Some(self.alive.load(Ordering::Relaxed)).filter(|alive| *alive > 0)
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn heartbeat(&self) -> Cmd {
        script::heartbeat(&self.key, &self.id, LASTS)
    }

    /// Notes the reply to a heartbeat.
    pub(super) fn note(&self, reply: ScriptReply) {
        let count = reply.verdict.ok();
        let count = count.and_then(|verdict| Some(verdict.outcomes.first()?.remaining));
        if let Some(count) = count {
            self.alive.store(count.max(1), Ordering::Relaxed);
        }
    }
}
