//! Faults at random under traffic, for a minute or, by scripts/soak.sh, for longer: afterwards
//! tollgate holds no more than before, and counts right.

use std::{
    env,
    hash::{BuildHasher as _, RandomState},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    task::{JoinSet, block_in_place},
    time::sleep,
};

use super::support::{
    client::{Connection, ask_from, head},
    envoy::{Config, Envoy},
    eventually,
    fault_proxy::{FaultProxy, Mode},
    process::Holdings,
    redis::Redis,
    tollgate::{Settings, Tollgate},
    upstream::Upstream,
    within,
};

/// Windows are short, so that counters come and go.
const RULES: &str = "
version: 1
rules:
  - { name: local, match: { path: /local }, key: [client_ip], limit: 5/s, on_store_error: local }
  - { name: allow, match: { path: /allow }, key: [client_ip], limit: 5/s, on_store_error: allow }
  - { name: deny, match: { path: /deny }, key: [client_ip], limit: 5/s, on_store_error: deny }
  - { name: proxy, match: { path: /proxy }, key: [client_ip], limit: 5/s, on_store_error: proxy }
  - { name: last, match: { path: /last }, key: [client_ip], limit: 20/day, on_store_error: deny }
  - { name: probe, match: { path: /probe }, limit: 1000000/day, on_store_error: deny }
";

const PATHS: [&str; 4] = ["/local", "/allow", "/deny", "/proxy"];
const LANES: usize = 2;

/// What can happen to Redis.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// To the way there.
    Network(Mode),
    HalfOpen,
    Stop,
    Restart,
    Flush,
    OutOfMemory,
    ReadOnly,
    Login,
    NoRight,
    Forget,
}

const FAULTS: [Fault; 16] = [
    Fault::Network(Mode::Refuse),
    Fault::Network(Mode::BlackHole),
    Fault::Network(Mode::Garbage),
    Fault::Network(Mode::Cut),
    Fault::Network(Mode::CutCharges),
    Fault::Network(Mode::Trickle),
    Fault::Network(Mode::Delay(
        Duration::from_millis(20),
        Duration::from_millis(20),
    )),
    Fault::HalfOpen,
    Fault::Stop,
    Fault::Restart,
    Fault::Flush,
    Fault::OutOfMemory,
    Fault::ReadOnly,
    Fault::Login,
    Fault::NoRight,
    Fault::Forget,
];

impl Fault {
    async fn begin(self, redis: &mut Redis, proxy: &mut FaultProxy) {
        let cli = |redis: &Redis, args: &[&str]| block_in_place(|| redis.cli(args));
        match self {
            Self::Network(mode) => proxy.set(mode).await,
            Self::HalfOpen => proxy.half_open(),
            Self::Stop => redis.pause(),
            Self::Restart => redis.kill(),
            Self::Flush => drop(cli(redis, &["SCRIPT", "FLUSH"])),
            Self::OutOfMemory => drop(cli(redis, &["CONFIG", "SET", "maxmemory", "1mb"])),
            Self::ReadOnly => drop(cli(redis, &["REPLICAOF", "127.0.0.1", "1"])),
            Self::Login => {
                cli(redis, &["CONFIG", "SET", "requirepass", "secret"]);
                redis.log_in(Some("secret"));
                cli(
                    redis,
                    &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"],
                );
            }
            Self::NoRight => drop(cli(redis, &["ACL", "SETUSER", "default", "-evalsha"])),
            Self::Forget => drop(cli(redis, &["FLUSHALL"])),
        }
    }

    async fn end(self, redis: &mut Redis, proxy: &mut FaultProxy) {
        let cli = |redis: &Redis, args: &[&str]| block_in_place(|| redis.cli(args));
        match self {
            Self::Network(_) => proxy.set(Mode::Pass).await,
            Self::HalfOpen | Self::Flush | Self::Forget => {}
            Self::Stop => redis.unpause(),
            Self::Restart => block_in_place(|| redis.resume_process()),
            Self::OutOfMemory => drop(cli(redis, &["CONFIG", "SET", "maxmemory", "0"])),
            Self::ReadOnly => drop(cli(redis, &["REPLICAOF", "NO", "ONE"])),
            Self::Login => {
                cli(redis, &["CONFIG", "SET", "requirepass", ""]);
                redis.log_in(None);
            }
            Self::NoRight => drop(cli(redis, &["ACL", "SETUSER", "default", "+evalsha"])),
        }
    }
}

/// Numbers that depend on nothing but the seed (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A number in the environment.
fn given(name: &str) -> Option<u64> {
    let value = env::var(name).ok().filter(|value| !value.is_empty())?;
    Some(
        value
            .parse()
            .unwrap_or_else(|error| panic!("{name}: {error}")),
    )
}

