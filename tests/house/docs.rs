//! The documents match the code.

use std::{collections::BTreeSet, fs, path::Path};

use clap::CommandFactory as _;
use tollgate::{
    cli::Cli,
    counter_key::KeySettings,
    metrics::{FallbackMode, Metrics, StoreFailure},
    rulefile,
};

const DOCUMENTS: &[&str] = &[
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/architecture.md",
    "docs/benchmarks.md",
    "docs/counters.md",
    "docs/explain.md",
    "docs/field.md",
    "docs/kubernetes.md",
    "docs/operations.md",
    "docs/proxies.md",
    "docs/redis.md",
    "docs/rehearsal.md",
    "docs/reliability.md",
    "docs/rules.md",
];

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The fenced blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut current: Option<Vec<&str>> = None;
    for line in text.lines() {
        match &mut current {
            Some(lines) if line == "```" => {
                found.push(lines.join("\n"));
                current = None;
            }
            Some(lines) => lines.push(line),
            None if line.strip_prefix("```") == Some(language) => current = Some(Vec::new()),
            None => {}
        }
    }
    found
}

#[test]
fn every_rule_file_in_the_documents_is_valid() {
    let mut count = 0;
    for document in DOCUMENTS {
        for block in blocks(&read(document), "yaml") {
            if block.starts_with("version:") {
                // A file of overrides is checked with a rule that names it.
                let beside = "version: 1\nrules: [{ name: api, key: [{ header: x-api-key }], limit: 1/s, overrides_file: o.yaml }]\n";
                let is_overrides = block.contains("\noverrides:");
                let loaded = rulefile::load_with(
                    document,
                    if is_overrides { beside } else { &block },
                    rulefile::LoadContext {
                        keys: &KeySettings::default(),
                        // A file that is included has one rule.
                        read: &|path| match path.file_stem().and_then(|name| name.to_str()) {
                            Some(name @ ("search" | "last")) => {
                                Ok(format!("rules: [{{ name: {name}, limit: 1/s }}]\n"))
                            }
                            Some("blocklist" | "partners") if !is_overrides => {
                                Ok("192.0.2.1\n".to_owned())
                            }
                            _ => Ok(block.clone()),
                        },
                        list: &|_, _| Ok(vec!["search.yaml".to_owned()]),
                        locate: &Path::to_path_buf,
                    },
                );
                let report = loaded.diagnostics;
                assert!(!report.has_errors(), "{report}\n\nin:\n{block}");
                count += 1;
            }
        }
    }
    assert!(count >= 5, "only {count} rule files found");
}

#[test]
fn the_shipped_rules_are_valid_with_their_examples() {
    let text = read("config/rules.yaml");
    assert!(rulefile::load("config/rules.yaml", &text).is_ok());
    let uncommented: Vec<&str> = text
        .lines()
        .map(|line| line.strip_prefix("  # ").map_or(line, |rest| rest))
        .collect();
    let at = uncommented
        .iter()
        .position(|line| line.starts_with("More examples"))
        .unwrap();
    let examples = uncommented[at + 1..]
        .iter()
        .map(|line| format!("  {}", line.trim_start_matches("  #")))
        .collect::<Vec<_>>()
        .join("\n");
    let with_examples = format!("version: 1\nrules:\n{examples}\n");
    let set =
        rulefile::load("examples", &with_examples).unwrap_or_else(|report| panic!("{report}"));
    assert!(set.rules.len() >= 3);
}

