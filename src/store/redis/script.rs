//! Encodes checks as a Redis command. [`replies`](super::replies) has what comes back.

use std::{hash::BuildHasher as _, ops::Range, sync::LazyLock, time::Duration};

use foldhash::fast::FixedState;
use redis::Cmd;

use crate::{
    limit::{Algorithm, calendar::Edges},
    store::{Batch, Charge, Counted, ENFORCED, Unused},
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

/// The script of changes that people make.
pub const CHANGES_SOURCE: &str = include_str!("changes.lua");

/// The name of [`CHANGES_SOURCE`] in Redis.
static CHANGES_SHA: LazyLock<String> =
    LazyLock::new(|| sha1_smol::Sha1::from(CHANGES_SOURCE).hexdigest());

/// The script that replaces counters.
pub const REPLACE_SOURCE: &str = include_str!("replace.lua");

/// The name of [`REPLACE_SOURCE`] in Redis.
pub static REPLACE_SHA: LazyLock<String> =
    LazyLock::new(|| sha1_smol::Sha1::from(REPLACE_SOURCE).hexdigest());

/// What is said, or asked, about changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AboutChanges {
    /// This replica has followed so many.
    Followed(u64),
    /// There is another one.
    New,
    /// Have all replicas followed them?
    All,
}

/// The command about changes of the replica `id`, which counts for as long as it `lasts` after it
/// last said how many it has followed.
pub fn changes(key: &str, id: &str, about: AboutChanges, lasts: Duration) -> Cmd {
    let lasts = u64::try_from(lasts.as_micros()).unwrap_or(u64::MAX);
    let about = match about {
        AboutChanges::Followed(changes) => changes.to_string(),
        AboutChanges::New => "new".to_owned(),
        AboutChanges::All => "all".to_owned(),
    };
    let mut cmd = redis::cmd("EVALSHA");
    cmd.arg(CHANGES_SHA.as_str()).arg(1).arg(key);
    cmd.arg(id).arg(about).arg(lasts);
    cmd
}

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

/// A check as the script is asked it. One call has one or many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The keys, one after the other, and then what is asked.
    bytes: Vec<u8>,
    /// Where each key ends.
    ends: Vec<usize>,
    /// A bit for each key. Checks without a common bit have no common key.
    marks: u64,
    /// Whether equal ones can be asked for as one.
    is_countable: bool,
}

/// The bytes of a charge, in what is asked; of its edges, which some have; and where its cost is.
const CHARGE: usize = 49;
const EDGES: usize = 16;
const COST: Range<usize> = 5..13;

/// In place of a budget of new counters: nothing is written if a counter would be new.
const ASK: u32 = u32::MAX;

impl Check {
    /// Asks about `charges` of `batch`.
    pub fn new<'a>(
        batch: &Batch,
        charges: impl ExactSizeIterator<Item = &'a Charge> + Clone,
        mode: Mode,
    ) -> Self {
        let keys: usize = charges.clone().map(|charge| batch.key(charge).len()).sum();
        let mut bytes = Vec::with_capacity(keys + charges.len() * (CHARGE + EDGES) + 1);
        let mut ends = Vec::with_capacity(charges.len());
        let mut marks = 0;
        for charge in charges.clone() {
            let key = batch.key(charge).as_bytes();
            bytes.extend_from_slice(key);
            ends.push(bytes.len());
            marks |= 1 << (FixedState::default().hash_one(key) >> 58);
        }
        let mut is_countable = matches!(mode, Mode::Charge | Mode::ChargePart { .. });
        for charge in charges {
            push_charge(&mut bytes, charge, mode);
            is_countable &= charge.group == ENFORCED && charge.limit().is_some();
        }
        if mode == Mode::Peek {
            bytes.push(0);
        }
        Self {
            bytes,
            ends,
            marks,
            is_countable,
        }
    }

    /// Whether many equal ones can be asked for as one: all that they charge are enforced limits,
    /// so those that fit come first, and the others change nothing.
    pub fn is_countable(&self) -> bool {
        self.is_countable
    }

    /// Whether the decision about one depends on what the other charges.
    pub fn shares_keys(&self, other: &Self) -> bool {
        self.marks & other.marks != 0 && self.keys().any(|key| other.keys().any(|k| k == key))
    }

    /// How many charges are decided about.
    pub fn charges(&self) -> usize {
        self.ends.len()
    }

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, &end)| &self.bytes[start..end])
    }

    fn asked(&self) -> &[u8] {
        &self.bytes[self.ends.last().copied().unwrap_or(0)..]
    }

    /// What each charge costs.
    pub fn costs(&self) -> impl Iterator<Item = u64> {
        let mut asked = self.asked();
        std::iter::from_fn(move || {
            let (cost, edges) = (
                asked.get(COST)?,
                if asked[0] == CALENDAR { EDGES } else { 0 },
            );
            let cost = u64::from_le_bytes(cost.try_into().ok()?);
            asked = asked.get(CHARGE + edges..)?;
            Some(cost)
        })
    }
}

