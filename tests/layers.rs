//! Imports point down. A layer may name those below it and nothing above or beside it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, fs, path::Path};

/// Each module with what it may import from this crate.
const ALLOWED: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("hash", &[]),
    ("health", &[]),
    ("limit", &[]),
    ("metrics", &[]),
    ("reload", &[]),
    ("request", &[]),
    ("store", &["clock", "limit", "metrics"]),
    ("rules", &["hash", "limit", "request"]),
    ("engine", &["limit", "metrics", "request", "rules", "store"]),
    ("contract", &["engine", "metrics", "request", "rules"]),
    ("explain", &["contract", "engine", "request", "rules"]),
    ("server", &["contract", "engine", "health", "metrics"]),
    (
        "app",
        &[
            "clock", "contract", "engine", "explain", "hash", "health", "metrics", "reload",
            "rules", "server", "store",
        ],
    ),
    (
        "cli",
        &[
            "app", "clock", "contract", "engine", "explain", "hash", "rules", "server", "store",
        ],
    ),
];

/// Modules that must not depend on how tollgate is served or where it counts.
const PURE: &[&str] = &["limit", "rules", "request"];

fn sources(module: &str) -> Vec<(String, String)> {
    fn collect(path: &Path, out: &mut Vec<(String, String)>) {
        if path.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                collect(&entry.unwrap().path(), out);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push((
                path.display().to_string(),
                fs::read_to_string(path).unwrap(),
            ));
        }
    }
    let mut out = Vec::new();
    let file = format!("src/{module}.rs");
    let path = if Path::new(&file).exists() {
        file
    } else {
        format!("src/{module}")
    };
    collect(Path::new(&path), &mut out);
    assert!(!out.is_empty(), "no sources of {module}");
    out
}

/// The names that follow `crate::` in the code before its tests, also within `crate::{…}`.
fn imports(source: &str) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]").next().unwrap();
    let code: String = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let mut depth = 0;
        let mut word = String::new();
        for c in rest.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if c.is_alphanumeric() || c == '_' {
                word.push(c);
                continue;
            }
            // Only names at the first level are modules of this crate.
            if !word.is_empty()
                && (depth == 0 || (depth == 1 && matches!(c, ':' | ',' | '\n')) || c == '}')
            {
                found.insert(std::mem::take(&mut word));
            }
            word.clear();
            if depth == 0 {
                break;
            }
        }
    }
    found
}

#[test]
fn imports_point_down() {
    let modules: BTreeSet<&str> = ALLOWED.iter().map(|(module, _)| *module).collect();
    let mut edges = 0;
    for (module, allowed) in ALLOWED {
        for (file, source) in sources(module) {
            for import in imports(&source) {
                if modules.contains(import.as_str()) && import != *module {
                    assert!(
                        allowed.contains(&import.as_str()),
                        "{file} imports crate::{import}, which is not below {module}"
                    );
                    edges += 1;
                }
            }
        }
    }
    assert!(
        edges > 30,
        "only {edges} imports were seen: does this test still read them?"
    );
}

#[test]
fn every_module_has_its_place() {
    let known: BTreeSet<String> = ALLOWED
        .iter()
        .map(|(module, _)| (*module).to_owned())
        .collect();
    let lib = fs::read_to_string("src/lib.rs").unwrap();
    let declared: BTreeSet<String> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect();
    assert_eq!(declared, known);
}

#[test]
fn the_core_names_neither_runtime_nor_server_nor_redis() {
    for module in PURE {
        for (file, source) in sources(module) {
            let code = source
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            for line in code {
                for name in ["tokio::", "hyper::", "hyper_util::", "redis::", "deadpool"] {
                    assert!(!line.contains(name), "{file}: {line}");
                }
            }
        }
    }
}