/// Rules that use other headers cause a warning, and its text must be right.
#[test]
fn the_shipped_proxies_forward_the_headers_that_rules_may_count_on() {
    let envoy = read("envoy/envoy.yaml");
    let (_, rest) = envoy.split_once("allowed_headers:").unwrap();
    let (block, _) = rest.split_once("disallowed_headers:").unwrap();
    let of_envoy: Vec<&str> = block
        .split("exact: ")
        .skip(1)
        .map(|rest| rest.split(',').next().unwrap())
        .collect();
    assert_eq!(of_envoy, rulefile::SHIPPED_HEADERS);
    let nginx = read("nginx/nginx.conf");
    let (_, rest) = nginx.split_once("location = /_tollgate {").unwrap();
    let (block, _) = rest.split_once("\n        }").unwrap();
    let of_nginx: Vec<String> = block
        .lines()
        .filter_map(|line| line.trim().strip_prefix("proxy_set_header "))
        .filter(|line| line.contains("$http_"))
        .map(|line| line.split(' ').next().unwrap().to_ascii_lowercase())
        .collect();
    assert_eq!(of_nginx, rulefile::SHIPPED_HEADERS);
    let haproxy = read("haproxy/tollgate.lua");
    let (_, rest) = haproxy.split_once("local FORWARDED = {").unwrap();
    let (list, _) = rest.split_once('}').unwrap();
    let of_haproxy: Vec<&str> = list
        .split(',')
        .map(|name| name.trim().trim_matches('"'))
        .collect();
    assert_eq!(of_haproxy, rulefile::SHIPPED_HEADERS);
    // Caddy forwards all headers but those that its file removes.
    let caddy = read("caddy/Caddyfile");
    assert!(caddy.contains("# Caddy sends all other headers of the client too. Not these:"));
    let left_out: Vec<String> = caddy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("header_up -"))
        .map(str::to_ascii_lowercase)
        .collect();
    for name in ["authorization", "cookie"] {
        assert!(left_out.iter().any(|left_out| left_out == name), "{name}");
    }
    for name in rulefile::SHIPPED_HEADERS {
        assert!(!left_out.iter().any(|left_out| left_out == name), "{name}");
    }
}

/// The mistake in the documents is reported as they show it.
#[test]
fn the_mistake_in_the_documents_is_reported_as_shown() {
    let rules = read("config/rules.yaml").replacen("limit: 5/m", "limit: 10/fortnight", 1);
    let report = rulefile::load("config/rules.yaml", &rules).unwrap_err();
    let told = report.to_string();
    assert!(read("README.md").contains(&told), "{told}");
    let summary = report.summary().replace('"', "\\\"");
    assert!(read("docs/operations.md").contains(&summary), "{summary}");
}

#[test]
fn links_lead_somewhere() {
    let mut count = 0;
    for document in DOCUMENTS {
        let folder = Path::new(document).parent().unwrap();
        for part in read(document).split("](").skip(1) {
            let target = part.split(')').next().unwrap();
            if !target.contains("://") {
                let (file, heading) = target.split_once('#').unwrap_or((target, ""));
                let file = match file {
                    "" => Path::new(document).to_owned(),
                    file => folder.join(file),
                };
                assert!(file.exists(), "{document}: {target}");
                let text = fs::read_to_string(&file).unwrap_or_default();
                let mut headings = text
                    .lines()
                    .filter_map(|line| line.trim_start_matches('#').strip_prefix(' '));
                let is_there = headings.any(|found| slug(found) == heading);
                assert!(heading.is_empty() || is_there, "{document}: {target}");
                count += 1;
            }
        }
    }
    assert!(count > 5);
}

/// `binary::module::test`.
#[test]
fn the_field_log_names_tests_that_exist() {
    let log = read("docs/field.md");
    let mut count = 0;
    for quoted in log.split('`').skip(1).step_by(2) {
        let [binary, module, test] = quoted.split("::").collect::<Vec<_>>()[..] else {
            continue;
        };
        let file = read(&format!("tests/{binary}/{module}.rs"));
        let is_there = file.contains(&format!("fn {test}("));
        assert!(is_there, "docs/field.md: {quoted}");
        count += 1;
    }
    assert!(count > 30, "{count}");
}

/// The name of a heading in links.
fn slug(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn the_readme_lists_every_option_with_its_variable_and_default() {
    let readme = read("README.md");
    let rows: BTreeSet<(String, String, Option<String>)> = readme
        .lines()
        .filter(|line| line.starts_with("| `--"))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let code = |cell: &str| cell.trim_matches('`').to_owned();
            let plain_default = cells[3].starts_with('`') && cells[3].matches('`').count() == 2;
            (
                code(cells[1]),
                code(cells[2]),
                plain_default.then(|| code(cells[3])),
            )
        })
        .collect();
    let cli = Cli::command();
    let serve = cli.find_subcommand("serve").unwrap();
    let flags: BTreeSet<(String, String, Option<String>)> = serve
        .get_arguments()
        .filter_map(|flag| {
            let default = flag
                .get_default_values()
                .first()
                .map(|value| value.to_str().unwrap().to_owned());
            Some((
                format!("--{}", flag.get_long()?),
                flag.get_env()?.to_str().unwrap().to_owned(),
                default,
            ))
        })
        .collect();
    assert!(flags.len() > 10);
    assert_eq!(rows, flags);
}

