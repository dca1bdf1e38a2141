//! The Lua in Redis and the Rust in memory are one arithmetic: driven with the same limits, costs and times on a real
//! Redis, they give the same answers, store the same text and keep it for the same time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fmt::Write as _;

use proptest::{prelude::*, test_runner::TestRunner};
use redis::{Value, aio::MultiplexedConnection};
use support::redis::Redis;
use tollgate::{
    limit::{Algorithm, Limit, MAX_AMOUNT, MAX_WINDOW_US, Outcome, State, sliding_log::MAX_LOG},
    store::{Batch, ENFORCED, redis::script},
};

const START: u64 = 1_700_000_000_000_000;

/// The script with two lines replaced: its clock reads the last argument, and the time to live of a key is stored beside
/// it instead of being set (Redis' own clock runs on meanwhile).
fn script_with_injected_clock() -> String {
    let clock = "local time = redis.call('TIME')\nlocal now = time[1] * 1000000 + time[2]";
    let write = "redis.call('SET', KEYS[i], values[i], 'PX', ";
    assert!(
        script::SOURCE.contains(clock) && script::SOURCE.contains(write),
        "the script has changed: adapt this test"
    );
    script::SOURCE
        .replace(clock, "local now = tonumber(ARGV[#ARGV])")
        .replace(
            write,
            "redis.call('MSET', KEYS[i], values[i], KEYS[i] .. ':ttl', ",
        )
}

fn amount() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 1_u64..20, 2 => 1_u64..100_000, 1 => MAX_AMOUNT - 10..=MAX_AMOUNT]
}

fn window() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => prop::sample::select(vec![1_000_000_u64, 60_000_000, 3_600_000_000, 86_400_000_000]),
        2 => 1_000_u64..10_000_000,
        1 => MAX_WINDOW_US - 1_000..=MAX_WINDOW_US,
    ]
}

fn limit() -> impl Strategy<Value = Limit> {
    (
        prop::sample::select(Algorithm::ALL.to_vec()),
        amount(),
        window(),
        prop::option::of(amount()),
    )
        .prop_filter_map(
            "a burst that never refills",
            |(algorithm, amount, window, burst)| {
                let most = if algorithm == Algorithm::SlidingLog {
                    MAX_LOG
                } else {
                    MAX_AMOUNT
                };
                Limit::new(algorithm, amount.min(most), window, burst).ok()
            },
        )
}

/// How the clock moves before a request.
#[derive(Debug, Clone, Copy)]
enum Movement {
    /// By a share of the longest window, in millionths; it may go back.
    Share(i64),
    /// To the instant that the last answer of a limit promised, or one microsecond beside it: where the comparisons turn.
    Promised { limit: usize, beside: i64 },
}

fn movement() -> impl Strategy<Value = Movement> {
    let promised = (0_usize..3, -1_i64..=1);
    prop_oneof![
        3 => Just(Movement::Share(0)),
        6 => (0_i64..100_000).prop_map(Movement::Share),
        2 => (0_i64..2_500_000).prop_map(Movement::Share),
        1 => (-500_000_i64..0).prop_map(Movement::Share),
        5 => promised.prop_map(|(limit, beside)| Movement::Promised { limit, beside }),
    ]
}

#[derive(Debug, Clone)]
struct Scenario {
    /// Each limit and its group.
    limits: Vec<(Limit, u32)>,
    /// Movements of the clock and costs (a share of the burst, in thousandths; 0 is a cost of one).
    requests: Vec<(Movement, u64)>,
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let limits = prop::collection::vec(
        (limit(), prop_oneof![3 => Just(ENFORCED), 1 => 1_u32..3]),
        1..4,
    );
    let cost = prop_oneof![3 => Just(0_u64), 1 => 0_u64..1_100];
    (limits, prop::collection::vec((movement(), cost), 1..40))
        .prop_map(|(limits, requests)| Scenario { limits, requests })
}

/// What the Rust arithmetic says, kept as a store would.
struct Model<'a> {
    limits: &'a [(Limit, u32)],
    states: Vec<Option<(State, u64)>>,
}

impl Model<'_> {
    fn charge(&mut self, now: u64, costs: &[u64]) -> (bool, Vec<Outcome>) {
        let steps: Vec<_> = (0..self.limits.len())
            .map(|i| {
                self.limits[i].0.step(
                    self.states[i].clone().map(|(state, _)| state),
                    now,
                    costs[i],
                )
            })
            .collect();
        let denied: Vec<u32> = steps
            .iter()
            .zip(self.limits)
            .filter(|(step, _)| !step.outcome.allowed)
            .map(|(_, (_, group))| *group)
            .collect();
        let admitted = !denied.contains(&ENFORCED);
        for (i, step) in steps.iter().enumerate() {
            if admitted && !denied.contains(&self.limits[i].1) {
                let ttl = (step.expires_us - now).div_ceil(1_000).max(1);
                self.states[i] = Some((step.state.clone(), ttl));
            }
        }
        (admitted, steps.iter().map(|step| step.outcome).collect())
    }
}

