//! Charges that are given back, because the request was not admitted after all.

use std::{sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use super::{
    super::{node::Call, script},
    map::Nodes,
    send::send,
};
use crate::store::Batch;

/// Charges that were made, and are given back when this is dropped; unless they are kept.
pub(super) struct GiveBack<'a> {
    nodes: &'a Arc<Nodes>,
    batch: &'a Batch,
    owed: Vec<Owed>,
}

/// A charge, by its place in the batch.
struct Owed {
    slot: u16,
    place: usize,
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

    /// Begins to give back, in tasks of their own: whoever waits for the answer may be gone.
    fn begin(&mut self) -> Vec<JoinHandle<()>> {
        let owed = std::mem::take(&mut self.owed);
        let Ok(runtime) = Handle::try_current() else {
            return Vec::new(); // It is shutting down.
        };
        let owed = owed.into_iter();
        owed.map(|owed| runtime.spawn(self.give_one_back(&owed)))
            .collect()
    }

    /// Gives one charge back. Key by key: a slot that is being moved takes no others.
    fn give_one_back(&self, owed: &Owed) -> impl Future<Output = ()> + Send + 'static {
        let slot = owed.slot;
        let charge = &self.batch.charges()[owed.place];
        let key = self.batch.key(charge).to_owned();
        let cmd = script::give_back(self.batch, std::iter::once(charge), owed.charged_us);
        let nodes = Arc::clone(self.nodes);
        async move {
            let since = Instant::now();
            let call = |asking| Call {
                cmd: cmd.clone(),
                charges: 0,
                key: &key,
                asking,
                since,
            };
            if let Err(error) = send(&nodes, slot, since + PATIENCE, call).await {
                tracing::debug!(key, ?error, "a charge could not be given back");
            }
        }
    }

    /// Adds charges that were made. Bans among them count denials, and are not given back.
    pub(super) fn add(&mut self, slot: u16, places: &[usize], charged_us: u64) {
        let limits = places
            .iter()
            .filter(|&&place| self.batch.charges()[place].limit().is_some());
        self.owed.extend(limits.map(|&place| Owed {
            slot,
            place,
            charged_us,
        }));
    }

    /// Gives all of it back, and waits for that until `deadline`.
    pub(super) async fn give_back(mut self, deadline: Instant) {
        for giving in self.begin() {
            let _ = timeout_at(deadline, giving).await;
        }
    }

    /// Gives nothing back.
    pub(super) fn keep(mut self) {
        self.owed.clear();
    }

    /// Gives back only what is denied.
    pub(super) fn keep_unless(mut self, is_denied: impl Fn(usize) -> bool) {
        self.owed.retain(|owed| is_denied(owed.place));
    }
}

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        self.begin();
    }
}
