//! The admin port: `/livez`, `/readyz`, `/metrics` and `/rules`.
//!
//! A port of its own, because a proxy that passes a client's path on lets the client choose among everything on the check
//! port, and a `200` from here would count as an allowed request there.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;

use crate::health::Health;
use crate::metrics::{self, Metrics};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// What answers on the admin port. Clones share it.
#[derive(Clone)]
pub struct Admin {
    health: Health,
    metrics: Arc<Metrics>,
    rules: Arc<dyn Fn() -> String + Send + Sync>,
}

impl Admin {
    /// `rules` gives the rule set in force as JSON.
    pub fn new(
        health: Health,
        metrics: Arc<Metrics>,
        rules: impl Fn() -> String + Send + Sync + 'static,
    ) -> Self {
        Self {
            health,
            metrics,
            rules: Arc::new(rules),
        }
    }

    /// Answers one request. The query is ignored: probes and scrapers append all sorts of things.
    pub fn respond<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let Some(endpoint) = Endpoint::at(request.uri().path()) else {
            let list = Endpoint::ALL.map(Endpoint::path).join("\n");
            let text = format!("not found, there are:\n{list}\n");
            return response(request.method(), StatusCode::NOT_FOUND, TEXT, text);
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let text = "only GET and HEAD are answered here\n".to_owned();
            let mut refusal =
                response(request.method(), StatusCode::METHOD_NOT_ALLOWED, TEXT, text);
            let allow = HeaderValue::from_static("GET, HEAD");
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
            Endpoint::Rules => (StatusCode::OK, JSON, (self.rules)()),
        };
        response(request.method(), status, content_type, body)
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
}

impl Endpoint {
    const ALL: [Self; 4] = [Self::Livez, Self::Readyz, Self::Metrics, Self::Rules];

    const fn path(self) -> &'static str {
        match self {
            Self::Livez => "/livez",
            Self::Readyz => "/readyz",
            Self::Metrics => "/metrics",
            Self::Rules => "/rules",
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
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn ask(admin: &Admin, method: Method, path: &str) -> (u16, String, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(())
            .unwrap();
        let response = admin.respond(&request);
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
        let admin = Admin::new(health.clone(), Arc::new(Metrics::new()), || {
            r#"{"rules":[]}"#.to_owned()
        });
        (admin, health)
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
                body.contains("/livez\n/readyz\n/metrics\n/rules\n"),
                "{body}"
            );
        }
    }
}
