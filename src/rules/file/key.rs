//! `key`: whose requests share a counter.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};

use super::{
    schema::each_of,
    short::{self, optional_fields},
};
use crate::rules::decode::Field;

/// A part of a key: one word, or a source with its name.
#[derive(Debug, Clone)]
pub(in crate::rules) enum KeyPart {
    ClientIp,
    Method,
    Host,
    Named(NamedPart),
}

optional_fields! {
    /// `{ header: x-api-key, secret: true }`: one source, and how it is shown.
    #[schemars(extend("oneOf" = each_of(&["path", "header", "cookie", "query", "jwt"])))]
    pub(in crate::rules) struct NamedPart {
        /// A {parameter} of the rule's paths.
        path: String,
        /// A request header.
        header: String,
        /// A cookie; always hashed.
        cookie: String,
        /// A query parameter.
        query: String,
        /// A claim of the bearer token, which is not verified; a list leads to a member of a claim.
        jwt: Vec<Field<String>>,
        /// Whether only a hash of the value may be seen.
        secret: bool,
    }
}

pub(in crate::rules) const KEY_PARTS: &str = "client_ip, method, host, { path: PARAMETER }, { header: NAME }, { cookie: NAME }, { query: NAME }, { jwt: CLAIM }";

impl<'de> Deserialize<'de> for KeyPart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyPartVisitor;

        impl<'de> Visitor<'de> for KeyPartVisitor {
            type Value = KeyPart;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a key part\nhint: one of: {KEY_PARTS}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<KeyPart, E> {
                let hint = match text {
                    "client_ip" => return Ok(KeyPart::ClientIp),
                    "method" => return Ok(KeyPart::Method),
                    "host" => return Ok(KeyPart::Host),
                    "ip" | "remote_address" | "client" | "address" => {
                        "did you mean client_ip?".to_owned()
                    }
                    name if NamedPart::FIELDS.contains(&name) => {
                        format!("say which: {{ {name}: NAME }}")
                    }
                    name if name.contains('-') => {
                        format!("if it is a header, write {{ header: {name} }}")
                    }
                    _ => format!("one of: {KEY_PARTS}"),
                };
                Err(E::custom(format!(
                    "unknown key part {text:?}\nhint: {hint}"
                )))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<KeyPart, A::Error> {
                short::fields(map).map(KeyPart::Named)
            }
        }

        short::deserialize(deserializer, NamedPart::FIELDS, KeyPartVisitor)
    }
}
