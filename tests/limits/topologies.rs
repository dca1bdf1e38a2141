//! The ways to a Redis: over TLS, with a login from files, and behind Sentinels.

use std::{fs, sync::Arc, time::Duration};

use clap::Parser as _;
use tokio::time::Instant;
use tollgate::{
    cli::Cli,
    limit::{Algorithm, Limit},
    store::{
        Batch, ENFORCED, Store as _, StoreError,
        read::Read as _,
        redis::{Options, Reader, RedisStore, TlsFiles},
    },
};

use crate::support::{
    certs::Authority,
    eventually,
    redis::Redis,
    sentinel::{NAME, Sentinels},
};

const PATIENCE: Duration = Duration::from_secs(10);

fn batch(amount: u64) -> Batch {
    let limit = Limit::new(Algorithm::FixedWindow, amount, 3_600_000_000, None).unwrap();
    let mut batch = Batch::default();
    batch.push(limit, 1, ENFORCED, |key| {
        key.push_str("tollgate:{a:}:fixed_window:3600s");
    });
    batch
}

fn start(options: &Options) -> RedisStore {
    RedisStore::start(options, Box::new(|_| {})).unwrap()
}

/// What is left after one more request.
async fn left(store: &RedisStore, batch: &Batch) -> Result<u64, StoreError> {
    let verdict = store.charge(batch, Instant::now() + PATIENCE).await?;
    Ok(verdict.outcomes[0].remaining)
}

async fn until_it_charges(store: &RedisStore, batch: &Batch) {
    eventually("the store charges", async || {
        left(store, batch).await.is_ok()
    })
    .await;
}

