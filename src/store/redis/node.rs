//! One server: its lanes, its breaker, and whether it serves.

use std::{
    hash::BuildHasher as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use foldhash::fast::RandomState;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::{
    address::Address,
    connect::Connector,
    connectivity::{Connectivity, OnChange},
    job::{Job, Reply, Work},
    lane::{Lane, Patience},
    options::Options,
    time::RedisTime,
};
use crate::{store::StoreError, workers::Workers};

/// A server that scripts are sent to.
pub(super) struct Node {
    /// For each worker as many.
    lanes: Vec<LaneHandle>,
    workers: Workers,
    hasher: RandomState,
    connectivity: Arc<Connectivity>,
    /// How long a check has waited that is late.
    deadline: Duration,
}

struct LaneHandle {
    queue: mpsc::Sender<Job>,
    connected: Arc<AtomicBool>,
}

/// A call of a script.
pub(super) struct Call<'a> {
    pub(super) work: Work,
    /// One of its keys. Calls with the same key share a lane.
    pub(super) key: &'a str,
    /// The slot of its keys in a cluster; without one, 0.
    pub(super) slot: u16,
    /// Whether a node of a cluster is asked for keys that are being moved to it.
    pub(super) asking: bool,
    /// How many calls share the time of the check, this one included; at least 1.
    pub(super) parts: u32,
}

/// The most calls that wait for a lane. With a deadline of tens of milliseconds, a longer queue
/// would only hold stale ones.
const QUEUE: usize = 16_384;

impl Node {
    /// Starts the lanes; they connect by themselves, now and after every loss, and end when the
    /// node is dropped. Must be called within a tokio runtime. `address` is that of a node of a
    /// cluster.
    pub(super) fn start(
        connector: &Connector,
        options: &Options,
        address: Option<&Address>,
        time: &Arc<RedisTime>,
        workers: &Workers,
        on_change: OnChange,
    ) -> Self {
        let runtimes = workers.runtimes();
        let lanes = options.lanes.max(1) * runtimes.len();
        let connectivity = Arc::new(Connectivity::new(lanes, on_change));
        let patience = Patience {
            answer: options.answer_timeout,
            connect: connector.patience(),
            idle_probe: Duration::from_secs(1),
            reconnect: (Duration::from_millis(20), Duration::from_millis(500)),
        };
        let lanes = (0..lanes)
            .map(|index| {
                let (queue, jobs) = mpsc::channel(QUEUE);
                let connected = Arc::new(AtomicBool::new(false));
                let connectivity = Arc::clone(&connectivity);
                let lane = Lane {
                    connector: connector.clone(),
                    patience,
                    batch: options.batch.max(1),
                    connected: Arc::clone(&connected),
                    on_reply: {
                        let connectivity = Arc::clone(&connectivity);
                        Arc::new(move || connectivity.replied())
                    },
                    on_change: Arc::new(move |change| connectivity.changed(index, change)),
                    time: Arc::clone(time),
                    node: address.cloned(),
                };
                runtimes[index % runtimes.len()].spawn(lane.run(jobs));
                LaneHandle { queue, connected }
            })
            .collect();
        Self {
            lanes,
            workers: workers.clone(),
            hasher: RandomState::default(),
            connectivity,
            deadline: options.deadline,
        }
    }

    /// Calls a script; answers at the deadline at the latest.
    pub(super) async fn call(&self, call: Call<'_>, deadline: Instant) -> Reply {
        let Call {
            work,
            key,
            slot,
            asking,
            parts,
        } = call;
        if self.connectivity.breaker.is_open() {
            return Err(self.connectivity.reason().into());
        }
        let lane = self.lane(key)?;
        let asked = Instant::now();
        let (reply, answer) = oneshot::channel();
        let job = Job {
            work,
            slot,
            asking,
            deadline,
            reply,
        };
        lane.queue
            .try_send(job)
            .map_err(|_| StoreError::Overloaded)?;
        let reply = match timeout_at(deadline, answer).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => {
                Err(StoreError::Broken("the connection of the check was closed".to_owned()).into())
            }
            Err(_) => {
                // A proxy may wait less than we would; that says nothing about Redis.
                if asked.elapsed() >= self.deadline * 9 / 10 / parts {
                    self.connectivity.late();
                }
                Err(StoreError::Deadline.into())
            }
        };
        self.connectivity.answered(&reply);
        reply
    }

    /// Waits for the first lane to connect, at most until `deadline`; returns whether one is
    /// connected.
    pub(super) async fn connected_by(&self, deadline: Instant) -> bool {
        let reached = self.connectivity.reached.notified();
        if self.is_connected() {
            return true;
        }
        let _ = timeout_at(deadline, reached).await;
        self.is_connected()
    }

    /// Whether it has just been started, and its first attempt to connect is under way.
    pub(super) fn is_new(&self) -> bool {
        self.connectivity.is_new()
    }

    fn is_connected(&self) -> bool {
        self.lanes
            .iter()
            .any(|lane| lane.connected.load(Ordering::Relaxed))
    }

    /// The lane for a key: of this worker, and there the same keys meet in the same lane.
    ///
    /// If that lane has lost its connection and another has not, the other one serves: the script
    /// is exact over any connection.
    fn lane(&self, key: &str) -> Result<&LaneHandle, StoreError> {
        let workers = self.workers.runtimes().len();
        let lanes = (self.lanes.len() / workers) as u64;
        // Below the number of lanes, so it fits.
        let index = usize::try_from(self.hasher.hash_one(key) % lanes).unwrap_or(0);
        let index = index * workers + self.workers.place();
        let is_up = |lane: &&LaneHandle| lane.connected.load(Ordering::Relaxed);
        Some(&self.lanes[index])
            .filter(is_up)
            .or_else(|| self.lanes.iter().find(is_up))
            .ok_or_else(|| self.connectivity.reason())
    }
}
