//! Decodes the replies of Redis to calls of the script, and its errors.

use std::fmt::Debug;

use redis::{ErrorKind, RedisError, ServerErrorKind, Value};

use crate::{
    limit::Outcome,
    store::{ChargeResult, ChargedAhead, StoreError},
};

/// Whether Redis does not have the script: after a restart, a `SCRIPT FLUSH` or a fail-over.
pub fn is_missing_script(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript))
}

/// The error of a server that is a replica, and so takes no charges: after a failover, or behind a
/// name that has moved. It can be that of the whole call, or of one check.
pub fn read_only(value: &Value) -> Option<StoreError> {
    let answers = match value {
        Value::Array(answers) => &answers[..],
        other => std::slice::from_ref(other),
    };
    answers.iter().find_map(|answer| match answer {
        Value::ServerError(error) if error.kind() == Some(ServerErrorKind::ReadOnly) => {
            Some(refused(&error.clone().into()))
        }
        _ => None,
    })
}

/// The script's reply about one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptReply {
    /// Redis' time, in microseconds since the Unix epoch.
    pub now_us: u64,
    /// Whether nothing was decided, because a counter would be new and must be asked for.
    pub asks_for_new: bool,
    /// The decision; or [`StoreError::Clock`], if that time lies outside the edges of a window.
    pub verdict: Result<ChargeResult, StoreError>,
    /// How many checks are admitted, of those that it is about.
    pub granted: u64,
}

impl TryFrom<ScriptReply> for ChargedAhead {
    type Error = StoreError;

    fn try_from(reply: ScriptReply) -> Result<Self, StoreError> {
        Ok(Self {
            answer: reply.verdict?.into(),
            granted: u32::try_from(reply.granted).unwrap_or(u32::MAX),
            charged_us: reply.now_us,
        })
    }
}

/// The verdict of a check that is not decided, because Redis' time lies outside the edges of a
/// window.
const OTHER_TIME: u64 = 2;

/// The verdict of a check that is not decided, because a counter would be new.
const NEW: u64 = 3;

/// What is added to a verdict if the places of overflow counters follow.
const WITH_SHARED: u64 = 4;

/// The script's reply to a call: about one check after the other.
pub struct Replies {
    now_us: u64,
    rest: Rest,
}

/// What is left of the reply to a call.
enum Rest {
    /// Numbers alone, of eight bytes each.
    Packed(Vec<u8>, usize),
    /// Numbers and errors.
    Items(std::vec::IntoIter<Value>),
}

impl Rest {
    /// The error that comes next, if one does.
    fn failure(&mut self) -> Option<StoreError> {
        let Self::Items(items) = self else {
            return None;
        };
        let [Value::ServerError(error), ..] = items.as_slice() else {
            return None;
        };
        let error = refused(&error.clone().into());
        items.next();
        Some(error)
    }

    fn integer(&mut self) -> Result<i64, StoreError> {
        let number = match self {
            Self::Packed(bytes, at) => {
                let number = bytes.get(*at..).and_then(<[u8]>::first_chunk).copied();
                *at += size_of::<i64>();
                number.map(i64::from_le_bytes)
            }
            Self::Items(items) => match items.next() {
                Some(Value::Int(number)) => Some(number),
                Some(other) => return Err(malformed(&other)),
                None => None,
            },
        };
        number.ok_or_else(|| malformed(&"it ends too early"))
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Packed(bytes, at) => *at == bytes.len(),
            Self::Items(items) => items.as_slice().is_empty(),
        }
    }
}

impl Replies {
    /// Reads the reply to a call. An error is that of all its checks.
    pub fn read(value: Value) -> Result<Self, StoreError> {
        let rest = match value {
            Value::BulkString(bytes) => Rest::Packed(bytes, 0),
            Value::Array(items) => Rest::Items(items.into_iter()),
            Value::ServerError(error) => return Err(refused(&error.into())),
            other => return Err(malformed(&other)),
        };
        let mut replies = Self { now_us: 0, rest };
        replies.now_us = replies.number()?;
        Ok(replies)
    }

    /// Redis' time, in microseconds since the Unix epoch.
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// How many of the next checks, which are `most` equal ones, have the reply that follows.
    pub fn copies(&mut self, most: u64) -> Result<u64, StoreError> {
        self.read_next(|replies| {
            let copies = replies.number()?;
            let is_valid = (1..=most).contains(&copies);
            is_valid.then_some(copies).ok_or_else(|| malformed(&copies))
        })
    }

    /// The reply about the next check, which has so many charges.
    pub fn next(&mut self, charges: usize) -> Result<ScriptReply, StoreError> {
        self.read_next(|replies| replies.reply(charges))
    }

