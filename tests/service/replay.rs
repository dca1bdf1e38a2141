//! `tollgate replay`, as users run it, and against the truth: logs of real proxies.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use flate2::{Compression, write::GzEncoder};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    client::{ask, head},
    eventually,
    nginx::{Config, Nginx},
    tollgate::{Settings, Tollgate},
    upstream::Upstream,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tollgate");

const RULES: &str = "
version: 1
rules:
  - { name: shut, match: { path: /shut }, action: deny }
  - { name: data, match: { path: /data }, key: [client_ip], limit: 3/day, algorithm: fixed_window }
  - { name: all, key: [client_ip], limit: 6/day, algorithm: fixed_window }
";

/// A folder with rules in it.
struct Desk(TempDir);

impl Desk {
    fn new(rules: &str) -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        desk.put("rules.yaml", rules);
        desk
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.0.path().join(name), bytes).unwrap();
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.env_clear().current_dir(self.0.path());
        command.args(["replay", "--rules", "rules.yaml"]);
        command.args(args).output().unwrap()
    }

    fn text(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {complaint}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let text = self.text(&[args, &["--format", "json"]].concat());
        serde_json::from_str(&text).unwrap()
    }
}

fn combined(second: u64, ip: &str, target: &str) -> String {
    let (h, m, s) = (second / 3_600, second / 60 % 60, second % 60);
    format!(
        "{ip} - - [01/Oct/2026:{h:02}:{m:02}:{s:02} +0000] \"GET {target} HTTP/1.1\" 200 5 \"-\" \"agent\"\n"
    )
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn numbers(report: &Value) -> Vec<(String, u64)> {
    let rules = report["rules"].as_array().unwrap().iter();
    let numbers = rules.map(|rule| {
        let name = rule["name"].as_str().unwrap().to_owned();
        (name, rule["denied"].as_u64().unwrap())
    });
    numbers.collect()
}

/// The log of a real nginx says exactly what the real tollgate behind it denied.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_real_nginx_says_what_was_denied() {
    let shipped = Config::shipped();
    let with_combined = shipped.clone().with(
        "access_log /dev/stdout main;",
        "access_log /dev/stdout combined;",
    );
    let with_json = shipped.clone().with(
        "access_log /dev/stdout main;",
        "log_format j escape=json '{\"msec\":$msec,\"request_time\":$request_time,\"remote_addr\":\"$remote_addr\",\"request\":\"$request\",\"http_host\":\"$http_host\",\"status\":$status}'; access_log /dev/stdout j;",
    );
    for config in [shipped, with_combined, with_json] {
        let upstream = Upstream::start().await;
        let tollgate = Tollgate::start(Settings {
            rules: RULES,
            args: &["--deadline=20s"],
            ..Settings::default()
        })
        .await;
        let config = config
            .with("proxy_connect_timeout 1s;", "proxy_connect_timeout 20s;")
            .with("proxy_send_timeout    1s;", "proxy_send_timeout 20s;")
            .with("proxy_read_timeout    1s;", "proxy_read_timeout 20s;");
        let nginx = Nginx::start(config, tollgate.addr(), upstream.addr).await;
        let (mut denied, mut count) = (0, 0);
        for n in 0..20 {
            let target = ["/data", "/other?x=\"y\"", "/shut", "/data;v=2"][n % 4];
            let answer = ask(nginx.addr, &head("GET", target, &[])).await;
            denied += u64::from(answer.status == 429 || answer.status == 403);
            count += 1;
        }
        eventually("all lines are written", async || {
            nginx.access_log().lines().count() == count
        })
        .await;
        let desk = Desk::new(RULES);
        desk.put("access.log", nginx.access_log());
        let report = desk.json(&["access.log"]);
        assert_eq!(report["log"]["requests"], count, "{report:#}");
        assert_eq!(report["unread"]["lines"], 0, "{report:#}");
        assert_eq!(report["denied"], denied, "{report:#}");
        for (rule, denied) in numbers(&report) {
            let series = format!("tollgate_decisions_total{{rule=\"{rule}\",outcome=\"denied\"}}");
            let truth = tollgate.ask_admin("/metrics").await.body;
            let mut lines = truth.lines();
            let truth = lines.find_map(|line| line.strip_prefix(&*series));
            let truth = truth.map_or(0, |value| value.trim().parse().unwrap());
            assert_eq!(denied, truth, "{rule}");
            assert!(denied > 0, "{rule}");
        }
    }
}

