//! The server under real connections: protocols, limits, and isolation from misbehaving peers and
//! handlers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::{
    eventually,
    server::{Server, text, until},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tollgate::server::{Options, Stream};

const TCP: &str = "127.0.0.1:0";

async fn echo_path(request: Request<Incoming>) -> Response<Full<Bytes>> {
    text(request.uri().path().to_owned())
}

async fn h2_client(server: &Server) -> hyper::client::conn::http2::SendRequest<Empty<Bytes>> {
    let stream = Stream::connect(&server.addr).await.unwrap();
    let (sender, conn) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(conn);
    sender
}

fn h2_get(path: &str) -> Request<Empty<Bytes>> {
    let uri = format!("http://test{path}");
    Request::get(uri).body(Empty::new()).unwrap()
}

#[tokio::test]
async fn one_connection_takes_many_requests_also_pipelined_and_without_host() {
    let server = Server::start(TCP, Options::default(), echo_path).await;
    let mut client = server.connect().await;
    for path in ["/a", "/b", "/c"] {
        let answer = client.get(path).await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, path));
        assert!(!answer.closes());
    }
    client
        .send("GET /d HTTP/1.1\r\n\r\nHEAD /e HTTP/1.1\r\n\r\nPURGE /f HTTP/1.1\r\n\r\nGE")
        .await
        .unwrap();
    assert_eq!(client.response().await.unwrap().body, "/d");
    // The response to HEAD has the length of a body that is not sent; the client here would wait
    // for it.
    client.send("T /g HTTP/1.1\r\n\r\n").await.unwrap();
    let rest = client.response().await.unwrap();
    assert_eq!(rest.status, 200);
}

#[tokio::test]
async fn unix_sockets_and_http_1_0_work() {
    let dir = tempfile::tempdir().unwrap();
    let addr = format!("unix:{}", dir.path().join("t.sock").display());
    let server = Server::start(&addr, Options::default(), echo_path).await;
    let mut client = server.connect().await;
    assert_eq!(client.get("/a").await.unwrap().body, "/a");
    // What nginx sends with its defaults.
    client
        .send("GET /b HTTP/1.0\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(client.response().await.unwrap().body, "/b");
    client.closed().await;
    assert_eq!(server.shut_down().await.unwrap().aborted, 0);
    assert!(!dir.path().join("t.sock").exists());
}

#[tokio::test]
async fn http2_with_prior_knowledge_shares_the_port() {
    let server = Server::start(TCP, Options::default(), echo_path).await;
    let mut sender = h2_client(&server).await;
    let answers = (0..100).map(|i| sender.send_request(h2_get(&format!("/{i}"))));
    let answers: Vec<_> = answers.collect();
    for (i, answer) in answers.into_iter().enumerate() {
        let body = answer.await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), format!("/{i}"));
    }
    assert_eq!(server.counts.open.load(Ordering::SeqCst), 1);
    assert_eq!(server.connect().await.get("/h1").await.unwrap().body, "/h1");
}