/// Writes a charge as the script's `LAYOUT` says.
fn push_charge(out: &mut Vec<u8>, charge: &Charge, mode: Mode) {
    let number = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let (numbers, new, edges) = match &charge.counted {
        Counted::Limit(limit) => {
            let edges = limit.edges().map(Edges::get);
            let rate = limit.rate();
            let (tokens, period) = match edges {
                Some([begin, second, ..]) => (begin, second),
                None => (rate.tokens, rate.period_us),
            };
            let new = match mode {
                Mode::Charge => charge.max_new_keys,
                Mode::ChargePart { new: false } if charge.max_new_keys > 0 => ASK,
                Mode::ChargePart { .. } | Mode::Peek | Mode::Ban { .. } => 0,
            };
            let window = limit.window_us();
            let numbers = [charge.cost, limit.burst(), window, tokens, period];
            (numbers, new, edges)
        }
        Counted::Ban { ban, span } => {
            let (span, denied) = match mode {
                Mode::Ban { denied } => (0, denied),
                Mode::Charge | Mode::ChargePart { .. } | Mode::Peek => (number(*span), false),
            };
            let numbers = [
                span,
                ban.after(),
                ban.within_us(),
                ban.for_us(),
                u64::from(denied),
            ];
            (numbers, 0, None)
        }
    };
    out.push(kind(&charge.counted));
    out.extend_from_slice(&charge.group.to_le_bytes());
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&new.to_le_bytes());
    if let Some([_, _, third, last]) = edges {
        out.extend_from_slice(&third.to_le_bytes());
        out.extend_from_slice(&last.to_le_bytes());
    }
}

/// The command that decides about checks, in this order, by the loaded script.
pub fn call<'a>(checks: impl Iterator<Item = (&'a Check, u32)> + Clone) -> Cmd {
    command("EVALSHA", &SHA, checks)
}

/// The command that decides about checks, each of which is asked so many times, at least once and
/// more only if it [is countable](Check::is_countable). `script` is [`SHA`] for `EVALSHA`, or a
/// source for `EVAL`.
pub fn command<'a>(
    verb: &str,
    script: &str,
    checks: impl Iterator<Item = (&'a Check, u32)> + Clone,
) -> Cmd {
    // The last of what is asked holds for all checks after it.
    let (mut count, mut asks, mut keys, mut bytes) = (0, 0, 0, 0);
    let mut asked = None;
    for (check, times) in checks.clone() {
        count += 1;
        if asked != Some((check.asked(), times)) {
            asked = Some((check.asked(), times));
            asks = count;
        }
        keys += check.ends.len();
        bytes += check.bytes.len();
    }
    let mut cmd = Cmd::with_capacity(3 + keys + asks, bytes + 64);
    cmd.arg(verb).arg(script).arg(keys);
    for (check, _) in checks.clone() {
        for key in check.keys() {
            cmd.arg(key);
        }
    }
    for (check, times) in checks.take(asks) {
        match times {
            0..=1 => cmd.arg(check.asked()),
            _ => cmd.arg([check.asked(), &times.to_le_bytes()].concat()),
        };
    }
    cmd
}

