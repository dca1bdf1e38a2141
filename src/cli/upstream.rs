//! `tollgate upstream`: a small server to protect, for demos and tests.
//!
//! Its responses depend on the request alone, so that they can be compared.

use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;

use crate::server::{self, BindError, DrainReport, ListenAddr, Listener, Options, UnwantedBody};

/// Options of `tollgate upstream`.
#[derive(Debug, Clone, Args)]
pub struct UpstreamArgs {
    /// Where the demo upstream listens: an address and port, or `unix:/path`
    #[arg(
        long = "upstream-listen",
        env = "TOLLGATE_UPSTREAM_LISTEN",
        value_name = "ADDR",
        default_value = "127.0.0.1:8083"
    )]
    pub listen: ListenAddr,
}

/// Serves the demo upstream until `shutdown` completes.
pub async fn run(
    args: &UpstreamArgs,
    shutdown: impl Future<Output = ()>,
) -> Result<DrainReport, BindError> {
    let listener = Listener::bind(&args.listen).await?;
    Ok(serve(listener, shutdown).await)
}

/// Serves the demo upstream on a bound listener.
pub async fn serve(listener: Listener, shutdown: impl Future<Output = ()>) -> DrainReport {
    if let Ok(addr) = listener.local_addr() {
        tracing::info!(%addr, "demo upstream is listening");
    }
    let handler = async |request| {
        let (request, body) = UnwantedBody::of(request);
        let mut response = respond(&request);
        body.discard(&mut response).await;
        response
    };
    server::serve(
        listener,
        handler,
        Options::default(),
        Arc::new(()),
        shutdown,
    )
    .await
}

/// Answers one request: `/status/{code}` with that status, `/readyz` with `ok`, anything else with
/// an echo of the request.
pub fn respond<B>(request: &Request<B>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if path == "/readyz" {
        return response(
            request.method(),
            StatusCode::OK,
            "text/plain; charset=utf-8",
            "ok\n".to_owned(),
        );
    }
    let status = match path.strip_prefix("/status/") {
        None => StatusCode::OK,
        // 1xx are not final responses: a client would wait for the next one.
        Some(code) => match code.parse() {
            Ok(code @ 200..=999) => StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST),
            _ => StatusCode::BAD_REQUEST,
        },
    };
    let echo = serde_json::json!({
        "service": "upstream",
        "method": request.method().as_str(),
        "path": path,
        "query": request.uri().query(),
        "status": status.as_u16(),
    });
    response(
        request.method(),
        status,
        "application/json",
        format!("{echo}\n"),
    )
}

fn response(
    method: &Method,
    status: StatusCode,
    content_type: &'static str,
    body: String,
) -> Response<Full<Bytes>> {
    let bodiless = *method == Method::HEAD
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let body = if bodiless {
        Bytes::new()
    } else {
        Bytes::from(body)
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn ask(method: &str, uri: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        let response = respond(&request);
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn echoes_what_was_asked() {
        let (status, body) = ask("PURGE", "/a/../b?x=1").await;
        assert_eq!(status, 200);
        let echo: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(echo["method"], "PURGE");
        assert_eq!(echo["path"], "/a/../b");
        assert_eq!(echo["query"], "x=1");
        assert_eq!(ask("GET", "/readyz").await, (200, "ok\n".to_owned()));
    }

    #[tokio::test]
    async fn answers_with_the_status_asked_for() {
        for (path, status) in [
            ("/status/200", 200),
            ("/status/404", 404),
            ("/status/503", 503),
            ("/status/999", 999),
            ("/status/100", 400),
            ("/status/1000", 400),
            ("/status/x", 400),
            ("/status/", 400),
        ] {
            assert_eq!(ask("GET", path).await.0, status, "{path}");
        }
        assert_eq!(ask("GET", "/status/204").await, (204, String::new()));
        assert_eq!(ask("HEAD", "/status/418").await, (418, String::new()));
    }
}
