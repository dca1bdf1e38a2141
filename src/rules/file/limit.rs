//! `limit`: how many, and counted how.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::AlgorithmName;
use crate::{
    limit::Algorithm,
    rules::quota::{self, Quota},
};

/// A limit: `5/m`, or `{ rate: 20/s, burst: 40, algorithm: token_bucket }`.
#[derive(Debug, Clone)]
pub(in crate::rules) struct LimitText {
    pub(in crate::rules) quota: Quota,
    pub(in crate::rules) algorithm: Option<Algorithm>,
    pub(in crate::rules) text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitFields {
    rate: Option<String>,
    burst: Option<u64>,
    algorithm: Option<AlgorithmName>,
}

impl<'de> Deserialize<'de> for LimitText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LimitVisitor;

        impl<'de> Visitor<'de> for LimitVisitor {
            type Value = LimitText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate like 5/m or \"20/s burst 40\", or { rate: 20/s, burst: 40 }")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<LimitText, E> {
                let quota = text.parse().map_err(E::custom)?;
                Ok(LimitText {
                    quota,
                    algorithm: None,
                    text: text.trim().to_owned(),
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<LimitText, A::Error> {
                let fields = LimitFields::deserialize(MapAccessDeserializer::new(map))?;
                let Some(rate) = fields.rate else {
                    return Err(de::Error::custom(
                        "the limit has no rate\nhint: add `rate: 5/m`",
                    ));
                };
                let mut quota: Quota = rate.parse().map_err(de::Error::custom)?;
                let mut text = rate.trim().to_owned();
                if let Some(burst) = fields.burst {
                    if quota.burst.is_some() {
                        return Err(de::Error::custom(
                            "the burst is written twice\nhint: remove one",
                        ));
                    }
                    quota::check_amount(burst, "burst").map_err(de::Error::custom)?;
                    quota.burst = Some(burst);
                    text = format!("{text} burst {burst}");
                }
                Ok(LimitText {
                    quota,
                    algorithm: fields.algorithm.map(Into::into),
                    text,
                })
            }
        }

        deserializer.deserialize_any(LimitVisitor)
    }
}
