//! A TCP proxy that fails in the ways that networks and servers fail, switched while connections
//! are open.

use std::{
    hash::{BuildHasher as _, RandomState},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};

use super::free_port;

/// What becomes of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They are passed on.
    Pass,
    /// They are read and lost, in both directions. A connection that was open at that time never
    /// works again, as behind a firewall that has forgotten it.
    BlackHole,
    /// Nobody listens, and open connections are reset.
    Refuse,
    /// Whatever a client sends, the answer is no protocol that it knows.
    Garbage,
    /// Half of an answer arrives at most, and then the connection is closed.
    Cut,
    /// As [`Cut`](Self::Cut), but only answers to charges: a login and the script pass.
    CutCharges,
    /// They are passed on one at a time, each in a packet of its own.
    Trickle,
    /// Answers take this much longer at least, and up to the second more.
    Delay(Duration, Duration),
}

/// The length of Redis' shortest answer: `+OK` and the end of its line.
const SHORTEST: usize = 5;

/// What all connections follow.
#[derive(Debug, Clone, Copy)]
struct State {
    mode: Mode,
    /// Connections of an earlier number have lost their server, and their clients do not know.
    epoch: usize,
    /// Connections of an earlier number are reset.
    resets: usize,
}

/// Listens on a loopback address, and passes on to a server until it is set to another mode. Ends
/// with the runtime of its test.
pub struct FaultProxy {
    pub addr: SocketAddr,
    state: watch::Sender<State>,
    /// Whether it listens.
    listens: watch::Receiver<bool>,
    counts: Arc<Counts>,
}

/// How many connections there are and were.
#[derive(Debug, Default)]
struct Counts {
    open: AtomicUsize,
    most: AtomicUsize,
    all: AtomicUsize,
}

impl FaultProxy {
    /// Starts one that passes everything on to `to`.
    pub async fn start(to: SocketAddr) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, free_port()).into(), to).await
    }

    /// As [`start`](Self::start), at this address.
    pub async fn start_at(addr: SocketAddr, to: SocketAddr) -> Self {
        let (state, states) = watch::channel(State {
            mode: Mode::Pass,
            epoch: 0,
            resets: 0,
        });
        let (listening, listens) = watch::channel(false);
        let counts = Arc::new(Counts::default());
        tokio::spawn(listen(addr, to, states, listening, Arc::clone(&counts)));
        let mut proxy = Self {
            addr,
            state,
            listens,
            counts,
        };
        proxy.set(Mode::Pass).await;
        proxy
    }

    /// Switches, for open connections too. Afterwards, a new connection meets the new mode.
    pub async fn set(&mut self, mode: Mode) {
        self.state.send_modify(|state| {
            state.mode = mode;
            state.resets += usize::from(mode == Mode::Refuse);
        });
        let listens = mode != Mode::Refuse;
        self.listens
            .wait_for(|listening| *listening == listens)
            .await
            .unwrap();
    }

    /// The server is gone and has told nobody: open connections stay open, and nothing answers.
    /// New ones are passed on.
    pub fn half_open(&self) {
        self.state.send_modify(|state| state.epoch += 1);
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// The most connections that were open at a time, for longer than a moment: the one that takes
    /// the place of another can be there before its end is seen here.
    pub fn most(&self) -> usize {
        self.counts.most.load(Ordering::SeqCst)
    }

    /// All connections since the start.
    pub fn all(&self) -> usize {
        self.counts.all.load(Ordering::SeqCst)
    }
}

async fn listen(
    addr: SocketAddr,
    to: SocketAddr,
    mut states: watch::Receiver<State>,
    listening: watch::Sender<bool>,
    counts: Arc<Counts>,
) {
    let of_connections = states.clone();
    loop {
        let listens = |state: &State| state.mode != Mode::Refuse;
        if states.wait_for(listens).await.is_err() {
            return;
        }
        let listener = TcpListener::bind(addr).await.unwrap();
        listening.send_replace(true);
        let refuses = loop {
            tokio::select! {
                refuses = states.wait_for(|state| !listens(state)) => break refuses.is_ok(),
                client = listener.accept() => {
                    let Ok((client, _)) = client else { continue };
                    let (states, counts) = (of_connections.clone(), Arc::clone(&counts));
                    tokio::spawn(async move {
                        let _open = Open::begin(counts);
                        // An error is an end, like any other.
                        let _ = carry(client, to, states).await;
                    });
                }
            }
        };
        drop(listener);
        listening.send_replace(false);
        if !refuses {
            return;
        }
    }
}