/// Why there is no connection.
async fn reason(options: &Options, part: &str) {
    let store = start(options);
    eventually(part, async || {
        let error = left(&store, &batch(5)).await.unwrap_err().to_string();
        error.contains(part)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_over_tls_that_asks_for_a_certificate() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (server, ours) = (authority.issue("server"), authority.issue("ours"));
    let mut redis = Redis::start_tls(&authority, &server, &authority.issue("cli"));
    let mut options = Options::parse(&redis.url()).unwrap();
    options.tls = TlsFiles {
        ca: Some(authority.cert()),
        cert: Some(ours.cert.clone()),
        key: Some(ours.key.clone()),
    };
    let store = start(&options);
    assert!(store.connected_within(PATIENCE).await);
    let batch = batch(5);
    assert_eq!(left(&store, &batch).await, Ok(4));
    let reader = Reader::new(&options).unwrap();
    assert!(reader.read(&batch).await.unwrap().states[0].is_some());

    // Neither the system's authorities nor another one have signed it.
    let mut other = options.clone();
    other.tls.ca = Some(stranger.cert());
    reason(&other, "certificate").await;
    let mut nobody = options.clone();
    nobody.tls.ca = None;
    reason(&nobody, "certificate").await;

    // A certificate of somebody else is refused, and the right one is taken up without a restart.
    let theirs = stranger.issue("ours");
    fs::copy(&theirs.cert, &ours.cert).unwrap();
    fs::copy(&theirs.key, &ours.key).unwrap();
    redis.kill();
    eventually("the connection is lost", async || {
        left(&store, &batch).await.is_err()
    })
    .await;
    let renewed = authority.issue("renewed");
    redis.present(&renewed);
    redis.resume_process();
    let error = left(&store, &batch).await.unwrap_err();
    assert_eq!(error.kind().as_str(), "unavailable", "{error}");
    fs::copy(&renewed.cert, &ours.cert).unwrap();
    fs::copy(&renewed.key, &ours.key).unwrap();
    until_it_charges(&store, &batch).await;
}

#[test]
fn files_that_cannot_be_read_are_reported_at_the_start() {
    let mut options = Options::parse("rediss://127.0.0.1:1").unwrap();
    options.tls.ca = Some("/nowhere/ca.pem".into());
    let error = RedisStore::start(&options, Box::new(|_| {})).err().unwrap();
    assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_changed_needs_no_restart() {
    let mut redis = Redis::start_with(&["--requirepass", "old"], Some("old"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "old\n").unwrap();
    let mut options = Options::parse(&redis.url()).unwrap();
    options.password_file = Some(file.clone());
    let store = start(&options);
    assert!(store.connected_within(PATIENCE).await);
    let batch = batch(1_000_000);
    left(&store, &batch).await.unwrap();

    redis.cli(&["CONFIG", "SET", "requirepass", "new"]);
    redis.log_in(Some("new"));
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    eventually("the old password is refused", async || {
        let answer = left(&store, &batch).await;
        answer.is_err_and(|error| error.to_string().contains("password"))
    })
    .await;
    fs::write(&file, "new\n").unwrap();
    until_it_charges(&store, &batch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acl_user_with_only_the_rights_that_the_document_names() {
    let redis = Redis::start();
    let document = include_str!("../../docs/redis.md");
    let rights = "+evalsha +script|load +time +get +set +ping";
    assert!(
        document.contains(rights),
        "docs/redis.md names other rights"
    );
    let mut rule = vec!["ACL", "SETUSER", "tollgate", "on", ">secret", "~tollgate:*"];
    rule.extend(rights.split(' '));
    redis.cli(&rule);
    let url = redis.url().replace("redis://", "redis://tollgate:secret@");
    let options = Options::parse(&url).unwrap();
    let store = start(&options);
    assert!(store.connected_within(PATIENCE).await);
    let batch = batch(5);
    assert_eq!(left(&store, &batch).await, Ok(4));
    let reader = Reader::new(&options).unwrap();
    assert!(reader.read(&batch).await.unwrap().states[0].is_some());
}

/// The URL of the primary that these Sentinels know.
fn behind(sentinels: &Sentinels, login: &str) -> Options {
    let url = format!("redis+sentinel://{login}{}/{NAME}", sentinels.hosts());
    let mut options = Options::parse(&url).unwrap();
    options.lanes = 2;
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_followed() {
    let mut all = Sentinels::start(None).await;
    let options = behind(&all, "");
    let store = Arc::new(start(&options));
    let reader = Reader::new(&options).unwrap();
    assert!(store.connected_within(PATIENCE).await);
    let batch = batch(1_000_000);
    left(&store, &batch).await.unwrap();
    reader.read(&batch).await.unwrap();

    // The primary dies, and one Sentinel with it.
    let old = all.primary();
    all.servers[old].kill();
    all.sentinels[2].kill();
    let new = all.until_another_than(old).await;
    until_it_charges(&store, &batch).await;
    eventually("counters are read", async || {
        reader.read(&batch).await.is_ok()
    })
    .await;
    eventually("the new primary is it, and counts", async || {
        all.servers[new].role().as_deref() == Some("master") && left(&store, &batch).await.is_ok()
    })
    .await;
    let counted = all.servers[new].cli(&["GET", "tollgate:{a:}:fixed_window:3600s"]);
    assert!(!counted.is_empty(), "the new primary counts");
}

/// The old primary stays up, as a replica: it answers, and must not be asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_demoted_primary_is_left() {
    let all = Sentinels::start(Some(("server", "sentinel"))).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let file = folder.path().join(name);
        fs::write(&file, name).unwrap();
        file
    };
    let mut options = behind(&all, "");
    options.password_file = Some(file("server"));
    options.sentinel.password_file = Some(file("sentinel"));
    let store = start(&options);
    assert!(store.connected_within(PATIENCE).await);
    let batch = batch(1_000_000);
    left(&store, &batch).await.unwrap();

    let old = all.primary();
    assert_eq!(all.sentinels[0].cli(&["SENTINEL", "FAILOVER", NAME]), "OK");
    let new = all.until_another_than(old).await;
    until_it_charges(&store, &batch).await;
    eventually("the new one is the primary", async || {
        all.servers[new].role().as_deref() == Some("master")
    })
    .await;
}

/// Behind one address, too: a name may move to the new primary, or a replica be promoted.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_asked_again_until_it_is_the_primary() {
    let primary = Redis::start();
    let replica = Redis::start_with(
        &["--replicaof", &format!("127.0.0.1 {}", primary.port())],
        None,
    );
    let store = start(&Options::parse(&replica.url()).unwrap());
    let batch = batch(1_000_000);
    eventually("the replica refuses", async || {
        let answer = left(&store, &batch).await;
        answer.is_err_and(|error| error.to_string().contains("this is a replica"))
    })
    .await;
    replica.cli(&["REPLICAOF", "NO", "ONE"]);
    until_it_charges(&store, &batch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_sentinels_is_said() {
    let all = Sentinels::start(Some(("server", "sentinel"))).await;
    reason(&behind(&all, ":server@"), "Sentinel").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "sentinel").unwrap();
    let url = format!("redis+sentinel://:server@{}/other", all.hosts());
    let mut options = Options::parse(&url).unwrap();
    options.sentinel.password_file = Some(file);
    reason(&options, "knows no primary called \"other\"").await;
}

#[test]
fn every_example_in_the_document_is_a_way_to_redis() {
    let document = include_str!("../../docs/redis.md");
    let lines = document
        .lines()
        .filter(|line| line.starts_with("tollgate serve "));
    let mut count = 0;
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{line}: {error}"));
        let url = words
            .iter()
            .position(|word| *word == "--redis-url")
            .unwrap()
            + 1;
        Options::parse(words[url]).unwrap_or_else(|problem| panic!("{line}: {problem}"));
        count += 1;
    }
    assert!(count >= 7, "{count}");
}
