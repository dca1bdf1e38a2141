//! The decisions of a rule with a ban.

use std::time::Duration;

use crate::support::world::{Ask, Broken, GET, World, compile};
use tollgate::engine::Verdict;

const MINUTE: Duration = Duration::from_secs(60);

fn login(more: &str) -> String {
    format!(
        "version: 1
rules:
  - name: login
    key: [client_ip]
    limit: 1/m
    ban: {{ after: 3, within: 10m, for: 1h }}
{more}"
    )
}

/// The name of the limit or ban that denied, and the wait.
async fn denied_by(world: &World) -> (String, Duration) {
    let decision = world.ask(GET).await;
    let (Verdict::Limited { retry_after_us } | Verdict::Banned { retry_after_us }) =
        decision.verdict
    else {
        panic!("{decision:?}")
    };
    let name = decision.quotas[0].name.to_string();
    (name, Duration::from_micros(retry_after_us))
}

#[tokio::test]
async fn a_ban_begins_with_the_denial_that_completes_it_and_ends_on_time() {
    let world = World::new(&login(""));
    assert_eq!(world.admitted(3, GET).await, 1);
    let hour = MINUTE * 60;
    assert_eq!(denied_by(&world).await, ("login/ban".to_owned(), hour));
    // The limit has room again, but requests during the ban do not make it longer.
    world.clock.advance(MINUTE * 30);
    for _ in 0..10 {
        assert_eq!(
            denied_by(&world).await,
            ("login/ban".to_owned(), MINUTE * 30)
        );
    }
    world.clock.advance(MINUTE * 29);
    world.clock.advance(Duration::from_micros(59_999_999));
    assert!(!world.admits(GET).await);
    world.clock.advance(Duration::from_micros(1));
    assert!(world.admits(GET).await);
    // And the count begins anew.
    assert_eq!(denied_by(&world).await, ("login".to_owned(), MINUTE));
    assert_eq!(world.metric("tollgate_bans_total{rule=\"login\"}"), 1);
    assert_eq!(
        world.metric("tollgate_denials_total{rule=\"login\",limit=\"login/ban\"}"),
        12
    );
}

#[tokio::test]
async fn denials_spread_over_time_do_not_ban() {
    let world = World::new(&login(""));
    for _ in 0..20 {
        assert!(world.admits(GET).await);
        assert_eq!(denied_by(&world).await.0, "login");
        world.clock.advance(MINUTE * 5);
    }
    assert_eq!(world.metric("tollgate_bans_total{rule=\"login\"}"), 0);
}

#[tokio::test]
async fn a_banned_caller_is_not_charged_by_other_rules() {
    let world = World::new(&login(
        "  - { name: all, key: [client_ip], limit: 2/day }\n",
    ));
    assert_eq!(world.admitted(20, GET).await, 1);
    world.clock.advance(MINUTE * 61);
    assert!(world.admits(GET).await, "one of two a day was left");
    world.clock.advance(MINUTE * 2);
    // Now the other rule denies, which this ban does not count.
    for _ in 0..10 {
        assert_eq!(denied_by(&world).await.0, "all");
    }
}

#[tokio::test]
async fn a_ban_is_on_one_caller() {
    let world = World::new(&login(""));
    assert_eq!(world.admitted(10, GET).await, 1);
    let other = Ask {
        ip: Some("192.0.2.2"),
        ..GET
    };
    assert!(world.admits(other).await);
}

#[tokio::test]
async fn a_ban_in_shadow_mode_denies_nobody() {
    let world = World::new(&login("    mode: shadow\n"));
    assert_eq!(world.admitted(10, GET).await, 10);
    assert_eq!(world.decisions("login", "shadow_denied"), 9);
    assert_eq!(world.metric("tollgate_bans_total{rule=\"login\"}"), 1);
    let by = |limit| format!("tollgate_denials_total{{rule=\"login\",limit=\"{limit}\"}}");
    assert_eq!(world.metric(&by("login")), 2);
    assert_eq!(world.metric(&by("login/ban")), 7);
    // When the rule is enforced, no caller is banned for denials in shadow mode.
    world.engine.replace(compile(&login("")));
    assert_eq!(denied_by(&world).await, ("login".to_owned(), MINUTE));
}

#[tokio::test]
async fn tiers_and_overrides_change_the_limits_and_not_the_ban() {
    let world = World::new(&login(
        "    tiers:
      - { name: staff, when: { headers: { x-plan: staff } }, limit: unlimited }
      - { name: gold, when: { headers: { x-plan: gold } }, limit: 2/m }
    overrides: [{ key: 192.0.2.9, limit: 0 }]
",
    ));
    let gold = Ask {
        headers: &[("x-plan", "gold")],
        ..GET
    };
    assert_eq!(world.admitted(10, gold).await, 2);
    assert_eq!(denied_by(&world).await.0, "login/ban");
    // Nothing is counted for unlimited callers, so the ban does not apply.
    let staff = Ask {
        headers: &[("x-plan", "staff")],
        ..GET
    };
    assert!(world.admits(staff).await);
    // Callers with `limit: 0` are not banned, because a ban would end.
    let nobody = Ask {
        ip: Some("192.0.2.9"),
        ..GET
    };
    for _ in 0..5 {
        assert_eq!(world.ask(nobody.clone()).await.verdict, Verdict::Forbidden);
    }
    assert_eq!(world.metric("tollgate_bans_total{rule=\"login\"}"), 1);
}

#[tokio::test]
async fn a_changed_ban_acts_at_once() {
    let world = World::new(&login(""));
    world.admitted(10, GET).await;
    // Shorter from its beginning on, whenever its caller comes.
    world.clock.advance(MINUTE * 10);
    world
        .engine
        .replace(compile(&login("").replace("for: 1h", "for: 20m")));
    assert_eq!(
        denied_by(&world).await,
        ("login/ban".to_owned(), MINUTE * 10)
    );
    assert_eq!(world.metric("tollgate_bans_total{rule=\"login\"}"), 1);
    world
        .engine
        .replace(compile(&login("").replace("    ban:", "    #")));
    world.clock.advance(MINUTE);
    assert!(world.admits(GET).await, "without the ban there is none");
}

#[tokio::test]
async fn without_a_store_bans_are_kept_in_this_process() {
    let world = World::build(&login(""), Some(Broken::Refuses), 1);
    assert_eq!(world.admitted(5, GET).await, 1);
    assert_eq!(
        denied_by(&world).await,
        ("login/ban".to_owned(), MINUTE * 60)
    );
    assert_eq!(world.decisions("login", "fallback_denied"), 5);
    for (mode, verdict) in [("allow", Verdict::Allowed), ("proxy", Verdict::Unavailable)] {
        let more = format!("    on_store_error: {mode}\n");
        let world = World::build(&login(&more), Some(Broken::Refuses), 1);
        for _ in 0..5 {
            assert_eq!(world.ask(GET).await.verdict, verdict);
        }
    }
}
