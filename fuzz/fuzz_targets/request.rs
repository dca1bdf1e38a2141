//! Any bytes as a request: `METHOD TARGET`, then a header on each line; after an empty line, the text of a counter.
#![no_main]

mod checks;

use std::{collections::BTreeMap, fmt::Write as _, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use tollgate::{
    contract::{self, Reading, Unreadable},
    limit::{Algorithm, State, ban},
    request::{
        Attributes, DotSegments, EncodedSlash, LeadingSlashes, Parameters, PathPolicy, normal_path,
        query_of,
    },
    rulefile,
    rules::{RuleSet, key::claim},
    wire::{Headers, Request},
};

/// Every kind of condition and key.
static RULES: LazyLock<RuleSet> = LazyLock::new(|| {
    let text = r##"
version: 1
client_ip: { trusted_proxies: [10.0.0.0/8, "2001:db8::/32"], ipv6_prefix: 56 }
rules:
  - name: everybody
    limits: [5/m, 9/h burst 12, { rate: 100/day, algorithm: sliding_log }]
  - name: plain
    match: { path: "/{a}/**", methods: [GET, POST, PUT] }
    key: [client_ip, method, host, { path: a }, { header: x-api-key }, { query: q }, { jwt: sub, secret: false }]
    cost: { header: x-cost, default: 2, max: 9 }
    limit: 5/m
  - name: secret
    match: { host: ["*.example.com", api.example.com] }
    key: [{ header: x-api-key, secret: true }, { header: authorization }, { query: q, secret: true }, { cookie: id }, { jwt: [realm, "a{b}"] }]
    limit: { rate: 5/month, align: calendar, timezone: Europe/Paris }
  - name: grouped
    match: { path: { regex: "/v[0-9]+/(?P<a>[^/]*)(/(?P<b>.*))?" }, not: { query: { x: { present: true } } } }
    key: [{ path: a }, { path: b }]
    on_missing: skip
    limit: 5/m
  - name: tested
    match:
      path: [/a/**/z, "/img/*.png", "/files/*/raw"]
      headers: { x-plan: [gold, silver], x-version: { prefix: v1 }, user-agent: { regex: "(?i).*bot.*" }, x-internal: { absent: true } }
      query: { q: { exact: [a, "a b"] }, page: { regex: "[0-9]{3,}" } }
      client_ip: [10.0.0.0/8, "2001:db8::/32"]
    key: [{ header: x-api-key }]
    limit: 5/m
    tiers:
      - { name: gold, when: { headers: { x-plan: gold } }, limit: 600/m }
    overrides:
      - { key: k, limit: 0 }
"##;
    rulefile::load("rules.yaml", text).unwrap_or_else(|report| panic!("{report}"))
});

fuzz_target!(|data: &[u8]| {
    let end = data.windows(2).position(|pair| pair == b"\n\n");
    let (head, rest) = data.split_at(end.unwrap_or(data.len()));
    let mut lines = head.split(|&byte| byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let at = first.iter().position(|&byte| byte == b' ');
    let (method, target) = first.split_at(at.unwrap_or(first.len()));
    let target = target.get(1..).unwrap_or_default();
    // What is no field makes the head none.
    let is_field = |line: &&[u8]| line.contains(&b':') && !line.starts_with(b":");
    let lines: Vec<&[u8]> = lines.filter(is_field).collect();
    checked(method, target, &lines);
    target_has_one_form(&String::from_utf8_lossy(target));
    for path in [&["sub"][..], &["realm", "id"]] {
        let path: Vec<String> = path.iter().map(|&name| name.to_owned()).collect();
        let mut headers = Headers::default();
        for line in &lines {
            let value = line.strip_prefix(b"authorization:").unwrap_or_default();
            headers.append("authorization", value);
        }
        claim(&headers, &path);
    }
    counters(&String::from_utf8_lossy(rest.get(2..).unwrap_or_default()));
});

/// Each contract reads it or says what is wrong, and both of Envoy's see the same request.
fn checked(method: &[u8], target: &[u8], lines: &[&[u8]]) {
    let prefixed = [b"/v1/envoy", target].concat();
    let envoy = request(method, &prefixed, lines);
    let url = [b"http://h", target].concat();
    let set = [
        (&b"x-forwarded-method"[..], method),
        (b"x-forwarded-uri", target),
        (b"x-original-method", method),
        (b"x-original-url", &url),
    ];
    let is_set = |line: &&&[u8]| {
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        set.iter().any(|(own, _)| own.eq_ignore_ascii_case(name))
    };
    let others = lines.iter().filter(|line| !is_set(line)).map(|line| line.to_vec());
    let own = set.iter().map(|(name, value)| [name, &b":"[..], value].concat());
    let forwarded: Vec<Vec<u8>> = others.chain(own).collect();
    let forwarded: Vec<&[u8]> = forwarded.iter().map(Vec::as_slice).collect();
    let fixed = ["/v1/check", "/v1/auth-request"]
        .map(|path| request(b"GET", path.as_bytes(), &forwarded));
    let as_it_is = request(method, target, lines);
    let seen: Vec<_> = [&envoy, &fixed[0], &fixed[1], &as_it_is]
        .map(|request| request.as_ref().and_then(read))
        .into();
    // A host that is refused is in one of the two only.
    if let [_, Some(nginx), Some(ingress), _] = &seen[..]
        && target.starts_with(b"/")
    {
        assert_eq!(nginx, ingress, "both see the same path and query");
    }
    if let [Some(envoy), Some(fixed), ..] = &seen[..]
        && target.starts_with(b"/")
    {
        // Bytes beyond ASCII mean the same whether they are encoded or not: values of a query are compared decoded.
        let encoded = |(path, query): &(String, String)| (path.clone(), ascii(query));
        assert_eq!(
            encoded(envoy),
            encoded(fixed),
            "both contracts see the same path and query"
        );
    }
}

/// With `%XX` for what is no ASCII.
fn ascii(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte.is_ascii() {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

/// A request of these lines, if it is one.
fn request(method: &[u8], target: &[u8], lines: &[&[u8]]) -> Option<Request> {
    let mut head = [method, b" ", target, b" HTTP/1.1\r\n"].concat();
    for line in lines {
        head.extend([line, &b"\r\n"[..]].concat());
    }
    head.extend(b"\r\n");
    let (request, _) = Request::parse(head).ok()?;
    let mut out = Vec::new();
    let answer = tollgate::wire::Response::new(http::StatusCode::OK);
    answer.write_to(&mut out, request.exchange(), true, std::time::SystemTime::UNIX_EPOCH);
    assert!(out.ends_with(b"\r\n\r\n"));
    Some(request)
}

/// The path and the query, if it can be read. Rules can be matched against it.
fn read(request: &Request) -> Option<(String, String)> {
    let reading = Reading {
        client_ip: &RULES.client_ip,
        paths: PathPolicy {
            encoded_slash: EncodedSlash::Keep,
            dot_segments: DotSegments::Resolve,
            leading_slashes: LeadingSlashes::Merge,
            parameters: Parameters::Keep,
        },
    };
    let check = match contract::read(request, reading) {
        Ok(check) => check,
        Err(Unreadable::Fault(fault)) => {
            let answer = contract::fault_answer(&fault);
            assert_eq!(answer.status(), 503);
            return None;
        }
        Err(Unreadable::Refused(refusal, endpoint)) => {
            let answer = contract::refusal_answer(&refusal, endpoint);
            assert!(matches!(answer.status().as_u16(), 400 | 403));
            return None;
        }
    };
    let request = &check.request;
    path_is_normal(&request.path);
    assert!(!request.host.bytes().any(|b| b.is_ascii_uppercase()));
    checks::matching(&RULES, request);
    Some((request.path.to_string(), request.query.to_string()))
}

fn path_is_normal(path: &str) {
    assert_eq!(normal_path(path), path, "the normal form of itself");
    let segments = path.strip_prefix('/').expect("begins with a slash");
    for segment in segments.split('/').filter(|_| path != "/") {
        assert!(!["", ".", ".."].contains(&segment), "{path:?}");
    }
    assert!(path.bytes().all(|byte| byte.is_ascii_graphic()), "{path:?}");
    for escaped in path.split('%').skip(1) {
        let is_upper = |byte: &u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(byte);
        assert!(
            escaped.len() >= 2 && escaped.as_bytes()[..2].iter().all(is_upper),
            "{path:?}"
        );
    }
}

/// Paths have one form; parameters are found as a plain reading of the query finds them.
fn target_has_one_form(target: &str) {
    path_is_normal(&normal_path(target));
    let query = query_of(target);
    assert!(!query.contains('#'));
    let mut first = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        first.entry(decoded(name)).or_insert_with(|| decoded(value));
    }
    let headers = Headers::default();
    let target = format!("/?{query}");
    let request = Attributes::new("GET", "", &target, None, &headers);
    for (name, value) in &first {
        if let Ok(name) = std::str::from_utf8(name) {
            assert_eq!(request.query_value(name).as_deref(), Some(&value[..]));
        }
    }
    assert_eq!(
        request.query_value("q").as_deref(),
        first.get(&b"q"[..]).map(|value| &value[..])
    );
}

/// What a name or value in a query stands for.
fn decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).filter(|_| *first == b'%');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(if *first == b'+' { b' ' } else { *first });
                rest = after;
            }
        }
    }
    out
}

/// What can be read as a counter's text is written as it was read.
fn counters(text: &str) {
    for algorithm in Algorithm::ALL {
        if let Some(state) = State::parse(algorithm, text) {
            let mut written = String::new();
            write!(written, "{state}").unwrap();
            assert_eq!(State::parse(algorithm, &written), Some(state), "{text:?}");
        }
    }
    if let Some(state) = ban::State::parse(text) {
        assert_eq!(
            ban::State::parse(&state.to_string()),
            Some(state),
            "{text:?}"
        );
    }
}
