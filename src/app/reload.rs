//! A changed rule file: bytes, rule set, swap, report.

use std::{
    cell::RefCell,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context as _;
use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::{
    files::{as_text, load_noting},
    settings::Settings,
};
use crate::{
    clock::Clock,
    counter_key::KeySettings,
    engine::Engine,
    health::{Component, Health},
    metrics::Metrics,
    rulefile::Diagnostics,
    rules::RuleSet,
    watch::{self, Other},
};

/// Puts new content of the rule file in force, or reports why not.
pub(super) struct Reloader {
    path: PathBuf,
    keys: KeySettings,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    component: Component,
    clock: Arc<dyn Clock>,
}

impl Reloader {
    pub(super) fn new(
        settings: &Settings,
        engine: &Arc<Engine>,
        metrics: &Arc<Metrics>,
        health: &Health,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let component = health.component("rules");
        component.ok();
        Self {
            path: settings.rules.clone(),
            keys: settings.keys.clone(),
            engine: Arc::clone(engine),
            metrics: Arc::clone(metrics),
            component,
            clock,
        }
    }

    /// Applies the bytes of the rule file. Returns the files that it names, unless it cannot be
    /// read far enough to say: then those of the rules in force still matter.
    fn apply(&self, bytes: Vec<u8>) -> Option<Vec<Other>> {
        let text = match as_text(bytes) {
            Ok(text) => text,
            Err(error) => {
                self.refuse(&error.to_string());
                return None;
            }
        };
        let others = RefCell::new(Vec::new());
        let load = || load_noting(&self.path, &text, &self.keys, &others);
        // A panic while loading must not stop later reloads.
        let Ok(loaded) = panic::catch_unwind(AssertUnwindSafe(load)) else {
            self.refuse("tollgate panicked while reading it; this is a bug, please report it");
            return None;
        };
        let diagnostics = loaded.diagnostics;
        match loaded.set {
            Some(set) => self.put_in_force(set, &diagnostics),
            None => self.refuse_with(&diagnostics.summary(), &format!("\n{diagnostics}")),
        }
        let others = others.into_inner();
        (!others.is_empty() || !diagnostics.has_errors()).then_some(others)
    }

    fn put_in_force(&self, set: RuleSet, diagnostics: &Diagnostics) {
        if set == self.engine.live().set {
            // An edit that was refused has been undone.
            self.metrics.rules_unchanged();
            self.component.ok();
            return;
        }
        let rules = set.rules.len();
        let generation = self.engine.replace(set);
        self.metrics.rules_in_force(rules, self.clock.now_us());
        self.component.ok();
        info!(generation, rules, "the changed rules are in force");
        log_warnings(diagnostics);
    }

    fn refuse(&self, reason: &str) {
        let reason = format!("{}: {reason}", self.path.display());
        self.refuse_with(&reason, &reason);
    }

    fn refuse_with(&self, summary: &str, details: &str) {
        self.metrics.rules_refused();
        error!("the rule file is not valid, so the older rules stay in force: {details}");
        self.component.degraded_at_length(
            format!("the rule file was refused; older rules are in force: {summary}"),
            details.trim_start(),
        );
    }
}

/// Watches the rule file until `shutdown` completes. SIGHUP has it read at once.
pub(super) fn watch(
    reloader: Reloader,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<impl Future<Output = ()>> {
    let force = Arc::new(Notify::new());
    watch::force_on_sighup(Arc::clone(&force)).context("SIGHUP cannot be handled")?;
    let options = watch::Options {
        force,
        ..watch::Options::default()
    };
    let path = reloader.path.clone();
    let apply = move |bytes| reloader.apply(bytes);
    Ok(watch::watch(path, options, apply, shutdown))
}

/// Logs what in the rules in force is probably a mistake.
pub fn log_warnings(diagnostics: &Diagnostics) {
    if !diagnostics.list.is_empty() {
        warn!("the rules are in force, with warnings:\n{diagnostics}");
    }
}
