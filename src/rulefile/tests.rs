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
        keys: &KeySettings::default(),
        read: &read,
        list: &|_, _| Ok(Vec::new()),
        locate: &Path::to_path_buf,
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
        keys: &KeySettings::default(),
        read: &read,
        list: &|_, _| Ok(Vec::new()),
        locate: &Path::to_path_buf,
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
        keys: &KeySettings::default(),
        read: &read,
        list: &|_, _| Ok(Vec::new()),
        locate: &Path::to_path_buf,
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

/// Loads the file `rules.yaml` of these.
fn load_files(files: &[(&str, &str)]) -> Loaded {
    let text = |path: &Path| {
        let mut files = files.iter();
        let found = files.find(|(name, _)| Path::new(name) == path);
        found.map(|(_, text)| (*text).to_owned())
    };
    let names = |dir: &Path, pattern: &str| {
        let paths = files.iter().map(|(name, _)| Path::new(name));
        let within = paths.filter(|path| path.parent() == Some(dir));
        let names = within.filter_map(|path| path.file_name()?.to_str());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.retain(|name| crate::glob::matches(pattern, name));
        names.sort();
        names
    };
    let context = LoadContext {
        keys: &KeySettings::default(),
        read: &|path| text(path).ok_or_else(|| io::ErrorKind::NotFound.into()),
        list: &|dir, pattern| Ok(names(dir, pattern)),
        locate: &Path::to_path_buf,
    };
    let main = text(Path::new("rules.yaml")).unwrap();
    load_with("conf/rules.yaml", &main, context)
}

fn names(set: &RuleSet) -> Vec<&str> {
    set.rules.iter().map(|rule| &*rule.name).collect()
}

/// The main file's own rules come first, then those of each included file and of what it includes;
/// a file that is included twice counts at the first place.
#[test]
fn rules_come_in_the_order_of_inclusion() {
    let loaded = load_files(&[
        (
            "rules.yaml",
            "version: 1\ninclude: [last.yaml, ./teams/*.yaml, last.yaml, \"*.yaml\"]\nrules: [{ name: main, limit: 5/m }]\n",
        ),
        ("last.yaml", "rules: [{ name: last, limit: 5/m }]\n"),
        ("other.yaml", "rules: [{ name: other, limit: 5/m }]\n"),
        ("teams/b.yaml", "rules: [{ name: b, limit: 5/m }]\n"),
        (
            "teams/a.yaml",
            "version: 1\nrules: [{ name: a, limit: 5/m }]\ninclude: [../last.yaml, a/1.yaml]\n",
        ),
        ("teams/a/1.yaml", "rules: [{ name: a1, limit: 5/m }]\n"),
        ("teams/.hidden.yaml", "nothing"),
        ("teams/notes.txt", "nothing"),
    ]);
    assert_eq!(loaded.files, 6);
    let set = loaded
        .set
        .unwrap_or_else(|| panic!("{}", loaded.diagnostics));
    assert_eq!(names(&set), ["main", "last", "a", "a1", "b", "other"]);
}

