//! Counters in Redis: one script call per check, sent over a few long-lived lanes.

mod breaker;
mod connect;
mod lane;
mod options;
mod read;
pub mod script;
mod time;

use std::{
    hash::BuildHasher as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use foldhash::fast::RandomState;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, timeout_at},
};

use self::{
    breaker::Breaker,
    connect::Connector,
    lane::{Job, Lane, Patience},
    time::RedisTime,
};
pub use self::{
    options::{Options, SentinelLogin, TlsFiles},
    read::Reader,
};
use super::{
    Batch, Charging, Store, StoreError,
    read::{Read, Reads},
};
use crate::{problem::Problem, throttle::Throttle};

/// Called when Redis is reached (`Ok`) or lost, and why.
pub type OnChange = Box<dyn Fn(Result<(), &StoreError>) + Send + Sync>;

/// The store in Redis.
pub struct RedisStore {
    lanes: Vec<LaneHandle>,
    reader: Reader,
    hasher: RandomState,
    connectivity: Arc<Connectivity>,
    /// How long a check has waited that is late.
    deadline: Duration,
    time: Arc<RedisTime>,
}

struct LaneHandle {
    queue: mpsc::Sender<Job>,
    connected: Arc<AtomicBool>,
}

/// The most checks that wait for a lane. With a deadline of tens of milliseconds, a longer queue
/// would only hold stale ones.
const QUEUE: usize = 16_384;

impl RedisStore {
    /// Starts the lanes; they connect by themselves, now and after every loss. Must be called
    /// within a tokio runtime.
    pub fn start(options: &Options, on_change: OnChange) -> Result<Self, Problem> {
        let lanes = options.lanes.max(1);
        let connector = Connector::new(options)?;
        let reader = Reader::new(options)?;
        let connectivity = Arc::new(Connectivity::new(lanes, on_change));
        let time = Arc::new(RedisTime::new());
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
                    connected: Arc::clone(&connected),
                    on_reply: {
                        let connectivity = Arc::clone(&connectivity);
                        Arc::new(move || connectivity.replied())
                    },
                    on_change: Arc::new(move |change| connectivity.changed(index, change)),
                    time: Arc::clone(&time),
                };
                tokio::spawn(lane.run(jobs));
                LaneHandle { queue, connected }
            })
            .collect();
        Ok(Self {
            lanes,
            reader,
            hasher: RandomState::default(),
            connectivity,
            deadline: options.deadline,
            time,
        })
    }

    /// Waits for the first lane to connect, at most `patience`; returns whether one is connected.
    pub async fn connected_within(&self, patience: Duration) -> bool {
        let reached = self.connectivity.reached.notified();
        if self.is_connected() {
            return true;
        }
        let _ = tokio::time::timeout(patience, reached).await;
        self.is_connected()
    }

    fn is_connected(&self) -> bool {
        self.lanes
            .iter()
            .any(|lane| lane.connected.load(Ordering::Relaxed))
    }

    /// The lane for a batch: the same keys meet in the same lane.
    ///
    /// If that lane has lost its connection and another has not, the other one serves: the script
    /// is exact over any connection.
    fn lane(&self, batch: &Batch) -> Result<&LaneHandle, StoreError> {
        let first = batch.charges().first().map_or("", |c| batch.key(c));
        let lanes = self.lanes.len() as u64;
        // Below the number of lanes, so it fits.
        let index = usize::try_from(self.hasher.hash_one(first) % lanes).unwrap_or(0);
        let is_up = |lane: &&LaneHandle| lane.connected.load(Ordering::Relaxed);
        Some(&self.lanes[index])
            .filter(is_up)
            .or_else(|| self.lanes.iter().find(is_up))
            .ok_or_else(|| self.connectivity.reason())
    }
}

impl Store for RedisStore {
    fn charge<'a>(&'a self, batch: &'a Batch, deadline: Instant) -> Charging<'a> {
        Box::pin(async move {
            if self.connectivity.breaker.is_open() {
                return Err(self.connectivity.reason());
            }
            let lane = self.lane(batch)?;
            let asked = Instant::now();
            let (reply, answer) = oneshot::channel();
            let job = Job {
                cmd: script::command("EVALSHA", &script::SHA, batch),
                charges: batch.charges().len(),
                deadline,
                reply,
            };
            lane.queue
                .try_send(job)
                .map_err(|_| StoreError::Overloaded)?;
            let verdict = match timeout_at(deadline, answer).await {
                Ok(Ok(verdict)) => verdict,
                Ok(Err(_)) => Err(StoreError::Broken(
                    "the connection of the check was closed".to_owned(),
                )),
                Err(_) => {
                    // A proxy may wait less than we would; that says nothing about Redis.
                    if asked.elapsed() >= self.deadline {
                        self.connectivity.late();
                    }
                    Err(StoreError::Deadline)
                }
            };
            self.connectivity.answered(verdict.as_ref().err());
            verdict
        })
    }

