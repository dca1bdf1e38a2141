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

/// Client headers that the shipped Envoy and nginx configurations forward, beside those that
/// describe the request itself.
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
            let (envoy, nginx) = forwarding(&name);
            problems.warning(
                &field,
                format!("the shipped proxy configurations do not forward the header {name}"),
                format!(
                    "Envoy: {envoy}; nginx: `{nginx}`; then write `forwarded_headers: [{name}]` at the top of {top}"
                ),
            );
            known.push(name);
        }
    }
}

/// What to write into the configurations of Envoy and nginx to forward a header.
fn forwarding(name: &HeaderName) -> (&'static str, String) {
    if name == header::AUTHORIZATION {
        let nginx = "proxy_set_header Authorization $http_authorization";
        return ("delete its `disallowed_headers`", nginx.to_owned());
    }
    let variable = name.as_str().replace('-', "_");
    let nginx = format!("proxy_set_header {name} $http_{variable}");
    ("add it to `allowed_headers`", nginx)
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
        mode: _,
        on_store_error: _,
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
        said_by(&tier.plan, &tier_path, &mut out);
    }
    said_by(plan, path, &mut out);
    out
}

/// The headers that say limits.
fn said_by(plan: &Plan, path: &FieldPath, out: &mut Vec<(FieldPath, HeaderName)>) {
    let said = plan
        .limits()
        .iter()
        .filter_map(|limit| limit.said_by.as_ref());
    out.extend(said.map(|said| (path.clone(), said.name.clone())));
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
