//! Checks that come in one call are decided as if each had come in a call of its own at the same
//! time: the same replies, the same texts, kept for the same time.
//!
//! So are equal checks that are asked as one, with a count, but for one thing: when several are
//! admitted, each answer has the wait of the last of them. It is another one only where it depends
//! on how many came since the window began, under `sliding_window`.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use crate::support::{redis::Redis, script::Scripted};
use proptest::{prelude::*, test_runner::TestRunner};
use tokio::{task::JoinSet, time::Instant};
use tollgate::{
    counter_key::{BAN_SUFFIX, new_keys, overflow},
    limit::{Algorithm, Limit, ban::Ban, calendar::Edges},
    store::{
        Batch, ENFORCED, Store as _, StoreError,
        redis::{Options, RedisStore, replies::ScriptReply},
    },
};

const START: u64 = 1_700_000_000_000_000;
const SECOND: u64 = 1_000_000;

#[derive(Debug, Clone)]
struct Rule {
    limits: Vec<Limit>,
    ban: Option<Ban>,
    is_shadow: bool,
    max_new_keys: u32,
    /// How many counters may be new at the start.
    left: u64,
}

fn limit() -> impl Strategy<Value = Limit> {
    let window = prop::sample::select(vec![1_000, SECOND, 60 * SECOND, 3_600 * SECOND]);
    let begun = (
        prop::sample::select(Algorithm::ALL.to_vec()),
        prop_oneof![4 => 1_u64..12, 1 => 1_u64..1_000],
        window,
    );
    let begun = begun.prop_map(|(algorithm, amount, window)| {
        Limit::new(algorithm, amount, window, None).unwrap()
    });
    let calendar = (1_u64..12).prop_map(|amount| {
        // What comes later is outside of them.
        let edges = [
            START - 60 * SECOND,
            START,
            START + 60 * SECOND,
            START + 120 * SECOND,
        ];
        let edges = Edges::new(edges).unwrap();
        let limit = Limit::new(Algorithm::FixedWindow, amount, 60 * SECOND, None).unwrap();
        limit.aligned(edges)
    });
    prop_oneof![6 => begun, 1 => calendar]
}

fn rule() -> impl Strategy<Value = Rule> {
    let ban = (1_u64..4, 1_u64..100, 1_u64..100)
        .prop_map(|(after, within, lasts)| Ban::new(after, within * SECOND, lasts * SECOND));
    (
        prop::collection::vec(limit(), 1..3),
        prop::option::weighted(0.4, ban.prop_map(Result::unwrap)),
        prop::bool::weighted(0.3),
        prop_oneof![2 => Just(0_u32), 1 => Just(1_u32)],
        0_u64..4,
    )
        .prop_map(|(limits, ban, is_shadow, max_new_keys, left)| Rule {
            limits,
            ban,
            is_shadow,
            max_new_keys,
            left,
        })
}

/// The client of each rule that applies, the cost, and how many equal ones there are.
#[derive(Debug, Clone)]
struct Check {
    clients: Vec<Option<u8>>,
    cost: u64,
    times: u32,
}

/// How a world asks about equal checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Each check in a call of its own.
    Alone,
    /// One by one, in the calls that are given.
    Together,
    /// As one, in the calls that are given, if all that they charge are enforced limits.
    Counted,
}

/// What happens at one time.
#[derive(Debug, Clone)]
struct Moment {
    /// How long after the one before (us).
    pause: i64,
    /// The rule, limit and client of a value that somebody else writes.
    foreign: Option<(usize, usize, u8)>,
    /// The rule, limit and client of which a person grants so many more.
    granted: Option<(usize, usize, u8, u64)>,
    /// The checks of each call.
    calls: Vec<Vec<Check>>,
}

