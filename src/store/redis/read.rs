//! Reads counters over a connection of its own, so that people who look do not hold up checks.

use std::time::Duration;

use redis::{
    Pipeline, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
};
use tokio::{sync::Mutex, time::timeout};

use super::{connect::Connector, options::Options, script};
use crate::{
    limit::{State, ban},
    problem::Problem,
    store::{
        Batch, Charge, Counted, StoreError,
        read::{Read, Reading, Reads},
    },
};

/// Reads counters and charges nothing. Needs the rights `+get +time`, `+select` for a database, and
/// `+role` behind Sentinels.
pub struct Reader {
    connector: Connector,
    /// The one connection, kept until it breaks; one reader has it at a time.
    connection: Mutex<Option<MultiplexedConnection>>,
    patience: Duration,
}

impl Reader {
    /// Creates a reader that connects when it is first used.
    pub fn new(options: &Options) -> Result<Self, Problem> {
        Ok(Self {
            connector: Connector::new(options)?,
            connection: Mutex::new(None),
            patience: options.answer_timeout,
        })
    }

    async fn read_now(&self, batch: &Batch) -> Result<Reading, StoreError> {
        let mut commands = Pipeline::with_capacity(batch.charges().len() + 1);
        for charge in batch.charges() {
            commands.cmd("GET").arg(batch.key(charge));
        }
        // After the counters, so that none of them lies in its future.
        commands.cmd("TIME");
        let count = batch.charges().len() + 1;
        let mut values = self.ask(&commands, count).await?;
        let now_us = values
            .pop()
            .as_ref()
            .and_then(time)
            .ok_or_else(|| StoreError::Malformed("redis returned no valid time".to_owned()))?;
        let states = batch.charges().iter().zip(values);
        let states = states.map(|(charge, value)| state(batch, charge, value));
        Ok(Reading {
            now_us,
            states: states.collect::<Result<_, _>>()?,
        })
    }

    /// Asks over the kept connection, and if that has ended meanwhile, over a new one.
    async fn ask(&self, commands: &Pipeline, count: usize) -> Result<Vec<Value>, StoreError> {
        let mut kept = self.connection.lock().await;
        if let Some(mut connection) = kept.take()
            && let Ok(values) = connection.req_packed_commands(commands, 0, count).await
        {
            *kept = Some(connection);
            return Ok(values);
        }
        let connecting = self.connector.connect().await;
        let mut connection = connecting.map_err(StoreError::into_unavailable)?;
        let values = connection
            .req_packed_commands(commands, 0, count)
            .await
            .map_err(|error| StoreError::Broken(error.to_string()))?;
        *kept = Some(connection);
        Ok(values)
    }
}

impl Read for Reader {
    fn read<'a>(&'a self, batch: &'a Batch) -> Reads<'a> {
        Box::pin(async move {
            timeout(
                self.patience * 4 + self.connector.patience(),
                self.read_now(batch),
            )
            .await
            .unwrap_or(Err(StoreError::Deadline))
        })
    }
}

fn time(value: &Value) -> Option<u64> {
    let Value::Array(parts) = value else {
        return None;
    };
    let number = |value: &Value| match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?.parse::<u64>().ok(),
        _ => None,
    };
    let [seconds, micros] = &parts[..] else {
        return None;
    };
    number(seconds)?
        .checked_mul(1_000_000)?
        .checked_add(number(micros)?)
}

fn state(batch: &Batch, charge: &Charge, value: Value) -> Result<Option<State>, StoreError> {
    let text = match value {
        Value::Nil => return Ok(None),
        Value::BulkString(bytes) => String::from_utf8(bytes).unwrap_or_default(),
        Value::ServerError(error) => {
            let refused = script::refused(&error.into());
            return Err(StoreError::Refused(format!(
                "{}: {refused}",
                batch.key(charge)
            )));
        }
        _ => String::new(),
    };
    let state = match &charge.counted {
        Counted::Limit(limit) => State::parse(limit.algorithm(), &text),
        Counted::Ban { .. } => ban::State::parse(&text).map(State::Ban),
    };
    state.map(Some).ok_or_else(|| {
        StoreError::Malformed(format!(
            "the value of {} is not a counter of tollgate: remove it with DEL",
            batch.key(charge)
        ))
    })
}
