//! One decision: walk the rules, charge the store, combine the answers.

pub mod callers;
mod combine;
mod decision;
mod denials;
mod fallback;
mod leases;
pub mod listing;
mod live;
mod log;
mod near;
mod offenders;
pub mod rehearse;
pub mod trace;
mod walk;

use std::{sync::Arc, time::Duration};

use arc_swap::{ArcSwap, Guard};
use tokio::time::Instant;

use self::{
    combine::{Decider, Deciding},
    denials::{Asked, Denials},
    fallback::Fallback,
    leases::{Leased, Leases, Request, Terms},
    log::DecisionLog,
    offenders::Offenders,
    walk::{Walk, WalkContext},
};
use crate::{
    metrics::{DecisionLabel, Metrics, StoreFailure},
    request::Attributes,
    rules::RuleSet,
    store::{
        Answer, ChargeResult, Lost, StoreError, Unsettled,
        deadline::{Guarded, budget},
        memory::MemoryStore,
    },
};

pub use self::{
    decision::{Decision, Quota, StoreCall, Verdict},
    live::Live,
    log::{Options as LogOptions, Which as LogDecisions},
    near::NearLimit,
    offenders::{Offender, RuleOffenders, TopOffenders},
};

/// Decides about requests by the rule set in force.
pub struct Engine {
    live: ArcSwap<Live>,
    store: Arc<Guarded>,
    fallback: Arc<MemoryStore>,
    metrics: Arc<Metrics>,
    /// If denials are remembered.
    denials: Option<Denials>,
    /// If the store can be charged ahead.
    leases: Option<Arc<Leases>>,
    offenders: Offenders,
    log: DecisionLog,
    options: Options,
}

/// Options of the engine.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The longest that a check waits for the store.
    pub deadline: Duration,
    /// How many replicas share the store at least; more are counted. The divisor of
    /// `on_store_error: local`.
    pub replicas: u64,
    /// Whether a denial holds for its wait without asking the store again.
    pub remember_denials: bool,
    /// From when on a limit counts as nearly reached.
    pub near_limit: NearLimit,
    /// Whether decisions say how long the store took.
    pub times_store: bool,
    /// Options of the decision log.
    pub log: LogOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            deadline: Duration::from_millis(50),
            replicas: 1,
            remember_denials: false,
            near_limit: NearLimit::default(),
            times_store: false,
            log: LogOptions::default(),
        }
    }
}

impl Engine {
    /// Creates an engine with a first rule set. `fallback` serves rules with `on_store_error:
    /// local`.
    pub fn new(
        set: RuleSet,
        store: Guarded,
        fallback: Arc<MemoryStore>,
        metrics: Arc<Metrics>,
        options: Options,
    ) -> Self {
        let offenders = Offenders::new(Instant::now());
        let live = Live::new(set, 1, &metrics, &offenders);
        let store = Arc::new(store);
        let leases = || {
            let (store, metrics) = (Arc::clone(&store), Arc::clone(&metrics));
            Arc::new(Leases::new(store, metrics, options.replicas))
        };
        let leases = store.ahead().map(|_| leases());
        Self {
            live: ArcSwap::from_pointee(live),
            store,
            fallback,
            metrics,
            denials: options.remember_denials.then(Denials::new),
            leases,
            offenders,
            log: DecisionLog::new(options.log),
            options,
        }
    }

    /// The rule set in force.
    pub fn live(&self) -> Guard<Arc<Live>> {
        // Not a count of references, which all threads would change for each check.
        self.live.load()
    }

