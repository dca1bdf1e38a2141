//! The rule file: read, checked, compiled, matched.
//!
//! [`load`] is the whole way from text to a [`RuleSet`]. A rule set is immutable; a changed file makes a new one.

pub mod answer;
mod compile;
mod decode;
pub mod diagnostic;
mod file;
mod index;
pub mod key;
mod locate;
pub mod matcher;
pub mod quota;
mod syntax;
mod yaml;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;

use self::{
    answer::Answer,
    index::Index,
    key::Descriptor,
    matcher::{Matcher, Named, Params},
};
pub use self::{
    compile::SHIPPED_HEADERS,
    diagnostic::{Diagnostic, Report, Severity},
};
use crate::{
    hash::HashKey,
    limit::{Limit, ban::Ban, calendar::Calendar},
    request::{Attributes, ClientIpPolicy},
};

/// What a rule file needs beside its own text.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The key of the hash of secrets.
    pub hash_key: &'a HashKey,
    /// Reads a file that the rule file names, by its path relative to the rule file's directory.
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
}

/// What became of a rule file.
#[derive(Debug)]
pub struct Loaded {
    /// The rules; `None` if there was an error.
    pub set: Option<RuleSet>,
    /// Everything that could be told in one go, warnings included.
    pub report: Report,
    /// The other files that belong to it, as it names them, also when there was an error.
    pub files: Vec<PathBuf>,
}

/// Reads and compiles the text of a rule file. `name` is how messages call the file.
pub fn load_with(name: &str, text: &str, surroundings: Surroundings<'_>) -> Loaded {
    let mut document = yaml::Document::new(name, text);
    let (set, files) = compile::compile(&mut document, surroundings);
    let report = document.report();
    Loaded {
        set: set.filter(|_| !report.has_errors()),
        report,
        files,
    }
}

/// The JSON Schema of rule files, for editors (draft 2020-12).
pub fn schema() -> serde_json::Value {
    file::schema()
}

/// As [`load_with`], for a file that stands alone, without a secret for its hashes. On an error the report holds everything
/// that could be told in one go.
pub fn load(name: &str, text: &str) -> Result<RuleSet, Report> {
    let alone = |path: &Path| {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("{} belongs to a file on disk", path.display()),
        ))
    };
    let loaded = load_with(
        name,
        text,
        Surroundings {
            hash_key: &HashKey::default(),
            read: &alone,
        },
    );
    loaded.set.ok_or(loaded.report)
}

/// All rules of a file, ready to be matched.
#[derive(Debug, Clone)]
pub struct RuleSet {
    /// The rules, in the order of the file.
    pub rules: Vec<Rule>,
    /// How a client's address is found and keyed.
    pub client_ip: ClientIpPolicy,
    /// How secrets are hashed.
    pub hash_key: HashKey,
    index: Index,
}

/// The index follows from the rules.
impl PartialEq for RuleSet {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules
            && self.client_ip == other.client_ip
            && self.hash_key == other.hash_key
    }
}

impl Eq for RuleSet {}

impl RuleSet {
    fn new(rules: Vec<Rule>, client_ip: ClientIpPolicy, hash_key: HashKey) -> Self {
        Self {
            index: Index::new(&rules),
            rules,
            client_ip,
            hash_key,
        }
    }

