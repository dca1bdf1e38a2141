//! `tollgate healthcheck`: asks a running tollgate whether it is ready, for container images
//! without curl.

use std::time::Duration;

use clap::Args;
use http::{Method, StatusCode};

use super::client::{NoAnswer, Question, ask, reachable};
use crate::server::ListenAddr;

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
        status: StatusCode,
        /// The answer: what is wrong, by component.
        body: String,
    },
    /// It did not answer.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
}

/// Asks `/readyz`, and returns its body.
pub async fn run(args: &HealthcheckArgs) -> Result<String, Unhealthy> {
    let question = Question {
        method: Method::GET,
        path: "/readyz",
        body: String::new(),
        token: None,
        timeout: TIMEOUT,
        most: MAX_ANSWER,
    };
    let (status, body) = ask(&args.admin, question).await?;
    let body = String::from_utf8_lossy(&body).trim().to_owned();
    if status.is_success() {
        return Ok(body);
    }
    Err(Unhealthy::NotReady {
        addr: reachable(&args.admin),
        status,
        body,
    })
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
}
