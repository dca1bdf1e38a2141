//! What the rules ask of a request, and what of that a line of a log holds.

use http::HeaderName;

use crate::rules::{
    Rule, RuleSet,
    key::OnMissing,
    needs::{Purpose, Thing},
};

/// What a rule needs, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) thing: Thing,
    /// What the rule does without it.
    pub(super) without: String,
}

/// What the rule at this position needs.
pub(super) fn needs(set: &RuleSet, index: usize) -> Vec<Need> {
    let mut out = Vec::new();
    for need in set.rules.get(index).into_iter().flat_map(Rule::needs) {
        let need = Need {
            thing: need.thing,
            without: without(need.purpose),
        };
        if !out.contains(&need) {
            out.push(need);
        }
    }
    out
}

/// What it is, in words.
pub(super) fn in_words(thing: &Thing) -> String {
    match thing {
        Thing::Query => "the query".to_owned(),
        Thing::Host => "the host".to_owned(),
        Thing::Scheme => "the scheme".to_owned(),
        Thing::ClientIp => "the client's address".to_owned(),
        Thing::Header(name) => format!("the header {name}"),
    }
}

/// What a rule does without what it asks for, in words.
fn without(purpose: Purpose<'_>) -> String {
    match purpose {
        Purpose::Key { on_missing, .. } => {
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
        Purpose::Condition { tier: None, .. } => "a condition; it counts as absent".to_owned(),
        Purpose::Condition {
            tier: Some((_, name)),
            ..
        } => format!("a condition of tier {name}; it counts as absent"),
        Purpose::Cost { default } => format!("the cost; each request costs {default}"),
        Purpose::Amount { text, .. } => format!("the amount of a limit; {text} is taken"),
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
