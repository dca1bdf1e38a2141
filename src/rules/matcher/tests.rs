use std::{io, net::IpAddr, path::Path};

use super::*;
use crate::{
    counter_key::KeySettings,
    request::{Attributes, Scheme},
    rulefile::{LoadContext, load_with},
    wire::Headers,
};

/// A request as `METHOD [scheme://]host target [client address]`, with headers.
pub(in crate::rules) fn request<'a>(text: &'a str, headers: &'a Headers) -> Attributes<'a> {
    let mut words = text.split(' ');
    let (method, host) = (words.next().unwrap(), words.next().unwrap());
    let (scheme, host) = match host.split_once("://") {
        Some((scheme, host)) => (Some(Scheme::parse(scheme).unwrap()), host),
        None => (None, host),
    };
    let target = words.next().unwrap();
    let client_ip = words.next().map(|ip| ip.parse::<IpAddr>().unwrap());
    Attributes {
        scheme,
        ..Attributes::new(method, host, target, client_ip, headers)
    }
}

fn headers(lines: &[(&'static str, &[u8])]) -> Headers {
    let mut headers = Headers::default();
    for (name, value) in lines {
        headers.append(name, value);
    }
    headers
}

/// The lists of addresses that conditions here may name.
fn list(path: &Path) -> io::Result<String> {
    match path.to_str() {
        Some("ten.txt") => Ok("10.0.0.0/8\n".to_owned()),
        Some("two.txt") => Ok("10.1.0.1 # one of ten.txt\n10.2.0.0/16\n".to_owned()),
        Some("none.txt") => Ok("# nobody yet\n".to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn matcher(conditions: &str) -> Matcher {
    matcher_of("allow", conditions)
}

fn matcher_of(action: &str, conditions: &str) -> Matcher {
    let text =
        format!("version: 1\nrules:\n  - {{ name: x, match: {conditions}, action: {action} }}\n");
    let context = LoadContext {
        keys: &KeySettings::default(),
        read: &list,
        list: &|_, _| Ok(Vec::new()),
        locate: &Path::to_path_buf,
    };
    let loaded = load_with("rules.yaml", &text, context);
    let set = loaded
        .set
        .unwrap_or_else(|| panic!("{}", loaded.diagnostics));
    set.rules[0].matcher.clone()
}

/// `yes`, or why not.
fn why(conditions: &str, text: &str, lines: &[(&'static str, &[u8])]) -> String {
    let headers = headers(lines);
    let request = request(text, &headers);
    let matcher = matcher(conditions);
    match matcher.check(&request) {
        Ok(_) => "yes".to_owned(),
        Err(mismatch) => mismatch.to_string(),
    }
}

#[test]
fn every_condition_says_why_it_does_not_hold() {
    let plain = |conditions: &str, text: &str| why(conditions, text, &[]);
    for (conditions, good, bad, reason) in [
        (
            "{ path: /v1/** }",
            "GET h /v1/x?y",
            "GET h /data?y",
            "the path is /data, not /v1/**",
        ),
        (
            "{ path: [/a, { regex: \"/b+\" }] }",
            "GET h /bb",
            "GET h /bc",
            "the path is /bc, not /a or regex /b+",
        ),
        (
            "{ methods: [GET] }",
            "HEAD h /",
            "POST h /",
            "the method is POST, not GET",
        ),
        (
            "{ methods: [PUT, POST, PATCH] }",
            "PATCH h /",
            "GET h /",
            "the method is GET, not PUT, POST or PATCH",
        ),
        (
            "{ scheme: https }",
            "GET wss://h /",
            "GET http://h /",
            "the scheme is http, not https",
        ),
        (
            "{ scheme: [http, https] }",
            "GET ws://h /",
            "GET h /",
            "the scheme is not known, and it must be http or https",
        ),
        (
            "{ path: /a, not: { scheme: https } }",
            "GET h /a",
            "GET https://h /a",
            "`not` excludes it",
        ),
        (
            "{ host: [a.com, \"*.a.com\"] }",
            "GET x.A.com:80 /",
            "GET b.com /",
            "the host is b.com, not a.com or *.a.com",
        ),
        (
            "{ host: a.com }",
            "GET a.com /",
            "GET  /",
            "there is no host, and it must be a.com",
        ),
        (
            "{ client_ip: 10.0.0.0/8 }",
            "GET h / 10.1.2.3",
            "GET h / 203.0.113.7",
            "the client's address 203.0.113.7 is not in 10.0.0.0/8",
        ),
        (
            "{ client_ip: [\"2001:db8::/32\", 192.0.2.1] }",
            "GET h / 2001:db8::1",
            "GET h /",
            "the client's address is not known to be in 2001:db8::/32 or 192.0.2.1/32",
        ),
        (
            "{ client_ip: [{ file: two.txt }, 192.0.2.1] }",
            "GET h / 10.2.3.4",
            "GET h / 10.1.0.2",
            "the client's address 10.1.0.2 is not in two.txt (2 blocks) or 192.0.2.1/32",
        ),
        (
            "{ query: { debug: { present: true } } }",
            "GET h /?debug",
            "GET h /?x=debug",
            "there is no query parameter debug",
        ),
        (
            "{ query: { \"a b\": \"c d\" } }",
            "GET h /?a+b=c%20d&a+b=x",
            "GET h /?a+b=x&a+b=c%20d",
            "the query parameter a b is \"x\", not \"c d\"",
        ),
        (
            "{ query: { x: { absent: true } } }",
            "GET h /?y",
            "GET h /?y&x",
            "there is a query parameter x",
        ),
        (
            "{ query: { x: { present: false } } }",
            "GET h /",
            "GET h /?x=1",
            "there is a query parameter x",
        ),
        (
            "{ not: { client_ip: 10.0.0.0/8 } }",
            "GET h / 1.1.1.1",
            "GET h / 10.1.1.1",
            "`not` excludes it",
        ),
        (
            "{ not: { client_ip: 10.0.0.0/8, methods: [POST] } }",
            "GET h / 10.1.1.1",
            "POST h / 10.1.1.1",
            "`not` excludes it",
        ),
        (
            "{ path: /a/*, not: [{ path: /a/b }, { path: /a/c }] }",
            "GET h /a/d",
            "GET h /a/c",
            "`not[1]` excludes it",
        ),
    ] {
        assert_eq!(plain(conditions, good), "yes", "{conditions}");
        assert_eq!(plain(conditions, bad), reason, "{conditions}");
    }
    assert_eq!(
        plain("{ client_ip: { file: none.txt } }", "GET h / 10.1.0.2"),
        "the client's address 10.1.0.2 is not in none.txt (0 blocks)"
    );
    assert_eq!(
        plain(
            "{ not: { client_ip: { file: none.txt } } }",
            "GET h / 10.1.0.2"
        ),
        "yes"
    );
}

#[test]
fn header_conditions_compare_the_first_line_as_bytes() {
    let ask = |conditions: &str, lines: &[(&'static str, &[u8])]| {
        why(&format!("{{ headers: {conditions} }}"), "GET h /", lines)
    };
    let plan = "{ X-Plan: gold }";
    assert_eq!(ask(plan, &[("x-plan", b"gold")]), "yes");
    assert_eq!(ask(plan, &[("x-plan", b"gold"), ("x-plan", b"x")]), "yes");
    assert_eq!(
        ask(plan, &[("x-plan", b"free"), ("x-plan", b"gold")]),
        "the header x-plan is \"free\", not \"gold\""
    );
    assert_eq!(ask(plan, &[]), "there is no header x-plan");
    assert_eq!(
        ask("{ x-plan: [gold, pro] }", &[("x-plan", b"\xff\"")]),
        "the header x-plan is \"\\xff\\\"\", not \"gold\" or \"pro\""
    );
    assert_eq!(
        ask(
            "{ x-v: { prefix: v1, regex: \"v[0-9.]+\" } }",
            &[("x-v", b"v1x")]
        ),
        "the header x-v is \"v1x\", not beginning with \"v1\" and like v[0-9.]+"
    );
    assert_eq!(
        ask("{ x-v: { prefix: [v1, v2] } }", &[("x-v", b"v2.1")]),
        "yes"
    );
    assert_eq!(ask("{ x-v: { exact: [\"1\"] } }", &[("x-v", b"1")]), "yes");
    assert_eq!(ask("{ x-v: { absent: true } }", &[]), "yes");
    assert_eq!(
        ask("{ a: x, b: y }", &[("a", b"x"), ("b", b"z")]),
        "the header b is \"z\", not \"y\""
    );
    let long = [b'a'; 100];
    assert!(ask(plan, &[("x-plan", &long)]).contains("aaa\u{2026}\", not"));
}

#[test]
fn secrets_are_not_shown() {
    for name in [
        "authorization",
        "cookie",
        "proxy-authorization",
        "set-cookie",
    ] {
        let conditions = format!("{{ headers: {{ {name}: {{ prefix: hush }} }} }}");
        assert_eq!(
            why(&conditions, "GET h /", &[(name, b"secret")]),
            format!("the header {name} has another value")
        );
    }
}

#[test]
fn one_matcher_covers_another() {
    for (a, b) in [
        ("{ path: /** }", "{ path: /a, methods: [GET] }"),
        ("{ methods: [GET] }", "{ methods: [HEAD] }"),
        ("{ headers: { a: [x, y] } }", "{ headers: { a: x, b: z } }"),
        (
            "{ headers: { a: { present: true } } }",
            "{ headers: { a: x } }",
        ),
        ("{ query: { a: { prefix: x } } }", "{ query: { a: xy } }"),
        (
            "{ client_ip: 10.0.0.0/8 }",
            "{ client_ip: [10.1.0.0/16, 10.2.0.1] }",
        ),
        (
            "{ client_ip: { file: ten.txt } }",
            "{ client_ip: { file: two.txt } }",
        ),
        (
            "{ client_ip: [10.0.0.0/8, { file: none.txt }] }",
            "{ client_ip: [{ file: two.txt }, 10.3.0.0/16] }",
        ),
        ("{ scheme: [http, https] }", "{ scheme: https, path: /a }"),
        // What the proxy says nothing of is neither.
        ("{ path: /a }", "{ path: /a, scheme: [http, https] }"),
        (
            "{ not: { scheme: http } }",
            "{ scheme: https, not: { scheme: [https, http] } }",
        ),
        (
            "{ path: /a/**, not: { client_ip: 10.1.0.0/16 } }",
            "{ path: /a/b, not: { client_ip: 10.0.0.0/8 } }",
        ),
    ] {
        let (first, second) = (matcher(a), matcher(b));
        assert!(first.covers(&second), "{a} {b}");
        assert!(!second.covers(&first), "{b} {a}");
        assert!(first.covers(&first) && second.covers(&second));
    }
    let excepted = matcher("{ not: { client_ip: 10.0.0.0/8 } }");
    assert!(!excepted.covers(&Matcher::default()));
    for (a, b) in [
        ("{ scheme: http }", "{ scheme: https }"),
        (
            "{ client_ip: 10.1.0.0/16 }",
            "{ client_ip: { file: two.txt } }",
        ),
    ] {
        let (first, second) = (matcher(a), matcher(b));
        assert!(!first.covers(&second) && !second.covers(&first), "{a} {b}");
    }
    // A list that is empty now covers nothing and is covered by nothing.
    let (none, ten) = (
        matcher("{ client_ip: { file: none.txt } }"),
        matcher("{ client_ip: 10.0.0.0/8 }"),
    );
    assert!(!none.covers(&ten) && !ten.covers(&none));
}

#[test]
fn impossible_conditions_are_found() {
    let mut impossible = matcher("{ path: /a/b, methods: [HEAD] }");
    assert_eq!(impossible.impossible(), None);
    impossible.not = vec![
        matcher("{ path: /b }").when,
        matcher("{ path: /a/*, methods: [GET] }").when,
    ];
    assert_eq!(
        impossible.impossible().unwrap(),
        "`not[1]` excludes everything that the rule matches"
    );
    let mut impossible = matcher("{ path: /a, scheme: http }");
    impossible.not = vec![matcher("{ scheme: https }").when];
    assert_eq!(impossible.impossible(), None);
    impossible.not = vec![matcher("{ scheme: [https, http] }").when];
    assert_eq!(
        impossible.impossible().unwrap(),
        "`not` excludes everything that the rule matches"
    );
}

#[test]
fn parameters_limit_and_never_exempt() {
    let headers = headers(&[]);
    let request = Attributes {
        with_parameters: Some("/health;x".to_owned()),
        ..request("GET h /health", &headers)
    };
    let check =
        |action: &str, conditions: &str| match matcher_of(action, conditions).check(&request) {
            Ok(_) => "yes".to_owned(),
            Err(mismatch) => mismatch.to_string(),
        };
    let exact = "{ path: /health }";
    assert_eq!(check("deny", exact), "yes");
    assert_eq!(
        check("allow", exact),
        "to some servers the path is /health;x, not /health"
    );
    assert_eq!(check("allow", "{ path: '/**' }"), "yes");
    assert_eq!(check("allow", "{ methods: GET }"), "yes");
    // With its parameters it matches, and without them it does not.
    assert_eq!(check("deny", "{ path: '/*x' }"), "yes");
    assert_eq!(
        check("allow", "{ path: '/*x' }"),
        "the path is /health, not /*x"
    );
    let not = "{ not: { path: /health } }";
    assert_eq!(check("deny", not), "yes");
    assert_eq!(check("allow", not), "`not` excludes it");
}
