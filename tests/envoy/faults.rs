//! Faults of Redis, of the way to it and of its name, under steady traffic through Envoy, for each
//! `on_store_error`: what clients get, how long checks take, and what is counted afterwards.
//!
//! Each test compares its row of the table in docs/reliability.md, and with `TOLLGATE_TEST_WRITE=1`
//! writes it, and what it has measured.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    task::{JoinHandle, block_in_place},
    time::sleep,
};

use tollgate::clock::{Clock as _, SystemClock};

use super::support::{
    client::{Connection, ask_from, head},
    envoy::{Config, Envoy},
    eventually,
    fault_proxy::{FaultProxy, Mode},
    free_port,
    redis::Redis,
    tollgate::{Settings, Tollgate},
    upstream::Upstream,
    within,
};

/// What each caller may do, by each rule.
const LIMIT: usize = 20;

const RULES: &str = "
version: 1
rules:
  - { name: local, match: { path: /local }, key: [client_ip], limit: 20/day, on_store_error: local }
  - { name: allow, match: { path: /allow }, key: [client_ip], limit: 20/day, on_store_error: allow }
  - { name: deny, match: { path: /deny }, key: [client_ip], limit: 20/day, on_store_error: deny }
  - { name: open, match: { path: /open }, key: [client_ip], limit: 20/day, on_store_error: proxy }
  - { name: closed, match: { path: /closed }, key: [client_ip], limit: 20/day, on_store_error: proxy }
  - { name: probe, match: { path: /probe }, key: [client_ip], limit: 1000000/day, on_store_error: deny }
";

/// The rules that are asked for all the time, in the order of the table's columns. `open` and
/// `closed` are one mode, `proxy`, behind an Envoy that fails open and one that fails closed.
const MODES: [&str; 5] = ["local", "allow", "deny", "open", "closed"];

/// Ten times the default, so that a slow machine does not exceed it while Redis is there.
const DEADLINE: Duration = Duration::from_millis(500);

/// What a check may take beyond its deadline, on a machine that does much else.
const SLACK: Duration = Duration::from_secs(3);

/// How long tollgate may take to use Redis again.
const RECOVERY: Duration = Duration::from_secs(20);

/// The pause between two requests of one caller.
const PACE: Duration = Duration::from_millis(10);

const LANES: usize = 2;

/// The rows of the table, in its order.
const FAULTS: [&str; 25] = [
    "connections refused",
    "black hole: packets dropped",
    "half-open connections",
    "garbage instead of answers",
    "answers cut in the middle",
    "broken by each check",
    "one byte at a time",
    "latency of 30 ms ± 10",
    "latency of 30 ms ± 10, deadline of 50 ms",
    "the name does not resolve",
    "the name has another address",
    "`SIGSTOP`",
    "`CLIENT PAUSE`",
    "`DEBUG SLEEP`",
    "killed",
    "restarted empty",
    "`LOADING`",
    "`READONLY`",
    "`OOM`",
    "`NOSCRIPT`: `SCRIPT FLUSH`",
    "`MISCONF`",
    "`NOAUTH`",
    "`NOPERM`",
    "the password has changed",
    "another type at the key",
];

/// What becomes of checks while a fault lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Redis decides none.
    Away,
    /// Redis decides all.
    None,
    /// Redis decides some: it is back soon, or sometimes late.
    Some,
    /// As [`Some`](Self::Some), and Redis has forgotten what it had counted.
    Fresh,
}

/// Whether checks wait for Redis in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// None does.
    No,
    /// The first do, until the breaker opens.
    First,
    /// Some may.
    Maybe,
}

/// One row of the table.
struct Fault {
    name: &'static str,
    effect: Effect,
    waits: Waits,
    /// It ends by itself.
    passes: bool,
    /// tollgate reaches Redis without the fault proxy.
    direct: bool,
    deadline: Duration,
    redis_args: &'static [&'static str],
    /// The password of Redis.
    password: Option<&'static str>,
    tollgate_args: Vec<String>,
    /// A file of names; Redis is then `redis.test`.
    hosts: Option<PathBuf>,
}

fn fault(name: &'static str, effect: Effect, waits: Waits) -> Fault {
    assert!(FAULTS.contains(&name), "{name} is not in FAULTS");
    Fault {
        name,
        effect,
        waits,
        passes: false,
        direct: false,
        deadline: DEADLINE,
        redis_args: &[],
        password: None,
        tollgate_args: Vec::new(),
        hosts: None,
    }
}