/// Counts a connection while it lives.
struct Open(Arc<Counts>);

impl Open {
    fn begin(counts: Arc<Counts>) -> Self {
        counts.open.fetch_add(1, Ordering::SeqCst);
        counts.all.fetch_add(1, Ordering::SeqCst);
        let later = Arc::clone(&counts);
        tokio::spawn(async move {
            sleep(Duration::from_millis(200)).await;
            let open = later.open.load(Ordering::SeqCst);
            later.most.fetch_max(open, Ordering::SeqCst);
        });
        Self(counts)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How much is read at a time.
const CHUNK: usize = 65_536;

const GARBAGE: &[u8] = b"\x16\x03\x01 HTTP/1.1 400 this is not RESP\r\n\r\n";

/// Carries one connection to its end.
async fn carry(
    mut client: TcpStream,
    to: SocketAddr,
    mut states: watch::Receiver<State>,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    let born = *states.borrow_and_update();
    if born.mode == Mode::BlackHole {
        return lose(client, states).await;
    }
    let Ok(mut server) = TcpStream::connect(to).await else {
        return client.set_zero_linger();
    };
    server.set_nodelay(true)?;
    let (mut asked, mut answered) = (Vec::with_capacity(CHUNK), Vec::with_capacity(CHUNK));
    let mut charges = false;
    loop {
        asked.clear();
        answered.clear();
        tokio::select! {
            // A mode that has changed is heeded before what is there to read.
            biased;
            changed = states.changed() => {
                let State { mode, epoch, resets } = *states.borrow_and_update();
                if changed.is_err() || resets > born.resets {
                    return client.set_zero_linger();
                }
                if mode == Mode::BlackHole || epoch > born.epoch {
                    // The server sees the end of it; the client does not.
                    drop(server);
                    return lose(client, states).await;
                }
            }
            read = client.read_buf(&mut asked) => {
                if read? == 0 {
                    return Ok(());
                }
                charges = asked.windows(7).any(|word| word == b"EVALSHA");
                let mode = states.borrow().mode;
                match mode {
                    Mode::Garbage => client.write_all(GARBAGE).await?,
                    Mode::Trickle => trickle(&mut server, &asked).await?,
                    _ => server.write_all(&asked).await?,
                }
            }
            read = server.read_buf(&mut answered) => {
                if read? == 0 {
                    return Ok(());
                }
                let mode = states.borrow().mode;
                match mode {
                    Mode::CutCharges if !charges => client.write_all(&answered).await?,
                    Mode::Cut | Mode::CutCharges => {
                        // Of several answers at once, not even the first is whole.
                        let half = (answered.len() / 2).min(SHORTEST - 1);
                        client.write_all(&answered[..half]).await?;
                        return client.shutdown().await;
                    }
                    Mode::Trickle => trickle(&mut client, &answered).await?,
                    Mode::Delay(least, spread) => {
                        sleep(least + spread.mul_f64(random())).await;
                        client.write_all(&answered).await?;
                    }
                    _ => client.write_all(&answered).await?,
                }
            }
        }
    }
}

/// Reads what the client sends and answers nothing, until the client gives up or is reset.
async fn lose(mut client: TcpStream, mut states: watch::Receiver<State>) -> io::Result<()> {
    let born = *states.borrow_and_update();
    let mut lost = Vec::new();
    loop {
        lost.clear();
        tokio::select! {
            reset = states.wait_for(|state| state.resets > born.resets) => {
                return reset.map_or(Ok(()), |_| client.set_zero_linger());
            }
            read = client.read_buf(&mut lost) => if read? == 0 {
                return Ok(());
            },
        }
    }
}

/// Each byte by itself, with a pause after every 128. The script alone has 25,000, and a lane gives
/// a connection a second to take it.
async fn trickle(to: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    for some in bytes.chunks(128) {
        for byte in some {
            to.write_all(&[*byte]).await?;
        }
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Between 0 and 1.
fn random() -> f64 {
    // Below 1,000, so nothing is lost.
    let thousandth = u32::try_from(RandomState::new().hash_one(()) % 1_000).unwrap();
    f64::from(thousandth) / 1_000.0
}