#[test]
fn logs_come_packed_in_parts_and_in_any_order() {
    let desk = Desk::new(RULES);
    let part = |from: u64| -> String {
        let seconds = from..from + 5;
        seconds
            .map(|s| combined(s * 60, "203.0.113.7", "/data"))
            .collect()
    };
    desk.put("whole", part(0) + &part(5) + &part(10));
    desk.put("a.gz", gzip(&part(10)));
    desk.put("b", part(0));
    desk.put("c.log", gzip(&part(5)));
    let whole = desk.json(&["whole"]);
    let parts = desk.json(&["a.gz", "b", "c.log"]);
    assert_eq!(parts["log"]["out_of_order"], 0);
    assert_eq!(whole["rules"], parts["rules"]);
    assert_eq!(whole["denied"], 12);
    assert_eq!(numbers(&whole)[1], ("data".to_owned(), 12));
    // Two servers at the same time.
    let interleaved = |odd: u64| -> String {
        let seconds = (0..20).filter(|s| s % 2 == odd);
        seconds
            .map(|s| combined(s, "203.0.113.7", "/data"))
            .collect()
    };
    desk.put("one", interleaved(0));
    desk.put("two", interleaved(1));
    let both = desk.json(&["one", "two"]);
    assert_eq!(both["log"]["out_of_order"], 0);
    assert_eq!(both["log"]["requests"], 20);
}

#[test]
fn lines_that_cannot_be_read_are_counted_and_shown() {
    let desk = Desk::new(RULES);
    let endless = "x".repeat(200_000);
    let log = format!(
        "{}garbage \u{1b}[2J\n{endless}\n{}1.2.3.4 - - [01/Oct/2026:00:00:00 +0000] \"\" 400 0\n{}",
        combined(60, "203.0.113.7", "/data"),
        combined(62, "203.0.113.7", "/data"),
        combined(61, "203.0.113.7", "/data"),
    );
    desk.put("access.log", log);
    let report = desk.json(&["access.log"]);
    assert_eq!(report["log"]["requests"], 3);
    assert_eq!(report["log"]["out_of_order"], 1);
    assert_eq!(report["log"]["most_out_of_order_seconds"], 1.0);
    let unread = &report["unread"];
    assert_eq!(unread["lines"], 3);
    assert_eq!(
        unread["why"],
        serde_json::json!({ "format": 1, "no_request": 1, "too_long": 1 })
    );
    assert_eq!(unread["examples"][0]["line"], 2);
    assert_eq!(unread["examples"][1]["line"], 3);
    let text = desk.text(&["access.log"]);
    assert!(
        text.contains("access.log:2: not in a format that is known: garbage \\u{1b}[2J"),
        "{text}"
    );
    // A file that ends in the middle of what is packed.
    let packed = gzip(&combined(1, "203.0.113.7", "/data").repeat(5_000));
    desk.put("half.gz", &packed[..packed.len() - 20]);
    let report = desk.json(&["half.gz"]);
    assert_eq!(report["unread"]["broken"][0]["log"], "half.gz");
}