/// The command that takes back charges to the limits of `batch`, by the loaded script.
pub fn give_back(batch: &Batch, unused: &Unused) -> Cmd {
    give_back_command("EVALSHA", &GIVE_BACK_SHA, batch, unused)
}

/// As [`give_back`]. `script` is a name for `EVALSHA`, or a source for `EVAL`.
pub fn give_back_command(verb: &str, script: &str, batch: &Batch, unused: &Unused) -> Cmd {
    let charges = batch.charges().iter().enumerate();
    let limits = charges.filter_map(|(place, charge)| Some((place, charge, charge.limit()?)));
    let mut cmd = redis::cmd(verb);
    cmd.arg(script).arg(limits.clone().count());
    for (_, charge, _) in limits.clone() {
        cmd.arg(batch.key(charge));
    }
    cmd.arg(unused.charged_us);
    for (place, charge, limit) in limits {
        let cost = charge.cost.saturating_mul(unused.copies.into());
        cmd.arg(kind(&charge.counted)).arg(cost);
        let rate = limit.rate();
        cmd.arg(rate.tokens).arg(rate.period_us);
        cmd.arg(unused.used_before(place, limit, charge.cost));
    }
    cmd
}

/// The number of a `fixed_window` that follows the calendar.
const CALENDAR: u8 = 6;

/// The number by which the script knows what a charge counts.
///
/// The script refuses a number without a branch, and a test looks for the branch of each algorithm.
fn kind(counted: &Counted) -> u8 {
    match counted {
        Counted::Limit(limit) => match limit.algorithm() {
            Algorithm::FixedWindow if limit.edges().is_some() => CALENDAR,
            Algorithm::FixedWindow => 1,
            Algorithm::SlidingWindow => 2,
            Algorithm::TokenBucket => 3,
            Algorithm::SlidingLog => 4,
        },
        Counted::Ban { .. } => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Limit;

    #[test]
    fn the_script_has_a_branch_for_every_algorithm() {
        let mut kinds = std::collections::BTreeSet::new();
        for algorithm in Algorithm::ALL {
            let limit = Limit::new(algorithm, 5, 60_000_000, None).unwrap();
            let kind = kind(&Counted::Limit(limit));
            assert!(
                SOURCE.contains(&format!("if algorithm == {kind} then")),
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
    fn the_command_carries_every_key_and_limit_and_what_is_last_asked_once() {
        let mut batch = Batch::default();
        let bucket = Limit::new(Algorithm::TokenBucket, 20, 60_000_000, Some(40)).unwrap();
        batch.push(bucket, 1, ENFORCED, |key| {
            key.push_str("tollgate:{a:}:token_bucket:60s");
        });
        let check = Check::new(&batch, batch.charges().iter(), Mode::Peek);
        assert_eq!(check.charges(), 1);
        let charging = Check::new(&batch, batch.charges().iter(), Mode::Charge);
        let checks = [(&check, 1), (&charging, 1), (&check, 1), (&check, 1)];
        let cmd = command("EVALSHA", "sha", checks.into_iter());
        let args: Vec<&[u8]> = cmd
            .args_iter()
            .map(|arg| match arg {
                redis::Arg::Simple(bytes) => bytes,
                _ => b"",
            })
            .collect();
        let key = &b"tollgate:{a:}:token_bucket:60s"[..];
        let mut asked = vec![3, 0, 0, 0, 0];
        for number in [1_u64, 40, 60_000_000, 1, 3_000_000] {
            asked.extend_from_slice(&number.to_le_bytes());
        }
        asked.extend_from_slice(&[0, 0, 0, 0]);
        assert_eq!(asked.len(), CHARGE);
        let charges = asked.clone();
        asked.push(0);
        let expected: [&[u8]; 10] = [
            b"EVALSHA", b"sha", b"4", key, key, key, key, &asked, &charges, &asked,
        ];
        assert_eq!(args, expected);
    }
}
