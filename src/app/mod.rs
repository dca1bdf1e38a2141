//! The composition root: store, engine, two ports, watcher, and the drain at the end.

mod direct;
mod files;
mod reload;
mod settings;
mod store;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::Instant,
};
use tracing::{info, warn};

pub use self::{
    direct::Direct,
    files::{load_rules, read_text},
    reload::log_warnings,
    settings::{Settings, StoreSettings},
};
use crate::{
    admin::{Access, Admin},
    check::CheckPort,
    clock::{Clock, SystemClock},
    contract::Fault,
    engine::{self, Engine},
    health::Health,
    metrics::Metrics,
    rules::RuleSet,
    server::{self, ConnEvents, DrainReport, Handler, Listener},
    store::deadline::Guarded,
    traces::Traces,
    wire::{Request, Response},
    workers::{WorkerThreads, Workers},
};

/// The limits of the admin port, which holds a few scrapers and probes.
const ADMIN_PORT: server::Options = server::Options {
    max_connections: 256,
    request_memory: 4_000_000,
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(300),
    drain_timeout: Duration::from_secs(1),
    drain_linger: Duration::ZERO,
};

/// How long giving back is waited for at the end.
const PATIENCE_AT_END: Duration = Duration::from_millis(500);

/// Serves until SIGTERM or SIGINT, then drains.
pub async fn serve(settings: Settings, rules: RuleSet) -> anyhow::Result<()> {
    let terminated = signalled()?;
    // First of all, so that a taken port is reported before anything has begun.
    let listener = Listener::bind(&settings.listen).await?;
    let admin_listener = Listener::bind(&settings.admin).await?;
    warn_of_plain_hashes(&rules);

    let metrics = Arc::new(Metrics::new());
    let health = Health::new();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let memory = store::memory(settings.max_keys, Arc::clone(&clock), &metrics);
    let threads = WorkerThreads::start(settings.threads).context("threads cannot be started")?;
    let workers = threads.workers();
    let opened = store::open(&settings.store, &memory, &metrics, &health, workers).await?;
    let store::Opened { store, redis } = opened;
    let counted = Arc::clone(&store);
    metrics.rules_in_force(rules.rules.len(), clock.now_us());
    let engine = Arc::new(Engine::new(
        rules,
        Guarded::new(store, Arc::clone(&metrics)),
        Arc::clone(&memory),
        Arc::clone(&metrics),
        engine::Options {
            deadline: settings.deadline,
            replicas: settings.replicas,
            // Memory answers sooner than it is asked twice.
            remember_denials: settings.remember_denials
                && matches!(settings.store, StoreSettings::Redis(_)),
            near_limit: settings.near_limit,
            // Memory is not waited for.
            times_store: settings.traces.is_some()
                && matches!(settings.store, StoreSettings::Redis(_)),
            log: settings.log,
        },
    ));
    info!(
        listen = %listener.local_addr()?,
        admin = %admin_listener.local_addr()?,
        store = engine.store_name(),
        rules = engine.live().set.rules.len(),
        file = %settings.rules.display(),
        "tollgate {} is ready to answer checks", env!("CARGO_PKG_VERSION"),
    );

    let (stop, stopped) = watch::channel(false);
    let reloader = reload::Reloader::new(&settings, &engine, &metrics, &health, clock);
    let reloading = tokio::spawn(reload::watch(reloader, until(stopped.clone()))?);
    let sweeping = tokio::spawn(store::sweep(
        memory,
        counted,
        Arc::clone(&engine),
        Arc::clone(&metrics),
    ));
    if let Some(redis) = redis {
        tokio::spawn(store::follow_changes(redis, Arc::clone(&engine)));
    }
    let admin = Admin::new(
        health.clone(),
        Arc::clone(&metrics),
        Arc::clone(&engine),
        settings.answers,
        Access {
            tokens: settings.admin_tokens.clone(),
            is_local: settings.admin.is_local(),
        },
    );
    let administering = tokio::spawn(serve_admin(
        admin_listener,
        admin,
        Arc::clone(&metrics),
        until(stopped),
    ));
    let ending = Arc::clone(&engine);
    let traces = settings.traces.as_ref();
    let traces = traces.map(|options| Traces::start(options, Arc::clone(&metrics)));
    let (traces, exporting) = traces.transpose()?.unzip();
    let port = CheckPort::new(engine, Arc::clone(&metrics), settings.answers, traces);
    let drained = serve_checks(listener, port, settings.server, metrics, workers, async {
        terminated.await;
        health.drain();
    });
    let report = drained.await;
    info!(finished = report.finished, aborted = report.aborted, took = ?report.took, "drained");

    // What no check will use any more, others may.
    ending.end_leases(Instant::now() + PATIENCE_AT_END).await;
    if let Some(exporting) = exporting {
        exporting.end(Instant::now() + PATIENCE_AT_END).await;
    }
    // The admin port has reported the drain all along; now it may go too.
    stop.send_replace(true);
    sweeping.abort();
    reloading
        .await
        .context("the watcher of the rule file failed")?;
    administering.await.context("the admin port failed")?;
    Ok(())
}

