//! Counters that people look through and change.

use std::pin::Pin;

use super::{Batch, StoreError};

/// Counters that can be changed. Not for checks: it may take its time.
///
/// What is changed is changed in the store at once and as a whole. Replicas also remember some of
/// what the store has said: [`announce`](Self::announce) has them forget it.
pub trait Edit: Send + Sync {
    /// Removes counters and bans of one client of one rule. Returns how many there were.
    fn remove<'a>(&'a self, keys: &'a [String]) -> Editing<'a, u64>;

    /// Bans the client of this key for so many microseconds.
    fn ban<'a>(&'a self, key: &'a str, for_us: u64) -> Editing<'a, ()>;

    /// Grants `more` than it holds of each limit of a batch, which are those of one client of one
    /// rule.
    fn grant<'a>(&'a self, batch: &'a Batch, more: u64) -> Editing<'a, ()>;

    /// Has all other replicas forget what they remember of the store, and waits for that.
    fn announce(&self) -> Editing<'_, Announced>;

    /// Reads some of the counters whose keys begin with `prefix`, from a place on.
    fn page<'a>(&'a self, prefix: &'a str, from: Place) -> Editing<'a, Page>;
}

/// The pending result of an edit.
pub type Editing<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Who has heard of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// Replicas that have not confirmed it. What they remember is over within a second.
    pub missing: u64,
}

/// A place in all counters: the number of a node, and its cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// The number of the node, in a cluster.
    pub node: usize,
    /// The cursor of `SCAN`.
    pub cursor: u64,
}

/// Some counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The store's time, in microseconds since the Unix epoch.
    pub now_us: u64,
    /// Keys and what is stored under them. One that is on two pages has changed meanwhile.
    pub counters: Vec<(String, String)>,
    /// Where it goes on; `None` after the last page.
    pub next: Option<Place>,
}
