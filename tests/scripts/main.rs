//! The scripts that measure. A binary of its own, because they load the machine, and cargo runs one
//! binary at a time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, process::Command};

const DOCUMENT: &str = "docs/benchmarks.md";

/// The tables that scripts/bench.sh writes, and the fewest rows that they have.
const TABLES: &[(&str, usize)] = &[
    ("targets", 10),
    ("endpoint", 12),
    ("raw", 7),
    ("hot", 5),
    ("program", 3),
    ("rates", 9),
    ("callers", 11),
    ("rules", 9),
    ("replicas", 5),
    ("threads", 6),
    ("hang", 1),
    ("envoy", 4),
    ("ways", 4),
];

const PLOTS: &[&str] = &["throughput", "cpu", "latency", "scaling", "envoy"];

/// What is between the marks of a measured part.
fn measured<'a>(document: &'a str, name: &str) -> &'a str {
    let mark = format!("<!-- measured by scripts/bench.sh: {name} -->\n");
    let (_, rest) = document
        .split_once(&mark)
        .unwrap_or_else(|| panic!("{mark}"));
    rest.split_once("<!-- end of measured -->").unwrap().0
}

/// The rows of a table, without its head.
fn rows(table: &str) -> Vec<&str> {
    let lines = table.lines().filter(|line| line.starts_with('|'));
    lines.skip(2).collect()
}

/// It measures all but `cargo bench`, briefly and in a debug build. What it measures is not looked
/// at.
#[test]
fn the_benchmark_fills_each_table_and_draws_each_plot() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("benchmarks.md");
    let mut empty = fs::read_to_string(DOCUMENT).unwrap();
    for name in TABLES.iter().map(|(name, _)| *name).chain(["machine"]) {
        empty = empty.replace(measured(&empty.clone(), name), "");
    }
    fs::write(&path, &empty).unwrap();

    let output = Command::new("scripts/bench.sh")
        .args(["--quick", "--write"])
        .arg(&path)
        .env("TOLLGATE_BIN", env!("CARGO_BIN_EXE_tollgate"))
        .output()
        .unwrap();
    let (out, log) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}\n{log}");

    let document = fs::read_to_string(&path).unwrap();
    assert!(measured(&document, "machine").contains("figures mean nothing"));
    for (name, count) in TABLES {
        let table = measured(&document, name);
        assert!(rows(table).len() >= *count, "{name}:\n{table}");
        // Every check was admitted, but for those of the caller over its limit.
        assert!(
            !table.contains("Answers other than 200"),
            "{name}:\n{table}"
        );
    }
    for name in PLOTS {
        let plot = dir.path().join(format!("benchmarks/{name}.svg"));
        let plot = fs::read_to_string(plot).unwrap();
        assert!(
            plot.contains("<svg") && plot.len() < 100_000,
            "{name}: {}",
            plot.len()
        );
    }
}

/// The document has all that a full run writes, and shows each plot.
#[test]
fn the_document_is_that_of_a_full_run() {
    let document = fs::read_to_string(DOCUMENT).unwrap();
    assert!(!measured(&document, "machine").contains("figures mean nothing"));
    for (name, count) in TABLES.iter().chain([&("parts", 14)]) {
        let table = measured(&document, name);
        assert!(rows(table).len() >= *count, "{name}:\n{table}");
        assert!(
            !table.contains("? µs") && !table.contains("?,"),
            "{name} has a gap:\n{table}"
        );
    }
    for name in PLOTS {
        assert!(
            document.contains(&format!("](benchmarks/{name}.svg)")),
            "{name}"
        );
        assert!(
            fs::exists(format!("docs/benchmarks/{name}.svg")).unwrap(),
            "{name}"
        );
    }
}
