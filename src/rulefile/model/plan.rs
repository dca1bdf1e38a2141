//! `cost`, `tiers`, `overrides`, `ban` and `lease`.

use std::fmt::{self, Display as _};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};

use super::{
    limit::LimitSpec,
    matching::Match,
    short::{self, optional_fields},
    text::{FromText, TextVisitor, deserialize_from_text},
};
use crate::{
    problem::Problem,
    rulefile::decode::{Expected, Field},
    rules::span::span_us,
};

/// The cost of a request: `5`, or `{ header: x-cost, default: 1, max: 100 }`.
#[derive(Debug, Clone)]
pub(in crate::rulefile) enum Cost {
    Fixed(u64),
    Fields(CostFields),
}

optional_fields! {
    /// A cost taken from a header.
    pub(in crate::rulefile) struct CostFields {
        /// The header.
        #[cfg_attr(test, schemars(required))]
        header: String,
        /// The cost without the header, or if it is not a whole number above 0. By default 1.
        #[cfg_attr(test, schemars(range(min = 1, max = 1_000_000_000)))]
        default: u64,
        /// The most that a request can cost, whatever the header says.
        #[cfg_attr(test, schemars(required, range(min = 1, max = 1_000_000_000)))]
        max: u64,
    }
}

impl<'de> Deserialize<'de> for Cost {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CostVisitor;

        impl<'de> Visitor<'de> for CostVisitor {
            type Value = Cost;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Expected::new(
                    "a cost",
                    "write a whole number like 5, or { header: x-cost, default: 1, max: 100 }",
                )
                .fmt(f)
            }

            fn visit_u64<E: de::Error>(self, cost: u64) -> Result<Cost, E> {
                Ok(Cost::Fixed(cost))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Cost, A::Error> {
                short::fields(map).map(Cost::Fields)
            }
        }

        short::deserialize(deserializer, CostFields::FIELDS, CostVisitor)
    }
}

/// Limits for one kind of client.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields, extend("oneOf" = super::one_of::each_of(&["limit", "limits"]))))]
pub(in crate::rulefile) struct Tier {
    /// Its name in responses. By default `tier1` and so on.
    #[cfg_attr(
        test,
        schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9_.-]+$"))
    )]
    pub(in crate::rulefile) name: Option<Field<String>>,
    /// Which clients: conditions as in `match`.
    #[cfg_attr(test, schemars(required))]
    pub(in crate::rulefile) when: Option<Field<Match>>,
    /// How many requests are admitted per window.
    pub(in crate::rulefile) limit: Option<Field<LimitSpec>>,
    /// Several limits; all apply.
    #[cfg_attr(test, schemars(extend("minItems" = 1)))]
    pub(in crate::rulefile) limits: Option<Field<Vec<Field<LimitSpec>>>>,
}

/// Limits for one client.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields, extend("oneOf" = super::one_of::each_of(&["limit", "limits"]))))]
pub(in crate::rulefile) struct Override {
    /// Its name in responses. By default `override`.
    #[cfg_attr(
        test,
        schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9_.-]+$"))
    )]
    pub(in crate::rulefile) name: Option<Field<String>>,
    /// Which client: the value of the rule's key, or a list with one value for each of its parts.
    #[cfg_attr(test, schemars(required))]
    pub(in crate::rulefile) key: Option<Field<Vec<Field<KeyValue>>>>,
    /// How many requests are admitted per window.
    pub(in crate::rulefile) limit: Option<Field<LimitSpec>>,
    /// Several limits; all apply.
    #[cfg_attr(test, schemars(extend("minItems" = 1)))]
    pub(in crate::rulefile) limits: Option<Field<Vec<Field<LimitSpec>>>>,
}

/// Denies clients for longer that are denied too often.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(in crate::rulefile) struct Ban {
    /// How many denials begin the ban.
    #[cfg_attr(test, schemars(required, range(min = 1, max = 1_000_000)))]
    pub(in crate::rulefile) after: Option<Field<u64>>,
    /// How long a denial counts, from the first of them.
    #[cfg_attr(test, schemars(required))]
    pub(in crate::rulefile) within: Option<Field<Span>>,
    /// How long the ban lasts.
    #[cfg_attr(test, schemars(required))]
    #[serde(rename = "for")]
    pub(in crate::rulefile) duration: Option<Field<Span>>,
}

/// Charges ahead of requests, so that most of them need not ask Redis.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(in crate::rulefile) struct Lease {
    /// How much of each limit all replicas together may hold at a time: 1% to 50%.
    #[cfg_attr(test, schemars(required))]
    pub(in crate::rulefile) share: Option<Field<Percent>>,
    /// How long what was charged ahead may be used: 1ms to 1s.
    #[cfg_attr(test, schemars(required))]
    pub(in crate::rulefile) ttl: Option<Field<Span>>,
}

/// A whole number of percent, like `10%`.
#[derive(Debug, Clone, Copy)]
pub(in crate::rulefile) struct Percent(pub(in crate::rulefile) u64);

deserialize_from_text!(Percent);

impl FromText for Percent {
    const EXPECTED: Expected = Expected::new("a percentage", "write one like 10%");

    fn from_text(text: &str) -> Result<Self, Problem> {
        let number = text.strip_suffix('%');
        let number = number.filter(|number| number.bytes().all(|b| b.is_ascii_digit()));
        let number = number.and_then(|number| number.parse().ok());
        number.map(Self).ok_or_else(|| {
            Problem::new(
                format!("{text:?} is not a whole number of percent"),
                "write one like 10%",
            )
        })
    }

    fn from_number(number: u64) -> Option<Result<Self, Problem>> {
        Some(Err(Problem::new(
            format!("{number} is not a percentage"),
            format!("add the unit, like {number}%"),
        )))
    }
}

/// A file of overrides.
#[derive(Debug, Deserialize)]
pub(in crate::rulefile) struct OverridesFile {
    pub(in crate::rulefile) version: Option<Field<u64>>,
    pub(in crate::rulefile) overrides: Option<Field<Vec<Field<Override>>>>,
}

/// The value of a key part as a request would have it, or its hash as Redis shows it.
#[derive(Debug, Clone)]
pub(in crate::rulefile) struct KeyValue(pub(in crate::rulefile) String);

impl<'de> Deserialize<'de> for KeyValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;

        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = KeyValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Expected::new(
                    "the value of a key part",
                    "write the value that a request would have, in quotes unless it is a word",
                )
                .fmt(f)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<KeyValue, E> {
                Ok(KeyValue(text.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<KeyValue, E> {
                Ok(KeyValue(number.to_string()))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<KeyValue, E> {
                Ok(KeyValue(value.to_string()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<KeyValue, A::Error> {
                Err(de::Error::custom(Problem::new(
                    "expected one value, but found a list",
                    "write one override for each value",
                )))
            }
        }

        deserializer.deserialize_str(ValueVisitor)
    }
}

/// A length of time like `10s` or `5 minutes`, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(in crate::rulefile) struct Span(pub(in crate::rulefile) u64);

deserialize_from_text!(Span);

impl FromText for Span {
    const EXPECTED: Expected =
        Expected::new("a length of time", "write one like 30s, 5m or 1h 30m");

    fn from_text(text: &str) -> Result<Self, Problem> {
        span_us(text).map(Self).map_err(|_| {
            Problem::new(
                format!("{text:?} is not a length of time"),
                "write one like 30s, 5m or 1h 30m",
            )
        })
    }

    fn from_number(number: u64) -> Option<Result<Self, Problem>> {
        Some(Err(Problem::new(
            format!("{number} is not a length of time"),
            format!("add a unit, like {number}s"),
        )))
    }
}
