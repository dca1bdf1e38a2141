//! The store: which one, how its state shows in health, metrics and the log, and its upkeep.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::settings::StoreSettings;
use crate::{
    clock::Clock,
    counter_key,
    engine::Engine,
    health::{Component, Health},
    metrics::Metrics,
    store::{
        Store,
        memory::MemoryStore,
        redis::{self, RedisStore},
    },
    workers::Workers,
};

/// How long the start waits for Redis before it goes on without.
const PATIENCE_AT_START: Duration = Duration::from_secs(1);
/// One of the memory store's 64 shards is swept this often: each counter about every three seconds.
const SWEEP_INTERVAL: Duration = Duration::from_millis(50);

/// The store in memory: the store itself, or the fallback beside Redis.
pub(super) fn memory(
    max_keys: usize,
    clock: Arc<dyn Clock>,
    metrics: &Arc<Metrics>,
) -> Arc<MemoryStore> {
    let metrics = Arc::clone(metrics);
    let on_overflow = move |key: &str| metrics.overflowed(counter_key::rule_of(key));
    Arc::new(MemoryStore::new(max_keys, clock, Box::new(on_overflow)))
}

/// The store that decides.
pub(super) struct Opened {
    pub(super) store: Arc<dyn Store>,
    /// The same one, if it is Redis.
    pub(super) redis: Option<Arc<RedisStore>>,
}

/// Has the engine forget what it remembers of Redis whenever somebody has changed counters there,
/// for ever.
pub(super) async fn follow_changes(redis: Arc<RedisStore>, engine: Arc<Engine>) {
    redis.follow_changes(|| engine.forget(Instant::now())).await;
}

/// Opens the store that decides.
pub(super) async fn open(
    settings: &StoreSettings,
    memory: &Arc<MemoryStore>,
    metrics: &Arc<Metrics>,
    health: &Health,
    workers: &Workers,
) -> anyhow::Result<Opened> {
    let component = health.component("store");
    match settings {
        StoreSettings::Memory => {
            component.ok();
            metrics.set_store_up(true);
            Ok(Opened {
                store: Arc::<MemoryStore>::clone(memory),
                redis: None,
            })
        }
        StoreSettings::Redis(options) => {
            component.degraded("Redis has not been reached yet");
            let reporter = reporter(component, Arc::clone(metrics));
            let store = RedisStore::start_on(options, workers, reporter)?;
            if !store.connected_within(PATIENCE_AT_START).await {
                warn!(
                    "starting without Redis: rules follow their on_store_error until it is reached"
                );
            }
            let store = Arc::new(store);
            tokio::spawn({
                let store = Arc::clone(&store);
                async move { store.beat().await }
            });
            Ok(Opened {
                store: Arc::<RedisStore>::clone(&store),
                redis: Some(store),
            })
        }
    }
}

/// Reports changes of the connection to health, metrics and the log.
fn reporter(component: Component, metrics: Arc<Metrics>) -> redis::OnChange {
    Box::new(move |change| match change {
        Ok(()) => {
            component.ok();
            metrics.set_store_up(true);
            info!("Redis is reachable: counters are shared");
        }
        Err(error) => {
            component.degraded(error.to_string());
            metrics.set_store_up(false);
            warn!(%error, "Redis is not reachable: rules follow their on_store_error until it is");
        }
    })
}

/// Removes expired counters from memory, ends leases that are over, and keeps the gauges of the
/// stores, for ever.
pub(super) async fn sweep(
    memory: Arc<MemoryStore>,
    store: Arc<dyn Store>,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
) {
    let mut tick = interval(SWEEP_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = tick.tick().await;
        memory.sweep();
        engine.sweep_leases(now);
        engine.sweep_offenders(now);
        let keys = i64::try_from(memory.keys()).unwrap_or(i64::MAX);
        metrics.memory_keys.set(keys);
        let replicas = i64::try_from(store.replicas()).unwrap_or(i64::MAX);
        metrics.replicas.set(replicas);
    }
}
