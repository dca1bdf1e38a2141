//! What a decision costs without network and Redis: matching, making keys, and charging memory.
//!
//! `cargo bench`. Figures and how they were measured: docs/benchmarks.md.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a benchmark fails by panicking"
)]

use std::{
    fmt::Write as _,
    hint::black_box,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tollgate::{
    clock::SystemClock,
    counter_key::KeySettings,
    engine::{Engine, Options},
    limit::{Algorithm, Limit},
    metrics::Metrics,
    request::{Attributes, normal_host, normal_path},
    rulefile::{self, LoadContext},
    rules::RuleSet,
    store::{Batch, ENFORCED, deadline::Guarded, memory::MemoryStore},
    wire::Headers,
};

/// `n` rules that differ in one condition; requests of this benchmark match the last.
fn rules_by(kind: &str, n: usize) -> RuleSet {
    let mut yaml = String::from("version: 1\nrules:\n");
    for i in 0..n {
        let matches = match kind {
            "path" => format!("path: \"/v1/service{i}/{{id}}\", methods: [GET]"),
            "host" => format!("path: \"/v1/{{service}}/{{id}}\", host: h{i}.example.com"),
            "header" => format!("path: \"/v1/{{service}}/{{id}}\", headers: {{ x-tenant: t{i} }}"),
            "query" => format!("path: \"/v1/{{service}}/{{id}}\", query: {{ q: \"{i}\" }}"),
            "client_ip" => format!(
                "path: \"/v1/{{service}}/{{id}}\", client_ip: 10.{}.{}.0/24",
                i / 256,
                i % 256
            ),
            "regex" => format!("path: {{ regex: \"/v1/service{i}/(?P<id>[^/]+)\" }}"),
            // Each takes a great deal of memory.
            "counting_regex" => {
                format!("path: {{ regex: \"/[a-z0-9-]{{1,64}}/service{i}/(?P<id>[^/]{{1,64}})\" }}")
            }
            // No segment of it is plain at its beginning.
            _ => format!("path: {{ regex: \"/v[0-9]+/service{i}/(?P<id>[^/]+)\" }}"),
        };
        let _ = writeln!(
            yaml,
            "  - {{ name: r{i}, match: {{ {matches} }}, key: [client_ip, {{ path: id }}], limit: 1000000/s }}"
        );
    }
    rulefile::load("bench", &yaml).unwrap()
}

fn rule_set(n: usize) -> RuleSet {
    rules_by("path", n)
}

fn request<'a>(target: &'a str, headers: &'a Headers) -> Attributes<'a> {
    let client_ip = Some(IpAddr::from([203, 0, 113, 7]));
    Attributes::new("GET", "api.example.com", target, client_ip, headers)
}

fn matching(c: &mut Criterion) {
    let mut group = c.benchmark_group("match");
    for (kind, sizes) in [
        ("path", &[1, 100, 1_000][..]),
        ("host", &[1, 1_000]),
        ("header", &[1, 1_000]),
        ("query", &[1, 1_000]),
        ("client_ip", &[1, 1_000]),
        ("regex", &[1, 100, 1_000]),
        ("any_regex", &[1, 100, 1_000]),
        ("counting_regex", &[1, 100, 1_000]),
    ] {
        for &n in sizes {
            let set = rules_by(kind, n);
            let last = n - 1;
            let target = format!("/v1/service{last}/42?q={last}");
            let [_, _, high, low] = u32::try_from(last).unwrap().to_be_bytes();
            let client_ip = IpAddr::from([10, high, low, 7]);
            let host = format!("h{last}.example.com");
            let mut headers = Headers::default();
            headers.append("x-tenant", format!("t{last}"));
            group.bench_with_input(BenchmarkId::new(kind, n), &set, |b, set| {
                b.iter(|| {
                    let request = Attributes {
                        host: normal_host(&host).unwrap(),
                        client_ip: Some(client_ip),
                        ..request(black_box(&target), &headers)
                    };
                    let matched = set.matching(&request).count();
                    assert_eq!(matched, 1);
                });
            });
        }
    }
    group.finish();
}

/// A rule with a list of `n` blocks, half of them IPv4; and how long it takes to load.
fn lists(c: &mut Criterion) {
    let mut group = c.benchmark_group("client_ip_list");
    let text = "version: 1\nrules: [{ name: a, match: { client_ip: { file: b.txt } }, key: client_ip, limit: 1/s }]\n";
    for n in [1, 200_000] {
        // Of multiples of an odd number, no two are alike and all bits look random.
        let blocks = (0..n).map(|i: u64| {
            let bits = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            if i.is_multiple_of(2) {
                let address = Ipv4Addr::from_bits(u32::try_from(bits >> 32).unwrap());
                format!("{address}/{}\n", 24 + bits % 9)
            } else {
                let address = Ipv6Addr::from_bits(u128::from(bits >> 3 | 1 << 61) << 64);
                format!("{address}/{}\n", 48 + bits % 17)
            }
        });
        let list: String = blocks.collect();
        let load = || {
            let context = LoadContext {
                keys: &KeySettings::default(),
                read: &|_| Ok(list.clone()),
                list: &|_, _| Ok(Vec::new()),
                locate: &std::path::Path::to_path_buf,
            };
            rulefile::load_with("bench", text, context).set.unwrap()
        };
        let set = load();
        let headers = Headers::default();
        // As many clients in the list as not, and never the same twice in a row.
        let listed: Vec<IpAddr> = list
            .lines()
            .filter_map(|line| line.split('/').next()?.parse().ok())
            .collect();
        let mut next = 0_usize;
        group.bench_with_input(BenchmarkId::new("match", n), &set, |b, set| {
            b.iter(|| {
                next = next.wrapping_add(7_919);
                let listed = listed[next % listed.len()];
                let ip = match (next % 4, listed) {
                    (0 | 1, ip) => ip,
                    (2, _) => IpAddr::from([203, 0, 113, 7]),
                    (_, _) => IpAddr::from([0x3fff, 0, 0, 0, 0, 0, 0, 1]),
                };
                let request = Attributes {
                    client_ip: Some(ip),
                    ..request(black_box("/data"), &headers)
                };
                set.matching(&request).count()
            });
        });
        group.bench_function(BenchmarkId::new("load", n), |b| b.iter(load));
    }
    group.finish();
}

fn normalising(c: &mut Criterion) {
    let mut group = c.benchmark_group("path");
    for (name, target) in [
        ("normal", "/v1/acme/search/items?q=shoes&page=2"),
        ("dotted", "/v1//acme/%7Ejoe/../search/items?q=shoes"),
    ] {
        group.bench_function(name, |b| b.iter(|| normal_path(black_box(target)).len()));
    }
    group.finish();
}

fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(
        1_000_000,
        Arc::new(SystemClock::new()),
        Box::new(|_| {}),
    ))
}

