//! The nodes of a cluster: which has a slot now, and how the map is kept up to date.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

use super::{
    super::{
        address::Address, connect::Connector, connectivity::OnChange, node::Node, options::Options,
        time::RedisTime,
    },
    health::Health,
    mapper::{Mapper, View},
    slots::Slots,
};
use crate::{jitter::half_to_whole, store::StoreError, workers::Workers};

/// The nodes of a cluster.
pub(super) struct Nodes {
    map: ArcSwapOption<Map>,
    started: Mutex<HashMap<Address, Started>>,
    health: Arc<Health>,
    connector: Connector,
    options: Options,
    time: Arc<RedisTime>,
    workers: Workers,
    /// Notified when the map seems to be old.
    outdated: Notify,
    /// Notified when the map was read.
    mapped: Notify,
}

/// The slots, and a node for each primary.
struct Map {
    slots: Slots,
    nodes: Vec<Arc<Node>>,
}

struct Started {
    node: Arc<Node>,
    /// When it was last in the map, or asked for.
    used: Instant,
}

/// How often the map is read when all is well: redirections say what has changed before that.
const CALM: Duration = Duration::from_secs(30);
/// How often it is read while something is missing.
const ALARM: Duration = Duration::from_millis(250);
/// The pause before it is read because of a redirection or a loss. It doubles with each reading,
/// up to [`ALARM`], until there was no reason to read it for as long.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a node is kept that is not in the map and not asked: slots may be on their way to it.
const KEPT: Duration = Duration::from_secs(60);

impl Nodes {
    pub(super) fn new(
        connector: Connector,
        options: &Options,
        time: &Arc<RedisTime>,
        workers: &Workers,
        on_change: OnChange,
    ) -> Self {
        Self {
            map: ArcSwapOption::empty(),
            started: Mutex::default(),
            health: Arc::new(Health::new(on_change)),
            connector,
            options: options.clone(),
            time: Arc::clone(time),
            workers: workers.clone(),
            outdated: Notify::new(),
            mapped: Notify::new(),
        }
    }

    /// The node that has a slot.
    pub(super) fn owner(&self, slot: u16) -> Result<Arc<Node>, StoreError> {
        let map = self.map.load();
        let place = map.as_ref().and_then(|map| map.slots.place_of(slot));
        place
            .and_then(|place| map.as_ref()?.nodes.get(place))
            .cloned()
            .ok_or_else(|| self.health.reason())
    }

    /// The node at an address; started if it was not known.
    pub(super) fn at(&self, address: &Address) -> Arc<Node> {
        let mut started = self.lock();
        if let Some(known) = started.get_mut(address) {
            known.used = Instant::now();
            return Arc::clone(&known.node);
        }
        let on_change = {
            let (health, address) = (Arc::clone(&self.health), address.clone());
            Box::new(move |change: Result<(), &StoreError>| health.node_changed(&address, change))
        };
        let node = Arc::new(Node::start(
            &self.connector.to(address),
            &self.options,
            Some(address),
            &self.time,
            &self.workers,
            on_change,
        ));
        let used = Instant::now();
        started.insert(
            address.clone(),
            Started {
                node: Arc::clone(&node),
                used,
            },
        );
        node
    }

    /// A node said that a slot has moved. That is known now; what else has moved is asked.
    pub(super) fn moved(&self, slot: u16, to: &Address) {
        let is_known = |map: &Arc<Map>| map.slots.owner(slot) == Some(to);
        if !self.map.load().as_ref().is_some_and(is_known) {
            self.map.rcu(|map| {
                map.as_ref()
                    .map(|map| Arc::new(self.with_nodes(map.slots.with_moved(slot, to))))
            });
        }
        self.outdated();
    }

    /// Has the map read soon.
    pub(super) fn outdated(&self) {
        self.outdated.notify_one();
    }

    /// Waits until the map is known and a node is connected, at most until `deadline`.
    pub(super) async fn connected_by(&self, deadline: Instant) -> bool {
        let mapped = self.mapped.notified();
        if self.map.load().is_none() {
            let _ = timeout_at(deadline, mapped).await;
        }
        let Some(map) = self.map.load_full() else {
            return false;
        };
        let mut is_connected = false;
        for node in &map.nodes {
            is_connected |= node.connected_by(deadline).await;
        }
        is_connected
    }

    /// Keeps the map up to date, for ever.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut mapper = Mapper::new(self.connector.clone());
        let mut hold = PAUSE;
        loop {
            let known = self.map.load_full();
            let known = known.as_ref().map_or(&[][..], |map| map.slots.primaries());
            match mapper.map(known).await {
                Ok(view) => self.apply(view),
                Err(error) => self.health.unmapped(error),
            }
            let pause = if self.health.is_well() { CALM } else { ALARM };
            let calm_since = Instant::now();
            tokio::select! {
                () = self.outdated.notified() => {}
                () = sleep(half_to_whole(pause)) => {}
            }
            // Each check that fails says that the map seems to be old. Where that does not help, it
            // must not make a load on the nodes.
            if calm_since.elapsed() > ALARM {
                hold = PAUSE;
            }
            sleep(half_to_whole(hold)).await;
            hold = (hold * 2).min(ALARM);
        }
    }

    fn apply(&self, view: View) {
        self.health.mapped(&view);
        let map = self.with_nodes(view.slots);
        let now = Instant::now();
        let mut started = self.lock();
        started.retain(|address, started| {
            map.slots.primaries().contains(address) || now - started.used < KEPT
        });
        self.health.retain(|address| started.contains_key(address));
        drop(started);
        self.map.store(Some(Arc::new(map)));
        self.mapped.notify_waiters();
    }

    fn with_nodes(&self, slots: Slots) -> Map {
        let nodes = slots.primaries().iter().map(|node| self.at(node)).collect();
        Map { slots, nodes }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Address, Started>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
