//! The script of the store in a real Redis, with a clock that the test sets.

use redis::{Value, aio::MultiplexedConnection};
use tokio::runtime::{Builder, Runtime};
use tollgate::store::{
    Batch, StoreError,
    redis::script::{self, Check, Mode, Replies, ScriptReply},
};

use super::redis::Redis;

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
        let connection = runtime
            .block_on(client.get_multiplexed_async_connection())
            .unwrap();
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
        let checks: Vec<Check> = batches
            .iter()
            .map(|batch| Check::new(batch, batch.charges().iter(), Mode::Charge))
            .collect();
        let mut command = script::command("EVAL", &self.source, checks.iter());
        command.arg(now);
        // An error of one check is not one of the call.
        let mut connection = self.connection.clone();
        let sent = connection.send_packed_command(&command);
        let mut replies = Replies::read(self.runtime.block_on(sent).unwrap()).unwrap();
        assert_eq!(replies.now_us(), now);
        let replies = checks.iter().map(|check| replies.next(check.charges()));
        replies.collect()
    }

    /// Stores a text that tollgate did not write.
    pub fn set(&self, key: &str, text: &str) {
        let mut command = redis::cmd("MSET");
        command.arg(key).arg(text).arg(format!("{key}:ttl")).arg(1);
        let _: Value = self.query(&command);
    }

    /// Takes back at `now` what was charged at `charged_at`.
    pub fn give_back(&self, batch: &Batch, charged_at: u64, now: u64) {
        let source = inject_clock(script::GIVE_BACK_SOURCE).replace("'XX', 'KEEPTTL'", "'XX'");
        let charges = batch.charges().iter();
        let mut command = script::give_back_command("EVAL", &source, batch, charges, charged_at);
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