/// What a fault can be done to.
struct Scene {
    redis: Redis,
    proxy: FaultProxy,
    traffic: Traffic,
}

/// What a caller belongs to. Each phase has callers of its own, so that what it admits does not
/// depend on others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// All is well.
    Before = 1,
    /// The fault begins.
    Begin,
    /// It lasts.
    During,
    /// It ends, and tollgate recovers.
    End,
    /// All is well again.
    After,
}

const PHASES: [Phase; 5] = [
    Phase::Before,
    Phase::Begin,
    Phase::During,
    Phase::End,
    Phase::After,
];

/// The address of a caller.
fn caller(phase: Phase, mode: usize) -> Ipv4Addr {
    // There are few of both.
    Ipv4Addr::new(127, 1, phase as u8, u8::try_from(mode).unwrap() + 1)
}

/// The key of its counter.
fn key(phase: Phase, mode: usize) -> String {
    let (name, caller) = (MODES[mode], caller(phase, mode));
    format!("tollgate:{{{name}:client_ip={caller}}}:sliding_window:86400s")
}

/// One request.
#[derive(Debug, Clone)]
struct Record {
    phase: Phase,
    status: u16,
    took: Duration,
    /// Whether the response says what is left.
    counted: bool,
}

/// Callers that send requests all the time, one for each mode.
struct Traffic {
    shared: Arc<Shared>,
    drivers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// The phase of the next requests, as an index into [`PHASES`].
    phase: AtomicUsize,
    stop: AtomicBool,
    /// For each mode, the phase of the request under way, and what has been answered.
    at: [AtomicUsize; MODES.len()],
    records: [Mutex<Vec<Record>>; MODES.len()],
}

impl Traffic {
    fn start(open: SocketAddr, closed: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            phase: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            at: [const { AtomicUsize::new(0) }; MODES.len()],
            records: [const { Mutex::new(Vec::new()) }; MODES.len()],
        });
        let drivers = (0..MODES.len())
            .map(|mode| {
                let envoy = if MODES[mode] == "closed" {
                    closed
                } else {
                    open
                };
                tokio::spawn(drive(Arc::clone(&shared), mode, envoy))
            })
            .collect();
        Self { shared, drivers }
    }

    /// Goes over to a phase, and waits until no request of another one is under way.
    async fn enter(&self, phase: Phase) {
        let index = PHASES.iter().position(|p| *p == phase).unwrap();
        self.shared.phase.store(index, Ordering::SeqCst);
        within(RECOVERY, "requests are answered", async || {
            self.check();
            let at = &self.shared.at;
            at.iter().all(|at| at.load(Ordering::SeqCst) == index)
        })
        .await;
    }

    /// Waits until each caller has sent so many requests in this phase.
    async fn sends(&self, phase: Phase, count: usize) {
        within(Duration::from_secs(60), "traffic goes on", async || {
            self.check();
            (0..MODES.len()).all(|mode| self.records(phase, mode).len() >= count)
        })
        .await;
    }

    /// Fails if a caller got no answer.
    fn check(&self) {
        let lost = self.drivers.iter().any(JoinHandle::is_finished);
        assert!(!lost, "a request was not answered: see above");
    }

    fn records(&self, phase: Phase, mode: usize) -> Vec<Record> {
        let records = self.shared.records[mode].lock().unwrap();
        let of_phase = records.iter().filter(|record| record.phase == phase);
        of_phase.cloned().collect()
    }

    fn all(&self) -> Vec<Record> {
        let records = self.shared.records.iter();
        records.flat_map(|r| r.lock().unwrap().clone()).collect()
    }

    async fn end(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for driver in &mut self.drivers {
            driver.await.unwrap();
        }
    }
}

async fn drive(shared: Arc<Shared>, mode: usize, envoy: SocketAddr) {
    let mut current: Option<(usize, Connection)> = None;
    while !shared.stop.load(Ordering::SeqCst) {
        let index = shared.phase.load(Ordering::SeqCst);
        let phase = PHASES[index];
        let connection = match &mut current {
            Some((of, connection)) if *of == index => connection,
            _ => {
                let from = caller(phase, mode);
                let connection = Connection::open_from(from, envoy).await.unwrap();
                &mut current.insert((index, connection)).1
            }
        };
        shared.at[mode].store(index, Ordering::SeqCst);
        let target = format!("/{}?{phase:?}", MODES[mode]);
        let started = Instant::now();
        let answer = connection.ask(&head("GET", &target, &[])).await;
        let answer = answer.unwrap_or_else(|error| panic!("{target}: no answer: {error}"));
        shared.records[mode].lock().unwrap().push(Record {
            phase,
            status: answer.status,
            took: started.elapsed(),
            counted: answer.header("ratelimit").is_some(),
        });
        sleep(PACE).await;
    }
}

