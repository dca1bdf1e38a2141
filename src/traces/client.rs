//! The HTTP client that spans are sent with.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use http::{HeaderValue, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::{net::TcpStream, time::timeout};

/// How long the collector may take for a batch.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Posts each batch over a connection of its own: there are five a second at most, and the name of
/// the collector is looked up each time, so a collector that moved is found.
#[derive(Debug, Clone, Default)]
pub(super) struct Client {
    /// Why the last exchange failed. The exporter only says that it did.
    failure: Arc<Mutex<Option<String>>>,
}

impl Client {
    /// Why the last exchange had no answer, if it had none.
    pub(super) fn last_failure(&self) -> Option<String> {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take()
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = match timeout(TIMEOUT, exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(anyhow::anyhow!("no answer within {TIMEOUT:?}")),
        };
        let failure = answer.as_ref().err().map(|error| format!("{error:#}"));
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        Ok(answer?)
    }
}

async fn exchange(mut request: Request<Bytes>) -> anyhow::Result<Response<Bytes>> {
    let uri = request.uri().clone();
    let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, port))
        .await
        .context("cannot connect")?;
    let authority = uri.authority().context("the URL has no host")?.as_str();
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_str(authority)?);
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse::<Uri>()?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await?;
    let answering = async {
        let answer = sender.send_request(request.map(Full::new)).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(anyhow::Error::from_boxed)?.to_bytes();
        anyhow::Ok(Response::from_parts(head, body))
    };
    // The connection has to be driven meanwhile; its end does not matter.
    let (answer, _) = tokio::join!(answering, connection);
    answer
}
