//! An engine with a manual clock, for tests of decisions.
use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tollgate::{
    clock::{Clock, ManualClock},
    engine::{Decision, Engine, Options, Verdict},
    limit::Outcome,
    metrics::Metrics,
    request::Attributes,
    rulefile,
    rules::RuleSet,
    store::{
        Answer, Batch, Charging, GivingBack, Lost, Store, StoreError, Unsettled,
        deadline::Guarded,
        memory::MemoryStore,
        read::{Read, Reads},
    },
    wire::Headers,
};

/// How long a check waits for the store.
pub const DEADLINE: Duration = Duration::from_millis(50);

pub struct World {
    pub engine: Engine,
    pub clock: Arc<ManualClock>,
    pub metrics: Arc<Metrics>,
}

/// Builds a request.
#[derive(Clone)]
pub struct Ask<'a> {
    pub method: &'a str,
    pub host: &'a str,
    pub target: &'a str,
    pub ip: Option<&'a str>,
    pub headers: &'a [(&'static str, &'a str)],
}

pub const GET: Ask<'static> = Ask {
    method: "GET",
    host: "",
    target: "/",
    ip: Some("192.0.2.1"),
    headers: &[],
};

pub fn get(target: &str) -> Ask<'_> {
    Ask { target, ..GET }
}

impl World {
    pub fn new(yaml: &str) -> Self {
        Self::build(yaml, None, 1)
    }

    pub fn build(yaml: &str, broken: Option<Broken>, replicas: u64) -> Self {
        Self::build_with(yaml, replicas, |memory| match broken {
            Some(broken) => Arc::new(broken),
            None => Arc::new(memory),
        })
    }

    /// A world with the store that `store` makes of one in memory.
    pub fn build_with(
        yaml: &str,
        replicas: u64,
        store: impl FnOnce(MemoryStore) -> Arc<dyn Store>,
    ) -> Self {
        let options = Options {
            deadline: DEADLINE,
            replicas,
            ..Options::default()
        };
        Self::build_as(yaml, options, store)
    }

    /// As [`build_with`](Self::build_with), with these options.
    pub fn build_as(
        yaml: &str,
        options: Options,
        store: impl FnOnce(MemoryStore) -> Arc<dyn Store>,
    ) -> Self {
        let clock = Arc::new(ManualClock::new(1_700_000_000_000_000));
        let metrics = Arc::new(Metrics::new());
        let memory = || {
            let clock: Arc<dyn Clock> = clock.clone();
            MemoryStore::new(1_000, clock, Box::new(|_| {}))
        };
        let store = store(memory());
        let engine = Engine::new(
            compile(yaml),
            Guarded::new(store, Arc::clone(&metrics)),
            Arc::new(memory()),
            Arc::clone(&metrics),
            options,
        );
        Self {
            engine,
            clock,
            metrics,
        }
    }

    pub async fn ask(&self, ask: Ask<'_>) -> Decision<'static> {
        let mut headers = Headers::default();
        for (name, value) in ask.headers {
            headers.append(name, value);
        }
        let client_ip = ask.ip.map(|ip| ip.parse::<IpAddr>().unwrap());
        let attributes = Attributes::new(ask.method, ask.host, ask.target, client_ip, &headers);
        let live = self.engine.live();
        self.engine
            .decide(&live, &attributes, None, Instant::now())
            .await
            .into_owned()
    }

    pub async fn admits(&self, ask: Ask<'_>) -> bool {
        self.ask(ask).await.verdict == Verdict::Allowed
    }

    /// How many of `n` requests are admitted.
    pub async fn admitted(&self, n: usize, ask: Ask<'_>) -> usize {
        let mut admitted = 0;
        for _ in 0..n {
            admitted += usize::from(self.admits(ask.clone()).await);
        }
        admitted
    }

    pub fn decisions(&self, rule: &str, outcome: &str) -> u64 {
        self.metric(&format!(
            "tollgate_decisions_total{{rule=\"{rule}\",outcome=\"{outcome}\"}}"
        ))
    }

    /// The value of a series.
    pub fn metric(&self, series: &str) -> u64 {
        let text = self.metrics.encode();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no series {series}"))
            .parse()
            .unwrap()
    }
}

pub fn compile(yaml: &str) -> RuleSet {
    rulefile::load("rules.yaml", yaml).unwrap_or_else(|report| panic!("{report}"))
}

/// A store that never returns a result.
pub enum Broken {
    /// It returns an error.
    Refuses,
    /// It never returns.
    Hangs,
}

impl Read for Broken {
    fn read<'a>(&'a self, _: &'a Batch) -> Reads<'a> {
        Box::pin(async { Err(StoreError::Unavailable("test".to_owned())) })
    }
}

impl Store for Broken {
    fn charge<'a>(&'a self, _: &'a Batch, _: Instant) -> Charging<'a> {
        match self {
            Self::Refuses => Charging::known(Err(StoreError::Unavailable("test".to_owned()))),
            Self::Hangs => Charging::awaited(std::future::pending()),
        }
    }

    fn now_us(&self) -> u64 {
        0
    }

    fn name(&self) -> &'static str {
        "broken"
    }
}

/// A store that has lost the counters of rules whose names begin with `lost`.
pub struct Lossy {
    pub memory: MemoryStore,
    /// Why.
    pub error: StoreError,
    /// How many charges of other rules were given back.
    pub given_back: Arc<AtomicU64>,
}

impl Read for Lossy {
    fn read<'a>(&'a self, batch: &'a Batch) -> Reads<'a> {
        self.memory.read(batch)
    }
}

impl Store for Lossy {
    fn charge<'a>(&'a self, batch: &'a Batch, _: Instant) -> Charging<'a> {
        let mut rest = Batch::default();
        let mut lost = Vec::new();
        for (place, charge) in batch.charges().iter().enumerate() {
            let key = batch.key(charge);
            if key.contains("{lost") {
                lost.push(place);
            } else {
                let limit = *charge.limit().expect("no ban");
                rest.push(limit, charge.cost, charge.group, |out| out.push_str(key));
            }
        }
        let mut result = self.memory.charge_now(&rest);
        for &place in &lost {
            let nothing = Outcome {
                allowed: true,
                remaining: 0,
                wait_us: 0,
            };
            result.outcomes.insert(place, nothing);
        }
        let give_back = || {
            let given_back = Arc::clone(&self.given_back);
            let giving = async move {
                given_back.fetch_add(1, Ordering::Relaxed);
            };
            Box::pin(giving) as GivingBack
        };
        let charged = if result.admitted {
            rest.charges().len()
        } else {
            0
        };
        let answer = Answer {
            result,
            lost: vec![Lost {
                places: lost,
                error: self.error.clone(),
            }],
            unsettled: Unsettled::new((0..charged).map(|_| give_back())),
        };
        Charging::known(Ok(answer))
    }

    fn now_us(&self) -> u64 {
        self.memory.now_us()
    }

    fn name(&self) -> &'static str {
        "lossy"
    }
}