async fn compare(
    connection: &mut MultiplexedConnection,
    source: &str,
    number: u64,
    scenario: &Scenario,
) -> Result<(), TestCaseError> {
    let key = |i: usize| format!("tollgate:{{differential:{number}}}:{i}");
    let mut model = Model {
        limits: &scenario.limits,
        states: vec![None; scenario.limits.len()],
    };
    let longest = scenario
        .limits
        .iter()
        .map(|(limit, _)| limit.window_us())
        .max()
        .unwrap_or(1);
    let mut now = START;
    let mut waits = vec![longest; scenario.limits.len()];
    for (movement, share) in &scenario.requests {
        let by = match *movement {
            Movement::Share(share) => i128::from(share) * i128::from(longest) / 1_000_000,
            Movement::Promised { limit, beside } => {
                i128::from(waits[limit % waits.len()]) + i128::from(beside)
            }
        };
        now = now.saturating_add_signed(i64::try_from(by).unwrap());
        let costs: Vec<u64> = scenario
            .limits
            .iter()
            .map(|(limit, _)| (limit.burst() * share / 1_000).clamp(1, MAX_AMOUNT))
            .collect();
        let mut batch = Batch::default();
        for (i, (limit, group)) in scenario.limits.iter().enumerate() {
            batch.push(*limit, costs[i], *group, |out| out.push_str(&key(i)));
        }
        let mut command = script::command("EVAL", source, &batch);
        command.arg(now);
        let answer: Value = command.query_async(connection).await.unwrap();
        let answer = script::decode(answer, batch.charges().len()).unwrap();
        let (verdict, told) = (answer.verdict.unwrap(), answer.now_us);
        let (admitted, outcomes) = model.charge(now, &costs);
        prop_assert_eq!(told, now);
        prop_assert_eq!(verdict.admitted, admitted);
        prop_assert_eq!(&verdict.outcomes, &outcomes, "at {} cost {:?}", now, costs);
        waits = verdict
            .outcomes
            .iter()
            .map(|outcome| outcome.wait_us)
            .collect();
        for (i, state) in model.states.iter().enumerate() {
            let mut get = redis::cmd("MGET");
            get.arg(key(i)).arg(format!("{}:ttl", key(i)));
            let stored: (Option<String>, Option<u64>) = get.query_async(connection).await.unwrap();
            let expected = state.as_ref().map_or((None, None), |(state, ttl)| {
                (Some(state.to_string()), Some(*ttl))
            });
            prop_assert_eq!(stored, expected);
        }
    }
    Ok(())
}

#[test]
fn lua_and_rust_agree_to_the_bit() {
    let redis = Redis::start();
    let source = script_with_injected_clock();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = redis::Client::open(redis.url()).unwrap();
    let connection = runtime
        .block_on(client.get_multiplexed_async_connection())
        .unwrap();
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 500,
        ..ProptestConfig::default()
    });
    let number = std::cell::Cell::new(0);
    let result = runner.run(&scenario(), |scenario| {
        number.set(number.get() + 1);
        runtime.block_on(compare(
            &mut connection.clone(),
            &source,
            number.get(),
            &scenario,
        ))
    });
    if let Err(error) = result {
        let mut text = String::new();
        let _ = write!(text, "{error}");
        panic!("{text}");
    }
}

#[test]
fn a_counter_that_tollgate_did_not_write_is_an_error_and_not_a_free_pass() {
    let redis = Redis::start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = runtime
        .block_on(client.get_multiplexed_async_connection())
        .unwrap();
    for (set, expected) in [
        (vec!["SET", "k", "five"], "not a counter of tollgate"),
        (vec!["SET", "k", "-1 5"], "not a counter of tollgate"),
        (vec!["SET", "k", ""], "not a counter of tollgate"),
        (vec!["RPUSH", "l", "5"], "WRONGTYPE"),
    ] {
        redis.cli(&set);
        for algorithm in Algorithm::ALL {
            let mut batch = Batch::default();
            let limit = Limit::new(algorithm, 5, 60_000_000, None).unwrap();
            batch.push(limit, 1, ENFORCED, |key| key.push_str(set[1]));
            let command = script::command("EVAL", script::SOURCE, &batch);
            let error = runtime
                .block_on(command.query_async::<Value>(&mut connection))
                .unwrap_err();
            assert!(
                error.to_string().contains(expected),
                "{set:?} {algorithm}: {error}"
            );
        }
    }
}
