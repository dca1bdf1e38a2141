//! Every kind of condition, key, limit and action through a real Envoy. `tests/service/language.rs`
//! has more cases for the check endpoint; here each kind is tested with the Envoy configuration
//! that it needs.

use std::net::Ipv4Addr;

use super::{
    Stack,
    support::{
        client::{Response, ask_from, head},
        envoy::Config,
    },
};

const GOOD: u16 = 200;
const OVER: u16 = 429;
const SHUT: u16 = 403;

/// A request as a client sends it.
#[derive(Clone, Copy)]
struct Play<'a> {
    /// The end of its address, 127.0.0.N.
    from: u8,
    method: &'a str,
    target: &'a str,
    lines: &'a [&'a str],
}

const fn get<'a>(target: &'a str, lines: &'a [&'a str]) -> Play<'a> {
    Play {
        from: 1,
        method: "GET",
        target,
        lines,
    }
}

impl<'a> Play<'a> {
    const fn by(self, method: &'a str) -> Self {
        Self { method, ..self }
    }

    const fn from(self, from: u8) -> Self {
        Self { from, ..self }
    }
}

/// The shipped configuration with the headers of these rules, in both directions. Patient and
/// closed: no time-out may look like an admission.
fn config() -> Config {
    let asked = [
        "x-api-key",
        "x-plan",
        "x-version",
        "x-internal",
        "x-cost",
        "x-limit",
        "user-agent",
        "cookie",
    ];
    let told = ["cache-control", "location", "x-upgrade"];
    Config::shipped()
        .fail_closed()
        .patient()
        .with(&patterns(16, &["x-api-key"]), &patterns(16, &asked))
        .with(&patterns(20, &["cache-control"]), &patterns(20, &told))
        .with(
            "              disallowed_headers:\n                patterns:\n                - { exact: authorization, ignore_case: true }\n",
            "",
        )
}

/// The lines that name headers, with their indentation.
fn patterns(indent: usize, names: &[&str]) -> String {
    let indent = " ".repeat(indent);
    let pattern = |name| format!("{indent}- {{ exact: {name}, ignore_case: true }}\n");
    names.iter().map(pattern).collect()
}

/// A stack, and how many requests it has admitted.
struct Language {
    stack: Stack,
    admitted: usize,
}

impl Language {
    async fn start(rules: &str) -> Self {
        Self {
            stack: Stack::with_rules(config(), rules).await,
            admitted: 0,
        }
    }

    async fn ask(&mut self, play: Play<'_>) -> Response {
        let request = head(play.method, play.target, play.lines);
        let from = Ipv4Addr::new(127, 0, 0, play.from);
        let answer = ask_from(from, self.stack.envoy.addr, &request).await;
        self.admitted += usize::from(answer.status == GOOD);
        answer
    }