/// What a cell of the table says.
const LIMITED: &str = "limited";
const LIMITED_HERE: &str = "limited here";
const EITHER: &str = "either";

/// Checks what one caller got in a phase, and says it in the words of the table.
fn told(effect: Effect, mode: usize, records: &[Record]) -> &'static str {
    let name = MODES[mode];
    let statuses: Vec<u16> = records.iter().map(|record| record.status).collect();
    let admitted = statuses.iter().filter(|status| **status == 200).count();
    let is_limited = statuses
        .iter()
        .enumerate()
        .all(|(at, status)| *status == if at < LIMIT { 200 } else { 429 })
        && records.iter().all(|record| record.counted);
    let all = |status, counted| {
        let mut records = records.iter();
        records.all(|record| record.status == status && record.counted == counted)
    };
    let is_as_expected = match (effect, name) {
        (Effect::None, _) | (Effect::Away, "local") => is_limited,
        (Effect::Away, "allow" | "open") => all(200, false),
        (Effect::Away, "deny") => all(429, false),
        (Effect::Away, _) => all(503, false),
        (Effect::Some | Effect::Fresh, _) => {
            let permitted: &[u16] = match name {
                "closed" => &[200, 429, 503],
                _ => &[200, 429],
            };
            let by_redis = match effect {
                Effect::Fresh => 2 * LIMIT,
                _ => LIMIT,
            };
            let most = match name {
                "local" => by_redis + LIMIT,
                "deny" | "closed" => by_redis,
                _ => usize::MAX,
            };
            statuses.iter().all(|status| permitted.contains(status)) && admitted <= most
        }
    };
    let got: Vec<String> = records
        .iter()
        .map(|record| format!("{}{}", record.status, if record.counted { "c" } else { "" }))
        .collect();
    assert!(
        is_as_expected,
        "{name}, with {effect:?} (c: counted): {}",
        got.join(" ")
    );
    match (effect, name) {
        (Effect::None, _) => LIMITED,
        (Effect::Some, _) => EITHER,
        (Effect::Fresh, _) => "either, from zero",
        (Effect::Away, "local") => LIMITED_HERE,
        (Effect::Away, "allow" | "open") => "200",
        (Effect::Away, "deny") => "429",
        (Effect::Away, _) => "503",
    }
}

/// How many requests each caller sends in a phase at least.
const ENOUGH: usize = 5 * LIMIT / 2;

/// Client → Envoy → tollgate → the fault proxy → Redis.
struct Stack {
    started: Instant,
    scene: Scene,
    tollgate: Tollgate,
    upstream: Upstream,
    /// One that fails open, and one that fails closed.
    envoys: [Envoy; 2],
}

/// What was measured.
struct Measured {
    late: u64,
    slowest: Duration,
    recovered_after: Duration,
}

impl Fault {
    /// Runs it, from `begin` to `end`.
    async fn run(self, begin: impl AsyncFnOnce(&mut Scene), end: impl AsyncFnOnce(&mut Scene)) {
        let mut stack = self.start().await;
        stack.scene.traffic.sends(Phase::Before, ENOUGH).await;
        let recovered_after = self.play(&mut stack, begin, end).await;
        stack.scene.traffic.enter(Phase::After).await;
        stack.scene.traffic.sends(Phase::After, ENOUGH).await;
        stack.scene.traffic.end().await;

        let cells = self.cells(&stack);
        let measured = self.measured(&stack, recovered_after).await;
        self.connections_are_few(&stack).await;
        let log = stack.tollgate.log();
        assert!(!log.contains("panicked"), "{log}");
        self.report(&stack, &cells, &measured);
    }

