//! The check port: a proxy's check in, a response out.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::warn;

use crate::{
    contract::{self, AnswerOptions, Endpoint, Fault, Reading, Refusal, Unreadable},
    engine::Engine,
    metrics::{BusyCounter, ContractFault, Metrics},
    problem::Problem,
    throttle::FirstTime,
    traces::{Checked, Traces},
    wire::{Request, Response},
};

/// What answers on the check port.
pub struct CheckPort {
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    checks: [(Endpoint, BusyCounter); Endpoint::ALL.len()],
    options: AnswerOptions,
    /// If checks are traced.
    traces: Option<Traces>,
    /// Faults of the proxy's configuration, and refusals. Each is logged once and counted always.
    logged: FirstTime<Problem>,
}

impl CheckPort {
    /// Creates a port for the decisions of `engine`, whose checks are traced if there is somewhere
    /// to write to.
    pub fn new(
        engine: Arc<Engine>,
        metrics: Arc<Metrics>,
        options: AnswerOptions,
        traces: Option<Traces>,
    ) -> Self {
        let checks = Endpoint::ALL.map(|endpoint| (endpoint, metrics.checks(endpoint)));
        Self {
            engine,
            metrics,
            checks,
            options,
            traces,
            logged: FirstTime::default(),
        }
    }

    /// Answers one check.
    pub async fn respond(&self, request: Request) -> Response {
        let started = Instant::now();
        let live = self.engine.live();
        let reading = Reading {
            client_ip: &live.set.client_ip,
            paths: live.set.paths,
        };
        let check = match contract::read(&request, reading) {
            Ok(check) => check,
            Err(Unreadable::Fault(fault)) => {
                self.note(&fault);
                return contract::fault_answer(&fault);
            }
            Err(Unreadable::Refused(refusal, endpoint)) => {
                self.note_refusal(&refusal);
                return contract::refusal_answer(&refusal, endpoint);
            }
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
            self.log(Problem::new(
                "the check has no client address: callers without one share a counter",
                "set X-Real-Ip to the client's address",
            ));
        }
        let decision = self
            .engine
            .decide(&live, &check.request, check.proxy_waits, started)
            .await;
        let answer = contract::answer(&decision, check.endpoint, self.options);
        self.metrics.check_took(started.elapsed());
        if let Some(traces) = &self.traces {
            traces.note(Checked {
                headers: request.headers(),
                method: &check.request.method,
                decision: &decision,
                status: answer.status(),
                started,
            });
        }
        answer
    }

    /// Counts and logs a fault of the proxy's configuration.
    pub fn note(&self, fault: &Fault) {
        self.metrics.contract_fault(fault.kind());
        self.log(fault.problem());
    }

    fn note_refusal(&self, refusal: &Refusal) {
        self.metrics.refused(refusal.reason());
        let problem = refusal.problem();
        if self.logged.permit(problem.clone()) {
            let Problem { message, hint } = problem;
            warn!(
                hint = &*hint,
                "refused a request: {message} (this is logged once; see tollgate_refused_requests_total)"
            );
        }
    }

    fn log(&self, problem: Problem) {
        if self.logged.permit(problem.clone()) {
            let Problem { message, hint } = problem;
            warn!(
                hint = &*hint,
                "{message} (this is logged once; see tollgate_contract_faults_total)"
            );
        }
    }
}
