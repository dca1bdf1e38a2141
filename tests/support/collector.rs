//! What receives spans over OTLP/HTTP, as an OpenTelemetry collector does, and keeps them.

use std::{
    convert::Infallible,
    future::pending,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1,
};
use prost::Message as _;
use tokio::net::TcpListener;

use super::eventually;

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Takes,
    Refuses,
    Hangs,
}

/// A span, with what it is of.
#[derive(Debug, Clone)]
pub struct Span {
    pub service: String,
    pub name: String,
    pub trace: String,
    pub id: String,
    /// Empty for the first of a trace.
    pub parent: String,
    pub trace_state: String,
    /// In nanoseconds since the Unix epoch.
    pub start: u64,
    pub end: u64,
    pub is_error: bool,
    attributes: Vec<KeyValue>,
}

impl Span {
    /// An attribute as text; empty if there is none.
    pub fn get(&self, key: &str) -> String {
        text_of(&self.attributes, key)
    }
}

/// Runs in the test's own process until the test ends.
pub struct Collector {
    pub addr: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
    mood: Arc<Mutex<Mood>>,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let collector = Self {
            addr: listener.local_addr().unwrap(),
            spans: Arc::default(),
            mood: Arc::new(Mutex::new(Mood::Takes)),
        };
        let (spans, mood) = (Arc::clone(&collector.spans), Arc::clone(&collector.mood));
        let service =
            service_fn(move |request| take(request, Arc::clone(&spans), *mood.lock().unwrap()));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let serving =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone());
                tokio::spawn(serving);
            }
        });
        collector
    }

    /// The value of `--otlp-endpoint`.
    pub fn endpoint(&self) -> String {
        format!("--otlp-endpoint=http://{}", self.addr)
    }

    pub fn be(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }

    /// Waits for so many spans of a name.
    pub async fn until(&self, name: &str, count: usize) -> Vec<Span> {
        let of_name = || {
            let mut spans = self.spans();
            spans.retain(|span| span.name == name);
            spans
        };
        let what = format!("{count} spans {name:?}");
        eventually(&what, async || of_name().len() >= count).await;
        of_name()
    }
}

async fn take(
    request: http::Request<Incoming>,
    spans: Arc<Mutex<Vec<Span>>>,
    mood: Mood,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if mood == Mood::Hangs {
        pending::<()>().await;
    }
    let (head, body) = request.into_parts();
    assert_eq!(head.uri.path(), "/v1/traces");
    assert_eq!(head.headers["content-type"], "application/x-protobuf");
    let mut response = Response::new(Full::default());
    if mood == Mood::Refuses {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return Ok(response);
    }
    let body = body.collect().await.unwrap().to_bytes();
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    for of_resource in request.resource_spans {
        let attributes = of_resource.resource.unwrap_or_default().attributes;
        let service = text_of(&attributes, "service.name");
        let all = of_resource
            .scope_spans
            .into_iter()
            .flat_map(|scope| scope.spans);
        let all = all.map(|span| read(span, &service));
        spans.lock().unwrap().extend(all);
    }
    Ok(response)
}

fn read(span: v1::Span, service: &str) -> Span {
    let hex = |bytes: &[u8]| {
        let start = String::new();
        bytes
            .iter()
            .fold(start, |text, byte| format!("{text}{byte:02x}"))
    };
    let error = v1::status::StatusCode::Error as i32;
    Span {
        service: service.to_owned(),
        name: span.name,
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        trace_state: span.trace_state,
        start: span.start_time_unix_nano,
        end: span.end_time_unix_nano,
        is_error: span.status.is_some_and(|status| status.code == error),
        attributes: span.attributes,
    }
}

fn text_of(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    let value = found.and_then(|attribute| attribute.value.clone());
    match value.and_then(|AnyValue { value }| value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::BoolValue(is)) => is.to_string(),
        _ => String::new(),
    }
}
