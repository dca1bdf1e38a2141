//! The composition root: store → engine → servers, reload, signals, and the drain at the end.

mod asked;
mod shown;

use std::{
    cell::RefCell,
    io,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, watch},
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

use self::asked::Asked;
use crate::{
    clock::{Clock, SystemClock},
    contract::AnswerOptions,
    engine::{self, Engine},
    hash::HashKey,
    health::{Component, Health},
    metrics::Metrics,
    reload::{self, Other},
    rules::{self, Report, RuleSet, Surroundings},
    server::{self, ConnEvents, ListenAddr, Listener, admin::Admin, check::CheckPort},
    store::{
        Store,
        guard::Guarded,
        memory::MemoryStore,
        redis::{self, RedisStore},
    },
};

/// Everything that `serve` was told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The rule file.
    pub rules: PathBuf,
    /// The key of the hash of secrets.
    pub hash_key: HashKey,
    /// The check port.
    pub listen: ListenAddr,
    /// The admin port.
    pub admin: ListenAddr,
    /// Where counters are kept.
    pub store: StoreSettings,
    /// The most time that a check waits for the store.
    pub deadline: Duration,
    /// How many replicas share the store.
    pub replicas: u64,
    /// The most counters in memory.
    pub max_keys: usize,
    /// Of the check port.
    pub server: server::Options,
    /// What is logged of decisions.
    pub log: engine::LogOptions,
    /// What answers carry.
    pub answers: AnswerOptions,
}

/// Where counters are kept.
#[derive(Debug, Clone)]
pub enum StoreSettings {
    /// In this process.
    Memory,
    /// In Redis.
    Redis(redis::Options),
}

/// How long the start waits for Redis before it goes on without.
const PATIENCE_AT_START: Duration = Duration::from_secs(1);
/// One of the memory store's 64 shards is swept this often: every counter is looked at about every three seconds.
const SWEEP: Duration = Duration::from_millis(50);
/// The admin port holds a few scrapers and probes.
const ADMIN: server::Options = server::Options {
    max_connections: 256,
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(300),
    drain_timeout: Duration::from_secs(1),
    drain_linger: Duration::ZERO,
};

/// Of the admin port only panics count: its connections are no proxy's.
struct AdminEvents(Arc<Metrics>);

impl ConnEvents for AdminEvents {
    fn handler_panicked(&self) {
        self.0.handler_panicked();
    }
}

/// Serves until SIGTERM or SIGINT, then drains.
pub async fn serve(settings: Settings, rules: RuleSet) -> anyhow::Result<()> {
    let terminated = signalled()?;
    // First of all, so that a taken port is told before anything is begun.
    let listener = Listener::bind(&settings.listen).await?;
    let admin_listener = Listener::bind(&settings.admin).await?;
    let metrics = Arc::new(Metrics::new());
    let health = Health::new();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let rule_count = rules.rules.len();
    if rules.has_secrets() && !rules.hash_key.is_secret() {
        warn!(
            "rules have secrets in their keys, and they are hashed without a key of your own: who sees a hash can try values against it; set TOLLGATE_HASH_KEY"
        );
    }

    let memory = Arc::new(memory_store(&settings, Arc::clone(&clock), &metrics));
    let store = store(&settings, &memory, &metrics, &health).await?;
    let store_name = store.name();
    let engine = Arc::new(Engine::new(
        rules,
        Guarded::new(store, Arc::clone(&metrics)),
        Arc::clone(&memory),
        Arc::clone(&metrics),
        engine::Options {
            deadline: settings.deadline,
            replicas: settings.replicas,
            log: settings.log,
        },
    ));
    metrics.rules_in_force(rule_count, clock.now_us());

    info!(
        listen = %listener.local_addr()?,
        admin = %admin_listener.local_addr()?,
        store = store_name,
        rules = rule_count,
        file = %settings.rules.display(),
        "tollgate {} is ready to answer checks", env!("CARGO_PKG_VERSION"),
    );

    let (stop, stopped) = watch::channel(false);
    let reloading = tokio::spawn(reloaded(
        &settings,
        &engine,
        &metrics,
        &health,
        clock,
        stopped.clone(),
    )?);
    let sweeping = tokio::spawn(swept(memory, Arc::clone(&metrics)));
    let asked = Asked {
        engine: Arc::clone(&engine),
        store: store_name,
        answers: settings.answers,
    };
    let admin = Admin::new(health.clone(), Arc::clone(&metrics), asked);
    let administered = tokio::spawn(server::serve(
        admin_listener,
        move |request| {
            let admin = admin.clone();
            async move { admin.respond(request).await }
        },
        ADMIN,
        Arc::new(AdminEvents(Arc::clone(&metrics))),
        until(stopped),
    ));

    let port = Arc::new(CheckPort::new(
        engine,
        Arc::clone(&metrics),
        settings.answers,
    ));
    let report = server::serve(
        listener,
        move |request| {
            let port = Arc::clone(&port);
            async move { port.respond(request).await }
        },
        settings.server,
        metrics,
        async {
            terminated.await;
            health.drain();
        },
    )
    .await;
    info!(finished = report.finished, aborted = report.aborted, took = ?report.took, "drained");

    // The admin port has told all along that we are draining; now it may go too.
    stop.send_replace(true);
    sweeping.abort();
    reloading
        .await
        .context("the watcher of the rule file failed")?;
    administered.await.context("the admin port failed")?;
    Ok(())
}

