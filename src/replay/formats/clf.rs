//! `common` and `combined` of nginx and Apache, and the format of the shipped nginx.conf.
//!
//! ```text
//! 203.0.113.7 - alice [10/Oct/2000:13:55:36 -0700] "GET /data?x=1 HTTP/1.1" 200 2326 "ref" "ua"
//! www.example.com:443 203.0.113.7 - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.1" 200 2326
//! 2026-10-01T12:00:00+00:00 203.0.113.7 "GET /data" 200 tollgate=200 rule=data limit=- 0.004
//! ```
//!
//! All three escape quotes, so the first one begins the request, whatever a client sends.

use memchr::memchr;

use super::{
    parts::{add_header, present, push_encoded, request_line},
    quoted,
};
use crate::{
    replay::{
        record::Record,
        time,
        unread::Why,
        wanted::{Holds, Wanted},
    },
    request::parse_ip,
};

/// The length of `[10/Oct/2000:13:55:36 -0700] `.
const TIME: usize = 29;

pub(super) fn read(line: &[u8], wanted: &Wanted, record: &mut Record) -> Result<(), Why> {
    let quote = memchr(b'"', line).ok_or(Why::Format)?;
    let head = &line[..quote];
    let (request, rest) = quoted::until_quote(&line[quote + 1..]).ok_or(Why::Format)?;
    if head.first().is_some_and(u8::is_ascii_digit) && head.get(10) == Some(&b'T') {
        return shipped(head, request, rest, record);
    }
    let (head, stamp) = head
        .len()
        .checked_sub(TIME)
        .map(|at| head.split_at(at))
        .ok_or(Why::Format)?;
    let stamp = stamp
        .strip_prefix(b"[")
        .and_then(|stamp| stamp.strip_suffix(b"] "))
        .ok_or(Why::Format)?;
    record.time_us = time::common(stamp).ok_or(Why::Time)?;
    client(head, record)?;
    let request = quoted::unescaped(request);
    let (method, target) = request_line(&request).ok_or(Why::NoRequest)?;
    record.method.push_str(method);
    record.target.push_str(target);
    record.holds.add(Holds::QUERY);
    record.status = status(rest);
    if record.status == 400 && record.target == "-" {
        return Err(Why::NoRequest);
    }
    headers(rest, wanted, record);
    Ok(())
}

/// The address, and in Apache's `vhost_combined` the host before it.
fn client(head: &[u8], record: &mut Record) -> Result<(), Why> {
    let mut words = head.split(|byte| *byte == b' ').map(std::str::from_utf8);
    let (Some(Ok(first)), Some(Ok(second))) = (words.next(), words.next()) else {
        return Err(Why::Format);
    };
    if first.is_empty() {
        return Err(Why::Format);
    }
    if second != "-" && parse_ip(second).is_some() {
        record.host.push_str(first);
        record.holds.add(Holds::HOST);
        record.peer.push_str(second);
    } else {
        record.peer.push_str(first);
    }
    record.holds.add(Holds::CLIENT_IP);
    Ok(())
}

/// The status behind the request.
fn status(rest: &[u8]) -> u16 {
    let digits = rest
        .get(1..4)
        .and_then(|word| std::str::from_utf8(word).ok());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// Referer and agent of `combined`, and `X-Forwarded-For` of the `main` format that nginx' packages
/// come with.
fn headers(rest: &[u8], wanted: &Wanted, record: &mut Record) {
    let places = ["referer", "user-agent"].map(|name| wanted.header(name));
    let mut rest = rest;
    for place in places {
        let Some((value, after)) = quoted::next(rest) else {
            return;
        };
        if let Some(place) = place {
            add_header(record, wanted, place, present(&value));
        }
        rest = after;
    }
    if let Some((value, _)) = quoted::next(rest)
        && value
            .rsplit(',')
            .next()
            .is_some_and(|hop| parse_ip(hop.trim()).is_some())
    {
        record.forwarded_for.push_str(&value);
    }
}

/// The format of the shipped nginx.conf. Its path is `$uri`, decoded and without query.
fn shipped(head: &[u8], request: &[u8], rest: &[u8], record: &mut Record) -> Result<(), Why> {
    let head = std::str::from_utf8(head).map_err(|_| Why::Format)?;
    let mut words = head.split(' ');
    let stamp = words.next().unwrap_or_default();
    let end_us = time::iso(stamp.as_bytes()).ok_or(Why::Time)?;
    record.peer.push_str(words.next().ok_or(Why::Format)?);
    record.holds.add(Holds::CLIENT_IP);
    let request = quoted::unescaped(request);
    let (method, path) = request.split_once(' ').ok_or(Why::NoRequest)?;
    if present(path).is_none() || present(method).is_none() {
        return Err(Why::NoRequest);
    }
    record.method.push_str(method);
    push_encoded(&mut record.target, path, false);
    record.status = status(rest);
    let took = rest.rsplit(|byte| *byte == b' ').next();
    let took = took.and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
    record.time_us = began(
        end_us,
        took.and_then(time::span_us).unwrap_or(0),
        end_us.is_multiple_of(1_000_000),
    );
    Ok(())
}

/// When a request began that ended at `end_us`. Of a time that `is_whole` seconds only whole
/// seconds are taken off, because it is no more exact than that.
pub(super) fn began(end_us: u64, took_us: u64, is_whole: bool) -> u64 {
    const SECOND: u64 = 1_000_000;
    let took_us = if is_whole {
        took_us / SECOND * SECOND
    } else {
        took_us
    };
    end_us.saturating_sub(took_us)
}
