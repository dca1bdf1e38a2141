//! Reads counters, and changes them, over a connection of its own, so that people who look do not
//! hold up checks.

use std::{sync::Arc, time::Duration};

use redis::{
    Cmd, Pipeline, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
};
use tokio::{sync::Mutex, time::timeout};

use super::{
    cluster::ClusterReader,
    connect::Connector,
    options::{Options, Server},
    replies,
};
use crate::{
    counter_key,
    limit::{State, ban, new_keys::budget},
    problem::Problem,
    store::{
        Batch, Counted, StoreError,
        budgets::Budgets,
        read::{Read, Reading, Reads},
    },
};

/// Reads counters and charges nothing. Needs the rights `+get +time`, `+select` for a database,
/// `+role` behind Sentinels, and `+cluster|info +cluster|slots +asking` in a cluster.
pub struct Reader {
    source: Source,
    /// In a cluster, the budgets of the tollgate that explains.
    budgets: Option<Arc<Budgets>>,
    patience: Duration,
}

/// Where keys are read, over connections that are made when they are needed and kept until they
/// break. One reader has them at a time.
enum Source {
    One {
        connector: Box<Connector>,
        connection: Mutex<Option<MultiplexedConnection>>,
    },
    Cluster(Box<Mutex<ClusterReader>>),
}

impl Reader {
    /// Creates a reader that connects when it is first used.
    pub fn new(options: &Options) -> Result<Self, Problem> {
        let connector = Connector::new(options)?;
        let patience = options.answer_timeout * 4 + connector.patience();
        let source = match &options.server {
            Server::Cluster { .. } => {
                let reader = ClusterReader::new(connector);
                Source::Cluster(Box::new(Mutex::new(reader)))
            }
            Server::One(_) | Server::Sentinel { .. } => Source::One {
                connector: Box::new(connector),
                connection: Mutex::new(None),
            },
        };
        Ok(Self {
            source,
            budgets: None,
            patience,
        })
    }

    /// The same reader with the budgets of new counters, which are not in Redis in a cluster.
    pub(super) fn with_budgets(mut self, budgets: &Arc<Budgets>) -> Self {
        self.budgets = Some(Arc::clone(budgets));
        self
    }

    pub(super) async fn read_now(&self, batch: &Batch) -> Result<Reading, StoreError> {
        let charges = batch.charges();
        let keys: Vec<&str> = charges.iter().map(|charge| batch.key(charge)).collect();
        let (values, now_us) = self.source.values(&keys).await?;
        let states = charges.iter().zip(&keys).zip(values);
        let states = states.map(|((charge, key), value)| state(key, charge.counted, value));
        let mut reading = Reading {
            now_us,
            states: states.collect::<Result<_, _>>()?,
            shared: Vec::new(),
        };
        self.read_shared(batch, &mut reading).await?;
        Ok(reading)
    }

    /// Replaces the states of counters that would not come into being by those of the overflow
    /// counters that would be charged.
    async fn read_shared(&self, batch: &Batch, reading: &mut Reading) -> Result<(), StoreError> {
        let known: Vec<bool> = reading.states.iter().map(Option::is_some).collect();
        for (place, charge) in batch.charges().iter().enumerate() {
            let Some(budget) = budget(charge.max_new_keys) else {
                continue;
            };
            let is_known = |other: usize| known[other];
            if known[place] || batch.siblings(place).any(is_known) {
                continue;
            }
            let key = batch.key(charge);
            let may_be_new = match (&self.source, &self.budgets) {
                (Source::One { .. }, _) => {
                    let key = counter_key::new_keys(key);
                    let spent = self.value(&key).await?;
                    let spent = state(&key, Counted::Limit(budget), spent)?;
                    budget.step(spent, reading.now_us, 1).outcome.allowed
                }
                (Source::Cluster(_), Some(budgets)) => {
                    let rule = counter_key::rule_of(key);
                    budgets.allow(rule, charge.max_new_keys, 0, reading.now_us)
                }
                // Each tollgate has its own, and nobody else knows them.
                (Source::Cluster(_), None) => true,
            };
            if !may_be_new {
                let overflow = counter_key::overflow(key);
                let shared = self.value(&overflow).await?;
                reading.states[place] = state(&overflow, charge.counted, shared)?;
                reading.shared.push(place);
            }
        }
        Ok(())
    }

    /// The reply to `GET` for each key, and a time that none of them lies after.
    pub(super) async fn values(&self, keys: &[&str]) -> Result<(Vec<Value>, u64), StoreError> {
        self.within(self.source.values(keys)).await
    }

    /// The replies to some commands, of the node that has `key`. If the connection breaks, they are
    /// sent `again` or not.
    pub(super) async fn run(
        &self,
        key: &str,
        commands: &[Cmd],
        again: bool,
    ) -> Result<Vec<Value>, StoreError> {
        let running = async {
            match &self.source {
                Source::One {
                    connector,
                    connection,
                } => {
                    let mut kept = connection.lock().await;
                    ask(connector, &mut kept, &pipeline(commands), again).await
                }
                Source::Cluster(reader) => reader.lock().await.run(key, commands, again).await,
            }
        };
        self.within(running).await
    }

