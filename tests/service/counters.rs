//! `tollgate counters`: what people on call look at and change, with every store, under traffic.

use std::{fs, process::Command, time::Duration};

use serde_json::{Value, json};

use crate::{
    callers::{Traffic, check},
    support::{
        client::{Connection, Response, ask, head},
        cluster::Cluster,
        redis::Redis,
        tollgate::{Settings, Tollgate},
    },
};

const RULES: &str = "version: 1
forwarded_headers: \"*\"
rules:
  - { name: data, match: { path: /data }, key: client_ip, limit: 5/day }
  - { name: keys, match: { path: /keys }, key: [{ header: x-api-key, secret: true }], limits: [3/day, 8/30days],
      tiers: [{ name: gold, when: { headers: { x-plan: gold } }, limit: 20/day }] }
  - { name: login, match: { path: /login }, key: client_ip, limit: { rate: 2/day, algorithm: fixed_window },
      ban: { after: 2, within: 1h, for: 2h } }
  - { name: window, match: { path: /window }, key: client_ip, limit: { rate: 4/day, algorithm: fixed_window } }
  - { name: log, match: { path: /log }, key: client_ip, limit: { rate: 4/day, algorithm: sliding_log } }
  - { name: bucket, match: { path: /bucket }, key: client_ip, limit: { rate: 4/day, burst: 4 } }
  - { name: lent, match: { path: /lent }, key: client_ip, limit: 500/day, lease: { share: 50%, ttl: 1s } }
  - { name: page, match: { path: '/page/{id}' }, key: [{ path: id }], limit: 2/day }
  - { name: health, match: { path: /healthz }, action: allow }
";

/// The statuses of so many checks.
async fn statuses(tollgate: &Tollgate, path: &str, ip: &str, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(ask(tollgate.addr(), &check(path, ip, &[])).await.status);
    }
    statuses
}

async fn start(redis: Option<&Redis>, args: &[&str]) -> Tollgate {
    Tollgate::start(Settings {
        rules: RULES,
        redis,
        args,
        ..Settings::default()
    })
    .await
}

/// A late check would be decided without the store, and admitted by another counter.
const SLOWLY: &str = "--deadline=20s";

