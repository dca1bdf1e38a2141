//! Where to listen, and the sockets that come of it: TCP or a Unix socket, behind one type.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixStream};

use super::stream::Stream;
use super::unix::{self, SocketFile};

/// Connections the kernel may hold for us until they are accepted (the kernel caps it at `net.core.somaxconn`).
///
/// A proxy opens one HTTP/1 connection per concurrent check, so after a restart thousands can come in the same millisecond.
const BACKLOG: u32 = 4096;

/// An address to listen on: `127.0.0.1:8081`, `[::1]:8081`, `localhost:8081` or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddr {
    /// An IP address and port; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// The path of a Unix socket, which is created on bind and removed when the listener goes.
    Unix(PathBuf),
}

/// Why a text is not a [`ListenAddr`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseListenAddrError {
    /// `unix:` with no path behind it.
    #[error("`unix:` needs a path, such as unix:/run/tollgate/check.sock")]
    NoPath,
    /// No port behind the address.
    #[error(
        "`{0}` has no port, write an address such as 127.0.0.1:8081, 0.0.0.0:8081 or unix:/path"
    )]
    NoPort(String),
    /// A host name. Not looked up: the answer could be another machine's address, or several.
    #[error(
        "`{0}` is not an IP address, write one such as 127.0.0.1:8081, or 0.0.0.0:8081 for all interfaces"
    )]
    NotAnIp(String),
    /// The port is no number from 0 to 65535.
    #[error("`{0}` is not a port, it must be a number from 0 to 65535")]
    BadPort(String),
}

impl FromStr for ListenAddr {
    type Err = ParseListenAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(ParseListenAddrError::NoPath);
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        if let Ok(addr) = text.parse() {
            return Ok(Self::Tcp(addr));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(ParseListenAddrError::NoPort(text.to_owned()));
        };
        let port: u16 = port
            .parse()
            .map_err(|_| ParseListenAddrError::BadPort(port.to_owned()))?;
        if host == "localhost" {
            // The proxies' examples all say 127.0.0.1, so that is what this name stands for, whatever /etc/hosts says first.
            return Ok(Self::Tcp(SocketAddr::from(([127, 0, 0, 1], port))));
        }
        Err(ParseListenAddrError::NotAnIp(text.to_owned()))
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why an address cannot be listened on, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens there already.
    #[error("cannot listen on {addr}: the address is in use, is another tollgate running? choose another with --{flag}", flag = flags(.addr))]
    InUse {
        /// The address asked for.
        addr: ListenAddr,
    },
    /// The file in the socket's place is something else, which must not be deleted.
    #[error(
        "cannot listen on {addr}: the file exists and is not a socket, remove it or choose another path"
    )]
    NotASocket {
        /// The address asked for.
        addr: ListenAddr,
    },
    /// The address is not this machine's.
    #[error(
        "cannot listen on {addr}: this machine has no such address, use 0.0.0.0 for all interfaces"
    )]
    NotOurs {
        /// The address asked for.
        addr: ListenAddr,
    },
    /// Not allowed: a port below 1024, or a directory we may not write to.
    #[error("cannot listen on {addr}: permission denied, {hint}", hint = permission_hint(.addr))]
    Denied {
        /// The address asked for.
        addr: ListenAddr,
    },
    /// Anything else the kernel said.
    #[error("cannot listen on {addr}: {source}")]
    Other {
        /// The address asked for.
        addr: ListenAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

fn flags(addr: &ListenAddr) -> &'static str {
    match addr {
        // Both the check port and the admin port can be the one that is taken, and only the caller knows which it was.
        ListenAddr::Tcp(_) => "listen or --admin",
        ListenAddr::Unix(_) => "listen",
    }
}

fn permission_hint(addr: &ListenAddr) -> &'static str {
    match addr {
        ListenAddr::Tcp(_) => "ports below 1024 need a privilege, choose a higher one",
        ListenAddr::Unix(_) => "the socket's directory must be writable for tollgate's user",
    }
}

impl BindError {
    pub(super) fn new(addr: &ListenAddr, source: io::Error) -> Self {
        let addr = addr.clone();
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { addr },
            io::ErrorKind::AddrNotAvailable => Self::NotOurs { addr },
            io::ErrorKind::PermissionDenied => Self::Denied { addr },
            io::ErrorKind::NotFound => {
                let source = io::Error::new(
                    source.kind(),
                    "the socket's directory does not exist, create it first",
                );
                Self::Other { addr, source }
            }
            _ => Self::Other { addr, source },
        }
    }
}

/// A bound, listening socket.
#[derive(Debug)]
pub struct Listener(Inner);

#[derive(Debug)]
enum Inner {
    Tcp(TcpListener),
    // The file goes before the listener (fields drop in order): nobody can then connect to a socket that is about to close.
    Unix(SocketFile, UnixListener),
}

