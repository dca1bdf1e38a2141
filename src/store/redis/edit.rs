//! Looks through counters and changes them, over the connection of people.

use std::time::Duration;

use redis::{Cmd, Value};
use tokio::time::{Instant, sleep};

use super::{
    RedisStore,
    changes::{LOOK, Seen},
    read::Reader,
    replies,
    script::{REPLACE_SHA, REPLACE_SOURCE},
};
use crate::{
    limit::{State, ban},
    store::{Announced, Batch, Edit, Editing, Page, Place, StoreError, read::Reading},
};

/// How often a change is tried while the client's requests change the same counters.
const ATTEMPTS: usize = 50;

/// How long all replicas together may take to confirm a change.
const CONFIRMATION: Duration = Duration::from_secs(4);

/// How many keys `SCAN` looks at for a page.
const PAGE: usize = 1_000;

impl Edit for RedisStore {
    fn remove<'a>(&'a self, keys: &'a [String]) -> Editing<'a, u64> {
        Box::pin(async move {
            let Some(first) = keys.first() else {
                return Ok(0);
            };
            let mut del = redis::cmd("DEL");
            del.arg(keys);
            let values = self.reader.run(first, &[del], true).await?;
            number(values.first())
        })
    }

    fn ban<'a>(&'a self, key: &'a str, for_us: u64) -> Editing<'a, ()> {
        Box::pin(async move {
            let (_, now_us) = self.reader.values(&[key]).await?;
            let mut set = redis::cmd("SET");
            set.arg(key)
                .arg(ban::State::until(now_us, for_us).to_string())
                .arg("PX")
                .arg(for_us.div_ceil(1_000));
            let values = self.reader.run(key, &[set], true).await?;
            values.first().map_or_else(|| Err(silent()), ok)
        })
    }

    fn grant<'a>(&'a self, batch: &'a Batch, more: u64) -> Editing<'a, ()> {
        Box::pin(async move {
            for _ in 0..ATTEMPTS {
                if self.reader.try_to_grant(batch, more).await? {
                    return Ok(());
                }
            }
            Err(StoreError::Refused(
                "the caller's requests change its counters all the time: try again".to_owned(),
            ))
        })
    }

    fn announce(&self) -> Editing<'_, Announced> {
        Box::pin(async move {
            let deadline = Instant::now() + CONFIRMATION;
            let mut seen = self.changes_call(self.changes.announce(), deadline).await?;
            while seen.behind > 0 && Instant::now() < deadline {
                sleep(LOOK / 8).await;
                seen = self.changes_call(self.changes.ask(), deadline).await?;
            }
            Ok(Announced {
                missing: seen.behind,
            })
        })
    }

    fn page<'a>(&'a self, prefix: &'a str, from: Place) -> Editing<'a, Page> {
        Box::pin(self.reader.page(prefix, from))
    }
}

impl RedisStore {
    /// Looks for changes that people make for ever, and has `forget` called for each.
    pub async fn follow_changes<F: Future<Output = ()>>(&self, forget: impl Fn() -> F) {
        loop {
            let deadline = Instant::now() + LOOK * 5;
            let look = self.changes_call(self.changes.look(), deadline).await;
            match look {
                Ok(seen) if self.changes.is_news(seen) => {
                    forget().await;
                    self.changes.follow(seen);
                }
                Ok(_) | Err(_) => sleep(LOOK).await,
            }
        }
    }

    async fn changes_call(&self, cmd: Cmd, deadline: Instant) -> Result<Seen, StoreError> {
        let reply = self.script(self.changes.key(), &cmd, deadline).await;
        Seen::of(reply?).ok_or_else(silent)
    }
}

