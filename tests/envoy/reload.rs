//! A rule is edited under traffic.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::task::JoinSet;

use super::{
    Stack,
    support::{
        client::{Connection, get, head},
        envoy::Config,
        eventually,
        redis::Redis,
        tollgate::Settings,
    },
};

/// Clients that request an unlimited path, each over one connection, and accept only 200.
struct Traffic {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

impl Traffic {
    fn start(addr: std::net::SocketAddr) -> Self {
        let (stop, answered) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let mut clients = JoinSet::new();
        for _ in 0..4 {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            clients.spawn(async move {
                let mut connection = Connection::open(addr).await.unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let answer = connection.ask(&head("GET", "/other", &[])).await.unwrap();
                    assert_eq!(answer.status, 200, "{answer:?}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self {
            stop,
            answered,
            clients,
        }
    }

    /// Waits until some more requests were answered, so that the last change has seen traffic.
    async fn goes_on(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually("traffic goes on", async || {
            self.answered.load(Ordering::Relaxed) >= before + 20
        })
        .await;
    }

    /// Fails if a request was lost.
    async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_limit_acts_at_once_on_what_is_counted_and_a_broken_edit_changes_nothing() {
    let redis = Redis::start();
    let rules = include_str!("../../config/rules.yaml");
    assert_eq!(rules.matches("    limit: 5/m\n").count(), 1);
    // Neither a slow Redis nor a time-out of Envoy may decide on a slow machine.
    let settings = Settings {
        rules,
        redis: Some(&redis),
        args: &["--deadline=20s"],
        ..Settings::default()
    };
    let stack = Stack::start(Config::shipped().fail_closed().patient(), settings).await;
    let (envoy, tollgate) = (stack.envoy.addr, &stack.tollgate);
    let traffic = Traffic::start(envoy);
    let generation = async || {
        tollgate.ask_admin("/rules").await.json()["generation"]
            .as_u64()
            .unwrap()
    };

    for left in (0..5).rev() {
        assert_eq!(get(envoy, "/data").await.remaining().0, left);
    }
    assert_eq!(get(envoy, "/data").await.status, 429);

    // Saved by renaming, as most editors do.
    let edited = rules.replace("    limit: 5/m\n", "    limit: 10/m\n");
    let beside = tollgate.rules().with_extension("new");
    fs::write(&beside, &edited).unwrap();
    fs::rename(&beside, tollgate.rules()).unwrap();
    eventually("the edit is in force", async || generation().await == 2).await;
    traffic.goes_on().await;
    for left in (0..5).rev() {
        let answer = get(envoy, "/data").await;
        assert_eq!(
            answer.remaining().0,
            left,
            "who has used 5 of 10 has 5 left: {answer:?}"
        );
    }
    assert_eq!(get(envoy, "/data").await.status, 429);

    // Saved in place, with a mistake.
    let broken = edited.replace("    limit: 10/m\n", "    limit: 10/fortnight\n");
    fs::write(tollgate.rules(), &broken).unwrap();
    let line = 1 + broken
        .lines()
        .position(|line| line == "    limit: 10/fortnight")
        .unwrap();
    let place = format!("{}:{line}:12: ", tollgate.rules().display());
    // Half a file may be seen before the whole.
    eventually("the mistake is told", async || {
        tollgate.ask_admin("/readyz").await.body.contains(&place)
    })
    .await;
    tollgate.until_logged(&place).await;
    let readiness = tollgate.ask_admin("/readyz").await;
    assert_eq!(readiness.status, 200, "degraded is ready");
    assert!(readiness.body.contains(&place), "{}", readiness.body);
    traffic.goes_on().await;
    assert_eq!(generation().await, 2);
    let answer = get(envoy, "/data").await;
    assert_eq!(
        (answer.status, answer.header("ratelimit-policy")),
        (429, Some("\"data\";q=10;w=60"))
    );

    fs::write(tollgate.rules(), &edited).unwrap();
    tollgate.until_status("ok").await;
    traffic.goes_on().await;
    traffic.end().await;
    assert_eq!(stack.envoy.check_errors().await, 0, "no check was lost");
}
