//! What the rules ask of a request, and what of that a line of a log holds.

use http::{HeaderName, header};

use crate::rules::{
    Action, Cost, LimitAction, Plan, RuleSet,
    key::{OnMissing, Part},
    matcher::{Conditions, Matcher},
};

/// Something of a request that a log may not hold. (Each has method, path and time.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Thing {
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

impl Thing {
    /// What it is, in words.
    pub(super) fn in_words(&self) -> String {
        match self {
            Self::Query => "the query".to_owned(),
            Self::Host => "the host".to_owned(),
            Self::Scheme => "the scheme".to_owned(),
            Self::ClientIp => "the client's address".to_owned(),
            Self::Header(name) => format!("the header {name}"),
        }
    }
}

/// What a rule does with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It is a part of the key.
    Key(OnMissing),
    /// A condition asks for it.
    Condition,
    /// A tier depends on it.
    Tier(String),
    /// It says what the request costs; without it, this much.
    Cost(u64),
    /// It says how wide a limit is; without it, this text says.
    Amount(String),
}

impl Purpose {
    /// What the rule does without it, in words.
    pub(super) fn without(&self) -> String {
        match self {
            Self::Key(on_missing) => {
                let effect = match on_missing {
                    OnMissing::Shared => "callers are not told apart by it",
                    OnMissing::Skip => "the rule skips the request",
                    OnMissing::Deny => "the rule denies the request",
                };
                format!(
                    "a part of the key; {effect} (on_missing: {})",
                    on_missing.as_str()
                )
            }
            Self::Condition => "a condition; it counts as absent".to_owned(),
            Self::Tier(name) => format!("a condition of tier {name}; it counts as absent"),
            Self::Cost(default) => format!("the cost; each request costs {default}"),
            Self::Amount(text) => format!("the amount of a limit; {text} is taken"),
        }
    }
}

/// What a rule needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) thing: Thing,
    pub(super) purpose: Purpose,
}

/// What the rule at this position needs.
pub(super) fn needs(set: &RuleSet, index: usize) -> Vec<Need> {
    let mut out = Vec::new();
    let Some(rule) = set.rules.get(index) else {
        return out;
    };
    conditions(&rule.matcher, &Purpose::Condition, &mut out);
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
    for part in &descriptor.parts {
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
        add(&mut out, thing, Purpose::Key(descriptor.on_missing));
    }
    match cost {
        Cost::Fixed(_) => {}
        Cost::Header { name, default, .. } => {
            add(
                &mut out,
                Thing::Header(name.clone()),
                Purpose::Cost(*default),
            );
        }
    }
    amounts(plan, &mut out);
    for tier in tiers {
        conditions(&tier.when, &Purpose::Tier(tier.name.to_string()), &mut out);
        amounts(&tier.plan, &mut out);
    }
    out
}

fn add(out: &mut Vec<Need>, thing: Thing, purpose: Purpose) {
    let need = Need { thing, purpose };
    if !out.contains(&need) {
        out.push(need);
    }
}

/// The headers that set the amounts of limits.
fn amounts(plan: &Plan, out: &mut Vec<Need>) {
    for limit in plan.limits() {
        if let Some(header) = &limit.amount_header {
            let purpose = Purpose::Amount(limit.text.to_string());
            add(out, Thing::Header(header.name.clone()), purpose);
        }
    }
}

/// What conditions ask for.
fn conditions(matcher: &Matcher, purpose: &Purpose, out: &mut Vec<Need>) {
    for block in std::iter::once(&matcher.when).chain(&matcher.not) {
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
        let things = [
            (!schemes.is_empty(), Thing::Scheme),
            (!hosts.is_empty(), Thing::Host),
            (client_ip.is_some(), Thing::ClientIp),
            (!query.is_empty(), Thing::Query),
        ];
        let plain = things
            .into_iter()
            .filter_map(|(is, thing)| is.then_some(thing));
        let headers = headers.iter().map(|test| Thing::Header(test.name.clone()));
        for thing in plain.chain(headers) {
            add(out, thing, purpose.clone());
        }
    }
}

