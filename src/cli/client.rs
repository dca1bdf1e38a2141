//! Asks the admin port of a running tollgate.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;

use crate::server::{ListenAddr, Stream};

/// A question to the admin port.
#[derive(Debug, Clone)]
pub struct Question {
    /// `GET` or `POST`.
    pub method: http::Method,
    /// The path.
    pub path: &'static str,
    /// A JSON text, for a `POST`.
    pub body: String,
    /// The token of whoever asks.
    pub token: Option<String>,
    /// How long the whole exchange may take.
    pub timeout: Duration,
    /// The longest answer that is read, in bytes.
    pub most: usize,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// No connection.
    #[error(
        "cannot connect to {addr}: {source}; is tollgate running, and is this its --admin address?"
    )]
    Connect {
        /// The address asked.
        addr: ListenAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Something answered that is not a tollgate.
    #[error("{addr} did not answer with HTTP: {source}")]
    Http {
        /// The address asked.
        addr: ListenAddr,
        /// What is wrong with the answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("{addr} did not answer within {timeout:?}")]
    Timeout {
        /// The address asked.
        addr: ListenAddr,
        /// How long was waited.
        timeout: Duration,
    },
}

/// Asks the port that listens on `admin`.
pub async fn ask(admin: &ListenAddr, question: Question) -> Result<(StatusCode, Bytes), NoAnswer> {
    let addr = reachable(admin);
    let timeout = question.timeout;
    match tokio::time::timeout(timeout, exchange(&addr, question)).await {
        Ok(answer) => answer,
        Err(_) => Err(NoAnswer::Timeout { addr, timeout }),
    }
}

/// The address to connect to for what listens on `addr`: "all interfaces" cannot be connected to.
pub fn reachable(addr: &ListenAddr) -> ListenAddr {
    let mut addr = addr.clone();
    if let ListenAddr::Tcp(socket) = &mut addr
        && socket.ip().is_unspecified()
    {
        socket.set_ip(match socket.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    addr
}

async fn exchange(addr: &ListenAddr, question: Question) -> Result<(StatusCode, Bytes), NoAnswer> {
    let stream = Stream::connect(addr)
        .await
        .map_err(|source| NoAnswer::Connect {
            addr: addr.clone(),
            source,
        })?;
    let http = |source: Box<dyn std::error::Error + Send + Sync>| NoAnswer::Http {
        addr: addr.clone(),
        source,
    };
    let (mut sender, conn) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| http(error.into()))?;
    let host = match addr {
        ListenAddr::Tcp(addr) => addr.to_string(),
        ListenAddr::Unix(_) => "localhost".to_owned(),
    };
    let mut request = Request::builder()
        .method(question.method)
        .uri(question.path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close");
    if let Some(token) = question.token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request
        .body(Full::new(Bytes::from(question.body)))
        .map_err(|error| http(error.into()))?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, question.most)
            .collect()
            .await?
            .to_bytes();
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((head.status, body))
    };
    // The connection has to be driven meanwhile; its end does not matter.
    let (answer, _) = tokio::join!(exchange, conn);
    answer.map_err(http)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_interfaces_are_asked_at_loopback() {
        for (listen, ask) in [
            ("0.0.0.0:8082", "127.0.0.1:8082"),
            ("[::]:8082", "[::1]:8082"),
            ("192.0.2.1:8082", "192.0.2.1:8082"),
            ("unix:/a", "unix:/a"),
        ] {
            assert_eq!(reachable(&listen.parse().unwrap()).to_string(), ask);
        }
    }
}
