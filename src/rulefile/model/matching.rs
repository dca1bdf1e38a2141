//! `match`: which requests a rule applies to.

use std::{
    collections::BTreeMap,
    fmt::{self, Display as _},
    path::Path,
};

use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};

use super::{
    short::{self, optional_fields},
    text::{FromText, TextVisitor, deserialize_from_text},
};
use crate::{
    problem::Problem,
    request::{Scheme, parse_ip, parse_portless_ip, unmapped},
    rulefile::decode::{Expected, Field},
    rules::matcher::{HostPattern, PathPattern, Pattern},
};

/// Conditions that must all hold, and conditions that must not.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(in crate::rulefile) struct Match {
    /// One of these paths, without query: whole segments, {name} or * for any one, ** for any
    /// number.
    pub(in crate::rulefile) path: Option<Field<Vec<Field<PathSpec>>>>,
    /// One of these methods, in any case; GET includes HEAD.
    pub(in crate::rulefile) methods: Option<Field<Vec<Field<Method>>>>,
    /// How the client reached the proxy, which must say so in X-Forwarded-Proto.
    pub(in crate::rulefile) scheme: Option<Field<Vec<Field<Scheme>>>>,
    /// One of these hosts, or *. for every name below.
    pub(in crate::rulefile) host: Option<Field<Vec<Field<HostPattern>>>>,
    /// The client's address is in one of these networks.
    pub(in crate::rulefile) client_ip: Option<Field<Vec<Field<NetworkSpec>>>>,
    /// Conditions on request headers.
    pub(in crate::rulefile) headers: Option<Field<BTreeMap<String, Field<ValueSpec>>>>,
    /// Conditions on query parameters, decoded.
    pub(in crate::rulefile) query: Option<Field<BTreeMap<String, Field<ValueSpec>>>>,
    /// Conditions that must not all hold; of a list, none of the blocks may hold.
    pub(in crate::rulefile) not: Option<Field<Vec<Field<Match>>>>,
}

deserialize_from_text!(HostPattern, Method, Network);

impl FromText for HostPattern {
    const EXPECTED: Expected = Expected::new(
        "a host",
        "write one like api.example.com or \"*.example.com\"",
    );

    fn from_text(text: &str) -> Result<Self, Problem> {
        Self::parse(text)
    }
}

/// A path, or `{ regex: … }`.
#[derive(Debug, Clone)]
pub(in crate::rulefile) enum PathSpec {
    Template(PathPattern),
    Regex(RegexFields),
}

optional_fields! {
    /// A regular expression of the whole path.
    pub(in crate::rulefile) struct RegexFields {
        /// A regular expression of the whole path; its named groups are parameters.
        #[cfg_attr(test, schemars(required))]
        regex: Regex,
    }
}

/// The text of a regular expression that compiles.
#[derive(Debug, Clone)]
pub(in crate::rulefile) struct Regex(pub(in crate::rulefile) String);

deserialize_from_text!(Regex);

impl FromText for Regex {
    const EXPECTED: Expected = Expected::new(
        "a regular expression",
        "write one text, in single quotes, like '/v[0-9]+/.*'",
    );

