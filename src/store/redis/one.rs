//! Charges by one server, each batch in one call.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    job::{Reply, Work},
    node::{Call, Node},
    redirect::Undecided,
    script::{self, Check, Mode},
};
use crate::store::{Answer, Batch, ChargedAhead, GivingBack, StoreError, Unused};

/// How long giving back is tried.
const PATIENCE: Duration = Duration::from_secs(1);

/// Charges the whole batch.
pub(super) async fn charge(
    node: &Node,
    batch: &Batch,
    deadline: Instant,
) -> Result<Answer, StoreError> {
    let check = Check::new(batch, batch.charges().iter(), Mode::Charge);
    let reply = call(node, batch, Work::Check(check, 1), deadline).await;
    reply.map_err(failure)?.verdict.map(Answer::from)
}

/// Charges the batch up to `times` at once, if none of its counters is new.
pub(super) async fn charge_ahead(
    node: &Node,
    batch: &Batch,
    times: u32,
    deadline: Instant,
) -> Result<ChargedAhead, StoreError> {
    let check = Check::new(
        batch,
        batch.charges().iter(),
        Mode::ChargePart { new: false },
    );
    let reply = call(node, batch, Work::Check(check, times), deadline).await;
    let reply = reply.map_err(failure)?;
    if reply.asks_for_new {
        return charge(node, batch, deadline).await.map(ChargedAhead::once);
    }
    reply.try_into()
}

/// Gives back what was charged ahead.
pub(super) fn give_back(node: &Arc<Node>, batch: &Batch, unused: &Unused) -> GivingBack {
    let cmd = script::give_back(batch, unused);
    let (node, batch) = (Arc::clone(node), batch.clone());
    Box::pin(async move {
        let deadline = Instant::now() + PATIENCE;
        if let Err(error) = call(&node, &batch, Work::Script(cmd, 0), deadline).await {
            tracing::debug!(?error, "charges could not be given back");
        }
    })
}

async fn call(node: &Node, batch: &Batch, work: Work, deadline: Instant) -> Reply {
    let first = batch.charges().first();
    let call = Call {
        work,
        key: first.map_or("", |charge| batch.key(charge)),
        slot: 0,
        asking: false,
        parts: 1,
    };
    node.call(call, deadline).await
}

/// The error of a call that no node of a cluster was asked.
pub(super) fn failure(undecided: Undecided) -> StoreError {
    match undecided {
        Undecided::Failed(error) => error,
        // Only nodes of a cluster redirect, and their replies are read as such.
        Undecided::Redirected(redirect) => {
            StoreError::Malformed(format!("redis redirected the check: {redirect:?}"))
        }
    }
}
