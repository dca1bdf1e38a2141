//! The ways to a Redis: over TLS, with a login from files, and behind Sentinels.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::Instant;
use tollgate::{
    limit::{Algorithm, Limit},
    store::{
        Batch, ENFORCED, Store as _, StoreError,
        read::Read as _,
        redis::{Options, Reader, RedisStore, TlsFiles},
    },
};

use crate::support::{
    certs::{Authority, Identity},
    client::{ask, head},
    cluster::Cluster,
    eventually,
    redis::{Access, Redis, Tls},
    sentinel::{NAME, Sentinels},
    tollgate::{Settings, Tollgate},
};

/// What the document says that the Redis user needs.
const RIGHTS: &str = "+evalsha +script|load +time +get +set +ping";

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
    let verdict = store.charge(batch, Instant::now() + PATIENCE).await?.result;
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
    let ours = authority.issue("ours");
    let mut redis = Redis::start_tls(Tls::by(&authority));
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

#[tokio::test]
async fn files_that_cannot_be_read_are_reported_at_the_start() {
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
    assert!(
        document.contains(RIGHTS),
        "docs/redis.md names other rights"
    );
    let mut rule = vec!["ACL", "SETUSER", "tollgate", "on", ">secret", "~tollgate:*"];
    rule.extend(RIGHTS.split(' '));
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

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_needs_few_more_rights() {
    let more = "+cluster|info +cluster|slots +asking";
    let document = include_str!("../../docs/redis.md");
    assert!(document.contains(more), "docs/redis.md names other rights");
    let cluster = Cluster::start(1, 0).await;
    let node = &cluster.nodes[0];
    let mut rule = vec!["ACL", "SETUSER", "tollgate", "on", ">secret", "~tollgate:*"];
    rule.extend(RIGHTS.split(' '));
    rule.extend(more.split(' '));
    node.cli(&rule);
    let url = cluster.url().replace("://", "://tollgate:secret@");
    let options = Options::parse(&url).unwrap();
    let store = start(&options);
    assert!(store.connected_within(PATIENCE).await);
    // Of two rules, one denies, whichever is asked first: the other one is given back.
    for narrow in ["b", "c"] {
        let mut batch = batch(5);
        let limit = Limit::new(Algorithm::FixedWindow, 1, 3_600_000_000, None).unwrap();
        batch.push(limit, 1, ENFORCED, |key| {
            write!(key, "tollgate:{{{narrow}:}}:fixed_window:3600s").unwrap();
        });
        left(&store, &batch).await.unwrap();
        left(&store, &batch).await.unwrap();
    }
    let counted = node.cli(&["GET", "tollgate:{a:}:fixed_window:3600s"]);
    assert!(counted.starts_with("2 "), "{counted}");
    let reader = Reader::new(&options).unwrap();
    assert!(reader.read(&batch(5)).await.unwrap().states[0].is_some());
    let denied = node.cli(&["ACL", "LOG"]);
    assert_eq!(denied, "");
}

/// Certificates are for names, and nodes have to announce theirs.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_certificates_for_host_names() {
    let authority = Authority::new();
    let tls = Tls {
        server: authority.issue_for("localhost", "named"),
        asks: false,
        ..Tls::by(&authority)
    };
    let access = Access {
        password: None,
        tls: Some(tls),
    };
    let document = include_str!("../../docs/redis.md");
    let announce = [
        "cluster-announce-hostname",
        "cluster-preferred-endpoint-type",
    ];
    for setting in announce {
        assert!(document.contains(setting), "docs/redis.md: {setting}");
    }
    let [hostname, endpoint] = announce.map(|setting| format!("--{setting}"));
    let args = [&*hostname, "localhost", &*endpoint, "hostname"];
    let cluster = Cluster::start_as(&access, 1, 0, &args).await;
    let by_address = cluster.url();
    let mut options = Options::parse(&by_address.replace("127.0.0.1", "localhost")).unwrap();
    options.tls.ca = Some(authority.cert());
    let store = start(&options);
    until_it_charges(&store, &batch(1_000)).await;
    let mut other = Options::parse(&by_address).unwrap();
    other.tls = options.tls;
    reason(&other, "certificate").await;
}

