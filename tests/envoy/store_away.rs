//! Redis is stopped, paused and restarted under traffic, and each rule follows its
//! `on_store_error`.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::{
    Stack,
    support::{
        client::{Connection, Response, all_at_once, ask_from, head, statuses},
        envoy::Config,
        eventually,
        redis::Redis,
        tollgate::Settings,
    },
};

const RULES: &str = "
version: 1
rules:
  - { name: local, match: { path: /local }, key: [client_ip], limit: 3/day, on_store_error: local }
  - { name: allow, match: { path: /allow }, key: [client_ip], limit: 3/day, on_store_error: allow }
  - { name: deny, match: { path: /deny }, key: [client_ip], limit: 3/day, on_store_error: deny }
  - { name: proxy, match: { path: /proxy }, key: [client_ip], limit: 3/day, on_store_error: proxy }
  - { name: background, match: { path: /background }, limit: 1000000/day, on_store_error: allow }
";

/// Twenty times the default, so that a slow machine does not exceed it while Redis is there, and
/// far below Envoy's time-out in these tests. So the deadline decides, and not Envoy.
const DEADLINE: &str = "--deadline=1s";

/// Requests `/background` all the time.
struct Background {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Background {
    fn start(stack: &Stack) -> Self {
        let (stop, answered) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let task = tokio::spawn({
            let (addr, stop, answered) =
                (stack.envoy.addr, Arc::clone(&stop), Arc::clone(&answered));
            async move {
                let mut connection = Connection::open(addr).await.unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let answer = connection
                        .ask(&head("GET", "/background", &[]))
                        .await
                        .unwrap();
                    assert_eq!(answer.status, 200, "{answer:?}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self {
            stop,
            answered,
            task,
        }
    }

    /// Waits until some more requests have been answered.
    async fn goes_on(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually("traffic goes on", async || {
            self.answered.load(Ordering::Relaxed) >= before + 5
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

/// One client per phase of a test, without any counters yet.
struct Client<'a> {
    stack: &'a Stack,
    addr: Ipv4Addr,
}

impl Client<'_> {
    async fn get(&self, path: &str) -> Response {
        ask_from(self.addr, self.stack.envoy.addr, &head("GET", path, &[])).await
    }

    /// Three of twenty, for every rule.
    async fn is_counted_exactly(&self) {
        for path in ["/local", "/allow", "/deny", "/proxy"] {
            let answers = all_at_once(
                self.addr,
                self.stack.envoy.addr,
                &head("GET", path, &[]),
                20,
            )
            .await;
            assert_eq!(
                statuses(&answers),
                BTreeMap::from([(200, 3), (429, 17)]),
                "{path}"
            );
        }
    }

    /// Every rule but `proxy`, while Redis is away.
    async fn meets_what_the_rules_say(&self) {
        for left in (0..3).rev() {
            let answer = self.get("/local").await;
            assert_eq!(answer.status, 200, "counted here: {answer:?}");
            assert_eq!(answer.remaining().0, left, "{answer:?}");
        }
        for _ in 0..2 {
            let answer = self.get("/local").await;
            assert_eq!(
                (answer.status, answer.remaining().0),
                (429, 0),
                "limited here: {answer:?}"
            );
        }
        for _ in 0..5 {
            let answer = self.get("/allow").await;
            assert_eq!(
                (answer.status, answer.header("ratelimit")),
                (200, None),
                "{answer:?}"
            );
            let seen = self.stack.upstream.last();
            let by_envoy = seen
                .headers
                .contains_key("x-envoy-auth-failure-mode-allowed");
            assert!(
                !by_envoy || seen.target != "/allow",
                "tollgate lets it through, not Envoy"
            );
        }
        for _ in 0..5 {
            let answer = self.get("/deny").await;
            assert_eq!(
                (answer.status, answer.header("retry-after")),
                (429, Some("1")),
                "{answer:?}"
            );
            assert_eq!(
                answer.header("content-type"),
                Some("application/problem+json")
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rule_follows_on_store_error_and_exact_counting_resumes() {
    let mut redis = Redis::start();
    let settings = Settings {
        rules: RULES,
        redis: Some(&redis),
        args: &[DEADLINE],
        ..Settings::default()
    };
    let stack = Stack::start(Config::shipped().fail_closed().patient(), settings).await;
    let client = |number| Client {
        stack: &stack,
        addr: Ipv4Addr::new(127, 0, 0, number),
    };
    let background = Background::start(&stack);
    let mut left_to_the_proxy = 0;

    client(10).is_counted_exactly().await;
    assert_eq!(stack.envoy.check_errors().await, left_to_the_proxy);

    // Connections stay open and nothing answers.
    redis.pause();
    client(11).meets_what_the_rules_say().await;
    for _ in 0..3 {
        let answer = client(11).get("/proxy").await;
        assert_eq!(
            (answer.status, answer.header("ratelimit")),
            (503, None),
            "Envoy fails closed: {answer:?}"
        );
        left_to_the_proxy += 1;
    }
    background.goes_on().await;
    stack.tollgate.until_status("degraded").await;
    client(12).meets_what_the_rules_say().await;
    assert_eq!(
        stack.envoy.check_errors().await,
        left_to_the_proxy,
        "all other checks were decided in time"
    );
    let late = stack
        .tollgate
        .metric("tollgate_store_errors_total{kind=\"deadline\"}")
        .await;
    assert!(late > 0, "it was the deadline that ended the first checks");
    redis.unpause();
    stack.tollgate.until_status("ok").await;
    client(13).is_counted_exactly().await;

    // Connections are refused.
    redis.kill();
    stack.tollgate.until_status("degraded").await;
    client(14).meets_what_the_rules_say().await;
    assert_eq!(client(14).get("/proxy").await.status, 503);
    left_to_the_proxy += 1;
    background.goes_on().await;
    assert_eq!(stack.envoy.check_errors().await, left_to_the_proxy);
    redis.resume_process();
    stack.tollgate.until_status("ok").await;
    client(15).is_counted_exactly().await;

    background.goes_on().await;
    background.end().await;
    assert_eq!(stack.envoy.check_errors().await, left_to_the_proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_store_error_proxy_admits_behind_an_envoy_that_fails_open() {
    let mut redis = Redis::start();
    let settings = Settings {
        rules: RULES,
        redis: Some(&redis),
        ..Settings::default()
    };
    let stack = Stack::start(Config::shipped(), settings).await;
    redis.kill();
    stack.tollgate.until_status("degraded").await;
    for _ in 0..5 {
        let client = Client {
            stack: &stack,
            addr: Ipv4Addr::LOCALHOST,
        };
        assert_eq!(client.get("/proxy").await.status, 200);
        let seen = stack.upstream.last();
        assert_eq!(
            seen.headers["x-envoy-auth-failure-mode-allowed"], "true",
            "the application is told"
        );
    }
    assert_eq!(stack.envoy.check_errors().await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tollgate_the_shipped_envoy_fails_open() {
    let mut stack = Stack::with_rules(Config::shipped().patient(), RULES).await;
    stack.tollgate.signal(rustix::process::Signal::KILL);
    stack.tollgate.ended().await;
    for _ in 0..5 {
        let client = Client {
            stack: &stack,
            addr: Ipv4Addr::LOCALHOST,
        };
        assert_eq!(client.get("/deny").await.status, 200);
    }
    stack.tollgate.start_again().await;
    let client = Client {
        stack: &stack,
        addr: Ipv4Addr::LOCALHOST,
    };
    let answers = all_at_once(client.addr, stack.envoy.addr, &head("GET", "/deny", &[]), 8).await;
    assert_eq!(
        statuses(&answers),
        BTreeMap::from([(200, 3), (429, 5)]),
        "it limits again by itself"
    );
}
