//! Asks the nodes that have some keys, for people who look at counters or change them.

use std::collections::{HashMap, hash_map::Entry};

use redis::{
    Cmd, Pipeline, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
};

use super::{
    super::{address::Address, connect::Connector, redirect::Redirect},
    mapper::Mapper,
    slots::{Slots, slot_of},
};
use crate::store::StoreError;

/// Asks about single keys, over one connection for each node that has been asked.
pub(in crate::store::redis) struct ClusterReader {
    connector: Connector,
    mapper: Mapper,
    slots: Option<Slots>,
    connections: HashMap<Address, MultiplexedConnection>,
}

/// How often a question is asked at another node, or over another connection, at most.
const ATTEMPTS: usize = 8;

impl ClusterReader {
    pub(in crate::store::redis) fn new(connector: Connector) -> Self {
        Self {
            mapper: Mapper::new(connector.clone()),
            connector,
            slots: None,
            connections: HashMap::new(),
        }
    }

    /// The replies to `GET` and, after it, to `TIME`.
    pub(in crate::store::redis) async fn get(
        &mut self,
        key: &str,
    ) -> Result<(Value, Value), StoreError> {
        let mut get = redis::cmd("GET");
        get.arg(key);
        let mut values = self.run(key, &[get, redis::cmd("TIME")], true).await?;
        match (values.pop(), values.pop()) {
            (Some(time), Some(value)) => Ok((value, time)),
            _ => Err(StoreError::Malformed("the node did not answer".to_owned())),
        }
    }

    /// The replies of the node that has a key to some commands; only the first may be redirected.
    /// If the connection breaks, they are sent `again` or not.
    pub(in crate::store::redis) async fn run(
        &mut self,
        key: &str,
        commands: &[Cmd],
        again: bool,
    ) -> Result<Vec<Value>, StoreError> {
        let slot = slot_of(key);
        let mut ask = None;
        let mut failure = StoreError::Deadline;
        for _ in 0..ATTEMPTS {
            let (node, asking) = match ask.take() {
                Some(node) => (node, true),
                None => (self.owner(slot).await?, false),
            };
            let mut pipeline = Pipeline::with_capacity(commands.len() + 1);
            if asking {
                pipeline.cmd("ASKING");
            }
            for command in commands {
                pipeline.add_command(command.clone());
            }
            let connection = match self.connection(&node).await {
                Ok(connection) => connection,
                Err(error) => {
                    // Another node may have the slot by now.
                    self.slots = None;
                    return Err(error);
                }
            };
            let answered = connection.req_packed_commands(&pipeline, 0, pipeline.len());
            let mut values = match answered.await {
                Ok(values) => values,
                Err(error) => {
                    // The kept connection has ended, or the node is gone.
                    self.connections.remove(&node);
                    self.slots = None;
                    failure = StoreError::Broken(error.to_string());
                    if again {
                        continue;
                    }
                    break;
                }
            };
            if asking {
                values.remove(0);
            }
            let redirect = values.first().and_then(|value| Redirect::of(value, &node));
            match redirect {
                None => return Ok(values),
                Some(Redirect::Ask(to)) => ask = Some(to),
                Some(Redirect::Moved(to)) => {
                    self.slots = self.slots.as_ref().map(|slots| slots.with_moved(slot, &to));
                }
                Some(Redirect::TryAgain) => {}
                Some(Redirect::Nowhere(error)) => {
                    // The cluster may be elsewhere.
                    self.slots = None;
                    return Err(error);
                }
            }
        }
        Err(failure)
    }

    /// The replies of the node of this number to some commands; `None` if there are not so many.
    pub(in crate::store::redis) async fn run_on(
        &mut self,
        number: usize,
        commands: &[Cmd],
    ) -> Result<Option<Vec<Value>>, StoreError> {
        let slots = match self.slots.take() {
            Some(slots) => slots,
            None => self.mapper.map(&[]).await?.slots,
        };
        let node = slots.primaries().get(number).cloned();
        self.slots = Some(slots);
        let Some(node) = node else { return Ok(None) };
        let mut pipeline = Pipeline::with_capacity(commands.len());
        for command in commands {
            pipeline.add_command(command.clone());
        }
        for _ in 0..2 {
            let connection = self.connection(&node).await?;
            let answered = connection.req_packed_commands(&pipeline, 0, pipeline.len());
            match answered.await {
                Ok(values) => return Ok(Some(values)),
                Err(_) => self.connections.remove(&node),
            };
        }
        self.slots = None;
        Err(StoreError::Broken(format!("{node} does not answer")))
    }

    async fn owner(&mut self, slot: u16) -> Result<Address, StoreError> {
        let slots = match self.slots.take() {
            Some(slots) => slots,
            None => self.mapper.map(&[]).await?.slots,
        };
        let owner = slots.owner(slot).cloned();
        self.slots = owner.as_ref().map(|_| slots);
        owner.ok_or_else(|| StoreError::Unavailable(format!("no node serves slot {slot}")))
    }

    async fn connection(
        &mut self,
        node: &Address,
    ) -> Result<&mut MultiplexedConnection, StoreError> {
        match self.connections.entry(node.clone()) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(place) => {
                let connecting = self.connector.to(node).connect().await;
                Ok(place.insert(connecting.map_err(StoreError::into_unavailable)?))
            }
        }
    }
}