    /// The name of the store: `memory` or `redis`.
    pub fn store_name(&self) -> &'static str {
        self.store.name()
    }

    /// Puts another rule set in force and returns its generation. Checks under way finish with the
    /// one they began with.
    pub fn replace(&self, set: RuleSet) -> u64 {
        let generation = self.live.load().generation + 1;
        let live = Live::new(set, generation, &self.metrics, &self.offenders);
        self.live.store(Arc::new(live));
        generation
    }

    /// Ends leases that are over `now`, and gives back what was charged for them and not used. To
    /// be called some times a second, within a tokio runtime.
    pub fn sweep_leases(&self, now: Instant) {
        if let Some(leases) = &self.leases {
            leases.sweep(self.live.load().generation, now);
        }
    }

    /// Ends all leases, and gives back what was charged for them and not used; waits for that until
    /// `deadline`.
    pub async fn end_leases(&self, deadline: Instant) {
        if let Some(leases) = &self.leases {
            leases.end_all(deadline).await;
        }
    }

    /// Who was denied most in the last minutes.
    pub fn offenders(&self, live: &Live, now: Instant) -> TopOffenders {
        let rules = live.set.rules.iter().zip(&live.denials);
        TopOffenders::of(rules.map(|(rule, denials)| (&*rule.name, &**denials)), now)
    }

    /// Drops denials that are too old to count as the last ones. To be called now and then.
    pub fn sweep_offenders(&self, now: Instant) {
        self.offenders.sweep(now);
    }

    /// Decides about a request that came at `now`. `proxy_waits` is how long the proxy will wait,
    /// if it said so.
    pub async fn decide<'a>(
        &'a self,
        live: &'a Live,
        request: &'a Attributes<'_>,
        proxy_waits: Option<Duration>,
        now: Instant,
    ) -> Decision<'a> {
        let mut deciding = Deciding {
            live,
            log: &self.log,
            near: self.options.near_limit,
            request,
            now,
            walk: self.walk(live, request),
        };
        deciding.count_shadow_denials();
        if let Some(decision) = deciding.denied_without_counting() {
            return decision;
        }
        let decision = if deciding.walk.batch.is_empty() {
            Decision::allowed()
        } else {
            match self.known(&deciding, now) {
                Known::Answer(result) => {
                    deciding.combine(deciding.walk.charges(), &result, Decider::STORE)
                }
                Known::Nothing(fetch) => self.ask(&mut deciding, fetch, proxy_waits, now).await,
            }
        };
        let decision = deciding.walk.ended(decision);
        if decision.verdict == Verdict::Allowed {
            if let Some(end) = deciding.walk.end() {
                live.series[end.index].rule.decided(DecisionLabel::Allowed);
            }
            deciding.log_admission(&decision);
        }
        decision
    }

    /// What is known without asking the store: what it was charged ahead, or has denied.
    fn known(&self, deciding: &Deciding<'_>, now: Instant) -> Known {
        let mut fetch = None;
        if let Some(leases) = &self.leases
            && let Some(terms) = Terms::of(&deciding.walk)
        {
            let request = Request {
                batch: &deciding.walk.batch,
                terms: &terms,
                generation: deciding.live.generation,
                now,
            };
            match leases.ask(request) {
                Leased::Admitted(result) => return Known::Answer(result),
                Leased::Fetch(times) => fetch = Some((terms, times)),
                Leased::No => {}
            }
        }
        match self.remembered(deciding, now) {
            Some(denied) => {
                self.metrics.denials_remembered.inc();
                Known::Answer(denied)
            }
            None => Known::Nothing(fetch),
        }
    }

    /// The answer to a batch that is known to be denied.
    fn remembered(&self, deciding: &Deciding<'_>, now: Instant) -> Option<ChargeResult> {
        let denials = self.denials.as_ref()?;
        let asked = Asked {
            generation: deciding.live.generation,
            now,
            clock_is_in_doubt: self.store.clock_is_in_doubt(now),
        };
        denials.find(&deciding.walk.batch, asked)
    }

    /// Has the store decide, which is `asked` now, also about further requests if a lease can be
    /// fetched.
    async fn ask<'a>(
        &self,
        deciding: &mut Deciding<'a>,
        fetch: Option<(Terms, u32)>,
        proxy_waits: Option<Duration>,
        asked: Instant,
    ) -> Decision<'a> {
        let deadline = asked + budget(self.options.deadline, proxy_waits);
        let fetching = fetch.and_then(|(terms, times)| {
            let request = Request {
                batch: &deciding.walk.batch,
                terms: &terms,
                generation: deciding.live.generation,
                now: asked,
            };
            let leases = self.leases.as_ref()?;
            leases.fetch(request, times, deadline)
        });
        let since = self.options.times_store.then(Instant::now);
        let mut answer = match fetching {
            Some(fetching) => fetching.await,
            None => self.store.charge(&deciding.walk.batch, deadline).await,
        };
        if let Some(unsettled) = at_other_time(&mut answer) {
            // In a box, as is all that is rare: a check has the room for it only if it needs it.
            let asking = self.ask_at_other_time(deciding, unsettled, deadline);
            answer = Box::pin(asking).await;
        }
        if let (Some(denials), Ok(answer)) = (&self.denials, &answer) {
            let generation = deciding.live.generation;
            denials.note(&deciding.walk.batch, &answer.result, generation, asked);
        }
        let call = since.map(|since| StoreCall {
            asked: since,
            took: since.elapsed(),
            failure: failure(&answer),
        });
        let fallback = Fallback {
            counters: &self.fallback,
            replicas: self.options.replicas.max(self.store.replicas()),
        };
        let decision = match answer {
            Ok(answer) if answer.lost.is_empty() => {
                let charges = deciding.walk.charges();
                deciding.combine(charges, &answer.result, Decider::STORE)
            }
            Ok(answer) => Box::pin(deciding.with_answer(answer, fallback, deadline)).await,
            Err(error) => deciding.without_store(&error, fallback),
        };
        Decision {
            store: call,
            ..decision
        }
    }

    /// Asks again. The store has learnt what time it is, so its windows are known now.
    async fn ask_at_other_time(
        &self,
        deciding: &mut Deciding<'_>,
        unsettled: Unsettled,
        deadline: Instant,
    ) -> Result<Answer, StoreError> {
        unsettled.give_back(deadline).await;
        deciding.walk = self.walk(deciding.live, deciding.request);
        self.store.charge(&deciding.walk.batch, deadline).await
    }

    fn walk<'a>(&self, live: &'a Live, request: &'a Attributes<'_>) -> Walk<'a> {
        Walk::over(WalkContext {
            set: &live.set,
            request,
            now_us: if live.has_calendars {
                self.store.now_us()
            } else {
                0
            },
        })
    }
}

/// What is known about a request before the store is asked.
enum Known {
    /// What the store would answer.
    Answer(ChargeResult),
    /// Nothing, but how far ahead it can be charged, if it can.
    Nothing(Option<(Terms, u32)>),
}

/// Why the store has not decided about everything.
fn failure(answer: &Result<Answer, StoreError>) -> Option<StoreFailure> {
    let error = match answer {
        Ok(answer) => answer.lost.first().map(|lost| &lost.error),
        Err(error) => Some(error),
    };
    error.map(StoreError::kind)
}

/// What was charged, if the store could not decide about a calendar window, because its time is not
/// the one that was assumed.
fn at_other_time(answer: &mut Result<Answer, StoreError>) -> Option<Unsettled> {
    match answer {
        Ok(answer) => {
            let is_clock = |lost: &Lost| lost.error == StoreError::Clock;
            let is_other = answer.result.admitted && answer.lost.iter().any(is_clock);
            is_other.then(|| std::mem::take(&mut answer.unsettled))
        }
        Err(StoreError::Clock) => Some(Unsettled::default()),
        Err(_) => None,
    }
}
