//! Listening sockets: TCP or Unix, behind one type.

use std::{
    io,
    net::SocketAddr,
    task::{Context, Poll, ready},
};

use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use super::{
    addr::{BindError, ListenAddr},
    stream::Stream,
    unix::{self, SocketFile},
};

/// Connections the kernel may hold for us until they are accepted (the kernel caps it at
/// `net.core.somaxconn`).
///
/// A proxy opens one HTTP/1 connection per concurrent check, so after a restart thousands can come
/// in the same millisecond.
const BACKLOG: u32 = 4096;

/// A bound, listening socket.
#[derive(Debug)]
pub struct Listener(Inner);

#[derive(Debug)]
enum Inner {
    Tcp(TcpListener),
    // The file goes before the listener (fields drop in order), so that no client can connect to a
    // socket that is about to close.
    Unix(SocketFile, UnixListener),
}

impl Listener {
    /// Binds and listens. The socket file of a tollgate that died is replaced; one that still
    /// answers is left alone.
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

    /// The next connection. It belongs to the runtime in whose context this is called.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        Poll::Ready(match &self.0 {
            Inner::Tcp(listener) => ready!(listener.poll_accept(cx)).map(|(tcp, _)| tcp.into()),
            Inner::Unix(_, listener) => {
                ready!(listener.poll_accept(cx)).map(|(unix, _)| unix.into())
            }
        })
    }

    /// Waits for the next connection. Cancel safe: a connection is never lost by dropping the
    /// future.
    pub async fn accept(&self) -> io::Result<Stream> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// Stops listening, and returns the connections that the kernel had completed on our behalf and
    /// nobody had accepted.
    ///
    /// A client whose `connect` succeeded cannot know that it was still in the backlog: closing the
    /// listener would reset it, with the request that it has already written.
    pub fn close(self) -> Waiting {
        // Accepting is done on the std listener: tokio's answers from cached readiness, and can say
        // "would block" while the kernel has connections.
        Waiting(match self.0 {
            Inner::Tcp(listener) => listener.into_std().ok().map(StdListener::Tcp),
            Inner::Unix(file, listener) => {
                drop(file);
                listener.into_std().ok().map(StdListener::Unix)
            }
        })
    }
}

/// The connections that waited for a listener when it was closed. Each belongs to the runtime in
/// whose context it is taken.
#[derive(Debug)]
pub struct Waiting(Option<StdListener>);

#[derive(Debug)]
enum StdListener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl StdListener {
    fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (tcp, _) = listener.accept()?;
                tcp.set_nonblocking(true)?;
                TcpStream::from_std(tcp).map(Stream::from)
            }
            Self::Unix(listener) => {
                let (unix, _) = listener.accept()?;
                unix.set_nonblocking(true)?;
                UnixStream::from_std(unix).map(Stream::from)
            }
        }
    }
}

impl Iterator for Waiting {
    type Item = Stream;

    fn next(&mut self) -> Option<Stream> {
        loop {
            match self.0.as_ref()?.accept() {
                Ok(stream) => return Some(stream),
                Err(error) if is_connection_error(&error) => {}
                // Would block: all are taken. Out of file descriptors: no more can be had.
                Err(_) => {
                    self.0 = None;
                }
            }
        }
    }
}

/// Whether an accept error concerns the one connection (gone before it was accepted), not the
/// listener.
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
    // A restart must not wait for the last process' connections in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> ListenAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_the_remedy() {
        let first = Listener::bind(&addr("127.0.0.1:0")).await.unwrap();
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
        // TEST-NET-1 belongs to no machine.
        let error = Listener::bind(&addr("192.0.2.199:0")).await.unwrap_err();
        assert!(error.to_string().contains("no such address"), "{error}");
    }

    #[tokio::test]
    async fn closing_hands_over_what_the_kernel_had_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let socket = format!("unix:{}", dir.path().join("t.sock").display());
        for text in ["127.0.0.1:0", &socket] {
            let listener = Listener::bind(&addr(text)).await.unwrap();
            let mut clients = Vec::new();
            for _ in 0..50 {
                clients.push(
                    Stream::connect(&listener.local_addr().unwrap())
                        .await
                        .unwrap(),
                );
            }
            assert_eq!(listener.close().count(), 50, "{text}");
        }
    }
}
