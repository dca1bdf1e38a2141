//! Finds out which node has which slots, by asking the nodes themselves.

use std::{collections::HashMap, time::Duration};

use redis::{
    Pipeline, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
};
use tokio::{task::JoinSet, time::timeout};

use super::{
    super::{address::Address, connect::Connector},
    slots::Slots,
};
use crate::store::StoreError;

/// Asks for the map of a cluster. Keeps one connection for each node that it has asked.
pub(super) struct Mapper {
    connector: Connector,
    seeds: Vec<Address>,
    kept: HashMap<Address, MultiplexedConnection>,
}

/// How long further answers are waited for, after one of a node that says that the cluster serves.
const OTHERS: Duration = Duration::from_millis(50);
/// The same after those of others only: they may be cut off, or belong to no cluster any more.
const BETTER: Duration = Duration::from_millis(500);

/// A node's view of the cluster.
pub(super) struct View {
    pub(super) slots: Slots,
    /// Whether the node believes that the cluster serves. One that is cut off with a minority does
    /// not, and its map may be old.
    pub(super) is_ok: bool,
    /// Grows with every change.
    epoch: u64,
}

impl Mapper {
    pub(super) fn new(connector: Connector) -> Self {
        let seeds = connector.seeds();
        Self {
            connector,
            seeds,
            kept: HashMap::new(),
        }
    }

    /// The map of the cluster, as that node knows it which knows the latest. The nodes of the URL
    /// are asked, and `known` ones, all at once.
    pub(super) async fn map(&mut self, known: &[Address]) -> Result<View, StoreError> {
        let mut nodes: Vec<Address> = self.seeds.iter().chain(known).cloned().collect();
        nodes.sort_unstable();
        nodes.dedup();
        self.kept.retain(|node, _| nodes.contains(node));
        let mut asked = JoinSet::new();
        for node in nodes {
            let (connector, kept) = (self.connector.to(&node), self.kept.remove(&node));
            asked.spawn(async move {
                let view = view(&connector, kept, &node).await;
                (node, view)
            });
        }
        let mut best: Option<View> = None;
        let mut failure = StoreError::Unavailable("no node of the cluster is known".to_owned());
        loop {
            let answer = match &best {
                None => asked.join_next().await,
                Some(best) => {
                    let patience = if best.is_ok { OTHERS } else { BETTER };
                    let next = timeout(patience, asked.join_next()).await;
                    next.unwrap_or(None)
                }
            };
            match answer {
                None => break,
                Some(Ok((node, Ok((connection, view))))) => {
                    self.kept.insert(node, connection);
                    if best
                        .as_ref()
                        .is_none_or(|best| (view.is_ok, view.epoch) > (best.is_ok, best.epoch))
                    {
                        best = Some(view);
                    }
                }
                Some(Ok((node, Err(error)))) => {
                    failure = StoreError::Unavailable(format!("{node}: {error}"));
                }
                Some(Err(error)) => failure = StoreError::Broken(error.to_string()),
            }
        }
        best.ok_or(failure)
    }
}

/// What a node knows; over the kept connection, or if that has ended, over a new one.
async fn view(
    connector: &Connector,
    kept: Option<MultiplexedConnection>,
    node: &Address,
) -> Result<(MultiplexedConnection, View), StoreError> {
    if let Some(mut connection) = kept
        && let Ok(view) = ask(&mut connection, node).await
    {
        return Ok((connection, view));
    }
    let connecting = timeout(connector.patience(), connector.connect()).await;
    let mut connection = connecting.unwrap_or(Err(StoreError::Deadline))?;
    let view = ask(&mut connection, node).await?;
    Ok((connection, view))
}

async fn ask(connection: &mut MultiplexedConnection, node: &Address) -> Result<View, StoreError> {
    let mut questions = Pipeline::with_capacity(2);
    questions.cmd("CLUSTER").arg("INFO");
    questions.cmd("CLUSTER").arg("SLOTS");
    let answers = connection.req_packed_commands(&questions, 0, 2).await;
    let answers = answers.map_err(|error| StoreError::Broken(error.to_string()))?;
    let [info, slots] = &answers[..] else {
        return Err(malformed());
    };
    for answer in [info, slots] {
        if let Value::ServerError(error) = answer {
            let hint = match error.code() {
                "NOPERM" => " (the Redis user needs +cluster|info +cluster|slots +asking)",
                _ => " (is it a node of a cluster? else write redis:// in --redis-url)",
            };
            return Err(StoreError::Refused(format!("redis: {error}{hint}")));
        }
    }
    let slots = Slots::parse(slots, &node.host).ok_or_else(malformed)?;
    let info = match info {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::VerbatimString { text, .. } => text.clone(),
        _ => return Err(malformed()),
    };
    let field = |name: &str| {
        let mut lines = info.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    };
    Ok(View {
        slots,
        is_ok: field("cluster_state") == Some("ok"),
        epoch: field("cluster_current_epoch")
            .and_then(|epoch| epoch.parse().ok())
            .unwrap_or(0),
    })
}

fn malformed() -> StoreError {
    StoreError::Malformed("the node gave no map of the cluster".to_owned())
}
