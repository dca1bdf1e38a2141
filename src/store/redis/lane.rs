//! A lane: one task, one long-lived connection, a queue of checks.
//!
//! While only a few checks are under way, another one goes out alone and at once. Else, and as long
//! as there were many of late, it waits for replies; then the task takes what has queued up
//! meanwhile, and writes it as a few calls of the script, in one pipeline. Under load the calls
//! grow by themselves, so all checks that arrived during a round trip share its cost, and most of
//! the cost of a call.
//!
//! The connection stays with the lane until it breaks, or until its server turns out to be no
//! primary any more. A pool that lends it to one check at a time would share no round trip
//! (docs/architecture.md has figures).
//!
//! Without a connection, the lane answers at once that there is none: no check waits for a
//! reconnect.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use redis::{
    Pipeline, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
};
use tokio::{
    sync::mpsc,
    task::yield_now,
    time::{Instant, sleep, timeout},
};

use super::{
    address::Address,
    connect::Connector,
    job::{self, Call, Job, in_calls, pipeline},
    redirect::{Redirect, Undecided},
    replies::{self, Replies},
    script,
    time::RedisTime,
};
use crate::jitter::half_to_whole;
use crate::store::StoreError;

/// How a lane behaves when Redis does not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// How long a reply is awaited before the connection counts as broken.
    pub(super) answer: Duration,
    /// How long an attempt to connect may take.
    pub(super) connect: Duration,
    /// How often an idle connection is probed.
    pub(super) idle_probe: Duration,
    /// The pauses between attempts to connect: the first, and the longest.
    pub(super) reconnect: (Duration, Duration),
}

/// With more checks than these under way, others wait for a reply, and share a call. With fewer
/// there would be nothing to share, only a round trip to wait for.
const FEW: usize = 4;

/// How often a lane looks for more checks before it sends a pipeline, when there are many.
const LOOKS: usize = 4;

/// How many checks a pipeline has nowadays: as many as the largest of late.
///
/// Under load, a reply is followed by as many checks as it has answered, one by one. If each of the
/// first few went alone, each would cost a call.
#[derive(Debug, Default)]
struct Crowd(usize);

impl Crowd {
    /// Notes a pipeline of so many checks.
    fn note(&mut self, checks: usize) {
        self.0 = checks.max(self.0 - self.0.div_ceil(8));
    }

    fn is_large(&self) -> bool {
        self.0 > FEW
    }

    /// Whether more may be sent while so many are under way.
    fn lets_go(&self, under_way: usize) -> bool {
        under_way == 0 || under_way <= FEW && !self.is_large()
    }
}

/// The most checks in one pipeline: it bounds how long the first of them waits for the last.
const MAX_PIPELINE: usize = 256;

/// How often a busy lane wakes up for nothing.
///
/// Each check has a timer for its deadline. A runtime that knows of no earlier timer is woken for
/// each of them by a system call; with a lane that wakes up before any deadline it knows of one.
const TICK: Duration = Duration::from_millis(5);

/// Called for each reply of Redis, and when a connection was made.
pub(super) type OnReply = Arc<dyn Fn() + Send + Sync>;

/// Called when a lane gains (`Ok`) or loses (`Err`) its connection.
pub(super) type OnChange = Arc<dyn Fn(Result<(), &StoreError>) + Send + Sync>;

/// Calls that were not run.
struct Left {
    calls: Vec<Call>,
    /// Whether the scripts were loaded since.
    is_loaded: bool,
}

pub(super) struct Lane {
    pub(super) connector: Connector,
    pub(super) patience: Patience,
    /// The most checks in one call.
    pub(super) batch: usize,
    pub(super) connected: Arc<AtomicBool>,
    pub(super) on_change: OnChange,
    pub(super) on_reply: OnReply,
    pub(super) time: Arc<RedisTime>,
    /// The node of a cluster that it belongs to.
    pub(super) node: Option<Address>,
}

impl Lane {
    /// Serves the queue until its sender is dropped.
    pub(super) async fn run(self, mut queue: mpsc::Receiver<Job>) {
        let mut reason = StoreError::Unavailable("no connection yet".to_owned());
        let (shortest, longest) = self.patience.reconnect;
        let mut pause = shortest;
        while let Some(connection) = self.connect(&mut queue, &mut reason).await {
            self.connected.store(true, Ordering::Relaxed);
            (self.on_change)(Ok(()));
            (self.on_reply)();
            let since = Instant::now();
            let ended = self.serve(&connection, &mut queue).await;
            self.connected.store(false, Ordering::Relaxed);
            drop(connection);
            let Some(error) = ended else { return };
            (self.on_change)(Err(&error));
            let is_demoted = matches!(error, StoreError::Refused(_));
            reason = error.into_unavailable();
            // A server that is no primary accepts connections all the same; and one that breaks
            // them with each check would be connected to as often as it is asked.
            pause = match since.elapsed() {
                _ if is_demoted => longest,
                lasted if lasted > longest => shortest,
                _ => (pause * 2).min(longest),
            };
            let waiting = sleep(half_to_whole(pause));
            if refusing(&mut queue, &reason, waiting).await.is_none() {
                return;
            }
        }
    }

