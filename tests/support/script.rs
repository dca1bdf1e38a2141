//! The script of the store in a real Redis, with a clock that the test sets.

use std::time::Duration;

use redis::{AsyncConnectionConfig, Value, aio::MultiplexedConnection};
use tokio::runtime::{Builder, Runtime};
use tollgate::{
    limit::{Limit, State},
    store::{
        Batch, StoreError, Unused,
        redis::{
            replies::{Replies, ScriptReply},
            script::{self, Check, Mode},
            shares::Shares,
        },
    },
};

use super::redis::Redis;

/// How long a reply may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to a Redis of its own.
pub struct Scripted {
    source: String,
    runtime: Runtime,
    connection: MultiplexedConnection,
    _redis: Redis,
}

impl Scripted {
    /// Starts a Redis.
    pub fn start() -> Self {
        let redis = Redis::start();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let client = redis::Client::open(redis.url()).unwrap();
        // Machines that run tests can be slow.
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        let connection = runtime.block_on(connection).unwrap();
        Self {
            source: with_injected_clock(),
            runtime,
            connection,
            _redis: redis,
        }
    }

    /// The reply of the script at `now`.
    pub fn charge(&self, batch: &Batch, now: u64) -> ScriptReply {
        let mut replies = self.charge_together(&[batch], now);
        replies.remove(0).unwrap()
    }

    /// The replies of the script at `now`, to one call about all of these batches.
    pub fn charge_together(
        &self,
        batches: &[&Batch],
        now: u64,
    ) -> Vec<Result<ScriptReply, StoreError>> {
        let each: Vec<_> = batches.iter().map(|batch| (*batch, 1)).collect();
        let replies = self.charge_counted(&each, now);
        replies.into_iter().flatten().collect()
    }

    /// The replies of the script at `now`, to one call about all of these batches, each of which is
    /// asked so many times.
    pub fn charge_counted(
        &self,
        batches: &[(&Batch, u32)],
        now: u64,
    ) -> Vec<Vec<Result<ScriptReply, StoreError>>> {
        self.call(batches, now, |shares, times| {
            let each = (0..times).map(|_| match &mut *shares {
                Ok(shares) => Ok(shares.take(1).unwrap()),
                Err(error) => Err(error.clone()),
            });
            each.collect()
        })
    }

    /// The reply of the script at `now` to the question how many of `times` equal checks fit.
    pub fn charge_ahead(&self, batch: &Batch, times: u32, now: u64) -> ScriptReply {
        let take = |shares: &mut Result<Shares, StoreError>, times| {
            shares.as_mut().unwrap().take(times).unwrap()
        };
        self.call(&[(batch, times)], now, take).remove(0)
    }

    fn call<T>(
        &self,
        batches: &[(&Batch, u32)],
        now: u64,
        mut take: impl FnMut(&mut Result<Shares, StoreError>, u32) -> T,
    ) -> Vec<T> {
        let checks: Vec<(Check, u32)> = batches
            .iter()
            .map(|(batch, times)| {
                let charges = batch.charges().iter();
                (Check::new(batch, charges, Mode::Charge), *times)
            })
            .collect();
        let asked = checks.iter().map(|(check, times)| (check, *times));
        let mut command = script::command("EVAL", &self.source, asked);
        command.arg(now);
        // An error of one check is not one of the call.
        let mut connection = self.connection.clone();
        let sent = connection.send_packed_command(&command);
        let mut replies = Replies::read(self.runtime.block_on(sent).unwrap()).unwrap();
        assert_eq!(replies.now_us(), now);
        let replies = checks.iter().map(|(check, times)| {
            let mut shares = Shares::read(&mut replies, check, *times);
            take(&mut shares, *times)
        });
        replies.collect()
    }

    /// Stores a text that tollgate did not write.
    pub fn set(&self, key: &str, text: &str) {
        self.keep(key, text, 1);
    }

    /// Grants more of a limit at `now`, as a person does. A value that is not of tollgate stays.
    pub fn grant(&self, key: &str, limit: &Limit, now: u64, more: u64) {
        let stored = self.stored(key).map(|(text, _)| text);
        let state = stored
            .as_deref()
            .map(|text| State::parse(limit.algorithm(), text));
        if state == Some(None) || !limit.covers(now) {
            return;
        }
        let (state, expires_us) = limit.grant(state.flatten(), now, more);
        self.keep(key, &state.to_string(), (expires_us - now).div_ceil(1_000));
    }

    /// Stores a text that is kept for so many milliseconds.
    fn keep(&self, key: &str, text: &str, ttl: u64) {
        let mut command = redis::cmd("MSET");
        command
            .arg(key)
            .arg(text)
            .arg(format!("{key}:ttl"))
            .arg(ttl);
        let _: Value = self.query(&command);
    }

    /// Takes back at `now` what was charged at `charged_us`.
    pub fn give_back(&self, batch: &Batch, charged_us: u64, now: u64) {
        let unused = Unused {
            copies: 1,
            charged_us,
            remaining: Vec::new(),
        };
        self.take_back(batch, &unused, now);
    }

    /// Takes equal charges back at `now`.
    pub fn take_back(&self, batch: &Batch, unused: &Unused, now: u64) {
        let source = inject_clock(script::GIVE_BACK_SOURCE).replace("'XX', 'KEEPTTL'", "'XX'");
        let mut command = script::give_back_command("EVAL", &source, batch, unused);
        command.arg(now);
        let _: Value = self.query(&command);
    }

    /// The text of a counter, and how long (milliseconds) the script wants it kept.
    pub fn stored(&self, key: &str) -> Option<(String, u64)> {
        let mut command = redis::cmd("MGET");
        command.arg(key).arg(format!("{key}:ttl"));
        let (text, ttl): (Option<String>, Option<u64>) = self.query(&command);
        text.zip(ttl)
    }

    /// Forgets a counter, as Redis does when its time is up.
    pub fn expire(&self, key: &str) {
        let mut command = redis::cmd("DEL");
        command.arg(key).arg(format!("{key}:ttl"));
        let _: u64 = self.query(&command);
    }

    fn query<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> T {
        let mut connection = self.connection.clone();
        self.runtime
            .block_on(command.query_async(&mut connection))
            .unwrap()
    }
}

/// The script with another clock and another write: it takes the time from the last argument, and
/// stores the time to live of a key beside it instead of setting it (Redis' own clock goes on
/// meanwhile). Keys that say so cannot be written.
fn with_injected_clock() -> String {
    let store = "local function store(key, value, px, ttl)\n\
                 if string.find(key, 'unwritable', 1, true) then return { err = 'OOM no' } end\n\
                 return redis.call('MSET', key, value, key .. ':ttl', ttl)\nend\n";
    let source = inject_clock(script::SOURCE).replace("write('SET', ", "store(");
    let source = format!("{store}{source}");
    assert!(
        !source.contains("'SET'") && !source.contains("'TIME'"),
        "another write or another clock"
    );
    source
}

/// The script, with its clock read from the last argument.
fn inject_clock(source: &str) -> String {
    let clock = "local time = redis.call('TIME')\nlocal now = time[1] * 1000000 + time[2]";
    assert!(source.contains(clock), "the script has changed: adapt this");
    source.replace(clock, "local now = tonumber(table.remove(ARGV))")
}