    /// The rules that match, in the order of the file, with their number and the parameters of the path.
    pub fn matching<'a>(
        &'a self,
        request: &'a Attributes<'_>,
    ) -> impl Iterator<Item = (usize, &'a Rule, Params<'a>)> {
        let candidates = self.index.candidates(request).into_iter();
        candidates.filter_map(|number| {
            let index = usize::try_from(number).ok()?;
            let rule = self.rules.get(index)?;
            Some((index, rule, rule.matcher.matches(request)?))
        })
    }

    /// How values become parts of keys.
    pub fn key_context(&self) -> key::Context<'_> {
        key::Context {
            client_ip: &self.client_ip,
            hash_key: &self.hash_key,
        }
    }

    /// Whether a key of some rule has a part of which only a hash may be seen.
    pub fn has_secrets(&self) -> bool {
        let actions = self.rules.iter().filter_map(Rule::limit_action);
        actions
            .flat_map(|action| &action.descriptor.parts)
            .any(key::Part::is_secret)
    }

    /// Whether some rule has this in its key and marks it as secret.
    pub fn marks_secret(&self, named: Named<'_>) -> bool {
        let actions = self.rules.iter().filter_map(Rule::limit_action);
        let mut parts = actions.flat_map(|action| &action.descriptor.parts);
        parts.any(|part| match (part, named) {
            (key::Part::Header { name, secret }, Named::Header(asked)) => *secret && name == asked,
            (key::Part::Query { name, secret }, Named::Query(asked)) => *secret && name == asked,
            _ => false,
        })
    }

    /// All limits of all rules.
    pub fn limits(&self) -> impl Iterator<Item = &NamedLimit> {
        let actions = self.rules.iter().filter_map(Rule::limit_action);
        actions.flat_map(LimitAction::plans).flat_map(Plan::limits)
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name: in keys, headers, logs and metrics.
    pub name: Arc<str>,
    /// Which requests it is about.
    pub matcher: Matcher,
    /// What happens to them.
    pub action: Action,
    /// What those get whom it denies.
    pub answer: Arc<Answer>,
}

impl Rule {
    /// What it counts, if it counts.
    pub fn limit_action(&self) -> Option<&LimitAction> {
        match &self.action {
            Action::Limit(action) => Some(action),
            Action::Allow | Action::Deny(_) => None,
        }
    }

    /// The names of all that may deny: its limits, those of its tiers and overrides, and its ban.
    pub fn limit_names(&self) -> impl Iterator<Item = &Arc<str>> {
        let action = self.limit_action();
        let limits = action
            .into_iter()
            .flat_map(LimitAction::plans)
            .flat_map(Plan::limits);
        let ban = action.and_then(|action| action.ban.as_ref());
        limits
            .map(|limit| &limit.name)
            .chain(ban.map(|ban| &ban.name))
    }
}

/// What a rule does with a request that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Lets it pass; no later rule is asked.
    Allow,
    /// Turns it away; no later rule is asked and nothing is charged. In shadow mode it only says so.
    Deny(Mode),
    /// Counts it.
    Limit(Box<LimitAction>),
}

/// The limits of a rule and what they count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitAction {
    /// Whose requests share a counter.
    pub descriptor: Descriptor,
    /// What a request costs.
    pub cost: Cost,
    /// What holds for callers of whom nothing else is said.
    pub plan: Plan,
    /// What holds for callers of one kind; the first that fits.
    pub tiers: Vec<Tier>,
    /// What holds for one caller, by the descriptor as it stands in keys. Comes before tiers.
    pub overrides: HashMap<Box<str>, Plan>,
    /// Who is denied for longer, because limits denied them too often.
    pub ban: Option<NamedBan>,
    /// Whether a denial is only counted and logged.
    pub mode: Mode,
    /// What happens while the store does not answer.
    pub on_store_error: OnStoreError,
}

/// Where a caller's limits come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanSource<'a> {
    /// The rule's own.
    Rule,
    /// A tier, by its name.
    Tier(&'a str),
    /// An override.
    Override,
}

impl LimitAction {
    /// What holds for a caller. `descriptor` is as keys have it.
    pub fn plan_for(&self, descriptor: &str, request: &Attributes<'_>) -> (&Plan, PlanSource<'_>) {
        if let Some(plan) = self.overrides.get(descriptor) {
            return (plan, PlanSource::Override);
        }
        match self
            .tiers
            .iter()
            .find(|tier| tier.when.matches(request).is_some())
        {
            Some(tier) => (&tier.plan, PlanSource::Tier(&tier.name)),
            None => (&self.plan, PlanSource::Rule),
        }
    }

    /// All of its plans.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        std::iter::once(&self.plan)
            .chain(self.tiers.iter().map(|tier| &tier.plan))
            .chain(self.overrides.values())
    }
}

/// What a caller may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// All of these limits apply.
    Limits(Vec<NamedLimit>),
    /// Nothing is counted.
    Unlimited,
    /// Nothing is admitted.
    Nothing,
}