/// Nodes behind a mapping of ports announce what leads nowhere: that is said, and nobody waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_announces_unreachable_addresses() {
    let cluster = Cluster::start(1, 0).await;
    let node = &cluster.nodes[0];
    // Of a range that is for documents: nothing is there, and nothing says so.
    node.cli(&["CONFIG", "SET", "cluster-announce-ip", "192.0.2.1"]);
    eventually("it announces it", async || {
        node.cli(&["CLUSTER", "SLOTS"]).contains("192.0.2.1")
    })
    .await;
    let store = start(&Options::parse(&cluster.url()).unwrap());
    assert!(!store.connected_within(Duration::from_secs(1)).await);
    eventually("it is named", async || {
        let answer = left(&store, &batch(5)).await;
        answer.is_err_and(|error| error.to_string().starts_with("not connected"))
    })
    .await;
    let asked = Instant::now();
    for _ in 0..100 {
        assert!(left(&store, &batch(5)).await.is_err());
    }
    assert!(asked.elapsed() < Duration::from_secs(5), "answered at once");
    let clients = node.cli(&["CLIENT", "LIST", "TYPE", "normal"]);
    assert!(clients.lines().count() <= 2, "{clients}");
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

/// The words of the line in the document that has this URL, with other words in place of some.
/// Each of `changes` must be there, so that what is started is what the document says.
fn documented(url: &str, changes: &[(&str, &str)]) -> Vec<String> {
    let document = include_str!("../../docs/redis.md");
    let words = |line: &str| -> Vec<String> {
        let words = line.split(' ').skip(2);
        words.map(str::to_owned).collect()
    };
    let lines: Vec<Vec<String>> = document
        .lines()
        .filter(|line| line.starts_with("tollgate serve "))
        .map(words)
        .filter(|words| words.iter().any(|word| word == url))
        .filter(|words| changes.iter().all(|(old, _)| words.join(" ").contains(old)))
        .collect();
    // Of two lines with one URL, the shorter one is meant if no change tells them apart.
    let mut words = lines
        .into_iter()
        .min_by_key(Vec::len)
        .unwrap_or_else(|| panic!("docs/redis.md shows no {url} with {changes:?}"));
    for word in &mut words {
        for (old, new) in changes {
            *word = word.replace(old, new);
        }
    }
    words
}

/// Starts tollgate as the document says, and has it count one request; `keys` returns what is
/// stored in Redis.
async fn counts(
    url: &str,
    changes: &[(&str, &str)],
    authorities: Option<&Path>,
    keys: impl Fn() -> String,
) {
    let words = documented(url, changes);
    let args: Vec<&str> = words.iter().map(String::as_str).collect();
    let tollgate = Tollgate::start(Settings {
        rules: "version: 1\nrules:\n  - { name: data, limit: 5/day, on_store_error: deny }\n",
        args: &[&args[..], &["--deadline=2s"]].concat(),
        authorities,
        ..Settings::default()
    })
    .await;
    let lines = [
        "x-forwarded-method: GET",
        "x-forwarded-uri: /",
        "x-real-ip: 192.0.2.1",
    ];
    let answer = ask(tollgate.addr(), &head("GET", "/v1/check", &lines)).await;
    assert_eq!(answer.status, 200, "{words:?}");
    let keys = keys();
    assert!(keys.contains("tollgate:{data:}:"), "{words:?}: {keys}");
    STARTED.fetch_add(1, Ordering::Relaxed);
}

/// How many examples were started.
static STARTED: AtomicUsize = AtomicUsize::new(0);

