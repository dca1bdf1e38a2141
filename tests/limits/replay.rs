//! A rehearsal says what a real engine does: rules replayed on a log equal rules driven by it.

use std::{fmt::Write as _, fs, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use proptest::prelude::*;
use tokio::time::Instant;
use tollgate::{
    clock::ManualClock,
    engine::{Engine, LogDecisions, LogOptions, Options, Verdict},
    metrics::Metrics,
    replay::{self, Format, Input, Named, Report},
    request::Attributes,
    rulefile,
    rules::RuleSet,
    store::{deadline::Guarded, memory::MemoryStore},
    wire::Headers,
};

/// A request of the past.
#[derive(Debug, Clone)]
struct Asked {
    /// Milliseconds since 12:00 on 1 October 2026.
    at_ms: u64,
    method: &'static str,
    target: &'static str,
    ip: String,
    agent: &'static str,
}

/// 12:00 on 1 October 2026, in seconds.
const NOON: u64 = 1_790_856_000;

/// A format that logs are written in, and what it keeps of a request.
#[derive(Debug, Clone, Copy)]
enum Written {
    Combined,
    Shipped,
    EnvoyText,
    EnvoyJson,
    NginxJson,
    Caddy,
}

const WRITTEN: [Written; 6] = [
    Written::Combined,
    Written::Shipped,
    Written::EnvoyText,
    Written::EnvoyJson,
    Written::NginxJson,
    Written::Caddy,
];

impl Written {
    /// The time that the log has, in microseconds since the epoch.
    fn time_us(self, at_ms: u64) -> u64 {
        let ms = NOON * 1_000 + at_ms;
        match self {
            Self::Combined | Self::Shipped => ms / 1_000 * 1_000_000,
            _ => ms * 1_000,
        }
    }

    fn has_agent(self) -> bool {
        !matches!(self, Self::Shipped | Self::EnvoyJson)
    }

    fn has_query(self) -> bool {
        !matches!(self, Self::Shipped | Self::EnvoyJson)
    }

    fn line(self, asked: &Asked) -> String {
        let Asked {
            at_ms,
            method,
            target,
            ip,
            agent,
        } = asked;
        let (h, m, s) = {
            let s = at_ms / 1_000;
            (12 + s / 3_600, s / 60 % 60, s % 60)
        };
        let (clock, ms) = (format!("{h:02}:{m:02}:{s:02}"), at_ms % 1_000);
        let path = target.split('?').next().unwrap();
        match self {
            Self::Combined => format!(
                "{ip} - - [01/Oct/2026:{clock} +0000] \"{method} {target} HTTP/1.1\" 200 5 \"-\" \"{agent}\""
            ),
            Self::Shipped => format!(
                "2026-10-01T{clock}+00:00 {ip} \"{method} {path}\" 200 tollgate=200 rule=- limit=- 0.004"
            ),
            Self::EnvoyText => format!(
                "[2026-10-01T{clock}.{ms:03}Z] \"{method} {target} HTTP/1.1\" 200 - 0 5 1 1 \"{ip}\" \"{agent}\" \"id\" \"app.test\" \"10.0.0.1:80\""
            ),
            Self::EnvoyJson => format!(
                "{{\"time\":\"2026-10-01T{clock}.{ms:03}Z\",\"client\":\"{ip}\",\"method\":\"{method}\",\"path\":\"{path}\",\"status\":200,\"details\":\"via_upstream\",\"duration_ms\":7}}"
            ),
            Self::NginxJson => {
                // nginx writes when a request ended.
                let end = NOON * 1_000 + at_ms + 250;
                format!(
                    "{{\"msec\":\"{}.{:03}\",\"request_time\":\"0.250\",\"remote_addr\":\"{ip}\",\"request\":\"{method} {target} HTTP/1.1\",\"http_user_agent\":\"{agent}\",\"status\":\"200\"}}",
                    end / 1_000,
                    end % 1_000
                )
            }
            Self::Caddy => {
                let end = NOON * 1_000 + at_ms + 1_500;
                format!(
                    "{{\"ts\":{}.{:03},\"duration\":1.5,\"request\":{{\"remote_ip\":\"{ip}\",\"client_ip\":\"{ip}\",\"method\":\"{method}\",\"host\":\"app.test\",\"uri\":\"{target}\",\"headers\":{{\"User-Agent\":[\"{agent}\"]}}}},\"status\":200}}",
                    end / 1_000,
                    end % 1_000
                )
            }
        }
    }
}

fn set(rules: &str) -> RuleSet {
    rulefile::load("rules.yaml", rules).unwrap_or_else(|report| panic!("{report}"))
}

/// Drives an engine with the requests as the log has them: the numbers of all rules, as `/metrics`
/// has them.
fn driven(rules: &str, log: &[Asked], written: Written) -> String {
    let clock = Arc::new(ManualClock::default());
    let store = || Arc::new(MemoryStore::new(100_000, clock.clone(), Box::new(|_| {})));
    let metrics = Arc::new(Metrics::new());
    let options = Options {
        log: LogOptions {
            which: LogDecisions::None,
            ..LogOptions::default()
        },
        deadline: Duration::from_secs(1),
        ..Options::default()
    };
    let guarded = Guarded::new(store(), Arc::clone(&metrics));
    let engine = Engine::new(set(rules), guarded, store(), Arc::clone(&metrics), options);
    let live = engine.live();
    let (mut admitted, mut denied, mut refused) = (0, 0, 0);
    for asked in log {
        clock.set(written.time_us(asked.at_ms));
        let mut headers = Headers::default();
        if written.has_agent() {
            headers.append("user-agent", asked.agent);
        }
        let target = if written.has_query() {
            asked.target
        } else {
            asked.target.split('?').next().unwrap()
        };
        let Ok(path) = live.set.paths.read(target) else {
            refused += 1;
            continue;
        };
        let ip = asked.ip.parse().ok();
        let request = Attributes {
            path,
            with_parameters: live.set.paths.with_parameters(target),
            ..Attributes::new(asked.method, "", target, ip, &headers)
        };
        let decision = engine.decide(&live, &request, None, Instant::now());
        match decision.now_or_never().unwrap().verdict {
            Verdict::Allowed => admitted += 1,
            _ => denied += 1,
        }
    }
    let mut out = format!("{admitted} {denied} {refused}\n");
    let text = metrics.encode();
    for rule in &live.set.rules {
        let number = |outcome: &str| -> u64 {
            let series = format!(
                "tollgate_decisions_total{{rule=\"{}\",outcome=\"{outcome}\"}} ",
                rule.name
            );
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.strip_prefix(&*series));
            value.map_or(0, |value| value.parse().unwrap())
        };
        writeln!(
            out,
            "{} {}",
            rule.name,
            number("denied") + number("shadow_denied")
        )
        .unwrap();
    }
    out + &in_order(text.lines().filter_map(|line| {
        let series = line.strip_prefix("tollgate_would_deny_total{rule=\"")?;
        let (rule, rest) = series.split_once("\",limit=\"")?;
        let (limit, number) = rest.split_once("\"} ")?;
        Some(format!("{rule} {limit} {number}"))
    }))
}

