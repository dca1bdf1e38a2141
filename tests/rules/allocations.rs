//! What a check costs in allocations, from its head to the answer. The counter of the test binary's
//! allocator is one for each thread.

use std::sync::Arc;

use tollgate::{
    check::CheckPort,
    clock::SystemClock,
    contract::AnswerOptions,
    engine::{Engine, Options},
    metrics::Metrics,
    store::{deadline::Guarded, memory::MemoryStore},
    wire::Request,
};

use crate::support::world::compile;

/// How often the answers of a check port with these rules allocate, for a check that was asked
/// before.
fn allocations(rules: &str) -> u64 {
    let metrics = Arc::new(Metrics::new());
    let clock = Arc::new(SystemClock::new());
    let memory = Arc::new(MemoryStore::new(1_000, clock, Box::new(|_| {})));
    let engine = Engine::new(
        compile(rules),
        Guarded::new(Arc::clone(&memory) as _, Arc::clone(&metrics)),
        memory,
        Arc::clone(&metrics),
        Options::default(),
    );
    let port = CheckPort::new(Arc::new(engine), metrics, AnswerOptions::default(), None);
    let check = || {
        let headers = [
            ("host", "tollgate:8081"),
            ("x-forwarded-method", "GET"),
            ("x-forwarded-uri", "/data/17?page=2"),
            ("x-forwarded-host", "api.example.com"),
            ("x-real-ip", "192.0.2.1"),
        ];
        Request::of("GET", "/v1/check", &headers).unwrap()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(port.respond(check()));
    let request = check();
    let counted = allocation_counter::measure(|| {
        let answer = runtime.block_on(port.respond(request));
        assert_eq!(answer.status(), 200);
    });
    counted.count_total
}

#[test]
fn a_check_in_memory_allocates_rarely() {
    let one = "version: 1\nrules:\n  \
               - { name: data, match: { path: /data/* }, key: client_ip, limit: 1000/s }\n";
    let count = allocations(one);
    assert!(count <= 9, "{count}");
    // Three rules match, with four limits, keys from other places, and parts of the path.
    let more = "version: 1\nrules:\n  \
                - { name: all, key: client_ip, limits: [1000/s, 10000/h] }\n  \
                - { name: item, match: { path: '/data/{id}' }, key: [{ path: id }], limit: 9/s }\n  \
                - { name: host, match: { host: '*.example.com' }, key: host, limit: 99/m }\n  \
                - { name: other, match: { path: /other }, limit: 1/s }\n";
    let count = allocations(more);
    assert!(count <= 15, "{count}");
}
