//! Charges that are given back, because the request was not admitted after all.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    super::{job::Work, node::Call, script},
    map::Nodes,
    send::send,
    slots::slot_of,
};
use crate::store::{Batch, GivingBack, Unsettled, Unused};

/// Charges that were made, and are given back when this is dropped; unless they are kept.
pub(super) struct GiveBack<'a> {
    nodes: &'a Arc<Nodes>,
    batch: &'a Batch,
    owed: Vec<Owed>,
}

/// A charge that was made.
struct Owed {
    /// Its place in the batch.
    place: usize,
    /// The counter that was charged, if it is not the client's own.
    shared: Option<String>,
    /// When it was charged, in microseconds on the node's clock.
    charged_us: u64,
}

/// How long giving back is tried.
const PATIENCE: Duration = Duration::from_secs(1);

impl<'a> GiveBack<'a> {
    pub(super) fn new(nodes: &'a Arc<Nodes>, batch: &'a Batch) -> Self {
        Self {
            nodes,
            batch,
            owed: Vec::new(),
        }
    }

    /// Adds a charge that was made; `shared` is the overflow counter, if that was charged. Bans
    /// count denials, and are not given back.
    pub(super) fn add(&mut self, place: usize, shared: Option<String>, charged_us: u64) {
        if self.batch.charges()[place].limit().is_some() {
            self.owed.push(Owed {
                place,
                shared,
                charged_us,
            });
        }
    }

    /// Gives nothing back.
    pub(super) fn keep(&mut self) {
        self.owed.clear();
    }

    /// Hands over the charges of some places.
    pub(super) fn take(&mut self, is_meant: impl Fn(usize) -> bool) -> Unsettled {
        let owed = self.owed.extract_if(.., |owed| is_meant(owed.place));
        let (nodes, batch) = (self.nodes, self.batch);
        Unsettled::new(owed.map(|owed| {
            let charge = &batch.charges()[owed.place];
            let key = owed.shared.as_deref().unwrap_or(batch.key(charge));
            let unused = Unused {
                copies: 1,
                charged_us: owed.charged_us,
                remaining: Vec::new(),
            };
            give_back(nodes, &Batch::alone(charge, key), &unused)
        }))
    }
}

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        drop(self.take(|_| true));
    }
}

/// Gives back what was charged ahead.
pub(super) fn give_back_all(nodes: &Arc<Nodes>, batch: &Batch, unused: &Unused) -> Vec<GivingBack> {
    let charges = batch.charges().iter().enumerate();
    let each = charges.map(|(place, charge)| {
        let alone = Batch::alone(charge, batch.key(charge));
        give_back(nodes, &alone, &unused.at(place))
    });
    each.collect()
}

/// Gives back charges to one counter, the only one of a batch: a slot that is being moved takes no
/// others.
fn give_back(nodes: &Arc<Nodes>, alone: &Batch, unused: &Unused) -> GivingBack {
    let cmd = script::give_back(alone, unused);
    let first = alone.charges().first();
    let key = first.map_or("", |charge| alone.key(charge)).to_owned();
    let nodes = Arc::clone(nodes);
    Box::pin(async move {
        let call = |slot, asking| Call {
            work: Work::Script(cmd.clone(), 0),
            key: &key,
            slot,
            asking,
            parts: 1,
        };
        let deadline = Instant::now() + PATIENCE;
        if let Err(error) = send(&nodes, slot_of(&key), deadline, call).await {
            tracing::debug!(key, ?error, "a charge could not be given back");
        }
    })
}