fn in_order(lines: impl Iterator<Item = String>) -> String {
    let mut lines: Vec<String> = lines.collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// What a report says, in the same words.
fn said(report: &Report) -> String {
    let refused: u64 = report.refused.values().sum();
    let mut out = format!("{} {} {refused}\n", report.admitted, report.denied);
    for rule in &report.rules {
        writeln!(out, "{} {}", rule.name, rule.denied).unwrap();
    }
    let limits = report.rules.iter().flat_map(|rule| {
        let limits = rule.limits.iter();
        limits.map(|limit| (&rule.name, limit))
    });
    out + &in_order(limits.filter_map(|(rule, limit)| {
        let would_deny = limit.candidate.as_ref()?.would_deny;
        Some(format!("{rule} {} {would_deny}", limit.name))
    }))
}

fn replayed(rules: &str, against: Option<&str>, log: &[Asked], written: Written) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let lines: Vec<String> = log.iter().map(|asked| written.line(asked)).collect();
    fs::write(&file, lines.join("\n")).unwrap();
    let named = |rules: &str| Named {
        file: "rules.yaml".to_owned(),
        set: set(rules),
    };
    let options = replay::Options {
        inputs: vec![Input::File(file)],
        format: Format::Auto,
        rules: named(rules),
        against: against.map(named),
        max_callers: 1_000,
    };
    let report = replay::replay(options, |_| {}).unwrap();
    assert_eq!(report.unread.lines, 0, "{:?}", report.unread.examples);
    assert_eq!(report.log.requests, log.len() as u64);
    assert_eq!(report.log.out_of_order, 0);
    report
}