impl Plan {
    /// Its limits, if it has some.
    pub fn limits(&self) -> &[NamedLimit] {
        match self {
            Self::Limits(limits) => limits,
            Self::Unlimited | Self::Nothing => &[],
        }
    }
}

/// What holds for callers of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier {
    /// Its name, `tier1` and so on if it was given none.
    pub name: Arc<str>,
    /// Who.
    pub when: Matcher,
    /// What.
    pub plan: Plan,
}

/// What a request costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cost {
    /// Always as much, at least 1.
    Fixed(u64),
    /// As much as a header says.
    Header {
        /// Which one; its first line.
        name: http::HeaderName,
        /// Without the header, or when it is no whole number above 0.
        default: u64,
        /// No more than this, whatever the header says.
        max: u64,
    },
}

impl Cost {
    /// What `request` costs, at least 1.
    pub fn of(&self, request: &Attributes<'_>) -> u64 {
        match self {
            Self::Fixed(cost) => *cost,
            Self::Header { name, default, max } => {
                let value = request.headers.get(name).map(http::HeaderValue::as_bytes);
                value.map_or(*default, |value| cost_in(value, *default, *max))
            }
        }
    }

    /// The most that a request can cost.
    pub fn most(&self) -> u64 {
        match self {
            Self::Fixed(cost) => *cost,
            Self::Header { max, .. } => *max,
        }
    }
}

fn cost_in(value: &[u8], default: u64, max: u64) -> u64 {
    let digits = value.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return default;
    }
    // So many digits that it does not fit: more than any maximum.
    let cost = std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(u64::MAX);
    if cost == 0 { default } else { cost.min(max) }
}

/// A limit with everything about it that can be written ahead of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedLimit {
    /// The arithmetic.
    pub limit: Limit,
    /// What its windows begin with, if not with the first request.
    pub calendar: Option<Calendar>,
    /// `data`, or `search/1s` when the rule has several limits: the policy's name in answers and logs.
    pub name: Arc<str>,
    /// `"data";q=5;w=60`: this limit's member of `RateLimit-Policy`.
    pub policy: Arc<str>,
    /// `:sliding_window:60s`: the end of its keys.
    pub key_suffix: Arc<str>,
    /// `5/m`, as the rule file says it.
    pub text: Arc<str>,
}

impl NamedLimit {
    /// The limit as it stands at `now_us`: its window, if a calendar says so.
    pub fn at(&self, now_us: u64) -> Limit {
        match &self.calendar {
            None => self.limit,
            Some(calendar) => self.limit.aligned(calendar.edges(now_us)),
        }
    }
}

/// A ban with everything about it that can be written ahead of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedBan {
    /// The arithmetic.
    pub ban: Ban,
    /// `login/ban`: what it is called in answers, logs and metrics.
    pub name: Arc<str>,
    /// `"login/ban";q=5;w=600`: its member of `RateLimit-Policy`. The quota is one of denials.
    pub policy: Arc<str>,
    /// `5 denials within 10m`.
    pub text: Arc<str>,
}

/// Whether a rule denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It does.
    #[default]
    Enforce,
    /// It only counts, logs and says in metrics what it would have denied.
    Shadow,
}

/// What a rule does while the store does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStoreError {
    /// Counts in this process, with the limit divided by the number of replicas.
    #[default]
    Local,
    /// Lets requests pass uncounted.
    Allow,
    /// Denies with 429 and `Retry-After: 1`.
    Deny,
    /// Answers 503, so that the proxy's own failure mode decides.
    Proxy,
}

impl OnStoreError {
    /// The name in rule files and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Proxy => "proxy",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn all_errors_are_told_in_one_go_with_place_and_remedy() {
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
    fn broken_yaml_is_told_with_its_place() {
        insta::assert_snapshot!("tab", report("version: 1\nrules:\n\t- name: x\n"));
        insta::assert_snapshot!(
            "duplicate",
            report("version: 1\nrules:\n  - name: x\n    limit: 5/m\n    limit: 6/m\n")
        );
        insta::assert_snapshot!(
            "template",
            report(
                "version: 1\nrules:\n  - name: x\n    match: { path: /a/{id} }\n    limit: 5/m\n"
            )
        );
        insta::assert_snapshot!("empty", report(""));
        insta::assert_snapshot!("list", report("- a\n- b\n"));
        insta::assert_snapshot!("no_rules", report("version: 1\nrules: []\n"));
    }

