//! Charges that are given back, because the request was not admitted after all.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    super::{job::Work, node::Call, script},
    map::Nodes,
    send::send,
    slots::slot_of,
};
use crate::store::{Batch, Unsettled};

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
        Unsettled::new(owed.map(|owed| Box::pin(give_back(nodes, batch, &owed)) as _))
    }
}

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        drop(self.take(|_| true));
    }
}

/// Gives one charge back. Key by key: a slot that is being moved takes no others.
fn give_back(
    nodes: &Arc<Nodes>,
    batch: &Batch,
    owed: &Owed,
) -> impl Future<Output = ()> + Send + 'static {
    let charge = &batch.charges()[owed.place];
    let key = owed.shared.as_deref().unwrap_or(batch.key(charge));
    let alone = Batch::alone(charge, key);
    let cmd = script::give_back(&alone, alone.charges().iter(), owed.charged_us);
    let (nodes, key) = (Arc::clone(nodes), key.to_owned());
    async move {
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
    }
}