fn scenario() -> impl Strategy<Value = (Vec<Rule>, Vec<Moment>)> {
    let client = prop::option::weighted(0.7, prop_oneof![3 => 0_u8..2, 1 => 0_u8..8]);
    let cost = prop_oneof![3 => Just(1_u64), 1 => 1_u64..6];
    let times = prop_oneof![3 => Just(1_u32), 2 => 2_u32..9];
    let check =
        (prop::collection::vec(client, 3), cost, times).prop_map(|(clients, cost, times)| Check {
            clients,
            cost,
            times,
        });
    let pause = prop_oneof![
        3 => 0..2_000_i64,
        3 => 0..3_000_000_i64,
        1 => 0..90_000_000_i64,
        1 => -2_000_000..0_i64,
    ];
    let moment = (
        pause,
        prop::option::weighted(0.15, (0_usize..3, 0_usize..2, 0_u8..2)),
        prop::option::weighted(0.3, (0_usize..3, 0_usize..2, 0_u8..2, 1_u64..30)),
        prop::collection::vec(prop::collection::vec(check, 1..12), 1..3),
    )
        .prop_map(|(pause, foreign, granted, calls)| Moment {
            pause,
            foreign,
            granted,
            calls,
        });
    (
        prop::collection::vec(rule(), 1..4),
        prop::collection::vec(moment, 1..8),
    )
}

/// One of two worlds, which differ in how their keys begin.
struct World<'a> {
    redis: &'a Scripted,
    prefix: String,
    rules: &'a [Rule],
}

impl World<'_> {
    fn start(&self, number: usize, client: u8) -> String {
        format!("{}{{rule{number}:client={client}}}", self.prefix)
    }

    fn key(&self, number: usize, client: u8, index: usize) -> String {
        let start = self.start(number, client);
        let limit = &self.rules[number].limits[index];
        format!("{start}:{}:{index}", limit.algorithm())
    }

    fn batch(&self, check: &Check) -> Option<Batch> {
        let mut batch = Batch::default();
        for (number, rule) in self.rules.iter().enumerate() {
            let Some(client) = check.clients[number] else {
                continue;
            };
            let group = if rule.is_shadow {
                u32::try_from(number).unwrap() + 1
            } else {
                ENFORCED
            };
            let from = batch.charges().len();
            for (index, limit) in rule.limits.iter().enumerate() {
                batch.push(*limit, check.cost, group, |out| {
                    out.push_str(&self.key(number, client, index));
                });
            }
            batch.set_max_new_keys(from, rule.max_new_keys);
            if let Some(ban) = rule.ban {
                batch.push_ban(ban, rule.limits.len(), group, |out| {
                    write!(out, "{}{BAN_SUFFIX}", self.start(number, client)).unwrap();
                });
            }
        }
        (!batch.is_empty()).then_some(batch)
    }

    /// The budgets of new counters, nearly used up.
    fn prepare(&self) {
        for (number, rule) in self.rules.iter().enumerate() {
            let used = 60 - rule.left;
            let key = new_keys(&self.key(number, 0, 0));
            self.redis.set(&key, &format!("{used} {START}"));
        }
    }

    fn vandalise(&self, (rule, limit, client): (usize, usize, u8)) {
        let number = rule % self.rules.len();
        let limit = limit % self.rules[number].limits.len();
        self.redis.set(&self.key(number, client, limit), "foreign");
    }

    fn grant(&self, (rule, limit, client, more): (usize, usize, u8, u64), now: u64) {
        let number = rule % self.rules.len();
        let index = limit % self.rules[number].limits.len();
        let limit = &self.rules[number].limits[index];
        let key = self.key(number, client, index);
        self.redis.grant(&key, limit, now, more);
    }

    /// The replies to some calls; errors name keys of this world.
    fn ask(
        &self,
        calls: &[Vec<Check>],
        now: u64,
        way: Way,
    ) -> Vec<Result<ScriptReply, StoreError>> {
        let mut replies = Vec::new();
        for checks in calls {
            let batches = checks.iter().filter_map(|check| {
                let batch = self.batch(check)?;
                Some((batch, check.times))
            });
            let batches: Vec<(Batch, u32)> = batches.collect();
            let mut call = Vec::new();
            for (batch, times) in &batches {
                if way == Way::Counted && is_countable(batch) {
                    call.push((batch, *times));
                    continue;
                }
                call.extend((0..*times).map(|_| (batch, 1)));
            }
            let longest = if way == Way::Alone {
                1
            } else {
                call.len().max(1)
            };
            for call in call.chunks(longest) {
                replies.extend(self.redis.charge_counted(call, now).into_iter().flatten());
            }
        }
        let own = |error: StoreError| error.to_string().replace(&self.prefix, "");
        let replies = replies.into_iter();
        replies
            .map(|reply| reply.map_err(|error| StoreError::Refused(own(error))))
            .collect()
    }

    /// All that is stored.
    fn stored(&self) -> Vec<(String, Option<(String, u64)>)> {
        let mut keys = Vec::new();
        for (number, rule) in self.rules.iter().enumerate() {
            for index in 0..rule.limits.len() {
                let own = (0..8).map(|client| self.key(number, client, index));
                keys.extend(own);
                keys.push(overflow(&self.key(number, 0, index)));
            }
            keys.extend((0..8).map(|client| format!("{}{BAN_SUFFIX}", self.start(number, client))));
            keys.push(new_keys(&self.key(number, 0, 0)));
        }
        let stored = keys.into_iter().map(|key| {
            let stored = self.redis.stored(&key);
            (key.replace(&self.prefix, ""), stored)
        });
        stored.collect()
    }
}

