//! Encodes a batch as a Redis command, and decodes the reply.

use std::{sync::LazyLock, time::Duration};

use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};

use crate::{
    limit::{Algorithm, Limit, Outcome, calendar::Edges},
    store::{Batch, Charge, ChargeResult, Counted, StoreError},
};

/// The script, as it is loaded into Redis.
pub const SOURCE: &str = include_str!("charge.lua");

/// The script's name in Redis: the SHA-1 of its source, in hexadecimal.
pub static SHA: LazyLock<String> = LazyLock::new(|| sha1_smol::Sha1::from(SOURCE).hexdigest());

/// The script that takes charges back.
pub const GIVE_BACK_SOURCE: &str = include_str!("give_back.lua");

/// The name of [`GIVE_BACK_SOURCE`] in Redis.
static GIVE_BACK_SHA: LazyLock<String> =
    LazyLock::new(|| sha1_smol::Sha1::from(GIVE_BACK_SOURCE).hexdigest());

/// The script of heartbeats.
pub const HEARTBEAT_SOURCE: &str = include_str!("heartbeat.lua");

/// The name of [`HEARTBEAT_SOURCE`] in Redis.
static HEARTBEAT_SHA: LazyLock<String> =
    LazyLock::new(|| sha1_smol::Sha1::from(HEARTBEAT_SOURCE).hexdigest());

/// The command that says that the replica `id` is alive, and will be for `lasts`.
pub fn heartbeat(key: &str, id: &str, lasts: Duration) -> Cmd {
    let lasts = u64::try_from(lasts.as_micros()).unwrap_or(u64::MAX);
    let mut cmd = redis::cmd("EVALSHA");
    cmd.arg(HEARTBEAT_SHA.as_str()).arg(1).arg(key);
    cmd.arg(id).arg(lasts);
    cmd
}

/// The numbers that one charge adds to `ARGV`.
const ARGS_PER_CHARGE: usize = 8;

/// What the script does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Charges if everything fits, and if there is room for what is new.
    Charge,
    /// Charges if everything fits, in a cluster, where budgets of new counters are not in Redis.
    ChargePart {
        /// Whether counters may be new; if not, the reply says that some would be.
        new: bool,
    },
    /// Charges nothing, because the request is denied by others; bans count what does not fit.
    Peek,
    /// Charges one ban alone, because its keys are on several nodes for the moment; whether one of
    /// its limits did not fit.
    Ban {
        /// Whether it counts a denial.
        denied: bool,
    },
}

/// The command that decides about charges of `batch` by the loaded script.
pub fn call<'a>(
    batch: &Batch,
    charges: impl ExactSizeIterator<Item = &'a Charge> + Clone,
    mode: Mode,
) -> Cmd {
    command("EVALSHA", &SHA, batch, charges, mode)
}

/// The command that decides about charges of `batch`. `script` is [`SHA`] for `EVALSHA`, or a
/// source for `EVAL`.
pub fn command<'a>(
    verb: &str,
    script: &str,
    batch: &Batch,
    charges: impl ExactSizeIterator<Item = &'a Charge> + Clone,
    mode: Mode,
) -> Cmd {
    let count = charges.len();
    let mut cmd = Cmd::with_capacity(4 + count * (1 + ARGS_PER_CHARGE), 256);
    cmd.arg(verb).arg(script).arg(count);
    for charge in charges.clone() {
        cmd.arg(batch.key(charge));
    }
    for charge in charges {
        match &charge.counted {
            Counted::Limit(limit) => {
                push_limit(&mut cmd, limit, charge);
                match mode {
                    Mode::Charge => cmd.arg(charge.max_new_keys),
                    Mode::ChargePart { new: false } if charge.max_new_keys > 0 => cmd.arg("ask"),
                    Mode::ChargePart { .. } | Mode::Peek | Mode::Ban { .. } => cmd.arg(0),
                };
            }
            Counted::Ban { ban, span } => {
                let (span, denied) = match mode {
                    Mode::Ban { denied } => (0, denied),
                    Mode::Charge | Mode::ChargePart { .. } | Mode::Peek => (*span, false),
                };
                cmd.arg(kind(&charge.counted))
                    .arg(charge.group)
                    .arg(span)
                    .arg(ban.after())
                    .arg(ban.within_us())
                    .arg(ban.for_us())
                    .arg(u8::from(denied))
                    .arg(0);
            }
        }
    }
    if mode == Mode::Peek {
        cmd.arg("peek");
    }
    cmd
}

