//! Headers that rules ask for and the proxy does not send: such a rule is not wrong, and silently never does what it says.

use http::{HeaderName, header};

use super::{Compiler, given};
use crate::rules::{
    Action, Cost, LimitAction, Rule,
    decode::Field,
    key::Part,
    matcher::Matcher,
    yaml::{Document, Path, Step},
};

/// What the Envoy and nginx configurations that come with tollgate forward of a client's headers, beside those that describe
/// the request itself.
pub const SHIPPED_HEADERS: &[&str] = &["x-api-key"];

impl Compiler<'_, '_> {
    /// The headers that the proxy forwards; `None` if it forwards all.
    pub(super) fn forwarded_headers(
        &mut self,
        field: Option<&Field<Vec<Field<String>>>>,
    ) -> Option<Vec<HeaderName>> {
        let mut names: Vec<HeaderName> = SHIPPED_HEADERS
            .iter()
            .map(|name| HeaderName::from_static(name))
            .collect();
        for field in given(field).into_iter().flatten() {
            let Some(name) = field.value.as_deref() else {
                continue;
            };
            if name == "*" {
                return None;
            }
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) => names.push(name),
                Err(_) => self.problem(
                    field,
                    format!("{name:?} is not the name of a header"),
                    "write it like x-plan, or \"*\" if the proxy forwards all headers",
                ),
            }
        }
        Some(names)
    }
}

/// Warns of headers that rules ask for and that are not among those which the proxy forwards; of each once, where it is asked for
/// first.
pub(super) fn lint(
    document: &mut Document<'_>,
    rules: &[(&Rule, &Path)],
    forwarded: &[HeaderName],
) {
    let mut told = forwarded.to_vec();
    for (rule, path) in rules {
        for (place, name) in asked(rule, path) {
            if told.contains(&name) {
                continue;
            }
            let (envoy, nginx) = if name == header::AUTHORIZATION {
                (
                    "delete its `disallowed_headers`".to_owned(),
                    "proxy_set_header Authorization $http_authorization".to_owned(),
                )
            } else {
                (
                    "add it to `allowed_headers`".to_owned(),
                    format!(
                        "proxy_set_header {name} $http_{}",
                        name.as_str().replace('-', "_")
                    ),
                )
            };
            document.warning(
                &place,
                format!("the shipped proxy configurations do not forward the header {name}"),
                &format!(
                    "Envoy: {envoy}; nginx: `{nginx}`; then write `forwarded_headers: [{name}]` at the top of this file"
                ),
            );
            told.push(name);
        }
    }
}

/// The headers that a rule asks for, with where it does.
fn asked(rule: &Rule, path: &Path) -> Vec<(Path, HeaderName)> {
    let key = |path: &Path, name: &str| path.child(Step::Key(name.to_owned()));
    let mut out = Vec::new();
    conditions(&rule.matcher, &key(path, "match"), &mut out);
    let Action::Limit(action) = &rule.action else {
        return out;
    };
    let LimitAction {
        descriptor,
        cost,
        tiers,
        ..
    } = &**action;
    for (index, part) in descriptor.parts.iter().enumerate() {
        let name = match part {
            Part::Header { name, .. } => name.clone(),
            Part::Cookie { .. } => header::COOKIE,
            Part::Jwt { .. } => header::AUTHORIZATION,
            Part::ClientIp | Part::Method | Part::Host | Part::Path { .. } | Part::Query { .. } => {
                continue;
            }
        };
        out.push((key(path, "key").child(Step::Index(index)), name));
    }
    if let Cost::Header { name, .. } = cost {
        out.push((key(&key(path, "cost"), "header"), name.clone()));
    }
    for (index, tier) in tiers.iter().enumerate() {
        let tier_path = key(path, "tiers").child(Step::Index(index));
        conditions(&tier.when, &key(&tier_path, "when"), &mut out);
    }
    out
}

fn conditions(matcher: &Matcher, path: &Path, out: &mut Vec<(Path, HeaderName)>) {
    let within = |path: &Path, name: &HeaderName| {
        path.child(Step::Key("headers".to_owned()))
            .child(Step::Key(name.as_str().to_owned()))
    };
    for header in &matcher.when.headers {
        out.push((within(path, &header.name), header.name.clone()));
    }
    for (index, block) in matcher.not.iter().enumerate() {
        let path = path
            .child(Step::Key("not".to_owned()))
            .child(Step::Index(index));
        for header in &block.headers {
            out.push((within(&path, &header.name), header.name.clone()));
        }
    }
}