fn is_countable(batch: &Batch) -> bool {
    let mut charges = batch.charges().iter();
    charges.all(|charge| charge.limit().is_some() && charge.group == ENFORCED)
}

/// The replies without what equal checks that are asked as one may be told otherwise.
fn without_waits(
    mut replies: Vec<Result<ScriptReply, StoreError>>,
) -> Vec<Result<ScriptReply, StoreError>> {
    for reply in replies.iter_mut().flatten() {
        if let Ok(result) = &mut reply.verdict
            && result.admitted
        {
            for outcome in &mut result.outcomes {
                outcome.wait_us = 0;
            }
        }
    }
    replies
}

/// What the cases have seen, so that none of it is missing.
#[derive(Debug, Default)]
struct Seen {
    admitted: u32,
    denied: u32,
    shared: u32,
    refused: u32,
}

#[test]
fn checks_in_one_call_are_decided_as_if_each_came_alone() {
    let redis = Scripted::start();
    let mut runner = TestRunner::new(ProptestConfig::with_cases(400));
    let number = std::cell::Cell::new(0);
    let seen = std::cell::RefCell::new(Seen::default());
    let result = runner.run(&scenario(), |(rules, moments)| {
        number.set(number.get() + 1);
        let world = |name: &str| World {
            redis: &redis,
            prefix: format!("{name}{}:", number.get()),
            rules: &rules,
        };
        let (alone, together) = (world("alone"), world("together"));
        let counted = world("counted");
        for world in [&alone, &together, &counted] {
            world.prepare();
        }
        let mut now = START;
        for moment in &moments {
            now = now.saturating_add_signed(moment.pause);
            if let Some(foreign) = moment.foreign {
                for world in [&alone, &together, &counted] {
                    world.vandalise(foreign);
                }
            }
            if let Some(granted) = moment.granted {
                for world in [&alone, &together, &counted] {
                    world.grant(granted, now);
                }
            }
            let expected = alone.ask(&moment.calls, now, Way::Alone);
            prop_assert_eq!(
                together.ask(&moment.calls, now, Way::Together),
                expected.clone(),
                "at {}",
                now
            );
            prop_assert_eq!(together.stored(), alone.stored(), "at {}", now);
            prop_assert_eq!(
                without_waits(counted.ask(&moment.calls, now, Way::Counted)),
                without_waits(expected.clone()),
                "at {}",
                now
            );
            prop_assert_eq!(counted.stored(), alone.stored(), "at {}", now);
            let mut seen = seen.borrow_mut();
            for reply in expected {
                match reply.map(|reply| reply.verdict) {
                    Ok(Ok(verdict)) if !verdict.shared.is_empty() => seen.shared += 1,
                    Ok(Ok(verdict)) if verdict.admitted => seen.admitted += 1,
                    Ok(Ok(_)) => seen.denied += 1,
                    Ok(Err(_)) => {}
                    Err(_) => seen.refused += 1,
                }
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let Seen {
        admitted,
        denied,
        shared,
        refused,
    } = seen.into_inner();
    for count in [admitted, denied, shared, refused] {
        assert!(count > 50, "{admitted} {denied} {shared} {refused}");
    }
}

#[test]
fn as_many_are_admitted_as_fit_however_many_are_asked_for() {
    let redis = Scripted::start();
    for algorithm in Algorithm::ALL {
        let amount = match algorithm {
            Algorithm::SlidingLog => 1_000,
            _ => 1_000_000_000,
        };
        let limit = Limit::new(algorithm, amount, 3_600 * SECOND, None).unwrap();
        for cost in [1, 7, amount / 2, amount, amount + 1, 1 << 40] {
            let key = format!("{algorithm}:{cost}");
            let mut batch = Batch::default();
            batch.push(limit, cost, ENFORCED, |out| out.push_str(&key));
            let reply = redis.charge_ahead(&batch, u32::MAX, START);
            assert_eq!(reply.granted, amount / cost, "{key}");
            let outcome = reply.verdict.unwrap().outcomes[0];
            assert_eq!(outcome.remaining, amount % cost, "{key}");
            assert_eq!(redis.charge_ahead(&batch, 9, START).granted, 0, "{key}");
        }
    }
}

fn fixed(charges: &[(&str, u64)]) -> Batch {
    let mut batch = Batch::default();
    for (key, amount) in charges {
        let limit = Limit::new(Algorithm::FixedWindow, *amount, 60 * SECOND, None).unwrap();
        batch.push(limit, 1, ENFORCED, |out| out.push_str(key));
    }
    batch
}

#[test]
fn what_cannot_be_written_is_an_error_of_those_that_charged_or_saw_it() {
    let redis = Scripted::start();
    redis.charge(&fixed(&[("full", 1)]), START);
    let checks = [
        // Denied before anybody charges what cannot be written.
        fixed(&[("full", 1), ("unwritable", 1)]),
        fixed(&[("good", 5)]),
        fixed(&[("unwritable", 1), ("beside", 5)]),
        // Denied because of a charge that was not made.
        fixed(&[("unwritable", 1)]),
        fixed(&[("good", 5)]),
    ];
    let replies = redis.charge_together(&checks.each_ref(), START);
    let told: Vec<String> = replies
        .into_iter()
        .map(|reply| match reply.map(|reply| reply.verdict.unwrap()) {
            Ok(verdict) => format!("{} {}", verdict.admitted, verdict.outcomes[0].remaining),
            Err(error) => error.to_string().split(" (").next().unwrap().to_owned(),
        })
        .collect();
    let oom = "redis: \"OOM\": no";
    assert_eq!(told, ["false 0", "true 4", oom, oom, "true 3"]);
    assert_eq!(redis.stored("good").unwrap().0, format!("2 {START}"));
    assert_eq!(redis.stored("unwritable"), None);
}

const PATIENCE: Duration = Duration::from_secs(10);

/// What happened to 40 checks at once: 20 of one counter, and 20 of a key that is a list.
async fn at_once(redis: &Redis, batch: usize) -> (u64, u64) {
    redis.cli(&["FLUSHALL"]);
    redis.cli(&["RPUSH", "list", "1"]);
    let mut options = Options::parse(&redis.url()).unwrap();
    options.batch = batch;
    let store = Arc::new(RedisStore::start(&options, Box::new(|_| {})).unwrap());
    assert!(store.connected_within(PATIENCE).await);
    redis.cli(&["CONFIG", "RESETSTAT"]);
    let mut checks = JoinSet::new();
    for n in 0..40 {
        let store = Arc::clone(&store);
        checks.spawn(async move {
            let key = ["good", "list"][n % 2];
            let batch = fixed(&[(key, 15)]);
            (key, store.charge(&batch, Instant::now() + PATIENCE).await)
        });
    }
    let mut admitted = 0;
    for (key, reply) in checks.join_all().await {
        match reply {
            Ok(answer) => {
                assert_eq!(key, "good");
                admitted += u64::from(answer.result.admitted);
            }
            Err(error) => {
                let is_expected = key == "list" && error.to_string().contains("WRONGTYPE");
                assert!(is_expected, "{key}: {error}");
            }
        }
    }
    let stats = redis.cli(&["INFO", "commandstats"]);
    let calls = stats.split("cmdstat_evalsha:calls=").nth(1).unwrap();
    let calls = calls.split(',').next().unwrap().parse().unwrap();
    (admitted, calls)
}

#[tokio::test]
async fn checks_that_wait_share_a_call_and_an_error_is_of_one_check() {
    let redis = Redis::start();
    let (admitted, calls) = at_once(&redis, 32).await;
    assert_eq!(admitted, 15);
    assert!(calls <= 4, "{calls} calls");
    assert_eq!(at_once(&redis, 1).await, (15, 40));
}