/// What of the things that rules ask for a line holds: a bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Holds(u128);

impl Holds {
    pub(super) const QUERY: Self = Self(1);
    pub(super) const HOST: Self = Self(1 << 1);
    pub(super) const SCHEME: Self = Self(1 << 2);
    pub(super) const CLIENT_IP: Self = Self(1 << 3);
    /// The bit of the first header.
    const HEADERS: u32 = 4;

    /// That of a header by its place among the wanted. Places beyond the last bit have none.
    pub(super) const fn header(place: usize) -> Self {
        if place < (u128::BITS - Self::HEADERS) as usize {
            Self(1 << (Self::HEADERS as usize + place))
        } else {
            Self(0)
        }
    }

    pub(super) const fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    pub(super) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// The headers that some rule asks for; no others are read.
#[derive(Debug, Default)]
pub struct Wanted {
    headers: Vec<HeaderName>,
    /// Their names in nginx: `http_x_api_key`.
    variables: Vec<String>,
}

impl Wanted {
    /// What these rule sets ask for.
    pub fn of<'a>(sets: impl IntoIterator<Item = &'a RuleSet>) -> Self {
        let mut headers = Vec::new();
        for set in sets {
            let all = (0..set.rules.len()).flat_map(|index| needs(set, index));
            for need in all {
                if let Thing::Header(name) = need.thing
                    && !headers.contains(&name)
                {
                    headers.push(name);
                }
            }
        }
        let variable = |name: &HeaderName| format!("http_{}", name.as_str().replace('-', "_"));
        Self {
            variables: headers.iter().map(variable).collect(),
            headers,
        }
    }

    /// The wanted headers.
    pub(super) fn headers(&self) -> &[HeaderName] {
        &self.headers
    }

    /// The place of a header.
    pub(super) fn header(&self, name: &str) -> Option<usize> {
        let mut names = self.headers.iter();
        names.position(|own| own.as_str().eq_ignore_ascii_case(name))
    }

    /// The place of a header by its variable in nginx.
    pub(super) fn variable(&self, name: &str) -> Option<usize> {
        self.variables.iter().position(|own| own == name)
    }

    /// The bit of something.
    fn bit(&self, thing: &Thing) -> Holds {
        match thing {
            Thing::Query => Holds::QUERY,
            Thing::Host => Holds::HOST,
            Thing::Scheme => Holds::SCHEME,
            Thing::ClientIp => Holds::CLIENT_IP,
            Thing::Header(name) => self
                .header(name.as_str())
                .map_or(Holds::default(), Holds::header),
        }
    }
}

/// How many lines held what.
#[derive(Debug, Default)]
pub(super) struct HeldCounts {
    lines: u64,
    /// Most lines hold what the one before does: these are counted at once.
    last: Holds,
    run: u64,
    by_bit: Vec<u64>,
}

impl HeldCounts {
    pub(super) fn count(&mut self, holds: Holds) {
        if holds != self.last {
            self.settle();
            self.last = holds;
        }
        self.run += 1;
    }

    fn settle(&mut self) {
        self.by_bit.resize(u128::BITS as usize, 0);
        for (bit, count) in self.by_bit.iter_mut().enumerate() {
            if self.last.0 >> bit & 1 == 1 {
                *count += self.run;
            }
        }
        self.lines += std::mem::take(&mut self.run);
    }

    /// How many lines do not hold a thing.
    pub(super) fn lines_without(&mut self, thing: &Thing, wanted: &Wanted) -> u64 {
        self.settle();
        match wanted.bit(thing) {
            Holds(0) => 0,
            Holds(bit) => {
                let with = self.by_bit.get(bit.trailing_zeros() as usize);
                self.lines - with.copied().unwrap_or(0)
            }
        }
    }
}