#[test]
fn what_fails_says_why() {
    let desk = Desk::new(RULES);
    let fails = |args: &[&str], code: i32, expected: &str| {
        let output = desk.run(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(expected), "{text}");
    };
    desk.put("empty", "");
    desk.put("syslog", "Oct  1 12:00:00 host app: hello\n");
    desk.put(
        "bad.yaml",
        "version: 1\nrules: [{ name: a, limit: 5/fortnight }]\n",
    );
    fails(&["none.log"], 1, "none.log cannot be read: No such file");
    fails(&["empty"], 1, "there is no line in the log");
    fails(
        &["syslog"],
        1,
        "syslog:1: not in a format that is known: Oct  1 12:00:00 host app: hello",
    );
    fails(&["syslog"], 1, "hint: formats tried: nginx");
    fails(
        &["empty", "--against", "bad.yaml"],
        2,
        "is not a unit of time",
    );
    fails(&[], 64, "<LOG>");
    fails(&["syslog", "--max-callers", "0"], 64, "0 is not in");
    fails(&["-", "-"], 64, "standard input is named twice");
    fails(&["syslog", "--log-format", "iis"], 64, "iis");
}

#[test]
fn help_says_which_logs_are_read() {
    let output = Command::new(PROGRAM)
        .env_clear()
        .args(["replay", "--help"])
        .output()
        .unwrap();
    insta::assert_snapshot!(String::from_utf8(output.stdout).unwrap());
}

#[test]
fn what_changes_is_said_with_whom() {
    let desk = Desk::new(RULES);
    let log =
        |ip: &str, count: u64| -> String { (0..count).map(|s| combined(s, ip, "/data")).collect() };
    desk.put(
        "access.log",
        log("10.0.0.1", 2) + &log("10.0.0.2", 4) + &log("10.0.0.3", 7),
    );
    desk.put(
        "old.yaml",
        RULES
            .replace("3/day", "5/day")
            .replace("name: all", "name: every"),
    );
    let report = desk.json(&["access.log", "--against", "old.yaml"]);
    assert_eq!(report["denied"], 5);
    let against = &report["against"];
    assert_eq!(against["denied_before"], 2);
    assert_eq!(
        (&against["newly_denied"], &against["no_longer_denied"]),
        (&3.into(), &0.into())
    );
    let data = &against["rules"][1];
    assert_eq!(data["denied_before"], 2);
    assert_eq!(data["callers_newly_denied"]["callers"], 1);
    let newly = &data["callers_newly_denied"]["most"][0];
    assert_eq!(
        (&newly["caller"], &newly["denied"]),
        (&"client_ip=10.0.0.2".into(), &1.into())
    );
    assert_eq!(against["rules"][2]["denied_before"], Value::Null);
    assert_eq!(against["rules"][3]["denied"], Value::Null);
    let limit = &report["rules"][1]["limits"][0];
    assert_eq!(limit["peak"], 7);
    assert_eq!(limit["enough"][0]["limit"], "7/day");
}

#[test]
fn what_the_log_does_not_hold_is_said() {
    let desk = Desk::new(
        "version: 1
rules:
  - { name: keys, key: [{ header: x-api-key }], on_missing: skip, limit: 5/m }
  - { name: hosts, match: { host: app.test }, limit: 5/m }
  - { name: agents, key: [{ header: user-agent }], limit: 5/m }
",
    );
    desk.put("access.log", combined(1, "203.0.113.7", "/data"));
    let report = desk.json(&["access.log"]);
    let missing = &report["rules"][0]["not_in_log"][0];
    assert_eq!(missing["what"], "the header x-api-key");
    assert_eq!(missing["everywhere"], true);
    assert_eq!(report["rules"][0]["skipped"], 1);
    assert_eq!(report["rules"][1]["not_in_log"][0]["what"], "the host");
    assert_eq!(report["rules"][1]["requests"], 0);
    assert_eq!(report["rules"][2]["not_in_log"], serde_json::json!([]));
    assert_eq!(report["rules"][2]["worst"], serde_json::json!([]));
}

