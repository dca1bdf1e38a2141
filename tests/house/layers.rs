//! The layers of `src`: which module may import which, and that no two files import each other.
//!
//! Imports are read from the source text: every `use`, and every path that begins with `crate::`,
//! `super::`, `self::` or the name of a child module. A name that a module only passes on is
//! followed to the file that defines it. Test code is left out: it may use any module.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use regex::Regex;

/// The layers, from the bottom up: each module with the modules that it may import.
const LAYERS: &[(&str, &[&str])] = &[
    // Leaves: no module of tollgate.
    ("clock", &[]),
    ("glob", &[]),
    ("hash", &[]),
    ("health", &[]),
    ("jitter", &[]),
    ("nearest", &[]),
    ("problem", &[]),
    ("throttle", &[]),
    ("wire", &[]),
    ("words", &[]),
    ("workers", &[]),
    ("watch", &["glob"]),
    ("request", &["wire", "words"]),
    // Limits and counting.
    ("limit", &["words"]),
    ("counter_key", &["hash", "limit", "problem"]),
    ("metrics", &["words"]),
    // The rules in force, and the file that they come from.
    (
        "rules",
        &[
            "counter_key",
            "hash",
            "limit",
            "nearest",
            "problem",
            "request",
            "wire",
            "words",
        ],
    ),
    (
        "rulefile",
        &[
            "counter_key",
            "glob",
            "limit",
            "nearest",
            "problem",
            "request",
            "rules",
            "words",
        ],
    ),
    // A check, from the socket to the store.
    (
        "store",
        &[
            "clock",
            "counter_key",
            "jitter",
            "limit",
            "metrics",
            "problem",
            "throttle",
            "workers",
        ],
    ),
    (
        "engine",
        &[
            "counter_key",
            "limit",
            "metrics",
            "nearest",
            "problem",
            "request",
            "rules",
            "store",
            "throttle",
        ],
    ),
    (
        "contract",
        &[
            "engine", "jitter", "metrics", "problem", "request", "rules", "wire",
        ],
    ),
    ("traces", &["engine", "metrics", "problem", "wire"]),
    (
        "check",
        &[
            "contract", "engine", "metrics", "problem", "throttle", "traces", "wire",
        ],
    ),
    // Beside the checks.
    ("server", &["throttle", "wire", "workers"]),
    (
        "explain",
        &["contract", "engine", "problem", "request", "rules", "wire"],
    ),
    (
        "admin",
        &[
            "contract", "engine", "explain", "hash", "health", "jitter", "metrics", "problem",
            "rules", "wire", "words",
        ],
    ),
    (
        "replay",
        &[
            "clock", "contract", "engine", "limit", "request", "rules", "store", "wire", "words",
        ],
    ),
    // The program.
    (
        "app",
        &[
            "admin",
            "check",
            "clock",
            "contract",
            "counter_key",
            "engine",
            "health",
            "metrics",
            "rulefile",
            "rules",
            "server",
            "store",
            "traces",
            "watch",
            "wire",
            "workers",
        ],
    ),
    (
        "cli",
        &[
            "app",
            "clock",
            "contract",
            "counter_key",
            "engine",
            "explain",
            "hash",
            "problem",
            "replay",
            "rulefile",
            "rules",
            "server",
            "store",
            "traces",
            "wire",
        ],
    ),
];

/// Crates that a module must not name.
const UNKNOWN: &[(&str, &[&str])] = &[
    (
        "limit",
        &[
            "tokio",
            "hyper",
            "hyper_util",
            "redis",
            "rustls",
            "serde_yaml",
            "schemars",
        ],
    ),
    (
        "request",
        &[
            "tokio",
            "hyper",
            "hyper_util",
            "redis",
            "rustls",
            "serde_yaml",
            "schemars",
        ],
    ),
    (
        "rules",
        &[
            "tokio",
            "hyper",
            "hyper_util",
            "redis",
            "rustls",
            "serde_yaml",
            "schemars",
        ],
    ),
    (
        "rulefile",
        &["tokio", "hyper", "hyper_util", "redis", "rustls"],
    ),
    (
        "engine",
        &[
            "hyper",
            "hyper_util",
            "redis",
            "rustls",
            "serde_yaml",
            "schemars",
        ],
    ),
    (
        "contract",
        &["tokio", "redis", "rustls", "serde_yaml", "schemars"],
    ),
];

/// A module's path from the root: `["rules", "matcher"]`.
type Module = Vec<String>;

/// The source files of the library, without test code and comments.
struct Sources(BTreeMap<Module, String>);

impl Sources {
    fn read() -> Self {
        let mut sources = Self(BTreeMap::new());
        sources.read_dir(Path::new("src"), &[]);
        assert!(sources.0.len() > 100, "only {} files", sources.0.len());
        sources
    }

