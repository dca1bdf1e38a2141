//! The command line, as users run it.

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::TcpListener,
    process::{Command, Output, Stdio},
};

use crate::support::free_port;
use clap::CommandFactory as _;
use tollgate::cli::Cli;

fn tollgate(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(args).env_clear();
    command.output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn rules_file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn help_says_everything_and_succeeds() {
    let output = tollgate(&["serve", "--help"]);
    assert!(output.status.success());
    insta::assert_snapshot!(String::from_utf8(output.stdout).unwrap());
    assert!(tollgate(&["--version"]).status.success());
}

#[test]
fn wrong_usage_is_64() {
    for (args, expected) in [
        (&["--no-such-flag"][..], "--no-such-flag"),
        (&["--deadline", "soon"], "write it like 50ms"),
        (&["--deadline", "0ms"], "at least 1ms"),
        (&["--listen", "nonsense"], "nonsense"),
        (&["--replicas", "0"], "0 is not in"),
        (&["--store", "redis"], "--redis-url redis://"),
        (&["--log-level", "loud=x=y"], "--log-level"),
        (&["--otlp-endpoint", "https://c:4318"], "without TLS"),
        (&["--trace-ratio", "2"], "from 0 to 1"),
    ] {
        let output = tollgate(args);
        assert_eq!(
            output.status.code(),
            Some(64),
            "{args:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(expected),
            "{args:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn a_bad_rule_file_is_2_and_says_where() {
    let file = rules_file("version: 1\nrules:\n  - name: a\n    limit: 5/fortnight\n");
    let path = file.path().to_str().unwrap();
    for args in [&["validate", path][..], &["serve", "--rules", path]] {
        let output = tollgate(args);
        assert_eq!(output.status.code(), Some(2));
        let text = stderr(&output).replace(path, "rules.yaml");
        assert!(
            text.contains("rules.yaml:4:12: rules[0].limit: \"fortnight\" is not a unit of time"),
            "{text}"
        );
        assert!(
            text.contains(
                "     4 |     limit: 5/fortnight\n       |            ^^^^^^^^^^^\n  hint: "
            ),
            "{text}"
        );
    }
    let output = tollgate(&["validate", "no/such/file.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no/such/file.yaml: the file cannot be read: No such file"));
    let output = tollgate(&["validate", "no/such/file.yaml", "--format", "json"]);
    assert_eq!(output.status.code(), Some(2));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&answer["valid"], &answer["errors"]),
        (&false.into(), &1.into())
    );
    let told = answer["diagnostics"][0]["message"].as_str().unwrap();
    assert!(told.starts_with("the file cannot be read"), "{answer}");
}

#[test]
fn rules_can_come_from_a_pipe() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["validate", "/dev/stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let rules = b"version: 1\nrules: [{ name: a, limit: 5/m }]\n";
    child.stdin.take().unwrap().write_all(rules).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"/dev/stdin: valid, 1 rule, 1 limit\n");
}