/// A file with this text, and its path.
fn file(folder: &TempDir, name: &str, text: &str) -> String {
    let file = folder.path().join(name);
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_in_the_document_reaches_a_redis() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let ca = authority.cert();
    let ours = authority.issue("ours");
    let password = file(&folder, "redis", "server\n");
    let sentinel_password = file(&folder, "sentinel", "sentinel");

    one_redis(&folder, &authority, &ours, &password).await;

    let all = Sentinels::start(Some(("server", "sentinel"))).await;
    let (hosts, primary) = (all.hosts(), all.primary());
    let changes = [
        ("s1,s2,s3", &*hosts),
        ("/run/secrets/redis", &password),
        ("/run/secrets/sentinel", &sentinel_password),
    ];
    let url = "redis+sentinel://s1,s2,s3/mymaster";
    counts(url, &changes, None, || {
        all.servers[primary].cli(&["--scan"])
    })
    .await;
    drop(all);

    let tls = Tls {
        asks: false,
        ..Tls::by(&authority)
    };
    let all = Sentinels::start_with(None, Some(&tls)).await;
    let (hosts, primary) = (all.hosts(), all.primary());
    let changes = [("s1:26380,s2:26380", &*hosts), ("ca.pem", text(&ca))];
    let url = "rediss+sentinel://s1:26380,s2:26380/mymaster/0";
    counts(url, &changes, None, || {
        all.servers[primary].cli(&["--scan"])
    })
    .await;
    drop(all);

    let everywhere = |cluster: &Cluster| {
        let keys = cluster.nodes.iter().map(|node| node.cli(&["--scan"]));
        keys.collect::<Vec<_>>().join("\n")
    };
    let access = Access {
        password: Some("server".to_owned()),
        tls: None,
    };
    let cluster = Cluster::start_as(&access, 3, 0, &[]).await;
    let hosts = cluster.hosts();
    let changes = [("c1,c2,c3", &*hosts), ("/run/secrets/redis", &password)];
    let url = "redis-cluster://c1,c2,c3";
    counts(url, &changes, None, || everywhere(&cluster)).await;
    drop(cluster);

    let access = Access {
        password: None,
        tls: Some(Tls::by(&authority)),
    };
    let cluster = Cluster::start_as(&access, 3, 0, &[]).await;
    let hosts = cluster.hosts();
    let changes = [
        ("c1:6380,c2:6380", &*hosts),
        ("ca.pem", text(&ca)),
        ("tollgate.pem", text(&ours.cert)),
        ("tollgate.key", text(&ours.key)),
    ];
    let url = "rediss-cluster://c1:6380,c2:6380";
    counts(url, &changes, None, || everywhere(&cluster)).await;

    let examples = include_str!("../../docs/redis.md").lines();
    let examples = examples.filter(|line| line.starts_with("tollgate serve "));
    assert_eq!(STARTED.load(Ordering::Relaxed), examples.count());
}

/// The examples of one server.
async fn one_redis(folder: &TempDir, authority: &Authority, ours: &Identity, password: &str) {
    let socket = folder.path().join("redis.sock");
    let redis = Redis::start_with(&["--unixsocket", text(&socket)], None);
    let keys = || {
        let keys = redis.cli(&["--scan"]);
        redis.cli(&["FLUSHALL"]);
        keys
    };
    let host = format!("127.0.0.1:{}", redis.port());
    let changes = [("redis:6379/", &*format!("{host}/"))];
    counts("redis://redis:6379/0", &changes, None, keys).await;
    let changes = [("/run/redis/redis.sock", text(&socket))];
    counts("unix:///run/redis/redis.sock", &changes, None, keys).await;
    let mut rule = vec!["ACL", "SETUSER", "tollgate", "on", ">server", "~tollgate:*"];
    rule.extend(RIGHTS.split(' '));
    redis.cli(&rule);
    let changes = [("redis:6379", &*host), ("/run/secrets/redis", password)];
    counts("redis://tollgate@redis:6379", &changes, None, keys).await;

    let ca = authority.cert();
    let redis = Redis::start_tls(Tls {
        asks: false,
        ..Tls::by(authority)
    });
    let host = format!("127.0.0.1:{}", redis.port());
    let changes = [("redis:6380", &*host)];
    let keys = || redis.cli(&["--scan"]);
    counts("rediss://redis:6380", &changes, Some(&ca), keys).await;

    let redis = Redis::start_tls(Tls::by(authority));
    let host = format!("127.0.0.1:{}", redis.port());
    let changes = [
        ("redis:6380", &*host),
        ("ca.pem", text(&ca)),
        ("tollgate.pem", text(&ours.cert)),
        ("tollgate.key", text(&ours.key)),
    ];
    let keys = || redis.cli(&["--scan"]);
    counts("rediss://redis:6380", &changes, None, keys).await;
}