    /// Connects until there is a connection with the script loaded; `None` if the queue was closed.
    /// Meanwhile every job is answered at once with the last reason.
    async fn connect(
        &self,
        queue: &mut mpsc::Receiver<Job>,
        reason: &mut StoreError,
    ) -> Option<MultiplexedConnection> {
        let (mut pause, longest) = self.patience.reconnect;
        loop {
            let attempt = async {
                let mut connection = self.connector.connect().await?;
                let usable = async {
                    // Who has not logged in may not send anything as long as a script, and Redis
                    // would only complain about its length.
                    let ping = connection.req_packed_command(&redis::cmd("PING")).await?;
                    ping.extract_error()?;
                    self.load_scripts(&mut connection).await
                };
                match usable.await {
                    Ok(()) => Ok(connection),
                    Err(error) => Err(replies::refused(&error)),
                }
            };
            let attempt = timeout(self.patience.connect, attempt);
            match refusing(queue, reason, attempt).await? {
                Ok(Ok(connection)) => return Some(connection),
                Ok(Err(error)) => *reason = error.into_unavailable(),
                Err(_) => {
                    *reason = StoreError::Unavailable(format!(
                        "redis took longer than {:?} to accept a connection",
                        self.patience.connect
                    ));
                }
            }
            (self.on_change)(Err(reason));
            refusing(queue, reason, sleep(half_to_whole(pause))).await?;
            pause = (pause * 2).min(longest);
        }
    }

    /// Serves until the connection breaks (why) or the queue is closed (`None`). What is under way
    /// when it breaks has no answer.
    async fn serve(
        &self,
        connection: &MultiplexedConnection,
        queue: &mut mpsc::Receiver<Job>,
    ) -> Option<StoreError> {
        let mut pipelines = FuturesUnordered::new();
        let mut under_way = 0;
        let mut crowd = Crowd::default();
        let mut jobs = Vec::new();
        let mut tick = std::pin::pin!(sleep(TICK));
        let (mut ticks, mut is_used) = (false, false);
        loop {
            let is_quiet = pipelines.is_empty();
            tokio::select! {
                biased;
                Some(exchanged) = pipelines.next(), if !is_quiet => match exchanged {
                    Ok(count) => under_way -= count,
                    Err(error) => return Some(error),
                },
                received = queue.recv_many(&mut jobs, MAX_PIPELINE), if crowd.lets_go(under_way) => {
                    if received == 0 {
                        while pipelines.next().await.is_some() {}
                        return None;
                    }
                    if crowd.is_large() {
                        gather(queue, &mut jobs).await;
                    }
                    let now = Instant::now();
                    is_used = true;
                    if !ticks {
                        ticks = true;
                        tick.as_mut().reset(now + TICK);
                    }
                    jobs.retain(|job: &Job| !job.is_stale(now));
                    crowd.note(jobs.len());
                    under_way += jobs.len();
                    let jobs = std::mem::take(&mut jobs);
                    pipelines.push(self.exchange(connection.clone(), jobs));
                }
                () = &mut tick, if ticks => {
                    ticks = is_used;
                    is_used = false;
                    tick.as_mut().reset(Instant::now() + TICK);
                }
                // Quiet: notice a dead connection before the next check does.
                () = sleep(self.patience.idle_probe), if is_quiet => {
                    if let Err(error) = self.probe(&mut connection.clone()).await {
                        return Some(error);
                    }
                }
            }
        }
    }

    async fn probe(&self, connection: &mut MultiplexedConnection) -> Result<(), StoreError> {
        let mut ping = Pipeline::new();
        ping.cmd("PING");
        self.send(connection, &ping).await.map(drop)
    }

    /// Sends the jobs as one pipeline of calls and answers them; returns how many they were.
    async fn exchange(
        &self,
        mut connection: MultiplexedConnection,
        jobs: Vec<Job>,
    ) -> Result<usize, StoreError> {
        let count = jobs.len();
        let mut calls = in_calls(jobs.into_iter(), self.batch);
        let mut is_loaded = false;
        while !calls.is_empty() {
            let left = self.exchange_once(&mut connection, calls, is_loaded).await;
            let left = left.map_err(|(error, left)| {
                for job in left.into_iter().flat_map(Call::into_jobs) {
                    job.answer(Err(error.clone().into()));
                }
                error
            })?;
            let now = Instant::now();
            calls = left.calls;
            calls.retain_mut(|call| call.retain(|job| !job.is_stale(now)));
            is_loaded |= left.is_loaded;
        }
        Ok(count)
    }

