//! What a rule asks of a request, apart from its method, path and time.

use http::{HeaderName, header};

use super::{
    key::{OnMissing, Part},
    matcher::{Conditions, Matcher},
    rule::{Action, Cost, LimitAction, Plan, Rule},
};

/// Something of a request that may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thing {
    /// The query of the target.
    Query,
    /// The host.
    Host,
    /// `http` or `https`.
    Scheme,
    /// The client's address.
    ClientIp,
    /// A header.
    Header(HeaderName),
}

/// What a rule does with it, and where the rule says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// It is a part of the key.
    Key {
        /// The place of the part.
        part: usize,
        /// What happens without it.
        on_missing: OnMissing,
    },
    /// A condition asks for it.
    Condition {
        /// The tier whose condition it is, by its place and name.
        tier: Option<(usize, &'a str)>,
        /// The place in `not`.
        not: Option<usize>,
    },
    /// It says what the request costs.
    Cost {
        /// What it costs without.
        default: u64,
    },
    /// It says how wide a limit is.
    Amount {
        /// The place of the tier whose limit it is.
        tier: Option<usize>,
        /// How wide the limit is without.
        text: &'a str,
    },
}

/// What a rule needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need<'a> {
    /// What of a request.
    pub thing: Thing,
    /// What for.
    pub purpose: Purpose<'a>,
}

impl Rule {
    /// What the rule needs, in the order in which it looks for it.
    pub fn needs(&self) -> Vec<Need<'_>> {
        let mut out = Vec::new();
        conditions(&self.matcher, None, &mut out);
        let Action::Limit(action) = &self.action else {
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
        for (place, part) in descriptor.parts.iter().enumerate() {
            let thing = match part {
                Part::Header { name, .. } => Thing::Header(name.clone()),
                Part::Cookie { .. } => Thing::Header(header::COOKIE),
                Part::Jwt { .. } => Thing::Header(header::AUTHORIZATION),
                Part::Query { .. } => Thing::Query,
                Part::ClientIp => Thing::ClientIp,
                Part::Scheme => Thing::Scheme,
                Part::Host => Thing::Host,
                Part::Method | Part::Path { .. } => continue,
            };
            let purpose = Purpose::Key {
                part: place,
                on_missing: descriptor.on_missing,
            };
            out.push(Need { thing, purpose });
        }
        match cost {
            Cost::Fixed(_) => {}
            Cost::Header { name, default, .. } => out.push(Need {
                thing: Thing::Header(name.clone()),
                purpose: Purpose::Cost { default: *default },
            }),
        }
        amounts(plan, None, &mut out);
        for (place, tier) in tiers.iter().enumerate() {
            conditions(&tier.when, Some((place, &tier.name)), &mut out);
            amounts(&tier.plan, Some(place), &mut out);
        }
        out
    }
}

/// The headers that set the amounts of limits.
fn amounts<'a>(plan: &'a Plan, tier: Option<usize>, out: &mut Vec<Need<'a>>) {
    for limit in plan.limits() {
        if let Some(header) = &limit.amount_header {
            out.push(Need {
                thing: Thing::Header(header.name.clone()),
                purpose: Purpose::Amount {
                    tier,
                    text: &limit.text,
                },
            });
        }
    }
}

/// What conditions ask for.
fn conditions<'a>(matcher: &'a Matcher, tier: Option<(usize, &'a str)>, out: &mut Vec<Need<'a>>) {
    let not = matcher.not.iter().enumerate();
    let not = not.map(|(place, block)| (Some(place), block));
    for (not, block) in std::iter::once((None, &matcher.when)).chain(not) {
        // A new condition must say here what of a request it asks for.
        let Conditions {
            paths: _,
            methods: _,
            schemes,
            hosts,
            client_ip,
            headers,
            query,
        } = block;
        let plain = [
            (!schemes.is_empty(), Thing::Scheme),
            (!hosts.is_empty(), Thing::Host),
            (client_ip.is_some(), Thing::ClientIp),
            (!query.is_empty(), Thing::Query),
        ];
        let plain = plain
            .into_iter()
            .filter_map(|(is_asked, thing)| is_asked.then_some(thing));
        let headers = headers.iter().map(|test| Thing::Header(test.name.clone()));
        let purpose = Purpose::Condition { tier, not };
        out.extend(plain.chain(headers).map(|thing| Need { thing, purpose }));
    }
}