/// Completes at SIGTERM or SIGINT, and says which.
pub fn signalled() -> anyhow::Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    let mut int = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
    Ok(async move {
        let name = tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
        };
        info!(signal = name, "shutting down: answering what is under way");
    })
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone: that is a stop too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

fn memory_store(settings: &Settings, clock: Arc<dyn Clock>, metrics: &Arc<Metrics>) -> MemoryStore {
    let metrics = Arc::clone(metrics);
    MemoryStore::new(
        settings.max_keys,
        clock,
        Box::new(move |key| {
            // `tollgate:{rule}:overflow…`
            let rule = key.split(['{', '}']).nth(1).unwrap_or(key);
            metrics.overflowed(rule);
        }),
    )
}

async fn store(
    settings: &Settings,
    memory: &Arc<MemoryStore>,
    metrics: &Arc<Metrics>,
    health: &Health,
) -> anyhow::Result<Arc<dyn Store>> {
    let component = health.component("store");
    match &settings.store {
        StoreSettings::Memory => {
            component.ok();
            metrics.set_store_up(true);
            Ok(Arc::<MemoryStore>::clone(memory))
        }
        StoreSettings::Redis(options) => {
            component.degraded("redis is not reached yet");
            let on_change = store_watcher(component, Arc::clone(metrics));
            let store = RedisStore::start(options, on_change)?;
            if !store.connected_within(PATIENCE_AT_START).await {
                warn!(
                    "starting without redis: rules do as their on_store_error says until it is reached"
                );
            }
            Ok(Arc::new(store))
        }
    }
}

/// Puts what becomes of the connection into health, metrics and the log.
fn store_watcher(component: Component, metrics: Arc<Metrics>) -> redis::OnChange {
    Box::new(move |change| match change {
        Ok(()) => {
            component.ok();
            metrics.set_store_up(true);
            info!("redis serves: counters are shared");
        }
        Err(error) => {
            component.degraded(error.to_string());
            metrics.set_store_up(false);
            warn!(%error, "redis does not serve: rules do as their on_store_error says until it does");
        }
    })
}

