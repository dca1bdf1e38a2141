//! What goes to Redis and comes back: the command for a batch, and its answer.

use std::sync::LazyLock;

use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};

use crate::{
    limit::{Algorithm, Outcome},
    store::{Batch, StoreError, Verdict},
};

/// The script, as it is loaded into Redis.
pub const SOURCE: &str = include_str!("charge.lua");

/// The script's name in Redis: the SHA-1 of its source, in hexadecimal.
pub static SHA: LazyLock<String> = LazyLock::new(|| sha1_smol::Sha1::from(SOURCE).hexdigest());

/// The numbers that one charge adds to `ARGV`.
const ARGS_PER_CHARGE: usize = 7;

/// The call that decides about `batch`. `script` is `EVALSHA` with [`SHA`] or `EVAL` with a source.
pub fn command(verb: &str, script: &str, batch: &Batch) -> Cmd {
    let charges = batch.charges();
    let mut cmd = Cmd::with_capacity(3 + charges.len() * (1 + ARGS_PER_CHARGE), 256);
    cmd.arg(verb).arg(script).arg(charges.len());
    for charge in charges {
        cmd.arg(batch.key(charge));
    }
    for charge in charges {
        let limit = &charge.limit;
        let rate = limit.rate();
        let algorithm = match limit.algorithm() {
            Algorithm::FixedWindow => 1,
            Algorithm::SlidingWindow => 2,
            Algorithm::TokenBucket => 3,
            Algorithm::SlidingLog => 4,
        };
        cmd.arg(algorithm)
            .arg(charge.group)
            .arg(charge.cost)
            .arg(limit.burst())
            .arg(limit.window_us())
            .arg(rate.tokens)
            .arg(rate.period_us);
    }
    cmd
}

/// Whether Redis does not have the script: after a restart, a `SCRIPT FLUSH` or a fail-over.
pub fn is_missing_script(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript))
}

/// The verdict in the script's answer, and Redis' time in microseconds.
pub fn decode(value: Value, charges: usize) -> Result<(Verdict, u64), StoreError> {
    let items = match value {
        Value::Array(items) => items,
        Value::ServerError(error) => return Err(refused(&error.into())),
        other => return Err(malformed(&other)),
    };
    if items.len() != 2 + 3 * charges {
        return Err(malformed(&Value::Array(items)));
    }
    let mut numbers = Vec::with_capacity(items.len());
    for item in &items {
        match item {
            Value::Int(number) if *number >= 0 => numbers.push(number.unsigned_abs()),
            other => return Err(malformed(other)),
        }
    }
    let outcomes = numbers[2..]
        .chunks_exact(3)
        .map(|answer| Outcome {
            allowed: answer[0] == 1,
            remaining: answer[1],
            wait_us: answer[2],
        })
        .collect();
    let admitted = numbers[0] == 1;
    Ok((Verdict { admitted, outcomes }, numbers[1]))
}

/// Redis answered with an error: it is there, but does not serve us.
pub fn refused(error: &RedisError) -> StoreError {
    let hint = match error.kind() {
        ErrorKind::Server(ServerErrorKind::ReadOnly) => {
            " (this is a replica: point --redis-url at the primary)"
        }
        ErrorKind::AuthenticationFailed => " (check user and password in --redis-url)",
        _ => match error.code() {
            Some("NOPERM") => {
                " (the Redis user needs +evalsha +script|load +time +get +set +ping (and +select for a database) on ~tollgate:*)"
            }
            Some("OOM") => " (Redis is out of memory: raise maxmemory)",
            Some("WRONGTYPE") => " (a key under tollgate: was not written by tollgate: remove it)",
            _ => "",
        },
    };
    StoreError::Refused(format!("redis: {error}{hint}"))
}

fn malformed(value: &Value) -> StoreError {
    let mut shown = format!("{value:?}");
    if let Some((end, _)) = shown.char_indices().nth(100) {
        shown.truncate(end);
    }
    StoreError::Malformed(format!(
        "redis gave an answer that is not a verdict: {shown}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{limit::Limit, store::ENFORCED};

    #[test]
    fn the_command_carries_every_key_and_limit() {
        let mut batch = Batch::default();
        let bucket = Limit::new(Algorithm::TokenBucket, 20, 60_000_000, Some(40)).unwrap();
        batch.push(bucket, 1, ENFORCED, |key| {
            key.push_str("tollgate:{a:}:token_bucket:60s");
        });
        let packed = command("EVALSHA", "sha", &batch).get_packed_command();
        let text = String::from_utf8(packed).unwrap();
        let words: Vec<&str> = text
            .split("\r\n")
            .filter(|w| !w.starts_with(['$', '*']))
            .collect();
        assert_eq!(
            words[..11],
            [
                "EVALSHA",
                "sha",
                "1",
                "tollgate:{a:}:token_bucket:60s",
                "3",
                "0",
                "1",
                "40",
                "60000000",
                "1",
                "3000000"
            ]
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
                Value::Int(0),
            ]),
            Value::Array(vec![Value::Nil; 5]),
        ] {
            let error = decode(answer, 1).unwrap_err();
            assert!(matches!(error, StoreError::Malformed(_)), "{error}");
        }
    }
}
