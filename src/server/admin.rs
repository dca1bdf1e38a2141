//! The admin port: `/livez`, `/readyz`, `/metrics`, `/rules` and `/explain`.
//!
//! A port of its own, because a proxy that passes a client's path on lets the client choose among everything on the check
//! port, and a `200` from here would count as an allowed request there.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Body;
use tokio::time::timeout;

use crate::health::Health;
use crate::metrics::{self, Metrics};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The longest question that `/explain` reads, in bytes.
const MAX_QUESTION: usize = 128 * 1024;

/// The longest that `/explain` waits for its question.
const PATIENCE: Duration = Duration::from_secs(10);

/// What answers on the admin port. Clones share it.
#[derive(Clone)]
pub struct Admin {
    health: Health,
    metrics: Arc<Metrics>,
    ask: Arc<dyn Ask>,
}

/// An answer to a question about a request, some time; the error says why it cannot be answered.
pub type Explains<'a> = Pin<Box<dyn Future<Output = Result<String, String>> + Send + 'a>>;

/// What the admin port asks those who know the rules.
pub trait Ask: Send + Sync {
    /// The rule set in force, as JSON.
    fn rules(&self) -> String;

    /// What would be decided about a request and why, as JSON or as text. The question is JSON.
    fn explain<'a>(&'a self, question: &'a [u8], as_text: bool) -> Explains<'a>;
}

impl Admin {
    /// `ask` is asked what health and metrics do not know.
    pub fn new(health: Health, metrics: Arc<Metrics>, ask: impl Ask + 'static) -> Self {
        Self {
            health,
            metrics,
            ask: Arc::new(ask),
        }
    }

    /// Answers one request. The query is ignored: probes and scrapers append all sorts of things.
    pub async fn respond<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        let Some(endpoint) = Endpoint::at(request.uri().path()) else {
            let list = Endpoint::ALL.map(Endpoint::path).join("\n");
            let text = format!("not found, there are:\n{list}\n");
            return response(request.method(), StatusCode::NOT_FOUND, TEXT, text);
        };
        let (methods, allow): (&[Method], _) = match endpoint {
            Endpoint::Explain => (&[Method::POST], "POST"),
            _ => (&[Method::GET, Method::HEAD], "GET, HEAD"),
        };
        if !methods.contains(request.method()) {
            let text = format!("only {} is answered here\n", allow.replace(", ", " and "));
            let mut refusal =
                response(request.method(), StatusCode::METHOD_NOT_ALLOWED, TEXT, text);
            let allow = HeaderValue::from_static(allow);
            refusal.headers_mut().insert(header::ALLOW, allow);
            return refusal;
        }
        let (status, content_type, body) = match endpoint {
            // Alive is whoever answers. What is wrong elsewhere is not mended by a restart.
            Endpoint::Livez => (StatusCode::OK, TEXT, "ok\n".to_owned()),
            Endpoint::Readyz => {
                let report = self.health.report();
                let status = if report.ready {
                    StatusCode::OK
                } else {
                    StatusCode::SERVICE_UNAVAILABLE
                };
                (status, JSON, report.to_json() + "\n")
            }
            Endpoint::Metrics => (StatusCode::OK, metrics::CONTENT_TYPE, self.metrics.encode()),
            Endpoint::Rules => (StatusCode::OK, JSON, self.ask.rules()),
            Endpoint::Explain => return self.explain(request).await,
        };
        response(request.method(), status, content_type, body)
    }

    async fn explain<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        let (parts, body) = request.into_parts();
        let accept = parts.headers.get(header::ACCEPT);
        let as_text = accept.is_some_and(|accept| accept.as_bytes().starts_with(b"text/plain"));
        let refused = |status, text: String| response(&parts.method, status, TEXT, text);
        let read = Limited::new(body, MAX_QUESTION).collect();
        let question = match timeout(PATIENCE, read).await {
            Ok(Ok(question)) => question,
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let text = format!("a question has at most {MAX_QUESTION} bytes\n");
                return refused(StatusCode::PAYLOAD_TOO_LARGE, text);
            }
            Ok(Err(error)) => {
                let text = format!("the question broke off: {error}\n");
                return refused(StatusCode::BAD_REQUEST, text);
            }
            Err(_) => {
                let text = format!("the question did not come within {PATIENCE:?}\n");
                return refused(StatusCode::REQUEST_TIMEOUT, text);
            }
        };
        let question = question.to_bytes();
        let (status, content_type, body) = match self.ask.explain(&question, as_text).await {
            Ok(text) if as_text => (StatusCode::OK, TEXT, text),
            Ok(json) => (StatusCode::OK, JSON, json),
            Err(error) => (StatusCode::BAD_REQUEST, TEXT, error),
        };
        response(&parts.method, status, content_type, body + "\n")
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("health", &self.health)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy)]
enum Endpoint {
    Livez,
    Readyz,
    Metrics,
    Rules,
    Explain,
}

impl Endpoint {
    const ALL: [Self; 5] = [
        Self::Livez,
        Self::Readyz,
        Self::Metrics,
        Self::Rules,
        Self::Explain,
    ];

    const fn path(self) -> &'static str {
        match self {
            Self::Livez => "/livez",
            Self::Readyz => "/readyz",
            Self::Metrics => "/metrics",
            Self::Rules => "/rules",
            Self::Explain => "/explain",
        }
    }

    fn at(path: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|endpoint| endpoint.path() == path)
    }
}

