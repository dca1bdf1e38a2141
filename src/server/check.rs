//! The check port: one proxy request in, one answer out.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;
use tracing::warn;

use crate::{
    contract::{self, AnswerOptions, Endpoint, Fault},
    engine::Engine,
    metrics::{ContractFault, Metrics},
};

/// What answers on the check port.
pub struct CheckPort {
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    checks: Vec<(Endpoint, Counter)>,
    options: AnswerOptions,
    /// Faults that have been logged: each is told once, and counted always.
    told: Mutex<HashSet<String>>,
}

impl CheckPort {
    /// A port for `engine`'s decisions.
    pub fn new(engine: Arc<Engine>, metrics: Arc<Metrics>, options: AnswerOptions) -> Self {
        let checks = Endpoint::ALL
            .iter()
            .map(|endpoint| (*endpoint, metrics.checks(*endpoint)))
            .collect();
        Self {
            engine,
            metrics,
            checks,
            options,
            told: Mutex::default(),
        }
    }

    /// Answers one check. Its body, if it announces one, is not waited for.
    pub async fn respond<B>(&self, request: Request<B>) -> Response<Full<Bytes>> {
        let started = Instant::now();
        let (parts, _) = request.into_parts();
        let live = self.engine.live();
        let check = match contract::read(&parts, &live.set.client_ip) {
            Ok(check) => check,
            Err(fault) => return self.at_fault(&fault),
        };
        if let Some((_, counter)) = self
            .checks
            .iter()
            .find(|(endpoint, _)| *endpoint == check.endpoint)
        {
            counter.inc();
        }
        if check.request.client_ip.is_none() {
            self.metrics.contract_fault(ContractFault::NoClientIp);
            self.tell("the check has no client address: callers without one share a counter\nhint: set X-Real-Ip to the client's address");
        }
        let decision = self
            .engine
            .decide(&live, &check.request, check.proxy_waits)
            .await;
        let answer = contract::answer(&decision, check.endpoint, self.options);
        self.metrics.check_took(started.elapsed());
        answer
    }

    fn at_fault(&self, fault: &Fault) -> Response<Full<Bytes>> {
        self.metrics.contract_fault(fault.kind());
        self.tell(&fault.to_string());
        contract::fault_answer(fault)
    }

    fn tell(&self, fault: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(fault.to_owned()) {
            let (message, hint) = fault.split_once("\nhint: ").unwrap_or((fault, ""));
            warn!(
                hint,
                "{message} (this is logged once; tollgate_contract_faults_total counts)"
            );
        }
    }
}