    async fn start(&self) -> Stack {
        let started = Instant::now();
        let redis = Redis::start_with(self.redis_args, self.password);
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, redis.port()));
        let proxy = FaultProxy::start(to).await;
        let host = self.hosts.as_ref().map_or("127.0.0.1", |_| "redis.test");
        let port = if self.direct { to } else { proxy.addr }.port();
        let url = format!("--redis-url=redis://{host}:{port}");
        let deadline = format!("--deadline={}ms", self.deadline.as_millis());
        let lanes = format!("--threads={LANES}");
        let mut args = vec![&*url, &*deadline, &*lanes];
        args.extend(self.tollgate_args.iter().map(String::as_str));
        let tollgate = Tollgate::start(Settings {
            rules: RULES,
            hosts: self.hosts.as_deref(),
            args: &args,
            ..Settings::default()
        })
        .await;
        let upstream = Upstream::start().await;
        let shipped = Config::shipped().patient();
        let open = Envoy::start(shipped.clone(), &[&tollgate.listen], &upstream).await;
        let closed = Envoy::start(shipped.fail_closed(), &[&tollgate.listen], &upstream).await;
        let traffic = Traffic::start(open.addr, closed.addr);
        Stack {
            started,
            scene: Scene {
                redis,
                proxy,
                traffic,
            },
            tollgate,
            upstream,
            envoys: [open, closed],
        }
    }

    /// From the begin of the fault to the recovery; returns how long that took after the end, or
    /// after the begin if the fault passes by itself.
    async fn play(
        &self,
        stack: &mut Stack,
        begin: impl AsyncFnOnce(&mut Scene),
        end: impl AsyncFnOnce(&mut Scene),
    ) -> Duration {
        let (scene, envoy) = (&mut stack.scene, stack.envoys[0].addr);
        if self.passes {
            scene.traffic.enter(Phase::During).await;
            begin(scene).await;
            let since = Instant::now();
            until_redis_decides(envoy).await;
            let recovered_after = since.elapsed();
            scene.traffic.sends(Phase::During, ENOUGH).await;
            return recovered_after;
        }
        scene.traffic.enter(Phase::Begin).await;
        begin(scene).await;
        let since = Instant::now();
        scene.traffic.enter(Phase::During).await;
        scene.traffic.sends(Phase::During, ENOUGH).await;
        // Long enough that connections which hang have been given up.
        let lasts = match self.waits {
            Waits::No => Duration::from_secs(1),
            Waits::First | Waits::Maybe => self.deadline * 6,
        };
        sleep(lasts.saturating_sub(since.elapsed())).await;
        scene.traffic.enter(Phase::End).await;
        end(scene).await;
        let since = Instant::now();
        until_redis_decides(envoy).await;
        since.elapsed()
    }

    /// Checks the responses to all clients; returns those during the fault, by mode.
    fn cells(&self, stack: &Stack) -> Vec<&'static str> {
        // With its own deadline, a slow machine may be late at any time.
        let well = if self.deadline == DEADLINE {
            Effect::None
        } else {
            Effect::Some
        };
        let traffic = &stack.scene.traffic;
        if self.effect == Effect::Away {
            let let_through = stack.upstream.count_of(|seen| {
                let header = "x-envoy-auth-failure-mode-allowed";
                seen.target == "/open?During" && seen.headers.contains_key(header)
            });
            let sent = traffic.records(Phase::During, 3).len();
            assert_eq!(
                let_through, sent,
                "each of these reaches the application with a mark"
            );
        }
        let modes = MODES.iter().enumerate().map(|(mode, name)| {
            for (phase, effect) in [
                (Phase::Before, well),
                (Phase::Begin, Effect::Some),
                (Phase::End, Effect::Some),
                (Phase::After, well),
            ] {
                told(effect, mode, &traffic.records(phase, mode));
            }
            if well == Effect::None {
                let counter = stack.scene.redis.cli(&["GET", &key(Phase::After, mode)]);
                assert!(counter.starts_with("20 "), "{name}: {counter:?}");
            }
            told(self.effect, mode, &traffic.records(Phase::During, mode))
        });
        modes.collect()
    }

    async fn measured(&self, stack: &Stack, recovered_after: Duration) -> Measured {
        let lateness = "tollgate_store_errors_total{kind=\"deadline\"}";
        let late = stack.tollgate.metric(lateness).await;
        match self.waits {
            Waits::No => assert_eq!(late, 0, "checks that waited in vain"),
            Waits::First => assert!(late > 0, "no check has waited in vain"),
            Waits::Maybe => {}
        }
        let all = stack.scene.traffic.all();
        let slowest = all.iter().map(|record| record.took).max().unwrap();
        assert!(slowest < self.deadline + SLACK, "a check took {slowest:?}");
        Measured {
            late,
            slowest,
            recovered_after,
        }
    }

    async fn connections_are_few(&self, stack: &Stack) {
        let Scene { redis, proxy, .. } = &stack.scene;
        eventually("each lane has its one connection", async || {
            if self.direct {
                let clients = redis.cli(&["CLIENT", "LIST", "TYPE", "normal"]);
                return clients.lines().count() == LANES + 1;
            }
            // With a name, they may go over another proxy.
            proxy.open() == LANES || self.hosts.is_some()
        })
        .await;
        let (most, all) = (proxy.most(), proxy.all());
        assert!(most <= LANES, "{most} connections to Redis at a time");
        // For each lane, some soon after the fault began, and then one every quarter second.
        let quarters = usize::try_from(stack.started.elapsed().as_millis() / 250).unwrap();
        assert!(all <= LANES * (10 + quarters), "connected {all} times");
    }

    fn report(&self, stack: &Stack, cells: &[&str], measured: &Measured) {
        let waits = match self.waits {
            Waits::No => "at once",
            Waits::First => "at the deadline, then at once",
            Waits::Maybe => "by the deadline",
        };
        let (name, traffic) = (self.name, &stack.scene.traffic);
        let row = format!("| {name} | {} | {waits} | by itself |", cells.join(" | "));
        let admitted = |mode| {
            let records = traffic.records(Phase::During, mode);
            records.iter().filter(|record| record.status == 200).count()
        };
        let Measured {
            late,
            slowest,
            recovered_after,
        } = measured;
        let measured = format!(
            "| {name} | {} | {} | {late} | {} | {} / {} / {} |",
            traffic.all().len(),
            slowest.as_millis(),
            recovered_after.as_millis(),
            admitted(0),
            admitted(1),
            admitted(2),
        );
        eprintln!("{measured}");
        compare_or_write(name, &row, &measured);
    }
}

