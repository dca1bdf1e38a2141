//! Rule files with mistakes that people make, and the diagnostics for each.
//!
//! `corpus/bad` has files that are refused, `corpus/warned` files that load with warnings. A file
//! of overrides is beside the rule file that names it: `NAME.overrides.yaml`. The files that `NAME`
//! includes, and its lists of addresses, are in the folder `NAME`. The diagnostics of each file are
//! a snapshot; to change many of them at once:
//! `INSTA_UPDATE=always cargo test --test rules corpus`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use tollgate::{
    counter_key::KeySettings,
    rulefile::{self, LoadContext, Loaded, Severity},
    watch,
};

/// A file of the corpus.
struct Case {
    /// Its name, without ending.
    name: String,
    /// Its text.
    text: String,
    /// The result of loading it.
    loaded: Loaded,
}

/// The rule files of a folder, loaded, in the order of their names.
fn cases(folder: &str) -> Vec<Case> {
    let mut paths: Vec<PathBuf> = fs::read_dir(Path::new("tests/corpus").join(folder))
        .unwrap_or_else(|error| panic!("{folder}: {error}"))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let named = paths.iter().filter_map(|path| {
        let name = path.file_name()?.to_str()?.strip_suffix(".yaml")?;
        (!name.ends_with(".overrides")).then(|| (name.to_owned(), path))
    });
    named
        .map(|(name, path)| load(folder, &name, fs::read_to_string(path).unwrap()))
        .collect()
}

/// Loads `text` as the file `name` of a folder.
fn load(folder: &str, name: &str, text: String) -> Case {
    let folder = Path::new("tests/corpus").join(folder);
    let surroundings = LoadContext {
        keys: &KeySettings::default(),
        read: &|beside| fs::read_to_string(folder.join(beside)),
        list: &|dir, pattern| watch::names(&folder.join(dir), pattern),
        locate: &Path::to_path_buf,
    };
    let loaded = rulefile::load_with(&format!("{name}.yaml"), &text, surroundings);
    Case {
        name: name.to_owned(),
        text,
        loaded,
    }
}

/// Jargon of libraries that must not reach users: their own terms, and names of Rust types.
const JARGON: &[&str] = &[
    "invalid type",
    "invalid value",
    "expected a map",
    "a sequence",
    "a string",
    "a boolean",
    "a mapping",
    "u64",
    "i64",
    "f64",
    "did not find expected",
    "cannot start any token",
    "not allowed in this context",
    "while parsing",
    "while scanning",
    "untagged",
    "variant",
    "node",
    "EOF",
    "merge",
    "deserialize",
];

/// Checks what must hold for the diagnostics of any file.
fn check(folder: &str, case: &Case) {
    let Case { name, text, loaded } = case;
    let report = loaded.diagnostics.to_string();
    for diagnostic in &loaded.diagnostics.list {
        let hint = diagnostic.hint.as_deref().unwrap_or_default();
        assert!(!hint.trim().is_empty(), "{name}: no hint\n{report}");
        for word in JARGON {
            let said = format!("{} {hint}", diagnostic.message).replace(name, "NAME");
            assert!(!said.contains(word), "{name}: {word:?}\n{report}");
        }
        let is_one_line = !format!("{}{hint}", diagnostic.message).contains('\n');
        assert!(is_one_line, "{name}: more than one line\n{report}");
        if diagnostic.line > 0 {
            let text = if diagnostic.file == format!("{name}.yaml") {
                text.clone()
            } else {
                let folder = Path::new("tests/corpus").join(folder);
                fs::read_to_string(folder.join(&diagnostic.file)).unwrap()
            };
            let line = text.lines().nth(diagnostic.line - 1).unwrap_or_default();
            let source = diagnostic.source.trim_matches('…');
            assert!(line.contains(source), "{name}\n{report}");
            let is_whole = source == line || line.chars().count() > 200;
            assert!(is_whole, "{name}\n{report}");
            let end = diagnostic.column + diagnostic.width - 1;
            assert!(
                end <= line.chars().count().max(1) + 1,
                "{name}: beyond the end of the line\n{report}"
            );
        }
    }
}

fn snapshot(folder: &str, case: &Case) {
    let settings = |name: &str| format!("snapshots/corpus/{name}");
    insta::with_settings!({
        snapshot_path => settings(folder),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(case.name.as_str(), case.loaded.diagnostics.to_string());
    });
}

#[test]
fn bad_files_are_refused_with_place_and_remedy() {
    let cases = cases("bad");
    assert!(cases.len() >= 75, "only {} files", cases.len());
    for case in &cases {
        let Case { name, text, loaded } = case;
        let report = &loaded.diagnostics;
        assert!(loaded.set.is_none(), "{name} was taken\n{text}");
        assert!(report.has_errors(), "{name}: no error\n{report}");
        let is_empty = text.trim().is_empty();
        let placed = report
            .of(Severity::Error)
            .any(|diagnostic| diagnostic.line > 0);
        assert!(placed || is_empty, "{name}: no place\n{report}");
        check("bad", case);
        snapshot("bad", case);
    }
}

#[test]
fn warned_files_are_taken_with_a_warning() {
    let cases = cases("warned");
    assert!(cases.len() >= 12, "only {} files", cases.len());
    for case in &cases {
        let Case { name, text, loaded } = case;
        let report = &loaded.diagnostics;
        assert!(loaded.set.is_some(), "{name} was refused\n{report}\n{text}");
        let warnings = report.of(Severity::Warning).count();
        assert!(warnings > 0, "{name}: no warning");
        check("warned", case);
        snapshot("warned", case);
    }
}

/// Leaves out each character with a meaning in YAML, one at a time. There must be a good message
/// for each result.
#[test]
fn every_missing_character_gets_a_helpful_message() {
    let mut count = 0;
    for (folder, case) in ["bad", "warned"]
        .into_iter()
        .flat_map(|folder| cases(folder).into_iter().map(move |case| (folder, case)))
    {
        let signs = case.text.match_indices([
            ':', '{', '}', '[', ']', '"', '\'', '-', ',', ' ', '\n', '\\', '&', '*', '<', '#',
        ]);
        for (at, sign) in signs {
            // One of each run of equal characters.
            if case.text[..at].ends_with(sign) {
                continue;
            }
            let text = format!("{}{}", &case.text[..at], &case.text[at + sign.len()..]);
            check(folder, &load(folder, &case.name, text));
            count += 1;
        }
    }
    assert!(count > 5_000, "only {count}");
}

#[test]
fn every_snapshot_has_its_file() {
    for folder in ["bad", "warned"] {
        let names: BTreeSet<String> = cases(folder).into_iter().map(|case| case.name).collect();
        for entry in fs::read_dir(Path::new("tests/rules/snapshots/corpus").join(folder)).unwrap() {
            let file = entry.unwrap().file_name().into_string().unwrap();
            let name = file.strip_suffix(".snap").unwrap_or(&file);
            assert!(names.contains(name), "{folder}/{file}");
        }
    }
}
