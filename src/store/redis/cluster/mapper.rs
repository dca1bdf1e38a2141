//! Finds out which node has which slots, by asking the nodes themselves.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

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
    /// Questions under way, also those that nobody has waited for until the end: asking again would
    /// make one connection after the other to a node that hangs.
    asked: JoinSet<Answer>,
    /// The nodes that they went to.
    asking: HashSet<Address>,
    /// Counts the readings.
    reading: u64,
}

/// What a node has answered, in which reading.
struct Answer {
    node: Address,
    reading: u64,
    view: Result<(MultiplexedConnection, View), StoreError>,
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
            asked: JoinSet::new(),
            asking: HashSet::new(),
            reading: 0,
        }
    }

    /// The map of the cluster, as that node knows it which knows the latest. The nodes of the URL
    /// are asked, and `known` ones, all at once.
    pub(super) async fn map(&mut self, known: &[Address]) -> Result<View, StoreError> {
        let mut nodes: Vec<Address> = self.seeds.iter().chain(known).cloned().collect();
        nodes.sort_unstable();
        nodes.dedup();
        self.kept.retain(|node, _| nodes.contains(node));
        self.reading += 1;
        let reading = self.reading;
        while let Some(late) = self.asked.try_join_next() {
            self.note(late.ok());
        }
        for node in nodes {
            if !self.asking.insert(node.clone()) {
                continue;
            }
            let (connector, kept) = (self.connector.to(&node), self.kept.remove(&node));
            self.asked.spawn(async move {
                let view = view(&connector, kept, &node).await;
                Answer {
                    node,
                    reading,
                    view,
                }
            });
        }
        let mut best: Option<View> = None;
        let mut failure = StoreError::Unavailable("no node of the cluster is known".to_owned());
        loop {
            let answer = match &best {
                None => self.asked.join_next().await,
                Some(best) => {
                    let patience = if best.is_ok { OTHERS } else { BETTER };
                    let next = timeout(patience, self.asked.join_next()).await;
                    next.unwrap_or(None)
                }
            };
            let Some(answer) = answer else { break };
            match self.note(answer.ok()) {
                // An answer to an earlier question may be older than what is known.
                Some((asked_in, _)) if asked_in != reading => {}
                Some((_, Ok(view))) => {
                    let rank = |view: &View| (view.is_ok, view.epoch);
                    if best.as_ref().is_none_or(|best| rank(&view) > rank(best)) {
                        best = Some(view);
                    }
                }
                Some((_, Err(error))) => failure = error,
                None => {}
            }
        }
        best.ok_or(failure)
    }

    /// Keeps the connection of an answer; returns in which reading the question was asked, and what
    /// the answer says.
    fn note(&mut self, answer: Option<Answer>) -> Option<(u64, Result<View, StoreError>)> {
        let Some(Answer {
            node,
            reading,
            view,
        }) = answer
        else {
            // A question has panicked, and which one is not known: all may be asked again.
            self.asking.clear();
            return None;
        };
        self.asking.remove(&node);
        let view = match view {
            Ok((connection, view)) => {
                // One that does not serve may be what is left of a cluster that is elsewhere now.
                // A name is looked up again then: it would never lead there while the connection
                // is well.
                if view.is_ok || node.is_literal() {
                    self.kept.insert(node, connection);
                }
                Ok(view)
            }
            Err(error) => Err(StoreError::Unavailable(format!("{node}: {error}"))),
        };
        Some((reading, view))
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