    fn read_dir(&mut self, dir: &Path, module: &[String]) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let mut module = module.to_vec();
            if path.is_dir() {
                module.push(stem.to_owned());
                self.read_dir(&path, &module);
                continue;
            }
            match (path.extension().and_then(|e| e.to_str()), stem) {
                (Some("rs"), "main" | "tests") => continue,
                (Some("rs"), "lib" | "mod") => {}
                (Some("rs"), _) => module.push(stem.to_owned()),
                _ => continue,
            }
            let text = fs::read_to_string(&path).unwrap();
            self.0.insert(module, code(&text));
        }
    }

    /// The module that defines the item at `path`, or the nearest module on the way to it.
    fn definer(&self, path: &[String], seen: &mut Vec<Vec<String>>) -> Module {
        let depth = (0..=path.len())
            .rev()
            .find(|depth| self.0.contains_key(&path[..*depth]))
            .unwrap_or(0);
        let module = path[..depth].to_vec();
        let Some(name) = path.get(depth) else {
            return module;
        };
        let code = &self.0[&module];
        if defines(code, name) || seen.contains(&path.to_vec()) {
            return module;
        }
        seen.push(path.to_vec());
        let passed_on = uses(code)
            .into_iter()
            .find(|used| used.name == *name)
            .and_then(|used| self.absolute(&module, &used.path));
        match passed_on {
            Some(path) => self.definer(&path, seen),
            None => module,
        }
    }

    /// A path from the root of the crate; `None` if it leads out of the crate.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        let mut base = module.to_vec();
        match first.as_str() {
            "crate" => return Some(rest.to_vec()),
            "self" => {}
            "super" => {
                let ups = path
                    .iter()
                    .take_while(|segment| *segment == "super")
                    .count();
                base.truncate(base.len() - ups);
                base.extend_from_slice(&path[ups..]);
                return Some(base);
            }
            _ => {
                base.push(first.clone());
                self.0.contains_key(&base).then_some(())?;
                base.pop();
                base.push(first.clone());
            }
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    /// The files whose items each file names, itself excluded.
    fn imports(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let imports = self.0.iter().map(|(module, code)| {
            let named = self.named_paths(module, code).into_iter();
            let definers = named
                .map(|path| self.definer(&path, &mut Vec::new()))
                .filter(|definer| definer != module && !definer.is_empty());
            (module.clone(), definers.collect())
        });
        imports.collect()
    }

    /// The modules on other layers that each file names, whoever defines the items.
    fn layers(&self) -> BTreeMap<Module, BTreeSet<String>> {
        let named = self.0.iter().filter(|(module, _)| !module.is_empty());
        let named = named.map(|(module, code)| {
            let paths = self.named_paths(module, code).into_iter();
            let layers = paths.filter_map(|path| path.into_iter().next());
            let others = layers.filter(|layer| *layer != module[0]);
            (module.clone(), others.collect())
        });
        named.collect()
    }

    /// The paths within this crate that a file names, from the root.
    fn named_paths(&self, module: &[String], code: &str) -> Vec<Vec<String>> {
        let statement = Regex::new(r"(?m)^\s*(?:pub(?:\([^)]*\))?\s+)?use\s+[^;]+;").unwrap();
        let rest = statement.replace_all(code, "");
        let rest = Regex::new(r"pub\(in [^)]*\)")
            .unwrap()
            .replace_all(&rest, "");
        let word = |name: &str| Regex::new(&format!(r"\b{name}\b")).unwrap().is_match(&rest);
        let used = uses(code).into_iter();
        // What a module only passes on is not its own import.
        let mut paths: Vec<Vec<String>> = used
            .filter(|used| !used.is_public || word(&used.name))
            .map(|used| used.path)
            .collect();
        let inline = Regex::new(r"\b(?:crate|super|self)(?:::\w+)+").unwrap();
        paths.extend(inline.find_iter(&rest).map(|path| segments(path.as_str())));
        let child = Regex::new(r"(?:^|[^:\w.])(\w+)::\w+").unwrap();
        for found in child.captures_iter(&rest) {
            let mut path = module.to_vec();
            path.push(found[1].to_owned());
            if self.0.contains_key(&path) {
                paths.push(segments(
                    found[0].trim_start_matches(|c: char| !c.is_alphanumeric()),
                ));
            }
        }
        let paths = paths.iter();
        paths
            .filter_map(|path| self.absolute(module, path))
            .collect()
    }
}

/// The code before the tests, without lines of comment.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn segments(path: &str) -> Vec<String> {
    path.split("::")
        .map(|segment| segment.trim().to_owned())
        .collect()
}

fn defines(code: &str, name: &str) -> bool {
    let keywords = "struct|enum|trait|fn|const|static|type|macro_rules!";
    let definition = Regex::new(&format!(r"\b(?:{keywords})\s+{name}\b")).unwrap();
    definition.is_match(code)
}

/// A name that a `use` brings in.
struct Used {
    path: Vec<String>,
    name: String,
    is_public: bool,
}

fn uses(code: &str) -> Vec<Used> {
    let statement = Regex::new(r"(?m)^\s*(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);").unwrap();
    let mut out = Vec::new();
    for found in statement.captures_iter(code) {
        let mut paths = Vec::new();
        flatten(&[], &found[2], &mut paths);
        out.extend(paths.into_iter().map(|(path, name)| Used {
            path,
            name,
            is_public: found.get(1).is_some(),
        }));
    }
    out
}

