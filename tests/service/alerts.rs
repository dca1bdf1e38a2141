//! The shipped alerts and the shipped dashboard, with a real Prometheus.

use std::{collections::BTreeSet, fs, net::SocketAddr, path::Path, process::Command};

use serde_json::Value;

use crate::support::{
    client::{self, ask, head},
    eventually, free_port,
    process::Process,
    program,
    redis::Redis,
    tollgate::{Settings, Tollgate},
};

const ALERTS: &str = "deploy/prometheus/alerts.yaml";
const CASES: &str = "tests/alerts.test.yaml";
const DASHBOARD: &str = "deploy/grafana/tollgate.json";
const INSTALL: &str = "install it with: apt-get install prometheus";

const RULES: &str = "version: 1
rules:
  - { name: data, match: { path: /data }, key: client_ip, limit: { rate: 5/day, try: 3/day } }
  - { name: login, match: { path: /login }, key: client_ip, limit: 2/day, ban: { after: 2, within: 1h, for: 2h } }
  - { name: dark, match: { path: /data }, key: client_ip, limit: 1/day, mode: shadow }
";

/// The metric that has no series before Redis has failed.
const ONLY_WHEN_IT_HAPPENS: &str = "tollgate_store_fallbacks";

fn yaml(path: &str) -> serde_yaml::Value {
    serde_yaml::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The members of this name, anywhere within a value.
fn members<'a>(value: &'a Value, name: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| members(item, name, found)),
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if key == name => found.push(text),
                    _ => members(value, name, found),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn each_alert_fires_in_its_case() {
    let dir = tempfile::tempdir().unwrap();
    for file in [ALERTS, CASES] {
        let name = Path::new(file).file_name().unwrap();
        fs::copy(file, dir.path().join(name)).unwrap();
    }
    let promtool = program::find("promtool", None, INSTALL);
    let output = Command::new(promtool)
        .args(["test", "rules", "alerts.test.yaml"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let alerts = yaml(ALERTS);
    let rules = alerts["groups"][0]["rules"].as_sequence().unwrap();
    let alerts: BTreeSet<&str> = rules
        .iter()
        .map(|rule| rule["alert"].as_str().unwrap())
        .collect();
    let cases = yaml(CASES);
    let cases = cases["tests"].as_sequence().unwrap().iter();
    let fired: BTreeSet<&str> = cases
        .flat_map(|case| case["alert_rule_test"].as_sequence().unwrap())
        .filter(|case| !case["exp_alerts"].as_sequence().unwrap().is_empty())
        .map(|case| case["alertname"].as_str().unwrap())
        .collect();
    assert_eq!(alerts, fired);
}

/// A Prometheus that scrapes one tollgate every second.
struct Prometheus {
    _process: Process,
    addr: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    async fn scraping(tollgate: &Tollgate) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let rules = fs::canonicalize(ALERTS).unwrap();
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
             rule_files: ['{}']\n\
             scrape_configs:\n\
             \x20 - {{ job_name: tollgate, static_configs: [{{ targets: ['{}'] }}] }}\n",
            rules.display(),
            tollgate.admin
        );
        let file = dir.path().join("prometheus.yml");
        fs::write(&file, config).unwrap();
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Command::new(program::find("prometheus", None, INSTALL));
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().display()))
            .arg(format!("--web.listen-address={addr}"));
        let mut process = Process::spawn("prometheus", &mut command, dir.path(), INSTALL);
        process
            .until_ready(async || {
                let Ok(mut connection) = client::Connection::open(addr).await else {
                    return false;
                };
                let ready = connection.get("/-/ready").await;
                ready.is_some_and(|answer| answer.status == 200)
            })
            .await;
        Self {
            _process: process,
            addr,
            _dir: dir,
        }
    }

    /// The series that an expression has now.
    async fn query(&self, expression: &str) -> Vec<Value> {
        let encoded = expression.bytes().map(|byte| format!("%{byte:02X}"));
        let path = format!("/api/v1/query?query={}", encoded.collect::<String>());
        let answer = client::get(self.addr, &path).await;
        assert_eq!(answer.status, 200, "{expression}: {}", answer.body);
        let answer = answer.json();
        assert_eq!(answer["status"], "success", "{expression}");
        answer["data"]["result"].as_array().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_expression_is_understood_and_names_metrics_that_are_there() {
    let redis = Redis::start();
    let tollgate = Tollgate::start(Settings {
        rules: RULES,
        redis: Some(&redis),
        ..Settings::default()
    })
    .await;
    let prometheus = Prometheus::scraping(&tollgate).await;
    let mut asked = 0;
    eventually("requests of two scrapes are seen", async || {
        for path in ["/data", "/login"] {
            let uri = format!("x-forwarded-uri: {path}");
            let ip = format!("x-real-ip: 192.0.2.{}", asked / 20 % 250);
            let lines = ["x-forwarded-method: GET", &*uri, &*ip];
            ask(tollgate.addr(), &head("GET", "/v1/check", &lines)).await;
            asked += 1;
        }
        let seen = prometheus
            .query("sum(increase(tollgate_decisions_total[10s])) > 0")
            .await;
        !seen.is_empty()
    })
    .await;

    let text = fs::read_to_string(DASHBOARD).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut expressions = Vec::new();
    members(&dashboard, "expr", &mut expressions);
    let shown = expressions.len();
    assert!(shown > 20, "{shown}");
    let alerts = serde_json::to_value(yaml(ALERTS)).unwrap();
    members(&alerts, "expr", &mut expressions);

    let metrics = tollgate.ask_admin("/metrics").await.body;
    let name = regex::Regex::new(r"\btollgate_[a-z_]+").unwrap();
    let mut empty = Vec::new();
    for (place, expression) in expressions.iter().enumerate() {
        for name in name.find_iter(expression) {
            let family = name.as_str();
            let family = ["_total", "_bucket", "_info"]
                .iter()
                .find_map(|end| family.strip_suffix(end))
                .unwrap_or(family);
            let line = format!("# TYPE {family} ");
            let is_there = metrics.contains(&line) || family == ONLY_WHEN_IT_HAPPENS;
            assert!(is_there, "{family} in {expression}");
        }
        let expression = expression
            .replace("$instance", ".*")
            .replace("$rule", ".*")
            .replace("$__rate_interval", "10s");
        let series = prometheus.query(&expression).await;
        if place < shown && series.is_empty() {
            empty.push(expression);
        }
    }
    empty.retain(|expression| !expression.contains(ONLY_WHEN_IT_HAPPENS));
    assert_eq!(empty, Vec::<String>::new());
    // Nothing is wrong, but that somebody is denied.
    let firing = prometheus.query("ALERTS{alertstate=\"firing\"}").await;
    assert_eq!(firing, Vec::<Value>::new());
}

/// Without a Grafana at hand: that panels lie beside each other, and take what they show from the
/// data source that is chosen.
#[test]
fn the_dashboard_is_laid_out_in_a_grid() {
    let text = fs::read_to_string(DASHBOARD).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let number = |value: &Value| value.as_u64().unwrap();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(number(&panel["id"])), "{title}");
        assert!(
            !panel["description"].as_str().unwrap().is_empty(),
            "{title}"
        );
        let at = &panel["gridPos"];
        let (x, y, w, h) = (
            number(&at["x"]),
            number(&at["y"]),
            number(&at["w"]),
            number(&at["h"]),
        );
        assert!(x + w <= 24, "{title}");
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(place), "{title} covers another panel");
        }
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
    assert_eq!(dashboard["templating"]["list"][0]["type"], "datasource");
}
