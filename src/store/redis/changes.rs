//! Changes that people make to counters, followed by all replicas.
//!
//! A replica remembers denials, and has charged ahead. After a change that is not true any more, so
//! each replica looks a few times a second how many changes there were, forgets all that, and says
//! so. Who has made the change waits until all have.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use redis::Cmd;

use super::{
    replies::ScriptReply,
    script::{self, AboutChanges},
};
use crate::{counter_key::KeyPrefix, jitter};

/// The pause between two looks.
pub(super) const LOOK: Duration = Duration::from_millis(200);

/// How long a replica counts after it was last heard of: what it remembers is over by then.
const LASTS: Duration = Duration::from_secs(3);

/// What is known of changes.
pub(super) struct Changes {
    key: String,
    /// Tells this process from others.
    id: String,
    /// One more than how many were followed; 0 before the first look.
    followed: AtomicU64,
}

/// What a reply says about changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// How many there were.
    pub(super) changes: u64,
    /// How many replicas have not followed all of them.
    pub(super) behind: u64,
}

impl Changes {
    pub(super) fn new(prefix: &KeyPrefix) -> Self {
        Self {
            key: format!("{prefix}changes"),
            id: format!("{:016x}", jitter::up_to(u64::MAX)),
            followed: AtomicU64::new(0),
        }
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// The command of a look: it says how many changes this replica has followed.
    pub(super) fn look(&self) -> Cmd {
        let followed = self.followed.load(Ordering::Relaxed).saturating_sub(1);
        self.about(AboutChanges::Followed(followed))
    }

    /// The command that announces another change.
    pub(super) fn announce(&self) -> Cmd {
        self.about(AboutChanges::New)
    }

    /// The command that asks whether all replicas have followed.
    pub(super) fn ask(&self) -> Cmd {
        self.about(AboutChanges::All)
    }

    fn about(&self, about: AboutChanges) -> Cmd {
        script::changes(&self.key, &self.id, about, LASTS)
    }

    /// Whether there were changes that this replica has not followed. Before its first look, there
    /// was nothing to forget.
    pub(super) fn is_news(&self, seen: Seen) -> bool {
        let followed = self.followed.load(Ordering::Relaxed);
        if followed == 0 {
            self.follow(seen);
            return false;
        }
        followed != seen.changes + 1
    }

    /// Notes that all is forgotten.
    pub(super) fn follow(&self, seen: Seen) {
        self.followed.store(seen.changes + 1, Ordering::Relaxed);
    }
}

impl Seen {
    /// What a reply says.
    pub(super) fn of(reply: ScriptReply) -> Option<Self> {
        let verdict = reply.verdict.ok()?;
        let outcome = verdict.outcomes.first()?;
        Some(Self {
            changes: outcome.remaining,
            behind: outcome.wait_us,
        })
    }
}
