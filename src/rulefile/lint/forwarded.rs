//! Warns of headers that rules ask for and the proxy does not forward. Such a rule is valid, and
//! silently never does what it says.

use http::{HeaderName, header};

use super::placed::Placed;
use crate::{
    rulefile::yaml::FieldPath,
    rules::{
        Action, Cost, LimitAction, Plan, Rule,
        key::Part,
        matcher::{Conditions, Matcher},
    },
};

/// Client headers that all shipped proxy configurations forward, beside those that describe the
/// request itself. (Caddy's forwards nearly all.)
pub const SHIPPED_HEADERS: &[&str] = &["x-api-key"];

/// Warns of each header that is not forwarded, where a rule first asks for it.
pub(super) fn lint(rules: &[Placed<'_>], main: &str, forwarded: &[HeaderName]) {
    let mut known = forwarded.to_vec();
    for Placed {
        rule,
        path,
        problems,
        file,
    } in rules
    {
        let top = if *file == main { "this file" } else { main };
        for (field, name) in asked(rule, path) {
            if known.contains(&name) {
                continue;
            }
            problems.warning(
                &field,
                format!("some shipped proxy configurations do not forward the header {name}"),
                format!(
                    "{}; then write `forwarded_headers: [{name}]` at the top of {top}",
                    forwarding(&name)
                ),
            );
            known.push(name);
        }
    }
}

/// What to change in the configurations of the proxies to forward a header.
fn forwarding(name: &HeaderName) -> String {
    let variable = name.as_str().replace('-', "_");
    let envoy = if name == header::AUTHORIZATION {
        "delete its `disallowed_headers`"
    } else {
        "add it to `allowed_headers`"
    };
    let nginx = format!("proxy_set_header {name} $http_{variable}");
    let haproxy = "add it to `FORWARDED` in tollgate.lua";
    let caddy = match *name {
        header::AUTHORIZATION => "; Caddy: delete `header_up -Authorization`",
        header::COOKIE => "; Caddy: delete `header_up -Cookie`",
        _ => "",
    };
    format!("Envoy: {envoy}; nginx: `{nginx}`; HAProxy: {haproxy}{caddy}")
}

/// The headers that a rule asks for, each with the path of the field.
fn asked(rule: &Rule, path: &FieldPath) -> Vec<(FieldPath, HeaderName)> {
    let mut out = Vec::new();
    conditions(&rule.matcher, &path.key("match"), &mut out);
    let Action::Limit(action) = &rule.action else {
        return out;
    };
    let LimitAction {
        descriptor,
        cost,
        tiers,
        plan,
        overrides: _,
        ban: _,
        lease: _,
        mode: _,
        on_store_error: _,
        max_new_keys: _,
    } = &**action;
    for (index, part) in descriptor.parts.iter().enumerate() {
        let name = match part {
            Part::Header { name, .. } => name.clone(),
            Part::Cookie { .. } => header::COOKIE,
            Part::Jwt { .. } => header::AUTHORIZATION,
            Part::ClientIp
            | Part::Method
            | Part::Scheme
            | Part::Host
            | Part::Path { .. }
            | Part::Query { .. } => continue,
        };
        out.push((path.key("key").index(index), name));
    }
    match cost {
        Cost::Fixed(_) => {}
        Cost::Header { name, .. } => out.push((path.key("cost").key("header"), name.clone())),
    }
    for (index, tier) in tiers.iter().enumerate() {
        let tier_path = path.key("tiers").index(index);
        conditions(&tier.when, &tier_path.key("when"), &mut out);
        amount_headers(&tier.plan, &tier_path, &mut out);
    }
    amount_headers(plan, path, &mut out);
    out
}

/// The headers that set the amounts of limits.
fn amount_headers(plan: &Plan, path: &FieldPath, out: &mut Vec<(FieldPath, HeaderName)>) {
    let headers = plan
        .limits()
        .iter()
        .filter_map(|limit| limit.amount_header.as_ref());
    out.extend(headers.map(|header| (path.clone(), header.name.clone())));
}

/// The headers that conditions ask for.
fn conditions(matcher: &Matcher, path: &FieldPath, out: &mut Vec<(FieldPath, HeaderName)>) {
    let not = matcher.not.iter().enumerate();
    let not = not.map(|(index, block)| (path.key("not").index(index), block));
    for (path, block) in std::iter::once((path.clone(), &matcher.when)).chain(not) {
        // A new condition must say here whether it asks for a header.
        let Conditions {
            paths: _,
            methods: _,
            schemes: _,
            hosts: _,
            client_ip: _,
            headers,
            query: _,
        } = block;
        let at = path.key("headers");
        let names = headers.iter().map(|header| &header.name);
        out.extend(names.map(|name| (at.key(name.as_str()), name.clone())));
    }
}
