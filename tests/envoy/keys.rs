//! The keys in Redis, for hostile values from clients.

use std::collections::HashSet;

use super::{
    Stack,
    support::{
        client::{ask, head},
        envoy::Config,
        redis::Redis,
        tollgate::Settings,
    },
};

const RULES: &str = "
version: 1
defaults: { on_store_error: proxy }
rules:
  - name: api
    match: { path: /api }
    key: [client_ip, { header: x-api-key }]
    limit: 2/day
  - name: secret
    match: { path: /secret }
    key: [{ header: x-api-key, secret: true }]
    limit: 2/day
  - name: user
    match: { path: '/users/{id}' }
    key: [{ path: id }]
    limits: [2/day, 2/h]
";

/// The longest key that these rules can make: prefix, rule, an IPv4 address, a value of 64 bytes,
/// and the limit.
const LONGEST_KEY: usize = 160;

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_short_readable_unambiguous_and_have_a_time_to_live() {
    let redis = Redis::start();
    let args = &["--deadline=20s"];
    let settings = Settings {
        rules: RULES,
        redis: Some(&redis),
        args,
        ..Settings::default()
    };
    let stack = Stack::start(Config::shipped().fail_closed().patient(), settings).await;

    let long = "k".repeat(10_000);
    let almost_as_long = "k".repeat(9_999);
    let api_keys = [
        "plain",
        &long,
        &almost_as_long,
        "{}:*",
        "a}:sliding_window:86400s",
        "a,header.x-api-key=b",
        "a=b",
        "*",
        "a b\tc",
        "%7B%7D",
        "#0123456789abcdef0123456789abcdef",
        "\u{e9}\u{1f980}",
    ];
    let mut requests = Vec::new();
    for api_key in api_keys {
        requests.push(head("GET", "/api", &[&format!("x-api-key: {api_key}")]));
    }
    requests.push(head("GET", "/api", &[]));
    requests.push(head("GET", "/api", &["x-api-key:"]));
    for id in [
        "plain", "a%C2%85b", "%7B%7D:*", "a%22b", "a%2Cb", "%FF%FE", &long,
    ] {
        requests.push(head("GET", &format!("/users/{id}"), &[]));
    }
    requests.push(head("GET", "/secret", &["x-api-key: hunter2"]));

    // Each is a caller of its own: two requests get through, and one caller does not charge
    // another.
    for _ in 0..2 {
        for request in &requests {
            let answer = ask(stack.envoy.addr, request).await;
            assert_eq!(
                answer.status,
                200,
                "{}",
                String::from_utf8_lossy(&request[..request.len().min(80)])
            );
        }
    }
    for request in &requests {
        let answer = ask(stack.envoy.addr, request).await;
        assert_eq!(
            answer.status,
            429,
            "{}",
            String::from_utf8_lossy(&request[..request.len().min(80)])
        );
    }

    let listed = redis.counters();
    let keys: Vec<&str> = listed.lines().collect();
    let users = 7;
    assert_eq!(
        keys.len(),
        requests.len() + users,
        "one for each caller and limit:\n{listed}"
    );
    assert_eq!(
        keys.iter().collect::<HashSet<_>>().len(),
        keys.len(),
        "{listed}"
    );
    // A key with a line break would print two lines, and there would be fewer keys than lines.
    let all = redis.cli(&["--scan"]);
    assert_eq!(redis.cli(&["DBSIZE"]), all.lines().count().to_string());
    for key in all.lines() {
        assert!(key.starts_with("tollgate:"), "{key:?}");
    }
    for key in &keys {
        assert!(key.len() <= LONGEST_KEY, "{key}");
        assert!(key.bytes().all(|byte| byte.is_ascii_graphic()), "{key:?}");
        assert!(key.starts_with("tollgate:{"), "{key}");
        assert_eq!(
            (key.matches('{').count(), key.matches('}').count()),
            (1, 1),
            "one hash tag: {key}"
        );
        assert!(!key.contains('*'), "{key}");
        let ttl: i64 = redis.cli(&["PTTL", key]).parse().unwrap();
        assert!((1..=2 * 86_400_000).contains(&ttl), "{key}: {ttl}");
    }
    assert!(
        keys.contains(
            &"tollgate:{api:client_ip=127.0.0.1,header.x-api-key=plain}:sliding_window:86400s"
        ),
        "{listed}"
    );
    assert!(!listed.contains("hunter2"), "{listed}");
}
