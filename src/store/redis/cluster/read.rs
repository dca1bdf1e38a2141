//! Reads keys from the nodes that have them, for explanations.

use std::collections::{HashMap, hash_map::Entry};

use redis::{
    Pipeline, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
};

use super::{
    super::{address::Address, connect::Connector, redirect::Redirect},
    mapper::Mapper,
    slots::{Slots, slot_of},
};
use crate::store::StoreError;

/// Reads single keys, over one connection for each node that has been asked.
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
        let slot = slot_of(key);
        let mut ask = None;
        let mut failure = StoreError::Deadline;
        for _ in 0..ATTEMPTS {
            let (node, asking) = match ask.take() {
                Some(node) => (node, true),
                None => (self.owner(slot).await?, false),
            };
            let mut commands = Pipeline::with_capacity(3);
            if asking {
                commands.cmd("ASKING");
            }
            commands.cmd("GET").arg(key);
            commands.cmd("TIME");
            let connection = match self.connection(&node).await {
                Ok(connection) => connection,
                Err(error) => {
                    // Another node may have the slot by now.
                    self.slots = None;
                    return Err(error);
                }
            };
            let answered = connection.req_packed_commands(&commands, 0, commands.len());
            let mut values = match answered.await {
                Ok(values) => values,
                Err(error) => {
                    // The kept connection has ended, or the node is gone.
                    self.connections.remove(&node);
                    self.slots = None;
                    failure = StoreError::Broken(error.to_string());
                    continue;
                }
            };
            let (Some(time), Some(value)) = (values.pop(), values.pop()) else {
                return Err(StoreError::Malformed("the node did not answer".to_owned()));
            };
            match Redirect::of(&value, &node) {
                None => return Ok((value, time)),
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