/// Watches the rule file and puts what it holds in force, or says why not.
fn reloaded(
    settings: &Settings,
    engine: &Arc<Engine>,
    metrics: &Arc<Metrics>,
    health: &Health,
    clock: Arc<dyn Clock>,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let component = health.component("rules");
    component.ok();
    let force = Arc::new(Notify::new());
    reload::force_on_sighup(Arc::clone(&force)).context("SIGHUP cannot be handled")?;
    let path = settings.rules.clone();
    let name = path.display().to_string();
    let (engine, metrics) = (Arc::clone(engine), Arc::clone(metrics));
    let hash_key = settings.hash_key.clone();
    let path_of_rules = settings.rules.clone();
    let apply = move |bytes: Vec<u8>| {
        let refused = |reason: String, details: &str| {
            metrics.rules_refused();
            error!("the rule file is not valid; the rules in force stay: {details}");
            component.degraded(format!(
                "the rule file is refused, older rules are in force: {reason}"
            ));
        };
        let text = match as_text(bytes) {
            Ok(text) => text,
            Err(error) => {
                let reason = format!("{name}: {error}");
                refused(reason.clone(), &reason);
                return None;
            }
        };
        let others = RefCell::new(Vec::new());
        let load = || load_noting(&path_of_rules, &text, &hash_key, &others);
        // A file that finds a fault of ours must not be the last that is ever read.
        let Ok(loaded) = panic::catch_unwind(AssertUnwindSafe(load)) else {
            let reason = format!("{name}: tollgate failed while reading it, which is a bug");
            refused(reason.clone(), &reason);
            return None;
        };
        match loaded.set.ok_or(&loaded.report) {
            Ok(set) if set == engine.live().set => {
                metrics.rules_unchanged();
                component.ok();
            }
            Ok(set) => {
                let count = set.rules.len();
                let generation = engine.replace(set);
                metrics.rules_in_force(count, clock.now_us());
                component.ok();
                info!(generation, rules = count, "the changed rules are in force");
                tell_warnings(&loaded.report);
            }
            Err(report) => refused(report.summary(), &format!("\n{report}")),
        }
        let others = others.into_inner();
        // A file that cannot be read as YAML names no others: those of the rules in force still matter.
        (!others.is_empty() || !loaded.report.has_errors()).then_some(others)
    };
    Ok(reload::watch(
        path,
        reload::Options {
            force,
            ..reload::Options::default()
        },
        apply,
        until(stopped),
    ))
}

/// Reads a rule file once, from a pipe too. If it is no text, the error is of the kind `InvalidData`.
pub fn read_text(path: &Path) -> io::Result<String> {
    as_text(reload::read_any(path)?)
}

fn as_text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let read = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = read.split(|byte| *byte == b'\n').count();
        let reason = format!("line {line} is not UTF-8 text");
        io::Error::new(io::ErrorKind::InvalidData, reason)
    })
}

/// Reads and compiles the text of the rule file at `path`, with the files that belong to it.
pub fn load_rules(path: &Path, text: &str, hash_key: &HashKey) -> rules::Loaded {
    load_noting(path, text, hash_key, &RefCell::default())
}

/// As [`load_rules`], and notes what the files that belong to it held.
fn load_noting(
    path: &Path,
    text: &str,
    hash_key: &HashKey,
    others: &RefCell<Vec<Other>>,
) -> rules::Loaded {
    let read = |other: &Path| {
        let bytes = reload::read(&reload::beside(path, other));
        let mut others = others.borrow_mut();
        // One that cannot be read is asked for by each rule that names it.
        if !others.iter().any(|known| known.path == other) {
            others.push(Other {
                path: other.to_owned(),
                content: bytes.as_ref().ok().cloned(),
            });
        }
        as_text(bytes?)
    };
    let name = path.display().to_string();
    let surroundings = Surroundings {
        hash_key,
        read: &read,
    };
    rules::load_with(&name, text, surroundings)
}

/// Logs what in the rules in force was probably not meant.
pub fn tell_warnings(report: &Report) {
    if !report.diagnostics.is_empty() {
        warn!("the rules are in force, and some are probably not as they were meant:\n{report}");
    }
}

async fn swept(memory: Arc<MemoryStore>, metrics: Arc<Metrics>) {
    let mut tick = interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        memory.sweep();
        metrics
            .memory_keys
            .set(i64::try_from(memory.keys()).unwrap_or(i64::MAX));
    }
}