/// The paths of a `use` tree, each with the name that it brings in.
fn flatten(prefix: &[String], tree: &str, out: &mut Vec<(Vec<String>, String)>) {
    let tree = tree.trim();
    if tree.is_empty() {
        return;
    }
    let Some(open) = tree.find('{') else {
        let (path, alias) = match tree.split_once(" as ") {
            Some((path, alias)) => (path, Some(alias.trim().to_owned())),
            None => (tree, None),
        };
        let mut path = [prefix, &segments(path)].concat();
        path.retain(|segment| !segment.is_empty());
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        if let Some(name) = alias.or_else(|| path.last().cloned()) {
            out.push((path, name));
        }
        return;
    };
    let head = tree[..open].trim_end_matches(':');
    let prefix = [prefix, &segments(head)].concat();
    let inner = &tree[open + 1..tree.rfind('}').unwrap()];
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                flatten(&prefix, &inner[start..at], out);
                start = at + 1;
            }
            _ => {}
        }
    }
    flatten(&prefix, &inner[start..], out);
}

/// A way along imports from `from` back to `from`, if there is one.
fn circle(imports: &BTreeMap<Module, BTreeSet<Module>>, from: &Module) -> Option<Vec<String>> {
    let mut ways = vec![vec![from.clone()]];
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop() {
        for next in &imports[way.last().unwrap()] {
            if next == from {
                let names = way.iter().map(|module| module.join("::"));
                return Some(names.collect());
            }
            if seen.insert(next.clone()) {
                ways.push([&way[..], std::slice::from_ref(next)].concat());
            }
        }
    }
    None
}

#[test]
fn imports_point_down() {
    let layers: BTreeMap<&str, &[&str]> = LAYERS.iter().copied().collect();
    let mut count = 0;
    for (module, others) in Sources::read().layers() {
        for other in others {
            assert!(
                layers[module[0].as_str()].contains(&other.as_str()),
                "{} imports {other}, which is not below {}",
                module.join("::"),
                module[0]
            );
            count += 1;
        }
    }
    assert!(count > 150, "only {count} imports were seen");
}

#[test]
fn every_permission_is_used() {
    let imports = Sources::read().layers();
    for (layer, allowed) in LAYERS {
        for below in *allowed {
            let mut files = imports.iter().filter(|(module, _)| module[0] == *layer);
            assert!(
                files.any(|(_, others)| others.contains(*below)),
                "{layer} does not import {below} any more"
            );
        }
    }
}

#[test]
fn no_two_files_import_each_other() {
    let imports = Sources::read().imports();
    for module in imports.keys() {
        if let Some(way) = circle(&imports, module) {
            panic!("a circle: {} -> {}", way.join(" -> "), way[0]);
        }
    }
}

#[test]
fn a_circle_would_be_seen() {
    let module = |name: &str| vec![name.to_owned()];
    let import = |name: &str| BTreeSet::from([module(name)]);
    let imports = BTreeMap::from([
        (module("a"), import("b")),
        (module("b"), import("c")),
        (module("c"), import("b")),
    ]);
    assert_eq!(circle(&imports, &module("a")), None);
    assert_eq!(circle(&imports, &module("b")).unwrap(), ["b", "c"]);
}

#[test]
fn paths_are_followed_to_the_file_that_defines_them() {
    let sources = Sources::read();
    let definer = |path: &str| sources.definer(&segments(path), &mut Vec::new()).join("::");
    assert_eq!(definer("rules::Rule"), "rules::rule");
    assert_eq!(
        definer("rules::matcher::Matcher"),
        "rules::matcher::conditions"
    );
    assert_eq!(definer("limit::State"), "limit::state");
    assert_eq!(definer("limit::Algorithm"), "limit::spec");
    assert_eq!(definer("engine::Engine"), "engine");
}

#[test]
fn every_module_has_a_floor() {
    let known: BTreeSet<&str> = LAYERS.iter().map(|(module, _)| *module).collect();
    let lib = fs::read_to_string("src/lib.rs").unwrap();
    let declared = Regex::new(r"(?m)^(?:pub )?mod (\w+);").unwrap();
    let declared = declared
        .captures_iter(&lib)
        .map(|found| found.extract::<1>().1[0]);
    assert_eq!(declared.collect::<BTreeSet<_>>(), known);
}

#[test]
fn modules_do_not_name_what_they_do_not_know() {
    let sources = Sources::read();
    for (module, crates) in UNKNOWN {
        for (path, code) in &sources.0 {
            if path.first().is_none_or(|name| name != module) {
                continue;
            }
            for name in *crates {
                let named = Regex::new(&format!(r"(?:^|[^:\w.]){name}::")).unwrap();
                let is_child = sources
                    .0
                    .contains_key(&[&path[..], &[(*name).to_owned()]].concat());
                assert!(
                    is_child || !named.is_match(code),
                    "{} names {name}",
                    path.join("::")
                );
            }
        }
    }
}