/// The command that takes back the limits among `charges`, which were charged at `charged_us`, by
/// the loaded script.
pub fn give_back<'a>(
    batch: &Batch,
    charges: impl Iterator<Item = &'a Charge> + Clone,
    charged_us: u64,
) -> Cmd {
    give_back_command("EVALSHA", &GIVE_BACK_SHA, batch, charges, charged_us)
}

/// As [`give_back`]. `script` is a name for `EVALSHA`, or a source for `EVAL`.
pub fn give_back_command<'a>(
    verb: &str,
    script: &str,
    batch: &Batch,
    charges: impl Iterator<Item = &'a Charge> + Clone,
    charged_us: u64,
) -> Cmd {
    let limits = charges.filter(|charge| charge.limit().is_some());
    let mut cmd = redis::cmd(verb);
    cmd.arg(script).arg(limits.clone().count());
    for charge in limits.clone() {
        cmd.arg(batch.key(charge));
    }
    cmd.arg(charged_us);
    for charge in limits {
        cmd.arg(kind(&charge.counted)).arg(charge.cost);
    }
    cmd
}

/// The number by which the script knows what a charge counts.
///
/// The script refuses a number without a branch, and a test looks for the branch of each algorithm.
fn kind(counted: &Counted) -> u8 {
    match counted {
        Counted::Limit(limit) => match limit.algorithm() {
            Algorithm::FixedWindow if limit.edges().is_some() => 6,
            Algorithm::FixedWindow => 1,
            Algorithm::SlidingWindow => 2,
            Algorithm::TokenBucket => 3,
            Algorithm::SlidingLog => 4,
        },
        Counted::Ban { .. } => 5,
    }
}

fn push_limit(cmd: &mut Cmd, limit: &Limit, charge: &Charge) {
    let rate = limit.rate();
    cmd.arg(kind(&charge.counted))
        .arg(charge.group)
        .arg(charge.cost)
        .arg(limit.burst())
        .arg(limit.window_us());
    match limit.edges().map(Edges::get) {
        Some([a, b, c, d]) => cmd.arg(format!("{a} {b} {c} {d}")),
        None => cmd.arg(rate.tokens),
    };
    cmd.arg(rate.period_us);
}

/// Whether Redis does not have the script: after a restart, a `SCRIPT FLUSH` or a fail-over.
pub fn is_missing_script(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript))
}

/// Whether the server is a replica, and so takes no charges: after a failover, or behind a name
/// that has moved.
pub fn is_read_only(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::ReadOnly))
}

/// The script's reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptReply {
    /// Redis' time, in microseconds since the Unix epoch.
    pub now_us: u64,
    /// Whether nothing was decided, because a counter would be new and must be asked for.
    pub asks_for_new: bool,
    /// The decision; or [`StoreError::Clock`], if that time lies outside the edges of a window.
    pub verdict: Result<ChargeResult, StoreError>,
}

/// The first number of a reply that decides nothing, because Redis' time lies outside the edges of
/// a window.
const OTHER_TIME: u64 = 2;

/// The first number of a reply that decides nothing, because a counter would be new.
const NEW: u64 = 3;