#[test]
fn a_closed_pipe_is_not_a_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .arg("schema")
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_file_in_another_encoding_is_reported_with_its_line() {
    let file = rules_file("");
    std::fs::write(file.path(), b"version: 1\n# caf\xe9\nrules: []\n").unwrap();
    let output = tollgate(&["validate", file.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains("line 2 is not UTF-8 text"), "{text}");
    assert!(
        text.contains("hint: save it in the encoding UTF-8"),
        "{text}"
    );
}

#[test]
fn a_good_rule_file_is_0() {
    let output = tollgate(&["validate", "config/rules.yaml"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "config/rules.yaml: valid, 2 rules, 1 limit\n"
    );
}

#[test]
fn lists_are_counted_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write(
        "rules.yaml",
        "version: 1
rules:
  - { name: bots, match: { client_ip: [10.0.0.0/8, { file: bots.txt }] }, action: deny }
  - { name: more, match: { client_ip: { file: more.txt } }, limit: 1/m }
",
    );
    let blocks: Vec<String> = (0..500)
        .map(|n| format!("192.0.{}.{}", n / 250, n % 250))
        .collect();
    write("bots.txt", &blocks.join("\n"));
    write("more.txt", "2001:db8::/32\n");
    let path = dir.path().join("rules.yaml");
    let path = path.to_str().unwrap();
    let said = |args: &[&str]| String::from_utf8(tollgate(args).stdout).unwrap();
    assert_eq!(
        said(&["validate", path]).replace(path, "rules.yaml"),
        "rules.yaml: valid, 2 rules, 1 limit, 2 lists (501 blocks)\n"
    );
    let json: serde_json::Value =
        serde_json::from_str(&said(&["validate", "--format=json", path])).unwrap();
    assert_eq!(
        (&json["lists"], &json["listed_blocks"]),
        (&2.into(), &501.into())
    );
    let said = said(&["explain", "--rules", path, "GET", "/"]);
    assert!(
        said.contains("known to be in bots.txt (500 blocks) or 10.0.0.0/8")
            && said.contains("known to be in more.txt (1 block)"),
        "{said}"
    );
}

#[test]
fn included_files_are_counted_and_explained() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("rules.yaml", "version: 1\ninclude: \"?.yaml\"\n");
    write("a.yaml", "rules: [{ name: a, limit: 5/m }]\n");
    write("b.yaml", "rules: [{ name: b, limit: 0 }]\n");
    let path = dir.path().join("rules.yaml");
    let path = path.to_str().unwrap();
    let output = tollgate(&["validate", path]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        said.replace(path, "rules.yaml"),
        "rules.yaml: valid, 3 files, 2 rules, 1 limit\n"
    );
    let output = tollgate(&["explain", "--rules", path, "GET", "/"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("403"), "{said}");
    write("b.yaml", "rules: [{ name: a, limit: 0 }]\n");
    let output = tollgate(&["validate", path]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(
        said.contains("b.yaml:1:17: rules[0].name: the rule at ")
            && said.contains("a.yaml:1 already has the name \"a\""),
        "{said}"
    );
}

#[test]
fn a_taken_port_is_1_and_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let admin = format!("127.0.0.1:{}", free_port());
    let output = tollgate(&["--listen", &address, "--admin", &admin]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&address), "{}", stderr(&output));
    assert!(stderr(&output).contains("--listen"), "{}", stderr(&output));
}

#[test]
fn a_bad_redis_url_is_reported_without_its_password() {
    // Any ports: a stack that runs on this machine has the default ones.
    let (any, url) = ("127.0.0.1:0", "redis//user:hunter2@host");
    let output = tollgate(&["--listen", any, "--admin", any, "--redis-url", url]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains("redis://[user") && !text.contains("hunter2"),
        "{text}"
    );
}

#[test]
fn help_does_not_show_the_password_in_the_environment() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    let output = command
        .arg("--help")
        .env("REDIS_URL", "redis://u:hunter2@h")
        .output()
        .unwrap();
    assert!(
        !String::from_utf8(output.stdout)
            .unwrap()
            .contains("hunter2")
    );
}

/// `NAME=value` lines, commented out or not.
fn env_example() -> BTreeMap<String, Option<String>> {
    let text = std::fs::read_to_string(".env.example").unwrap();
    let setting = |line: &str| {
        let (name, value) = line.trim_start_matches('#').split_once('=')?;
        let is_name = name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') && !name.is_empty();
        let value = (!line.starts_with('#')).then(|| value.to_owned());
        is_name.then(|| (name.to_owned(), value))
    };
    text.lines().filter_map(setting).collect()
}

#[test]
fn the_example_environment_has_every_variable_with_its_default() {
    let mut example = env_example();
    example.retain(|name, _| !name.starts_with("TOLLGATE_STACK_"));
    let mut flags = BTreeMap::new();
    let cli = Cli::command();
    for command in ["serve", "upstream"] {
        for flag in cli.find_subcommand(command).unwrap().get_arguments() {
            let Some(env) = flag.get_env() else { continue };
            let default = flag.get_default_values().first();
            flags.insert(
                env.to_str().unwrap().to_owned(),
                default.map(|value| value.to_str().unwrap().to_owned()),
            );
        }
    }
    assert!(flags.len() > 15, "{flags:?}");
    assert_eq!(example, flags);
}