    /// Sends calls and answers them. Returns those that were not run and are to be repeated; after
    /// an error, those that have no answer.
    async fn exchange_once(
        &self,
        connection: &mut MultiplexedConnection,
        calls: Vec<Call>,
        is_loaded: bool,
    ) -> Result<Left, (StoreError, Vec<Call>)> {
        let asked = Instant::now();
        let sent = self.send(connection, &pipeline(&calls)).await;
        let mut answers = match sent {
            Ok(answers) => answers.into_iter(),
            Err(error) => return Err((error, calls)),
        };
        let mut left = Vec::new();
        let mut is_missing = false;
        let mut demoted = None;
        for call in calls {
            if call.asking() {
                // The OK to ASKING.
                answers.next();
            }
            let Some(answer) = answers.next() else {
                continue; // `send` has counted them.
            };
            if !is_loaded && replies::is_missing_script(&answer) {
                is_missing = true;
                left.push(call);
            } else if call.checks.len() > 1 && self.is_scattered(&answer) {
                left.extend(call.checks.into_iter().map(Call::of));
            } else {
                demoted = demoted.or(replies::read_only(&answer));
                self.answer(call, answer, asked);
            }
        }
        if let Some(error) = demoted {
            // Somebody else is the primary now. Those that are left were not charged.
            for job in left.into_iter().flat_map(Call::into_jobs) {
                job.answer(Err(error.clone().into()));
            }
            return Err((error, Vec::new()));
        }
        if is_missing {
            // Redis forgot the script: load it, and repeat what is still wanted.
            match timeout(self.patience.answer, self.load_scripts(connection)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err((replies::refused(&error), left)),
                Err(_) => return Err((StoreError::Deadline, left)),
            }
        }
        Ok(Left {
            calls: left,
            is_loaded: is_missing,
        })
    }

    /// Whether a call was not run because its keys are on several nodes for the moment. Alone, each
    /// check may have all of its keys on one.
    fn is_scattered(&self, answer: &Value) -> bool {
        let redirect = self
            .node
            .as_ref()
            .and_then(|node| Redirect::of(answer, node));
        matches!(redirect, Some(Redirect::Ask(_) | Redirect::TryAgain))
    }

    /// Answers the jobs of a call that was `asked` then, and notes the time in its reply.
    fn answer(&self, call: Call, answer: Value, asked: Instant) {
        let redirect = self
            .node
            .as_ref()
            .and_then(|node| Redirect::of(&answer, node));
        if let Some(redirect) = redirect {
            for job in call.into_jobs() {
                job.answer(Err(Undecided::Redirected(redirect.clone())));
            }
            return;
        }
        match Replies::read(answer) {
            Ok(mut replies) => {
                self.time.observe(replies.now_us(), asked);
                for equals in call.checks {
                    job::answer(equals, &mut replies);
                }
            }
            Err(error) => {
                for job in call.into_jobs() {
                    job.answer(Err(error.clone().into()));
                }
            }
        }
    }

    /// Loads the scripts that are called by their names.
    async fn load_scripts(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), redis::RedisError> {
        let sources = [
            script::SOURCE,
            script::HEARTBEAT_SOURCE,
            script::GIVE_BACK_SOURCE,
            script::CHANGES_SOURCE,
        ];
        for source in sources {
            let mut cmd = redis::cmd("SCRIPT");
            cmd.arg("LOAD").arg(source);
            let answer = connection.req_packed_command(&cmd).await?;
            answer.extract_error()?;
        }
        Ok(())
    }

    async fn send(
        &self,
        connection: &mut MultiplexedConnection,
        pipeline: &Pipeline,
    ) -> Result<Vec<Value>, StoreError> {
        let answers = pipeline.len();
        let sent = connection.req_packed_commands(pipeline, 0, answers);
        match timeout(self.patience.answer, sent).await {
            Ok(Ok(values)) if values.len() == answers => {
                (self.on_reply)();
                Ok(values)
            }
            Ok(Ok(values)) => Err(StoreError::Broken(format!(
                "{} answers to {answers} commands",
                values.len()
            ))),
            Ok(Err(error)) if error.is_timeout() => Err(StoreError::Deadline),
            Ok(Err(error)) => Err(StoreError::Broken(error.to_string())),
            Err(_) => Err(StoreError::Deadline),
        }
    }
}

/// Adds the jobs that come at the same time. As long as each look at what has come brings more,
/// there is another one, and at most [`LOOKS`].
async fn gather(queue: &mut mpsc::Receiver<Job>, jobs: &mut Vec<Job>) {
    for _ in 0..LOOKS {
        yield_now().await;
        let before = jobs.len();
        while jobs.len() < MAX_PIPELINE
            && let Ok(job) = queue.try_recv()
        {
            jobs.push(job);
        }
        if jobs.len() == before {
            return;
        }
    }
}

/// Runs `task`, and meanwhile answers every job with `reason`. `None` if the queue was closed.
async fn refusing<T>(
    queue: &mut mpsc::Receiver<Job>,
    reason: &StoreError,
    task: impl Future<Output = T>,
) -> Option<T> {
    tokio::pin!(task);
    loop {
        tokio::select! {
            done = &mut task => return Some(done),
            job = queue.recv() => job?.answer(Err(reason.clone().into())),
        }
    }
}
