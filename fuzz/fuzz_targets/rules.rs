//! Any text as a rule file, up to the first NUL; what follows it is every other file that the rules name.
#![no_main]

mod checks;

use std::{cell::LazyCell, io, path::Path, sync::Arc, time::Duration};

use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};
use tollgate::{
    clock::{Clock, ManualClock},
    contract::{self, Endpoint},
    engine::{Engine, Options},
    explain::{self, Counters},
    counter_key::KeySettings,
    metrics::Metrics,
    request::{Attributes, parse_ip},
    rulefile::{self, Diagnostic, Diagnostics, LoadContext},
    rules::RuleSet,
    store::{deadline::Guarded, memory::MemoryStore},
    wire::Headers,
};

/// Method, target, host, address, headers.
type Asked = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const REQUESTS: [Asked; 4] = [
    (
        "GET",
        "/data?token=t&page=100&q=a+b",
        "api.example.com",
        "203.0.113.7",
        &[
            ("x-api-key", "k"),
            ("x-plan", "gold"),
            ("x-query-cost", "7"),
            ("cookie", "a=1; session=s"),
            // {"sub":"a"}
            ("authorization", "Bearer e30.eyJzdWIiOiJhIn0.x"),
        ],
    ),
    (
        "POST",
        "/v1/acme/search",
        "a.api.example.com",
        "2001:db8::1",
        &[("x-query-cost", "0")],
    ),
    (
        "HEAD",
        "/a/b/z.png",
        "",
        "10.1.1.1",
        &[("x-plan", "\u{e9}")],
    ),
    ("PUT", "/", "x", "", &[]),
];

thread_local! {
    static RUNTIME: LazyCell<Runtime> =
        LazyCell::new(|| Builder::new_current_thread().enable_time().build().unwrap());
}

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (text, other) = text.split_once('\0').unwrap_or((&text, ""));
    let read = |path: &Path| match path.to_str() {
        Some("missing") => Err(io::Error::from(io::ErrorKind::NotFound)),
        _ => Ok(other.to_owned()),
    };
    let loaded = rulefile::load_with(
        "rules.yaml",
        text,
        LoadContext {
            keys: &KeySettings::default(),
            read: &read,
            list: &|_, _| Ok(vec!["a.yaml".to_owned(), "b.yaml".to_owned()]),
            locate: &Path::to_path_buf,
        },
    );
    told(&loaded.diagnostics, text, other);
    assert_eq!(loaded.set.is_none(), loaded.diagnostics.has_errors());
    if let Some(set) = loaded.set {
        used(set);
    }
});

/// The report can be written in every form, and each of its places is one of the text.
fn told(report: &Diagnostics, text: &str, other: &str) {
    let shown = report.to_string();
    assert_eq!(shown.is_empty(), report.list.is_empty());
    assert!(serde_json::to_string(report).is_ok());
    assert!(!report.summary().contains('\n'), "{:?}", report.summary());
    for diagnostic in &report.list {
        let text = if diagnostic.file == "rules.yaml" {
            text
        } else {
            other
        };
        placed(diagnostic, text);
    }
}

fn placed(diagnostic: &Diagnostic, text: &str) {
    let Diagnostic {
        line,
        column,
        width,
        source,
        source_column,
        ..
    } = diagnostic;
    assert!(!diagnostic.message.is_empty(), "{diagnostic:?}");
    assert_ne!(diagnostic.hint.as_deref(), Some(""), "{diagnostic:?}");
    assert!(*width >= 1, "{diagnostic:?}");
    if *line == 0 {
        return;
    }
    assert!(*line <= text.lines().count().max(1), "{diagnostic:?}");
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let whole = text.lines().nth(line - 1).unwrap_or_default();
    assert!(
        (1..=whole.chars().count() + 1).contains(column),
        "{diagnostic:?}"
    );
    let length = source.chars().count();
    // Control characters of a list are not shown.
    let plain = |text: &str| text.replace(|c: char| c.is_control() && c != '\t', "\u{fffd}");
    assert!(
        length <= 202 && plain(whole).contains(&plain(source.trim_matches('…'))),
        "{diagnostic:?}"
    );
    assert!((1..=length + 1).contains(source_column), "{diagnostic:?}");
    assert!(
        source_column - 1 + width <= length.max(*source_column),
        "{diagnostic:?}"
    );
    let meant = |text: &str, column: usize| text.chars().nth(column - 1);
    assert_eq!(
        meant(source, *source_column),
        meant(whole, *column),
        "{diagnostic:?}"
    );
}

/// Requests can be matched, charged and answered.
fn used(set: RuleSet) {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(checks::NOW));
    let metrics = Arc::new(Metrics::new());
    let memory = || {
        Arc::new(MemoryStore::new(
            100_000,
            Arc::clone(&clock),
            Box::new(|_| {}),
        ))
    };
    let guarded = Guarded::new(memory(), Arc::clone(&metrics));
    let options = Options {
        deadline: Duration::from_secs(60),
        ..Options::default()
    };
    let engine = Engine::new(set, guarded, memory(), metrics, options);
    let live = engine.live();
    for (method, target, host, ip, lines) in REQUESTS {
        let mut headers = Headers::default();
        for (name, value) in lines {
            headers.append(name, value);
        }
        let request = Attributes::new(method, host, target, parse_ip(ip), &headers);
        checks::matching(&live.set, &request);
        for endpoint in [Endpoint::Check, Endpoint::AuthRequest] {
            let explained = engine.explain(&live, &request);
            let (explanation, _) = RUNTIME.with(|runtime| runtime.block_on(explained));
            let decided = engine.decide(&live, &request, None, tokio::time::Instant::now());
            let decision = RUNTIME.with(|runtime| runtime.block_on(decided));
            assert_eq!(
                explanation.decision, decision,
                "what is explained is what happens"
            );
            let options = contract::AnswerOptions::default();
            let report =
                explain::ExplainReport::new(&request, explanation, Counters::NotRead, options);
            assert!(report.to_json().len() > 2 && !report.to_string().is_empty());
            let answer = contract::answer(&decision, endpoint, contract::AnswerOptions::default());
            if let Some(custom) = &decision.answer {
                for (name, _) in &custom.headers {
                    assert!(answer.get(name.as_str()).is_some(), "{name} {decision:?}");
                }
            }
            for name in ["ratelimit", "ratelimit-policy"] {
                let told = answer.get(name).is_some();
                assert_eq!(told, !decision.quotas.is_empty(), "{decision:?}");
            }
        }
    }
}
