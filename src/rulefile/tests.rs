use super::*;
use crate::rules::{Action, Mode, OnStoreError};

const GOOD: &str = r#"
version: 1
client_ip: { trusted_proxies: [10.0.0.0/8, 192.0.2.1], ipv6_prefix: 56 }
defaults: { on_store_error: deny }
rules:
  - name: health
    match: { path: /healthz }
    action: allow
  - name: data
    match: { path: [/data, "/data/{id}/**"], methods: [GET], host: "*.example.com" }
    key: [client_ip]
    limit: 5/m
  - name: search
    match: { path: "/v1/{tenant}/search/**" }
    key: [{ path: tenant }, { header: x-api-key, secret: true }]
    on_missing: skip
    limits: [20/s burst 40, { rate: 1000 per day, algorithm: fixed_window }]
    mode: shadow
    on_store_error: proxy
"#;

#[test]
fn a_good_file_compiles() {
    let set = load("rules.yaml", GOOD).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(set.client_ip.ipv6_prefix, 56);
    assert_eq!(set.client_ip.trusted_proxies.len(), 2);
    assert_eq!(set.rules.len(), 3);
    let Action::Limit(data) = &set.rules[1].action else {
        panic!()
    };
    assert_eq!(data.on_store_error, OnStoreError::Deny);
    assert_eq!(&*data.plan.limits()[0].policy, "\"data\";q=5;w=60");
    assert_eq!(&*data.plan.limits()[0].key_suffix, ":sliding_window:60s");
    let Action::Limit(search) = &set.rules[2].action else {
        panic!()
    };
    assert_eq!(search.mode, Mode::Shadow);
    assert_eq!(search.on_store_error, OnStoreError::Proxy);
    assert_eq!(&*search.plan.limits()[0].name, "search/1s");
    assert_eq!(&*search.plan.limits()[0].key_suffix, ":token_bucket:1s");
    assert_eq!(&*search.plan.limits()[1].key_suffix, ":fixed_window:86400s");
}

fn report(text: &str) -> String {
    match load("rules.yaml", text) {
        Ok(_) => "no error".to_owned(),
        Err(report) => report.to_string(),
    }
}

#[test]
fn all_errors_are_reported_in_one_go_with_place_and_hint() {
    insta::assert_snapshot!(report(
        r#"version: 2
client_ip: { ipv6_prefix: 200, trusted_proxies: [10.0.0.0/8, nonsense] }
rules:
  - name: data
    match: { path: data, metods: [GET] }
    key: [ip, { header: "x y" }, { path: id }]
    limit: 5/fortnight
  - name: data
    limit: 0/m
    mode: shadwo
  - name: "a b"
    limits:
      - 5/m
      - 6/m
      - { rate: 7/m, burst: 9, algorithm: fixed_window }
  - limit: 5
  - name: all
    action: allow
    limit: 3/s
  - name: never
    match: { path: /x }
    action: deny
    on_mising: deny
"#
    ));
}

#[test]
fn broken_yaml_is_reported_with_its_place() {
    insta::assert_snapshot!("tab", report("version: 1\nrules:\n\t- name: x\n"));
    insta::assert_snapshot!(
        "duplicate",
        report("version: 1\nrules:\n  - name: x\n    limit: 5/m\n    limit: 6/m\n")
    );
    insta::assert_snapshot!(
        "template",
        report("version: 1\nrules:\n  - name: x\n    match: { path: /a/{id} }\n    limit: 5/m\n")
    );
    insta::assert_snapshot!("empty", report(""));
    insta::assert_snapshot!("list", report("- a\n- b\n"));
    insta::assert_snapshot!("no_rules", report("version: 1\nrules: []\n"));
}

#[test]
fn a_byte_order_mark_is_ignored() {
    let text = "\u{feff}version: 1\nrules: [{ name: a, limit: 5/m }]\n";
    assert!(load("rules.yaml", text).is_ok());
}

#[test]
fn a_rate_is_one_line_in_answers() {
    let text = "version: 1\nrules: [{ name: a, limit: \"5\\n/ \\tm\" }]\n";
    let set = load("rules.yaml", text).unwrap();
    assert_eq!(&*set.limits().next().unwrap().text, "5 / m");
}