fn charging(c: &mut Criterion) {
    let mut group = c.benchmark_group("memory");
    for algorithm in Algorithm::ALL {
        let store = memory();
        // A log has a thousand entries at most: it is full here, and denies most requests.
        let (amount, window_us) = match algorithm {
            Algorithm::SlidingLog => (1_000, 1_000),
            _ => (1_000_000, 1_000_000),
        };
        let limit = Limit::new(algorithm, amount, window_us, None).unwrap();
        let mut batch = Batch::default();
        batch.push(limit, 1, ENFORCED, |key| {
            key.push_str("tollgate:{data:client_ip=203.0.113.7}:bench");
        });
        group.bench_function(algorithm.as_str(), |b| {
            b.iter(|| store.charge_now(black_box(&batch)).admitted);
        });
    }
    group.finish();
}

fn deciding(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let headers = Headers::default();
    let metrics = Arc::new(Metrics::new());
    let engine = Engine::new(
        rule_set(10),
        Guarded::new(memory(), Arc::clone(&metrics)),
        memory(),
        metrics,
        Options::default(),
    );
    c.bench_function("decide/memory", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let live = engine.live();
                let request = request(black_box("/v1/service9/42?q=1"), &headers);
                engine
                    .decide(&live, &request, None, tokio::time::Instant::now())
                    .await
                    .quotas
                    .len()
            })
        });
    });
}

criterion_group!(benches, matching, lists, normalising, charging, deciding);
criterion_main!(benches);