impl Reader {
    /// Grants more of each limit, unless one of them changes meanwhile.
    async fn try_to_grant(&self, batch: &Batch, more: u64) -> Result<bool, StoreError> {
        let Reading {
            now_us,
            states,
            shared,
        } = self.read_now(batch).await?;
        let mut replace = Vec::new();
        let counters = batch.charges().iter().zip(states).enumerate();
        for (place, (charge, state)) in counters {
            let Some(limit) = charge.limit() else {
                continue;
            };
            // Who shares a counter gets one of its own: else all would have more.
            let state = state.filter(|_| !shared.contains(&place));
            let before = state.as_ref().map_or_else(String::new, State::to_string);
            let (after, expires_us) = limit.grant(state, now_us, more);
            let lasts_ms = expires_us.saturating_sub(now_us).div_ceil(1_000).max(1);
            replace.push((batch.key(charge), before, after.to_string(), lasts_ms));
        }
        let Some((first, ..)) = replace.first() else {
            return Ok(true);
        };
        let mut get = redis::cmd("GET");
        get.arg(first);
        let mut load = redis::cmd("SCRIPT");
        load.arg("LOAD").arg(REPLACE_SOURCE);
        let mut call = redis::cmd("EVALSHA");
        call.arg(REPLACE_SHA.as_str()).arg(replace.len());
        for (key, ..) in &replace {
            call.arg(key);
        }
        for (_, before, after, lasts_ms) in &replace {
            call.arg(before).arg(after).arg(lasts_ms);
        }
        // Sent again, it might grant twice.
        let values = self.run(first, &[get, load, call], false).await?;
        Ok(number(values.last())? == 1)
    }

    async fn page(&self, prefix: &str, from: Place) -> Result<Page, StoreError> {
        let mut scan = redis::cmd("SCAN");
        let pattern = format!("{}*", literally(prefix));
        scan.arg(from.cursor).arg("MATCH").arg(pattern);
        scan.arg("COUNT").arg(PAGE);
        let time = redis::cmd("TIME");
        let Some(values) = self.run_on(from.node, &[scan, time]).await? else {
            return Ok(Page {
                now_us: 0,
                counters: Vec::new(),
                next: None,
            });
        };
        let [scanned, time] = &values[..] else {
            return Err(silent());
        };
        let (cursor, keys) = cursor_and_keys(scanned)?;
        let now_us = super::read::time(Some(time))?;
        let gets: Vec<Cmd> = keys
            .iter()
            .map(|key| {
                let mut get = redis::cmd("GET");
                get.arg(key);
                get
            })
            .collect();
        let values = if gets.is_empty() {
            Vec::new()
        } else {
            self.run_on(from.node, &gets).await?.unwrap_or_default()
        };
        // One that is not a text, has expired or has moved is nobody's counter.
        let counters = keys.into_iter().zip(values).filter_map(|(key, value)| {
            let Value::BulkString(bytes) = value else {
                return None;
            };
            Some((key, String::from_utf8(bytes).ok()?))
        });
        let next = match cursor {
            0 if self.is_cluster() => Some(Place {
                node: from.node + 1,
                cursor: 0,
            }),
            0 => None,
            cursor => Some(Place { cursor, ..from }),
        };
        Ok(Page {
            now_us,
            counters: counters.collect(),
            next,
        })
    }
}

/// A pattern of `MATCH` for a text itself.
fn literally(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\' | '^') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

fn cursor_and_keys(reply: &Value) -> Result<(u64, Vec<String>), StoreError> {
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        _ => None,
    };
    if let Value::ServerError(error) = reply {
        return Err(replies::refused(&error.clone().into()));
    }
    let parts = match reply {
        Value::Array(parts) => match &parts[..] {
            [cursor, Value::Array(keys)] => text(cursor).zip(Some(keys)),
            _ => None,
        },
        _ => None,
    };
    let (cursor, keys) = parts.ok_or_else(silent)?;
    let cursor = cursor.parse().map_err(|_| silent())?;
    Ok((cursor, keys.iter().filter_map(text).collect()))
}

fn number(value: Option<&Value>) -> Result<u64, StoreError> {
    match value {
        Some(Value::Int(number)) => u64::try_from(*number).map_err(|_| silent()),
        Some(Value::ServerError(error)) => Err(replies::refused(&error.clone().into())),
        _ => Err(silent()),
    }
}

fn ok(value: &Value) -> Result<(), StoreError> {
    match value {
        Value::ServerError(error) => Err(replies::refused(&error.clone().into())),
        _ => Ok(()),
    }
}

fn silent() -> StoreError {
    StoreError::Malformed("redis returned no answer to a command".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_in_patterns_stands_for_itself() {
        assert_eq!(literally("tollgate:{data:a=1"), "tollgate:{data:a=1");
        assert_eq!(literally(r"a*b?[c]\^"), r"a\*b\?\[c\]\\\^");
    }
}