    #[test]
    fn a_mark_of_the_encoding_is_no_part_of_the_file() {
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
            let first = report.diagnostics[0].clone();
            (first.line, first.column, first.source)
        };
        let breaks = "# a\u{2028}# b\r# c\u{85}\r\nversion: 1\nrules: 5\n";
        assert_eq!(place(breaks), (3, 8, "rules: 5".to_owned()));
        let beside = "version: 1\nrules: [] # a\n# b\u{2029}x: 5\n";
        let report = load("rules.yaml", beside).unwrap_err();
        let unknown = report.diagnostics.iter().find(|d| d.field == "x").unwrap();
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
    fn of_very_much_that_is_wrong_some_is_told() {
        use std::fmt::Write as _;
        let mut aliases = "version: 1\nx: &x { a: 1, b: 2, c: 3 }\nrules:\n".to_owned();
        for _ in 0..300 {
            aliases.push_str("  - *x\n");
        }
        let report = load("rules.yaml", &aliases).unwrap_err();
        assert_eq!(report.diagnostics.len(), 101);
        let last = &report.diagnostics[100];
        assert!(last.message.ends_with("told here: 1401"), "{last:?}");
        assert!(report.to_string().ends_with("repair those above first"));

        // What is wrong in a file that several rules name is told once, and errors come before warnings.
        let mut rules = "version: 1\nrules:\n".to_owned();
        for index in 0..300 {
            writeln!(rules, "  - {{ name: r{index}, match: {{ methods: [GET], not: {{ methods: GET }} }}, key: method, limit: 5/m, overrides_file: o }}").unwrap();
        }
        let read = |_: &Path| Ok("version: 1\noverrides: [x]\n".to_owned());
        let surroundings = Surroundings {
            hash_key: &HashKey::default(),
            read: &read,
        };
        let loaded = load_with("rules.yaml", &rules, surroundings);
        assert_eq!(loaded.report.of(Severity::Error).count(), 1);
        assert_eq!(loaded.report.of(Severity::Warning).count(), 101);
        rules.push_str("    action: nothing\n");
        assert!(load_with("rules.yaml", &rules, surroundings).set.is_none());
    }

    #[test]
    fn a_file_that_several_rules_name_is_read_once() {
        let rule =
            |name| format!("  - {{ name: {name}, key: host, limit: 5/m, overrides_file: o }}\n");
        let text = format!("version: 1\nrules:\n{}{}", rule("a"), rule("b"));
        let reads = std::cell::Cell::new(0);
        let read = |_: &Path| {
            reads.set(reads.get() + 1);
            let amount = reads.get();
            Ok(format!(
                "version: 1\noverrides: [{{ key: h, limit: {amount}/m }}]\n"
            ))
        };
        let surroundings = Surroundings {
            hash_key: &HashKey::default(),
            read: &read,
        };
        let loaded = load_with("rules.yaml", &text, surroundings);
        let set = loaded.set.unwrap_or_else(|| panic!("{}", loaded.report));
        assert_eq!(
            set.limits().filter(|limit| &*limit.text == "1/m").count(),
            2
        );
        assert_eq!(loaded.files, [PathBuf::from("o")]);
    }

    #[test]
    fn a_message_stays_on_its_line() {
        let text = "version: 1\nrules: []\n\"a\\nb\\e\": 1\nclient_ip: !a%0Ab {}\n";
        let report = load("rules.yaml", text).unwrap_err();
        let field = |field: &str| report.diagnostics.iter().any(|d| d.field == field);
        assert!(field("a\\nb\\u{1b}"), "{report:?}");
        for diagnostic in &report.diagnostics {
            let told = [&diagnostic.field, &diagnostic.message];
            assert!(told.iter().all(|text| !text.contains('\n')), "{report:?}");
        }
    }
}
