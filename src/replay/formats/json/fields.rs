//! The fields of a line, by their names.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::replay::{time, wanted::Wanted};

/// What was found in a line.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pub(super) time: Option<Time>,
    pub(super) method: Option<Cow<'a, str>>,
    /// `GET / HTTP/1.1`.
    pub(super) line: Option<Cow<'a, str>>,
    /// The target as it was sent.
    pub(super) sent: Option<Cow<'a, str>>,
    /// A path that may be decoded, and may lack its query.
    pub(super) path: Option<Cow<'a, str>>,
    pub(super) query: Option<Cow<'a, str>>,
    pub(super) host: Option<Cow<'a, str>>,
    pub(super) peer: Option<Cow<'a, str>>,
    pub(super) forwarded_for: Option<Cow<'a, str>>,
    pub(super) scheme: Option<Cow<'a, str>>,
    pub(super) status: u16,
    /// nginx' `$request_time`, in seconds.
    pub(super) request_time: Option<f64>,
    /// Caddy's, in seconds; Envoy's, in milliseconds, is not needed.
    pub(super) duration: Option<f64>,
    /// Wanted headers, by their place.
    pub(super) headers: Vec<(usize, Cow<'a, str>)>,
    /// Whether all headers are there.
    pub(super) has_headers: bool,
    /// Whether the request is an object of its own.
    pub(super) is_caddy: bool,
    pub(super) has_tls: bool,
}

impl Fields<'_> {
    pub(super) fn has_request(&self) -> bool {
        self.method.is_some() || self.line.is_some()
    }
}

/// A time, and how good it is: of several, the best is taken.
#[derive(Debug)]
pub(super) struct Time {
    rank: u8,
    pub(super) us: Option<u64>,
    /// Whether it is that of the beginning.
    pub(super) is_start: bool,
    /// Whether it has whole seconds only. A number may happen to be whole, and is exact all the
    /// same.
    pub(super) is_whole: bool,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// The line itself.
    Top,
    /// `request`: an object, or the request line.
    Request,
    /// An object with all headers.
    Headers,
    Time(u8),
    /// Of Envoy's shipped configuration and Istio.
    Start,
    Method,
    Sent,
    Path,
    Query,
    Host,
    /// The peer; of several, the highest rank is taken.
    Peer(bool),
    ForwardedFor,
    Scheme,
    Status,
    RequestTime,
    Duration,
    /// `tls` of Caddy.
    Tls,
    Header(usize),
    Unknown,
}

/// What a field is, by its name and by the object that it is in.
fn slot(within: Slot, name: &str, wanted: &Wanted) -> Slot {
    match (within, name) {
        (Slot::Headers, _) => wanted.header(name).map_or(Slot::Unknown, Slot::Header),
        (Slot::Request, "uri") => Slot::Sent,
        (Slot::Request, "headers") => Slot::Headers,
        (Slot::Request, "tls") => Slot::Tls,
        (Slot::Request, "client_ip") => Slot::Peer(true),
        (Slot::Request, "remote_ip" | "remote_addr") => Slot::Peer(false),
        (Slot::Request, "method") => Slot::Method,
        (Slot::Request, "host") => Slot::Host,
        (Slot::Request, _) => Slot::Unknown,
        (_, "request") => Slot::Request,
        (_, "start_time") => Slot::Start,
        (_, "msec" | "ts") => Slot::Time(2),
        (_, "time_iso8601" | "time" | "timestamp" | "@timestamp") => Slot::Time(1),
        (_, "time_local") => Slot::Time(0),
        (_, "method" | "request_method") => Slot::Method,
        (_, "request_uri") => Slot::Sent,
        (_, "uri" | "path") => Slot::Path,
        (_, "args" | "query_string") => Slot::Query,
        (_, "host" | "http_host" | "authority") => Slot::Host,
        (_, "client" | "client_ip") => Slot::Peer(true),
        (_, "remote_addr" | "remote_ip" | "remote_address" | "downstream_remote_address") => {
            Slot::Peer(false)
        }
        (_, "http_x_forwarded_for" | "x_forwarded_for") => Slot::ForwardedFor,
        (_, "scheme") => Slot::Scheme,
        (_, "status" | "response_code") => Slot::Status,
        (_, "request_time") => Slot::RequestTime,
        (_, "duration") => Slot::Duration,
        (_, "request_headers" | "headers") => Slot::Headers,
        (_, "user_agent") => wanted
            .header("user-agent")
            .map_or(Slot::Unknown, Slot::Header),
        (_, "referer") => wanted.header("referer").map_or(Slot::Unknown, Slot::Header),
        (_, "request_id") => wanted
            .header("x-request-id")
            .map_or(Slot::Unknown, Slot::Header),
        (_, _) => wanted.variable(name).map_or(Slot::Unknown, Slot::Header),
    }
}

