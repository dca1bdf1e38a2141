//! `tollgate healthcheck`: asks a running tollgate whether it is ready, for container images
//! without curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;

use crate::server::{ListenAddr, Stream};

/// How long the whole exchange may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The longest answer read: it is a line of JSON.
const MAX_ANSWER: usize = 64 * 1024;

/// Options of `tollgate healthcheck`.
#[derive(Debug, Clone, Args)]
pub struct HealthcheckArgs {
    /// Address of the admin port to ask; 0.0.0.0 is asked at 127.0.0.1
    #[arg(
        long,
        env = "TOLLGATE_ADMIN",
        value_name = "ADDR",
        default_value = "127.0.0.1:8082"
    )]
    pub admin: ListenAddr,
}

/// Why a tollgate is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    /// It answered that it is not ready.
    #[error("{addr} is not ready ({status}): {body}")]
    NotReady {
        /// The address asked.
        addr: ListenAddr,
        /// The status of the answer.
        status: http::StatusCode,
        /// The answer: what is wrong, by component.
        body: String,
    },
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
    #[error("{addr} did not answer within {TIMEOUT:?}")]
    Timeout {
        /// The address asked.
        addr: ListenAddr,
    },
}

/// Asks `/readyz`, and returns its body.
pub async fn run(args: &HealthcheckArgs) -> Result<String, Unhealthy> {
    let addr = reachable(&args.admin);
    match tokio::time::timeout(TIMEOUT, ask(&addr)).await {
        Ok(answer) => answer,
        Err(_) => Err(Unhealthy::Timeout { addr }),
    }
}

/// The address to connect to for what listens on `addr`: "all interfaces" cannot be connected to.
fn reachable(addr: &ListenAddr) -> ListenAddr {
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

async fn ask(addr: &ListenAddr) -> Result<String, Unhealthy> {
    let stream = Stream::connect(addr)
        .await
        .map_err(|source| Unhealthy::Connect {
            addr: addr.clone(),
            source,
        })?;
    let http = |source: Box<dyn std::error::Error + Send + Sync>| Unhealthy::Http {
        addr: addr.clone(),
        source,
    };
    let (mut sender, conn) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| http(error.into()))?;
    let request = Request::get("/readyz")
        .header(header::HOST, "tollgate")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| http(error.into()))?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((head.status, body))
    };
    // The connection has to be driven meanwhile; its end does not matter.
    let (answer, _) = tokio::join!(exchange, conn);
    let (status, body) = answer.map_err(http)?;
    let body = String::from_utf8_lossy(&body).trim().to_owned();
    if status.is_success() {
        Ok(body)
    } else {
        Err(Unhealthy::NotReady {
            addr: addr.clone(),
            status,
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        admin::tests::admin,
        server::{Listener, Options, serve},
    };

    async fn check(addr: ListenAddr) -> Result<String, String> {
        run(&HealthcheckArgs { admin: addr })
            .await
            .map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn says_what_the_admin_port_says() {
        let (admin, health) = admin();
        let admin = Arc::new(admin);
        let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let addr = listener.local_addr().unwrap();
        let handler = move |request| {
            let admin = Arc::clone(&admin);
            async move { admin.respond(request).await }
        };
        tokio::spawn(serve(
            listener,
            handler,
            Options::default(),
            Arc::new(()),
            std::future::pending(),
        ));

        assert!(
            check(addr.clone())
                .await
                .unwrap()
                .contains(r#""status":"ok""#)
        );
        health.component("store").down("no store at all");
        let error = check(addr.clone()).await.unwrap_err();
        assert!(
            error.contains(&format!("{addr} is not ready (503")),
            "{error}"
        );
        assert!(error.contains("no store at all"), "{error}");
    }

    #[tokio::test]
    async fn a_failure_to_connect_names_the_address() {
        let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let error = check(addr.clone()).await.unwrap_err();
        assert!(
            error.starts_with(&format!("cannot connect to {addr}: ")),
            "{error}"
        );
        assert!(error.contains("--admin"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_a_timeout() {
        let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let addr = listener.local_addr().unwrap();
        let error = check(addr.clone()).await.unwrap_err();
        assert_eq!(error, format!("{addr} did not answer within 2s"));
    }

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