async fn serve_checks(
    listener: Listener,
    port: CheckPort,
    options: server::Options,
    metrics: Arc<Metrics>,
    workers: &Workers,
    shutdown: impl Future<Output = ()>,
) -> DrainReport {
    let port = Arc::new(port);
    let events = CheckEvents {
        metrics,
        port: Arc::clone(&port),
    };
    server::serve_on(
        workers,
        listener,
        Checks(port),
        options,
        Arc::new(events),
        shutdown,
    )
    .await
}

async fn serve_admin(
    listener: Listener,
    admin: Admin,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()>,
) {
    let events = Arc::new(AdminEvents(metrics));
    server::serve(listener, Questions(admin), ADMIN_PORT, events, shutdown).await;
}

/// The check port as a handler.
struct Checks(Arc<CheckPort>);

impl Handler for Checks {
    fn respond(&self, request: Request) -> impl Future<Output = Response> + Send {
        self.0.respond(request)
    }
}

/// The admin port as a handler.
struct Questions(Admin);

impl Handler for Questions {
    fn respond(&self, request: Request) -> impl Future<Output = Response> + Send {
        self.0.respond(request)
    }

    fn wants(&self, request: &Request) -> usize {
        Admin::wants(request)
    }
}

/// The connections of the check port are counted, and a proxy that speaks HTTP/2 is at fault.
struct CheckEvents {
    metrics: Arc<Metrics>,
    port: Arc<CheckPort>,
}

impl ConnEvents for CheckEvents {
    fn opened(&self) {
        self.metrics.connections.inc();
    }
    fn closed(&self) {
        self.metrics.connections.dec();
    }
    fn refused(&self) {
        self.metrics.connections_refused.inc();
    }
    fn accept_failed(&self) {
        self.metrics.accept_errors.inc();
    }
    fn http2_refused(&self) {
        self.port.note(&Fault::Http2);
    }
    fn handler_panicked(&self) {
        self.metrics.handler_panics.inc();
    }
}

/// Of the admin port only panics are counted: its connections are not a proxy's.
struct AdminEvents(Arc<Metrics>);

impl ConnEvents for AdminEvents {
    fn handler_panicked(&self) {
        self.0.handler_panics.inc();
    }
}

/// Completes at SIGTERM or SIGINT, and logs which it was.
pub fn signalled() -> anyhow::Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    let mut int = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
    Ok(async move {
        let name = tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
        };
        info!(
            signal = name,
            "shutting down: finishing the requests under way"
        );
    })
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone: that is a stop too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

fn warn_of_plain_hashes(rules: &RuleSet) {
    if rules.has_secrets() && !rules.keys.hash_key.is_secret() {
        warn!(
            "rules have secrets in their keys, and they are hashed without a key of your own, so whoever sees a hash can guess values against it; set TOLLGATE_HASH_KEY"
        );
    }
}