/// Decodes the script's reply.
pub fn decode(value: Value, charges: usize) -> Result<ScriptReply, StoreError> {
    let items = match value {
        Value::Array(items) => items,
        Value::ServerError(error) => return Err(refused(&error.into())),
        other => return Err(malformed(&other)),
    };
    let mut numbers = Vec::with_capacity(items.len());
    for item in &items {
        match item {
            Value::Int(number) if *number >= 0 => numbers.push(number.unsigned_abs()),
            other => return Err(malformed(other)),
        }
    }
    match numbers[..] {
        [OTHER_TIME, now_us] => Ok(ScriptReply {
            now_us,
            asks_for_new: false,
            verdict: Err(StoreError::Clock),
        }),
        [NEW, now_us] => Ok(ScriptReply {
            now_us,
            asks_for_new: true,
            verdict: Err(StoreError::Malformed(
                "redis asked for a budget that it was given".to_owned(),
            )),
        }),
        [admitted @ 0..=1, now_us, ref answers @ ..] if answers.len() >= 3 * charges => {
            let (outcomes, shared) = answers.split_at(3 * charges);
            let is_one = |place: &u64| (1..=charges as u64).contains(place);
            if !shared.iter().all(is_one) {
                return Err(malformed(&Value::Array(items)));
            }
            let outcomes = outcomes
                .chunks_exact(3)
                .map(|answer| Outcome {
                    allowed: answer[0] == 1,
                    remaining: answer[1],
                    wait_us: answer[2],
                })
                .collect();
            let admitted = admitted == 1;
            Ok(ScriptReply {
                now_us,
                asks_for_new: false,
                verdict: Ok(ChargeResult {
                    admitted,
                    outcomes,
                    shared: shared
                        .iter()
                        .filter_map(|place| usize::try_from(place - 1).ok())
                        .collect(),
                }),
            })
        }
        _ => Err(malformed(&Value::Array(items))),
    }
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

fn malformed(value: &Value) -> StoreError {
    let mut shown = format!("{value:?}");
    if let Some((end, _)) = shown.char_indices().nth(100) {
        shown.truncate(end);
    }
    StoreError::Malformed(format!("redis returned an invalid reply: {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ENFORCED;

    #[test]
    fn the_script_has_a_branch_for_every_algorithm() {
        let mut kinds = std::collections::BTreeSet::new();
        for algorithm in Algorithm::ALL {
            let limit = Limit::new(algorithm, 5, 60_000_000, None).unwrap();
            let kind = kind(&Counted::Limit(limit));
            assert!(
                SOURCE.contains(&format!("if algorithm == '{kind}' then")),
                "{algorithm}"
            );
            assert!(
                SOURCE.contains(&format!("{kind} {algorithm}")),
                "{algorithm}"
            );
            assert!(kinds.insert(kind), "{algorithm}");
        }
    }

    #[test]
    fn the_command_carries_every_key_and_limit() {
        let mut batch = Batch::default();
        let bucket = Limit::new(Algorithm::TokenBucket, 20, 60_000_000, Some(40)).unwrap();
        batch.push(bucket, 1, ENFORCED, |key| {
            key.push_str("tollgate:{a:}:token_bucket:60s");
        });
        let packed = command(
            "EVALSHA",
            "sha",
            &batch,
            batch.charges().iter(),
            Mode::Charge,
        )
        .get_packed_command();
        let text = String::from_utf8(packed).unwrap();
        let words: Vec<&str> = text
            .split("\r\n")
            .filter(|w| !w.starts_with(['$', '*']))
            .collect();
        assert_eq!(
            words[..12],
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
                "3000000",
                "0"
            ]
        );
    }

    #[test]
    fn a_time_outside_the_edges_is_reported_and_decides_nothing() {
        let answer = Value::Array(vec![Value::Int(2), Value::Int(17)]);
        let answer = decode(answer, 3).unwrap();
        assert_eq!(answer.now_us, 17);
        assert_eq!(answer.verdict, Err(StoreError::Clock));
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
            Value::Array(vec![Value::Int(2), Value::Int(1), Value::Int(1)]),
            Value::Array(vec![Value::Int(4), Value::Int(1)]),
        ] {
            let error = decode(answer, 1).unwrap_err();
            assert!(matches!(error, StoreError::Malformed(_)), "{error}");
        }
    }
}
