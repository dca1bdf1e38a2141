//! An HTTP/1.1 client that sends exactly the bytes that it is given, invalid ones too.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    sync::Barrier,
    task::JoinSet,
    time::timeout,
};
use tollgate::server::{ListenAddr, Stream};

/// A response later than this fails the test. It only ensures that tests end, and is no claim about
/// speed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A response.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    /// The one value of a header; `None` if there is none. Fails if there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self
            .headers
            .iter()
            .filter(|(given, _)| given.eq_ignore_ascii_case(name));
        let first = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "more than one {name}: {self:?}");
        first
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Whether the server closes the connection after this response.
    pub fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }

    /// `r` and `t` of a `RateLimit` header with one member.
    pub fn remaining(&self) -> (u64, u64) {
        let value = self
            .header("ratelimit")
            .unwrap_or_else(|| panic!("no RateLimit: {self:?}"));
        let parameter = |name: &str| {
            let found = value
                .split(';')
                .find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
            found
                .and_then(|text| text.parse().ok())
                .unwrap_or_else(|| panic!("no {name} in {value:?}"))
        };
        (parameter("r"), parameter("t"))
    }
}

/// A connection, kept open as long as the server allows.
pub struct Connection {
    stream: Stream,
    unread: Vec<u8>,
}

impl Connection {
    /// Connects to our own server, over TCP or a Unix socket.
    pub async fn to(addr: &ListenAddr) -> io::Result<Self> {
        Ok(Self::over(patiently(Stream::connect(addr)).await?))
    }

    fn over(stream: Stream) -> Self {
        Self {
            stream,
            unread: Vec::new(),
        }
    }

    pub async fn open(addr: SocketAddr) -> io::Result<Self> {
        Self::open_from(Ipv4Addr::LOCALHOST, addr).await
    }

    /// Connects from another loopback address, as another client.
    pub async fn open_from(client: Ipv4Addr, addr: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if client != Ipv4Addr::LOCALHOST {
            socket.bind(SocketAddr::new(IpAddr::V4(client), 0))?;
        }
        let stream = patiently(socket.connect(addr)).await?;
        Ok(Self::over(stream.into()))
    }

    /// Sends a request and reads the response.
    pub async fn ask(&mut self, request: &[u8]) -> io::Result<Response> {
        self.stream.write_all(request).await?;
        patiently(self.read(request.starts_with(b"HEAD "))).await
    }

    /// Sends bytes, which need not be a whole request.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// `GET path`; `None` if the connection ends before a byte of a response.
    pub async fn get(&mut self, path: &str) -> Option<Response> {
        self.send(head("GET", path, &[])).await.ok()?;
        self.response().await
    }

    /// The next response; `None` if the connection ends before a byte of it.
    pub async fn response(&mut self) -> Option<Response> {
        match patiently(self.read(false)).await {
            Ok(response) => Some(response),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => panic!("no response came"),
            Err(error) => {
                let unread = String::from_utf8_lossy(&self.unread);
                assert!(unread.is_empty(), "{error} after {unread:?}");
                None
            }
        }
    }

    /// Waits for the server to close the connection; fails if it sends anything.
    pub async fn closed(&mut self) {
        let response = self.response().await;
        assert!(response.is_none(), "{response:?}");
    }

    /// Everything that the server still sends, until it closes the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        let all = async {
            while self.more().await.is_ok() {}
            Ok(())
        };
        patiently(all).await.unwrap();
        std::mem::take(&mut self.unread)
    }

    async fn read(&mut self, bodiless: bool) -> io::Result<Response> {
        let head_end = loop {
            if let Some(at) = find(&self.unread, b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.unread[..head_end]).into_owned();
        self.unread.drain(..head_end);
        let mut lines = head.trim_end().split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let status = status.ok_or_else(|| invalid(&head))?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let mut response = Response {
            status,
            headers,
            body: String::new(),
        };
        if !bodiless && !matches!(status, 100 | 204 | 304) {
            let body = self.body(&response).await?;
            response.body = String::from_utf8_lossy(&body).into_owned();
        }
        Ok(response)
    }

    async fn body(&mut self, response: &Response) -> io::Result<Vec<u8>> {
        if let Some(length) = response.header("content-length") {
            let length = length.parse().map_err(|_| invalid(length))?;
            return self.take(length).await;
        }
        if response.header("transfer-encoding") == Some("chunked") {
            let mut body = Vec::new();
            loop {
                let line = self.line().await?;
                let length = usize::from_str_radix(&line, 16).map_err(|_| invalid(&line))?;
                body.append(&mut self.take(length).await?);
                self.line().await?;
                if length == 0 {
                    return Ok(body);
                }
            }
        }
        // Neither: the body ends with the connection.
        while self.more().await.is_ok() {}
        Ok(std::mem::take(&mut self.unread))
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = find(&self.unread, b"\r\n") {
                let line = self.take(at + 2).await?;
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            self.more().await?;
        }
    }

    async fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < length {
            self.more().await?;
        }
        Ok(self.unread.drain(..length).collect())
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.unread).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// The head of a request without a body. `lines` are header lines; without a `host:` among them it
/// is `app.test`.
pub fn head(method: &str, target: &str, lines: &[&str]) -> Vec<u8> {
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    if !lines
        .iter()
        .any(|line| line.to_ascii_lowercase().starts_with("host:"))
    {
        head.push_str("host: app.test\r\n");
    }
    for line in lines {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// Sends one request over a connection of its own.
pub async fn ask(addr: SocketAddr, request: &[u8]) -> Response {
    ask_from(Ipv4Addr::LOCALHOST, addr, request).await
}

/// As [`ask`], from another loopback address.
pub async fn ask_from(client: Ipv4Addr, addr: SocketAddr, request: &[u8]) -> Response {
    let answer = async {
        Connection::open_from(client, addr)
            .await?
            .ask(request)
            .await
    };
    answer.await.unwrap_or_else(|error| {
        panic!(
            "no answer from {addr} ({error}) to: {}",
            String::from_utf8_lossy(request)
        )
    })
}

/// `GET target` with no headers but the host.
pub async fn get(addr: SocketAddr, target: &str) -> Response {
    ask(addr, &head("GET", target, &[])).await
}

/// Opens `count` connections, and only then sends the request on all of them.
pub async fn all_at_once(
    client: Ipv4Addr,
    addr: SocketAddr,
    request: &[u8],
    count: usize,
) -> Vec<Response> {
    let ready = Arc::new(Barrier::new(count));
    let mut clients = JoinSet::new();
    for _ in 0..count {
        let (ready, request) = (Arc::clone(&ready), request.to_vec());
        clients.spawn(async move {
            let mut connection = Connection::open_from(client, addr).await.unwrap();
            ready.wait().await;
            connection.ask(&request).await.unwrap()
        });
    }
    clients.join_all().await
}

/// The number of responses by status.
pub fn statuses(answers: &[Response]) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.status).or_default() += 1;
    }
    counts
}

async fn patiently<T>(io: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, io)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {text:?}"))
}
