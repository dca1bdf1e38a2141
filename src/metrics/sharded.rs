//! Metrics that every check changes: kept apart for each thread, and summed when they are scraped.
//!
//! Threads that change one number take the line of memory that holds it from each other, and a lock
//! around a histogram makes them wait. Here each thread has lines of its own, of as many as there
//! are shards: one for each processor, and [`MOST_SHARDS`] at most. More threads share some.

use std::{
    array,
    cell::Cell,
    fmt,
    num::NonZero,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread::available_parallelism,
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric, counter::Atomic},
};

/// The most shards: rules have some counters each, and there can be thousands of rules.
const MOST_SHARDS: usize = 16;

/// How many threads count without meeting.
static SHARDS: LazyLock<usize> = LazyLock::new(|| {
    available_parallelism()
        .map_or(1, NonZero::get)
        .min(MOST_SHARDS)
});

static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The shard of this thread.
    static SHARD: Cell<usize> = Cell::new(NEXT.fetch_add(1, Relaxed) % *SHARDS);
}

/// The value of a shard, on lines of memory of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Line<T>(T);

/// A line for each shard.
fn lines<T>(of: impl Fn() -> T) -> Box<[Line<T>]> {
    (0..*SHARDS).map(|_| Line(of())).collect()
}

/// A number that only grows.
#[derive(Debug)]
pub struct Sharded(Box<[Line<AtomicU64>]>);

impl Default for Sharded {
    fn default() -> Self {
        Self(lines(AtomicU64::default))
    }
}

impl Atomic<u64> for Sharded {
    fn inc(&self) -> u64 {
        self.inc_by(1)
    }

    /// Returns what the shard of this thread had counted.
    fn inc_by(&self, count: u64) -> u64 {
        self.0[SHARD.get()].0.fetch_add(count, Relaxed)
    }

    fn get(&self) -> u64 {
        self.0.iter().map(|line| line.0.load(Relaxed)).sum()
    }
}

/// A histogram of durations, with these upper bounds and one more for all that are longer.
pub(super) struct Durations<const BOUNDS: usize>(Arc<Inner<BOUNDS>>);

struct Inner<const BOUNDS: usize> {
    /// In seconds, ascending.
    bounds: [f64; BOUNDS],
    shards: Box<[Line<Shard<BOUNDS>>]>,
}

/// What the threads of a shard observed.
struct Shard<const BOUNDS: usize> {
    /// How many were within each bound, and not within the one before it.
    within: [AtomicU64; BOUNDS],
    longer: AtomicU64,
    nanoseconds: AtomicU64,
}

impl<const BOUNDS: usize> Durations<BOUNDS> {
    pub(super) fn new(bounds: [f64; BOUNDS]) -> Self {
        let shard = || Shard {
            within: array::from_fn(|_| AtomicU64::new(0)),
            longer: AtomicU64::new(0),
            nanoseconds: AtomicU64::new(0),
        };
        Self(Arc::new(Inner {
            bounds,
            shards: lines(shard),
        }))
    }

    /// Counts one.
    pub(super) fn observe(&self, took: Duration) {
        let Line(shard) = &self.0.shards[SHARD.get()];
        let seconds = took.as_secs_f64();
        let place = self.0.bounds.iter().position(|bound| seconds <= *bound);
        place
            .map_or(&shard.longer, |place| &shard.within[place])
            .fetch_add(1, Relaxed);
        // 584 years of them fit.
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        shard.nanoseconds.fetch_add(nanoseconds, Relaxed);
    }
}

impl<const BOUNDS: usize> Clone for Durations<BOUNDS> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<const BOUNDS: usize> fmt::Debug for Durations<BOUNDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Durations").field(&self.0.bounds).finish()
    }
}

impl<const BOUNDS: usize> TypedMetric for Durations<BOUNDS> {
    const TYPE: MetricType = MetricType::Histogram;
}

impl<const BOUNDS: usize> EncodeMetric for Durations<BOUNDS> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let Inner { bounds, shards } = &*self.0;
        let sum_of = |number: &dyn Fn(&Shard<BOUNDS>) -> &AtomicU64| -> u64 {
            let numbers = shards.iter().map(|Line(shard)| number(shard).load(Relaxed));
            numbers.sum()
        };
        let mut buckets = Vec::with_capacity(BOUNDS + 1);
        for (place, bound) in bounds.iter().enumerate() {
            buckets.push((*bound, sum_of(&|shard| &shard.within[place])));
        }
        buckets.push((f64::INFINITY, sum_of(&|shard| &shard.longer)));
        let count = buckets.iter().map(|(_, count)| count).sum();
        let seconds = Duration::from_nanos(sum_of(&|shard| &shard.nanoseconds)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text, metrics::counter::Counter, registry::Registry};

    use super::*;

    #[test]
    fn what_all_threads_counted_is_summed() {
        let counter = Counter::<u64, Sharded>::default();
        std::thread::scope(|scope| {
            for _ in 0..*SHARDS + 3 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        counter.inc();
                    }
                    counter.inc_by(5);
                });
            }
        });
        assert_eq!(counter.get(), (*SHARDS as u64 + 3) * 1_005);
    }

    /// As the histogram of the library does.
    #[test]
    fn durations_fall_into_the_buckets_whose_bounds_they_do_not_exceed() {
        let bounds = [0.001, 0.01];
        let own = Durations::new(bounds);
        let library = prometheus_client::metrics::histogram::Histogram::new(bounds);
        std::thread::scope(|scope| {
            for micros in [0_u64, 999, 1_000, 1_001, 10_000, 10_001, 5_000_000] {
                let own = own.clone();
                scope.spawn(move || own.observe(Duration::from_micros(micros)));
                library.observe(Duration::from_micros(micros).as_secs_f64());
            }
        });
        let text_of = |register: &dyn Fn(&mut Registry)| {
            let (mut registry, mut out) = (Registry::default(), String::new());
            register(&mut registry);
            text::encode(&mut out, &registry).unwrap();
            out
        };
        let text = text_of(&|registry| registry.register("took", "Time", own.clone()));
        assert!(text.contains("took_bucket{le=\"0.001\"} 3\n"), "{text}");
        assert_eq!(
            text,
            text_of(&|registry| registry.register("took", "Time", library.clone()))
        );
    }
}
