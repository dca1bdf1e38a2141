//! The way of spans to the collector: a queue, and a task that empties it.
//!
//! A check puts its span into the queue and goes on. If the queue is full, because the collector is
//! slow or away, the span is dropped and counted. Nothing is sent twice: traces are for looking at,
//! and a collector that comes back has better things to do than to read old ones.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use anyhow::Context as _;
use http::Uri;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{RetryPolicy, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanExporter as _, SpanProcessor},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tracing::{info, warn};

use super::client::Client;
use crate::{metrics::Metrics, problem::Problem};

/// The most spans that wait: with up to a kilobyte each, some megabytes.
const MAX_WAITING: usize = 4_096;

/// The most spans in one request to the collector.
const MAX_BATCH: usize = 512;

/// How long spans are gathered before they are sent.
const PAUSE: Duration = Duration::from_millis(200);

/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The path of traces, where the endpoint has none (OTLP specification, "OTLP/HTTP request").
const PATH: &str = "/v1/traces";

/// The URL that spans are posted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(Uri);

/// Why a text is no [`Endpoint`].
pub type BadEndpoint = Problem;

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        const LIKE: &str = "write it like http://collector:4318";
        let wrong = |why: &str, hint: &'static str| Problem::new(format!("{text:?}: {why}"), hint);
        let uri: Uri = text.parse().map_err(|_| wrong("no URL", LIKE))?;
        if uri.scheme_str() == Some("https") {
            return Err(wrong(
                "traces are sent without TLS",
                "send them to a collector on this machine or in this network, which can forward them with TLS",
            ));
        }
        if uri.scheme_str() != Some("http") || uri.host().is_none_or(str::is_empty) {
            return Err(wrong("no URL with http:// and a host", LIKE));
        }
        if uri
            .authority()
            .is_some_and(|host| host.as_str().contains('@'))
        {
            return Err(wrong(
                "a password in the URL",
                "set OTEL_EXPORTER_OTLP_HEADERS=authorization=...",
            ));
        }
        if uri.path() != "/" {
            return Ok(Self(uri));
        }
        let with_path = format!("{}{PATH}", text.trim_end_matches('/'));
        with_path
            .parse()
            .map(Self)
            .map_err(|_| wrong("no URL", LIKE))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What spans are of: the service, by default `tollgate`, and what `OTEL_SERVICE_NAME` and
/// `OTEL_RESOURCE_ATTRIBUTES` say.
pub(super) fn resource() -> Resource {
    let builder = || {
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        Resource::builder().with_attribute(version)
    };
    let named = builder().build();
    let name = named.get(&"service.name".into());
    match name {
        Some(name) if !name.as_str().starts_with("unknown_service") => named,
        _ => builder().with_service_name("tollgate").build(),
    }
}

/// The end of the queue that spans are put into.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    sender: mpsc::Sender<SpanData>,
    metrics: Arc<Metrics>,
}

impl Queue {
    /// Whether there is no room for a check's spans.
    pub(super) fn is_full(&self) -> bool {
        self.sender.capacity() < 2
    }

    /// Counts spans that will not be exported.
    pub(super) fn dropped(&self, spans: u64) {
        self.metrics.spans_dropped.inc_by(spans);
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if self.sender.try_send(span).is_err() {
            self.dropped(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The task that sends spans.
#[derive(Debug)]
pub struct Exporting {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Exporting {
    /// Sends what waits, until `deadline` at most.
    pub async fn end(self, deadline: Instant) {
        // An error means that the task is gone, which is what is waited for.
        let _ = self.stop.send(());
        let _ = timeout_at(deadline, self.task).await;
    }
}

/// Starts the task.
pub(super) fn start(
    endpoint: &Endpoint,
    metrics: Arc<Metrics>,
) -> anyhow::Result<(Queue, Exporting)> {
    let client = Client::default();
    let mut exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(client.clone())
        // Its pauses would hold up everything else on this thread.
        .with_retry_policy(RetryPolicy::disabled())
        .with_endpoint(endpoint.to_string())
        .build()
        .context("traces cannot be exported")?;
    exporter.set_resource(&resource());
    let (sender, waiting) = mpsc::channel(MAX_WAITING);
    let (stop, stopped) = oneshot::channel();
    let queue = Queue {
        sender,
        metrics: Arc::clone(&metrics),
    };
    let sending = Sending {
        exporter,
        client,
        endpoint: endpoint.clone(),
        metrics,
        failures: 0,
    };
    let task = tokio::spawn(sending.run(waiting, stopped));
    Ok((queue, Exporting { stop, task }))
}

/// Sends spans, batch by batch.
struct Sending {
    exporter: opentelemetry_otlp::SpanExporter,
    client: Client,
    endpoint: Endpoint,
    metrics: Arc<Metrics>,
    /// How many batches in a row were not taken.
    failures: u32,
}

impl Sending {
    async fn run(mut self, mut queue: mpsc::Receiver<SpanData>, stopped: oneshot::Receiver<()>) {
        tokio::pin!(stopped);
        let (mut batch, mut is_last) = (Vec::new(), false);
        while !is_last {
            is_last = tokio::select! {
                biased;
                _ = &mut stopped => true,
                received = queue.recv_many(&mut batch, MAX_BATCH) => received == 0,
            };
            if !is_last {
                // More come meanwhile.
                let pause = PAUSE * 2_u32.saturating_pow(self.failures.min(8));
                is_last = timeout(pause.min(LONGEST_PAUSE), &mut stopped)
                    .await
                    .is_ok();
            }
            loop {
                while batch.len() < MAX_BATCH
                    && let Ok(span) = queue.try_recv()
                {
                    batch.push(span);
                }
                if batch.is_empty() {
                    break;
                }
                self.send(std::mem::take(&mut batch)).await;
            }
        }
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len() as u64;
        match self.exporter.export(batch).await {
            Ok(()) => {
                self.metrics.spans_exported.inc_by(spans);
                if self.failures > 0 {
                    self.failures = 0;
                    info!(endpoint = %self.endpoint, "traces are exported again");
                }
            }
            Err(error) => {
                self.metrics.spans_dropped.inc_by(spans);
                let why = self.client.last_failure();
                if self.failures == 0 {
                    warn!(
                        endpoint = %self.endpoint,
                        error = why.unwrap_or_else(|| error.to_string()),
                        "traces are not exported: they are dropped, and checks go on"
                    );
                }
                self.failures = self.failures.saturating_add(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_without_a_path_gets_the_usual_one() {
        for (text, url) in [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("http://[::1]:4318/", "http://[::1]:4318/v1/traces"),
            ("http://c/otlp/v1/traces", "http://c/otlp/v1/traces"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), url);
        }
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        for (text, why) in [
            ("collector:4318", "no URL with http://"),
            ("http://", "no URL"),
            ("grpc://collector:4317", "no URL with http://"),
            ("https://collector:4318", "without TLS"),
            ("http://user:secret@collector:4318", "a password"),
            ("", "no URL"),
        ] {
            let problem = text.parse::<Endpoint>().unwrap_err();
            assert!(problem.message.contains(why), "{text}: {problem:?}");
        }
    }
}
