//! Whether a cluster serves: its map is known, and each of its primaries is reached.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    super::{
        address::Address,
        connectivity::{OnChange, Reporter},
    },
    mapper::View,
};
use crate::store::StoreError;

/// Gathers the states of all nodes into one.
pub(super) struct Health(Mutex<State>);

struct State {
    /// All nodes that have been started, each with why it does not serve.
    nodes: BTreeMap<Address, Option<StoreError>>,
    /// Those that have slots. What is wrong with others matters to nobody.
    primaries: Vec<Address>,
    /// What is wrong with the map.
    map: Option<StoreError>,
    reporter: Reporter,
}

impl Health {
    pub(super) fn new(on_change: OnChange) -> Self {
        Self(Mutex::new(State {
            nodes: BTreeMap::new(),
            primaries: Vec::new(),
            map: Some(StoreError::Unavailable(
                "the map of the cluster is not known yet".to_owned(),
            )),
            reporter: Reporter::new(on_change),
        }))
    }

    /// A node is reached, or lost.
    pub(super) fn node_changed(&self, node: &Address, change: Result<(), &StoreError>) {
        let mut state = self.lock();
        state.nodes.insert(node.clone(), change.err().cloned());
        state.report();
    }

    /// Forgets all nodes but these.
    pub(super) fn retain(&self, is_kept: impl Fn(&Address) -> bool) {
        self.lock().nodes.retain(|node, _| is_kept(node));
    }

    /// The map is known.
    pub(super) fn mapped(&self, view: &View) {
        let mut state = self.lock();
        state.primaries = view.slots.primaries().to_vec();
        state.map = match view.slots.unserved() {
            0 if view.is_ok => None,
            0 => Some(StoreError::Unavailable(
                "the cluster says that it does not serve".to_owned(),
            )),
            n => Some(StoreError::Unavailable(format!(
                "no node of the cluster serves {n} of its slots"
            ))),
        };
        state.report();
    }

    /// No node says what the map is.
    pub(super) fn unmapped(&self, error: StoreError) {
        let mut state = self.lock();
        state.map = Some(error);
        state.report();
    }

    /// Whether everything is well.
    pub(super) fn is_well(&self) -> bool {
        self.lock().serves().is_ok()
    }

    /// Why there is no map.
    pub(super) fn reason(&self) -> StoreError {
        let state = self.lock();
        let unknown = || StoreError::Unavailable("no node serves this slot".to_owned());
        state.map.clone().unwrap_or_else(unknown).into_unavailable()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn serves(&self) -> Result<(), StoreError> {
        if let Some(error) = &self.map {
            return Err(error.clone());
        }
        for node in &self.primaries {
            let error = match self.nodes.get(node) {
                Some(None) => continue,
                Some(Some(error)) => error.to_string(),
                None => "no connection yet".to_owned(),
            };
            return Err(StoreError::Unavailable(format!("{node}: {error}")));
        }
        Ok(())
    }

    fn report(&mut self) {
        let is_new = |node: &Address| !self.nodes.contains_key(node);
        if self.map.is_none() && self.primaries.iter().any(is_new) {
            return; // It has just been started, and will soon be reached, or not.
        }
        let serves = self.serves();
        self.reporter
            .report(serves.as_ref().err().map_or(Ok(()), Err));
    }
}