/// A client that goes from path to path, and is another caller after every hundred requests.
async fn ask_on(envoy: SocketAddr, driver: u8, stop: Arc<AtomicBool>, answered: Arc<AtomicUsize>) {
    for caller in (0..=250).cycle() {
        let from = Ipv4Addr::new(127, 3, driver, caller);
        let mut connection = Connection::open_from(from, envoy).await.unwrap();
        for path in PATHS.iter().cycle().take(100) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let answer = connection.ask(&head("GET", path, &[])).await;
            let answer = answer.unwrap_or_else(|error| panic!("{path}: no answer: {error}"));
            assert!([200, 429].contains(&answer.status), "{answer:?}");
            answered.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_at_random_leave_nothing_behind() {
    let lasts = Duration::from_secs(given("TOLLGATE_TEST_SOAK_SECONDS").unwrap_or(60));
    let seed = given("TOLLGATE_TEST_SOAK_SEED")
        .unwrap_or_else(|| RandomState::new().hash_one(()) % 1_000_000);
    eprintln!("{lasts:?}; the same faults again with TOLLGATE_TEST_SOAK_SEED={seed}");
    let mut random = Random(seed.max(1));

    let mut redis = Redis::start();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, redis.port()));
    let mut proxy = FaultProxy::start(to).await;
    let url = format!("--redis-url=redis://{}", proxy.addr);
    let lanes = format!("--threads={LANES}");
    let tollgate = Tollgate::start(Settings {
        rules: RULES,
        args: &[&url, &lanes, "--deadline=250ms"],
        ..Settings::default()
    })
    .await;
    let upstream = Upstream::start().await;
    let config = Config::shipped().patient();
    let envoy = Envoy::start(config, &[&tollgate.listen], &upstream).await;
    let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let mut drivers = JoinSet::new();
    for driver in 1..=4 {
        let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
        drivers.spawn(ask_on(envoy.addr, driver, stop, answered));
    }

    let started = Instant::now();
    let mut before: Option<Holdings> = None;
    let mut round = 0;
    while started.elapsed() < lasts || before.is_none() {
        // All of them once: what they need at most is held then.
        let fault = match FAULTS.get(round) {
            Some(fault) => *fault,
            None => FAULTS[usize::try_from(random.below(FAULTS.len() as u64)).unwrap()],
        };
        let ms = random.below(1_200);
        eprintln!("{:?}: {fault:?} for {ms} ms", started.elapsed());
        fault.begin(&mut redis, &mut proxy).await;
        sleep(Duration::from_millis(ms)).await;
        fault.end(&mut redis, &mut proxy).await;
        until_redis_decides(envoy.addr).await;
        sleep(Duration::from_millis(random.below(300))).await;
        upstream.forget();
        round += 1;
        if round == FAULTS.len() {
            let holds = tollgate.holds();
            eprintln!("after {round} faults: {holds:?}");
            before = Some(holds);
        }
        let most = proxy.most();
        assert!(
            most <= LANES,
            "{most} connections at a time since {fault:?}"
        );
        let lost = drivers.try_join_next();
        assert!(lost.is_none(), "a request was not answered: {lost:?}");
    }
    // With traffic, because only a decision shows that Redis refuses no more.
    tollgate.until_status("ok").await;
    let last = Ipv4Addr::new(127, 4, 0, 1);
    let mut admitted = 0;
    for _ in 0..50 {
        let answer = ask_from(last, envoy.addr, &head("GET", "/last", &[])).await;
        admitted += usize::from(answer.status == 200);
    }
    assert_eq!(admitted, 20, "what a new caller may do");
    stop.store(true, Ordering::Relaxed);
    while let Some(driver) = drivers.join_next().await {
        driver.unwrap();
    }

    let before = before.unwrap();
    let holds = tollgate.holds();
    let answered = answered.load(Ordering::Relaxed);
    eprintln!("after {round} faults and {answered} requests: {holds:?}");
    eventually("each lane has its one connection", async || {
        proxy.open() == LANES
    })
    .await;
    assert!(
        proxy.most() <= LANES,
        "{} connections to Redis",
        proxy.most()
    );
    within(
        Duration::from_secs(60),
        "files and threads are let go",
        async || {
            let holds = tollgate.holds();
            holds.files <= before.files + 2 && holds.threads <= before.threads + 2
        },
    )
    .await;
    let most = before.resident_kb + before.resident_kb / 4 + 4_096;
    assert!(holds.resident_kb <= most, "{before:?}, then {holds:?}");
    let panics = tollgate.metric("tollgate_handler_panics_total").await;
    assert_eq!(panics, 0);
    let log = tollgate.log();
    let bug = log
        .lines()
        .find(|line| line.contains("panicked") || line.contains(" ERROR "));
    assert_eq!(bug, None);
}

/// Waits until Redis decides for each of many callers, who do not all go over the same lane.
async fn until_redis_decides(envoy: SocketAddr) {
    within(Duration::from_secs(20), "Redis decides", async || {
        for number in 1..=8 {
            let from = Ipv4Addr::new(127, 5, 0, number);
            if ask_from(from, envoy, &head("GET", "/probe", &[]))
                .await
                .status
                != 200
            {
                return false;
            }
        }
        true
    })
    .await;
}
