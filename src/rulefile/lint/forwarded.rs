//! Warns of headers that rules ask for and the proxy does not forward. Such a rule is valid, and
//! silently never does what it says.

use http::{HeaderName, header};

use super::placed::Placed;
use crate::{
    rulefile::yaml::FieldPath,
    rules::{
        Rule,
        needs::{Purpose, Thing},
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
    let headers = rule
        .needs()
        .into_iter()
        .filter_map(|need| match need.thing {
            Thing::Header(name) => Some((field(need.purpose, &name, path), name)),
            Thing::Query | Thing::Host | Thing::Scheme | Thing::ClientIp => None,
        });
    headers.collect()
}

/// Where a rule asks for a header.
fn field(purpose: Purpose<'_>, name: &HeaderName, path: &FieldPath) -> FieldPath {
    let of_tier = |place| path.key("tiers").index(place);
    match purpose {
        Purpose::Key { part, .. } => path.key("key").index(part),
        Purpose::Cost { .. } => path.key("cost").key("header"),
        Purpose::Amount { tier, .. } => tier.map_or_else(|| path.clone(), of_tier),
        Purpose::Condition { tier, not } => {
            let block = match tier {
                Some((place, _)) => of_tier(place).key("when"),
                None => path.key("match"),
            };
            let block = match not {
                Some(place) => block.key("not").index(place),
                None => block,
            };
            block.key("headers").key(name.as_str())
        }
    }
}
