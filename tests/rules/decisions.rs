//! Single decisions of a rule file.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::support::world::{Ask, Broken, DEADLINE, GET, Lossy, World, compile, get};
use tokio::time::Instant;
use tollgate::{
    engine::{Decision, Verdict},
    store::StoreError,
};

fn limited(decision: &Decision<'_>) -> u64 {
    match decision.verdict {
        Verdict::Limited { retry_after_us } => retry_after_us,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_matching_limit_applies_until_a_rule_ends_the_walk() {
    let world = World::new(
        "
version: 1
rules:
  - { name: wide, key: [client_ip], limit: 4/m }
  - { name: free, match: { path: /free }, action: allow }
  - { name: never, match: { path: /never }, action: deny }
  - { name: narrow, match: { path: /narrow }, key: [client_ip], limit: 2/m }
",
    );
    assert_eq!(world.admitted(3, get("/narrow")).await, 2);
    let denied = world.ask(get("/narrow")).await;
    assert_eq!(denied.rule.as_deref(), Some("narrow"));
    assert_eq!(
        denied.quotas.len(),
        1,
        "only the limit that denied is reported"
    );

    assert_eq!(world.ask(get("/never")).await.verdict, Verdict::Forbidden);
    // Two of `wide` are used: the denied requests and the forbidden one cost nothing. `/free` is
    // below it and is charged.
    assert_eq!(world.admitted(3, get("/free")).await, 2);
    assert_eq!(world.ask(get("/free")).await.rule.as_deref(), Some("wide"));
    assert_eq!(world.decisions("free", "allowed"), 2);
    assert_eq!(world.decisions("never", "denied"), 1);
    assert_eq!(world.decisions("narrow", "denied"), 2);
}

#[tokio::test]
async fn an_exemption_in_front_costs_nothing() {
    let world = World::new(
        "
version: 1
rules:
  - { name: free, match: { path: /free/** }, action: allow }
  - { name: all, limit: 1/m }
",
    );
    assert_eq!(world.admitted(20, get("/free/x")).await, 20);
    let free = world.ask(get("/free/x")).await;
    assert_eq!((free.rule.as_deref(), free.quotas.len()), (Some("free"), 0));
    assert!(world.admits(get("/x")).await);
    assert!(!world.admits(get("/y")).await);
}

#[tokio::test]
async fn a_request_that_no_rule_matches_is_admitted() {
    let world = World::new("{ version: 1, rules: [{ name: a, match: { path: /a }, limit: 1/m }] }");
    let decision = world.ask(get("/b")).await;
    assert_eq!(decision.verdict, Verdict::Allowed);
    assert_eq!((decision.rule, decision.quotas.len()), (None, 0));
}

#[tokio::test]
async fn retry_after_is_kept_to_the_microsecond() {
    for algorithm in ["fixed_window", "sliding_window", "token_bucket"] {
        let world = World::new(&format!(
            "{{ version: 1, rules: [{{ name: a, limit: 5/m, algorithm: {algorithm} }}] }}"
        ));
        assert_eq!(world.admitted(5, get("/")).await, 5);
        let wait = limited(&world.ask(get("/")).await);
        world.clock.advance(Duration::from_micros(wait - 1));
        assert_eq!(limited(&world.ask(get("/")).await), 1, "{algorithm}");
        world.clock.advance(Duration::from_micros(1));
        assert!(world.admits(get("/")).await, "{algorithm}");
    }
}

#[tokio::test]
async fn every_part_of_the_key_separates_callers() {
    let world = World::new(
        "
version: 1
rules:
  - name: a
    match: { path: \"/v1/{tenant}/**\" }
    key: [client_ip, method, host, { path: tenant }, { header: x-key }]
    limit: 1/m
",
    );
    let base = Ask {
        host: "h",
        target: "/v1/acme/x",
        headers: &[("x-key", "k")],
        ..GET
    };
    assert!(world.admits(base.clone()).await);
    assert!(!world.admits(base.clone()).await);
    for other in [
        Ask {
            ip: Some("192.0.2.2"),
            ..base.clone()
        },
        Ask {
            method: "POST",
            ..base.clone()
        },
        Ask {
            host: "g",
            ..base.clone()
        },
        Ask {
            target: "/v1/other/x",
            ..base.clone()
        },
        Ask {
            headers: &[("x-key", "l")],
            ..base.clone()
        },
        Ask {
            headers: &[("x-key", "")],
            ..base.clone()
        },
        Ask {
            headers: &[],
            ..base.clone()
        },
        Ask {
            ip: None,
            ..base.clone()
        },
    ] {
        assert!(world.admits(other.clone()).await, "a caller of its own");
        assert!(!world.admits(other).await, "and counted");
    }
    for same in [
        Ask {
            host: "H:8080",
            ..base.clone()
        },
        Ask {
            target: "/v1/acme/y?q",
            ..base.clone()
        },
        Ask {
            target: "/v1/%61cme/",
            ..base.clone()
        },
        Ask {
            headers: &[("x-key", "k"), ("x-key", "z")],
            ..base.clone()
        },
    ] {
        assert!(
            !world.admits(same).await,
            "the same caller in another dress"
        );
    }
}

#[tokio::test]
async fn ipv6_clients_share_by_prefix() {
    let world = World::new("{ version: 1, rules: [{ name: a, key: [client_ip], limit: 1/m }] }");
    let from = |ip| Ask {
        ip: Some(ip),
        ..GET
    };
    assert!(world.admits(from("2001:db8::1")).await);
    assert!(!world.admits(from("2001:db8::ffff")).await);
    assert!(world.admits(from("2001:db8:0:1::1")).await);
}

#[tokio::test]
async fn a_missing_value_follows_on_missing() {
    let world = World::new(
        "
version: 1
rules:
  - { name: shared, match: { path: /shared }, key: [{ header: x-key }], limit: 1/m }
  - { name: skip, match: { path: /skip }, key: [{ header: x-key }], limit: 1/m, on_missing: skip }
  - { name: deny, match: { path: /deny }, key: [{ header: x-key }], limit: 1/m, on_missing: deny }
",
    );
    assert_eq!(world.admitted(5, get("/shared")).await, 1);
    assert_eq!(world.admitted(5, get("/skip")).await, 5);
    assert_eq!(world.ask(get("/deny")).await.verdict, Verdict::Forbidden);
    let with_key = Ask {
        headers: &[("x-key", "k")],
        ..get("/deny")
    };
    assert!(world.admits(with_key).await);
}

#[tokio::test]
async fn a_shadow_rule_counts_and_never_denies() {
    let world = World::new(
        "
version: 1
rules:
  - { name: dark, limit: 1/m, mode: shadow }
  - { name: real, limit: 3/m }
",
    );
    let first = world.ask(get("/")).await;
    assert_eq!(
        first.rule.as_deref(),
        Some("real"),
        "answers do not speak of shadow rules"
    );
    assert_eq!(first.quotas.len(), 1);
    assert_eq!(world.admitted(5, get("/")).await, 2);
    assert_eq!(world.decisions("dark", "allowed"), 1);
    // Six requests: one fits; the others would have been denied, whatever `real` decides.
    assert_eq!(world.decisions("dark", "shadow_denied"), 5);
}

#[tokio::test]
async fn a_shadow_rule_tells_what_it_would_deny_for_want_of_a_key() {
    let world = World::new(
        "
version: 1
rules:
  - { name: dark, key: [{ header: x-key }], on_missing: deny, limit: 5/m, mode: shadow }
",
    );
    assert!(world.admits(GET).await);
    assert_eq!(world.decisions("dark", "shadow_denied"), 1);
    assert_eq!(world.decisions("dark", "allowed"), 0);
}

#[tokio::test]
async fn head_does_not_evade_a_limit_on_get() {
    let world =
        World::new("{ version: 1, rules: [{ name: a, match: { methods: [GET] }, limit: 1/m }] }");
    assert!(world.admits(GET).await);
    assert!(
        !world
            .admits(Ask {
                method: "HEAD",
                ..GET
            })
            .await
    );
    assert!(
        world
            .admits(Ask {
                method: "POST",
                ..GET
            })
            .await
    );
}

#[tokio::test]
async fn a_changed_rule_acts_on_what_is_counted() {
    let rule = |limit: &str| {
        format!("{{ version: 1, rules: [{{ name: a, key: [client_ip], limit: {limit} }}] }}")
    };
    let world = World::new(&rule("5/m"));
    assert_eq!(world.admitted(9, GET).await, 5);
    assert_eq!(world.engine.replace(compile(&rule("10/m"))), 2);
    assert_eq!(world.admitted(9, GET).await, 5);
    world.engine.replace(compile(&rule("3/m")));
    assert_eq!(world.admitted(9, GET).await, 0);
}

#[tokio::test]
async fn the_limit_with_the_longest_wait_is_reported() {
    let world = World::new("{ version: 1, rules: [{ name: a, limits: [1/s, 1/h] }] }");
    assert!(world.admits(GET).await);
    let denied = world.ask(GET).await;
    assert_eq!(&*denied.quotas[0].name, "a/3600s");
    assert_eq!(limited(&denied), 3_600_000_000);
}

const WITHOUT_STORE: &str = "
version: 1
rules:
  - { name: local, match: { path: /local }, key: [client_ip], limit: 6/m, on_store_error: local }
  - { name: allow, match: { path: /allow }, limit: 1/m, on_store_error: allow }
  - { name: deny, match: { path: /deny }, limit: 1/m, on_store_error: deny }
  - { name: proxy, match: { path: /proxy }, limit: 1/m, on_store_error: proxy }
  - { name: dark, match: { path: [/local, /allow] }, limit: 1/m, on_store_error: deny, mode: shadow }
";

async fn without_store(broken: Broken) {
    let world = World::build(WITHOUT_STORE, Some(broken), 3);
    let started = Instant::now();
    assert_eq!(
        world.admitted(5, get("/local")).await,
        2,
        "6 a minute divided by 3 replicas"
    );
    assert_eq!(
        world.ask(get("/local")).await.quotas[0].amount,
        6,
        "the rule's own figure is told"
    );
    assert_eq!(world.admitted(5, get("/allow")).await, 5);
    assert_eq!(limited(&world.ask(get("/deny")).await), 1_000_000);
    assert_eq!(world.ask(get("/proxy")).await.verdict, Verdict::Unavailable);
    assert!(
        started.elapsed() <= 13 * DEADLINE,
        "each check waited for its deadline at the most"
    );
    assert_eq!(world.decisions("local", "fallback_allowed"), 2);
    assert_eq!(world.decisions("local", "fallback_denied"), 4);
    // The second of two is near the share; near the whole limit both would be.
    let of_local = |name: &str| {
        world.metric(&format!(
            "tollgate_{name}_total{{rule=\"local\",limit=\"local\"}}"
        ))
    };
    assert_eq!(of_local("admissions"), 2);
    assert_eq!(of_local("near_limit"), 1);
    assert_eq!(world.decisions("allow", "fallback_allowed"), 5);
    assert_eq!(world.decisions("deny", "fallback_denied"), 1);
    assert_eq!(world.decisions("proxy", "unavailable"), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_store_each_rule_follows_on_store_error() {
    without_store(Broken::Refuses).await;
}

#[tokio::test(start_paused = true)]
async fn with_a_hanging_store_each_rule_follows_on_store_error_at_the_deadline() {
    without_store(Broken::Hangs).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_store_a_denial_outweighs_the_proxy_and_the_proxy_an_admission() {
    let rule = |name: &str, mode: &str| {
        format!("  - {{ name: {name}, limit: 1/m, on_store_error: {mode} }}\n")
    };
    for (modes, expected) in [
        (
            ["proxy", "deny"],
            Verdict::Limited {
                retry_after_us: 1_000_000,
            },
        ),
        (
            ["deny", "proxy"],
            Verdict::Limited {
                retry_after_us: 1_000_000,
            },
        ),
        (["allow", "proxy"], Verdict::Unavailable),
        (["local", "proxy"], Verdict::Unavailable),
        (["local", "allow"], Verdict::Allowed),
    ] {
        let yaml = format!(
            "version: 1\nrules:\n{}{}",
            rule("a", modes[0]),
            rule("b", modes[1])
        );
        let world = World::build(&yaml, Some(Broken::Refuses), 1);
        assert_eq!(world.ask(GET).await.verdict, expected, "{modes:?}");
    }
}

/// Two rules of one request, of which the store has lost one.
#[tokio::test(start_paused = true)]
async fn a_rule_that_is_lost_leaves_the_others_to_the_store() {
    let limit_now = Verdict::Limited {
        retry_after_us: 1_000_000,
    };
    for (lost, verdict, given_back, labels) in [
        (
            "on_store_error: allow",
            Verdict::Allowed,
            0,
            ["allowed", "fallback_allowed"],
        ),
        (
            "on_store_error: local",
            Verdict::Allowed,
            0,
            ["allowed", "fallback_allowed"],
        ),
        (
            "on_store_error: deny",
            limit_now,
            1,
            ["", "fallback_denied"],
        ),
        // The proxy may admit it.
        (
            "on_store_error: proxy",
            Verdict::Unavailable,
            0,
            ["", "unavailable"],
        ),
        // A shadow rule has no say.
        (
            "on_store_error: deny, mode: shadow",
            Verdict::Allowed,
            0,
            ["allowed", ""],
        ),
    ] {
        let yaml = format!(
            "version: 1\nrules:\n  \
             - {{ name: kept, limit: 3/m, on_store_error: deny }}\n  \
             - {{ name: lost, limit: 9/m, {lost} }}\n"
        );
        let counter = Arc::new(AtomicU64::new(0));
        let world = World::build_with(&yaml, 3, |memory| {
            Arc::new(Lossy {
                memory,
                error: StoreError::Deadline,
                given_back: Arc::clone(&counter),
            })
        });
        let first = world.ask(GET).await;
        assert_eq!(first.verdict, verdict, "{lost}");
        assert_eq!(counter.load(Ordering::Relaxed), given_back, "{lost}");
        for (rule, label) in ["kept", "lost"].into_iter().zip(labels) {
            if !label.is_empty() {
                assert_eq!(world.decisions(rule, label), 1, "{lost}");
            }
        }
        let fell_back = world.metrics.encode();
        assert!(
            fell_back.contains(r#"fallbacks_total{rule="lost""#),
            "{fell_back}"
        );
        assert!(
            !fell_back.contains(r#"fallbacks_total{rule="kept""#),
            "{fell_back}"
        );
        let quotas = first.quotas.iter();
        let quotas = quotas.map(|quota| (&*quota.name, quota.remaining));
        let quotas: Vec<_> = quotas.collect();
        match lost {
            // With the share of one of three replicas.
            "on_store_error: local" => {
                assert_eq!(quotas, [("kept", 2), ("lost", 2)]);
                assert_eq!(first.rule.as_deref(), Some("kept"));
            }
            _ if verdict == Verdict::Allowed => assert_eq!(quotas, [("kept", 2)]),
            _ => assert_eq!(quotas, []),
        }
        // What the store denies is denied.
        world.admitted(2, GET).await;
        let denied = world.ask(GET).await;
        assert_eq!(limited(&denied), 60_000_000, "{lost}");
        assert_eq!(denied.rule.as_deref(), Some("kept"), "{lost}");
    }
}

/// Then the windows are those of the store's time.
#[tokio::test(start_paused = true)]
async fn a_rule_whose_calendar_window_is_another_is_asked_again_and_the_others_with_it() {
    let yaml = "version: 1\nrules:\n  \
                - { name: kept, limit: 3/m }\n  \
                - { name: lost, limit: 9/m, on_store_error: allow }\n";
    let counter = Arc::new(AtomicU64::new(0));
    let world = World::build_with(yaml, 1, |memory| {
        Arc::new(Lossy {
            memory,
            error: StoreError::Clock,
            given_back: Arc::clone(&counter),
        })
    });
    assert!(world.admits(GET).await);
    // The first time it was given back, the second time it was kept.
    assert_eq!(counter.load(Ordering::Relaxed), 1);
}

/// A header sets the amount, within bounds; what was counted before stays counted.
#[tokio::test]
async fn a_limit_set_by_a_header_acts_at_once_on_what_is_counted() {
    for algorithm in [
        "fixed_window",
        "sliding_window",
        "sliding_log",
        "token_bucket",
    ] {
        let world = World::new(&format!(
            "
version: 1
forwarded_headers: [x-limit]
rules:
  - name: plans
    key: [client_ip]
    algorithm: {algorithm}
    limits: [{{ header: x-limit, default: 2, max: 5, per: 1h }}]
"
        ));
        let headers: Vec<[(&'static str, &str); 1]> =
            ["3", "4", "1", "99", "0", "-1", "x", " 4 ", ""]
                .map(|said| [("x-limit", said)])
                .into();
        let says = |index: usize| Ask {
            headers: &headers[index],
            ..GET
        };
        let (three, four, one, huge) = (says(0), says(1), says(2), says(3));
        assert_eq!(world.admitted(9, GET).await, 2, "{algorithm}: the default");
        assert_eq!(
            world.admitted(9, three.clone()).await,
            1,
            "{algorithm}: one more"
        );
        assert_eq!(world.admitted(9, one).await, 0, "{algorithm}: fewer");
        let decision = world.ask(four.clone()).await;
        assert_eq!(decision.verdict, Verdict::Allowed, "{algorithm}");
        assert_eq!(&*decision.quotas[0].policy, "\"plans\";q=4;w=3600");
        assert_eq!(
            (&*decision.quotas[0].text, decision.quotas[0].remaining),
            ("4/1h", 0)
        );
        assert_eq!(
            world.admitted(9, huge).await,
            1,
            "{algorithm}: the maximum is 5"
        );
        // What is no number above 0 is the default, also for another caller.
        for index in 4..9 {
            let ip = format!("192.0.2.{}", 100 + index);
            let other = Ask {
                ip: Some(&ip),
                ..says(index)
            };
            let expected = if index == 7 { 4 } else { 2 };
            assert_eq!(
                world.admitted(9, other).await,
                expected,
                "{algorithm}: {index}"
            );
        }
    }
}

/// Schemes and methods as conditions and key parts.
#[tokio::test]
async fn schemes_and_methods_are_compared_in_normal_form() {
    let world = World::new(
        "
version: 1
rules:
  - { name: plain, match: { scheme: http }, action: deny }
  - { name: posts, match: { methods: [post] }, key: [client_ip, method, scheme], limit: 2/h }
",
    );
    for method in ["POST", "post", "pOsT"] {
        let admitted = world.admits(Ask { method, ..GET }).await;
        assert_eq!(admitted, method != "pOsT", "{method}: one counter for all");
    }
    assert!(world.admits(GET).await, "no scheme is not http");
}
