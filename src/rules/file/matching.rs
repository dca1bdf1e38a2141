//! `match`: which requests a rule is about.

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

use super::text::{FromText, OneOrMany, TextVisitor, deserialize_from_text};
use crate::rules::{
    decode::Field,
    matcher::{HostPattern, PathPattern},
};

#[derive(Debug, Default, Deserialize)]
pub(in crate::rules) struct Match {
    pub(in crate::rules) path: Option<Field<OneOrMany<PathPattern>>>,
    pub(in crate::rules) methods: Option<Field<OneOrMany<Method>>>,
    pub(in crate::rules) host: Option<Field<OneOrMany<HostPattern>>>,
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
pub(in crate::rules) struct Method(pub(in crate::rules) String);

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
pub(in crate::rules) struct Network(pub(in crate::rules) IpNet);

impl FromText for Network {
    const EXPECTED: &'static str = "a network like 10.0.0.0/8";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse::<IpNet>()
            .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
            .map(|net| Self(net.trunc()))
            .map_err(|_| format!("{text:?} is not a network\nhint: write a CIDR block like 10.0.0.0/8 or 2001:db8::/32"))
    }
}
