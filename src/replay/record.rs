//! A request as a line of a log has it.

use std::borrow::Cow;

use http::Method;

use super::wanted::Holds;
use crate::{
    contract::Refusal,
    request::{Ambiguity, Attributes, Scheme, normal_host},
    rules::RuleSet,
    wire::Headers,
};

/// A request as a line of a log has it. One is used for all lines, so that none allocates.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// When the request began, as far as the line says: microseconds since the Unix epoch.
    pub(super) time_us: u64,
    pub(super) method: String,
    /// Path and query as they were sent.
    pub(super) target: String,
    /// Empty if there is none.
    pub(super) host: String,
    pub(super) scheme: Option<Scheme>,
    /// The address that the proxy saw, or took for the client's; empty if there is none.
    pub(super) peer: String,
    /// `X-Forwarded-For`; empty if there is none.
    pub(super) forwarded_for: String,
    /// Those of the wanted headers that the line has.
    pub(super) headers: Headers,
    /// The status of the response; 0 if it is not known.
    pub(super) status: u16,
    /// What the line holds.
    pub(super) holds: Holds,
}

impl Record {
    /// Forgets everything, and keeps the memory.
    pub(super) fn clear(&mut self) {
        let Self {
            time_us,
            method,
            target,
            host,
            scheme,
            peer,
            forwarded_for,
            headers,
            status,
            holds,
        } = self;
        for text in [method, target, host, peer, forwarded_for] {
            text.clear();
        }
        headers.clear();
        (*time_us, *scheme, *status, *holds) = (0, None, 0, Holds::default());
    }

    /// The request as rules see it, or why it is refused before any rule is asked: as
    /// [`contract::read`](crate::contract::read) does it with a check.
    pub(super) fn attributes(&self, set: &RuleSet) -> Result<Attributes<'_>, Refusal> {
        let is_connect = self.method.eq_ignore_ascii_case("CONNECT");
        let target = if is_connect && !self.target.contains('/') {
            "/"
        } else {
            &self.target
        };
        if target == "*" && !self.method.eq_ignore_ascii_case("OPTIONS") {
            return Err(Refusal::Target(Ambiguity::Form));
        }
        if Method::from_bytes(self.method.as_bytes()).is_err() {
            return Err(Refusal::Method);
        }
        let host = normal_host(&self.host).map_err(|_| Refusal::Host)?;
        let peer = Some(&*self.peer).filter(|peer| !peer.is_empty());
        let forwarded_for = [&*self.forwarded_for];
        Ok(Attributes {
            scheme: self.scheme,
            path: set.paths.read(target).map_err(Refusal::Target)?,
            with_parameters: set.paths.with_parameters(target),
            query: Cow::Borrowed(crate::request::query_of(target)),
            method: crate::request::normal_method(&self.method),
            host,
            client_ip: set.client_ip.client_ip(peer, &forwarded_for),
            headers: &self.headers,
        })
    }
}
