//! The check port under clients that mean harm: every byte over a real socket to the real program.

use std::{collections::BTreeMap, fs, net::SocketAddr, time::Duration};

use proptest::{
    prelude::Rng as _,
    test_runner::{RngAlgorithm, TestRng},
};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::support::{
    client::{Connection, head},
    eventually,
    process::raise_open_files,
    tollgate::{Settings, Tollgate},
    within,
};

const RULES: &str = "
version: 1
rules:
  - { name: all, key: [client_ip], limit: 1000000/day }
";

/// A rule that admits each caller once: what is admitted was decided once.
const ONCE: &str = "
version: 1
rules:
  - { name: all, key: [client_ip], limit: 1/day }
";

async fn tollgate(rules: &str, args: &[&str]) -> Tollgate {
    Tollgate::start(Settings {
        rules,
        args,
        ..Settings::default()
    })
    .await
}

fn check(client: &str, lines: &[&str]) -> Vec<u8> {
    let client = format!("x-real-ip: {client}");
    let mut all = vec!["x-forwarded-method: GET", "x-forwarded-uri: /", &client];
    all.extend(lines);
    head("GET", "/v1/check", &all)
}

/// The statuses of everything that comes back until the connection ends; `None` in the end if it
/// stays open for half a second.
async fn statuses(addr: SocketAddr, bytes: &[u8]) -> (Vec<u16>, bool) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // It may be closed before it has taken everything.
    let _ = stream.write_all(bytes).await;
    let mut out = Vec::new();
    let mut buf = vec![0; 65_536];
    let closed = loop {
        match timeout(Duration::from_millis(500), stream.read(&mut buf)).await {
            Ok(Ok(0) | Err(_)) => break true,
            Ok(Ok(count)) => out.extend_from_slice(&buf[..count]),
            Err(_) => break false,
        }
    };
    let text = String::from_utf8_lossy(&out);
    let lines = text.match_indices("HTTP/1.1 ");
    let statuses = lines.map(|(at, _)| text[at + 9..at + 12].parse().unwrap());
    (statuses.collect(), closed)
}