#[test]
fn secrets_are_hashes_and_a_page_has_no_markup_of_the_log() {
    let rules = "version: 1
forwarded_headers: '*'
rules:
  - { name: secret, key: [{ header: authorization, secret: true }], limit: 1/day }
  - { name: agents, key: [{ header: user-agent }], limit: 1/day }
";
    let desk = Desk::new(rules);
    let line = r#"{"time":"2026-10-01T12:00:00Z","method":"GET","path":"/","http_authorization":"Bearer sesame","http_user_agent":"<script>alert(1)</script>"}"#;
    desk.put("<b>.log", format!("{line}\n{line}\n<script>broken\n"));
    for format in ["text", "json", "html"] {
        let text = desk.text(&["<b>.log", "--format", format]);
        assert!(!text.contains("sesame"), "{text}");
        assert!(text.contains("authorization=#"), "{text}");
        if format == "html" {
            assert!(!text.contains("<script") && !text.contains("<b>"), "{text}");
            assert!(text.contains("&lt;script&gt;broken"), "{text}");
            assert!(
                text.contains("<svg") && text.contains("prefers-color-scheme: dark"),
                "{text}"
            );
        }
    }
}

#[test]
fn callers_beyond_the_number_are_counted_together() {
    let desk = Desk::new(RULES);
    let log: String = (0..40)
        .map(|n| combined(n, &format!("10.0.0.{}", n % 20), "/data"))
        .collect();
    desk.put("access.log", log);
    let report = desk.json(&["access.log", "--max-callers", "10"]);
    let told = report["rules"][1]["callers"].as_u64().unwrap()
        + report["rules"][2]["callers"].as_u64().unwrap();
    assert_eq!(told, 10);
    assert_eq!(report["rules"][1]["requests"], 40);
    let untold = |rule: usize| report["rules"][rule]["not_told_apart"].as_u64().unwrap();
    assert_eq!(untold(1) + untold(2), 60);
    assert!(
        report["shared_counters"].as_u64().unwrap() > 0,
        "{report:#}"
    );
}

/// Each line has callers of its own, and the log has no end; memory has one.
#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_grow_with_the_log() {
    const LINES: u64 = 60_000;
    const MOST_KB: u64 = 40_000;
    let desk = Desk::new(RULES);
    let mut child = Command::new(PROGRAM)
        .env_clear()
        .current_dir(desk.0.path())
        .args(["replay", "--rules", "rules.yaml", "--format", "json"])
        .args(["--max-callers", "1000", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let target = format!("/data?{}", "long".repeat(300));
    let mut bytes = 0;
    for block in 0..LINES / 1_000 {
        let lines: String = (0..1_000)
            .map(|n| {
                let ip = block * 1_000 + n;
                let ip = format!("10.{}.{}.{}", ip >> 16 & 255, ip >> 8 & 255, ip & 255);
                combined(block, &ip, &target)
            })
            .collect();
        bytes += lines.len() as u64;
        input.write_all(lines.as_bytes()).unwrap();
    }
    // A line without end.
    let endless = vec![b'x'; 100_000];
    for _ in 0..100 {
        input.write_all(&endless).unwrap();
    }
    let status = fs::read_to_string(
        Path::new("/proc")
            .join(child.id().to_string())
            .join("status"),
    );
    let status = status.unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak: u64 = peak
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["log"]["requests"], LINES);
    assert_eq!(report["unread"]["why"]["too_long"], 1);
    assert!(
        peak < MOST_KB && bytes / 1_024 > MOST_KB,
        "{peak} kB for {bytes} bytes"
    );
}

/// The commands in the document print the output below them. `UPDATE_DOCS=1` writes it there.
#[test]
fn the_examples_in_the_document_are_what_replay_prints() {
    let path = "docs/rehearsal.md";
    let document = fs::read_to_string(path).unwrap();
    let mut fresh = String::new();
    let mut rest = document.as_str();
    while let Some((before, block)) = rest.split_once("```console\n") {
        let (block, after) = block.split_once("```\n").unwrap();
        let command = block.lines().next().unwrap();
        let args = command.strip_prefix("$ tollgate ").unwrap().split(' ');
        let output = Command::new(PROGRAM)
            .env_clear()
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let printed = String::from_utf8(output.stdout).unwrap();
        fresh = format!("{fresh}{before}```console\n{command}\n{printed}```\n");
        rest = after;
    }
    fresh += rest;
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, &fresh).unwrap();
    } else {
        assert_eq!(fresh, document, "run this test with UPDATE_DOCS=1");
    }
}