#[test]
fn metrics_in_the_documents_exist() {
    let metrics = Metrics::new();
    metrics
        .rule("data")
        .fell_back(FallbackMode::Local, StoreFailure::Deadline);
    metrics.limit("data", "data", true);
    metrics.limit_is("data", "data", 5, 60_000_000);
    let text = metrics.encode();
    let mut count = 0;
    // The field log names tests, not metrics.
    let documents = DOCUMENTS.iter().filter(|name| **name != "docs/field.md");
    for document in documents {
        for part in read(document).split("tollgate_").skip(1) {
            let name: String = part
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                .collect();
            let family = name.trim_end_matches("_total").trim_end_matches("_bucket");
            assert!(
                text.contains(&format!("# HELP tollgate_{family}")),
                "{document}: tollgate_{name}"
            );
            count += 1;
        }
    }
    assert!(count > 5);
}

/// Every source file has a line in the map, and every line has a file.
#[test]
fn the_architecture_lists_every_source_file() {
    fn collect(dir: &Path, out: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, out);
                continue;
            }
            let name = path.strip_prefix("src").unwrap().display().to_string();
            let is_source = [".rs", ".lua"].iter().any(|ending| name.ends_with(ending));
            if is_source && !name.ends_with("tests.rs") {
                out.insert(name);
            }
        }
    }
    let mut files = BTreeSet::new();
    collect(Path::new("src"), &mut files);
    let text = read("docs/architecture.md");
    let (_, map) = text.split_once("\n## Every file\n").unwrap();
    let (map, _) = map.split_once("\n## ").unwrap();
    let rows = map.lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: BTreeSet<String> = rows
        .flat_map(|row| {
            let cell = row.split(" |").next().unwrap();
            cell.split(", ").map(|name| name.replace('`', ""))
        })
        .collect();
    assert_eq!(files, listed);
}

/// Files that documents and comments name exist.
#[test]
fn files_that_are_named_exist() {
    let named =
        regex::Regex::new(r"(?:src|tests|docs|config|scripts|deploy|examples)/[\w/.-]*\w\.\w+")
            .unwrap();
    let mut texts: Vec<String> = DOCUMENTS.iter().map(|path| (*path).to_owned()).collect();
    let mut folders = vec!["src".into(), "tests".into(), "benches".into()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir::<std::path::PathBuf>(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                texts.push(path.display().to_string());
            }
        }
    }
    let mut count = 0;
    for text in texts {
        for found in named.find_iter(&read(&text)) {
            let path = found.as_str();
            let is_made_up = ["config/rules.yaml", "NAME"]
                .iter()
                .any(|part| path.contains(part));
            assert!(
                is_made_up || Path::new(path).exists(),
                "{text} names {path}"
            );
            count += 1;
        }
    }
    assert!(count > 50, "only {count}");
}

/// Prose fits a terminal of 100 columns; tables and code may not be wrapped.
#[test]
fn documents_are_wrapped() {
    let mut long = Vec::new();
    for document in DOCUMENTS {
        let text = read(document);
        let mut in_code = false;
        for (number, line) in text.lines().enumerate() {
            if line.starts_with("```") {
                in_code = !in_code;
            }
            let is_free = in_code || line.starts_with('|') || line.contains("](http");
            let length = line.chars().count();
            if !is_free && length > 100 {
                long.push(format!("{document}:{}: {length} columns", number + 1));
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

/// Comments fit 100 columns too.
#[test]
fn comments_are_wrapped() {
    let mut folders = vec![
        std::path::PathBuf::from("src"),
        "tests".into(),
        "benches".into(),
    ];
    let (mut count, mut long) = (0, Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|ending| ending != "rs") {
                continue;
            }
            for (number, line) in read(&path.display().to_string()).lines().enumerate() {
                let is_comment = line.trim_start().starts_with("//");
                let is_table = line.trim_start().starts_with("//! |");
                let length = line.chars().count();
                if is_comment && !is_table && length > 100 && !line.contains("://") {
                    let file = path.display();
                    long.push(format!("{file}:{}: {length} columns", number + 1));
                }
                count += usize::from(is_comment);
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
    assert!(count > 1_000, "only {count}");
}
