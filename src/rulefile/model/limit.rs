//! `limit`: how many requests per window, and how they are counted.

use std::fmt::{self, Display as _};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};

use super::{
    short::{self, optional_fields},
    text::{FromText, TextVisitor, deserialize_from_text},
};
use crate::{
    limit::Algorithm,
    problem::Problem,
    rulefile::{
        decode::Expected,
        rate::{Rate, Window, window_of},
    },
};

/// A limit: `5/m`, `{ rate: 20/s, burst: 40 }`, `unlimited`, or `0`.
#[derive(Debug, Clone)]
pub(in crate::rulefile) enum LimitSpec {
    Rate(RateSpec),
    Fields(Box<LimitFields>),
}

optional_fields! {
    /// A limit with all its fields.
    #[cfg_attr(test, schemars(extend("oneOf" = super::one_of::each_of(&["rate", "header"]))))]
    pub(in crate::rulefile) struct LimitFields {
        /// How many requests are admitted per window.
        rate: RateSpec,
        /// A request header that says how many, instead of `rate`.
        header: String,
        /// The amount without the header, or if it is not a whole number above 0.
        #[cfg_attr(test, schemars(range(min = 1, max = 1_000_000_000)))]
        default: u64,
        /// The largest amount, whatever the header says.
        #[cfg_attr(test, schemars(range(min = 1, max = 1_000_000_000)))]
        max: u64,
        /// The window of a limit set by a header, like 1m.
        per: Per,
        /// How many may come at once; makes it a token bucket.
        #[cfg_attr(test, schemars(range(min = 1, max = 1_000_000_000)))]
        burst: u64,
        /// How the limit counts.
        algorithm: Algorithm,
        /// `calendar`: windows are the hours, days, weeks or months of `timezone`.
        align: AlignName,
        /// A name of the IANA time zone database, like Europe/Paris. By default UTC.
        timezone: String,
        /// A rate to try out: requests are counted against it too, and what it would deny is
        /// reported, but not denied.
        r#try: RateSpec,
    }
}

/// The window of a limit, with its text as written.
#[derive(Debug, Clone)]
pub(in crate::rulefile) struct Per(
    pub(in crate::rulefile) Window,
    pub(in crate::rulefile) String,
);

deserialize_from_text!(Per);

impl FromText for Per {
    const EXPECTED: Expected = Expected::new("a window", "write one like 1m, 30s or day");

    fn from_text(text: &str) -> Result<Self, Problem> {
        let words: Vec<&str> = text.split_whitespace().collect();
        window_of(text).map(|window| Self(window, words.join(" ")))
    }

    fn from_number(number: u64) -> Option<Result<Self, Problem>> {
        Some(Err(Problem::new(
            format!("{number} is not a window"),
            format!("add a unit, like {number}s"),
        )))
    }
}

/// What the windows of a limit begin with.
#[derive(Debug, Clone, Copy, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(in crate::rulefile) enum AlignName {
    /// The calendar of the time zone.
    Calendar,
}

/// The rate of a limit.
#[derive(Debug, Clone)]
pub(in crate::rulefile) enum RateSpec {
    /// A rate, with its text as written.
    Rate(Rate, String),
    /// `unlimited`: counts nothing.
    Unlimited,
    /// `0`: admits nothing.
    Nothing,
}

deserialize_from_text!(RateSpec);

impl FromText for RateSpec {
    const EXPECTED: Expected = Expected::new(
        "a rate",
        "write one like 5/m or \"20/s burst 40\", or unlimited, or 0",
    );

    fn from_text(text: &str) -> Result<Self, Problem> {
        match text.trim() {
            "unlimited" => Ok(Self::Unlimited),
            "0" => Ok(Self::Nothing),
            trimmed => {
                let rate: Rate = trimmed.parse()?;
                if rate.amount == 0 {
                    return Ok(Self::Nothing);
                }
                // The text appears in response headers, which have one line.
                let words: Vec<&str> = trimmed.split_whitespace().collect();
                Ok(Self::Rate(rate, words.join(" ")))
            }
        }
    }

    fn from_number(number: u64) -> Option<Result<Self, Problem>> {
        Some(match number {
            0 => Ok(Self::Nothing),
            _ => Err(Problem::new(
                format!("{number} is not a rate"),
                format!("add the time, like {number}/m"),
            )),
        })
    }
}

impl<'de> Deserialize<'de> for LimitSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LimitVisitor;

        impl<'de> Visitor<'de> for LimitVisitor {
            type Value = LimitSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Expected::new("a limit", "write one like 5/m, \"20/s burst 40\" or { rate: 20/s, burst: 40 }, or unlimited, or 0").fmt(f)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<LimitSpec, E> {
                TextVisitor::NEW.visit_str(text).map(LimitSpec::Rate)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<LimitSpec, E> {
                TextVisitor::NEW.visit_u64(number).map(LimitSpec::Rate)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<LimitSpec, A::Error> {
                Err(de::Error::custom(Problem::new(
                    "expected one limit, but found a list",
                    "write a list of limits under `limits`, one item each",
                )))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<LimitSpec, A::Error> {
                short::fields(map).map(|fields| LimitSpec::Fields(Box::new(fields)))
            }
        }

        short::deserialize(deserializer, LimitFields::FIELDS, LimitVisitor)
    }
}
