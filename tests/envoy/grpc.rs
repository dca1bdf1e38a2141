//! gRPC clients: HTTP/2 up to Envoy, and denials as gRPC statuses.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::{Stack, support::envoy::Config};

const RULES: &str = "
version: 1
rules:
  - { name: calls, match: { path: /pets.Pets/List, methods: POST }, key: [client_ip], limit: 1/day }
  - { name: internal, match: { path: '/pets.Admin/**' }, action: deny }
";

/// Calls a method like a gRPC client, and returns the headers of the response.
async fn call(client: &mut SendRequest<Empty<Bytes>>, method: &str) -> HeaderMap {
    let request = Request::post(format!("http://app.test{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Empty::new())
        .unwrap();
    client.ready().await.unwrap();
    let answer = client.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200, "{answer:?}");
    let (parts, body) = answer.into_parts();
    body.collect().await.unwrap();
    parts.headers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_reported_as_a_grpc_status() {
    let config = Config::shipped().fail_closed().patient();
    let stack = Stack::with_rules(config, RULES).await;
    let stream = TcpStream::connect(stack.envoy.addr).await.unwrap();
    let (mut client, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);

    let admitted = call(&mut client, "/pets.Pets/List").await;
    assert_eq!(admitted.get("grpc-status"), None);
    assert_eq!(admitted["ratelimit-policy"], "\"calls\";q=1;w=86400");
    assert_eq!(stack.upstream.last().target, "/pets.Pets/List");

    // UNAVAILABLE, which Envoy makes of a 429.
    let limited = call(&mut client, "/pets.Pets/List").await;
    assert_eq!(limited["grpc-status"], "14");
    assert_eq!(limited["content-type"], "application/grpc");
    assert_eq!(limited["ratelimit-policy"], "\"calls\";q=1;w=86400");
    let told = limited["ratelimit"].to_str().unwrap();
    assert!(told.starts_with("\"calls\";r=0;t="), "{told}");
    let wait = limited["retry-after"].to_str().unwrap();
    assert!(told.ends_with(&format!("t={wait}")), "{told} {wait}");

    // PERMISSION_DENIED.
    let denied = call(&mut client, "/pets.Admin/Drop").await;
    assert_eq!(denied["grpc-status"], "7");
    assert_eq!(
        (denied.get("ratelimit"), denied.get("retry-after")),
        (None, None)
    );

    assert_eq!(stack.upstream.count(), 1);
    assert_eq!(stack.envoy.check_errors().await, 0);
}
