//! `tollgate upstream`: a small server to protect, for demos and tests.
//!
//! Its responses depend on the request alone, so that they can be compared.

use std::sync::Arc;

use clap::Args;
use http::StatusCode;

use crate::{
    server::{self, BindError, DrainReport, ListenAddr, Listener, Options},
    wire::{Request, Response},
};

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
    let handler = async |request| respond(&request);
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
pub fn respond(request: &Request) -> Response {
    let path = request.path();
    if path == "/readyz" {
        let content_type = "text/plain; charset=utf-8";
        return response(StatusCode::OK, content_type, "ok\n".to_owned());
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
        "method": request.method(),
        "path": path,
        "query": request.query(),
        "status": status.as_u16(),
    });
    response(status, "application/json", format!("{echo}\n"))
}

fn response(status: StatusCode, content_type: &str, body: String) -> Response {
    let mut response = Response::new(status).with_body(body);
    response.set("content-type", content_type);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, target: &str) -> (u16, String) {
        let response = respond(&Request::of(method, target, &[]).unwrap());
        let body = String::from_utf8(response.body().to_vec()).unwrap();
        (response.status().as_u16(), body)
    }

    #[test]
    fn echoes_what_was_asked() {
        let (status, body) = ask("PURGE", "/a/../b?x=1");
        assert_eq!(status, 200);
        let echo: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(echo["method"], "PURGE");
        assert_eq!(echo["path"], "/a/../b");
        assert_eq!(echo["query"], "x=1");
        assert_eq!(ask("GET", "/readyz"), (200, "ok\n".to_owned()));
    }

    #[test]
    fn answers_with_the_status_asked_for() {
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
            assert_eq!(ask("GET", path).0, status, "{path}");
        }
        assert_eq!(ask("HEAD", "/status/418").0, 418);
    }
}
