//! Traces: a span for each sampled check, in the trace of the proxy's request.
//!
//! The proxy names the trace in `traceparent` ([W3C Trace Context]), and says there whether it is
//! sampled. Spans go to a collector by OTLP over HTTP, away from the checks.
//!
//! A client may have written `traceparent` itself. The worst that it can do is to have its check
//! traced: what waits for the collector is bounded, and beyond that spans are dropped. What cannot
//! be read counts as no trace.
//!
//! [W3C Trace Context]: https://www.w3.org/TR/trace-context/

mod client;
mod export;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderName, StatusCode};
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};
use tokio::time::Instant;

pub use self::export::{BadEndpoint, Endpoint, Exporting};
use self::export::{Queue, resource};
use crate::{
    engine::{Decision, StoreCall, Verdict},
    metrics::Metrics,
    wire::Headers,
};

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The longest `tracestate` that is kept, in bytes: as long as everybody must pass on (W3C Trace
/// Context §3.3.1.5).
const MAX_TRACESTATE: usize = 512;

/// The methods that semantic conventions know; any other is `_OTHER`, because clients may invent
/// any number of them.
const METHODS: [&str; 10] = [
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE",
];

/// Where traces go, and which.
#[derive(Debug, Clone)]
pub struct Options {
    /// The collector.
    pub endpoint: Endpoint,
    /// The share of checks without `traceparent` that begin a trace, 0 to 1.
    pub ratio: f64,
}

/// Writes the spans of checks.
#[derive(Debug)]
pub struct Traces {
    tracer: SdkTracer,
    queue: Queue,
    /// Whether a check without `traceparent` may begin a trace.
    begins: bool,
}

/// A check that was answered.
#[derive(Clone, Copy)]
pub struct Checked<'a, 'd> {
    /// The header fields of the check.
    pub headers: &'a Headers,
    /// The method of the request that it is about.
    pub method: &'a str,
    /// What was decided.
    pub decision: &'a Decision<'d>,
    /// The status of the answer.
    pub status: StatusCode,
    /// When the check came.
    pub started: Instant,
}

impl Traces {
    /// Begins to export, on the runtime that this is called on.
    ///
    /// # Errors
    ///
    /// If what the standard variables of OpenTelemetry say cannot be used, such as
    /// `OTEL_EXPORTER_OTLP_HEADERS`.
    pub fn start(options: &Options, metrics: Arc<Metrics>) -> anyhow::Result<(Self, Exporting)> {
        let (queue, exporting) = export::start(&options.endpoint, metrics)?;
        let sampler = Sampler::TraceIdRatioBased(options.ratio);
        let provider = SdkTracerProvider::builder()
            .with_resource(resource())
            .with_sampler(Sampler::ParentBased(Box::new(sampler)))
            .with_span_processor(queue.clone())
            .build();
        let traces = Self {
            tracer: provider.tracer("tollgate"),
            queue,
            begins: options.ratio > 0.0,
        };
        Ok((traces, exporting))
    }

    /// Writes the span of a check, if it is sampled.
    pub fn note(&self, check: Checked<'_, '_>) {
        let Some(parent) = self.parent(check.headers) else {
            return;
        };
        if self.queue.is_full() {
            self.queue.dropped(1);
            return;
        }
        // When it came, on the clock of traces.
        let ended = time_of_day();
        let at = |instant: Instant| ended - instant.elapsed();
        let builder = self.tracer.span_builder("check");
        let builder = builder
            .with_kind(SpanKind::Server)
            .with_start_time(at(check.started))
            .with_attributes(attributes(check));
        let mut span = self.tracer.build_with_context(builder, &parent);
        if check.status.is_server_error() {
            span.set_status(Status::error("not decided"));
        }
        if span.is_recording()
            && let Some(call) = &check.decision.store
        {
            let context = parent.with_remote_span_context(span.span_context().clone());
            self.note_store(call, at(call.asked), &context);
        }
        span.end_with_timestamp(ended);
    }

    /// Writes the span of the store's part.
    fn note_store(&self, call: &StoreCall, asked: SystemTime, check: &Context) {
        let builder = self.tracer.span_builder("charge");
        let builder = builder
            .with_kind(SpanKind::Client)
            .with_start_time(asked)
            .with_attributes([KeyValue::new("db.system.name", "redis")]);
        let mut span = self.tracer.build_with_context(builder, check);
        if let Some(failure) = call.failure {
            span.set_attribute(KeyValue::new("error.type", failure.as_str()));
            span.set_status(Status::error(failure.as_str()));
        }
        span.end_with_timestamp(asked + call.took);
    }

    /// The context that a check's span belongs into; `None` if it is not sampled for sure.
    fn parent(&self, headers: &Headers) -> Option<Context> {
        let traceparent = headers.get(&TRACEPARENT);
        if !self.begins && !traceparent.is_some_and(may_be_sampled) {
            return None;
        }
        let root = Context::new();
        let propagator = TraceContextPropagator::new();
        let context = match traceparent {
            Some(_) => propagator.extract_with_context(&root, &Fields(headers)),
            None => root,
        };
        let is_wanted = match context.span().span_context() {
            parent if parent.is_valid() => parent.is_sampled(),
            _ => self.begins,
        };
        is_wanted.then_some(context)
    }
}

/// Whether the flags of a `traceparent` say "sampled", if it is one at all. Most requests are not
/// sampled, and to read the whole of it takes a sixth of a check.
fn may_be_sampled(traceparent: &[u8]) -> bool {
    // After version, trace and span; in later versions more may follow (§3.2.4).
    let flags = traceparent.get(54).copied().map(char::from);
    let flags = flags.and_then(|digit| digit.to_digit(16));
    flags.is_some_and(|flags| flags & 1 == 1)
}

/// What a span says. The caller is not among it, nor anything else that a client chooses freely.
fn attributes(check: Checked<'_, '_>) -> Vec<KeyValue> {
    let Checked {
        method,
        decision,
        status,
        ..
    } = check;
    let method = METHODS.into_iter().find(|known| *known == method);
    let mut all = vec![
        KeyValue::new("http.request.method", method.unwrap_or("_OTHER")),
        KeyValue::new("http.response.status_code", i64::from(status.as_u16())),
        KeyValue::new("tollgate.outcome", decision.outcome.as_str()),
    ];
    let text = |key, value: &str| KeyValue::new(key, value.to_owned());
    if let Some(rule) = &decision.rule {
        all.push(text("tollgate.rule", rule));
    }
    let nearest = decision.quotas.iter().min_by_key(|quota| quota.remaining);
    if let Some(quota) = nearest {
        all.push(text("tollgate.limit", &quota.name));
        let remaining = i64::try_from(quota.remaining).unwrap_or(i64::MAX);
        all.push(KeyValue::new("tollgate.remaining", remaining));
    }
    if let Verdict::Limited { retry_after_us } | Verdict::Banned { retry_after_us } =
        decision.verdict
    {
        let wait = Duration::from_micros(retry_after_us).as_secs_f64();
        all.push(KeyValue::new("tollgate.retry_after", wait));
    }
    all
}

/// The fields of a check for the propagator. Of more than one `traceparent`, none counts.
struct Fields<'a>(&'a Headers);

impl Extractor for Fields<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let mut values = match key {
            "traceparent" => self.0.get_all(&TRACEPARENT),
            "tracestate" => self.0.get_all(&TRACESTATE),
            _ => return None,
        };
        let value = std::str::from_utf8(values.next()?).ok()?;
        (values.next().is_none() && value.len() <= MAX_TRACESTATE).then_some(value)
    }

    fn keys(&self) -> Vec<&str> {
        Vec::new()
    }
}

/// Spans of all services are on one time axis.
#[expect(clippy::disallowed_methods, reason = "nothing is decided by it")]
fn time_of_day() -> SystemTime {
    SystemTime::now()
}