impl Listener {
    /// Binds and listens. The socket file of a tollgate that died is replaced; one that still answers is left alone.
    pub async fn bind(addr: &ListenAddr) -> Result<Self, BindError> {
        match addr {
            ListenAddr::Tcp(socket_addr) => bind_tcp(*socket_addr)
                .map(|listener| Self(Inner::Tcp(listener)))
                .map_err(|error| BindError::new(addr, error)),
            ListenAddr::Unix(path) => {
                unix::clear_stale(addr, path).await?;
                let (listener, file) =
                    unix::bind(path, BACKLOG).map_err(|error| BindError::new(addr, error))?;
                Ok(Self(Inner::Unix(file, listener)))
            }
        }
    }

    /// The address really bound: with port 0, the port that the kernel chose.
    pub fn local_addr(&self) -> io::Result<ListenAddr> {
        match &self.0 {
            Inner::Tcp(listener) => listener.local_addr().map(ListenAddr::Tcp),
            Inner::Unix(file, _) => Ok(ListenAddr::Unix(file.path().to_owned())),
        }
    }

    /// Waits for the next connection. Cancel safe: a connection is never lost by dropping the future.
    pub async fn accept(&self) -> io::Result<Stream> {
        match &self.0 {
            Inner::Tcp(listener) => listener.accept().await.map(|(tcp, _)| Stream::from(tcp)),
            Inner::Unix(_, listener) => listener.accept().await.map(|(unix, _)| Stream::from(unix)),
        }
    }

    /// Stops listening, and returns the connections that the kernel had completed on our behalf and nobody had accepted.
    ///
    /// A client whose `connect` succeeded cannot know that it was still in the backlog: closing the listener would reset it,
    /// with the request that it has already written.
    pub fn close(self) -> Vec<Stream> {
        match self.0 {
            // Accepting is done on the std listener: tokio's answers from cached readiness, and can say "would block" while
            // the kernel has connections.
            Inner::Tcp(listener) => match listener.into_std() {
                Ok(listener) => take_all(|| {
                    let (tcp, _) = listener.accept()?;
                    tcp.set_nonblocking(true)?;
                    tokio::net::TcpStream::from_std(tcp).map(Stream::from)
                }),
                Err(_) => Vec::new(),
            },
            Inner::Unix(file, listener) => {
                drop(file);
                match listener.into_std() {
                    Ok(listener) => take_all(|| {
                        let (unix, _) = listener.accept()?;
                        unix.set_nonblocking(true)?;
                        UnixStream::from_std(unix).map(Stream::from)
                    }),
                    Err(_) => Vec::new(),
                }
            }
        }
    }
}

fn take_all(mut accept: impl FnMut() -> io::Result<Stream>) -> Vec<Stream> {
    let mut streams = Vec::new();
    loop {
        match accept() {
            Ok(stream) => streams.push(stream),
            Err(error) if is_connection_error(&error) => {}
            // Would block: all taken. Out of file descriptors: no more can be had.
            Err(_) => return streams,
        }
    }
}

/// Whether an accept error is about the one connection (gone before it was accepted), not about the listener.
pub(super) fn is_connection_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

fn bind_tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restart must not wait for the last one's connections in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ListenAddr, String> {
        text.parse()
            .map_err(|e: ParseListenAddrError| e.to_string())
    }

    #[test]
    fn addresses_are_read_and_written_back() {
        for text in [
            "127.0.0.1:8081",
            "[::1]:8081",
            "unix:/run/x.sock",
            "0.0.0.0:0",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(parse("localhost:80").unwrap().to_string(), "127.0.0.1:80");
    }

    #[test]
    fn what_is_no_address_says_what_to_write() {
        for (text, needle) in [
            ("", "no port"),
            ("8081", "`8081` has no port"),
            ("127.0.0.1", "has no port"),
            (":8081", "0.0.0.0:8081"),
            ("tollgate:8081", "not an IP address"),
            ("127.0.0.1:http", "`http` is not a port"),
            ("127.0.0.1:65536", "`65536` is not a port"),
            ("unix:", "needs a path"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(needle), "{text}: {error}");
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_the_remedy() {
        let first = Listener::bind(&parse("127.0.0.1:0").unwrap())
            .await
            .unwrap();
        let addr = first.local_addr().unwrap();
        let error = Listener::bind(&addr).await.unwrap_err().to_string();
        assert!(error.contains(&addr.to_string()), "{error}");
        assert!(
            error.contains("is another tollgate running? choose another with --listen"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_refused_clearly() {
        // TEST-NET-1 is nobody's.
        let error = Listener::bind(&parse("192.0.2.199:0").unwrap())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("no such address"), "{error}");
    }

    #[tokio::test]
    async fn closing_hands_over_what_the_kernel_had_accepted() {
        for addr in ["127.0.0.1:0".to_owned(), {
            let dir = tempfile::tempdir().unwrap().keep();
            format!("unix:{}", dir.join("t.sock").display())
        }] {
            let listener = Listener::bind(&parse(&addr).unwrap()).await.unwrap();
            let mut clients = Vec::new();
            for _ in 0..50 {
                clients.push(
                    Stream::connect(&listener.local_addr().unwrap())
                        .await
                        .unwrap(),
                );
            }
            assert_eq!(listener.close().len(), 50, "{addr}");
        }
    }
}
