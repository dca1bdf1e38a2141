//! Requests at a fixed rate, whatever the answers: the latencies of scripts/bench.sh.
//!
//! `cargo run --release --example paced -- ADDRESS RATE SECONDS CONNECTIONS CALLERS HEAD`
//!
//! HEAD is a file with the head of a request, where `{caller}` stands for one of CALLERS addresses.
//! Prints how many answers there were, the latencies in microseconds at 50, 99, 99.9 and 100 per
//! cent, and how many answers were not 200.
//!
//! Each request has a time when it is due, and its latency counts from there: if an answer is late,
//! so are the requests that had to wait for it, and they count too. wrk sends the next request only
//! after an answer, so it leaves these out. wrk2, which does not, has to be built by hand.

use std::{
    env, fs,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

/// What all connections share.
#[derive(Debug, Clone)]
struct Plan {
    address: String,
    head: String,
    callers: u64,
    connections: u64,
    /// Nanoseconds from one request to the next, of all connections together.
    interval: u64,
    /// How many requests there are, of all connections together.
    count: u64,
}

fn main() -> io::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let number = |at: usize| -> io::Result<u64> {
        let text = args.get(at).map_or("", String::as_str);
        text.parse::<u64>().ok().filter(|n| *n > 0).ok_or_else(|| {
            io::Error::other("usage: paced ADDRESS RATE SECONDS CONNECTIONS CALLERS HEAD")
        })
    };
    let plan = Plan {
        connections: number(3)?,
        callers: number(4)?,
        interval: 1_000_000_000 / number(1)?,
        count: number(1)? * number(2)?,
        address: args[0].clone(),
        head: fs::read_to_string(args.get(5).map_or("", String::as_str))?,
    };

    // Late enough that all connections are there.
    let start = Instant::now() + Duration::from_millis(200);
    let threads: Vec<_> = (0..plan.connections)
        .map(|first| {
            let plan = plan.clone();
            thread::spawn(move || run(&plan, first, start))
        })
        .collect();
    let (mut latencies, mut errors) = (Vec::new(), 0);
    for thread in threads {
        let (some, wrong) = thread
            .join()
            .map_err(|_| io::Error::other("a thread failed"))??;
        latencies.extend(some);
        errors += wrong;
    }
    latencies.sort_unstable();
    let at =
        |per_mille: usize| latencies[(latencies.len() * per_mille / 1000).min(latencies.len() - 1)];
    writeln!(
        io::stdout(),
        "{} {} {} {} {} {errors}",
        latencies.len(),
        at(500),
        at(990),
        at(999),
        at(1000)
    )
}

/// One connection: every request whose number is `first` plus a multiple of the connections.
/// Returns latencies in microseconds, and how many answers were not 200.
fn run(plan: &Plan, first: u64, start: Instant) -> io::Result<(Vec<u128>, u64)> {
    let mut stream = TcpStream::connect(&plan.address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let (mut latencies, mut errors) = (Vec::new(), 0);
    let mut buffer = Vec::new();
    let mut n = first;
    while n < plan.count {
        // Prime to every number of callers that we use, so that each has a turn.
        let caller = n * 7919 % plan.callers;
        let [a, b, c, ..] = caller.to_le_bytes();
        let address = format!("10.{c}.{b}.{a}");
        let request = plan.head.replace("{caller}", &address);
        let due = start + Duration::from_nanos(n * plan.interval);
        #[expect(clippy::disallowed_methods, reason = "requests are due at fixed times")]
        thread::sleep(due.saturating_duration_since(Instant::now()));
        stream.write_all(request.as_bytes())?;
        let is_good = read_answer(&mut stream, &mut buffer)?;
        latencies.push(due.elapsed().as_micros());
        errors += u64::from(!is_good);
        n += plan.connections;
    }
    Ok((latencies, errors))
}

/// Reads one answer, and says whether it was a 200.
fn read_answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<bool> {
    buffer.clear();
    let mut chunk = [0; 4096];
    loop {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.extend_from_slice(&chunk[..read]);
        let Some(head) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .and_then(|value| value.trim().parse::<usize>().ok())
            .ok_or_else(|| io::Error::other("an answer without a Content-Length"))?;
        if buffer.len() >= head + 4 + length {
            return Ok(text.starts_with("http/1.1 200"));
        }
    }
}