/// Rules of all kinds; the numbers are drawn.
fn rules() -> impl Strategy<Value = String> {
    let algorithm = prop::sample::select(vec![
        "fixed_window",
        "sliding_window",
        "sliding_log",
        "token_bucket",
    ]);
    let amount = 1_u64..8;
    let window = prop::sample::select(vec!["s", "10s", "m", "10m"]);
    let tried = prop::option::of(1_u64..8);
    let limit =
        (algorithm, amount, window, tried).prop_map(|(algorithm, amount, window, tried)| {
            let tried = tried.filter(|tried| *tried != amount);
            let tried = tried.map_or_else(String::new, |tried| format!(", try: {tried}/{window}"));
            format!("{{ rate: {amount}/{window}, algorithm: {algorithm}{tried} }}")
        });
    (prop::collection::vec(limit, 6), 1_u64..4, any::<bool>()).prop_map(|(limits, cost, budget)| {
        let budget = if budget { "\n    max_new_keys: 1" } else { "" };
        format!(
            "version: 1
rules:
  - {{ name: free, match: {{ path: /free }}, action: allow }}
  - {{ name: shut, match: {{ path: /shut }}, action: deny }}
  - {{ name: seen, match: {{ path: /shut2 }}, action: deny, mode: shadow }}
  - name: login
    match: {{ path: /login, methods: [POST] }}
    key: [client_ip]
    limit: {}
    ban: {{ after: 2, within: 10m, for: 5m }}
  - name: shadow
    key: [client_ip]
    mode: shadow
    limit: {}
  - name: agents
    match: {{ path: /data }}
    key: [{{ header: user-agent }}]{budget}
    cost: {cost}
    limits: [{}, {{ rate: 40/hour, align: calendar, algorithm: fixed_window }}]
  - name: tiers
    key: [client_ip, {{ query: q }}]
    limit: {}
    tiers:
      - {{ name: bots, when: {{ headers: {{ user-agent: bot }} }}, limit: {} }}
    overrides:
      - {{ key: [10.0.0.1, x], limit: unlimited }}
  - name: everybody
    limit: {}
",
            limits[0], limits[1], limits[2], limits[3], limits[4], limits[5]
        )
    })
}

fn log() -> impl Strategy<Value = Vec<Asked>> {
    let target = prop::sample::select(vec![
        "/data",
        "/data",
        "/data?q=x",
        "/login",
        "/login",
        "/free",
        "/shut",
        "/shut2",
        "/a%2Fb",
        "/data;v=1",
    ]);
    let method = prop::sample::select(vec!["GET", "POST"]);
    let agent = prop::sample::select(vec!["bot", "curl/8", "Mozilla/5.0 (X11)"]);
    let pause = prop_oneof![3 => Just(0_u64), 3 => 0_u64..1_500, 1 => 0_u64..90_000];
    let request = (pause, method, target, 0_u8..3, agent);
    prop::collection::vec(request, 1..120).prop_map(|requests| {
        let mut at_ms = 0;
        let asked = requests
            .into_iter()
            .map(|(pause, method, target, ip, agent)| {
                at_ms += pause;
                Asked {
                    at_ms,
                    method,
                    target,
                    ip: format!("10.0.0.{ip}"),
                    agent,
                }
            });
        asked.collect()
    })
}

