//! Whether a server serves: reports changes of the whole, not of each lane and each check.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{breaker::Breaker, redirect::Undecided, replies::ScriptReply};
use crate::{store::StoreError, throttle::Throttle};

/// Called when Redis is reached (`Ok`) or lost, and why.
pub type OnChange = Box<dyn Fn(Result<(), &StoreError>) + Send + Sync>;

/// Reports changes in order, and none twice.
pub(super) struct Reporter {
    on_change: OnChange,
    /// What was reported last: that Redis serves, or why not.
    reported: Option<Result<(), String>>,
    /// Keeps changing reasons from flooding the log.
    pause: Throttle,
}

/// How often another reason is reported at most, while Redis does not serve.
const REPORT_PAUSE: Duration = Duration::from_secs(5);

impl Reporter {
    pub(super) fn new(on_change: OnChange) -> Self {
        Self {
            on_change,
            reported: None,
            pause: Throttle::new(REPORT_PAUSE),
        }
    }

    pub(super) fn report(&mut self, serves: Result<(), &StoreError>) {
        let news = serves.map_err(ToString::to_string);
        let now = Instant::now();
        match &self.reported {
            Some(reported) if *reported == news => return,
            // Another reason for the same state.
            Some(Err(_)) if news.is_err() => {
                if self.pause.permit(now).is_none() {
                    return;
                }
            }
            _ => {
                self.pause = Throttle::new(REPORT_PAUSE);
                self.pause.permit(now);
            }
        }
        (self.on_change)(serves);
        self.reported = Some(news);
    }
}

/// Whether a server serves: a lane is connected, and its replies are decisions.
pub(super) struct Connectivity {
    state: Mutex<ConnectivityState>,
    pub(super) breaker: Breaker,
    /// Whether Redis refused a check lately; spares [`Connectivity::answered`] the lock.
    refusing: AtomicBool,
    /// Notified whenever a lane was connected.
    pub(super) reached: Notify,
}

struct ConnectivityState {
    up: Vec<bool>,
    reason: StoreError,
    refused: Option<(Instant, StoreError)>,
    /// Why the breaker is open, if it is.
    hangs: Option<StoreError>,
    /// Whether an attempt to connect has failed, or a connection was made.
    is_tried: bool,
    reporter: Reporter,
}

/// How long Redis counts as not serving after a reply that was not a decision: some keys may be
/// fine while others are not.
const REFUSAL_LASTS: Duration = Duration::from_secs(10);
impl Connectivity {
    pub(super) fn new(lanes: usize, on_change: OnChange) -> Self {
        Self {
            state: Mutex::new(ConnectivityState {
                up: vec![false; lanes],
                reason: StoreError::Unavailable("no connection yet".to_owned()),
                refused: None,
                hangs: None,
                is_tried: false,
                reporter: Reporter::new(on_change),
            }),
            breaker: Breaker::default(),
            refusing: AtomicBool::new(false),
            reached: Notify::new(),
        }
    }

    /// A lane was connected, or lost its connection.
    pub(super) fn changed(&self, lane: usize, change: Result<(), &StoreError>) {
        let mut state = self.lock();
        state.up[lane] = change.is_ok();
        state.is_tried = true;
        if let Err(error) = change {
            state.reason = error.clone().into_unavailable();
        }
        Self::report(&mut state);
        drop(state);
        if change.is_ok() {
            self.reached.notify_waiters();
        }
    }

    /// A check was late.
    pub(super) fn late(&self) {
        if self.breaker.late() {
            self.breaker_moved();
        }
    }

    /// Redis has replied, whatever it said.
    pub(super) fn replied(&self) {
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
        Self::report(&mut state);
    }

    /// A call was answered, by a decision or by an error.
    pub(super) fn answered(&self, reply: &Result<ScriptReply, Undecided>) {
        match reply {
            Err(Undecided::Failed(error @ (StoreError::Refused(_) | StoreError::Malformed(_)))) => {
                let mut state = self.lock();
                state.refused = Some((Instant::now(), error.clone()));
                self.refusing.store(true, Ordering::Relaxed);
                Self::report(&mut state);
            }
            Ok(_) if self.refusing.load(Ordering::Relaxed) => {
                let mut state = self.lock();
                if state
                    .refused
                    .as_ref()
                    .is_none_or(|(at, _)| at.elapsed() >= REFUSAL_LASTS)
                {
                    state.refused = None;
                    self.refusing.store(false, Ordering::Relaxed);
                    Self::report(&mut state);
                }
            }
            _ => {}
        }
    }

    /// Under the lock, so that reports come in order.
    fn report(state: &mut ConnectivityState) {
        let ConnectivityState {
            up,
            reason,
            refused,
            hangs,
            reporter,
            is_tried: _,
        } = state;
        reporter.report(match (refused, hangs) {
            _ if !up.contains(&true) => Err(reason),
            (_, Some(hangs)) => Err(hangs),
            (Some((_, error)), None) => Err(error),
            (None, None) => Ok(()),
        });
    }

    /// Whether no attempt to connect has ended yet.
    pub(super) fn is_new(&self) -> bool {
        !self.lock().is_tried
    }

    pub(super) fn reason(&self) -> StoreError {
        let state = self.lock();
        state.hangs.as_ref().unwrap_or(&state.reason).clone()
    }

    fn lock(&self) -> MutexGuard<'_, ConnectivityState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