/// Runs `tollgate counters`: its exit code, and what it printed.
fn counters(tollgate: &Tollgate, args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .arg("counters")
        .args(args)
        .arg("--admin")
        .arg(tollgate.admin.to_string())
        .env_remove("TOLLGATE_ADMIN")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// The same, which succeeds.
fn done(tollgate: &Tollgate, args: &[&str]) -> String {
    let (code, out, error) = counters(tollgate, args);
    assert_eq!(code, Some(0), "{args:?}: {out}{error}");
    out
}

/// The same, as JSON.
fn json_of(tollgate: &Tollgate, args: &[&str]) -> Value {
    let out = done(tollgate, &[args, &["--format", "json"]].concat());
    serde_json::from_str(&out).unwrap()
}

/// Other callers, who come all the time. They have other addresses and another rule's limit.
fn others(replicas: &[Tollgate]) -> Traffic {
    let addrs = replicas.iter().map(Tollgate::addr);
    Traffic::begin(addrs, Duration::ZERO, |n| {
        let paths = ["/data", "/lent", "/window"].into_iter();
        paths
            .map(|path| check(path, &format!("198.51.100.{n}"), &[]))
            .collect()
    })
}

/// What one caller meets at several replicas of one store, with each change.
async fn each_change_is_felt_by_the_next_request(replicas: &[Tollgate]) {
    let traffic = others(replicas);
    let me = ["--ip", "203.0.113.7"];
    let neighbour = "203.0.113.8";
    for (n, path) in ["/data", "/window", "/log", "/bucket"]
        .into_iter()
        .enumerate()
    {
        let rule = &path[1..];
        let limit = if rule == "data" { 5 } else { 4 };
        assert_eq!(statuses(&replicas[0], path, neighbour, 2).await, [200, 200]);
        for replica in replicas {
            statuses(replica, path, "203.0.113.7", limit).await;
            // Each replica remembers the denial.
            assert_eq!(statuses(replica, path, "203.0.113.7", 2).await, [429, 429]);
        }
        // Asked of one, felt at another.
        let asked = &replicas[n % replicas.len()];
        let felt = &replicas[(n + 1) % replicas.len()];

        let granted = json_of(asked, &[&["grant", rule, "--more", "2"], &me[..]].concat());
        assert_eq!(granted["before"]["limits"][0]["left"], 0, "{granted:#}");
        assert_eq!(granted["after"]["limits"][0]["left"], 2, "{granted:#}");
        assert_eq!(granted["unconfirmed"], 0, "{granted:#}");
        assert_eq!(
            statuses(felt, path, "203.0.113.7", 3).await,
            [200, 200, 429],
            "{rule}"
        );

        let reset = json_of(asked, &[&["reset", rule], &me[..]].concat());
        assert_eq!(reset["after"]["limits"][0]["left"], limit, "{reset:#}");
        let mut expected = vec![200; limit];
        expected.push(429);
        let felt = statuses(felt, path, "203.0.113.7", limit + 1).await;
        assert_eq!(felt, expected, "{rule}");

        // Nobody else's counter has moved.
        let seen = json_of(asked, &["get", rule, "--ip", neighbour]);
        assert_eq!(seen["limits"][0]["left"], limit - 2, "{seen:#}");
    }
    bans(replicas).await;
    traffic.end().await;
}

/// 500 more of a limit of 4 or 5 a day, for one caller, until its window ends.
async fn a_grant_is_so_many_more(replicas: &[Tollgate], redis: &impl Fn(&[&str]) -> String) {
    let traffic = others(replicas);
    let (me, neighbour) = ("203.0.113.20", "203.0.113.21");
    for (n, (rule, limit)) in [("data", 5), ("window", 4), ("log", 4), ("bucket", 4)]
        .into_iter()
        .enumerate()
    {
        let path = &format!("/{rule}");
        assert_eq!(statuses(&replicas[0], path, neighbour, 2).await, [200, 200]);
        for replica in replicas {
            statuses(replica, path, me, limit).await;
            assert_eq!(statuses(replica, path, me, 1).await, [429]);
        }
        let asked = &replicas[n % replicas.len()];
        let grant = ["grant", rule, "--more", "500", "--ip", me];
        let granted = json_of(asked, &grant);
        assert_eq!(granted["before"]["limits"][0]["left"], 0, "{granted:#}");
        assert_eq!(granted["after"]["limits"][0]["left"], 500, "{granted:#}");

        // What clients see is more than the limit, and a number still.
        let answer = ask(replicas[0].addr(), &check(path, me, &[])).await;
        assert_eq!(answer.status, 200, "{rule}");
        let said = answer.header("ratelimit").unwrap();
        assert!(said.contains(";r=499;t="), "{rule}: {said}");
        let legacy = answer.header("x-ratelimit-remaining");
        assert!(legacy.is_none_or(|left| left == "499"), "{rule}");
        let listed = done(asked, &["list", rule, "--key", &format!("client_ip={me}")]);
        let holds = format!("0 of {limit}  and {} granted", 499 - limit);
        assert!(listed.contains(&holds), "{rule}: {listed}");
        assert_eq!(
            done(
                asked,
                &["list", rule, "--over", "--key", &format!("client_ip={me}")]
            ),
            ""
        );

        // At all replicas at once, exactly as many.
        let mut tasks = Vec::new();
        for replica in replicas {
            let (addr, request) = (replica.addr(), check(path, me, &[]));
            tasks.push(tokio::spawn(async move {
                let mut connection = Connection::open(addr).await.unwrap();
                let mut admitted = 0;
                for _ in 0..520 {
                    let answer = connection.ask(&request).await.unwrap();
                    admitted += usize::from(answer.status == 200);
                }
                admitted
            }));
        }
        let mut admitted = 0;
        for task in tasks {
            admitted += task.await.unwrap();
        }
        assert_eq!(admitted, 499, "{rule}");

        // Nobody else's counter has moved.
        let seen = json_of(asked, &["get", rule, "--ip", neighbour]);
        assert_eq!(seen["limits"][0]["left"], limit - 2, "{seen:#}");

        // What is not used ends with the window: one that began a day ago has ended.
        json_of(asked, &grant);
        statuses(asked, path, me, 10).await;
        let counter = json_of(asked, &["get", rule, "--ip", me]);
        let limit_of = &counter["limits"][0];
        assert_eq!(limit_of["left"], 490, "{counter:#}");
        let (key, text) = (&limit_of["stored_as"], &limit_of["stored"]);
        let earlier = a_day_earlier(text.as_str().unwrap());
        redis(&["SET", key.as_str().unwrap(), &earlier, "KEEPTTL"]);
        let counter = json_of(asked, &["get", rule, "--ip", me]);
        assert_eq!(counter["limits"][0]["left"], limit, "{counter:#}");
        let mut expected = vec![200; limit];
        expected.push(429);
        assert_eq!(
            statuses(asked, path, me, limit + 1).await,
            expected,
            "{rule}"
        );
    }
    traffic.end().await;
}

/// What is stored, with all its times a day earlier.
fn a_day_earlier(text: &str) -> String {
    let words = text.split(' ').map(|word| match word.parse::<i64>() {
        Ok(time) if time > 1_000_000_000_000_000 => (time - 86_400_000_000).to_string(),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

async fn bans(replicas: &[Tollgate]) {
    let me = ["--ip", "203.0.113.7"];
    let (asked, felt) = (&replicas[0], replicas.last().unwrap());
    assert_eq!(statuses(felt, "/login", "203.0.113.7", 1).await, [200]);
    let banned = json_of(asked, &[&["ban", "login", "--for", "1h"], &me[..]].concat());
    assert_eq!(banned["before"]["ban"]["fits"], true, "{banned:#}");
    let wait = banned["after"]["ban"]["wait_us"].as_u64().unwrap();
    assert!((3_500_000_000..=3_600_000_000).contains(&wait), "{wait}");
    let answer = ask(felt.addr(), &check("/login", "203.0.113.7", &[])).await;
    assert_eq!(answer.status, 429);
    assert!(
        answer.body.contains("abnormal-usage-detected"),
        "{}",
        answer.body
    );
    json_of(asked, &[&["unban", "login"], &me[..]].concat());
    // One was used before.
    assert_eq!(statuses(felt, "/login", "203.0.113.7", 2).await, [200, 429]);
    json_of(asked, &[&["ban", "login"], &me[..]].concat());
    assert_eq!(statuses(felt, "/login", "203.0.113.7", 1).await, [429]);
    // A reset ends a ban too.
    json_of(asked, &[&["reset", "login"], &me[..]].concat());
    assert_eq!(
        statuses(felt, "/login", "203.0.113.7", 3).await,
        [200, 200, 429]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_in_memory() {
    let alone = start(None, &[]).await;
    each_change_is_felt_by_the_next_request(std::slice::from_ref(&alone)).await;
    // Who has used nothing may have more too.
    let grant = ["grant", "window", "--more", "500", "--ip", "203.0.113.30"];
    let granted = json_of(&alone, &grant);
    assert_eq!(granted["after"]["limits"][0]["left"], 504, "{granted:#}");
    let statuses = statuses(&alone, "/window", "203.0.113.30", 505).await;
    assert_eq!(
        statuses.iter().filter(|status| **status == 200).count(),
        504
    );
    assert_eq!(statuses.last(), Some(&429));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_in_redis_with_three_replicas() {
    let redis = Redis::start();
    let replicas = [
        start(Some(&redis), &[SLOWLY]).await,
        start(Some(&redis), &[SLOWLY]).await,
        start(Some(&redis), &[SLOWLY]).await,
    ];
    each_change_is_felt_by_the_next_request(&replicas).await;
    a_grant_is_so_many_more(&replicas, &|args: &[&str]| redis.cli(args)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_in_a_cluster_with_three_replicas() {
    let cluster = Cluster::start(3, 0).await;
    let url = format!("--redis-url={}", cluster.url());
    let replicas = [
        start(None, &[&url, SLOWLY]).await,
        start(None, &[&url, SLOWLY]).await,
        start(None, &[&url, SLOWLY]).await,
    ];
    each_change_is_felt_by_the_next_request(&replicas).await;
    a_grant_is_so_many_more(&replicas, &|args: &[&str]| {
        cluster.nodes[cluster.owner(args[1])].cli(args)
    })
    .await;
    let listed = done(&replicas[0], &["list"]);
    for rule in ["data", "window", "log", "bucket", "lent"] {
        assert!(
            listed.lines().any(|line| line.starts_with(rule)),
            "{rule}: {listed}"
        );
    }
}

/// Straight in Redis, and felt by replicas that run.
#[tokio::test(flavor = "multi_thread")]
async fn changes_without_asking_a_tollgate() {
    let redis = Redis::start();
    let replica = start(Some(&redis), &[]).await;
    statuses(&replica, "/data", "203.0.113.7", 7).await;
    let rules = replica.rules();
    let direct = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .env_clear()
            // As in the image.
            .env("TOLLGATE_ADMIN", "0.0.0.0:1")
            .arg("counters")
            .args(args)
            .args(["--direct", "--redis-url", &redis.url(), "--rules"])
            .arg(&rules)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let printed = (text(output.stdout), text(output.stderr));
        (output.status.code(), printed.0, printed.1)
    };
    let (code, out, error) = direct(&["list", "--over"]);
    assert_eq!(code, Some(0), "{error}");
    assert_eq!(
        out,
        "data  client_ip=203.0.113.7  data (5/day)  5 of 5  over\n"
    );
    let (code, out, error) = direct(&["reset", "data", "--ip", "203.0.113.7"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(out.ends_with("data (5/day): 5 left\n"), "{out}");
    assert!(error.contains("counters changed by=\"local\""), "{error}");
    let felt = statuses(&replica, "/data", "203.0.113.7", 6).await;
    assert_eq!(felt, [200, 200, 200, 200, 200, 429]);
    let (code, _, error) = direct(&["get", "date", "--ip", "203.0.113.7"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("did you mean data?"), "{error}");
    let gone = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .env_clear()
        .args([
            "counters",
            "list",
            "--direct",
            "--redis-url",
            "redis://127.0.0.1:1",
            "--rules",
        ])
        .arg(&rules)
        .output()
        .unwrap();
    let error = String::from_utf8(gone.stderr).unwrap();
    assert_eq!(gone.status.code(), Some(1));
    assert!(error.contains("Redis cannot be reached: "), "{error}");
}

/// What was charged ahead for a caller is not left to it after a reset.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_ends_leases_on_all_replicas() {
    let redis = Redis::start();
    let replicas = [
        start(Some(&redis), &[]).await,
        start(Some(&redis), &[]).await,
    ];
    for replica in &replicas {
        let mut connection = Connection::open(replica.addr()).await.unwrap();
        for _ in 0..60 {
            connection
                .ask(&check("/lent", "203.0.113.7", &[]))
                .await
                .unwrap();
        }
    }
    json_of(&replicas[0], &["reset", "lent", "--ip", "203.0.113.7"]);
    let mut admitted = 0;
    for n in 0..1_100 {
        let replica = &replicas[n % 2];
        admitted += statuses(replica, "/lent", "203.0.113.7", 1).await[0] / 200 % 2;
    }
    // The bound of leases over two sliding windows; without the reset, at most 380 were left.
    assert!((500..=750).contains(&admitted), "{admitted}");
}

/// What is granted can be charged ahead like the rest, and is admitted once.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_exact_with_leases() {
    let redis = Redis::start();
    let replicas = [
        start(Some(&redis), &[SLOWLY]).await,
        start(Some(&redis), &[SLOWLY]).await,
    ];
    let request = check("/lent", "203.0.113.7", &[]);
    let mut connections = Vec::new();
    for replica in &replicas {
        connections.push(Connection::open(replica.addr()).await.unwrap());
    }
    // How many are admitted, until nobody has anything left or charged ahead.
    let mut use_up = async || {
        let (mut admitted, mut denied_in_a_row) = (0_u64, 0);
        while denied_in_a_row < 10 {
            for connection in &mut connections {
                let status = connection.ask(&request).await.unwrap().status;
                admitted += u64::from(status == 200);
                denied_in_a_row = if status == 200 {
                    0
                } else {
                    denied_in_a_row + 1
                };
            }
        }
        admitted
    };
    assert_eq!(use_up().await, 500);
    let grant = ["grant", "lent", "--more", "1500", "--ip", "203.0.113.7"];
    for _ in 0..2 {
        let granted = json_of(&replicas[0], &grant);
        assert_eq!(granted["after"]["limits"][0]["left"], 1_500, "{granted:#}");
        assert_eq!(use_up().await, 1_500);
    }
    assert!(replicas[0].metric("tollgate_lease_admissions_total").await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_are_named_as_people_write_them() {
    let redis = Redis::start();
    let tollgate = start(Some(&redis), &[]).await;
    let key = "x-api-key: secret-of-ana";
    for _ in 0..3 {
        ask(tollgate.addr(), &check("/keys", "203.0.113.7", &[key])).await;
    }
    let by_header = json_of(&tollgate, &["get", "keys", "-H", key]);
    assert_eq!(by_header["limits"][0]["left"], 0, "{by_header:#}");
    assert_eq!(by_header["limits"][1]["left"], 5, "{by_header:#}");
    let shown = by_header["key"].as_str().unwrap();
    assert!(!by_header.to_string().contains("secret-of-ana"));
    assert!(shown.starts_with("header.x-api-key=#"), "{shown}");
    let by_key = json_of(&tollgate, &["get", "keys", "--key", shown]);
    for member in ["key", "source"] {
        assert_eq!(by_key[member], by_header[member]);
    }
    for limit in 0..2 {
        let stored = |caller: &Value| caller["limits"][limit]["stored"].clone();
        assert_eq!(stored(&by_key), stored(&by_header));
    }
    // Who pays has another limit over the same counter.
    let gold = json_of(&tollgate, &["get", "keys", "-H", key, "-H", "x-plan: gold"]);
    assert_eq!(gold["limits"][0]["left"], 17, "{gold:#}");
    assert_eq!(gold["source"], "tier gold", "{gold:#}");
    // A path is only needed for a key that has a part of it.
    ask(tollgate.addr(), &check("/page/7", "203.0.113.7", &[])).await;
    let page = json_of(&tollgate, &["get", "page", "--path", "/page/7"]);
    assert_eq!(page["limits"][0]["left"], 1, "{page:#}");

    for (args, part) in [
        (
            &["get", "dat", "--ip", "203.0.113.7"][..],
            "did you mean data?",
        ),
        (&["get", "health"], "counts nothing"),
        (&["get", "data"], "not all of it is given"),
        (&["get", "data", "--ip", "here"], "is not an address"),
        (
            &["get", "page", "--path", "/data"],
            "does not match the rule",
        ),
        (
            &["get", "data", "--key", "user=ana"],
            "callers look like \"client_ip=…\"",
        ),
        (
            &["reset", "data", "--key", "client_ip=}{x"],
            "is no caller of this rule",
        ),
        (
            &["ban", "data", "--ip", "203.0.113.7"],
            "the rule has no ban",
        ),
        (
            &["ban", "login", "--for", "3h", "--ip", "203.0.113.7"],
            "last 2h at most",
        ),
        (
            &["ban", "login", "--for", "soon", "--ip", "203.0.113.7"],
            "\"soon\"",
        ),
    ] {
        let (code, out, error) = counters(&tollgate, args);
        assert_eq!(code, Some(1), "{args:?}: {out}{error}");
        assert!(error.contains(part), "{args:?}: {error}");
    }
    for more in ["0", "1000000001"] {
        let (code, _, error) =
            counters(&tollgate, &["grant", "data", "--more", more, "--ip", "::1"]);
        assert_eq!(code, Some(64), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_finds_who_is_near_and_who_is_over() {
    let redis = Redis::start();
    let tollgate = start(Some(&redis), &[]).await;
    for (last, count) in [(1, 1), (2, 4), (3, 6), (4, 2)] {
        statuses(&tollgate, "/data", &format!("192.0.2.{last}"), count).await;
    }
    statuses(&tollgate, "/login", "192.0.2.9", 5).await;
    // What tollgate did not write, and more than a page.
    let foreign = "tollgate:{data:client_ip=10.0.0.1}:sliding_window:86400s";
    redis.cli(&["SET", foreign, "x"]);
    redis.cli(&[
        "SADD",
        "tollgate:{data:client_ip=10.0.0.2}:sliding_window:86400s",
        "x",
    ]);
    redis.cli(&["SET", "other:{data:client_ip=10.0.0.3}", "1 1"]);
    let script = "for n = 1, 2500 do redis.call('SET', 'tollgate:{window:client_ip=10.1.' .. math.floor(n / 250) .. '.' .. n % 250 .. '}:fixed_window:86400s', '1 ' .. ARGV[1]) end";
    let now = redis.cli(&["TIME"]).lines().next().unwrap().to_owned() + "000000";
    redis.cli(&["EVAL", script, "0", &now]);

    let keys = |args: &[&str]| -> Vec<String> {
        let out = done(&tollgate, &[args, &["--format", "json"]].concat());
        let lines = out
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut keys: Vec<_> = lines
            .map(|line| {
                format!("{} {} {}", line["limit"], line["key"], line["used"]).replace('"', "")
            })
            .collect();
        keys.sort_unstable();
        keys
    };
    assert_eq!(
        keys(&["list", "data"]),
        [
            "data client_ip=192.0.2.1 1",
            "data client_ip=192.0.2.2 4",
            "data client_ip=192.0.2.3 5",
            "data client_ip=192.0.2.4 2"
        ]
    );
    assert_eq!(
        keys(&["list", "data", "--near", "80%"]),
        ["data client_ip=192.0.2.2 4", "data client_ip=192.0.2.3 5"]
    );
    assert_eq!(
        keys(&["list", "--over"]),
        [
            "data client_ip=192.0.2.3 5",
            "login client_ip=192.0.2.9 2",
            "login/ban client_ip=192.0.2.9 2"
        ]
    );
    assert_eq!(
        keys(&["list", "data", "--top", "2"]),
        ["data client_ip=192.0.2.2 4", "data client_ip=192.0.2.3 5"]
    );
    assert_eq!(
        keys(&["list", "data", "--key", "client_ip=192.0.2.4"]).len(),
        1
    );
    assert_eq!(keys(&["list", "window"]).len(), 2_500);
    let text = done(&tollgate, &["list", "data", "--over"]);
    assert_eq!(
        text,
        "data  client_ip=192.0.2.3  data (5/day)  5 of 5  over\n"
    );
    // Never a command that holds Redis up.
    assert!(
        !redis
            .cli(&["INFO", "commandstats"])
            .contains("cmdstat_keys:")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_need_a_token_and_leave_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    fs::write(&tokens, "ana 0123456789abcdef\n").unwrap();
    let with = format!("--admin-tokens={}", tokens.display());
    let tollgate = start(None, &[&with]).await;
    statuses(&tollgate, "/data", "203.0.113.7", 6).await;
    let (code, _, error) = counters(&tollgate, &["reset", "data", "--ip", "203.0.113.7"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("this needs a token"), "{error}");
    assert_eq!(counters(&tollgate, &["list"]).0, Some(1));
    // Who knows the caller may look.
    done(&tollgate, &["get", "data", "--ip", "203.0.113.7"]);

    let token = dir.path().join("token");
    fs::write(&token, "0123456789abcdef\n").unwrap();
    let token = token.to_str().unwrap();
    let reset = [
        "reset",
        "data",
        "--ip",
        "203.0.113.7",
        "--token-file",
        token,
    ];
    let out = done(&tollgate, &reset);
    assert_eq!(
        out,
        "before:\n  data client_ip=203.0.113.7\n    data (5/day): 0 left, again in 86400 s\n\
         after, on all replicas:\n  data client_ip=203.0.113.7\n    data (5/day): 5 left\n"
    );
    tollgate.until_logged("counters changed").await;
    let log = tollgate.log();
    let line = log
        .lines()
        .find(|line| line.contains("counters changed"))
        .unwrap();
    for part in [
        "by=\"ana\"",
        "action=\"reset\"",
        "client_ip=203.0.113.7",
        "0 left",
        "5 left",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    // Another token from now on.
    fs::write(&tokens, "bo fedcba9876543210\n").unwrap();
    assert_eq!(counters(&tollgate, &reset).0, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_others_reach_changes_nothing_without_tokens() {
    let tollgate = start(None, &[]).await;
    let body = json!({ "rule": "data", "key": "client_ip=203.0.113.7" }).to_string();
    let reset = async |lines: &[&str]| -> Response {
        let length = format!("content-length: {}", body.len());
        let mut request = head("POST", "/counters/reset", &[&[&*length], lines].concat());
        request.extend_from_slice(body.as_bytes());
        ask(tollgate.admin, &request).await
    };
    // What a page in the browser of the person on call can send.
    let answer = reset(&["content-type: text/plain"]).await;
    assert_eq!(answer.status, 415, "{answer:?}");
    let answer = ask(
        tollgate.admin,
        b"POST /counters/reset HTTP/1.1\r\nhost: evil.example\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    )
    .await;
    assert_eq!(answer.status, 403, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_reported() {
    let mut redis = Redis::start();
    let tollgate = start(Some(&redis), &[]).await;
    redis.kill();
    for args in [
        &["get", "data", "--ip", "203.0.113.7"][..],
        &["reset", "data", "--ip", "203.0.113.7"],
        &["list"],
    ] {
        let (code, out, error) = counters(&tollgate, args);
        assert_eq!(code, Some(1), "{out}");
        assert!(error.contains("the store did not do it"), "{error}");
    }
    let memory = start(None, &[]).await;
    let (code, _, error) = counters(&memory, &["list"]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains("counters in memory cannot be listed"),
        "{error}"
    );
}

/// The examples of docs/counters.md, in order, with what they print.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_examples_print_what_is_documented() {
    let redis = Redis::start();
    let tollgate = Tollgate::start(Settings {
        rules: &fs::read_to_string("config/rules.yaml").unwrap(),
        redis: Some(&redis),
        ..Settings::default()
    })
    .await;
    for (last, count) in [(7, 5), (8, 4), (9, 6)] {
        statuses(&tollgate, "/data", &format!("203.0.113.{last}"), count).await;
    }
    let text = fs::read_to_string("docs/counters.md").unwrap();
    let (_, rest) = text.split_once("```console\n").unwrap();
    let (session, rest) = rest.split_once("```\n").unwrap();
    // How long it takes until more is left depends on when it is asked.
    let seconds = regex::Regex::new(r"again in \d+ s").unwrap();
    let without_time = |text: &str| {
        seconds
            .replace_all(text.trim_end(), "again in … s")
            .into_owned()
    };
    let mut examples = 0;
    for example in session.split("$ tollgate counters ").skip(1) {
        let (command, expected) = example.split_once('\n').unwrap();
        let args: Vec<&str> = command.split(' ').collect();
        let (_, out, error) = counters(&tollgate, &args);
        let printed = out + &error;
        let mut lines: Vec<&str> = printed.lines().collect();
        if args[0] == "list" {
            lines.sort_unstable();
        }
        assert_eq!(
            without_time(&lines.join("\n")),
            without_time(expected),
            "{command}"
        );
        examples += 1;
    }
    assert_eq!(examples, 6);
    let mut questions = 0;
    for question in rest.split("curl -s localhost:8082").skip(1) {
        let (path, rest) = question.split_once(' ').unwrap();
        let body = rest.split('\'').nth(3).unwrap();
        let length = body.len();
        // As curl says it.
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost:8082\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let request = request.into_bytes();
        let answer = ask(tollgate.admin, &request).await;
        assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
        questions += 1;
    }
    assert_eq!(questions, 3);
}