async fn decided(tollgate: &Tollgate) -> u64 {
    tollgate.metric("tollgate_decisions_total").await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_and_large_headers_get_an_answer_which_is_no_error() {
    let tollgate = tollgate(ONCE, &[]).await;
    let lines: Vec<String> = (0..3000).map(|n| format!("x-{n}: y")).collect();
    // The check itself has four: host and three that say what it is about.
    for (client, (count, status)) in [
        (96, 200),
        (97, 200),
        (300, 200),
        (1020, 200),
        (1021, 431),
        (3000, 431),
    ]
    .into_iter()
    .enumerate()
    {
        let lines: Vec<&str> = lines[..count].iter().map(String::as_str).collect();
        let bytes = check(&format!("192.0.2.{client}"), &lines);
        let (answers, closed) = statuses(tollgate.addr(), &bytes).await;
        assert_eq!(answers, [status], "{count} headers");
        assert_eq!(closed, status == 431, "{count} headers");
    }
    for (kb, status) in [
        (1, 200),
        (7, 200),
        (8, 200),
        (9, 200),
        (60, 200),
        (64, 431),
        (500, 431),
    ] {
        let filler = format!("x-filler: {}", "x".repeat(kb * 1024));
        let bytes = check(&format!("198.51.100.{}", kb % 250), &[&filler]);
        let (answers, closed) = statuses(tollgate.addr(), &bytes).await;
        assert_eq!((answers, closed), (vec![status], status == 431), "{kb} kB");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_takes_heads_with_few_and_with_many_headers_in_turn() {
    let tollgate = tollgate(RULES, &[]).await;
    let mut client = Connection::open(tollgate.addr()).await.unwrap();
    let lines: Vec<String> = (0..1000).map(|n| format!("x-{n}: y")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    for count in [0, 300, 0, 0, 1000, 1000, 99, 101, 0] {
        let bytes = check("192.0.2.1", &lines[..count]);
        let answer = client.ask(&bytes).await.unwrap();
        assert_eq!((answer.status, answer.closes()), (200, false), "{count}");
        // In two parts.
        let (first, second) = bytes.split_at(bytes.len() / 3);
        client.send(first).await.unwrap();
        tokio::task::yield_now().await;
        client.send(second).await.unwrap();
        let answer = client.response().await.unwrap();
        assert_eq!((answer.status, answer.closes()), (200, false), "{count}");
    }
    assert_eq!(decided(&tollgate).await, 18);
    assert_eq!(tollgate.metric("tollgate_connections ").await, 1);
}

/// Shapes that two parsers could read differently, and whether they are refused. Behind each comes
/// a second check for whoever reads it so.
const SHAPES: &[(&str, &str, bool)] = &[
    (
        "both lengths",
        "content-length: 4\r\ntransfer-encoding: chunked",
        false,
    ),
    (
        "two lengths",
        "content-length: 0\r\ncontent-length: 5",
        true,
    ),
    (
        "two equal lengths",
        "content-length: 0\r\ncontent-length: 0",
        false,
    ),
    ("a list of lengths", "content-length: 0, 5", true),
    ("a length with a sign", "content-length: +0", true),
    ("a length in hex", "content-length: 0x0", true),
    ("a length with a space within", "content-length: 0 0", true),
    ("an empty length", "content-length:", true),
    ("a coding that is none", "transfer-encoding: xchunked", true),
    (
        "chunked and more",
        "transfer-encoding: chunked, identity",
        true,
    ),
    ("identity", "transfer-encoding: identity", true),
    ("a space before the colon", "content-length : 5", true),
    (
        "a tab before the colon",
        "transfer-encoding\t: chunked",
        true,
    ),
    ("a folded header", "x: y\r\n z: w", true),
    ("a folded coding", "transfer-encoding:\r\n chunked", true),
    ("a NUL in a value", "x: a\0b", true),
    ("a bare CR in a value", "x: a\rcontent-length: 5", true),
    ("a header without a name", ": x", true),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_two_parsers_may_read_differently_is_decided_at_most_once() {
    let tollgate = tollgate(RULES, &[]).await;
    for (what, lines, refused) in SHAPES {
        let mut bytes = check("192.0.2.1", &[lines]);
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes.extend_from_slice(&check("192.0.2.2", &[]));
        let before = tollgate.metric("tollgate_checks_total").await;
        let (answers, closed) = statuses(tollgate.addr(), &bytes).await;
        let after = tollgate.metric("tollgate_checks_total").await;
        if *refused {
            assert_eq!(answers, [400], "{what}");
            assert!(closed, "{what}: the connection is kept");
            assert_eq!(after, before, "{what}: was decided");
        } else {
            assert!(!answers.is_empty(), "{what}: no answer");
            let admitted = answers.iter().filter(|status| **status == 200).count();
            assert_eq!(u64::try_from(admitted).unwrap(), after - before, "{what}");
            assert!(admitted <= 2, "{what}: {answers:?}");
        }
    }
    // Lines that end with a bare LF are lines, to each parser in front of it too.
    let bare = b"GET /v1/check HTTP/1.1\nhost: t\nx-forwarded-method: GET\nx-forwarded-uri: /\nx-real-ip: 192.0.2.9\n\n";
    assert_eq!(statuses(tollgate.addr(), bare).await.0, [200]);
    assert_eq!(tollgate.metric("tollgate_handler_panics_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_body_is_never_a_check() {
    let tollgate = tollgate(RULES, &[]).await;
    let inner = check("192.0.2.2", &[]);
    for lines in [
        format!("content-length: {}", inner.len() + 2_000_000),
        "transfer-encoding: chunked\r\nexpect: 100-continue".to_owned(),
        format!("content-length: {}\r\nexpect: 100-continue", inner.len()),
    ] {
        let before = decided(&tollgate).await;
        let mut bytes = check("192.0.2.1", &[&lines]);
        bytes.extend_from_slice(&inner);
        let (answers, closed) = statuses(tollgate.addr(), &bytes).await;
        assert_eq!(answers, [200], "{lines}");
        assert!(closed, "{lines}");
        assert_eq!(decided(&tollgate).await - before, 1, "{lines}");
    }
    // The same with chunk extensions without end: 10 ms are waited for, and no memory is taken.
    let mut bytes = check("192.0.2.1", &["transfer-encoding: chunked"]);
    bytes.extend_from_slice(b"1;");
    bytes.extend_from_slice(&vec![b'x'; 5_000_000]);
    let (answers, closed) = statuses(tollgate.addr(), &bytes).await;
    assert_eq!((answers, closed), (vec![200], true));
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_checks_are_answered_in_turn_and_junk_behind_them_ends_the_connection() {
    let tollgate = tollgate(ONCE, &[]).await;
    let mut bytes = Vec::new();
    for n in 0..500 {
        bytes.extend_from_slice(&check(&format!("10.0.{}.{}", n / 250, n % 250), &[]));
    }
    bytes.extend_from_slice(b"\0\0 junk \r\n\r\n");
    bytes.extend_from_slice(&check("10.1.0.1", &[]));
    let (answers, closed) = statuses(tollgate.addr(), &bytes).await;
    assert_eq!(answers.len(), 501, "{answers:?}");
    assert!(answers[..500].iter().all(|status| *status == 200));
    assert_eq!((answers[500], closed), (400, true));
    assert_eq!(decided(&tollgate).await, 500);

    // Cut at every byte, with pauses: each part is read once.
    let bytes = [check("10.2.0.1", &[]), check("10.2.0.2", &[])].concat();
    let mut client = Connection::open(tollgate.addr()).await.unwrap();
    for byte in &bytes {
        client.send([*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(client.response().await.unwrap().status, 200);
    assert_eq!(client.response().await.unwrap().status, 200);
    assert_eq!(decided(&tollgate).await, 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_answered_after_any_pause_within_it_or_before_it() {
    let tollgate = tollgate(RULES, &[]).await;
    let bytes = check("192.0.2.1", &[&format!("x-filler: {}", "x".repeat(20_000))]);
    let mut clients = JoinSet::new();
    let addr = tollgate.addr();
    // After a second without anything to do, a connection rests.
    for pause in [0, 900, 1000, 1100, 2500] {
        for cut in [0, 1, 300, 9_000, bytes.len() - 1] {
            let bytes = bytes.clone();
            clients.spawn(async move {
                let mut client = Connection::open(addr).await.unwrap();
                for round in 0..2 {
                    client.send(&bytes[..cut]).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                    client.send(&bytes[cut..]).await.unwrap();
                    let answer = client.response().await;
                    let answer = answer.unwrap_or_else(|| panic!("{pause} ms, {cut}, {round}"));
                    assert_eq!(answer.status, 200);
                }
            });
        }
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_no_answers_is_given_up() {
    let tollgate = tollgate(RULES, &["--header-timeout=1s"]).await;
    let mut stream = TcpStream::connect(tollgate.addr()).await.unwrap();
    let many = check("192.0.2.1", &[]).repeat(1000);
    // Until neither side's buffers take any more, and then until the connection is gone.
    let flood = async { while stream.write_all(&many).await.is_ok() {} };
    timeout(Duration::from_secs(30), flood)
        .await
        .expect("it is kept");
    eventually("its connection is counted out", async || {
        tollgate.metric("tollgate_connections ").await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_hold_half_heads_do_not_keep_checks_out() {
    raise_open_files();
    // No head is too late in this test: what is answered with 408 was shed.
    let args = [
        "--max-request-memory=4",
        "--max-connections=3000",
        "--header-timeout=10m",
    ];
    let tollgate = tollgate(RULES, &args).await;
    let half = check("192.0.2.1", &[&format!("x-filler: {}", "x".repeat(30_000))]);
    let before = size_of(&tollgate).0;
    let mut held = Vec::new();
    for _ in 0..1000 {
        let mut stream = TcpStream::connect(tollgate.addr()).await.unwrap();
        let _ = stream.try_write(&half[..25_000]);
        let _ = stream.flush().await;
        held.push(stream);
    }
    // 25 MB of heads, of which a third of 4 MB is taken. A check that comes whole needs no room.
    let start = Instant::now();
    for n in 0..100 {
        let mut client = Connection::open(tollgate.addr()).await.unwrap();
        let answer = client
            .ask(&check(&format!("10.0.0.{n}"), &[]))
            .await
            .unwrap();
        assert_eq!(answer.status, 200);
    }
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    // A large one waits for room at most, and gets an answer.
    let mut client = Connection::open(tollgate.addr()).await.unwrap();
    client.send(&half[..9_000]).await.unwrap();
    tokio::task::yield_now().await;
    client.send(&half[9_000..]).await.unwrap();
    let answer = client.response().await.expect("no answer");
    assert!(matches!(answer.status, 200 | 408), "{answer:?}");
    // The slowest are answered and closed, so that the others get on.
    let mut shed = 0;
    let end = Instant::now() + Duration::from_secs(5);
    for stream in &mut held {
        let mut buf = [0; 64];
        let patience = end
            .duration_since(Instant::now())
            .max(Duration::from_millis(5));
        if timeout(patience, stream.read(&mut buf)).await.is_ok()
            && buf.starts_with(b"HTTP/1.1 408")
        {
            shed += 1;
        }
    }
    let grown = size_of(&tollgate).0.saturating_sub(before);
    // Room for a third of 4 MB is room for some fifty of them.
    assert!(shed > 800, "{shed} were shed");
    assert!(grown < 15_000_000, "{grown} bytes for 25 MB of heads");
    assert_eq!(tollgate.metric("tollgate_handler_panics_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_over_the_cap_is_closed_and_the_others_are_served() {
    raise_open_files();
    let tollgate = tollgate(RULES, &["--max-connections=50"]).await;
    let mut old = Connection::open(tollgate.addr()).await.unwrap();
    assert_eq!(old.ask(&check("192.0.2.1", &[])).await.unwrap().status, 200);
    let mut held = Vec::new();
    for _ in 0..500 {
        held.push(TcpStream::connect(tollgate.addr()).await.unwrap());
    }
    eventually("the rest is refused", async || {
        tollgate.metric("tollgate_connections_refused_total").await == 451
    })
    .await;
    assert_eq!(old.ask(&check("192.0.2.1", &[])).await.unwrap().status, 200);
    drop(held);
    eventually("there is room again", async || {
        tollgate.metric("tollgate_connections ").await == 1
    })
    .await;
}

/// What of the process could grow: resident bytes, and open files.
fn size_of(tollgate: &Tollgate) -> (u64, usize) {
    let proc = format!("/proc/{}", tollgate.pid());
    let status = fs::read_to_string(format!("{proc}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kb = line.unwrap().split_whitespace().nth(1).unwrap();
    let files = fs::read_dir(format!("{proc}/fd")).unwrap().count();
    (kb.parse::<u64>().unwrap() * 1024, files)
}

/// Pieces of which requests are made; the first are what a proxy sends.
const PIECES: &[&[u8]] = &[
    b"GET /v1/check HTTP/1.1\r\nhost: t\r\n",
    b"x-forwarded-method: GET\r\nx-forwarded-uri: /a?b=c\r\nx-real-ip: 192.0.2.1\r\n",
    b"\r\n",
    b"GET /v1/auth-request HTTP/1.1\r\nhost: t\r\nx-original-uri: /\r\n",
    b"POST /v1/ext-authz/a HTTP/1.1\r\nhost: t\r\n",
    b"content-length: 5\r\n",
    b"transfer-encoding: chunked\r\n",
    b"expect: 100-continue\r\n",
    b"connection: close\r\n",
    b"connection: upgrade\r\nupgrade: h2c\r\n",
    b"5\r\nabcde\r\n0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"x-forwarded-uri: /%2e%2e/%00\xff\r\n",
    b"\n\n",
    b": \r\n ",
    b"\0",
];

fn below(rng: &mut TestRng, end: usize) -> usize {
    usize::try_from(rng.next_u32()).unwrap() % end
}

fn chance(rng: &mut TestRng, percent: usize) -> bool {
    below(rng, 100) < percent
}

/// A request, or something near one.
fn mutated(rng: &mut TestRng) -> Vec<u8> {
    let mut bytes = Vec::new();
    if chance(rng, 70) {
        bytes.extend(PIECES[..3].concat());
    }
    for _ in 0..below(rng, 6) {
        let at = below(rng, bytes.len() + 1);
        let piece = PIECES[below(rng, PIECES.len())];
        match below(rng, 10) {
            0 => bytes.extend(piece.repeat(1 + below(rng, 400))),
            1..5 => bytes.extend(piece),
            5..8 => drop(bytes.splice(at..at, piece.iter().copied())),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = u8::try_from(below(rng, 256)).unwrap();
                }
            }
        }
    }
    if chance(rng, 10) {
        bytes.truncate(below(rng, bytes.len() + 1));
    }
    bytes
}

/// One connection: random requests in random parts. Returns the statuses that came back.
async fn misbehave(addr: SocketAddr, seed: u64) -> BTreeMap<u16, usize> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut counts = BTreeMap::new();
    let Ok(mut stream) = TcpStream::connect(addr).await else {
        return counts;
    };
    for _ in 0..=below(&mut rng, 3) {
        let request = mutated(&mut rng);
        let cut = below(&mut rng, request.len() + 1);
        for part in [&request[..cut], &request[cut..]] {
            let sending = timeout(Duration::from_millis(200), stream.write_all(part));
            if !matches!(sending.await, Ok(Ok(()))) {
                break;
            }
            if chance(&mut rng, 2) {
                tokio::time::sleep(Duration::from_millis(1200)).await;
            }
        }
        let mut buf = vec![0; 65_536];
        if chance(&mut rng, 70)
            && let Ok(Ok(count)) = timeout(Duration::from_millis(50), stream.read(&mut buf)).await
        {
            let text = String::from_utf8_lossy(&buf[..count]).into_owned();
            for (at, _) in text.match_indices("HTTP/1.1 ") {
                let status = text
                    .get(at + 9..at + 12)
                    .and_then(|digits| digits.parse().ok());
                *counts.entry(status.unwrap_or(0)).or_default() += 1;
            }
        }
    }
    counts
}

/// For 20 s, or as many as `TOLLGATE_TEST_FUZZ_SECONDS` says. A failure is repeated with the same
/// connections by their numbers: nothing else is random.
#[tokio::test(flavor = "multi_thread")]
async fn random_requests_leave_nothing_behind() {
    raise_open_files();
    let seconds = std::env::var("TOLLGATE_TEST_FUZZ_SECONDS");
    let seconds = seconds.map_or(20, |text| text.parse().expect("a number of seconds"));
    let mut tollgate = tollgate(RULES, &["--header-timeout=2s"]).await;
    let addr = tollgate.addr();
    let mut seeds = 0_u64..;
    let mut counts = BTreeMap::<u16, usize>::new();
    let mut round = async |length: Duration| {
        let end = Instant::now() + length;
        let mut clients = JoinSet::new();
        while Instant::now() < end {
            while clients.len() < 200 {
                clients.spawn(misbehave(addr, seeds.next().unwrap()));
            }
            let done = clients.join_next().await.unwrap().unwrap();
            for (status, count) in done {
                *counts.entry(status).or_default() += count;
            }
        }
        clients.join_all().await;
    };
    let closed = async |tollgate: &Tollgate| {
        within(Duration::from_secs(30), "all connections end", async || {
            tollgate.metric("tollgate_connections ").await == 0
        })
        .await;
    };
    // The first fifth fills what is filled once.
    round(Duration::from_secs(seconds) / 5).await;
    closed(&tollgate).await;
    let before = size_of(&tollgate);
    round(Duration::from_secs(seconds) * 4 / 5).await;
    closed(&tollgate).await;
    let after = size_of(&tollgate);

    assert!(
        counts.get(&200).is_some_and(|count| *count > 100),
        "{counts:?}"
    );
    assert!(
        counts.get(&400).is_some_and(|count| *count > 100),
        "{counts:?}"
    );
    assert_eq!(tollgate.metric("tollgate_handler_panics_total").await, 0);
    let log = tollgate.log();
    assert!(!log.contains("panicked"), "{log}");
    assert!(
        after.0 < before.0 + 20_000_000,
        "memory: {before:?} {after:?}"
    );
    assert!(after.1 <= before.1 + 4, "files: {before:?} {after:?}");
    let mut client = Connection::open(addr).await.unwrap();
    assert_eq!(
        client.ask(&check("10.9.9.9", &[])).await.unwrap().status,
        200
    );
    drop(client);
    // No task is stuck: it ends at once.
    tollgate.signal(Signal::TERM);
    assert!(tollgate.ended().await.success());
}