/// Waits until Redis decides for each of many callers, who do not all go over the same lane.
async fn until_redis_decides(envoy: SocketAddr) {
    let probe = head("GET", "/probe", &[]);
    within(RECOVERY, "Redis decides", async || {
        for number in 1..=16 {
            let answer = ask_from(Ipv4Addr::new(127, 2, 0, number), envoy, &probe).await;
            if answer.status != 200 {
                return false;
            }
        }
        true
    })
    .await;
}

/// The document with the tables, and the marks around what is written into it.
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reliability.md");
const FACTS: (&str, &str) = ("<!-- table of faults -->\n", "<!-- end of table -->\n");
const MEASURED: (&str, &str) = ("<!-- measured -->\n", "<!-- end of measured -->\n");

/// Compares a row with the document; or writes it, and beside it what was measured.
fn compare_or_write(name: &str, row: &str, measured: &str) {
    /// Tests run side by side.
    static WRITING: Mutex<()> = Mutex::new(());
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let text = fs::read_to_string(DOCUMENT).unwrap();
    if std::env::var_os("TOLLGATE_TEST_WRITE").is_some() {
        let text = with_row(&text, FACTS, name, row);
        let text = with_row(&text, MEASURED, name, measured);
        let now = i64::try_from(SystemClock::new().now_us()).unwrap();
        let now = jiff::Timestamp::from_microsecond(now).unwrap();
        let today = now.strftime("it took, on %Y-%m-%d").to_string();
        let date = regex::Regex::new(r"it took, on \d{4}-\d\d-\d\d").unwrap();
        fs::write(DOCUMENT, &*date.replace(&text, today)).unwrap();
        return;
    }
    let begin = format!("| {name} |");
    let written = between(&text, FACTS).1.lines();
    let written: Vec<&str> = written.filter(|line| line.starts_with(&begin)).collect();
    assert_eq!(
        written,
        [row],
        "docs/reliability.md has another row: write it anew with TOLLGATE_TEST_WRITE=1"
    );
}

/// What is before, between and after two marks.
fn between<'a>(text: &'a str, marks: (&str, &str)) -> (&'a str, &'a str, &'a str) {
    let (before, rest) = text.split_once(marks.0).expect("the first mark");
    let (table, after) = rest.split_once(marks.1).expect("the second mark");
    (before, table, after)
}