#[test]
fn places_are_those_that_an_editor_shows() {
    let place = |text: &str| {
        let report = load("rules.yaml", text).unwrap_err();
        let first = report.list[0].clone();
        (first.line, first.column, first.source)
    };
    let breaks = "# a\u{2028}# b\r# c\u{85}\r\nversion: 1\nrules: 5\n";
    assert_eq!(place(breaks), (3, 8, "rules: 5".to_owned()));
    let beside = "version: 1\nrules: [] # a\n# b\u{2029}x: 5\n";
    let report = load("rules.yaml", beside).unwrap_err();
    let unknown = report.list.iter().find(|d| d.field == "x").unwrap();
    assert_eq!((unknown.line, unknown.column), (3, 5));
    // An end that comes too early is found behind the text.
    let source = "rules: [".to_owned();
    for end in ["", "\n", "\r\n"] {
        let text = format!("version: 1\n{source}{end}");
        assert_eq!(place(&text), (2, 9, source.clone()), "{end:?}");
    }
    assert_eq!(place("# nothing\n"), (1, 10, "# nothing".to_owned()));
}

#[test]
fn a_long_list_of_problems_is_cut_short() {
    use std::fmt::Write as _;
    let mut aliases = "version: 1\nx: &x { a: 1, b: 2, c: 3 }\nrules:\n".to_owned();
    for _ in 0..300 {
        aliases.push_str("  - *x\n");
    }
    let report = load("rules.yaml", &aliases).unwrap_err();
    assert_eq!(report.list.len(), 101);
    let last = &report.list[100];
    assert!(last.message == "1401 more problems not shown", "{last:?}");
    assert!(report.to_string().ends_with("fix the ones above first"));

    // A problem in a file that several rules name is reported once, and errors come before
    // warnings.
    let mut rules = "version: 1\nrules:\n".to_owned();
    for index in 0..300 {
        writeln!(rules, "  - {{ name: r{index}, match: {{ methods: [GET], not: {{ methods: GET }} }}, key: method, limit: 5/m, overrides_file: o }}").unwrap();
    }
    let read = |_: &Path| Ok("version: 1\noverrides: [x]\n".to_owned());
    let context = LoadContext {
        hash_key: &HashKey::default(),
        read: &read,
    };
    let loaded = load_with("rules.yaml", &rules, context);
    assert_eq!(loaded.diagnostics.of(Severity::Error).count(), 1);
    assert_eq!(loaded.diagnostics.of(Severity::Warning).count(), 101);
    rules.push_str("    action: nothing\n");
    assert!(load_with("rules.yaml", &rules, context).set.is_none());
}

#[test]
fn a_file_that_several_rules_name_is_read_once() {
    let rule = |name| format!("  - {{ name: {name}, key: host, limit: 5/m, overrides_file: o }}\n");
    let text = format!("version: 1\nrules:\n{}{}", rule("a"), rule("b"));
    let reads = std::cell::Cell::new(0);
    let read = |_: &Path| {
        reads.set(reads.get() + 1);
        let amount = reads.get();
        Ok(format!(
            "version: 1\noverrides: [{{ key: h, limit: {amount}/m }}]\n"
        ))
    };
    let context = LoadContext {
        hash_key: &HashKey::default(),
        read: &read,
    };
    let loaded = load_with("rules.yaml", &text, context);
    let set = loaded
        .set
        .unwrap_or_else(|| panic!("{}", loaded.diagnostics));
    assert_eq!(
        set.limits().filter(|limit| &*limit.text == "1/m").count(),
        2
    );
    assert_eq!(reads.get(), 1);
}

#[test]
fn an_overrides_file_in_another_encoding_is_reported_with_a_hint() {
    let text = "version: 1\nrules: [{ name: a, key: host, limit: 5/m, overrides_file: o }]\n";
    let read = |_: &Path| {
        let reason = "line 3 is not UTF-8 text";
        Err(io::Error::new(io::ErrorKind::InvalidData, reason))
    };
    let context = LoadContext {
        hash_key: &HashKey::default(),
        read: &read,
    };
    let told = load_with("rules.yaml", text, context)
        .diagnostics
        .to_string();
    assert!(
        told.contains("o cannot be read: line 3 is not UTF-8 text"),
        "{told}"
    );
    assert!(
        told.ends_with("hint: save it in the encoding UTF-8"),
        "{told}"
    );
}

#[test]
fn a_message_stays_on_its_line() {
    let text = "version: 1\nrules: []\n\"a\\nb\\e\": 1\nclient_ip: !a%0Ab {}\n";
    let report = load("rules.yaml", text).unwrap_err();
    let field = |field: &str| report.list.iter().any(|d| d.field == field);
    assert!(field("a\\nb\\u{1b}"), "{report:?}");
    for diagnostic in &report.list {
        let told = [&diagnostic.field, &diagnostic.message];
        assert!(told.iter().all(|text| !text.contains('\n')), "{report:?}");
    }
}
