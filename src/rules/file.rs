//! The rule file as it is written: the serde model. What the values mean together is decided in [`compile`](super::compile).

use std::fmt;

use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use super::{
    Mode, OnStoreError,
    decode::Field,
    key::OnMissing,
    matcher::{HostPattern, PathPattern},
    quota::Quota,
};
use crate::limit::Algorithm;

#[derive(Debug, Deserialize)]
pub(super) struct RuleFile {
    pub(super) version: Option<Field<u64>>,
    pub(super) client_ip: Option<Field<ClientIp>>,
    pub(super) defaults: Option<Field<Defaults>>,
    pub(super) rules: Option<Field<Vec<Field<Rule>>>>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct ClientIp {
    pub(super) trusted_proxies: Option<Field<Vec<Field<Network>>>>,
    pub(super) ipv6_prefix: Option<Field<u64>>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Defaults {
    pub(super) algorithm: Option<Field<AlgorithmName>>,
    pub(super) mode: Option<Field<ModeName>>,
    pub(super) on_missing: Option<Field<OnMissingName>>,
    pub(super) on_store_error: Option<Field<OnStoreErrorName>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Rule {
    pub(super) name: Option<Field<String>>,
    #[serde(rename = "match")]
    pub(super) matches: Option<Field<Match>>,
    pub(super) action: Option<Field<ActionName>>,
    pub(super) key: Option<Field<Vec<Field<KeyPart>>>>,
    pub(super) on_missing: Option<Field<OnMissingName>>,
    pub(super) limit: Option<Field<LimitText>>,
    pub(super) limits: Option<Field<Vec<Field<LimitText>>>>,
    pub(super) algorithm: Option<Field<AlgorithmName>>,
    pub(super) mode: Option<Field<ModeName>>,
    pub(super) on_store_error: Option<Field<OnStoreErrorName>>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Match {
    pub(super) path: Option<Field<OneOrMany<PathPattern>>>,
    pub(super) methods: Option<Field<OneOrMany<Method>>>,
    pub(super) host: Option<Field<OneOrMany<HostPattern>>>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ActionName {
    Limit,
    Allow,
    Deny,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum AlgorithmName {
    FixedWindow,
    SlidingWindow,
    SlidingLog,
    TokenBucket,
}

impl From<AlgorithmName> for Algorithm {
    fn from(name: AlgorithmName) -> Self {
        match name {
            AlgorithmName::FixedWindow => Self::FixedWindow,
            AlgorithmName::SlidingWindow => Self::SlidingWindow,
            AlgorithmName::SlidingLog => Self::SlidingLog,
            AlgorithmName::TokenBucket => Self::TokenBucket,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ModeName {
    Enforce,
    Shadow,
}

impl From<ModeName> for Mode {
    fn from(name: ModeName) -> Self {
        match name {
            ModeName::Enforce => Self::Enforce,
            ModeName::Shadow => Self::Shadow,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnMissingName {
    Shared,
    Skip,
    Deny,
}

impl From<OnMissingName> for OnMissing {
    fn from(name: OnMissingName) -> Self {
        match name {
            OnMissingName::Shared => Self::Shared,
            OnMissingName::Skip => Self::Skip,
            OnMissingName::Deny => Self::Deny,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnStoreErrorName {
    Local,
    Allow,
    Deny,
    Proxy,
}

impl From<OnStoreErrorName> for OnStoreError {
    fn from(name: OnStoreErrorName) -> Self {
        match name {
            OnStoreErrorName::Local => Self::Local,
            OnStoreErrorName::Allow => Self::Allow,
            OnStoreErrorName::Deny => Self::Deny,
            OnStoreErrorName::Proxy => Self::Proxy,
        }
    }
}

/// A value that is read from one text.
pub(super) trait FromText: Sized {
    const EXPECTED: &'static str;

    /// The error may end in `\nhint: …`.
    fn from_text(text: &str) -> Result<Self, String>;
}

struct TextVisitor<T>(std::marker::PhantomData<T>);

impl<T: FromText> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(E::custom)
    }
}

macro_rules! deserialize_from_text {
    ($($name:ty),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(TextVisitor(std::marker::PhantomData))
            }
        }
    )*};
}

deserialize_from_text!(PathPattern, HostPattern, Method, Network);

impl FromText for PathPattern {
    const EXPECTED: &'static str = "a path like /data, \"/users/{id}\" or /static/**";

    fn from_text(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl FromText for HostPattern {
    const EXPECTED: &'static str = "a host like api.example.com or \"*.example.com\"";

    fn from_text(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

/// A request method.
#[derive(Debug, Clone)]
pub(super) struct Method(pub(super) String);

impl FromText for Method {
    const EXPECTED: &'static str = "a method like GET";

    fn from_text(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        if http::Method::from_bytes(text.as_bytes()).is_err() {
            return Err(format!(
                "{text:?} is not a method\nhint: write one like GET or POST"
            ));
        }
        if text != upper {
            return Err(format!(
                "methods are case-sensitive, and {text:?} is never sent\nhint: write {upper}"
            ));
        }
        Ok(Self(upper))
    }
}

/// A CIDR block, or one address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Network(pub(super) IpNet);

impl FromText for Network {
    const EXPECTED: &'static str = "a network like 10.0.0.0/8";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse::<IpNet>()
            .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
            .map(|net| Self(net.trunc()))
            .map_err(|_| format!("{text:?} is not a network\nhint: write a CIDR block like 10.0.0.0/8 or 2001:db8::/32"))
    }
}

/// One value, or a list of them.
#[derive(Debug, Clone)]
pub(super) struct OneOrMany<T>(pub(super) Vec<Field<T>>);

impl<'de, T: Deserialize<'de> + FromText> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrManyVisitor<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de> + FromText> Visitor<'de> for OneOrManyVisitor<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}, or a list of them", T::EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMany<T>, E> {
                let value = T::from_text(text).map_err(E::custom)?;
                Ok(OneOrMany(vec![Field::without_place(value)]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<OneOrMany<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(OneOrMany(items))
            }
        }

        deserializer.deserialize_any(OneOrManyVisitor(std::marker::PhantomData))
    }
}

/// A part of a key: `client_ip`, `method`, `host`, `{ header: x-api-key }` or `{ path: tenant }`.
#[derive(Debug, Clone)]
pub(super) enum KeyPart {
    ClientIp,
    Method,
    Host,
    Header { name: String, secret: bool },
    Path { name: String },
}

const KEY_PARTS: &str = "client_ip, method, host, { header: NAME } or { path: PARAMETER }";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyPartFields {
    header: Option<String>,
    path: Option<String>,
    secret: Option<bool>,
}

impl<'de> Deserialize<'de> for KeyPart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyPartVisitor;

        impl<'de> Visitor<'de> for KeyPartVisitor {
            type Value = KeyPart;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(KEY_PARTS)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<KeyPart, E> {
                match text {
                    "client_ip" => Ok(KeyPart::ClientIp),
                    "method" => Ok(KeyPart::Method),
                    "host" => Ok(KeyPart::Host),
                    "ip" => Err(E::custom(
                        "unknown key part \"ip\"\nhint: did you mean client_ip?",
                    )),
                    _ => Err(E::custom(format!(
                        "unknown key part {text:?}\nhint: one of: {KEY_PARTS}"
                    ))),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<KeyPart, A::Error> {
                let fields = KeyPartFields::deserialize(MapAccessDeserializer::new(map))?;
                match fields {
                    KeyPartFields {
                        header: Some(name),
                        path: None,
                        secret,
                    } => Ok(KeyPart::Header {
                        name,
                        secret: secret.unwrap_or(false),
                    }),
                    KeyPartFields {
                        header: None,
                        path: Some(name),
                        secret: None,
                    } => Ok(KeyPart::Path { name }),
                    KeyPartFields {
                        header: Some(_),
                        path: Some(_),
                        ..
                    } => Err(de::Error::custom(
                        "a key part has one source\nhint: write two parts: [{ path: … }, { header: … }]",
                    )),
                    KeyPartFields {
                        secret: Some(_), ..
                    } => Err(de::Error::custom(
                        "only a header can be marked secret\nhint: remove `secret`",
                    )),
                    KeyPartFields { .. } => Err(de::Error::custom(format!(
                        "the key part names no source\nhint: one of: {KEY_PARTS}"
                    ))),
                }
            }
        }

        deserializer.deserialize_any(KeyPartVisitor)
    }
}

/// A limit: `5/m`, or `{ rate: 20/s, burst: 40, algorithm: token_bucket }`.
#[derive(Debug, Clone)]
pub(super) struct LimitText {
    pub(super) quota: Quota,
    pub(super) algorithm: Option<Algorithm>,
    pub(super) text: String,
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
                    super::quota::check_amount(burst, "burst").map_err(de::Error::custom)?;
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