    /// Sends the requests in order, and compares the responses.
    async fn plays(&mut self, expected: &[(Play<'_>, u16)]) {
        for (index, (play, status)) in expected.iter().enumerate() {
            let answer = self.ask(*play).await;
            assert_eq!(
                answer.status, *status,
                "{index}: {} {} {:?} from {}\n{}",
                play.method, play.target, play.lines, play.from, answer.body
            );
        }
    }

    /// The rule admits one request per caller: the first two are two callers, the second two are
    /// one.
    async fn tells_apart(&mut self, two: [Play<'_>; 2], one: [Play<'_>; 2]) {
        let [a, b] = two;
        self.plays(&[(a, GOOD), (b, GOOD), (a, OVER), (b, OVER)])
            .await;
        self.plays(&[(one[0], GOOD), (one[1], OVER)]).await;
    }

    /// Exactly the admitted requests reached the application; every check was understood and
    /// answered.
    async fn ends(self) {
        assert_eq!(self.stack.upstream.count(), self.admitted);
        assert_eq!(self.stack.envoy.check_errors().await, 0);
        let faults = self.stack.tollgate.metric("tollgate_contract_faults_total");
        assert_eq!(faults.await, 0);
    }
}

/// Each denies on a path of its own, if its condition holds.
const CONDITIONS: &str = r#"
version: 1
rules:
  - { name: parameter, match: { path: "/parameter/{id}/x" }, action: deny }
  - { name: segment, match: { path: "/segment/*/x" }, action: deny }
  - { name: glob, match: { path: "/glob/*.png" }, action: deny }
  - { name: rest, match: { path: "/rest/**" }, action: deny }
  - { name: middle, match: { path: "/middle/**/z" }, action: deny }
  - { name: regex, match: { path: { regex: "/regex/v[0-9]+/(a|ab)" } }, action: deny }
  - { name: method, match: { path: /method, methods: [GET, PATCH] }, action: deny }
  - { name: plain, match: { path: /plain, scheme: http }, action: deny }
  - { name: secure, match: { path: /secure, scheme: https }, action: deny }
  - { name: host, match: { path: /host, host: [api.example.com, "*.example.org"] }, action: deny }
  - { name: address, match: { path: /address, client_ip: [127.0.0.8/30, 10.0.0.0/8] }, action: deny }
  - { name: value, match: { path: /value, headers: { x-plan: [gold, silver] } }, action: deny }
  - { name: start, match: { path: /start, headers: { x-version: { prefix: v1 } } }, action: deny }
  - { name: agent, match: { path: /agent, headers: { user-agent: { regex: "(?i).*bot.*" } } }, action: deny }
  - { name: there, match: { path: /there, headers: { authorization: { present: true } } }, action: deny }
  - { name: gone, match: { path: /gone, headers: { x-internal: { absent: true } } }, action: deny }
  - { name: query, match: { path: /query, query: { q: { prefix: "a b" }, n: 1, page: { regex: "[0-9]{3,}" } } }, action: deny }
  - { name: unless, match: { path: "/unless/**", not: [{ path: /unless/open, methods: GET }, { client_ip: 127.0.0.9 }] }, action: deny }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn conditions_of_every_kind() {
    let mut language = Language::start(CONDITIONS).await;
    for (met, missed) in [
        (get("/parameter/7/x", &[]), get("/parameter/7/8/x", &[])),
        (get("//segment/%37/./x/", &[]), get("/segment/7", &[])),
        (get("/glob/a.png?x", &[]), get("/glob/a/b.png", &[])),
        (get("/rest", &[]), get("/resting", &[])),
        (get("/middle/a/b/z", &[]), get("/middle/a/b", &[])),
        (get("/regex/v10/ab", &[]), get("/regex/v10/abc", &[])),
        (
            get("/method", &[]).by("HEAD"),
            get("/method", &["content-length: 0"]).by("POST"),
        ),
        (
            get("/plain", &["x-forwarded-proto: https"]),
            get("/secure", &["x-forwarded-proto: https"]),
        ),
        (
            get("/host", &["host: API.example.com:443"]),
            get("/host", &["host: example.org"]),
        ),
        (
            get("/host", &["host: a.b.example.org"]),
            get("/host", &["x-forwarded-host: api.example.com"]),
        ),
        (get("/address", &[]).from(9), get("/address", &[]).from(12)),
        (
            get("/value", &["X-Plan: silver"]),
            get("/value", &["x-plan: Gold"]),
        ),
        (get("/start", &["x-version: v1.2"]), get("/start", &[])),
        (
            get("/agent", &["user-agent: GoogleBot/2"]),
            get("/agent", &[]),
        ),
        (
            get("/there", &["authorization: Basic eDp5"]),
            get("/there", &[]),
        ),
        (get("/gone", &[]), get("/gone", &["x-internal: 1"])),
        (
            get("/query?page=100&n=1&%71=a+b%21", &[]),
            get("/query?page=99&n=1&q=a+b", &[]),
        ),
        (get("/unless/x", &[]), get("/unless/open", &[])),
        (
            get("/unless/open", &["content-length: 0"]).by("POST"),
            get("/unless/x", &[]).from(9),
        ),
    ] {
        language.plays(&[(met, SHUT), (missed, GOOD)]).await;
    }
    language.ends().await;
}

/// Behind a balancer that Envoy trusts, the scheme is the one that the balancer says.
#[tokio::test(flavor = "multi_thread")]
async fn the_scheme_as_a_condition_and_in_a_key() {
    let rules = "
version: 1
rules:
  - { name: plain, match: { path: /plain, scheme: http }, action: deny }
  - { name: secure, match: { path: /secure, scheme: https }, action: deny }
  - { name: key, match: { path: /key }, key: [scheme], on_missing: deny, limit: 1/day }
";
    let behind = config().with("xff_num_trusted_hops: 0", "xff_num_trusted_hops: 1");
    let mut language = Language {
        stack: Stack::with_rules(behind, rules).await,
        admitted: 0,
    };
    let by = ["x-forwarded-for: 192.0.2.1", "x-forwarded-proto: http"];
    let by_tls = ["x-forwarded-for: 192.0.2.1", "x-forwarded-proto: https"];
    language
        .plays(&[
            (get("/plain", &by), SHUT),
            (get("/plain", &by_tls), GOOD),
            (get("/secure", &by_tls), SHUT),
            (get("/secure", &by), GOOD),
            // What the balancer does not say, Envoy knows of its own connection.
            (get("/plain", &by[..1]), SHUT),
        ])
        .await;
    let [key, key_tls] = [&by, &by_tls].map(|lines| get("/key", lines));
    language
        .plays(&[(key, GOOD), (key_tls, GOOD), (key, OVER), (key_tls, OVER)])
        .await;
    language.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list.txt");
    std::fs::write(&list, "127.0.0.8/30 # ours\n2001:db8::/32\n").unwrap();
    let list = list.display();
    let rules = format!(
        "
version: 1
rules:
  - {{ name: listed, match: {{ path: /listed, client_ip: [10.0.0.0/8, {{ file: {list} }}] }}, action: deny }}
  - {{ name: others, match: {{ path: /others, not: {{ client_ip: {{ file: {list} }} }} }}, action: deny }}
"
    );
    let mut language = Language::start(&rules).await;
    let [listed, others] = ["/listed", "/others"].map(|path| get(path, &[]));
    language
        .plays(&[
            (listed.from(9), SHUT),
            (listed.from(12), GOOD),
            (others.from(9), GOOD),
            (others.from(12), SHUT),
        ])
        .await;
    language.ends().await;
}

/// Each admits one request for each caller, on a path of its own.
const KEYS: &str = r#"
version: 1
defaults: { algorithm: fixed_window }
rules:
  - { name: everybody, match: { path: /everybody }, limit: 1/day }
  - { name: address, match: { path: /address }, key: client_ip, limit: 1/day }
  - { name: method, match: { path: /method }, key: method, limit: 1/day }
  - { name: host, match: { path: /host }, key: host, limit: 1/day }
  - { name: parameter, match: { path: "/parameter/{tenant}" }, key: [{ path: tenant }], limit: 1/day }
  - { name: group, match: { path: { regex: "/group/(?P<tenant>[a-z]+)/.*" } }, key: [{ path: tenant }], limit: 1/day }
  - { name: header, match: { path: /header }, key: [{ header: x-api-key }], limit: 1/day }
  - { name: secret, match: { path: /secret }, key: [{ header: x-api-key, secret: true }], limit: 1/day }
  - { name: credentials, match: { path: /credentials }, key: [{ header: authorization }], limit: 1/day }
  - { name: cookie, match: { path: /cookie }, key: [{ cookie: session }], limit: 1/day }
  - { name: query, match: { path: /query }, key: [{ query: key }], limit: 1/day }
  - { name: claim, match: { path: /claim }, key: [{ jwt: sub }], limit: 1/day }
  - { name: member, match: { path: /member }, key: [{ jwt: [realm, id], secret: false }], limit: 1/day }
  - { name: several, match: { path: /several }, key: [client_ip, { header: x-api-key }], limit: 1/day }
  - { name: shared, match: { path: /shared }, key: [{ cookie: id }], limit: 1/day }
  - { name: skip, match: { path: /skip }, key: [{ cookie: id }], on_missing: skip, limit: 1/day }
  - { name: deny, match: { path: /deny }, key: [{ cookie: id }], on_missing: deny, limit: 1/day }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn keys_from_address_method_host_and_path() {
    let mut language = Language::start(KEYS).await;
    let everybody = get("/everybody", &[]);
    language
        .plays(&[(everybody, GOOD), (everybody.from(2), OVER)])
        .await;
    let address = get("/address", &[]);
    language
        .tells_apart(
            [address, address.from(2)],
            [
                address.from(3),
                get("/address", &["x-forwarded-for: 127.0.0.4"]).from(3),
            ],
        )
        .await;
    let method = get("/method", &["content-length: 0"]);
    language
        .tells_apart(
            [method, method.by("POST")],
            [method.by("PUT"), method.by("PUT").from(2)],
        )
        .await;
    let host = |lines| get("/host", lines);
    language
        .tells_apart(
            [host(&["host: a"]), host(&["host: b"])],
            [host(&["host: c.test"]), host(&["host: C.test.:80"])],
        )
        .await;
    let path = |target| get(target, &[]);
    language
        .tells_apart(
            [path("/parameter/a"), path("/parameter/b")],
            [path("/parameter/c"), path("//parameter/%63/?q")],
        )
        .await;
    language
        .tells_apart(
            [path("/group/a/1"), path("/group/b/1")],
            [path("/group/c/1"), path("/group/c/2")],
        )
        .await;
    language.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_from_headers_cookies_query_and_token() {
    let mut language = Language::start(KEYS).await;
    let path = |target| get(target, &[]);
    for target in ["/header", "/secret"] {
        let with = |lines| get(target, lines);
        language
            .tells_apart(
                [with(&["x-api-key: a"]), with(&["x-api-key: b"])],
                [with(&["x-api-key: c"]), with(&["X-API-Key:  c"]).from(2)],
            )
            .await;
    }
    let credentials = |lines| get("/credentials", lines);
    language
        .tells_apart(
            [
                credentials(&["authorization: Basic YTpi"]),
                credentials(&["authorization: Basic YTpj"]),
            ],
            [
                credentials(&["authorization: Basic YTpk"]),
                credentials(&["authorization: Basic YTpk"]).from(2),
            ],
        )
        .await;
    let cookie = |lines| get("/cookie", lines);
    language
        .tells_apart(
            [
                cookie(&["cookie: a=1; session=x"]),
                cookie(&["cookie: session=y; a=1"]),
            ],
            [
                cookie(&["cookie: session=z"]),
                cookie(&["cookie: a=2;session=z; session=w"]),
            ],
        )
        .await;
    language
        .tells_apart(
            [path("/query?key=a"), path("/query?key=b")],
            [path("/query?key=c&x"), path("/query?x&k%65y=%63&key=d")],
        )
        .await;
    // {"sub":"a"}, {"sub":"b"}, {"sub":"c"}; the signature is not looked at.
    let claim = |lines| get("/claim", lines);
    language
        .tells_apart(
            [
                claim(&["authorization: Bearer e30.eyJzdWIiOiJhIn0.x"]),
                claim(&["authorization: Bearer e30.eyJzdWIiOiJiIn0.x"]),
            ],
            [
                claim(&["authorization: Bearer e30.eyJzdWIiOiJjIn0.x"]),
                claim(&["authorization: bearer e30.eyJzdWIiOiJjIn0.y"]),
            ],
        )
        .await;
    // {"realm":{"id":1}}, {"realm":{"id":2}}, {"realm":{"id":3}}, {"x":0,"realm":{"id":"3"}}
    let member = |lines| get("/member", lines);
    language
        .tells_apart(
            [
                member(&["authorization: Bearer e30.eyJyZWFsbSI6eyJpZCI6MX19.x"]),
                member(&["authorization: Bearer e30.eyJyZWFsbSI6eyJpZCI6Mn19.x"]),
            ],
            [
                member(&["authorization: Bearer e30.eyJyZWFsbSI6eyJpZCI6M319.x"]),
                member(&["authorization: Bearer e30.eyJ4IjowLCJyZWFsbSI6eyJpZCI6IjMifX0.x"]),
            ],
        )
        .await;
    let several = get("/several", &["x-api-key: a"]);
    language
        .tells_apart(
            [several, several.from(2)],
            [
                get("/several", &["x-api-key: b"]),
                get("/several", &["x-api-key: b"]),
            ],
        )
        .await;
    language.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_key_is_shared_skipped_or_denied() {
    let mut language = Language::start(KEYS).await;
    for (target, without) in [
        ("/shared", [GOOD, OVER]),
        ("/skip", [GOOD; 2]),
        ("/deny", [SHUT; 2]),
    ] {
        let play = get(target, &[]);
        let with = get(target, &["cookie: id=a"]);
        language
            .plays(&[
                (play, without[0]),
                (play.from(2), without[1]),
                (with, GOOD),
                (with, OVER),
            ])
            .await;
    }
    language.ends().await;
}

/// Each counts on a path of its own.
const LIMITS: &str = "
version: 1
rules:
  - { name: fixed, match: { path: /fixed }, limit: 2/day, algorithm: fixed_window }
  - { name: sliding, match: { path: /sliding }, limit: 2/day, algorithm: sliding_window }
  - { name: log, match: { path: /log }, limit: { rate: 2/day, algorithm: sliding_log } }
  - { name: bucket, match: { path: /bucket }, limit: 1/day burst 2 }
  - { name: month, match: { path: /month }, limit: { rate: 2/month, align: calendar, timezone: Europe/Paris } }
  - { name: both, match: { path: /both }, limits: [1000/m, 2/day] }
  - { name: free, match: { path: /free }, limit: unlimited }
  - { name: none, match: { path: /none }, limit: 0 }
  - { name: dear, match: { path: /dear }, cost: 4, limit: 9/day }
  - { name: told, match: { path: /told }, cost: { header: x-cost, default: 2, max: 6 }, limit: 12/day }
  - name: tiers
    match: { path: /tiers }
    key: [{ header: x-api-key, secret: true }]
    limit: 1/day
    tiers:
      - { name: gold, when: { headers: { x-plan: gold } }, limit: 2/day }
      - { name: staff, when: { client_ip: 127.0.0.9 }, limit: unlimited }
    overrides:
      - { key: partner, limit: 3/day }
      - { key: abuser, limit: 0 }
";

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_every_kind() {
    let mut language = Language::start(LIMITS).await;
    for target in [
        "/fixed", "/sliding", "/log", "/bucket", "/month", "/both", "/dear",
    ] {
        let play = get(target, &[]);
        language
            .plays(&[(play, GOOD), (play, GOOD), (play, OVER)])
            .await;
    }
    let [free, none] = [get("/free", &[]), get("/none", &[])];
    language
        .plays(&[(free, GOOD), (free, GOOD), (free, GOOD), (none, SHUT)])
        .await;
    // The maximum, the default twice, and one of two that are left.
    let told = |lines| get("/told", lines);
    language
        .plays(&[
            (told(&["x-cost: 99999"]), GOOD),
            (told(&[]), GOOD),
            (told(&["x-cost: 0"]), GOOD),
            (told(&["x-cost: 3"]), OVER),
            (told(&["x-cost: 2"]), GOOD),
            (told(&["x-cost: 1"]), OVER),
        ])
        .await;
    let tiers = |lines| get("/tiers", lines);
    for (play, admitted, then) in [
        (tiers(&["x-api-key: a"]), 1, OVER),
        (tiers(&["x-api-key: b", "x-plan: gold"]), 2, OVER),
        (tiers(&["x-api-key: partner", "x-plan: gold"]), 3, OVER),
        (tiers(&["x-api-key: abuser"]).from(9), 0, SHUT),
        (tiers(&["x-api-key: c"]).from(9), 5, GOOD),
    ] {
        for _ in 0..admitted {
            language.plays(&[(play, GOOD)]).await;
        }
        language.plays(&[(play, then)]).await;
    }
    language.ends().await;
}

/// Clients that can send the header choose their limit, up to the maximum and not above it. Of two
/// lines Envoy makes one, which is no number.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_a_client_says_is_at_most_the_maximum() {
    let rules = "
version: 1
rules:
  - { name: said, match: { path: /said }, key: [client_ip], limits: [{ header: x-limit, default: 2, max: 4, per: 1day }] }
";
    let mut language = Language::start(rules).await;
    let said = |lines| get("/said", lines);
    language
        .plays(&[
            (said(&[]), GOOD),
            (said(&["x-limit: many"]), GOOD),
            (said(&["x-limit: 4", "x-limit: 4"]), OVER),
            (said(&["x-limit: 4, 4"]), OVER),
            (said(&["x-limit: -4"]), OVER),
            (said(&["x-limit: 1"]), OVER),
        ])
        .await;
    let raised = language.ask(said(&["X-Limit: 3"])).await;
    assert_eq!((raised.status, raised.remaining().0), (GOOD, 0));
    assert_eq!(
        raised.header("ratelimit-policy"),
        Some("\"said\";q=3;w=86400")
    );
    language
        .plays(&[
            (said(&["x-limit: 3"]), OVER),
            (said(&["x-limit: 1000000"]), GOOD),
            (said(&["x-limit: 1000000"]), OVER),
            (said(&["x-limit: 99999999999999999999999"]), OVER),
            // Another caller is not charged.
            (said(&["x-limit: 1"]).from(2), GOOD),
            (said(&["x-limit: 1"]).from(2), OVER),
        ])
        .await;
    language.ends().await;
}

/// Nothing of the client's is a limit where Envoy does not forward the header.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_a_client_says_is_the_default_unless_the_header_is_allowed() {
    let rules = "
version: 1
rules: [{ name: said, limits: [{ header: x-limit, default: 1, max: 4, per: 1day }] }]
";
    let mut language = Language {
        stack: Stack::with_rules(Config::shipped().fail_closed().patient(), rules).await,
        admitted: 0,
    };
    let raised = get("/", &["x-limit: 4"]);
    language.plays(&[(raised, GOOD), (raised, OVER)]).await;
    language.ends().await;
}

/// Each acts on a path of its own; the last one on all.
const ACTIONS: &str = r#"
version: 1
rules:
  - { name: allowed, match: { path: /allowed }, action: allow }
  - { name: denied, match: { path: /denied }, action: deny }
  - { name: tried, match: { path: /tried }, action: deny, mode: shadow }
  - { name: counted, match: { path: /counted }, limit: 1/day, mode: shadow }
  - name: text
    match: { path: /text }
    action: deny
    answer: { status: 451, text: "not {rule}: {{here}}" }
  - name: json
    match: { path: /json }
    limit: 1/day
    answer: { status: 402, headers: { x-upgrade: "from {rate}" }, json: { wait: "{retry_after}", limit: "{limit}" } }
  - name: problem
    match: { path: /problem }
    limit: 0
    answer: { problem: { title: Not here } }
  - name: moved
    match: { path: /moved }
    action: deny
    answer: { status: 302, headers: { location: /slow-down } }
  - { name: banned, match: { path: /banned }, key: [client_ip], limit: 1/h, ban: { after: 2, within: 10h, for: 20h } }
  - { name: rest, match: { path: [/allowed, /tried, /counted] }, limit: 5/day }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn actions_of_every_kind() {
    let mut language = Language::start(ACTIONS).await;
    let [allowed, tried, counted] = ["/allowed", "/tried", "/counted"].map(|path| get(path, &[]));
    // Ten times: `allow` ends the walk before the last rule counts.
    for _ in 0..10 {
        let answer = language.ask(allowed).await;
        assert_eq!((answer.status, answer.header("ratelimit")), (GOOD, None));
    }
    for (used, play) in (1..).zip([tried, counted, tried, counted]) {
        let answer = language.ask(play).await;
        assert_eq!(answer.status, GOOD);
        assert_eq!(
            answer.remaining().0,
            5 - used,
            "what is tried is not told, and the last rule counts: {answer:?}"
        );
    }
    for rule in ["tried", "counted"] {
        let denied =
            format!("tollgate_decisions_total{{rule=\"{rule}\",outcome=\"shadow_denied\"}}");
        let expected = if rule == "tried" { 2 } else { 1 };
        assert_eq!(language.stack.tollgate.metric(&denied).await, expected);
    }

    let denied = language.ask(get("/denied", &[])).await;
    assert_eq!(denied.status, SHUT);
    assert_eq!(
        (denied.header("retry-after"), denied.header("content-type")),
        (None, Some("application/problem+json"))
    );
    assert_eq!(denied.json()["rule"], "denied");

    let text = language.ask(get("/text", &[])).await;
    assert_eq!((text.status, &*text.body), (451, "not text: {here}\n"));
    assert_eq!(
        text.header("content-type"),
        Some("text/plain; charset=utf-8")
    );

    language.plays(&[(get("/json", &[]), GOOD)]).await;
    let json = language.ask(get("/json", &[])).await;
    assert_eq!(
        (json.status, json.header("x-upgrade"), json.remaining().0),
        (402, Some("from 1/day"), 0)
    );
    assert_eq!(json.header("content-type"), Some("application/json"));
    let wait = json.header("retry-after").unwrap();
    assert_eq!(json.json()["wait"].to_string(), wait);
    assert_eq!(json.json()["limit"], "json");

    let problem = language.ask(get("/problem", &[])).await;
    assert_eq!(problem.status, SHUT);
    assert_eq!(problem.json()["title"], "Not here");

    let banned = get("/banned", &[]);
    language.plays(&[(banned, GOOD), (banned, OVER)]).await;
    for _ in 0..2 {
        let answer = language.ask(banned).await;
        assert_eq!(answer.status, OVER);
        let (left, wait) = answer.remaining();
        assert!(left == 0 && (71_900..=72_000).contains(&wait), "{answer:?}");
        assert_eq!(
            answer.header("ratelimit-policy"),
            Some("\"banned/ban\";q=2;w=36000")
        );
        assert_eq!(
            answer.json()["type"],
            "https://iana.org/assignments/http-problem-types#abnormal-usage-detected"
        );
    }

    let moved = language.ask(get("/moved", &[])).await;
    assert_eq!(
        (moved.status, moved.header("location")),
        (302, Some("/slow-down"))
    );
    language.ends().await;
}