/// A value, with what it is.
pub(super) struct Node<'f, 'a> {
    pub(super) fields: &'f mut Fields<'a>,
    pub(super) wanted: &'f Wanted,
    pub(super) slot: Slot,
}

impl<'a> Node<'_, 'a> {
    fn text(self, text: Cow<'a, str>) {
        let Self { fields, slot, .. } = self;
        let number = || text.parse().ok();
        match slot {
            Slot::Time(rank) => take_time(fields, rank, || Time::of_text(rank, false, &text)),
            Slot::Start => take_time(fields, 3, || Time::of_text(3, true, &text)),
            Slot::Request => fields.line = Some(text),
            Slot::Method => fields.method = Some(text),
            Slot::Sent => fields.sent = Some(text),
            Slot::Path => fields.path = Some(text),
            Slot::Query => fields.query = Some(text),
            Slot::Host => fields.host = Some(text),
            Slot::Peer(is_client) => {
                if is_client || fields.peer.is_none() {
                    fields.peer = Some(text);
                }
            }
            Slot::ForwardedFor => fields.forwarded_for = Some(text),
            Slot::Scheme => fields.scheme = Some(text),
            Slot::Status => fields.status = text.parse().unwrap_or(0),
            Slot::RequestTime => fields.request_time = number(),
            Slot::Duration => fields.duration = number(),
            Slot::Header(place) => fields.headers.push((place, text)),
            Slot::Top | Slot::Headers | Slot::Tls | Slot::Unknown => {}
        }
    }

    fn number(self, number: f64) {
        let Self { fields, slot, .. } = self;
        match slot {
            Slot::Time(rank) => take_time(fields, rank, || Time::of_number(rank, false, number)),
            Slot::Start => take_time(fields, 3, || Time::of_number(3, true, number)),
            Slot::RequestTime => fields.request_time = Some(number),
            Slot::Duration => fields.duration = Some(number),
            Slot::Header(place) => fields.headers.push((place, number.to_string().into())),
            _ => {}
        }
    }
}

fn take_time(fields: &mut Fields<'_>, rank: u8, time: impl FnOnce() -> Time) {
    if fields.time.as_ref().is_none_or(|time| time.rank <= rank) {
        fields.time = Some(time());
    }
}

impl Time {
    fn of_text(rank: u8, is_start: bool, text: &str) -> Self {
        Self {
            rank,
            us: time::text(text.as_bytes()),
            is_start,
            // A clock without a fraction. Seconds since 1970 have no colons.
            is_whole: text.contains(':') && !text.contains(['.', ',']),
        }
    }

    fn of_number(rank: u8, is_start: bool, number: f64) -> Self {
        Self {
            rank,
            us: time::epoch(number),
            is_start,
            is_whole: false,
        }
    }
}

impl<'a> DeserializeSeed<'a> for Node<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, json: D) -> Result<(), D::Error> {
        if self.slot == Slot::Unknown {
            json.deserialize_ignored_any(IgnoredAny).map(|_| ())
        } else {
            json.deserialize_any(self)
        }
    }
}

impl<'a> Visitor<'a> for Node<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a line of a log")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'a str) -> Result<(), E> {
        self.text(Cow::Borrowed(text));
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.text(Cow::Owned(text.to_owned()));
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "times have fewer than 53 bits")]
    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        if self.slot == Slot::Status {
            self.fields.status = u16::try_from(number).unwrap_or(0);
            return Ok(());
        }
        self.number(number as f64);
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "times have fewer than 53 bits")]
    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.number(number as f64);
        Ok(())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.number(number);
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    /// A field of a line that has no value is there, and empty.
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        if self.slot != Slot::Request && self.slot != Slot::Headers {
            self.text(Cow::Borrowed(""));
        }
        Ok(())
    }

    /// Of several lines of a header, the first counts.
    fn visit_seq<A: SeqAccess<'a>>(self, mut values: A) -> Result<(), A::Error> {
        values.next_element_seed(self)?;
        while values.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let Self {
            fields,
            wanted,
            slot: within,
        } = self;
        match within {
            Slot::Top => {}
            Slot::Request => fields.is_caddy = true,
            Slot::Headers => fields.has_headers = true,
            Slot::Tls => fields.has_tls = true,
            _ => {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                return Ok(());
            }
        }
        while let Some(slot) = map.next_key_seed(Key { within, wanted })? {
            map.next_value_seed(Node {
                fields,
                wanted,
                slot,
            })?;
        }
        Ok(())
    }
}

/// The name of a field.
struct Key<'f> {
    within: Slot,
    wanted: &'f Wanted,
}

impl<'a> DeserializeSeed<'a> for Key<'_> {
    type Value = Slot;

    fn deserialize<D: Deserializer<'a>>(self, json: D) -> Result<Slot, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Slot;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Slot, E> {
        Ok(match self.within {
            Slot::Tls => Slot::Unknown,
            within => slot(within, name, self.wanted),
        })
    }
}
