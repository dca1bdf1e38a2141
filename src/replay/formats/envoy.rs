//! Envoy's default text, and Istio's, which has some more fields.
//!
//! ```text
//! [2016-04-15T20:17:00.310Z] "POST /api HTTP/2" 204 - 154 0 226 100
//!     "10.0.35.28" "agent" "id" "host" "10.0.2.1:80"
//! ```
//!
//! Envoy escapes nothing. So a quote that a client sends can only shift the fields that follow it,
//! and those are read from both ends of the line.

use memchr::{memchr, memmem};

use super::parts::{add_header, present, request_line};
use crate::replay::{
    record::Record,
    time,
    unread::Why,
    wanted::{Holds, Wanted},
};

pub(super) fn read(line: &[u8], wanted: &Wanted, record: &mut Record) -> Result<(), Why> {
    let end = memchr(b']', line).ok_or(Why::Format)?;
    let stamp = line.get(1..end).ok_or(Why::Format)?;
    let rest = line[end..].strip_prefix(b"] \"").ok_or(Why::Format)?;
    record.time_us = time::iso(stamp).ok_or(Why::Time)?;
    // `"- - HTTP/1.1"` is about a request that was too bad to be one.
    let version = memmem::find(rest, b" HTTP/").ok_or(Why::NoRequest)?;
    let after = memchr(b'"', &rest[version..]).ok_or(Why::Format)? + version;
    let request = text(&rest[..after])?;
    let (method, target) = request_line(request).ok_or(Why::NoRequest)?;
    if present(method).is_none() || present(target).is_none() {
        return Err(Why::NoRequest);
    }
    record.method.push_str(method);
    record.target.push_str(target);
    record.holds.add(Holds::QUERY);
    let rest = text(&rest[after + 1..])?;
    record.status = rest
        .split_ascii_whitespace()
        .next()
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    fields(rest, wanted, record);
    Ok(())
}

/// What is in quotes behind the request: forwarded-for, agent, id, host, upstream.
fn fields(rest: &str, wanted: &Wanted, record: &mut Record) {
    // Istio has the reason of a failure in quotes before the sizes.
    let quote = rest.find('"').unwrap_or(rest.len());
    let is_istio = rest[..quote].split_ascii_whitespace().count() < 6;
    let mut rest = rest;
    if is_istio {
        let mut parts = rest.splitn(3, '"');
        rest = parts.nth(2).unwrap_or_default();
    }
    let Some((_, quoted)) = rest.split_once('"') else {
        return;
    };
    let Some((forwarded_for, others)) = quoted.split_once("\" \"") else {
        return;
    };
    record.holds.add(Holds::CLIENT_IP);
    record
        .forwarded_for
        .push_str(present(forwarded_for).unwrap_or_default());
    // From the end: the upstream, which in Istio has more behind it, and before it the host.
    let others = if is_istio {
        others.rfind('"').map_or(others, |end| &others[..end])
    } else {
        others.trim_end_matches('"')
    };
    let mut from_end = others.rsplit("\" \"");
    let (_, host) = (from_end.next(), from_end.next());
    if let Some(host) = host {
        record.host.push_str(present(host).unwrap_or_default());
        record.holds.add(Holds::HOST);
    }
    let (id, agent) = (from_end.next(), others.split("\" \"").next());
    if let Some(place) = wanted.header("user-agent") {
        add_header(record, wanted, place, agent.and_then(present));
    }
    if let Some(place) = wanted.header("x-request-id") {
        add_header(record, wanted, place, id.and_then(present));
    }
}

fn text(bytes: &[u8]) -> Result<&str, Why> {
    std::str::from_utf8(bytes).map_err(|_| Why::Format)
}
