//! JSON, one object a line: what people have nginx write, Envoy's, and Caddy's.
//!
//! nginx has no format of its own, so fields are known by the names of its variables and by those
//! that most configurations use. Nothing is guessed: a field of another name is not read.

mod fields;

use serde_json::Deserializer;

use self::fields::{Fields, Node, Slot};
use super::{
    clf::began,
    parts::{add_header, present, push_encoded, request_line},
};
use crate::{
    replay::{
        record::Record,
        time,
        unread::Why,
        wanted::{Holds, Wanted},
    },
    request::Scheme,
};

pub(super) fn read(line: &[u8], wanted: &Wanted, record: &mut Record) -> Result<(), Why> {
    let mut fields = Fields::default();
    if parse(line, wanted, &mut fields).is_ok() {
        return fill(&fields, wanted, record);
    }
    // nginx writes bytes that are not UTF-8 as they are, and a client chooses them.
    if std::str::from_utf8(line).is_ok() {
        return Err(Why::Format);
    }
    let text = String::from_utf8_lossy(line);
    let mut fields = Fields::default();
    parse(text.as_bytes(), wanted, &mut fields).map_err(|_| Why::Format)?;
    fill(&fields, wanted, record)
}

fn parse<'a>(
    line: &'a [u8],
    wanted: &Wanted,
    fields: &mut Fields<'a>,
) -> Result<(), serde_json::Error> {
    use serde::de::DeserializeSeed as _;
    let mut json = Deserializer::from_slice(line);
    let slot = Slot::Top;
    Node {
        fields,
        wanted,
        slot,
    }
    .deserialize(&mut json)?;
    json.end()
}

fn fill(fields: &Fields<'_>, wanted: &Wanted, record: &mut Record) -> Result<(), Why> {
    record.time_us = when(fields).ok_or(if fields.has_request() {
        Why::Time
    } else {
        Why::NoRequest
    })?;
    request(fields, record)?;
    if let Some(host) = &fields.host {
        record.holds.add(Holds::HOST);
        record.host.push_str(present(host).unwrap_or_default());
    }
    if let Some(peer) = &fields.peer {
        record.holds.add(Holds::CLIENT_IP);
        record.peer.push_str(present(peer).unwrap_or_default());
    }
    if let Some(hops) = &fields.forwarded_for {
        record.holds.add(Holds::CLIENT_IP);
        record
            .forwarded_for
            .push_str(present(hops).unwrap_or_default());
    }
    if let Some(scheme) = &fields.scheme {
        record.holds.add(Holds::SCHEME);
        record.scheme = Scheme::parse(scheme);
    } else if fields.is_caddy {
        record.holds.add(Holds::SCHEME);
        record.scheme = Some(if fields.has_tls {
            Scheme::Https
        } else {
            Scheme::Http
        });
    }
    record.status = fields.status;
    if fields.has_headers {
        for place in 0..wanted.headers().len() {
            record.holds.add(Holds::header(place));
        }
    }
    for (place, value) in &fields.headers {
        // What Caddy writes for credentials.
        if fields.has_headers && value == "REDACTED" {
            record.holds = record.holds.without(Holds::header(*place));
        } else {
            let value = if fields.has_headers {
                Some(&**value)
            } else {
                present(value)
            };
            add_header(record, wanted, *place, value);
        }
    }
    Ok(())
}

/// When the request began.
fn when(fields: &Fields<'_>) -> Option<u64> {
    let given = fields.time.as_ref()?;
    let us = given.us?;
    // Caddy's `ts`, and what nginx has, are the times when a request ended.
    let took = match (fields.is_caddy, fields.request_time, fields.duration) {
        (true, _, Some(seconds)) | (false, Some(seconds), _) => time::span_us(seconds),
        _ => None,
    };
    Some(if given.is_start {
        us
    } else {
        began(us, took.unwrap_or(0), given.is_whole)
    })
}

/// Method and target.
fn request(fields: &Fields<'_>, record: &mut Record) -> Result<(), Why> {
    let line = fields.line.as_deref().and_then(request_line);
    let method = fields.method.as_deref().and_then(present);
    let method = method.or(line.map(|(method, _)| method));
    record.method.push_str(method.ok_or(Why::NoRequest)?);
    let has_query = fields.sent.is_some() || line.is_some() || fields.query.is_some();
    if has_query {
        record.holds.add(Holds::QUERY);
    }
    let sent = fields.sent.as_deref().and_then(present);
    if let Some(target) = sent.or(line.map(|(_, target)| target)) {
        record.target.push_str(target);
        return Ok(());
    }
    let path = fields.path.as_deref().and_then(present);
    push_encoded(&mut record.target, path.ok_or(Why::NoRequest)?, true);
    if let Some(query) = fields.query.as_deref().and_then(present)
        && !record.target.contains('?')
    {
        record.target.push('?');
        record.target.push_str(query);
    }
    Ok(())
}