#[tokio::test]
async fn a_body_that_never_arrives_is_not_awaited() {
    // nginx sends this for a POST unless it is told not to.
    let server = Server::start(TCP, Options::default(), echo_path).await;
    let mut client = server.connect().await;
    client
        .send("POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(client.response().await.unwrap().body, "/a");
    // The next bytes could be the body or another request, so this connection cannot be used again.
    client.closed().await;
}

#[tokio::test]
async fn an_unread_body_does_not_destroy_the_answer() {
    let server = Server::start(TCP, Options::default(), echo_path).await;
    for _ in 0..20 {
        let mut client = server.connect().await;
        let head = "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 900000\r\n\r\n";
        client.send(head).await.unwrap();
        // Whether all of it is read depends on the kernel's buffers; `timed_io` tests reading on
        // after the response.
        let _ = client.send(vec![b'x'; 900_000]).await;
        assert_eq!(
            client.response().await.expect("the answer was lost").status,
            200
        );
    }
}

#[tokio::test]
async fn a_target_of_50_kb_is_served_a_head_over_the_limit_is_refused() {
    let server = Server::start(TCP, Options::default(), echo_path).await;
    let path = format!("/{}", "a".repeat(50_000));
    let mut client = server.connect().await;
    assert_eq!(client.get(&path).await.unwrap().body, path);
    let answer = h2_client(&server).await.send_request(h2_get(&path)).await;
    assert_eq!(answer.unwrap().status(), 200);

    let header = "b".repeat(80_000);
    let head = format!("GET / HTTP/1.1\r\nx: {header}\r\n\r\n");
    let mut client = server.connect().await;
    let _ = client.send(head).await;
    assert_eq!(client.response().await.unwrap().status, 431);
}

#[tokio::test]
async fn a_head_that_does_not_come_in_time_ends_the_connection() {
    let options = Options {
        header_timeout: Duration::from_millis(100),
        ..Options::default()
    };
    let server = Server::start(TCP, options, echo_path).await;
    for part in ["G", "GET / HTTP/1.1\r\nhost: x\r\n", "PRI * HTTP/2.0\r\n"] {
        let mut client = server.connect().await;
        client.send(part).await.unwrap();
        client.closed().await;
    }
    let mut client = server.connect().await;
    client.get("/").await.unwrap();
    client.send("GET").await.unwrap();
    client.closed().await;
    until("all connections are counted out", || {
        server.counts.open.load(Ordering::SeqCst) == 0
    })
    .await;
}

#[tokio::test]
async fn over_the_cap_connections_are_closed_at_once_and_counted() {
    let options = Options {
        max_connections: 2,
        ..Options::default()
    };
    let server = Server::start(TCP, options, echo_path).await;
    let mut first = server.connect().await;
    let mut second = server.connect().await;
    first.get("/").await.unwrap();
    second.get("/").await.unwrap();
    for refused in 1..=3 {
        server.connect().await.closed().await;
        assert_eq!(server.counts.refused.load(Ordering::SeqCst), refused);
    }
    assert!(first.get("/").await.is_some(), "an old connection suffered");

    drop(second);
    until("the place is free", || {
        server.counts.open.load(Ordering::SeqCst) == 1
    })
    .await;
    let mut third = server.connect().await;
    assert!(third.get("/").await.is_some());
}

#[tokio::test]
async fn a_panic_in_a_handler_costs_its_own_request_only() {
    let handler = async |request: Request<Incoming>| {
        assert_ne!(
            request.uri().path(),
            "/panic",
            "this panic belongs to the test"
        );
        text("ok")
    };
    let server = Server::start(TCP, Options::default(), handler).await;
    let mut other = server.connect().await;
    other.get("/").await.unwrap();
    let mut client = server.connect().await;
    assert!(client.get("/panic").await.is_none());

    let mut sender = h2_client(&server).await;
    assert!(sender.send_request(h2_get("/panic")).await.is_err());
    assert_eq!(
        sender.send_request(h2_get("/")).await.unwrap().status(),
        200
    );

    assert_eq!(other.get("/").await.unwrap().body, "ok");
    assert_eq!(server.counts.panicked.load(Ordering::SeqCst), 2);
    assert_eq!(server.connect().await.get("/").await.unwrap().body, "ok");
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_request() {
    struct Dropped(tokio::sync::mpsc::UnboundedSender<()>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let (dropped, mut drops) = tokio::sync::mpsc::unbounded_channel();
    let handler = move |_| {
        let (started, dropped) = (started.clone(), Dropped(dropped.clone()));
        async move {
            let _dropped = dropped;
            started.send(()).unwrap();
            std::future::pending().await
        }
    };
    let server = Server::start(TCP, Options::default(), handler).await;
    let mut client = server.connect().await;
    client.send("GET / HTTP/1.1\r\n\r\n").await.unwrap();
    starts.recv().await.unwrap();
    drop(client);
    eventually("the handler is dropped", async || drops.try_recv().is_ok()).await;
}

/// Runs itself again with few file descriptors, because that limit is for the whole process.
#[tokio::test]
async fn out_of_file_descriptors_it_waits_and_goes_on() {
    const INSIDE: &str = "TOLLGATE_TEST_FEW_FILES";
    const NAME: &str = "server::out_of_file_descriptors_it_waits_and_goes_on";
    if std::env::var_os(INSIDE).is_none() {
        let output = tokio::process::Command::new("sh")
            .args([
                "-c",
                r#"ulimit -n 64 && exec "$0" --exact --nocapture "$1""#,
            ])
            .arg(std::env::current_exe().unwrap())
            .arg(NAME)
            .env(INSIDE, "1")
            .output()
            .await
            .unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && stdout.contains("1 passed"),
            "{output:?}"
        );
        return;
    }
    let server = Server::start(TCP, Options::default(), echo_path).await;
    let mut files = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        files.push(file);
    }
    // One descriptor for the client's end, none for the server's.
    files.pop();
    let mut client = server.connect().await;
    client.send("GET /a HTTP/1.1\r\n\r\n").await.unwrap();
    until("accepting has failed more than once", || {
        server.counts.accept_failed.load(Ordering::SeqCst) > 2
    })
    .await;
    drop(files);
    assert_eq!(client.response().await.unwrap().body, "/a");
}
