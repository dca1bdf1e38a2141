//! The application behind the proxy: the demo upstream, with a record of the requests that reached
//! it. It lets scripts of all origins read `/for-all-origins`.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, request::Parts};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tollgate::{cli::upstream::respond, wire::Request};

/// A request that reached the application.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Runs in the test's own process until the test ends.
pub struct Upstream {
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Upstream {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let service = service_fn(move |request: http::Request<Incoming>| {
            let record = Arc::clone(&record);
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await;
                let body = body.map(|body| body.to_bytes().to_vec());
                let answer = answer(&parts);
                record.lock().unwrap().push(Seen {
                    method: parts.method.to_string(),
                    target: parts.uri.to_string(),
                    headers: parts.headers,
                    body: body.unwrap_or_default(),
                });
                Ok::<_, Infallible>(answer)
            }
        });
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = service.clone();
                tokio::spawn(async move {
                    // A proxy may close a connection at any time.
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { addr, seen }
    }

    /// Another application, which remembers nothing here.
    pub fn at(addr: SocketAddr) -> Self {
        Self {
            addr,
            seen: Arc::default(),
        }
    }

    /// How many requests have reached it.
    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// Forgets those that have reached it.
    pub fn forget(&self) {
        self.seen.lock().unwrap().clear();
    }

    /// How many of them are of this kind.
    pub fn count_of(&self, is_so: impl Fn(&Seen) -> bool) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|seen| is_so(seen)).count()
    }

    /// The last request that reached it.
    pub fn last(&self) -> Seen {
        self.seen
            .lock()
            .unwrap()
            .last()
            .expect("a request has come")
            .clone()
    }
}

/// The response of the demo upstream.
fn answer(parts: &Parts) -> http::Response<Full<Bytes>> {
    let target = parts.uri.to_string();
    let request = Request::of(parts.method.as_str(), &target, &[]).unwrap();
    let answer = respond(&request);
    let mut response = http::Response::builder().status(answer.status());
    for (name, value) in answer.fields() {
        response = response.header(name, value);
    }
    if parts.uri.path() == "/for-all-origins" {
        response = response.header("access-control-allow-origin", "*");
    }
    let body = Bytes::copy_from_slice(answer.body());
    response.body(Full::new(body)).unwrap()
}
