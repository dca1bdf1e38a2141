//! Properties of any rule file and any request.

use std::{fmt::Write as _, io, net::IpAddr, path::Path, time::Duration};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as URL_SAFE_NO_PAD};
use proptest::{collection::vec, option, prelude::*, sample::select};
use tokio::runtime::Builder;
use tollgate::{
    counter_key::KeySettings,
    engine::trace::{ExplainRequest, RuleResult, explain},
    hash::HashKey,
    request::{Attributes, Scheme},
    rulefile::{self, LoadContext},
    rules::RuleSet,
    store::read::Untouched,
    wire::Headers,
};

use crate::support::world::{Ask, GET, World, compile};

/// Few names, so that rules and requests often match.
fn word() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "c"])
}

fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => word().prop_map(str::to_owned),
        1 => Just("*".to_owned()),
        1 => Just("{p}".to_owned()),
        1 => word().prop_map(|word| format!("{word}*")),
    ]
}

fn path() -> impl Strategy<Value = String> {
    let template =
        (vec(segment(), 0..3), any::<bool>(), vec(word(), 0..2)).prop_map(|(front, open, back)| {
            let mut seen = false;
            let mut text = String::new();
            for segment in front {
                // The name of a parameter may occur once.
                let again = segment == "{p}" && std::mem::replace(&mut seen, true);
                text = text + "/" + if again { "*" } else { &segment };
            }
            if open {
                text += "/**";
                for word in back {
                    text = text + "/" + word;
                }
            }
            if text.is_empty() {
                "\"/\"".to_owned()
            } else {
                format!("\"{text}\"")
            }
        });
    let regex = (word(), word(), 0..5).prop_map(|(word, next, form)| {
        let regex = match form {
            0 => format!("/{word}(/.*)?"),
            1 => format!("/{word}/{next}(/.*)?"),
            2 => format!("/{word}/?{next}?"),
            3 => format!("/{word}/{next}/?.*"),
            _ => format!("/{word}/.*|/{next}"),
        };
        format!("{{ regex: \"{regex}\" }}")
    });
    prop_oneof![5 => template, 1 => regex]
}

fn value_test() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => word().prop_map(str::to_owned),
        1 => Just("[a, b]".to_owned()),
        1 => Just("{ prefix: a }".to_owned()),
        1 => Just("{ regex: \"[ab]+\" }".to_owned()),
        1 => Just("{ present: true }".to_owned()),
        1 => Just("{ absent: true }".to_owned()),
    ]
}

fn conditions() -> impl Strategy<Value = Vec<String>> {
    let parts = (
        option::of(vec(path(), 1..3)),
        option::of(select(vec!["GET", "POST", "[GET, PUT]"])),
        option::of(select(vec!["http", "https", "[https, http]"])),
        option::of(select(vec!["a.x", "\"*.x\"", "[b.x, \"*.y.x\"]", "x"])),
        option::of(value_test()),
        option::of(value_test()),
        option::of(select(vec![
            "10.0.0.0/8",
            "[\"2001:db8::/32\", 192.0.2.1]",
            "[\"2001:db8::/32\", 0.0.0.0/0]",
            "10.1.1.0/24",
            "\"::ffff:10.1.0.0/112\"",
            "{ file: ten.txt }",
            "[{ file: both.txt }, 192.0.2.1]",
            "[{ file: ten.txt }, { file: none.txt }]",
            "{ file: none.txt }",
        ])),
    );
    parts.prop_map(|(paths, methods, scheme, host, header, query, ip)| {
        [
            paths.map(|paths| format!("path: [{}]", paths.join(", "))),
            methods.map(|methods| format!("methods: {methods}")),
            scheme.map(|scheme| format!("scheme: {scheme}")),
            host.map(|host| format!("host: {host}")),
            header.map(|test| format!("headers: {{ x-h: {test} }}")),
            query.map(|test| format!("query: {{ q: {test} }}")),
            ip.map(|ip| format!("client_ip: {ip}")),
        ]
        .into_iter()
        .flatten()
        .collect()
    })
}

