//! Where else in a Redis Cluster a command has to go. It was not executed, so it can be sent again.
//!
//! See the [Redis Cluster specification](https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#redirection-and-resharding).

use redis::{RedisError, ServerErrorKind, Value};

use super::address::Address;
use crate::store::StoreError;

/// What a node of a cluster said instead of deciding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Redirect {
    /// The slot belongs to another node now.
    Moved(Address),
    /// The slot is being moved, and these keys are already there, or would be new: ask there, this
    /// time only.
    Ask(Address),
    /// The slot is being moved, and these keys are not all on one side.
    TryAgain,
    /// Nowhere for now: the cluster does not serve, or not this slot. Says nothing about the node.
    Nowhere(StoreError),
}

/// Why there is no decision yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Undecided {
    /// There will be none.
    Failed(StoreError),
    /// Another node decides.
    Redirected(Redirect),
}

impl From<StoreError> for Undecided {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl Redirect {
    /// The redirection in a reply of `node`, if it is one. A node that does not know its own host
    /// leaves it out.
    pub(super) fn of(reply: &Value, node: &Address) -> Option<Self> {
        let Value::ServerError(error) = reply else {
            return None;
        };
        let kind = error.kind()?;
        if kind == ServerErrorKind::TryAgain {
            return Some(Self::TryAgain);
        }
        let error = RedisError::from(error.clone());
        if kind == ServerErrorKind::ClusterDown {
            return Some(Self::Nowhere(StoreError::Refused(format!(
                "redis: {error}"
            ))));
        }
        let (address, _) = error.redirect_node()?;
        let address = Address::parse(address, &node.host)?;
        match kind {
            ServerErrorKind::Moved => Some(Self::Moved(address)),
            ServerErrorKind::Ask => Some(Self::Ask(address)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_are_read() {
        let node = Address::new("n", 1);
        for (reply, expected) in [
            (
                "-MOVED 3999 h:6381\r\n",
                Some(Redirect::Moved(Address::new("h", 6381))),
            ),
            (
                "-MOVED 3999 :6381\r\n",
                Some(Redirect::Moved(Address::new("n", 6381))),
            ),
            (
                "-ASK 1 ::1:6381\r\n",
                Some(Redirect::Ask(Address::new("::1", 6381))),
            ),
            (
                "-TRYAGAIN Multiple keys request\r\n",
                Some(Redirect::TryAgain),
            ),
            ("-MOVED\r\n", None),
            ("-MOVED x y\r\n", None),
            (
                "-CLUSTERDOWN Hash slot not served\r\n",
                Some(Redirect::Nowhere(StoreError::Refused(
                    "redis: ClusterDown: Hash slot not served".to_owned(),
                ))),
            ),
            (":1\r\n", None),
        ] {
            let value = redis::parse_redis_value(reply.as_bytes()).unwrap();
            assert_eq!(Redirect::of(&value, &node), expected, "{reply}");
        }
    }
}
