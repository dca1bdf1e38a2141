//! The application behind the proxy: the demo upstream, with a record of the requests that reached
//! it. It lets scripts of all origins read `/for-all-origins`.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use http::{HeaderMap, HeaderValue, header::ACCESS_CONTROL_ALLOW_ORIGIN};
use http_body_util::BodyExt as _;
use tollgate::{
    cli::upstream::respond,
    server::{self, ListenAddr, Listener},
};

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
        let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let ListenAddr::Tcp(addr) = listener.local_addr().unwrap() else {
            unreachable!("asked for TCP")
        };
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let handler = move |request: http::Request<hyper::body::Incoming>| {
            let record = Arc::clone(&record);
            async move {
                let (parts, body) = request.into_parts();
                let body = body
                    .collect()
                    .await
                    .map(|body| body.to_bytes().to_vec())
                    .unwrap_or_default();
                record.lock().unwrap().push(Seen {
                    method: parts.method.to_string(),
                    target: parts.uri.to_string(),
                    headers: parts.headers.clone(),
                    body,
                });
                let for_all_origins = parts.uri.path() == "/for-all-origins";
                let mut answer = respond(&http::Request::from_parts(parts, ()));
                if for_all_origins {
                    let origins = (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
                    answer.headers_mut().extend([origins]);
                }
                answer
            }
        };
        tokio::spawn(server::serve(
            listener,
            handler,
            server::Options::default(),
            Arc::new(()),
            std::future::pending(),
        ));
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