#[test]
fn what_a_limit_under_try_would_deny_is_said_in_each_format() {
    let rules = "version: 1\nrules:\n  - { name: all, key: [client_ip], \
                 limit: { rate: 4/m, try: 2/m, algorithm: fixed_window } }\n";
    let asked = |at_ms, ip: &str| Asked {
        at_ms,
        method: "GET",
        target: "/data",
        ip: ip.to_owned(),
        agent: "curl/8",
    };
    let mut log: Vec<_> = (0..6).map(|n| asked(n, "10.0.0.1")).collect();
    log.push(asked(7, "10.0.0.2"));
    let report = replayed(rules, None, &log, Written::EnvoyText);
    let line = "try 2/m would deny 2 of 5 admitted requests (40.0 %), of 1 caller";
    assert!(report.to_string().contains(line), "{report}");
    assert!(replay::html::page(&report).contains(line));
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(
        json["rules"][0]["limits"][0]["try"],
        serde_json::json!({
            "limit": "2/m", "admits": 2, "requests": 5, "would_deny": 2, "callers_would_deny": 1
        })
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1200, ..ProptestConfig::default() })]

    #[test]
    fn rules_replayed_are_rules_driven(
        one in rules(),
        other in rules(),
        log in log(),
        written in prop::sample::select(WRITTEN.to_vec()),
    ) {
        let report = replayed(&one, Some(&other), &log, written);
        prop_assert_eq!(said(&report), driven(&one, &log, written));
        let against = report.against.unwrap();
        let before = driven(&other, &log, written);
        let (first, _) = before.split_once('\n').unwrap();
        let refused: u64 = report.refused.values().sum();
        let said = format!("{} {} {refused}", against.admitted_before, against.denied_before);
        prop_assert_eq!(said, first);
        let change = against.newly_denied.wrapping_sub(against.no_longer_denied);
        prop_assert_eq!(change, report.denied.wrapping_sub(against.denied_before));
    }

    /// The limit that is said to be enough for so many callers denies none of them, and one less
    /// denies more than the rest.
    #[test]
    fn the_limit_that_is_enough_is_the_smallest(
        algorithm in prop::sample::select(vec![
            "fixed_window", "sliding_window", "sliding_log", "token_bucket",
        ]),
        amount in 1_u64..6,
        log in log(),
    ) {
        let rule = |limit: &str| format!(
            "version: 1\nrules:\n  - {{ name: all, key: [client_ip], limit: {{ rate: {limit}, algorithm: {algorithm} }} }}\n"
        );
        let written = Written::EnvoyText;
        let log: Vec<_> = log.into_iter().filter(|asked| !asked.target.contains('%')).collect();
        prop_assume!(!log.is_empty());
        let report = replayed(&rule(&format!("{amount}/m")), None, &log, written);
        let limit = &report.rules[0].limits[0];
        for enough in &limit.enough {
            let spread = |text: &str| match text.split_once(" burst ") {
                Some((rate, burst)) => format!("{rate}, burst: {burst}"),
                None => text.to_owned(),
            };
            let text = enough.limit.as_deref().unwrap();
            let fitting = replayed(&rule(&spread(text)), None, &log, written);
            prop_assert_eq!(fitting.rules[0].callers_denied, 0, "{}", text);
            let admits = enough.admits.unwrap();
            if admits > 1 {
                let less = text.replace(&admits.to_string(), &(admits - 1).to_string());
                // A rate that has the same digits would change too.
                prop_assume!(algorithm != "token_bucket" || admits != amount);
                let short = replayed(&rule(&spread(&less)), None, &log, written);
                prop_assert!(short.rules[0].callers_denied > 0, "{}", less);
            }
        }
    }
}
