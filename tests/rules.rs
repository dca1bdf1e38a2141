//! What must hold of any rule file and any request.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fmt::Write as _, net::IpAddr};

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::{collection::vec, option, prelude::*, sample::select};
use tollgate::{
    hash::HashKey,
    request::{Attributes, ClientIpPolicy, normal_host, normal_path, query_of},
    rules::{
        self,
        key::{Context, Descriptor, OnMissing, Part},
        matcher::Params,
    },
};

/// Few names, so that rules and requests meet.
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
                // A parameter's name may stand once.
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
    let regex = word().prop_map(|word| format!("{{ regex: \"/{word}(/.*)?\" }}"));
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
        option::of(select(vec!["a.x", "\"*.x\"", "[b.x, \"*.y.x\"]", "x"])),
        option::of(value_test()),
        option::of(value_test()),
        option::of(select(vec!["10.0.0.0/8", "[\"2001:db8::/32\", 192.0.2.1]"])),
    );
    parts.prop_map(|(paths, methods, host, header, query, ip)| {
        [
            paths.map(|paths| format!("path: [{}]", paths.join(", "))),
            methods.map(|methods| format!("methods: {methods}")),
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

    /// The index finds what trying every rule finds.
    #[test]
    fn the_index_finds_every_rule_that_matches(
        text in rule_file(),
        requests in vec((
            vec(word(), 0..4),
            select(vec!["GET", "HEAD", "POST", "PUT"]),
            select(vec!["a.x", "b.x", "a.y.x", "x", "y.x", "z"]),
            option::of(select(vec!["a", "ab", "c"])),
            option::of(select(vec!["a", "ab", "c"])),
            option::of(select(vec!["10.1.1.1", "192.0.2.1", "2001:db8::1", "::1"])),
        ), 10),
    ) {
        let set = rules::load("rules.yaml", &text).unwrap_or_else(|report| panic!("{report}\n{text}"));
        for (segments, method, host, header, query, ip) in requests {
            let query = query.map_or_else(String::new, |value| format!("?q={value}"));
            let target = format!("/{}{query}", segments.join("/"));
            let mut headers = HeaderMap::new();
            headers.extend(header.map(|value| (HeaderName::from_static("x-h"), HeaderValue::from_static(value))));
            let request = Attributes {
                method,
                host: normal_host(host),
                path: normal_path(&target),
                query: query_of(&target).into(),
                client_ip: ip.map(|ip| ip.parse::<IpAddr>().unwrap()),
                headers: &headers,
            };
            let found: Vec<usize> = set.matching(&request).map(|(number, ..)| number).collect();
            let tried: Vec<usize> = (0..set.rules.len())
                .filter(|number| set.rules[*number].matcher.matches(&request).is_some())
                .collect();
            prop_assert_eq!(found, tried, "{} {}\n{}", method, target, text);
        }
    }

    /// No two different descriptors share a key, whatever bytes they hold; equal ones always do.
    #[test]
    fn keys_are_injective(one in caller(), other in caller()) {
        prop_assert_eq!(key(&one) == key(&other), one == other, "{} {}", key(&one), key(&other));
    }
}

/// The values of one caller: a plain header, a secret one, a query parameter, a cookie.
type Caller = [Option<Vec<u8>>; 4];

fn caller() -> impl Strategy<Value = Caller> {
    // Few bytes, most of them separators of keys, so that two callers are often close to each other; and long values.
    let byte = select(b"a,=%#{}:2C".to_vec());
    let long = (60_usize..70).prop_map(|length| vec![b'a'; length]);
    let value = || prop_oneof![8 => vec(byte.clone(), 0..3), 1 => long.clone()];
    let cookie = vec(select(b"a%:,".to_vec()), 0..3);
    (
        option::of(value()),
        option::of(value()),
        option::of(value()),
        option::of(cookie),
    )
        .prop_map(|(a, b, c, d)| [a, b, c, d])
}

fn key(caller: &Caller) -> String {
    let [plain, secret, query, cookie] = caller;
    let mut headers = HeaderMap::new();
    let cookie = cookie.as_ref().map(|value| [b"id=", &value[..]].concat());
    for (name, value) in [
        ("x-plain", plain),
        ("x-secret", secret),
        ("cookie", &cookie),
    ] {
        if let Some(value) = value {
            headers.insert(name, HeaderValue::from_bytes(value).unwrap());
        }
    }
    let query = query.as_ref().map_or_else(String::new, |value| {
        value.iter().fold("q=".to_owned(), |mut out, byte| {
            write!(out, "%{byte:02x}").unwrap();
            out
        })
    });
    let request = Attributes {
        method: "GET",
        host: "".into(),
        path: "/".into(),
        query: query.into(),
        client_ip: None,
        headers: &headers,
    };
    let descriptor = Descriptor {
        parts: vec![
            Part::Header {
                name: HeaderName::from_static("x-plain"),
                secret: false,
            },
            Part::Header {
                name: HeaderName::from_static("x-secret"),
                secret: true,
            },
            Part::Query {
                name: "q".to_owned(),
                secret: false,
            },
            Part::Cookie {
                name: "id".to_owned(),
            },
        ],
        on_missing: OnMissing::Shared,
    };
    let (client_ip, hash_key) = (ClientIpPolicy::default(), HashKey::default());
    let context = Context {
        client_ip: &client_ip,
        hash_key: &hash_key,
    };
    let mut out = String::new();
    descriptor.push(&mut out, &request, &Params::default(), context);
    out
}
