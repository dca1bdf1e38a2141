//! The running service, as operators see it: its logs, health and metrics when something is wrong.

use crate::support::{
    client::{Connection, Response, ask, head},
    eventually, free_port,
    redis::Redis,
    tollgate::{Settings, Tollgate},
};

const RULES: &str = "version: 1\nrules:\n  - { name: data, key: [client_ip], limit: 1000/m }\n";

async fn check(tollgate: &Tollgate) -> Response {
    let lines = [
        "x-forwarded-method: GET",
        "x-forwarded-uri: /data",
        "x-real-ip: 192.0.2.1",
    ];
    ask(tollgate.addr(), &head("GET", "/v1/check", &lines)).await
}

/// The entry of a component in `/readyz`.
async fn detail(tollgate: &Tollgate, component: &str) -> String {
    let report = tollgate.ask_admin("/readyz").await.json();
    let components = report["components"].as_array().unwrap();
    let component = components.iter().find(|c| c["name"] == component).unwrap();
    component["detail"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn undoing_a_broken_edit_ends_the_degradation() {
    let tollgate = Tollgate::start(Settings {
        rules: RULES,
        ..Settings::default()
    })
    .await;
    std::fs::write(tollgate.rules(), "version: 1\nrules: [oops]\n").unwrap();
    tollgate.until_status("degraded").await;
    assert_eq!(
        tollgate.metric("tollgate_rules_last_reload_success ").await,
        0
    );
    std::fs::write(tollgate.rules(), RULES).unwrap();
    tollgate.until_status("ok").await;
    assert_eq!(
        tollgate.metric("tollgate_rules_last_reload_success ").await,
        1
    );
    assert_eq!(tollgate.metric("tollgate_rules_generation ").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_refuses_is_reported_with_a_hint() {
    let redis = Redis::start();
    let tollgate = Tollgate::start(Settings {
        rules: RULES,
        redis: Some(&redis),
        ..Settings::default()
    })
    .await;
    assert_eq!(check(&tollgate).await.status, 200);
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(check(&tollgate).await.status, 200, "counted locally");
    tollgate.until_status("degraded").await;
    let said = detail(&tollgate, "store").await;
    assert!(said.contains("raise maxmemory"), "{said}");
    tollgate.until_logged("raise maxmemory").await;
    assert_eq!(tollgate.metric("tollgate_store_up ").await, 0);
    assert_eq!(
        tollgate
            .metric("tollgate_store_errors_total{kind=\"refused\"}")
            .await,
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_refuses_the_login_says_why() {
    let redis = Redis::start();
    let tollgate = Tollgate::start(Settings {
        rules: RULES,
        redis: Some(&redis),
        ..Settings::default()
    })
    .await;
    redis.cli(&["CONFIG", "SET", "requirepass", "hunter2"]);
    redis.cli(&[
        "-a",
        "hunter2",
        "--no-auth-warning",
        "CLIENT",
        "KILL",
        "TYPE",
        "normal",
    ]);
    eventually("the reason is told", async || {
        detail(&tollgate, "store").await.contains("NOAUTH")
    })
    .await;
    assert!(!tollgate.log().contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_log_delays_no_check() {
    /// Ends when it is dropped, also when the test fails.
    struct Unread(std::process::Child);
    impl Drop for Unread {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("rules.yaml");
    std::fs::write(&rules, "version: 1\nrules: [{ name: none, limit: 0 }]\n").unwrap();
    let [listen, admin] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .env_clear()
        .args(["serve", "--log-decisions-rate=1000000"])
        .args(["--listen", &listen, "--admin", &admin])
        .arg("--rules")
        .arg(&rules)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let _unread = Unread(child);
    let listen = listen.parse().unwrap();
    eventually("it answers", async || {
        Connection::open(listen).await.is_ok()
    })
    .await;
    let uri = format!("x-forwarded-uri: /{}", "a".repeat(200));
    let lines = ["x-forwarded-method: GET", &uri, "x-real-ip: 192.0.2.1"];
    let request = head("GET", "/v1/check", &lines);
    // More than the pipe and the queue behind it can hold.
    let mut connection = Connection::open(listen).await.unwrap();
    for _ in 0..12_000 {
        assert_eq!(connection.ask(&request).await.unwrap().status, 403);
    }
}

#[tokio::test]
async fn two_installations_share_a_redis_by_their_prefixes() {
    let redis = Redis::start();
    let start = async |args: &[&str]| {
        let rules = "version: 1\nrules: [{ name: all, match: { path: /** }, limit: 2/day }]\n";
        let settings = Settings {
            rules,
            redis: Some(&redis),
            args,
            ..Settings::default()
        };
        Tollgate::start(settings).await
    };
    let (shop, blog) = (
        start(&["--key-prefix=shop/prod:"]).await,
        start(&["--key-prefix", "blog:"]).await,
    );
    for left in [1, 0] {
        assert_eq!(check(&shop).await.remaining().0, left);
        assert_eq!(check(&blog).await.remaining().0, left);
    }
    assert_eq!(check(&shop).await.status, 429);
    let keys = redis.counters();
    let mut keys: Vec<&str> = keys.lines().collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "blog:{all:}:sliding_window:86400s",
            "shop/prod:{all:}:sliding_window:86400s"
        ]
    );
}