    fn from_text(text: &str) -> Result<Self, Problem> {
        Pattern::parse(text).map(|_| Self(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for PathSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PathVisitor;

        impl<'de> Visitor<'de> for PathVisitor {
            type Value = PathSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Expected::new(
                    "a path",
                    "write one like /data, \"/users/{id}\" or /static/**, or { regex: … }",
                )
                .fmt(f)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PathSpec, E> {
                PathPattern::parse(text)
                    .map(PathSpec::Template)
                    .map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PathSpec, A::Error> {
                short::fields(map).map(PathSpec::Regex)
            }
        }

        short::deserialize(deserializer, RegexFields::FIELDS, PathVisitor)
    }
}

/// A condition on a value: `gold`, `[gold, silver]`, or tests.
#[derive(Debug, Clone)]
pub(in crate::rulefile) enum ValueSpec {
    Exact(Vec<String>),
    Tests(ValueTests),
}

optional_fields! {
    /// Tests of a value, all of which must hold.
    pub(in crate::rulefile) struct ValueTests {
        /// The value is one of these.
        exact: Vec<Field<Text>>,
        /// The value begins with one of these.
        prefix: Vec<Field<Text>>,
        /// A regular expression of the whole value.
        regex: Regex,
        /// There is a value.
        present: bool,
        /// There is no value.
        absent: bool,
    }
}

/// A text that YAML may take for a number or a boolean.
#[derive(Debug, Clone)]
pub(in crate::rulefile) struct Text(pub(in crate::rulefile) String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyText;

        impl Visitor<'_> for AnyText {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Expected::new("a text", "write one, in quotes unless it is a word").fmt(f)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }
        }

        deserializer.deserialize_str(AnyText)
    }
}

impl<'de> Deserialize<'de> for ValueSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;

        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = ValueSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Expected::new("a value", "write one, in quotes unless it is a word; or a list of values, or tests like { prefix: … }").fmt(f)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ValueSpec, E> {
                Ok(ValueSpec::Exact(vec![text.to_owned()]))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<ValueSpec, E> {
                Ok(ValueSpec::Exact(vec![number.to_string()]))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<ValueSpec, E> {
                Ok(ValueSpec::Exact(vec![value.to_string()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ValueSpec, A::Error> {
                let mut values = Vec::new();
                while let Some(Text(value)) = seq.next_element()? {
                    values.push(value);
                }
                if values.is_empty() {
                    return Err(de::Error::custom(Problem::new(
                        "an empty list accepts no value",
                        "name one, or write { absent: true }",
                    )));
                }
                Ok(ValueSpec::Exact(values))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ValueSpec, A::Error> {
                short::fields(map).map(ValueSpec::Tests)
            }
        }

        short::deserialize_text(deserializer, ValueTests::FIELDS, ValueVisitor)
    }
}

/// A request method.
#[derive(Debug, Clone)]
pub(in crate::rulefile) struct Method(pub(in crate::rulefile) String);

impl FromText for Method {
    const EXPECTED: Expected = Expected::new("a method", "write one like GET");

    fn from_text(text: &str) -> Result<Self, Problem> {
        let upper = text.to_ascii_uppercase();
        // A method by its letters, but no request has it.
        if matches!(upper.as_str(), "*" | "ALL" | "ANY") {
            return Err(Problem::new(
                format!("{text:?} is not a method of requests"),
                "for all methods, leave `methods` out",
            ));
        }
        if http::Method::from_bytes(text.as_bytes()).is_err() {
            return Err(Problem::new(
                format!("{text:?} is not a method"),
                "write one like GET or POST",
            ));
        }
        Ok(Self(upper))
    }
}

/// A CIDR block, or one address.
#[derive(Debug, Clone, Copy)]
pub(in crate::rulefile) struct Network(pub(in crate::rulefile) IpNet);

impl FromText for Network {
    const EXPECTED: Expected = Expected::new(
        "a network",
        "write a CIDR block like 10.0.0.0/8 or 2001:db8::/32, or one address",
    );

    fn from_text(text: &str) -> Result<Self, Problem> {
        let block = text.parse::<IpNet>().ok();
        let block = block.map(|block| unmapped(block.trunc()));
        let block = block.or_else(|| parse_portless_ip(text).map(IpNet::from));
        block.map(Self).ok_or_else(|| {
            let message = format!("{text:?} is not a network");
            if parse_ip(text).is_some() {
                return Problem::new(message, "leave out the port: only addresses are compared");
            }
            let hint = "write a CIDR block like 10.0.0.0/8 or 2001:db8::/32, or one address";
            Problem::new(message, hint)
        })
    }
}

/// A network, or a file with a list of them.
#[derive(Debug, Clone)]
pub(in crate::rulefile) enum NetworkSpec {
    Block(Network),
    File(NetworkFile),
}

optional_fields! {
    /// A file with a list of networks.
    pub(in crate::rulefile) struct NetworkFile {
        /// A text file with one CIDR block or address a line, and # comments; relative to this
        /// file.
        #[cfg_attr(test, schemars(required))]
        file: String,
    }
}

impl<'de> Deserialize<'de> for NetworkSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NetworkVisitor;

        impl<'de> Visitor<'de> for NetworkVisitor {
            type Value = NetworkSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Expected::new(
                    "a network",
                    "write a CIDR block like 10.0.0.0/8 or 2001:db8::/32, one address, or { file: blocklist.txt }",
                )
                .fmt(f)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<NetworkSpec, E> {
                let network = Network::from_text(text).map(NetworkSpec::Block);
                network.map_err(|problem| {
                    let is_file = Path::new(text).extension().is_some_and(|end| end == "txt");
                    E::custom(if is_file {
                        Problem::new(problem.message, format!("write {{ file: {text} }}"))
                    } else {
                        problem
                    })
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<NetworkSpec, A::Error> {
                short::fields(map).map(NetworkSpec::File)
            }
        }

        short::deserialize(deserializer, NetworkFile::FIELDS, NetworkVisitor)
    }
}
