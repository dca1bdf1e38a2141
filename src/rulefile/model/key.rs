//! `key`: whose requests share a counter.

use std::fmt::{self, Display as _};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};

use super::short::{self, optional_fields};
use crate::{problem::Problem, rulefile::decode::Field, words::words};

/// A part of a key: one word, or a source with its name.
#[derive(Debug, Clone)]
pub(in crate::rulefile) enum KeyPart {
    Plain(PlainPart),
    Named(NamedPart),
}

words! {
    /// A part of a key that needs no name.
    pub(in crate::rulefile) enum PlainPart {
        /// The client's address.
        ClientIp => "client_ip",
        /// The request's method.
        Method => "method",
        /// How the client reached the proxy: `http` or `https`.
        Scheme => "scheme",
        /// The request's host.
        Host => "host",
    }
}

optional_fields! {
    /// A named part of a key, like `{ header: x-api-key, secret: true }`.
    #[cfg_attr(test, schemars(extend("oneOf" = super::one_of::each_of(&sources()))))]
    pub(in crate::rulefile) struct NamedPart {
        /// A {parameter} of the rule's paths.
        path: String,
        /// A request header.
        header: String,
        /// A cookie; always hashed.
        cookie: String,
        /// A query parameter.
        query: String,
        /// A claim of the bearer token, which is not verified. A list leads to a member of a claim.
        jwt: Vec<Field<String>>,
        /// Whether the value may only appear as a hash.
        secret: bool,
    }
}

/// All key parts, for messages: `client_ip, …, { path: PARAMETER }, …`.
pub(in crate::rulefile) fn key_parts() -> String {
    let plain = PlainPart::ALL.iter().map(|part| part.as_str().to_owned());
    let sources = sources().into_iter();
    let named = sources.map(|source| {
        let name = match source {
            "path" => "PARAMETER",
            "jwt" => "CLAIM",
            _ => "NAME",
        };
        format!("{{ {source}: {name} }}")
    });
    plain.chain(named).collect::<Vec<_>>().join(", ")
}

/// The field of a named part that is not a source.
const SECRET: &str = "secret";

/// The sources of a named part, of which it has one.
fn sources() -> Vec<&'static str> {
    let names = NamedPart::FIELDS.iter().copied();
    names.filter(|name| *name != SECRET).collect()
}

impl<'de> Deserialize<'de> for KeyPart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyPartVisitor;

        impl<'de> Visitor<'de> for KeyPartVisitor {
            type Value = KeyPart;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let hint = format!("one of: {}", key_parts());
                Problem::new("a key part", hint).fmt(f)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<KeyPart, E> {
                let plain = PlainPart::ALL
                    .into_iter()
                    .find(|part| part.as_str() == text);
                if let Some(part) = plain {
                    return Ok(KeyPart::Plain(part));
                }
                let hint = match text {
                    "ip" | "remote_address" | "client" | "address" => {
                        "did you mean client_ip?".to_owned()
                    }
                    name if NamedPart::FIELDS.contains(&name) => {
                        format!("add its name: {{ {name}: NAME }}")
                    }
                    name if name.contains('-') => {
                        format!("if this is a header, write {{ header: {name} }}")
                    }
                    _ => format!("one of: {}", key_parts()),
                };
                Err(E::custom(Problem::new(
                    format!("unknown key part {text:?}"),
                    hint,
                )))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<KeyPart, A::Error> {
                short::fields(map).map(KeyPart::Named)
            }
        }

        short::deserialize(deserializer, NamedPart::FIELDS, KeyPartVisitor)
    }
}
