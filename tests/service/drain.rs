//! A shutdown under load: no request that was written to an accepted connection goes unanswered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{
    client::Connection,
    server::{Server, text, until},
};
use tollgate::server::{Listener, Options, Stream, serve};

const TCP: &str = "127.0.0.1:0";

/// Longer than the scheduler can keep a busy client from sending its next request.
fn patient() -> Options {
    Options {
        drain_linger: Duration::from_secs(2),
        drain_timeout: Duration::from_secs(30),
        ..Options::default()
    }
}

#[derive(Default)]
struct Tally {
    answered: AtomicUsize,
    announced: AtomicUsize,
    lost: AtomicUsize,
}

/// Sends request after request until the server closes the connection.
async fn hammer(mut client: Connection, tally: Arc<Tally>) {
    loop {
        match client.get("/").await {
            None => {
                tally.lost.fetch_add(1, Ordering::SeqCst);
                return;
            }
            Some(answer) => {
                tally.answered.fetch_add(1, Ordering::SeqCst);
                if answer.closes() {
                    tally.announced.fetch_add(1, Ordering::SeqCst);
                    client.closed().await;
                    return;
                }
            }
        }
    }
}

async fn nothing_is_lost(addr: &str) {
    const CLIENTS: usize = 100;
    // Every other answer takes a moment, so that the shutdown meets requests in all stages.
    let turn = Arc::new(AtomicUsize::new(0));
    let handler = move |_| {
        let slow = turn.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        async move {
            if slow {
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            text("ok")
        }
    };
    let server = Server::start(addr, patient(), handler).await;
    let tally = Arc::new(Tally::default());
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(tokio::spawn(hammer(server.connect().await, tally.clone())));
    }
    until("there is load", || {
        tally.answered.load(Ordering::SeqCst) > 20 * CLIENTS
    })
    .await;
    let report = server.shut_down();
    for client in clients {
        client.await.unwrap();
    }
    let report = report.await.unwrap();
    assert_eq!(tally.lost.load(Ordering::SeqCst), 0, "requests were lost");
    assert_eq!(tally.announced.load(Ordering::SeqCst), CLIENTS);
    assert_eq!((report.finished, report.aborted), (CLIENTS, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_busy_clients_lose_nothing_over_tcp() {
    nothing_is_lost(TCP).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_busy_clients_lose_nothing_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    nothing_is_lost(&format!("unix:{}", dir.path().join("t.sock").display())).await;
}

#[tokio::test]
async fn connections_still_in_the_backlog_are_served() {
    let listener = Listener::bind(&TCP.parse().unwrap()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = Connection::to(&addr).await.unwrap();
        client.send("GET / HTTP/1.1\r\n\r\n").await.unwrap();
        clients.push(client);
    }
    // The shutdown comes before the first accept.
    let handler = async |_| text("ok");
    let server = serve(listener, handler, patient(), Arc::new(()), async {});
    let server = tokio::spawn(server);
    for mut client in clients {
        let answer = client.response().await.expect("a request was lost");
        assert!(answer.closes());
    }
    let report = server.await.unwrap();
    assert_eq!((report.finished, report.aborted), (50, 0));
    assert!(Stream::connect(&addr).await.is_err(), "still listening");
}

#[tokio::test]
async fn a_request_on_its_way_on_an_idle_connection_is_answered() {
    let server = Server::start(TCP, patient(), async |_| text("ok")).await;
    let addr = server.addr.clone();
    let mut used = server.connect().await;
    used.get("/").await.unwrap();
    let mut fresh = server.connect().await;
    let report = server.shut_down();
    while Stream::connect(&addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
    // The drain has begun: the listener is gone.
    for client in [&mut used, &mut fresh] {
        let answer = client.get("/").await.expect("the request was lost");
        assert!(answer.closes());
        client.closed().await;
    }
    assert_eq!(report.await.unwrap().aborted, 0);
}

#[tokio::test]
async fn idle_connections_are_closed_after_the_linger() {
    let options = Options {
        drain_linger: Duration::from_millis(20),
        drain_timeout: Duration::from_secs(30),
        ..Options::default()
    };
    let server = Server::start(TCP, options, async |_| text("ok")).await;
    let mut fresh = server.connect().await;
    let mut used = server.connect().await;
    used.get("/").await.unwrap();
    let report = server.shut_down();
    fresh.closed().await;
    used.closed().await;
    drop((fresh, used));
    let report = report.await.unwrap();
    assert_eq!((report.finished, report.aborted), (2, 0));
    assert!(report.took < options.drain_timeout);
}

#[tokio::test]
async fn half_a_head_is_waited_for_and_answered() {
    let options = Options {
        drain_linger: Duration::from_millis(5),
        drain_timeout: Duration::from_secs(30),
        ..Options::default()
    };
    let server = Server::start(TCP, options, async |_| text("ok")).await;
    let mut idle = server.connect().await;
    let mut client = server.connect().await;
    client.get("/").await.unwrap();
    client.send("GET / HT").await.unwrap();
    idle.get("/").await.unwrap();
    let report = server.shut_down();
    // When the idle one is closed, the lingering is over for both.
    idle.closed().await;
    client.send("TP/1.1\r\n\r\n").await.unwrap();
    assert!(
        client
            .response()
            .await
            .expect("the request was lost")
            .closes()
    );
    client.closed().await;
    drop((client, idle));
    assert_eq!(report.await.unwrap().aborted, 0);
}

#[tokio::test]
async fn requests_that_do_not_end_are_cut_off_at_the_deadline() {
    let options = Options {
        drain_timeout: Duration::from_millis(50),
        ..Options::default()
    };
    let started = Arc::new(AtomicBool::new(false));
    let flag = started.clone();
    let handler = move |_| {
        flag.store(true, Ordering::SeqCst);
        std::future::pending()
    };
    let server = Server::start(TCP, options, handler).await;
    let counts = server.counts.clone();
    let mut client = server.connect().await;
    client.send("GET / HTTP/1.1\r\n\r\n").await.unwrap();
    until("the handler runs", || started.load(Ordering::SeqCst)).await;
    let report = server.shut_down().await.unwrap();
    assert_eq!((report.finished, report.aborted), (0, 1));
    assert!(report.took >= options.drain_timeout);
    client.closed().await;
    assert_eq!(counts.open.load(Ordering::SeqCst), 0);
}