/// The text with this row in place of the one of that name, in the order of [`FAULTS`].
fn with_row(text: &str, marks: (&str, &str), name: &str, row: &str) -> String {
    let (before, table, after) = between(text, marks);
    let mut lines: Vec<&str> = table.lines().collect();
    let heads = lines.drain(..2).collect::<Vec<_>>().join("\n");
    let of = |line: &str| {
        let mut faults = FAULTS.iter();
        faults.position(|name| line.starts_with(&format!("| {name} |")))
    };
    lines.retain(|line| of(line).is_some() && !line.starts_with(&format!("| {name} |")));
    lines.push(row);
    lines.sort_by_key(|line| of(line));
    let rows = lines.join("\n");
    format!("{before}{}{heads}\n{rows}\n{}{after}", marks.0, marks.1)
}

#[test]
fn the_document_has_a_row_for_each_fault_and_each_fault_a_test() {
    let text = fs::read_to_string(DOCUMENT).unwrap();
    for marks in [FACTS, MEASURED] {
        let rows = between(&text, marks).1.lines().skip(2);
        let names: Vec<&str> = rows
            .map(|row| row[2..].split(" | ").next().unwrap())
            .collect();
        assert_eq!(names, FAULTS, "{}", marks.0);
    }
    let tests = include_str!("faults.rs");
    for name in FAULTS {
        let quoted = format!("\"{name}\"");
        assert_eq!(tests.matches(&quoted).count(), 2, "tests of {name}");
    }
}

async fn nothing(_: &mut Scene) {}

/// Runs `redis-cli`, which may take as long as the fault.
fn cli(redis: &Redis, args: &[&str]) -> String {
    block_in_place(|| redis.cli(args))
}

// The way to Redis.