/// A list is relative to the file that names it, and read once.
#[test]
fn a_list_is_a_condition_wherever_networks_are() {
    use crate::request::Attributes;
    let main = "version: 1
include: teams/a.yaml
rules:
  - { name: denied, match: { client_ip: { file: teams/bots.txt } }, limit: 5/m }
  - { name: both, match: { client_ip: [10.0.0.0/8, { file: ./teams/../teams/bots.txt }] }, limit: 5/m }
  - { name: others, match: { not: { client_ip: { file: teams/bots.txt } } }, limit: 5/m }
";
    let team = "rules:
  - name: tiered
    limit: 5/m
    tiers: [{ name: bot, when: { client_ip: { file: bots.txt } }, limit: 1/m }]
";
    let reads = std::cell::Cell::new(0);
    let context = LoadContext {
        keys: &KeySettings::default(),
        read: &|path| match path.to_str() {
            Some("teams/a.yaml") => Ok(team.to_owned()),
            Some("teams/bots.txt") => {
                reads.set(reads.get() + 1);
                Ok("192.0.2.0/24\n2001:db8::/32\n::ffff:198.51.100.7\n".to_owned())
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        },
        list: &|_, _| Ok(Vec::new()),
        locate: &Path::to_path_buf,
    };
    let loaded = load_with("rules.yaml", main, context);
    assert_eq!((reads.get(), loaded.lists, loaded.listed_blocks), (1, 1, 3));
    let set = loaded
        .set
        .unwrap_or_else(|| panic!("{}", loaded.diagnostics));
    let headers = crate::wire::Headers::default();
    for (ip, rules, is_bot) in [
        ("192.0.2.9", "denied both tiered", true),
        ("198.51.100.7", "denied both tiered", true),
        ("2001:db8::9", "denied both tiered", true),
        ("10.0.0.1", "both others tiered", false),
        ("203.0.113.1", "others tiered", false),
    ] {
        let request = Attributes::new("GET", "", "/", Some(ip.parse().unwrap()), &headers);
        let found: Vec<&str> = set
            .matching(&request)
            .map(|(_, rule, _)| &*rule.name)
            .collect();
        assert_eq!(found.join(" "), rules, "{ip}");
        let tiered = set.rules.last().unwrap().limit_action().unwrap();
        assert_eq!(
            tiered.tiers[0].when.matches(&request).is_some(),
            is_bot,
            "{ip}"
        );
    }
}

/// Wherever an address is in a rule file, it is written in the same ways.
#[test]
fn addresses_are_read_in_all_their_forms() {
    for (written, plain) in [
        ("\"[2001:db8::1]\"", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("\"[fe80::1%eth0]\"", "fe80::1"),
        ("\"::ffff:192.0.2.1\"", "192.0.2.1"),
    ] {
        let set = |address: &str| {
            load(
                "rules.yaml",
                &format!(
                    "version: 1
client_ip: {{ trusted_proxies: [{address}], ipv6_prefix: 128 }}
rules:
  - name: a
    match: {{ client_ip: {address} }}
    key: client_ip
    limit: 5/m
    overrides: [{{ key: {address}, limit: 9/m }}]
"
                ),
            )
            .unwrap_or_else(|report| panic!("{report}"))
        };
        assert_eq!(set(written), set(plain), "{written}");
    }
}

#[test]
fn defaults_are_for_the_rules_of_their_own_file() {
    let loaded = load_files(&[
        (
            "rules.yaml",
            "version: 1\ninclude: teams/*.yaml\ndefaults: { on_store_error: deny, answer: { status: 420 } }\nrules: [{ name: main, limit: 5/m }]\n",
        ),
        (
            "teams/a.yaml",
            "defaults: { mode: shadow, on_store_error: allow, answer: { text: no } }\nrules: [{ name: a, limit: 5/m }]\n",
        ),
        ("teams/b.yaml", "rules: [{ name: b, limit: 5/m }]\n"),
    ]);
    let set = loaded
        .set
        .unwrap_or_else(|| panic!("{}", loaded.diagnostics));
    let found = set.rules.iter().map(|rule| {
        let action = rule.limit_action().unwrap();
        assert_eq!(rule.answer.status, Some(420));
        let has_text = rule.answer.body.is_some();
        (action.mode, action.on_store_error, has_text)
    });
    assert_eq!(
        found.collect::<Vec<_>>(),
        [
            (Mode::Enforce, OnStoreError::Deny, false),
            (Mode::Shadow, OnStoreError::Allow, true),
            (Mode::Enforce, OnStoreError::Deny, false),
        ]
    );
}

#[test]
fn included_files_are_bounded_in_number_length_and_depth() {
    let count = |limit: usize| {
        let file = |number| {
            let text = format!("rules: [{{ name: r{number}, limit: 5/m }}]\n");
            (format!("teams/{number}.yaml"), text)
        };
        let mut files: Vec<(String, String)> = (1..limit).map(file).collect();
        let main = "version: 1\ninclude: [teams/*.yaml, teams/no-such.yaml]\n";
        files.push(("rules.yaml".to_owned(), main.to_owned()));
        let files: Vec<(&str, &str)> = files.iter().map(|(a, b)| (&**a, &**b)).collect();
        load_files(&files).diagnostics.to_string()
    };
    assert!(count(999).contains("there is no file teams/no-such.yaml"));
    let told = count(1_001);
    assert!(
        told.contains("rules.yaml:2:11: include[0]: there are more than 1000 rule files"),
        "{told}"
    );
    assert_eq!(told.matches("hint").count(), 1, "{told}");

    let long = format!(
        "#{}\nrules: [{{ name: a, limit: 5/m }}]\n",
        "x".repeat(9_000_000)
    );
    let main = "version: 1\ninclude: [a.yaml, b.yaml]\n";
    let files = [("rules.yaml", main), ("a.yaml", &long), ("b.yaml", &long)];
    let told = load_files(&files).diagnostics.to_string();
    assert!(
        told.contains("include[1]: with b.yaml, the rule files are longer than 16 MiB together"),
        "{told}"
    );

    // Each file names a file in a folder of its own: without a bound, this would not end.
    let endless = |path: &Path| {
        let depth = path.components().count();
        Ok(format!(
            "include: a/x.yaml\nrules: [{{ name: r{depth}, limit: 5/m }}]\n"
        ))
    };
    let context = LoadContext {
        keys: &KeySettings::default(),
        read: &endless,
        list: &|_, _| Ok(Vec::new()),
        locate: &Path::to_path_buf,
    };
    let told = load_with("rules.yaml", "version: 1\ninclude: a/x.yaml\n", context);
    let told = told.diagnostics.to_string();
    assert!(
        told.contains("more than 16 files include each other in a chain"),
        "{told}"
    );
}

/// Finding a place takes as long as reading the file, so only some are looked for.
#[test]
fn many_rules_of_one_name_are_reported_in_time() {
    let rule = "  - { name: a, limit: 5/m }\n";
    let text = format!("version: 1\nrules:\n{}", rule.repeat(2_000));
    let report = load("rules.yaml", &text).unwrap_err();
    assert_eq!(report.list.len(), 101);
    let first = &report.list[0].message;
    assert_eq!(first, "the rule at rules.yaml:3 already has the name \"a\"");
}