    /// The replies of the node of this number to some commands; `None` if there are not so many
    /// nodes.
    pub(super) async fn run_on(
        &self,
        node: usize,
        commands: &[Cmd],
    ) -> Result<Option<Vec<Value>>, StoreError> {
        if let Source::Cluster(reader) = &self.source {
            let running = async { reader.lock().await.run_on(node, commands).await };
            return self.within(running).await;
        }
        self.run("", commands, true).await.map(Some)
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.source, Source::Cluster(_))
    }

    async fn within<T>(
        &self,
        asking: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        timeout(self.patience, asking)
            .await
            .unwrap_or(Err(StoreError::Deadline))
    }

    /// The reply to `GET` for a key.
    async fn value(&self, key: &str) -> Result<Value, StoreError> {
        let (values, _) = self.source.values(&[key]).await?;
        let value = values.into_iter().next();
        value.ok_or_else(|| StoreError::Malformed("redis did not answer".to_owned()))
    }
}

impl Source {
    /// The reply to `GET` for each key, and a time that none of them lies after.
    async fn values(&self, keys: &[&str]) -> Result<(Vec<Value>, u64), StoreError> {
        match self {
            Self::One {
                connector,
                connection,
            } => {
                let mut commands = Pipeline::with_capacity(keys.len() + 1);
                for key in keys {
                    commands.cmd("GET").arg(key);
                }
                // After the counters, so that none of them lies in its future.
                commands.cmd("TIME");
                let mut kept = connection.lock().await;
                let mut values = ask(connector, &mut kept, &commands, true).await?;
                let now_us = time(values.pop().as_ref())?;
                Ok((values, now_us))
            }
            Self::Cluster(reader) => {
                let mut reader = reader.lock().await;
                let (mut values, mut latest) = (Vec::with_capacity(keys.len()), 0);
                for key in keys {
                    let (value, now) = reader.get(key).await?;
                    latest = latest.max(time(Some(&now))?);
                    values.push(value);
                }
                Ok((values, latest))
            }
        }
    }
}

fn pipeline(commands: &[Cmd]) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(commands.len());
    for command in commands {
        pipeline.add_command(command.clone());
    }
    pipeline
}

/// Asks over the kept connection, and if that has ended meanwhile, over a new one; not if it must
/// not be asked `again`.
async fn ask(
    connector: &Connector,
    kept: &mut Option<MultiplexedConnection>,
    commands: &Pipeline,
    again: bool,
) -> Result<Vec<Value>, StoreError> {
    let count = commands.len();
    if let Some(mut connection) = kept.take() {
        match connection.req_packed_commands(commands, 0, count).await {
            Ok(values) => {
                *kept = Some(connection);
                return Ok(values);
            }
            Err(error) if !again => return Err(StoreError::Broken(error.to_string())),
            Err(_) => {}
        }
    }
    let connecting = connector.connect().await;
    let mut connection = connecting.map_err(StoreError::into_unavailable)?;
    let values = connection
        .req_packed_commands(commands, 0, count)
        .await
        .map_err(|error| StoreError::Broken(error.to_string()))?;
    *kept = Some(connection);
    Ok(values)
}

impl Read for Reader {
    fn read<'a>(&'a self, batch: &'a Batch) -> Reads<'a> {
        Box::pin(self.within(self.read_now(batch)))
    }
}

/// The reply to `TIME`, in microseconds since the Unix epoch.
pub(super) fn time(reply: Option<&Value>) -> Result<u64, StoreError> {
    let number = |value: &Value| match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?.parse::<u64>().ok(),
        _ => None,
    };
    let time = match reply {
        Some(Value::Array(parts)) => match &parts[..] {
            [seconds, micros] => number(seconds).zip(number(micros)),
            _ => None,
        },
        _ => None,
    };
    time.and_then(|(seconds, micros)| seconds.checked_mul(1_000_000)?.checked_add(micros))
        .ok_or_else(|| StoreError::Malformed("redis returned no valid time".to_owned()))
}

fn state(key: &str, counted: Counted, value: Value) -> Result<Option<State>, StoreError> {
    let text = match value {
        Value::Nil => return Ok(None),
        Value::BulkString(bytes) => String::from_utf8(bytes).unwrap_or_default(),
        Value::ServerError(error) => {
            let refused = replies::refused(&error.into());
            return Err(StoreError::Refused(format!("{key}: {refused}")));
        }
        _ => String::new(),
    };
    let state = match counted {
        Counted::Limit(limit) => State::parse(limit.algorithm(), &text),
        Counted::Ban { .. } => ban::State::parse(&text).map(State::Ban),
    };
    state.map(Some).ok_or_else(|| {
        StoreError::Malformed(format!(
            "the value of {key} is not a counter of tollgate: remove it with DEL"
        ))
    })
}