    fn now_us(&self) -> u64 {
        self.time.now_us()
    }

    fn name(&self) -> &'static str {
        "redis"
    }
}

impl Read for RedisStore {
    fn read<'a>(&'a self, batch: &'a Batch) -> Reads<'a> {
        self.reader.read(batch)
    }
}

/// Whether Redis serves: a lane is connected, and its replies are decisions. Reports changes of the
/// whole, not of each lane and each check.
struct Connectivity {
    state: Mutex<ConnectivityState>,
    breaker: Breaker,
    /// Whether Redis refused a check lately; spares [`Connectivity::answered`] the lock.
    refusing: AtomicBool,
    on_change: OnChange,
    reached: Notify,
}

struct ConnectivityState {
    up: Vec<bool>,
    reason: StoreError,
    refused: Option<(Instant, StoreError)>,
    /// Why the breaker is open, if it is.
    hangs: Option<StoreError>,
    /// What was reported last: that Redis serves, or why not.
    reported: Option<Result<(), String>>,
    /// Keeps changing reasons from flooding the log.
    pause: Throttle,
}

/// How long Redis counts as not serving after a reply that was not a decision: some keys may be
/// fine while others are not.
const REFUSAL_LASTS: Duration = Duration::from_secs(10);
/// How often another reason is reported at most, while Redis does not serve.
const REPORT_PAUSE: Duration = Duration::from_secs(5);

impl Connectivity {
    fn new(lanes: usize, on_change: OnChange) -> Self {
        Self {
            state: Mutex::new(ConnectivityState {
                up: vec![false; lanes],
                reason: StoreError::Unavailable("no connection yet".to_owned()),
                refused: None,
                hangs: None,
                reported: None,
                pause: Throttle::new(REPORT_PAUSE),
            }),
            breaker: Breaker::default(),
            refusing: AtomicBool::new(false),
            on_change,
            reached: Notify::new(),
        }
    }

    /// A lane was connected, or lost its connection.
    fn changed(&self, lane: usize, change: Result<(), &StoreError>) {
        let mut state = self.lock();
        state.up[lane] = change.is_ok();
        if let Err(error) = change {
            state.reason = error.clone().into_unavailable();
        }
        self.report(&mut state);
        drop(state);
        if change.is_ok() {
            self.reached.notify_waiters();
        }
    }

    /// A check was late.
    fn late(&self) {
        if self.breaker.late() {
            self.breaker_moved();
        }
    }

    /// Redis has replied, whatever it said.
    fn replied(&self) {
        if self.breaker.replied() {
            self.breaker_moved();
        }
    }

    /// The breaker opened or closed. It may have moved again since: what counts is how it is now.
    fn breaker_moved(&self) {
        let mut state = self.lock();
        let hangs = || "redis hangs: several checks in a row were late".to_owned();
        let open = self.breaker.is_open();
        state.hangs = open.then(|| StoreError::Unavailable(hangs()));
        self.report(&mut state);
    }

    /// A check was answered, by a decision or by an error.
    fn answered(&self, error: Option<&StoreError>) {
        match error {
            Some(error @ (StoreError::Refused(_) | StoreError::Malformed(_))) => {
                let mut state = self.lock();
                state.refused = Some((Instant::now(), error.clone()));
                self.refusing.store(true, Ordering::Relaxed);
                self.report(&mut state);
            }
            None if self.refusing.load(Ordering::Relaxed) => {
                let mut state = self.lock();
                if state
                    .refused
                    .as_ref()
                    .is_none_or(|(at, _)| at.elapsed() >= REFUSAL_LASTS)
                {
                    state.refused = None;
                    self.refusing.store(false, Ordering::Relaxed);
                    self.report(&mut state);
                }
            }
            _ => {}
        }
    }

    /// Under the lock, so that reports come in order.
    fn report(&self, state: &mut ConnectivityState) {
        let serves = match &state.refused {
            _ if !state.up.contains(&true) => Err(&state.reason),
            _ if state.hangs.is_some() => state.hangs.as_ref().map_or(Ok(()), Err),
            Some((_, error)) => Err(error),
            None => Ok(()),
        };
        let news = serves.map_err(ToString::to_string);
        let now = Instant::now();
        match &state.reported {
            Some(reported) if *reported == news => return,
            // Another reason for the same state.
            Some(Err(_)) if news.is_err() => {
                if state.pause.permit(now).is_none() {
                    return;
                }
            }
            _ => {
                state.pause = Throttle::new(REPORT_PAUSE);
                state.pause.permit(now);
            }
        }
        (self.on_change)(serves);
        state.reported = Some(news);
    }

    fn reason(&self) -> StoreError {
        let state = self.lock();
        state.hangs.as_ref().unwrap_or(&state.reason).clone()
    }

    fn lock(&self) -> MutexGuard<'_, ConnectivityState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