/// The rules of `text`, and of the lists that the conditions name.
fn load(text: &str) -> RuleSet {
    let list = |path: &Path| match path.to_str() {
        Some("ten.txt") => Ok("10.0.0.0/8\n".to_owned()),
        Some("both.txt") => Ok("2001:db8::/32\n10.1.1.0/24 # one of ten.txt\n".to_owned()),
        Some("none.txt") => Ok(String::new()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let context = LoadContext {
        keys: &KeySettings::default(),
        read: &list,
        list: &|_, _| Ok(Vec::new()),
        locate: &Path::to_path_buf,
    };
    let loaded = rulefile::load_with("rules.yaml", text, context);
    let report = loaded.diagnostics;
    loaded.set.unwrap_or_else(|| panic!("{report}\n{text}"))
}

fn rule_file() -> impl Strategy<Value = String> {
    let rule = (conditions(), option::weighted(0.2, conditions()));
    vec(rule, 1..20).prop_map(|rules| {
        let mut text = "version: 1\nrules:\n".to_owned();
        for (number, (mut conditions, not)) in rules.into_iter().enumerate() {
            if let Some(not) = not.filter(|not| !not.is_empty()) {
                conditions.push(format!("not: {{ {} }}", not.join(", ")));
            }
            let matches = conditions.join(", ");
            writeln!(
                text,
                "  - {{ name: r{number}, match: {{ {matches} }}, limit: 1/s }}"
            )
            .unwrap();
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The index finds the same rules as trying every rule, and a rule that covers another matches
    /// whatever that one matches.
    #[test]
    fn the_index_finds_every_rule_that_matches(
        text in rule_file(),
        requests in vec((
            vec(word(), 0..4),
            select(vec!["GET", "HEAD", "POST", "PUT"]),
            option::of(select(vec![Scheme::Http, Scheme::Https])),
            select(vec!["a.x", "b.x", "a.y.x", "x", "y.x", "z"]),
            option::of(select(vec!["a", "ab", "c"])),
            option::of(select(vec!["q=a", "q=%61", "q=c", "q=c&q=a", "%71=b", "x&%71=c"])),
            option::of(select(vec!["10.1.1.1", "192.0.2.1", "2001:db8::1", "::1"])),
        ), 10),
    ) {
        let set = load(&text);
        let all = 0..set.rules.len();
        let covers: Vec<(usize, usize)> = all
            .clone()
            .flat_map(|one| all.clone().map(move |other| (one, other)))
            .filter(|(one, other)| set.rules[*one].matcher.covers(&set.rules[*other].matcher))
            .collect();
        for (segments, method, scheme, host, header, query, ip) in requests {
            let query = query.map_or_else(String::new, |value| format!("?{value}"));
            let target = format!("/{}{query}", segments.join("/"));
            let mut headers = Headers::default();
            if let Some(value) = header {
                headers.append("x-h", value);
            }
            let ip = ip.map(|ip| ip.parse::<IpAddr>().unwrap());
            let request = Attributes { scheme, ..Attributes::new(method, host, &target, ip, &headers) };
            let found: Vec<usize> = set.matching(&request).map(|(number, ..)| number).collect();
            let tried: Vec<usize> = all
                .clone()
                .filter(|number| set.rules[*number].matcher.matches(&request).is_some())
                .collect();
            prop_assert_eq!(&found, &tried, "{} {}\n{}", method, target, text);
            for (one, other) in &covers {
                prop_assert!(
                    found.contains(one) || !found.contains(other),
                    "r{} covers r{}: {:?}\n{}", one, other, request, text
                );
            }
        }
    }

    /// Two callers of two rules share a key only if they are the same caller of the same rule,
    /// whatever bytes they send; and a caller always has the same key.
    #[test]
    fn keys_are_injective((one, other) in pair()) {
        let (a, b) = (key(&one), key(&other));
        prop_assert_eq!(a == b, one.identity() == other.identity(), "{} {}", a, b);
        prop_assert_eq!(&a, &key(&one));
    }
}

/// What requests say in `x-limit`, line by line, and the amount of a limit from 2 to 5 by that.
const SAID: [(&[&str], u64); 13] = [
    (&[], 2),
    (&["1"], 1),
    (&["3"], 3),
    (&[" 4 "], 4),
    (&["5"], 5),
    (&["6"], 5),
    (&["99999999999999999999999"], 5),
    (&["0"], 2),
    (&["-1"], 2),
    (&["+4"], 2),
    (&["4.5"], 2),
    (&["3, 5"], 2),
    (&["3", "5"], 3),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// A limit that a header says decides as one with that amount in a file that was changed just
    /// before the request.
    #[test]
    fn a_limit_that_a_header_says_is_that_limit(
        form in select(vec![
            "algorithm: fixed_window",
            "algorithm: sliding_window",
            "algorithm: sliding_log",
            "algorithm: token_bucket",
            "align: calendar, timezone: Europe/Paris",
        ]),
        requests in vec((select(SAID.to_vec()), select(vec![0, 1, 600, 1_700, 3_599])), 1..40),
    ) {
        let file = |limit: String| format!("
version: 1
forwarded_headers: [x-limit]
rules: [{{ name: plans, key: [client_ip], limits: [{{ {limit}, {form} }}] }}]
");
        let said = World::new(&file("header: x-limit, default: 2, max: 5, per: 1h".to_owned()));
        let written = World::new(&file("rate: 2/1h".to_owned()));
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        for ((lines, amount), pause) in requests {
            for world in [&said, &written] {
                world.clock.advance(Duration::from_secs(pause));
            }
            written.engine.replace(compile(&file(format!("rate: {amount}/1h"))));
            let headers: Vec<_> = lines.iter().map(|line| ("x-limit", *line)).collect();
            let one = runtime.block_on(said.ask(Ask { headers: &headers, ..GET }));
            let other = runtime.block_on(written.ask(GET));
            prop_assert_eq!(one, other, "{:?} after {} s", lines, pause);
        }
    }
}

/// The sources of a key's parts as rule files write them, in the order of a caller's values.
const SOURCES: [&str; 13] = [
    "client_ip",
    "host",
    "method",
    "{ path: p }",
    "{ jwt: sub, secret: false }",
    "{ jwt: [realm, id] }",
    "{ header: x-plain }",
    "{ header: x-secret, secret: true }",
    "{ header: authorization }",
    "{ query: q }",
    "{ query: s, secret: true }",
    "{ cookie: id }",
    "scheme",
];

/// The values of one caller, by source.
#[derive(Debug, Clone)]
struct Caller {
    client_ip: Option<IpAddr>,
    host: &'static str,
    method: &'static str,
    segment: Vec<u8>,
    /// Whether there is a token; its claims are the values that are texts.
    token: Option<[Option<String>; 2]>,
    headers: [Option<Vec<u8>>; 2],
    query: [Option<Vec<u8>>; 2],
    cookie: Option<Vec<u8>>,
    scheme: Option<Scheme>,
}

/// A caller, and the rule that counts it: its name, and which sources its key has.
#[derive(Debug, Clone)]
struct Counted {
    rule: &'static str,
    sources: Vec<usize>,
    caller: Caller,
}

/// Few bytes, most of them separators of keys, so that two callers are often close to each other;
/// and long values.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = select(b"a,=%#{}:2C".to_vec());
    let long = (60_usize..70).prop_map(|length| vec![b'a'; length]);
    prop_oneof![8 => vec(byte, 0..3), 1 => long]
}

fn caller() -> impl Strategy<Value = Caller> {
    let ips = [
        "192.0.2.1",
        "192.0.2.2",
        "2001:db8:0:1::a",
        "2001:db8:0:1::b",
        "2001:db8:0:2::a",
        "2001:db8:0:3::a",
    ];
    let ip = select(ips.map(|ip| ip.parse().unwrap()).to_vec());
    // No segment of a path is empty or made of dots only.
    let segment = prop_oneof![
        8 => bytes().prop_filter("not empty", |bytes| !bytes.is_empty()),
        1 => select(vec![b"a/b".to_vec(), b"%2F".to_vec(), b"/".to_vec(), vec![0xff, 0]]),
    ];
    let claim = || {
        option::weighted(
            0.8,
            select(vec!["", "a", "7", "true", "a,b=c", "#{}", "\u{e9}"]),
        )
    };
    let token = option::weighted(0.8, (claim(), claim()));
    let cookie = vec(select(b"a%:,".to_vec()), 0..3);
    (
        option::of(ip),
        select(vec!["", "a", "a.b", "[::1]", "a_method-get"]),
        select(vec!["GET", "PUT", "A%2CB"]),
        segment,
        token,
        [option::of(bytes()), option::of(bytes())],
        [option::of(bytes()), option::of(bytes())],
        option::of(cookie),
        option::of(select(vec![Scheme::Http, Scheme::Https])),
    )
        .prop_map(
            |(client_ip, host, method, segment, token, headers, query, cookie, scheme)| Caller {
                client_ip,
                host,
                method,
                segment,
                token: token.map(|(a, b)| [a.map(str::to_owned), b.map(str::to_owned)]),
                headers,
                query,
                cookie,
                scheme,
            },
        )
}

fn counted() -> impl Strategy<Value = Counted> {
    let sources = prop_oneof![
        3 => vec(0..SOURCES.len(), 0..4),
        1 => Just(vec![6, 9]),
        1 => Just((0..SOURCES.len()).collect::<Vec<_>>()),
    ];
    (select(vec!["a", "b", "a.b", "a-method"]), sources, caller()).prop_map(
        |(rule, mut sources, caller)| {
            // A part may occur once.
            let mut seen = [false; SOURCES.len()];
            sources.retain(|source| !std::mem::replace(&mut seen[*source], true));
            Counted {
                rule,
                sources,
                caller,
            }
        },
    )
}

/// The plain value of one source resembles the encoded value of another.
#[derive(Debug, Clone, Copy)]
enum Likeness {
    None,
    /// The value encoded once more.
    Encoded,
    /// The value as its hash.
    Hashed,
    /// As the header and the query parameter after it.
    Merged,
}

/// Two callers that have much in common.
fn pair() -> impl Strategy<Value = (Counted, Counted)> {
    let is_other = vec(prop::bool::weighted(0.2), 13);
    let likeness = prop_oneof![
        5 => Just(Likeness::None),
        1 => Just(Likeness::Encoded),
        1 => Just(Likeness::Hashed),
        1 => Just(Likeness::Merged),
    ];
    let pair = (counted(), counted(), is_other, likeness);
    pair.prop_map(|(mut one, other, is_other, likeness)| {
        let plain = one.caller.headers[0].clone().unwrap_or_default();
        if let Likeness::Merged = likeness {
            one.sources = vec![6, 9];
            one.caller.query[0] = Some([&plain, &b",query.q"[..]].concat());
        }
        let mut near = beside(&one, other, is_other);
        match likeness {
            Likeness::None => {}
            Likeness::Encoded => near.caller.headers[0] = Some(escaped(&plain).into_bytes()),
            Likeness::Hashed => {
                let mut hash = String::new();
                HashKey::default().push_hash(&mut hash, &plain);
                near.caller.headers[0] = Some(hash.into_bytes());
            }
            Likeness::Merged => {
                near.caller.headers[0] = Some([&plain, &b",query.q="[..], &plain].concat());
                near.caller.query[0] = None;
            }
        }
        (one, near)
    })
}

/// `one`, with some values of `other`.
fn beside(one: &Counted, other: Counted, is_other: Vec<bool>) -> Counted {
    let mut near = one.clone();
    let Caller {
        client_ip,
        host,
        method,
        segment,
        token,
        headers: [plain, secret],
        query: [q, s],
        cookie,
        scheme,
    } = &mut near.caller;
    let from = other.caller;
    let [from_plain, from_secret] = from.headers;
    let [from_q, from_s] = from.query;
    let mut is_other = is_other.into_iter();
    let mut take = || is_other.next().unwrap();
    put(client_ip, from.client_ip, take());
    put(host, from.host, take());
    put(method, from.method, take());
    put(segment, from.segment, take());
    put(token, from.token, take());
    put(plain, from_plain, take());
    put(secret, from_secret, take());
    put(q, from_q, take());
    put(s, from_s, take());
    put(cookie, from.cookie, take());
    put(scheme, from.scheme, take());
    put(&mut near.rule, other.rule, take());
    put(&mut near.sources, other.sources, take());
    near
}

fn put<T>(place: &mut T, other: T, is_other: bool) {
    if is_other {
        *place = other;
    }
}

impl Caller {
    /// The `Authorization` header.
    fn authorization(&self) -> Option<String> {
        let [sub, id] = self.token.as_ref()?;
        let claims = serde_json::json!({ "sub": sub, "realm": { "id": id } });
        let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
        Some(format!("Bearer e30.{payload}.c2ln"))
    }

    /// The value that distinguishes this caller for a source.
    fn value(&self, source: usize) -> Option<Vec<u8>> {
        let claim = |place: usize| {
            let claim = self.token.as_ref()?[place].as_ref()?;
            Some(claim.clone().into_bytes())
        };
        match source {
            0 => self.client_ip.map(|ip| match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => [&ip.octets()[..8], b"/64"].concat(),
            }),
            1 => Some(self.host.into()).filter(|host: &Vec<u8>| !host.is_empty()),
            2 => Some(self.method.into()),
            3 => Some(self.segment.clone()),
            4 => claim(0),
            5 => claim(1),
            6 => self.headers[0].clone(),
            7 => self.headers[1].clone(),
            8 => self.authorization().map(String::into_bytes),
            9 => self.query[0].clone(),
            10 => self.query[1].clone(),
            11 => self.cookie.clone(),
            _ => self.scheme.map(|scheme| scheme.as_str().into()),
        }
    }
}

impl Counted {
    /// All that must distinguish a counter from others.
    fn identity(&self) -> (&str, &[usize], Vec<Option<Vec<u8>>>) {
        let sources = self.sources.iter();
        let values = sources.map(|source| self.caller.value(*source));
        (self.rule, &self.sources, values.collect())
    }
}

/// The key under which the engine counts it.
fn key(counted: &Counted) -> String {
    let Counted {
        rule,
        sources,
        caller,
    } = counted;
    let parts: Vec<&str> = sources.iter().map(|source| SOURCES[*source]).collect();
    let text = format!(
        "version: 1\nrules: [{{ name: {rule}, match: {{ path: '/{{p}}' }}, key: [{}], limit: 1/s }}]\n",
        parts.join(", ")
    );
    let set = rulefile::load("rules.yaml", &text).unwrap_or_else(|report| panic!("{report}"));

    let mut headers = Headers::default();
    let cookie = caller
        .cookie
        .as_ref()
        .map(|value| [b"id=", &value[..]].concat());
    let authorization = caller.authorization().map(String::into_bytes);
    for (name, value) in [
        ("x-plain", &caller.headers[0]),
        ("x-secret", &caller.headers[1]),
        ("authorization", &authorization),
        ("cookie", &cookie),
    ] {
        if let Some(value) = value {
            headers.append(name, value);
        }
    }
    let query: Vec<String> = ["q", "s"]
        .iter()
        .zip(&caller.query)
        .filter_map(|(name, value)| Some(format!("{name}={}", escaped(value.as_ref()?))))
        .collect();
    let target = format!("/{}?{}", escaped(&caller.segment), query.join("&"));
    let Caller {
        method,
        host,
        client_ip,
        scheme,
        ..
    } = *caller;
    let request = Attributes {
        scheme,
        ..Attributes::new(method, host, &target, client_ip, &headers)
    };

    let runtime = Builder::new_current_thread().build().unwrap();
    let asked = ExplainRequest {
        set: &set,
        request: &request,
        now_us: 0,
        shows_values: true,
    };
    let explained = explain(&asked, &Untouched { now_us: 0 });
    let (explanation, _) = runtime.block_on(explained);
    let RuleResult::Counts(counts) = &explanation.rules[0].result else {
        panic!("{counted:?}: {explanation:?}")
    };
    counts.limits[0].stored_as.clone()
}

/// Every byte as `%XX`.
fn escaped(value: &[u8]) -> String {
    value.iter().fold(String::new(), |mut out, byte| {
        write!(out, "%{byte:02X}").unwrap();
        out
    })
}
