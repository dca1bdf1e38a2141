//! `key`: whose requests share a counter.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// A part of a key: `client_ip`, `method`, `host`, `{ header: x-api-key }` or `{ path: tenant }`.
#[derive(Debug, Clone)]
pub(in crate::rules) enum KeyPart {
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