    fn read_next<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Some(error) = self.rest.failure() {
            return Err(error);
        }
        let next = read(self);
        if next.is_err() {
            // Nobody knows where the reply about the next one begins.
            self.rest = Rest::Packed(Vec::new(), 0);
        }
        next
    }

    fn reply(&mut self, charges: usize) -> Result<ScriptReply, StoreError> {
        let (asks_for_new, verdict) = match self.number()? {
            OTHER_TIME => (false, Err(StoreError::Clock)),
            NEW => (
                true,
                Err(StoreError::Malformed(
                    "redis asked for a budget that it was given".to_owned(),
                )),
            ),
            verdict @ (0..=1 | 4..=5) => (false, Ok(self.result(verdict, charges)?)),
            other => return Err(malformed(&other)),
        };
        let is_admitted = verdict.as_ref().is_ok_and(|result| result.admitted);
        Ok(ScriptReply {
            now_us: self.now_us,
            asks_for_new,
            verdict,
            granted: u64::from(is_admitted),
        })
    }

    fn result(&mut self, verdict: u64, charges: usize) -> Result<ChargeResult, StoreError> {
        let mut outcomes = Vec::with_capacity(charges);
        for _ in 0..charges {
            // Below zero, it is all bits of what is left inverted, and the limit does not fit.
            let left = self.rest.integer()?;
            let allowed = left >= 0;
            outcomes.push(Outcome {
                allowed,
                remaining: if allowed { left } else { !left }.unsigned_abs(),
                wait_us: self.number()?,
            });
        }
        let mut shared = Vec::new();
        if verdict >= WITH_SHARED {
            for _ in 0..self.number()? {
                let place = self.number()?;
                let index = usize::try_from(place).ok().and_then(|n| n.checked_sub(1));
                let index = index.filter(|index| *index < charges);
                shared.push(index.ok_or_else(|| malformed(&place))?);
            }
        }
        Ok(ChargeResult {
            admitted: verdict % WITH_SHARED == 1,
            outcomes,
            shared,
        })
    }

    fn number(&mut self) -> Result<u64, StoreError> {
        let number = self.rest.integer()?;
        u64::try_from(number).map_err(|_| malformed(&number))
    }

    /// Nothing is left when all checks have their replies.
    fn end(&self) -> Result<(), StoreError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(malformed(&"it goes on"))
        }
    }
}

/// Decodes the script's reply to a call of one check.
pub fn decode(value: Value, charges: usize) -> Result<ScriptReply, StoreError> {
    let mut replies = Replies::read(value)?;
    let reply = replies.next(charges)?;
    replies.end()?;
    Ok(reply)
}

/// The error of a Redis that is there, but refuses to serve.
pub fn refused(error: &RedisError) -> StoreError {
    let hint = match error.kind() {
        ErrorKind::Server(ServerErrorKind::ReadOnly) => {
            " (this is a replica: point --redis-url at the primary)"
        }
        ErrorKind::AuthenticationFailed => " (check user and password in --redis-url)",
        _ => match error.code() {
            Some("NOPERM") => {
                " (the Redis user needs +evalsha +script|load +time +get +set +ping (and +select for a database) on the keys of --key-prefix)"
            }
            Some("OOM") => " (Redis is out of memory: raise maxmemory)",
            Some("WRONGTYPE") => {
                " (a key under --key-prefix was not written by tollgate: remove it)"
            }
            _ => "",
        },
    };
    StoreError::Refused(format!("redis: {error}{hint}"))
}

fn malformed(value: &dyn Debug) -> StoreError {
    let mut shown = format!("{value:?}");
    if let Some((end, _)) = shown.char_indices().nth(100) {
        shown.truncate(end);
    }
    StoreError::Malformed(format!("redis returned an invalid reply: {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_outside_the_edges_is_reported_and_decides_nothing() {
        let answer = Value::Array(vec![Value::Int(17), Value::Int(2)]);
        let answer = decode(answer, 3).unwrap();
        assert_eq!(answer.now_us, 17);
        assert_eq!(answer.verdict, Err(StoreError::Clock));
    }

    #[test]
    fn a_limit_that_does_not_fit_has_what_is_left_below_zero() {
        let answer = Value::Array([17, 0, 3, 5, -1, 7, -4, 9].map(Value::Int).to_vec());
        let result = decode(answer, 3).unwrap().verdict.unwrap();
        assert!(!result.admitted);
        let outcomes = result.outcomes.iter();
        let outcomes: Vec<_> = outcomes
            .map(|outcome| (outcome.allowed, outcome.remaining, outcome.wait_us))
            .collect();
        assert_eq!(outcomes, [(true, 3, 5), (false, 0, 7), (false, 3, 9)]);
    }

    /// The reply of numbers alone.
    fn packed(numbers: &[i64]) -> Value {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
        Value::BulkString(bytes.collect())
    }

    #[test]
    fn numbers_mean_the_same_in_a_text_and_in_a_list() {
        let numbers = [1_700_000_000_000_000, 0, -1, 70_368_744_177_664];
        let reply = decode(packed(&numbers), 1).unwrap();
        let list = Value::Array(numbers.map(Value::Int).to_vec());
        assert_eq!(reply, decode(list, 1).unwrap());
        assert_eq!(reply.now_us, 1_700_000_000_000_000);
        assert_eq!(
            reply.verdict.unwrap().outcomes[0].wait_us,
            70_368_744_177_664
        );
    }

    #[test]
    fn an_answer_of_the_wrong_shape_is_an_error_and_not_a_verdict() {
        for answer in [
            Value::Nil,
            Value::Int(1),
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![
                Value::Int(1),
                Value::Int(1),
                Value::Int(1),
                Value::Int(-1),
            ]),
            Value::Array(vec![Value::Nil; 5]),
            Value::Array(vec![Value::Int(1), Value::Int(2), Value::Int(1)]),
            Value::Array(vec![
                Value::Int(1),
                Value::Int(-1),
                Value::Int(1),
                Value::Int(0),
            ]),
            Value::Array(vec![Value::Int(1), Value::Int(6)]),
            Value::Array([1, 5, 1, 0, 1, 2].map(Value::Int).to_vec()),
            packed(&[1, 1, 2]),
            packed(&[1, 1, 2, 3, 4]),
            Value::BulkString(vec![0; 33]),
            Value::BulkString(Vec::new()),
        ] {
            let error = decode(answer, 1).unwrap_err();
            assert!(matches!(error, StoreError::Malformed(_)), "{error}");
        }
    }
}
