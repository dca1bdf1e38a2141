//! Whether this replica should get traffic, by component.
//!
//! Degraded is still ready: when Redis is away, every replica is degraded alike, and taking all of
//! them out of the load balancer would turn a less exact limiter into an outage.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// The state of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "status", content = "detail", rename_all = "lowercase")]
pub enum Status {
    /// Works as it should.
    Ok,
    /// Works with less than it should have; the text says what is missing.
    Degraded(String),
    /// Does not work; the text says why.
    Down(String),
}

/// The health of all components. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    draining: AtomicBool,
    components: Mutex<Vec<Component>>,
}

/// A component's handle, by which it reports its state. Clones share it.
#[derive(Debug, Clone)]
pub struct Component {
    name: &'static str,
    status: Arc<Mutex<Status>>,
    /// What is wrong at length, for those who may see it.
    at_length: Arc<Mutex<Option<String>>>,
}

/// The health at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthReport {
    /// `ok`, `degraded`, `down` or `draining`.
    pub status: &'static str,
    /// Whether traffic should be sent here.
    pub ready: bool,
    /// Each component, in the order of registration.
    pub components: Vec<ComponentReport>,
}

/// The health of one component at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentReport {
    /// The component's name.
    pub name: &'static str,
    /// Its state.
    #[serde(flatten)]
    pub status: Status,
}

impl Health {
    /// Creates a health without components, which is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// The handle of a component. A new one is down until it reports otherwise, so that nothing is
    /// ready by omission.
    pub fn component(&self, name: &'static str) -> Component {
        let mut components = lock(&self.0.components);
        if let Some(known) = components.iter().find(|known| known.name == name) {
            return known.clone();
        }
        let component = Component {
            name,
            status: Arc::new(Mutex::new(Status::Down("starting".to_owned()))),
            at_length: Arc::default(),
        };
        components.push(component.clone());
        component
    }

    /// Makes this replica not ready, for good: the process is about to end.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    /// What is wrong with a component, if it said so at length. It is in no report: probes have no
    /// use for it.
    pub fn at_length(&self, name: &str) -> Option<String> {
        let components = lock(&self.0.components);
        let component = components.iter().find(|known| known.name == name)?;
        lock(&component.at_length).clone()
    }

    /// The health now.
    pub fn report(&self) -> HealthReport {
        let components: Vec<_> = lock(&self.0.components)
            .iter()
            .map(|component| ComponentReport {
                name: component.name,
                status: component.status(),
            })
            .collect();
        let any = |wanted: fn(&Status) -> bool| components.iter().any(|c| wanted(&c.status));
        let (status, ready) = if self.0.draining.load(Ordering::Acquire) {
            ("draining", false)
        } else if any(|status| matches!(status, Status::Down(_))) {
            ("down", false)
        } else if any(|status| matches!(status, Status::Degraded(_))) {
            ("degraded", true)
        } else {
            ("ok", true)
        };
        HealthReport {
            status,
            ready,
            components,
        }
    }
}

impl HealthReport {
    /// The report as one line of JSON.
    #[expect(clippy::missing_panics_doc, reason = "the expect below cannot fail")]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("names and texts are always valid JSON")
    }
}

impl fmt::Display for HealthReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.status)?;
        for component in &self.components {
            match &component.status {
                Status::Ok => {}
                Status::Degraded(detail) | Status::Down(detail) => {
                    write!(f, "; {}: {detail}", component.name)?;
                }
            }
        }
        Ok(())
    }
}

impl Component {
    /// Reports that all is well.
    pub fn ok(&self) {
        self.is(Status::Ok, None);
    }

    /// Reports that it works with less than it should have: still ready.
    pub fn degraded(&self, detail: impl Into<String>) {
        self.is(Status::Degraded(detail.into()), None);
    }

    /// The same, and what is wrong at length.
    pub fn degraded_at_length(&self, detail: impl Into<String>, at_length: impl Into<String>) {
        self.is(Status::Degraded(detail.into()), Some(at_length.into()));
    }

    /// Reports that it does not work: not ready.
    pub fn down(&self, detail: impl Into<String>) {
        self.is(Status::Down(detail.into()), None);
    }

    fn is(&self, status: Status, at_length: Option<String>) {
        *lock(&self.at_length) = at_length;
        *lock(&self.status) = status;
    }

    /// Its state now.
    pub fn status(&self) -> Status {
        lock(&self.status).clone()
    }
}

/// A panic while a status was locked cannot leave it half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_down_until_it_says_otherwise() {
        let health = Health::new();
        assert!(health.report().ready);
        let rules = health.component("rules");
        assert_eq!(
            health.report().to_json(),
            r#"{"status":"down","ready":false,"components":[{"name":"rules","status":"down","detail":"starting"}]}"#
        );
        rules.ok();
        assert_eq!(
            health.report().to_json(),
            r#"{"status":"ok","ready":true,"components":[{"name":"rules","status":"ok"}]}"#
        );
    }

    #[test]
    fn degraded_is_ready_down_and_draining_are_not() {
        let health = Health::new();
        let (rules, store) = (health.component("rules"), health.component("store"));
        rules.ok();
        store.degraded("redis is away");
        let report = health.report();
        assert_eq!((report.status, report.ready), ("degraded", true));
        assert_eq!(report.to_string(), "degraded; store: redis is away");
        assert_eq!(health.at_length("store"), None);
        store.degraded_at_length("redis is away", "since noon");
        assert_eq!(health.report(), report);
        assert_eq!(health.at_length("store").as_deref(), Some("since noon"));

        rules.down("no rules");
        assert_eq!(
            (health.report().status, health.report().ready),
            ("down", false)
        );
        rules.ok();
        store.ok();
        assert_eq!(health.at_length("store"), None);
        health.drain();
        assert_eq!(
            (health.report().status, health.report().ready),
            ("draining", false)
        );
    }

    #[test]
    fn the_same_name_is_the_same_component() {
        let health = Health::new();
        health.component("store").degraded("x");
        health.component("store").ok();
        assert_eq!(health.report().components.len(), 1);
        assert!(health.report().ready);
    }
}
