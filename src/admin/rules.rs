//! `/rules`: the rule set in force as JSON. `/rules/refused`: what is wrong with a newer one.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use super::{access::Access, answer};
use crate::{
    engine::Live,
    health::Health,
    rules::{
        Action, Cost, NamedLimit, Plan, Rule,
        matcher::{Conditions, Matcher, Networks},
        span::span_text,
    },
    wire::{Request, Response},
};

/// The rule set in force.
pub(super) fn rules(live: &Live) -> Response {
    answer::json(StatusCode::OK, rules_json(live).to_string() + "\n")
}

/// What is wrong with the rule file, as `tollgate validate` prints it, if it was refused. It quotes
/// lines of the file, and there may be secrets in them: for whoever may see callers.
pub(super) fn refused(health: &Health, access: &Access, request: &Request) -> Response {
    if let Err(refusal) = access.check_reader(request) {
        return refusal;
    }
    answer::text(
        StatusCode::OK,
        health.at_length("rules").unwrap_or_default(),
    )
}

fn rules_json(live: &Live) -> Value {
    let rules: Vec<Value> = live.set.rules.iter().map(rule_json).collect();
    json!({
        "generation": live.generation,
        "client_ip": {
            "trusted_proxies": live.set.client_ip.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "ipv6_prefix": live.set.client_ip.ipv6_prefix,
        },
        "rules": rules,
    })
}

fn rule_json(rule: &Rule) -> Value {
    let mut out = json!({ "name": *rule.name, "match": conditions_json(&rule.matcher) });
    match &rule.action {
        Action::Allow => out["action"] = json!("allow"),
        Action::Deny(mode) => {
            out["action"] = json!("deny");
            out["mode"] = json!(mode);
        }
        Action::Limit(action) => {
            out["action"] = json!("limit");
            out["mode"] = json!(action.mode);
            out["on_store_error"] = json!(action.on_store_error);
            out["max_new_keys"] = json!(action.max_new_keys);
            out["key"] = json!(action.descriptor.names());
            out["on_missing"] = json!(action.descriptor.on_missing);
            out["cost"] = match &action.cost {
                Cost::Fixed(cost) => json!(cost),
                Cost::Header { name, default, max } => {
                    json!({ "header": name.as_str(), "default": default, "max": max })
                }
            };
            out["limits"] = plan_json(&action.plan);
            if let Some(ban) = &action.ban {
                out["ban"] = json!({
                    "name": *ban.name,
                    "after": ban.ban.after(),
                    "within": span_text(ban.ban.within_us()),
                    "for": span_text(ban.ban.for_us()),
                });
            }
            out["tiers"] = action
                .tiers
                .iter()
                .map(|tier| {
                    json!({
                        "name": *tier.name,
                        "when": conditions_json(&tier.when),
                        "limits": plan_json(&tier.plan),
                    })
                })
                .collect();
            // How many, not whose: their keys are of those callers alone.
            out["overrides"] = json!(action.overrides.len());
        }
    }
    out
}

fn conditions_json(matcher: &Matcher) -> Value {
    fn block(conditions: &Conditions) -> Value {
        fn texts(items: impl IntoIterator<Item = impl ToString>) -> Vec<String> {
            items.into_iter().map(|item| item.to_string()).collect()
        }
        // A new condition must be shown here too.
        let Conditions {
            paths,
            methods,
            schemes,
            hosts,
            client_ip,
            headers,
            query,
        } = conditions;
        json!({
            "path": texts(paths),
            "methods": methods,
            "scheme": schemes,
            "host": texts(hosts),
            "client_ip": texts(client_ip.iter().flat_map(Networks::items)),
            // Names only: what a value must be can be a secret.
            "headers": texts(headers.iter().map(|header| &header.name)),
            "query": texts(query.iter().map(|parameter| &parameter.name)),
        })
    }
    let mut out = block(&matcher.when);
    if !matcher.not.is_empty() {
        out["not"] = matcher.not.iter().map(block).collect();
    }
    out
}

fn plan_json(plan: &Plan) -> Value {
    match plan {
        Plan::Unlimited => json!("unlimited"),
        Plan::Nothing => json!(0),
        Plan::Limits(limits) => limits.iter().map(limit_json).collect(),
    }
}

fn limit_json(limit: &NamedLimit) -> Value {
    let mut out = json!({
        "name": *limit.name,
        "rate": *limit.text,
        "algorithm": limit.limit.algorithm().as_str(),
        "amount": limit.limit.amount(),
        "burst": limit.limit.burst(),
    });
    if let Some(header) = &limit.amount_header {
        out["header"] = json!(header.name.as_str());
        out["max"] = json!(header.max);
    }
    if let Some(candidate) = &limit.candidate {
        out["try"] = limit_json(candidate);
    }
    match &limit.calendar {
        None => {
            let window = Duration::from_micros(limit.limit.window_us());
            out["window_seconds"] = json!(window.as_secs_f64());
        }
        Some(calendar) => {
            out["align"] = json!("calendar");
            out["window"] = json!(calendar.period().name());
            out["timezone"] = json!(calendar.timezone());
        }
    }
    out
}
