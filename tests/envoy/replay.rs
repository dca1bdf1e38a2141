//! The access log of a real Envoy, rehearsed, says what the real tollgate behind it denied.

use std::{fs, process::Command};

use serde_json::Value;

use super::{
    Stack,
    support::{
        client::{ask, head},
        envoy::Config,
        eventually,
        tollgate::Settings,
    },
};

const RULES: &str = "
version: 1
rules:
  - { name: data, match: { path: /data }, key: [client_ip], limit: 3/day, algorithm: fixed_window }
  - { name: all, key: [client_ip], limit: 6/day, algorithm: fixed_window }
";

/// The format of the shipped file, from its name to its last field.
fn shipped_format() -> &'static str {
    let file = include_str!("../../envoy/envoy.yaml");
    let begin = file.find("              log_format:\n").unwrap();
    let end = file.find("duration_ms: \"%DURATION%\"\n").unwrap();
    &file[begin..end + "duration_ms: \"%DURATION%\"\n".len()]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_real_envoy_says_what_was_denied() {
    let shipped = Config::shipped().patient();
    // Without a format, Envoy writes its default.
    let default = shipped.clone().with(shipped_format(), "");
    for config in [shipped, default] {
        let settings = Settings {
            rules: RULES,
            args: &["--deadline=20s"],
            ..Settings::default()
        };
        let stack = Stack::start(config, settings).await;
        let (mut denied, count) = (0, 16);
        for n in 0..count {
            let target = if n % 2 == 0 { "/data?x=1" } else { "/other" };
            let answer = ask(stack.envoy.addr, &head("GET", target, &[])).await;
            denied += u64::from(answer.status == 429);
        }
        eventually("all lines are written", async || {
            stack.envoy.access_log().lines().count() == count
        })
        .await;
        let dir = tempfile::tempdir().unwrap();
        let (log, rules) = (dir.path().join("access.log"), dir.path().join("rules.yaml"));
        fs::write(&log, stack.envoy.access_log()).unwrap();
        fs::write(&rules, RULES).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .env_clear()
            .args(["replay", "--format", "json", "--rules"])
            .args([&rules, &log])
            .output()
            .unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaint}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["log"]["requests"], count, "{report:#}");
        assert_eq!(report["log"]["answered_429"], denied, "{report:#}");
        assert_eq!(report["denied"], denied, "{report:#}");
        for rule in report["rules"].as_array().unwrap() {
            let name = rule["name"].as_str().unwrap();
            let series = format!("tollgate_decisions_total{{rule=\"{name}\",outcome=\"denied\"}}");
            let truth = stack.tollgate.metric(&series).await;
            assert_eq!(rule["denied"], truth, "{name}");
            assert!(truth > 0, "{name}");
        }
    }
}