fn response(
    method: &Method,
    status: StatusCode,
    content_type: &'static str,
    body: String,
) -> Response<Full<Bytes>> {
    let length = HeaderValue::from(body.len());
    // hyper withholds the body of an answer to HEAD on HTTP/1, but not on HTTP/2.
    let body = if method == Method::HEAD {
        Bytes::new()
    } else {
        Bytes::from(body)
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONTENT_LENGTH, length);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn ask(admin: &Admin, method: Method, path: &str) -> (u16, String, String) {
        ask_with(admin, method, path, "").await
    }

    async fn ask_with(
        admin: &Admin,
        method: Method,
        path: &str,
        question: &str,
    ) -> (u16, String, String) {
        let request = Request::builder().method(method).uri(path);
        let body = Full::new(Bytes::copy_from_slice(question.as_bytes()));
        let response = admin.respond(request.body(body).unwrap()).await;
        let status = response.status().as_u16();
        let headers = response.headers();
        let header = |name| {
            headers
                .get(name)
                .map_or("", |v: &HeaderValue| v.to_str().unwrap())
        };
        let seen = format!(
            "{}|{}|{}",
            header("content-type"),
            header("allow"),
            header("content-length")
        );
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, seen, String::from_utf8(body.to_vec()).unwrap())
    }

    fn admin() -> (Admin, Health) {
        let health = Health::new();
        let admin = Admin::new(health.clone(), Arc::new(Metrics::new()), Echo);
        (admin, health)
    }

    /// Knows no rules, and says what it was asked.
    pub(crate) struct Echo;

    impl Ask for Echo {
        fn rules(&self) -> String {
            r#"{"rules":[]}"#.to_owned()
        }

        fn explain<'a>(&'a self, question: &'a [u8], _: bool) -> Explains<'a> {
            let question = String::from_utf8_lossy(question).into_owned();
            let answer = match &*question {
                "" => Err("nothing was asked".to_owned()),
                _ => Ok(question),
            };
            Box::pin(std::future::ready(answer))
        }
    }

    #[tokio::test]
    async fn explain_is_asked_with_a_body_of_bounded_length() {
        let (admin, _) = admin();
        let post =
            async |question: &str| ask_with(&admin, Method::POST, "/explain", question).await;
        let (status, seen, body) = post("why").await;
        assert_eq!((status, &*body), (200, "why\n"));
        assert!(seen.starts_with("application/json"), "{seen}");
        assert_eq!(post("").await.0, 400);
        assert_eq!(post(&"x".repeat(MAX_QUESTION)).await.0, 200);
        let (status, _, body) = post(&"x".repeat(MAX_QUESTION + 1)).await;
        assert_eq!(status, 413, "{body}");
        let (status, seen, _) = ask(&admin, Method::GET, "/explain").await;
        assert_eq!(status, 405);
        assert!(seen.contains("|POST|"), "{seen}");
    }

    #[tokio::test]
    async fn each_endpoint_answers_in_its_type() {
        let (admin, _) = admin();
        assert_eq!(
            ask(&admin, Method::GET, "/livez").await,
            (200, "text/plain; charset=utf-8||3".into(), "ok\n".into())
        );
        assert_eq!(
            ask(&admin, Method::GET, "/rules?pretty").await,
            (200, "application/json||12".into(), r#"{"rules":[]}"#.into())
        );
        let (status, seen, body) = ask(&admin, Method::GET, "/metrics").await;
        assert_eq!(status, 200);
        assert!(
            seen.starts_with("application/openmetrics-text; version=1.0.0"),
            "{seen}"
        );
        assert!(body.ends_with("# EOF\n"), "{body}");
    }

    #[tokio::test]
    async fn readyz_follows_health_livez_does_not() {
        let (admin, health) = admin();
        let store = health.component("store");
        assert_eq!(ask(&admin, Method::GET, "/readyz").await.0, 503);
        store.degraded("redis is away");
        let (status, _, body) = ask(&admin, Method::GET, "/readyz").await;
        assert_eq!(status, 200);
        assert!(body.contains("redis is away"), "{body}");
        health.drain();
        assert_eq!(ask(&admin, Method::GET, "/readyz").await.0, 503);
        assert_eq!(ask(&admin, Method::GET, "/livez").await.0, 200);
    }

    #[tokio::test]
    async fn head_has_the_length_and_no_body() {
        let (admin, _) = admin();
        assert_eq!(
            ask(&admin, Method::HEAD, "/livez").await,
            (200, "text/plain; charset=utf-8||3".into(), String::new())
        );
    }

    #[tokio::test]
    async fn other_methods_and_paths_are_told_what_there_is() {
        let (admin, _) = admin();
        let (status, seen, _) = ask(&admin, Method::POST, "/rules").await;
        assert_eq!(status, 405);
        assert!(seen.contains("|GET, HEAD|"), "{seen}");
        for path in ["/", "/Rules", "/rules/", "/v1/check"] {
            let (status, _, body) = ask(&admin, Method::GET, path).await;
            assert_eq!(status, 404, "{path}");
            assert!(
                body.contains("/livez\n/readyz\n/metrics\n/rules\n/explain\n"),
                "{body}"
            );
        }
    }
}
