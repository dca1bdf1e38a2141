//! The server under real connections: protocols, limits, and isolation from misbehaving peers and
//! handlers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::{
    eventually,
    server::{Server, text, until},
};
use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tollgate::{
    server::{Handler, Options, Stream},
    wire::{Body, Request, Response},
};

const TCP: &str = "127.0.0.1:0";

async fn echo_path(request: Request) -> Response {
    text(request.path())
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
async fn http2_is_refused_with_a_reason() {
    let server = Server::start(TCP, Options::default(), echo_path).await;
    let mut client = server.connect().await;
    client
        .send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let goodbye = client.rest().await;
    let text = String::from_utf8_lossy(&goodbye);
    assert!(
        text.contains("tollgate takes checks by HTTP/1.1 only"),
        "{text:?}"
    );
    // The error code of the GOAWAY frame: HTTP_1_1_REQUIRED.
    assert_eq!(goodbye[9 + 9 + 4..][..4], [0, 0, 0, 13]);
    assert_eq!(server.counts.http2_refused.load(Ordering::SeqCst), 1);

    // A client of the library learns it too.
    let stream = Stream::connect(&server.addr).await.unwrap();
    let (mut sender, conn) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let conn = tokio::spawn(conn);
    let get = http::Request::get("http://test/").body(Empty::<Bytes>::new());
    assert!(sender.send_request(get.unwrap()).await.is_err());
    drop(sender);
    let _ = conn.await.unwrap();
    assert_eq!(server.connect().await.get("/h1").await.unwrap().body, "/h1");
}

/// A handler that has no use for bodies.
#[tokio::test]
async fn a_body_that_comes_is_read_and_the_connection_kept() {
    let server = Server::start(TCP, Options::default(), echo_path).await;
    let mut client = server.connect().await;
    let long = "x".repeat(200_000);
    let whole = |length: usize| {
        let body = &long[..length];
        format!("POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}")
    };
    for request in [
        whole(5),
        whole(200_000),
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
            .to_owned(),
        whole(0),
    ] {
        for _ in 0..10 {
            client.send(request.clone()).await.unwrap();
            let answer = client.response().await.expect("the connection was closed");
            assert_eq!((answer.status, answer.closes()), (200, false));
        }
    }
    assert_eq!(
        server.counts.opened.load(Ordering::SeqCst),
        1,
        "connections"
    );
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_awaited_and_the_connection_says_that_it_closes() {
    let server = Server::start(TCP, Options::default(), echo_path).await;
    for head in [
        // nginx sends this for a POST unless it is told not to.
        "content-length: 5",
        "content-length: 5\r\nexpect: 100-continue",
        "transfer-encoding: chunked",
        "content-length: 100000000",
    ] {
        let mut client = server.connect().await;
        let head = format!("POST /a HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n");
        client.send(head.clone()).await.unwrap();
        let answer = client.response().await.unwrap();
        // The next bytes could be the body or another request.
        assert_eq!((answer.status, answer.closes()), (200, true), "{head}");
        client.closed().await;
    }
}

/// Says what has become of a body of at most ten bytes.
struct Reader;

impl Handler for Reader {
    async fn respond(&self, request: Request) -> Response {
        match request.body() {
            Body::Whole(body) => text(std::str::from_utf8(body).unwrap()),
            other => text(&format!("{other:?}")),
        }
    }

    fn wants(&self, _: &Request) -> usize {
        10
    }
}

#[tokio::test]
async fn a_body_that_is_wanted_is_read_and_what_is_left_of_others_ends_the_connection() {
    let options = Options {
        header_timeout: Duration::from_millis(200),
        ..Options::default()
    };
    let server = Server::start(TCP, options, Reader).await;
    let mut client = server.connect().await;
    let head = |line: &str| format!("POST / HTTP/1.1\r\nhost: x\r\n{line}\r\n\r\n");
    // The next request is right behind it.
    let two = head("content-length: 5") + "abcde" + &head("content-length: 0");
    client.send(two).await.unwrap();
    for body in ["abcde", ""] {
        let answer = client.response().await.unwrap();
        assert_eq!((&*answer.body, answer.closes()), (body, false));
    }
    // In parts, and only when it is asked for.
    let held_back = head("content-length: 5\r\nexpect: 100-continue");
    client.send(held_back).await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 100);
    for part in ["ab", "cde"] {
        client.send(part).await.unwrap();
        tokio::task::yield_now().await;
    }
    let answer = client.response().await.unwrap();
    assert_eq!((&*answer.body, answer.closes()), ("abcde", false));

    for (line, body) in [
        ("content-length: 11", "TooLong"),
        ("content-length: 5", "Late"),
        ("transfer-encoding: chunked", "Broken"),
        ("content-length: 5\r\ntransfer-encoding: chunked", "Broken"),
    ] {
        let mut client = server.connect().await;
        client.send(head(line)).await.unwrap();
        let answer = client.response().await.unwrap();
        assert_eq!((&*answer.body, answer.closes()), (body, true), "{line}");
        client.closed().await;
    }
}

#[tokio::test]
async fn an_unread_body_does_not_destroy_the_answer() {
    let server = Server::start(TCP, Options::default(), echo_path).await;
    for _ in 0..20 {
        let mut client = server.connect().await;
        let head = "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 2000000\r\n\r\n";
        client.send(head).await.unwrap();
        let _ = client.send(vec![b'x'; 2_000_000]).await;
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

    let header = "b".repeat(200_000);
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
    // An answer: a connection that just closes is an error, which a proxy may let through.
    for part in ["G", "GET / HTTP/1.1\r\nhost: x\r\n"] {
        let mut client = server.connect().await;
        client.send(part).await.unwrap();
        let answer = client.response().await.expect("no answer");
        assert_eq!((answer.status, answer.closes()), (408, true));
        client.closed().await;
    }
    let mut client = server.connect().await;
    client.get("/").await.unwrap();
    client.send("GET").await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 408);
    client.closed().await;
    // Empty lines are no head, but keep no connection open.
    let mut client = server.connect().await;
    client.send("\r\n\r\n").await.unwrap();
    client.closed().await;
    // Nothing has begun: an answer would be taken for that to the next request.
    let options = Options {
        idle_timeout: Duration::from_millis(100),
        ..Options::default()
    };
    let server = Server::start(TCP, options, echo_path).await;
    let mut client = server.connect().await;
    client.closed().await;
    let mut client = server.connect().await;
    client.get("/").await.unwrap();
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
    let handler = async |request: Request| {
        assert_ne!(request.path(), "/panic", "this panic belongs to the test");
        text("ok")
    };
    let server = Server::start(TCP, Options::default(), handler).await;
    let mut other = server.connect().await;
    other.get("/").await.unwrap();
    let mut client = server.connect().await;
    assert!(client.get("/panic").await.is_none());

    assert_eq!(other.get("/").await.unwrap().body, "ok");
    assert_eq!(server.counts.panicked.load(Ordering::SeqCst), 1);
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
