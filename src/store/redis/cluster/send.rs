//! A call of a script, on its way to the node that has its slot.

use tokio::time::Instant;

use super::{
    super::{
        node::Call,
        redirect::{Redirect, Undecided},
        replies::ScriptReply,
    },
    map::Nodes,
};
use crate::store::StoreError;

/// How often a call is sent to another node at most.
const REDIRECTS: usize = 8;

/// Sends a call to the node that has its slot, and after it where it is redirected to. What was
/// redirected was not executed. `call` is given the slot, and whether it is asked for.
pub(super) async fn send<'a>(
    nodes: &Nodes,
    slot: u16,
    deadline: Instant,
    call: impl Fn(u16, bool) -> Call<'a>,
) -> Result<ScriptReply, Undecided> {
    let mut ask = None;
    let mut last = Redirect::TryAgain;
    for _ in 0..REDIRECTS {
        let (node, asking) = match ask.take() {
            Some(address) => (nodes.at(&address), true),
            None => match nodes.owner(slot) {
                Ok(node) => (node, false),
                Err(error) => {
                    nodes.outdated();
                    return Err(error.into());
                }
            },
        };
        let mut reply = node.call(call(slot, asking), deadline).await;
        // A node that has just become known is worth waiting for.
        if matches!(reply, Err(Undecided::Failed(StoreError::Unavailable(_))))
            && node.is_new()
            && node.connected_by(deadline).await
        {
            reply = node.call(call(slot, asking), deadline).await;
        }
        match reply {
            Ok(reply) => return Ok(reply),
            Err(Undecided::Redirected(redirect)) => {
                match &redirect {
                    Redirect::Moved(to) => nodes.moved(slot, to),
                    Redirect::Ask(to) => ask = Some(to.clone()),
                    Redirect::TryAgain => return Err(Undecided::Redirected(redirect)),
                    Redirect::Nowhere(error) => {
                        nodes.outdated();
                        return Err(error.clone().into());
                    }
                }
                last = redirect;
            }
            Err(failed) => {
                nodes.outdated();
                return Err(failed);
            }
        }
    }
    Err(Undecided::Redirected(last))
}