#[tokio::test(flavor = "multi_thread")]
async fn refused() {
    fault("connections refused", Effect::Away, Waits::No)
        .run(
            async |scene| scene.proxy.set(Mode::Refuse).await,
            async |scene| scene.proxy.set(Mode::Pass).await,
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn black_hole() {
    fault("black hole: packets dropped", Effect::Away, Waits::First)
        .run(
            async |scene| scene.proxy.set(Mode::BlackHole).await,
            async |scene| scene.proxy.set(Mode::Pass).await,
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open() {
    Fault {
        passes: true,
        ..fault("half-open connections", Effect::Some, Waits::First)
    }
    .run(async |scene| scene.proxy.half_open(), nothing)
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage() {
    fault("garbage instead of answers", Effect::Away, Waits::No)
        .run(
            async |scene| scene.proxy.set(Mode::Garbage).await,
            async |scene| scene.proxy.set(Mode::Pass).await,
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut() {
    fault("answers cut in the middle", Effect::Away, Waits::No)
        .run(
            async |scene| scene.proxy.set(Mode::Cut).await,
            async |scene| scene.proxy.set(Mode::Pass).await,
        )
        .await;
}

/// Connecting works, and so does the script: only checks find out.
#[tokio::test(flavor = "multi_thread")]
async fn broken_by_checks() {
    fault("broken by each check", Effect::Away, Waits::No)
        .run(
            async |scene| scene.proxy.set(Mode::CutCharges).await,
            async |scene| scene.proxy.set(Mode::Pass).await,
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trickle() {
    fault("one byte at a time", Effect::None, Waits::No)
        .run(
            async |scene| scene.proxy.set(Mode::Trickle).await,
            async |scene| scene.proxy.set(Mode::Pass).await,
        )
        .await;
}

const SLOW: Mode = Mode::Delay(Duration::from_millis(20), Duration::from_millis(20));

#[tokio::test(flavor = "multi_thread")]
async fn latency() {
    fault("latency of 30 ms ± 10", Effect::None, Waits::No)
        .run(
            async |scene| scene.proxy.set(SLOW).await,
            async |scene| scene.proxy.set(Mode::Pass).await,
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn latency_near_the_deadline() {
    let name = "latency of 30 ms ± 10, deadline of 50 ms";
    Fault {
        deadline: Duration::from_millis(50),
        ..fault(name, Effect::Some, Waits::Maybe)
    }
    .run(
        async |scene| scene.proxy.set(SLOW).await,
        async |scene| scene.proxy.set(Mode::Pass).await,
    )
    .await;
}

// The name of Redis.

/// A file of names in which Redis has this address, or none. Written in place: it is mounted.
fn name_redis(hosts: &Path, addr: Option<Ipv4Addr>) {
    let line = addr.map(|addr| format!("{addr} redis.test\n"));
    fs::write(hosts, line.unwrap_or_default()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn name_gone() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts");
    name_redis(&hosts, Some(Ipv4Addr::LOCALHOST));
    Fault {
        hosts: Some(hosts.clone()),
        ..fault("the name does not resolve", Effect::Away, Waits::No)
    }
    .run(
        async |scene| {
            name_redis(&hosts, None);
            scene.proxy.set(Mode::Refuse).await;
            scene.proxy.set(Mode::Pass).await;
        },
        async |_| name_redis(&hosts, Some(Ipv4Addr::LOCALHOST)),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn name_moved() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts");
    let elsewhere = Ipv4Addr::new(127, 0, 0, 2);
    name_redis(&hosts, Some(Ipv4Addr::LOCALHOST));
    let mut moved = None;
    Fault {
        passes: true,
        hosts: Some(hosts.clone()),
        ..fault("the name has another address", Effect::Some, Waits::No)
    }
    .run(
        async |scene| {
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, scene.redis.port()));
            let addr = SocketAddr::from((elsewhere, scene.proxy.addr.port()));
            moved = Some(FaultProxy::start_at(addr, to).await);
            name_redis(&hosts, Some(elsewhere));
            scene.proxy.set(Mode::Refuse).await;
        },
        nothing,
    )
    .await;
    let moved = moved.unwrap();
    assert!(moved.all() >= LANES && moved.most() <= LANES);
}

// Redis itself.

#[tokio::test(flavor = "multi_thread")]
async fn stopped() {
    fault("`SIGSTOP`", Effect::Away, Waits::First)
        .run(
            async |scene| scene.redis.pause(),
            async |scene| scene.redis.unpause(),
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paused() {
    fault("`CLIENT PAUSE`", Effect::Away, Waits::First)
        .run(
            async |scene| {
                scene.redis.cli(&["CLIENT", "PAUSE", "8000"]);
            },
            // Answered when the pause is over.
            async |scene| assert_eq!(cli(&scene.redis, &["PING"]), "PONG"),
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asleep() {
    Fault {
        redis_args: &["--enable-debug-command", "yes"],
        ..fault("`DEBUG SLEEP`", Effect::Away, Waits::First)
    }
    .run(
        async |scene| {
            let port = scene.redis.port();
            let mut connection = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .await
                .unwrap();
            let command = b"PING\r\nDEBUG SLEEP 8\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut connection, command)
                .await
                .unwrap();
            // Kept open: Redis sends the answer to PING only after the sleep.
            tokio::spawn(async move {
                let mut end = Vec::new();
                let _ = tokio::io::AsyncReadExt::read_to_end(&mut connection, &mut end).await;
            });
            let own = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            within(RECOVERY, "Redis sleeps", async || !answers(own).await).await;
        },
        async |scene| assert_eq!(cli(&scene.redis, &["PING"]), "PONG"),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed() {
    Fault {
        direct: true,
        ..fault("killed", Effect::Away, Waits::No)
    }
    .run(
        async |scene| scene.redis.kill(),
        async |scene| block_in_place(|| scene.redis.resume_process()),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted() {
    Fault {
        direct: true,
        passes: true,
        ..fault("restarted empty", Effect::Fresh, Waits::No)
    }
    .run(
        async |scene| {
            scene.redis.kill();
            block_in_place(|| scene.redis.resume_process());
        },
        nothing,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn loading() {
    Fault {
        direct: true,
        redis_args: &["--enable-debug-command", "yes"],
        ..fault("`LOADING`", Effect::Away, Waits::No)
    }
    .run(
        async |scene| {
            cli(&scene.redis, &["DEBUG", "POPULATE", "20000"]);
            assert_eq!(cli(&scene.redis, &["SAVE"]), "OK");
            scene.redis.kill();
            // A millisecond for each key; and it answers meanwhile.
            scene.redis.spawn_with(&[
                "--key-load-delay",
                "1000",
                "--loading-process-events-interval-bytes",
                "1024",
            ]);
            eventually("Redis loads", async || {
                let answer = block_in_place(|| scene.redis.try_cli(&["PING"]));
                answer.is_some_and(|answer| answer.starts_with("LOADING"))
            })
            .await;
        },
        async |scene| {
            cli(&scene.redis, &["CONFIG", "SET", "key-load-delay", "0"]);
            block_in_place(|| scene.redis.until_it_serves());
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only() {
    fault("`READONLY`", Effect::Away, Waits::No)
        .run(
            async |scene| {
                let nowhere = free_port().to_string();
                let answer = scene.redis.cli(&["REPLICAOF", "127.0.0.1", &nowhere]);
                assert_eq!(answer, "OK");
            },
            async |scene| assert_eq!(scene.redis.cli(&["REPLICAOF", "NO", "ONE"]), "OK"),
        )
        .await;
}

/// Runs a fault that is a setting of Redis.
async fn configured(fault: Fault, name: &str, faulty: &str, well: &str) {
    fault
        .run(
            async |scene| assert_eq!(scene.redis.cli(&["CONFIG", "SET", name, faulty]), "OK"),
            async |scene| assert_eq!(scene.redis.cli(&["CONFIG", "SET", name, well]), "OK"),
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_memory() {
    let fault = fault("`OOM`", Effect::Away, Waits::No);
    configured(fault, "maxmemory", "1mb", "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_flushed() {
    Fault {
        passes: true,
        ..fault("`NOSCRIPT`: `SCRIPT FLUSH`", Effect::None, Waits::No)
    }
    .run(
        async |scene| {
            for round in 1..=10 {
                assert_eq!(scene.redis.cli(&["SCRIPT", "FLUSH"]), "OK");
                scene.traffic.sends(Phase::During, 4 * round).await;
            }
        },
        nothing,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cannot_save() {
    fault("`MISCONF`", Effect::Away, Waits::No)
        .run(
            async |scene| {
                // Not even root can put a file where a folder is.
                fs::create_dir(scene.redis.dir().join("dump.rdb")).unwrap();
                scene.redis.cli(&["CONFIG", "SET", "save", "3600 1"]);
                save(&scene.redis, "err").await;
            },
            async |scene| {
                fs::remove_dir(scene.redis.dir().join("dump.rdb")).unwrap();
                save(&scene.redis, "ok").await;
            },
        )
        .await;
}

/// Saves in the background, with this result.
async fn save(redis: &Redis, result: &str) {
    redis.cli(&["BGSAVE"]);
    let line = format!("rdb_last_bgsave_status:{result}");
    eventually(&line, async || {
        let info = redis.cli(&["INFO", "persistence"]);
        info.contains(&line) && info.contains("rdb_bgsave_in_progress:0")
    })
    .await;
}

/// Breaks the connections of all others.
fn kill_clients(redis: &Redis) {
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_asked_for() {
    fault("`NOAUTH`", Effect::Away, Waits::No)
        .run(
            async |scene| {
                scene.redis.cli(&["CONFIG", "SET", "requirepass", "secret"]);
                scene.redis.log_in(Some("secret"));
                kill_clients(&scene.redis);
            },
            async |scene| {
                scene.redis.cli(&["CONFIG", "SET", "requirepass", ""]);
                scene.redis.log_in(None);
            },
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn not_permitted() {
    fault("`NOPERM`", Effect::Away, Waits::No)
        .run(
            async |scene| {
                scene.redis.cli(&["ACL", "SETUSER", "default", "-evalsha"]);
            },
            async |scene| {
                scene.redis.cli(&["ACL", "SETUSER", "default", "+evalsha"]);
            },
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn password_rotated() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    fs::write(&file, "old").unwrap();
    let mut fault = fault("the password has changed", Effect::Away, Waits::No);
    let option = format!("--redis-password-file={}", file.display());
    fault.tollgate_args.push(option);
    fault.redis_args = &["--requirepass", "old"];
    fault.password = Some("old");
    fault
        .run(
            async |scene| {
                scene.redis.cli(&["CONFIG", "SET", "requirepass", "new"]);
                scene.redis.log_in(Some("new"));
                kill_clients(&scene.redis);
            },
            async |_| fs::write(&file, "new").unwrap(),
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_type() {
    fault("another type at the key", Effect::Away, Waits::No)
        .run(
            async |scene| {
                for mode in 0..MODES.len() {
                    let key = key(Phase::During, mode);
                    assert_eq!(scene.redis.cli(&["LPUSH", &key, "x"]), "1");
                }
            },
            async |scene| {
                for mode in 0..MODES.len() {
                    assert_eq!(scene.redis.cli(&["DEL", &key(Phase::During, mode)]), "1");
                }
            },
        )
        .await;
}

/// Whether a Redis answers soon.
async fn answers(addr: SocketAddr) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let asking = async {
        let mut connection = tokio::net::TcpStream::connect(addr).await?;
        connection.write_all(b"PING\r\n").await?;
        connection.read_u8().await
    };
    let answer = tokio::time::timeout(Duration::from_millis(500), asking).await;
    matches!(answer, Ok(Ok(_)))
}
