//! The replies to checks that were asked as one: who has which.

use std::{collections::VecDeque, iter::zip};

use smallvec::SmallVec;

use super::{
    replies::{Replies, ScriptReply},
    script::Check,
};
use crate::store::StoreError;

/// The replies to equal checks, of which those that come first are admitted.
pub struct Shares {
    parts: VecDeque<Part>,
    costs: SmallVec<[u64; 2]>,
}

/// Equal checks with equal replies.
struct Part {
    /// How many of them have no reply yet.
    left: u64,
    /// The reply to the last of them.
    reply: ScriptReply,
}

impl Shares {
    /// Reads what is said about `check`, which was asked so many times.
    pub fn read(replies: &mut Replies, check: &Check, times: u32) -> Result<Self, StoreError> {
        let mut parts = VecDeque::with_capacity(2);
        let mut left = u64::from(times);
        while left > 0 {
            let copies = match times {
                1 => 1,
                _ => replies.copies(left)?,
            };
            left -= copies;
            let reply = replies.next(check.charges())?;
            parts.push_back(Part {
                left: copies,
                reply,
            });
        }
        Ok(Self {
            parts,
            costs: check.costs().collect(),
        })
    }

    /// The reply to the next `times` of the checks: to the last of them that is admitted, if any
    /// is. `None` if all have theirs.
    pub fn take(&mut self, times: u32) -> Option<ScriptReply> {
        let mut wanted = u64::from(times);
        let mut share: Option<ScriptReply> = None;
        while wanted > 0 {
            let copies = self.parts.front()?.left.min(wanted);
            wanted -= copies;
            let reply = self.advance(copies)?;
            let granted = share.as_ref().map_or(0, |share| share.granted) + reply.granted * copies;
            if share.is_none() || reply.granted > 0 {
                share = Some(ScriptReply { granted, ..reply });
            }
        }
        share
    }

    /// The reply to the last of the next `copies`, which are all of one part.
    fn advance(&mut self, copies: u64) -> Option<ScriptReply> {
        let part = self.parts.front_mut()?;
        part.left = part.left.checked_sub(copies)?;
        if part.left == 0 {
            return self.parts.pop_front().map(|part| part.reply);
        }
        let mut reply = part.reply.clone();
        if let Ok(result) = &mut reply.verdict
            && result.admitted
        {
            // What those after it are charged is still there.
            for (outcome, cost) in zip(&mut result.outcomes, &self.costs) {
                outcome.remaining += part.left * cost;
            }
        }
        Some(reply)
    }
}
