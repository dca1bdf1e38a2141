//! The memory for requests, shared by all connections of a port.
//!
//! Two thirds are *places*: whoever reads a request and answers it has one, and no byte
//! is read without. When there is none, bytes stay in the kernel, and connections wait in turn; a
//! place is held for as long as a check takes. One third is for *heads* that have not arrived
//! whole. They can be held back for as long as the time limit of heads allows, so when there is no
//! room, those that began longest ago are [shed](Heads::shed).

use std::collections::BTreeMap;
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::head::MAX_HEAD;

/// Permits are for as many bytes.
const UNIT: usize = 1024;

/// What a request costs: what is read at first, the state of the check, and the response.
const PLACE: usize = 20 * UNIT;

/// The most that is read of a head in its first place.
pub(super) const FIRST_READ: usize = 8 * 1024;

/// A part of a head up to this is a cost of the connection, and not counted.
const FREE: usize = 1024;

/// How long a head may take to arrive although there is no room for others, and how long others
/// wait for that room.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often those that wait look for heads to be shed.
const LOOK: Duration = Duration::from_millis(50);

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

/// The memory for requests of one port.
#[derive(Debug)]
pub(super) struct Budget {
    places: Arc<Semaphore>,
    heads: Arc<Heads>,
}

/// The right to read a request and to answer it.
#[derive(Debug)]
pub(super) struct Place(#[expect(dead_code, reason = "held")] Option<OwnedSemaphorePermit>);

impl Budget {
    /// A budget of so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        // Room for the largest request at least, whatever is asked for.
        let all_places = (bytes / 3 * 2).max(PLACE + 2 * MAX_HEAD) / UNIT;
        let heads = (bytes / 3).max(2 * MAX_HEAD) / UNIT;
        Self {
            places: Arc::new(Semaphore::new(all_places)),
            heads: Arc::new(Heads {
                room: Arc::new(Semaphore::new(heads)),
                oldest: Mutex::default(),
                next: AtomicU64::new(0),
            }),
        }
    }

    /// Waits for a place for a head of so many bytes.
    pub(super) async fn place(&self, head: usize) -> Place {
        let mut size = PLACE;
        if head > FIRST_READ {
            // The head, and where its fields are.
            size += 2 * head.min(MAX_HEAD);
        }
        let places = Arc::clone(&self.places);
        if let Ok(permit) = Arc::clone(&places).try_acquire_many_owned(units(size)) {
            return Place(Some(permit));
        }
        // The semaphore is never closed, so there is a permit.
        Place(places.acquire_many_owned(units(size)).await.ok())
    }

    /// Room for a head that begins now.
    pub(super) fn room(&self) -> Room {
        Room {
            heads: Arc::clone(&self.heads),
            permit: None,
            shed: None,
        }
    }
}

/// Room for heads that have not arrived whole.
#[derive(Debug)]
struct Heads {
    room: Arc<Semaphore>,
    /// Who has room, by the time at which the head began.
    oldest: Mutex<BTreeMap<(Instant, u64), Holder>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Holder {
    shed: Arc<Notify>,
    units: usize,
}

impl Heads {
    fn oldest(&self) -> MutexGuard<'_, BTreeMap<(Instant, u64), Holder>> {
        self.oldest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the room of the heads that began longest ago, until there is as much as is needed or
    /// only heads are left that have not had their time.
    fn shed(&self, units: usize) {
        let now = Instant::now();
        let mut freed = self.room.available_permits();
        let mut oldest = self.oldest();
        while freed < units
            && let Some(first) = oldest.first_entry()
            && now.duration_since(first.key().0) >= PATIENCE
        {
            let holder = first.remove();
            freed += holder.units;
            holder.shed.notify_one();
        }
    }
}

/// The room that one connection has for a head; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    heads: Arc<Heads>,
    permit: Option<OwnedSemaphorePermit>,
    shed: Option<Shed>,
}

#[derive(Debug)]
struct Shed {
    key: (Instant, u64),
    notify: Arc<Notify>,
}

impl Room {
    /// Has room for so many bytes in all, of a head that began at `began` and has not arrived
    /// whole. `false` if there is none for too long.
    pub(super) async fn hold(&mut self, bytes: usize, began: Instant) -> bool {
        let want = if bytes <= FREE {
            0
        } else {
            bytes.div_ceil(UNIT)
        };
        let have = self
            .permit
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        if want < have {
            drop(
                self.permit
                    .as_mut()
                    .and_then(|permit| permit.split(have - want)),
            );
        } else if want > have {
            let Some(more) = self.more(want - have).await else {
                return false;
            };
            match &mut self.permit {
                Some(permit) => permit.merge(more),
                None => self.permit = Some(more),
            }
        }
        self.enter(want, began);
        true
    }

    async fn more(&self, more: usize) -> Option<OwnedSemaphorePermit> {
        let room = &self.heads.room;
        let count = units(more * UNIT);
        if let Ok(permit) = Arc::clone(room).try_acquire_many_owned(count) {
            return Some(permit);
        }
        let start = Instant::now();
        let mut waiting = std::pin::pin!(Arc::clone(room).acquire_many_owned(count));
        while start.elapsed() < PATIENCE {
            self.heads.shed(more);
            if let Ok(permit) = timeout(LOOK, &mut waiting).await {
                return permit.ok();
            }
        }
        None
    }

    /// Enters the head among those that may be shed.
    fn enter(&mut self, units: usize, began: Instant) {
        if units == 0 {
            return;
        }
        let mut oldest = self.heads.oldest();
        if let Some(shed) = &self.shed {
            // If it is not there, it has been shed a moment ago.
            if let Some(holder) = oldest.get_mut(&shed.key) {
                holder.units = units;
            }
            return;
        }
        let key = (began, self.heads.next.fetch_add(1, Ordering::Relaxed));
        let notify = Arc::new(Notify::new());
        let holder = Holder {
            shed: Arc::clone(&notify),
            units,
        };
        oldest.insert(key, holder);
        drop(oldest);
        self.shed = Some(Shed { key, notify });
    }

    /// The head has arrived: it is not shed any more.
    pub(super) fn arrived(&mut self) {
        if let Some(shed) = self.shed.take() {
            self.heads.oldest().remove(&shed.key);
        }
    }

    /// Completes when the room is needed for others.
    pub(super) async fn shed(&self) {
        match &self.shed {
            Some(shed) => shed.notify.notified().await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.arrived();
    }
}
