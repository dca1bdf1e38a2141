//! The admin port: what operators, probes and scrapers ask.
//!
//! | path       | method    | answer                                                            |
//! |------------|-----------|-------------------------------------------------------------------|
//! | `/`        | GET, HEAD | a page for people, made of all that follows                       |
//! | `/page.js` | GET, HEAD | its program                                                       |
//! | `/page.css` | GET, HEAD | its looks                                                        |
//! | `/livez`   | GET, HEAD | 200 while the process answers at all                              |
//! | `/readyz`  | GET, HEAD | 200 if traffic should come here, else 503; the components as JSON |
//! | `/metrics` | GET, HEAD | all metrics, for scrapers                                         |
//! | `/rules`   | GET, HEAD | the rule set in force as JSON                                     |
//! | `/rules/refused` | GET, HEAD | what is wrong with the rule file, if it was refused         |
//! | `/offenders` | GET, HEAD | who was denied most in the last minutes, by rule                |
//! | `/explain` | POST      | what would be decided about a request, and why                    |
//! | `/counters/list`  | POST | counters, a page at a time                                     |
//! | `/counters/get`   | POST | the counters of one caller of one rule                         |
//! | `/counters/reset` | POST | removes them                                                   |
//! | `/counters/grant` | POST | so many more requests                                          |
//! | `/counters/ban`   | POST | bans the caller                                                |
//! | `/counters/unban` | POST | ends the ban                                                   |
//!
//! A port of its own, because a proxy that passes a client's path on lets the client choose among
//! everything on the check port, and a `200` from here would count as an admitted request there.
//!
//! Each resource has a file. To add one: a value of `Endpoint`, and what the compiler then asks
//! for.

mod access;
mod answer;
mod counters;
mod explain;
mod health;
mod metrics;
mod offenders;
mod page;
mod rules;

pub use self::access::Access;

use std::sync::Arc;

use http::StatusCode;

use self::counters::Action;
use crate::{
    contract::AnswerOptions,
    engine::Engine,
    health::Health,
    metrics::Metrics,
    wire::{Request, Response},
    words::words,
};

/// What answers on the admin port.
pub struct Admin {
    health: Health,
    metrics: Arc<Metrics>,
    engine: Arc<Engine>,
    /// What responses to checks carry, for `/explain` to show.
    options: AnswerOptions,
    /// Who may change counters.
    access: Access,
}

words! {
    /// A resource of the admin port.
    enum Endpoint {
        /// The page for people.
        Page => "/",
        /// Its program.
        PageProgram => "/page.js",
        /// Its looks.
        PageLooks => "/page.css",
        /// Whether the process answers.
        Livez => "/livez",
        /// Whether traffic should come here.
        Readyz => "/readyz",
        /// All metrics.
        Metrics => "/metrics",
        /// The rule set in force.
        Rules => "/rules",
        /// What is wrong with the rule file.
        RulesRefused => "/rules/refused",
        /// Who was denied most.
        Offenders => "/offenders",
        /// A decision, explained.
        Explain => "/explain",
        /// Counters, a page at a time.
        CountersList => "/counters/list",
        /// The counters of a caller.
        CountersGet => "/counters/get",
        /// Removes them.
        CountersReset => "/counters/reset",
        /// Takes back what was counted.
        CountersGrant => "/counters/grant",
        /// Bans a caller.
        CountersBan => "/counters/ban",
        /// Ends a ban.
        CountersUnban => "/counters/unban",
    }
}

impl Endpoint {
    fn at(path: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|endpoint| endpoint.as_str() == path)
    }

    /// The methods that it answers, as `Allow` lists them.
    const fn methods(self) -> &'static str {
        match self {
            Self::Page
            | Self::PageProgram
            | Self::PageLooks
            | Self::Livez
            | Self::Readyz
            | Self::Metrics
            | Self::Rules
            | Self::RulesRefused
            | Self::Offenders => "GET, HEAD",
            Self::Explain
            | Self::CountersList
            | Self::CountersGet
            | Self::CountersReset
            | Self::CountersGrant
            | Self::CountersBan
            | Self::CountersUnban => "POST",
        }
    }

    /// The longest body that it wants, in bytes.
    const fn wants(self) -> usize {
        match self {
            Self::Page
            | Self::PageProgram
            | Self::PageLooks
            | Self::Livez
            | Self::Readyz
            | Self::Metrics
            | Self::Rules
            | Self::RulesRefused
            | Self::Offenders => 0,
            Self::Explain => explain::MAX_QUERY,
            Self::CountersList
            | Self::CountersGet
            | Self::CountersReset
            | Self::CountersGrant
            | Self::CountersBan
            | Self::CountersUnban => counters::MAX_QUESTION,
        }
    }
}

impl Admin {
    /// An admin port over these.
    pub fn new(
        health: Health,
        metrics: Arc<Metrics>,
        engine: Arc<Engine>,
        options: AnswerOptions,
        access: Access,
    ) -> Self {
        Self {
            health,
            metrics,
            engine,
            options,
            access,
        }
    }

    /// The longest body that is wanted of a request, in bytes.
    pub fn wants(request: &Request) -> usize {
        Endpoint::at(request.path()).map_or(0, Endpoint::wants)
    }

    /// Answers one request. The query is ignored: probes and scrapers append all sorts of things.
    pub async fn respond(&self, request: Request) -> Response {
        let Some(endpoint) = Endpoint::at(request.path()) else {
            return not_found();
        };
        let mut methods = endpoint.methods().split(", ");
        if !methods.any(|allowed| allowed == request.method()) {
            return method_not_allowed(endpoint.methods());
        }
        match endpoint {
            Endpoint::Page => page::page(),
            Endpoint::PageProgram => page::program(),
            Endpoint::PageLooks => page::looks(),
            Endpoint::Livez => health::livez(),
            Endpoint::Readyz => health::readyz(&self.health),
            Endpoint::Metrics => metrics::metrics(&self.metrics),
            Endpoint::Rules => rules::rules(&self.engine.live()),
            Endpoint::RulesRefused => rules::refused(&self.health, &self.access, &request),
            Endpoint::Offenders => offenders::offenders(&self.engine, &self.access, &request),
            Endpoint::Explain => explain::explain(&self.engine, self.options, &request).await,
            Endpoint::CountersList => counters::list(&self.engine, &self.access, &request).await,
            Endpoint::CountersGet => self.act(Action::Get, &request).await,
            Endpoint::CountersReset => self.act(Action::Reset, &request).await,
            Endpoint::CountersGrant => self.act(Action::Grant, &request).await,
            Endpoint::CountersBan => self.act(Action::Ban, &request).await,
            Endpoint::CountersUnban => self.act(Action::Unban, &request).await,
        }
    }

    async fn act(&self, action: Action, request: &Request) -> Response {
        counters::act(&self.engine, &self.access, action, request).await
    }
}

fn not_found() -> Response {
    let mut list = "not found; the resources are:\n".to_owned();
    for endpoint in Endpoint::ALL {
        list.push_str(endpoint.as_str());
        list.push('\n');
    }
    answer::text(StatusCode::NOT_FOUND, list)
}

fn method_not_allowed(allow: &'static str) -> Response {
    let text = format!("only {} is allowed here\n", allow.replace(", ", " and "));
    let mut refusal = answer::text(StatusCode::METHOD_NOT_ALLOWED, text);
    refusal.set("allow", allow);
    refusal
}

#[cfg(test)]
pub(crate) mod tests;
