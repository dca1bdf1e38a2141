//! Every kind of condition, key, limit and action, through the check endpoint.

use crate::support::{
    client::{Response, ask, head},
    eventually,
    redis::Redis,
    tollgate::{Settings, Tollgate},
};

const GOOD: u16 = 200;
const OVER: u16 = 429;
const SHUT: u16 = 403;

/// A request as a proxy describes it.
#[derive(Clone, Copy)]
struct Play<'a> {
    method: &'a str,
    uri: &'a str,
    ip: &'a str,
    lines: &'a [&'a str],
}

const fn get<'a>(uri: &'a str, lines: &'a [&'a str]) -> Play<'a> {
    Play {
        method: "GET",
        uri,
        ip: "203.0.113.7",
        lines,
    }
}

const fn from<'a>(ip: &'a str, uri: &'a str) -> Play<'a> {
    Play {
        ip,
        ..get(uri, &[])
    }
}

async fn play(tollgate: &Tollgate, play: Play<'_>) -> Response {
    let method = format!("x-forwarded-method: {}", play.method);
    let uri = format!("x-forwarded-uri: {}", play.uri);
    let ip = format!("x-real-ip: {}", play.ip);
    let mut lines = vec![&*method, &*uri, &*ip];
    lines.extend(play.lines);
    ask(tollgate.addr(), &head("GET", "/v1/check", &lines)).await
}

async fn start(rules: &str) -> Tollgate {
    Tollgate::start(Settings {
        rules,
        ..Settings::default()
    })
    .await
}

/// Sends the requests in order, and compares the responses.
async fn plays(rules: &str, expected: &[(Play<'_>, u16)]) {
    let tollgate = start(&format!("version: 1\nrules:\n{rules}")).await;
    for (index, (request, status)) in expected.iter().enumerate() {
        let answer = play(&tollgate, *request).await;
        assert_eq!(
            answer.status, *status,
            "{index}: {} {} {:?} from {}\n{}\n{rules}",
            request.method, request.uri, request.lines, request.ip, answer.body
        );
    }
}

/// A rule with one condition denies; everything else passes.
async fn only(matches: &str, met: &[Play<'_>], missed: &[Play<'_>]) {
    let rules = format!("  - {{ name: only, match: {matches}, action: deny }}\n");
    let met = met.iter().map(|play| (*play, SHUT));
    let missed = missed.iter().map(|play| (*play, GOOD));
    plays(&rules, &met.chain(missed).collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_on_paths() {
    let path = |uri| get(uri, &[]);
    only(
        "{ path: /a }",
        &[path("/a"), path("/a/?q")],
        &[path("/a/b"), path("/A")],
    )
    .await;
    only(
        "{ path: '/u/{id}/x' }",
        &[path("/u/7/x")],
        &[path("/u/x"), path("/u/7/8/x")],
    )
    .await;
    only("{ path: '/u/*/x' }", &[path("/u/7/x")], &[path("/u/7")]).await;
    only(
        "{ path: '/i/*.png' }",
        &[path("/i/a.png")],
        &[path("/i/a.jpg"), path("/i/a/b.png")],
    )
    .await;
    only(
        "{ path: '/a/**' }",
        &[path("/a"), path("/a/b/c")],
        &[path("/ab")],
    )
    .await;
    only(
        "{ path: '/a/**/z' }",
        &[path("/a/z"), path("/a/b/c/z")],
        &[path("/a/b/c")],
    )
    .await;
    only(
        "{ path: [/x, { regex: '/v[0-9]+/(a|ab)' }] }",
        &[path("/x"), path("/v10/a"), path("/v1/ab")],
        &[path("/v1/abc"), path("/w/v1/a"), path("/v/a")],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_on_method_host_headers_query_and_address() {
    let post = Play {
        method: "POST",
        ..get("/", &[])
    };
    let with = |lines| get("/", lines);
    only("{ methods: POST }", &[post], &[get("/", &[])]).await;
    only(
        "{ host: [api.example.com, '*.example.org'] }",
        &[
            with(&["x-forwarded-host: API.example.com:443"]),
            with(&["x-forwarded-host: a.b.example.org"]),
        ],
        &[with(&["x-forwarded-host: example.org"])],
    )
    .await;
    only(
        "{ headers: { x-plan: [gold, silver], x-version: { prefix: v1 } } }",
        &[with(&["x-plan: silver", "X-Version: v1.2"])],
        &[
            with(&["x-plan: silver"]),
            with(&["x-plan: Gold", "x-version: v1"]),
        ],
    )
    .await;
    only(
        "{ headers: { user-agent: { regex: '(?i).*bot.*' } } }",
        &[with(&["user-agent: GoogleBot/2"])],
        &[with(&[])],
    )
    .await;
    only(
        "{ headers: { x-a: { present: true }, x-b: { absent: true } } }",
        &[with(&["x-a: 1"])],
        &[with(&[]), with(&["x-a: 1", "x-b: 2"])],
    )
    .await;
    only(
        "{ query: { q: { prefix: 'a b' }, n: 1 } }",
        &[get("/?n=1&q=a+b%21", &[]), get("/?%71=a%20bc&n=1", &[])],
        &[
            get("/?q=a+b", &[]),
            get("/?n=2&n=1&q=a+b", &[]),
            get("/", &[]),
        ],
    )
    .await;
    only(
        "{ client_ip: [10.0.0.0/8, '2001:db8::/32'] }",
        &[
            from("10.9.9.9", "/"),
            from("2001:db8::1", "/"),
            from("::ffff:10.0.0.1", "/"),
        ],
        &[from("11.0.0.1", "/"), from("2001:db9::1", "/")],
    )
    .await;
    only(
        "{ path: /a/**, not: [{ path: /a/open, methods: [GET] }, { client_ip: 10.0.0.1 }] }",
        &[
            get("/a/b", &[]),
            Play {
                method: "POST",
                ..get("/a/open", &[])
            },
        ],
        &[get("/a/open", &[]), from("10.0.0.1", "/a/b")],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_on_the_scheme() {
    let with = |lines| get("/", lines);
    only(
        "{ scheme: https }",
        &[
            with(&["x-forwarded-proto: https"]),
            with(&["x-forwarded-proto: HTTPS"]),
            with(&["x-forwarded-proto: wss"]),
        ],
        &[
            with(&["x-forwarded-proto: http"]),
            with(&["x-forwarded-proto: ftp"]),
            with(&["x-scheme: https"]),
        ],
    )
    .await;
    only(
        "{ scheme: [http, https], not: { path: /open, scheme: http } }",
        &[
            with(&["x-forwarded-proto: http"]),
            with(&["x-forwarded-proto: https"]),
            get("/open", &["x-forwarded-proto: https"]),
        ],
        &[
            with(&[]),
            get("/open", &["x-forwarded-proto: http"]),
            with(&["x-forwarded-proto: "]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_with_lists_of_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list.txt");
    std::fs::write(&list, "10.0.0.0/8 # ours\n2001:db8::1\n").unwrap();
    let list = list.display();
    only(
        &format!("{{ client_ip: [192.0.2.1, {{ file: {list} }}] }}"),
        &[
            from("10.9.9.9", "/"),
            from("2001:db8::1", "/"),
            from("192.0.2.1", "/"),
        ],
        &[from("11.0.0.1", "/"), from("2001:db8::2", "/")],
    )
    .await;
    only(
        &format!("{{ not: {{ client_ip: {{ file: {list} }} }} }}"),
        &[from("11.0.0.1", "/")],
        &[from("10.9.9.9", "/"), from("2001:db8::1", "/")],
    )
    .await;
}

/// A rule with this key admits one request per caller. The first pair are two callers, the second
/// pair one.
async fn tells_apart(path: &str, key: &str, two: [Play<'_>; 2], one: [Play<'_>; 2]) {
    let rules =
        format!("  - {{ name: k, match: {{ path: {path} }}, key: [{key}], limit: 1/day }}\n");
    let apart = [(two[0], GOOD), (two[1], GOOD), (two[0], OVER)];
    plays(&rules, &apart).await;
    plays(&rules, &[(one[0], GOOD), (one[1], OVER)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_kind() {
    let with = |lines| get("/", lines);
    tells_apart(
        "/**",
        "client_ip",
        [from("192.0.2.1", "/"), from("192.0.2.2", "/")],
        [from("2001:db8:1:2::a", "/"), from("2001:db8:1:2::b", "/")],
    )
    .await;
    tells_apart(
        "'/{tenant}'",
        "{ path: tenant }",
        [get("/a", &[]), get("/b", &[])],
        [get("/a", &[]), get("/%61", &[])],
    )
    .await;
    tells_apart(
        "{ regex: '/(?P<tenant>[a-z]+)/.*' }",
        "{ path: tenant }",
        [get("/a/1", &[]), get("/b/1", &[])],
        [get("/a/1", &[]), get("/a/2", &[])],
    )
    .await;
    tells_apart(
        "/**",
        "{ header: x-api-key }",
        [with(&["x-api-key: a"]), with(&["x-api-key: b"])],
        [
            with(&["x-api-key: a"]),
            from("192.0.2.9", "/").and(&["x-api-key: a"]),
        ],
    )
    .await;
    tells_apart(
        "/**",
        "{ cookie: session }",
        [
            with(&["cookie: a=1; session=x"]),
            with(&["cookie: session=y; a=1"]),
        ],
        [
            with(&["cookie: session=x"]),
            with(&["cookie: a=2;session=x"]),
        ],
    )
    .await;
    tells_apart(
        "/**",
        "{ query: key }",
        [get("/?key=a", &[]), get("/?key=b", &[])],
        [get("/?key=a&x", &[]), get("/y?x&key=%61", &[])],
    )
    .await;
    // {"sub":"a"}, {"sub":"b"}; the signature is not checked.
    tells_apart(
        "/**",
        "{ jwt: sub }",
        [
            with(&["authorization: Bearer e30.eyJzdWIiOiJhIn0.x"]),
            with(&["authorization: Bearer e30.eyJzdWIiOiJiIn0.x"]),
        ],
        [
            with(&["authorization: Bearer e30.eyJzdWIiOiJhIn0.x"]),
            with(&["authorization: bearer e30.eyJzdWIiOiJhIn0.y"]),
        ],
    )
    .await;
    tells_apart(
        "/**",
        "host, method",
        [
            with(&["x-forwarded-host: a"]),
            Play {
                method: "POST",
                ..with(&["x-forwarded-host: a"])
            },
        ],
        [
            with(&["x-forwarded-host: a"]),
            with(&["x-forwarded-host: A:80"]),
        ],
    )
    .await;
    tells_apart(
        "/**",
        "scheme",
        [
            with(&["x-forwarded-proto: http"]),
            with(&["x-forwarded-proto: https"]),
        ],
        [
            with(&["x-forwarded-proto: wss"]),
            with(&["x-forwarded-proto: Https"]),
        ],
    )
    .await;
}

const fn paying<'a>(ip: &'a str, lines: &'a [&'a str]) -> Play<'a> {
    from(ip, "/").and(lines)
}

impl<'a> Play<'a> {
    const fn and(self, lines: &'a [&'a str]) -> Self {
        Self { lines, ..self }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_key_is_shared_skipped_or_denied() {
    let rule = |on_missing: &str| {
        format!(
            "  - {{ name: m, key: [{{ cookie: id }}], on_missing: {on_missing}, limit: 1/day }}\n"
        )
    };
    // What the proxy says nothing of is a missing part as well.
    plays(
        "  - { name: m, key: [scheme], on_missing: deny, limit: 1/day }\n",
        &[
            (get("/", &["x-forwarded-proto: ftp"]), SHUT),
            (get("/", &["x-forwarded-proto: http"]), GOOD),
        ],
    )
    .await;
    let [a, b] = [from("192.0.2.1", "/"), from("192.0.2.2", "/")];
    plays(&rule("shared"), &[(a, GOOD), (b, OVER)]).await;
    plays(&rule("skip"), &[(a, GOOD), (a, GOOD), (b, GOOD)]).await;
    plays(
        &rule("deny"),
        &[(a, SHUT), (a.and(&["cookie: id=1"]), GOOD)],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_every_kind() {
    let any = get("/", &[]);
    for algorithm in [
        "fixed_window",
        "sliding_window",
        "sliding_log",
        "token_bucket",
    ] {
        let rule = format!("  - {{ name: l, limit: 2/day, algorithm: {algorithm} }}\n");
        plays(&rule, &[(any, GOOD), (any, GOOD), (any, OVER)]).await;
    }
    plays(
        "  - { name: l, limit: 1/day burst 3 }\n",
        &[(any, GOOD), (any, GOOD), (any, GOOD), (any, OVER)],
    )
    .await;
    plays(
        "  - { name: l, limits: [5/m, 1/day] }\n",
        &[(any, GOOD), (any, OVER)],
    )
    .await;
    plays(
        "  - { name: l, limit: unlimited }\n",
        &[(any, GOOD), (any, GOOD)],
    )
    .await;
    plays("  - { name: l, limit: 0 }\n", &[(any, SHUT)]).await;
    plays(
        "  - { name: l, limit: { rate: 2/month, align: calendar, timezone: Europe/Paris } }\n",
        &[(any, GOOD), (any, GOOD), (any, OVER)],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_from_a_header() {
    let said = |lines| get("/", lines);
    for form in [
        "algorithm: fixed_window",
        "algorithm: sliding_window",
        "algorithm: sliding_log",
        "algorithm: token_bucket",
        "align: calendar",
    ] {
        let rule = format!(
            "  - {{ name: l, limits: [{{ header: x-limit, default: 2, max: 4, per: 1day, {form} }}] }}\n"
        );
        plays(
            &rule,
            &[
                (said(&[]), GOOD),
                (said(&["x-limit: none"]), GOOD),
                (said(&["x-limit: 0"]), OVER),
                (said(&["x-limit: 1"]), OVER),
                (said(&["x-limit: 3"]), GOOD),
                (said(&["x-limit: 3"]), OVER),
                // The first line counts.
                (said(&["x-limit: 2", "x-limit: 4"]), OVER),
                (said(&["x-limit: 99999999999999999999999"]), GOOD),
                (said(&["x-limit: 99999999999999999999999"]), OVER),
            ],
        )
        .await;
    }
    // Beside a limit of the file, in tiers and in overrides.
    let rule = "  - name: l
    key: [{ header: x-api-key }]
    limits: [{ header: x-limit, default: 1, max: 9, per: 1h }, 3/day]
    tiers: [{ when: { headers: { x-plan: gold } }, limits: [{ header: x-gold, default: 2, max: 3, per: 1h }] }]
    overrides: [{ key: partner, limits: [{ header: x-partner, default: 1, max: 2, per: 1h }] }]
";
    for (lines, admitted) in [
        (&["x-api-key: a"][..], 1),
        (&["x-api-key: b", "x-limit: 2"], 2),
        (&["x-api-key: c", "x-limit: 9"], 3),
        (&["x-api-key: d", "x-plan: gold", "x-limit: 9"], 2),
        (&["x-api-key: e", "x-plan: gold", "x-gold: 9"], 3),
        (&["x-api-key: partner", "x-gold: 9"], 1),
        (&["x-api-key: partner", "x-partner: 9"], 2),
    ] {
        let mut expected = vec![(said(lines), GOOD); admitted];
        expected.push((said(lines), OVER));
        plays(rule, &expected).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn costs_fixed_and_from_a_header() {
    let cost = |lines| get("/", lines);
    plays(
        "  - { name: c, cost: 4, limit: 9/day }\n",
        &[(cost(&[]), GOOD), (cost(&[]), GOOD), (cost(&[]), OVER)],
    )
    .await;
    let rule = "  - { name: c, key: [client_ip], cost: { header: x-cost, default: 2, max: 6 }, limit: 10/day }\n";
    // A cost above the maximum is the maximum; an invalid cost is the default.
    plays(
        rule,
        &[
            (
                paying("192.0.2.1", &["x-cost: 99999999999999999999999"]),
                GOOD,
            ),
            (paying("192.0.2.1", &["x-cost: 4"]), GOOD),
            (paying("192.0.2.1", &["x-cost: 1"]), OVER),
        ],
    )
    .await;
    for odd in [
        "x-cost: 0",
        "x-cost: -5",
        "x-cost: 1.5",
        "x-cost:",
        "x-other: 1",
    ] {
        let lines = [odd];
        let odd = paying("192.0.2.2", &lines);
        plays(
            rule,
            &[
                (odd, GOOD),
                (odd, GOOD),
                (odd, GOOD),
                (odd, GOOD),
                (odd, GOOD),
                (odd, OVER),
            ],
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tiers_and_overrides() {
    let rules = "  - name: api
    key: [{ header: x-api-key, secret: true }]
    limit: 1/day
    tiers:
      - { name: gold, when: { headers: { x-plan: gold } }, limit: 2/day }
      - { name: staff, when: { client_ip: 10.0.0.0/8 }, limit: unlimited }
    overrides:
      - { key: partner, limit: 3/day }
      - { key: abuser, limit: 0 }
";
    let free = get("/", &["x-api-key: a"]);
    let gold = get("/", &["x-api-key: b", "x-plan: gold"]);
    let partner = get("/", &["x-api-key: partner", "x-plan: gold"]);
    let abuser = from("10.0.0.1", "/").and(&["x-api-key: abuser"]);
    let staff = from("10.0.0.1", "/").and(&["x-api-key: c"]);
    plays(rules, &[(free, GOOD), (free, OVER)]).await;
    plays(rules, &[(gold, GOOD), (gold, GOOD), (gold, OVER)]).await;
    plays(
        rules,
        &[
            (partner, GOOD),
            (partner, GOOD),
            (partner, GOOD),
            (partner, OVER),
        ],
    )
    .await;
    plays(rules, &[(abuser, SHUT)]).await;
    plays(
        rules,
        &[(staff, GOOD), (staff, GOOD), (staff, GOOD), (staff, GOOD)],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overrides_from_a_file_of_their_own_reload_too() {
    let rules = "version: 1
rules:
  - { name: api, key: [{ header: x-api-key }], limit: 1/day, overrides_file: partners.yaml }
";
    let tollgate =
        start("version: 1\nrules: [{ name: api, key: [{ header: x-api-key }], limit: 1/day }]\n")
            .await;
    let partners = tollgate.rules().with_file_name("partners.yaml");
    let partner = get("/", &["x-api-key: partner"]);
    std::fs::write(
        &partners,
        "version: 1\noverrides: [{ key: partner, limit: 0 }]\n",
    )
    .unwrap();
    std::fs::write(tollgate.rules(), rules).unwrap();
    eventually("the override is in force", async || {
        play(&tollgate, partner).await.status == SHUT
    })
    .await;
    std::fs::write(
        &partners,
        "version: 1\noverrides: [{ key: partner, limit: 2/day }]\n",
    )
    .unwrap();
    eventually("it follows its file", async || {
        play(&tollgate, partner).await.status == OVER
    })
    .await;
    // A mistake in the file is reported with its place there, and changes nothing.
    std::fs::write(
        &partners,
        "version: 1\noverrides: [{ key: partner, limit: 2/fortnight }]\n",
    )
    .unwrap();
    tollgate.until_status("degraded").await;
    tollgate.until_logged("partners.yaml:2:").await;
    assert_eq!(play(&tollgate, partner).await.status, OVER);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_addresses_reload_too() {
    let dir = tempfile::tempdir().unwrap();
    let team = dir.path().join("team.yaml");
    let list = dir.path().join("bots.txt");
    let write = |text: &str| {
        std::fs::write(dir.path().join("new"), text).unwrap();
        std::fs::rename(dir.path().join("new"), &list).unwrap();
    };
    write("# None yet\n");
    std::fs::write(
        &team,
        "rules: [{ name: bots, match: { client_ip: { file: bots.txt } }, limit: 0 }]\n",
    )
    .unwrap();
    let tollgate = start(&format!("version: 1\ninclude: {}\n", team.display())).await;
    let [one, two, other] = ["192.0.2.1", "2001:db8::2", "192.0.2.2"].map(|ip| from(ip, "/"));
    let becomes = async |request, status: u16| {
        eventually(&format!("it is {status}"), async || {
            play(&tollgate, request).await.status == status
        })
        .await;
    };
    // An empty list matches nobody.
    assert_eq!(play(&tollgate, one).await.status, GOOD);
    tollgate.until_logged("bots.txt has no address").await;
    write("192.0.2.1\n");
    becomes(one, SHUT).await;
    assert_eq!(play(&tollgate, other).await.status, GOOD);
    // A mistake is reported with its place, and changes nothing.
    write("2001:db8::/32\n192.0.2.300\n");
    tollgate.until_status("degraded").await;
    tollgate.until_logged("bots.txt:2:1:").await;
    assert_eq!(play(&tollgate, one).await.status, SHUT);
    assert_eq!(play(&tollgate, two).await.status, GOOD);
    write("2001:db8::/32\n");
    becomes(two, SHUT).await;
    tollgate.until_status("ok").await;
    assert_eq!(play(&tollgate, one).await.status, GOOD);
    std::fs::remove_file(&list).unwrap();
    tollgate.until_status("degraded").await;
    assert_eq!(play(&tollgate, two).await.status, SHUT);
    write("192.0.2.2\n");
    becomes(other, SHUT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn included_files_reload_too() {
    let limit = |name: &str, limit: &str| {
        format!("rules: [{{ name: {name}, match: {{ path: /{name} }}, limit: {limit} }}]\n")
    };
    let tollgate = start(&format!("version: 1\n{}", limit("main", "0"))).await;
    let teams = tollgate.rules().with_file_name("teams");
    std::fs::create_dir(&teams).unwrap();
    let write = |file: &str, text: String| {
        std::fs::write(teams.join("new"), text).unwrap();
        std::fs::rename(teams.join("new"), teams.join(file)).unwrap();
    };
    let becomes = async |path: &'static str, status: u16| {
        eventually(&format!("{path} is {status}"), async || {
            play(&tollgate, get(path, &[])).await.status == status
        })
        .await;
    };
    write("a.yaml", limit("a", "0"));
    let main = format!("version: 1\ninclude: teams/*.yaml\n{}", limit("main", "0"));
    std::fs::write(tollgate.rules(), main).unwrap();
    becomes("/a", SHUT).await;
    assert_eq!(play(&tollgate, get("/main", &[])).await.status, SHUT);
    write("b.yaml", limit("b", "0"));
    becomes("/b", SHUT).await;
    // A mistake in one file holds up the change of another.
    write("a.yaml", limit("a", "5/fortnight"));
    tollgate.until_status("degraded").await;
    tollgate.until_logged("teams/a.yaml:1:").await;
    write("b.yaml", limit("b", "unlimited"));
    eventually("the second change is refused too", async || {
        tollgate.log().matches("older rules stay in force").count() >= 2
    })
    .await;
    assert_eq!(play(&tollgate, get("/a", &[])).await.status, SHUT);
    assert_eq!(play(&tollgate, get("/b", &[])).await.status, SHUT);
    std::fs::remove_file(teams.join("a.yaml")).unwrap();
    becomes("/b", GOOD).await;
    assert_eq!(play(&tollgate, get("/a", &[])).await.status, GOOD);
    tollgate.until_status("ok").await;
    // A pattern without a file is a mistake as well.
    std::fs::remove_file(teams.join("b.yaml")).unwrap();
    tollgate.until_logged("no file matches").await;
    assert_eq!(play(&tollgate, get("/main", &[])).await.status, SHUT);
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_and_modes() {
    let [a, b] = [get("/a", &[]), get("/b", &[])];
    let rules = "  - { name: allowed, match: { path: /a }, action: allow }
  - { name: tried, action: deny, mode: shadow }
  - { name: denied, match: { path: /b }, action: deny }
  - { name: last, limit: 1/day, mode: shadow }
";
    let tollgate = start(&format!("version: 1\nrules:\n{rules}")).await;
    for (request, status) in [
        (a, GOOD),
        (b, SHUT),
        (get("/c", &[]), GOOD),
        (get("/c", &[]), GOOD),
    ] {
        assert_eq!(
            play(&tollgate, request).await.status,
            status,
            "{}",
            request.uri
        );
    }
    let shadow = async |rule: &str| {
        let name = format!("tollgate_decisions_total{{rule=\"{rule}\",outcome=\"shadow_denied\"}}");
        tollgate.metric(&name).await
    };
    assert_eq!(shadow("tried").await, 3);
    assert_eq!(shadow("last").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_as_the_rule_says() {
    let tollgate = start(
        r#"version: 1
defaults:
  answer: { headers: { x-contact: "ops@example.com" } }
rules:
  - name: text
    match: { path: /text }
    limit: 0
    answer: { status: 402, text: "{rule}: {{pay}}", headers: { x-rule: "{rule}/{status}" } }
  - name: json
    match: { path: /json }
    limit: 1/day
    answer: { json: { error: "{limit} of {rate}", wait: "{retry_after}", list: [1, true, null] } }
  - name: problem
    match: { path: /problem }
    action: deny
    answer: { status: 451, problem: { title: Gone dark, more: "{rule}" } }
  - name: moved
    match: { path: /moved }
    action: deny
    answer: { status: 302, headers: { location: /slow-down } }
"#,
    )
    .await;
    let ask = async |uri| play(&tollgate, get(uri, &[])).await;

    let text = ask("/text").await;
    assert_eq!((text.status, &*text.body), (402, "text: {pay}\n"));
    assert_eq!(
        text.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    assert_eq!(text.header("x-rule"), Some("text/402"));
    assert_eq!(text.header("x-contact"), Some("ops@example.com"));

    assert_eq!(ask("/json").await.status, GOOD);
    let json = ask("/json").await;
    assert_eq!(json.status, OVER);
    assert_eq!(json.header("content-type"), Some("application/json"));
    let wait: u64 = json.header("retry-after").unwrap().parse().unwrap();
    let body = json.json();
    assert_eq!(body["error"], "json of 1/day");
    assert_eq!(body["wait"], wait);
    assert_eq!(body["list"], serde_json::json!([1, true, null]));

    let problem = ask("/problem").await;
    assert_eq!(problem.status, 451);
    assert_eq!(
        problem.header("content-type"),
        Some("application/problem+json")
    );
    let body = problem.json();
    assert_eq!(
        (&body["title"], &body["status"], &body["more"]),
        (&"Gone dark".into(), &451.into(), &"problem".into())
    );

    let moved = ask("/moved").await;
    assert_eq!(
        (moved.status, moved.header("location")),
        (302, Some("/slow-down"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn jitter_only_ever_lengthens_retry_after() {
    let tollgate = start(
        "version: 1\nrules: [{ name: j, limit: 1/day, answer: { retry_after_jitter: 1h } }]\n",
    )
    .await;
    assert_eq!(play(&tollgate, get("/", &[])).await.status, GOOD);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let answer = play(&tollgate, get("/", &[])).await;
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        let (_, real) = answer.remaining();
        assert!((real..=real + 3_601).contains(&wait), "{wait} {real}");
        seen.insert(wait);
    }
    assert!(seen.len() > 1, "twenty times the same second of 3,600");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_hashed_with_the_key_of_the_house() {
    let redis = Redis::start();
    let rules = "version: 1
rules:
  - { name: s, key: [{ cookie: c }, { header: x-api-key, secret: true }, { jwt: sub }], limit: 9/m }
";
    let mut keys = Vec::new();
    for key in ["--hash-key=one", "--hash-key=two", "--hash-key=one"] {
        let tollgate = Tollgate::start(Settings {
            rules,
            redis: Some(&redis),
            args: &[key],
            ..Settings::default()
        })
        .await;
        let lines = [
            "cookie: c=hunter2",
            "x-api-key: hunter2",
            "authorization: Bearer e30.eyJzdWIiOiJodW50ZXIyIn0.x",
        ];
        assert_eq!(play(&tollgate, get("/", &lines)).await.status, GOOD);
        let listed = redis.counters();
        assert!(!listed.contains("hunter2"), "{listed}");
        assert!(!tollgate.log().contains("hunter2") && !tollgate.log().contains("without a key"));
        keys.push(listed.lines().count());
    }
    // A different key is a different caller; an equal key is the same caller.
    assert_eq!(keys, [1, 2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bans_are_reported_listed_and_lifted() {
    let redis = Redis::start();
    let tollgate = Tollgate::start(Settings {
        rules: "version: 1
rules:
  - { name: login, match: { path: /login }, key: [client_ip], limit: 1/day, ban: { after: 2, within: 10h, for: 20h } }
  - { name: all, key: [client_ip], limit: 100/day }
",
        redis: Some(&redis),
        // What is removed by hand is felt at once.
        args: &["--remember-denials=false"],
        ..Settings::default()
    })
    .await;
    let key = "tollgate:{login:client_ip=203.0.113.7}:ban";
    let login = get("/login", &[]);
    assert_eq!(play(&tollgate, login).await.status, GOOD);
    let denied = play(&tollgate, login).await;
    assert_eq!(denied.status, OVER);
    assert_eq!(denied.header("x-tollgate-limit"), Some("login"));
    assert!(redis.cli(&["GET", key]).starts_with("1 "), "one denial");
    for _ in 0..3 {
        let banned = play(&tollgate, login).await;
        assert_eq!(banned.status, OVER);
        assert_eq!(banned.header("x-tollgate-rule"), Some("login"));
        assert_eq!(banned.header("x-tollgate-limit"), Some("login/ban"));
        // The day's limit denies for longer than the ban.
        assert!(banned.remaining().1 > 80_000, "{banned:?}");
    }
    // A caller with a higher limit is still banned.
    redis.cli(&[
        "DEL",
        "tollgate:{login:client_ip=203.0.113.7}:sliding_window:86400s",
    ]);
    let banned = play(&tollgate, login).await;
    assert_eq!(banned.status, OVER);
    assert_eq!(banned.header("x-tollgate-limit"), Some("login/ban"));
    assert_eq!(
        banned.header("ratelimit-policy"),
        Some("\"login/ban\";q=2;w=36000")
    );
    let (left, wait) = banned.remaining();
    assert!(left == 0 && (71_000..=72_000).contains(&wait), "{wait}");
    let problem = banned.json();
    assert_eq!(
        problem["type"],
        "https://iana.org/assignments/http-problem-types#abnormal-usage-detected"
    );
    assert_eq!(
        problem["violated-policies"],
        serde_json::json!(["login/ban"])
    );
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("banned after 2 denials within 10h; try again in"),
        "{detail}"
    );
    // A ban is for one rule and one caller.
    assert_eq!(play(&tollgate, get("/", &[])).await.status, GOOD);
    assert_eq!(
        play(&tollgate, from("203.0.113.8", "/login")).await.status,
        GOOD
    );
    assert_eq!(
        tollgate.metric("tollgate_bans_total{rule=\"login\"}").await,
        1
    );
    for (limit, denials) in [("login", 1), ("login/ban", 4)] {
        let name = format!("tollgate_denials_total{{rule=\"login\",limit=\"{limit}\"}}");
        assert_eq!(tollgate.metric(&name).await, denials, "{limit}");
    }
    let ttl: u64 = redis.cli(&["TTL", key]).parse().unwrap();
    assert!((71_000..=72_000).contains(&ttl), "{ttl}");
    assert_eq!(redis.cli(&["DEL", key]), "1");
    assert_eq!(play(&tollgate, login).await.status, GOOD);
}

/// Denials are remembered for a second at most.
#[tokio::test(flavor = "multi_thread")]
async fn a_counter_that_is_removed_by_hand_is_felt_by_a_caller_who_is_denied() {
    let redis = Redis::start();
    let tollgate = Tollgate::start(Settings {
        rules: "version: 1\nrules: [{ name: day, key: [client_ip], limit: 1/day }]\n",
        redis: Some(&redis),
        ..Settings::default()
    })
    .await;
    assert_eq!(play(&tollgate, get("/", &[])).await.status, GOOD);
    for _ in 0..20 {
        assert_eq!(play(&tollgate, get("/", &[])).await.status, OVER);
    }
    let remembered = "tollgate_denials_remembered_total";
    assert!(tollgate.metric(remembered).await > 0);
    redis.cli(&[
        "DEL",
        "tollgate:{day:client_ip=203.0.113.7}:sliding_window:86400s",
    ]);
    eventually("the caller has a fresh start", async || {
        play(&tollgate, get("/", &[])).await.status == GOOD
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn denials_are_logged_with_the_names_of_the_answer_and_no_secret() {
    let rules = "version: 1
rules:
  - { name: gone, match: { path: /gone }, action: deny }
  - { name: tried, key: [client_ip], limit: 1/day, mode: shadow }
  - name: api
    match: { path: '/v1/**' }
    key: [{ header: x-api-key, secret: true }]
    limits: [1/day, 9/h]
";
    let tollgate = Tollgate::start(Settings {
        rules,
        args: &["--log-format=json", "--log-decisions-rate=3"],
        ..Settings::default()
    })
    .await;
    let lines = ["x-api-key: hunter2"];
    let api = get("/v1//%61?token=hunter2", &lines);
    assert_eq!(play(&tollgate, api).await.status, GOOD);
    let denied = play(&tollgate, api).await;
    assert_eq!(denied.status, OVER);
    assert_eq!(play(&tollgate, get("/gone", &[])).await.status, SHUT);
    for _ in 0..10 {
        assert_eq!(play(&tollgate, api).await.status, OVER);
    }
    tollgate.until_logged("\"rule\":\"gone\"").await;
    let log = tollgate.log();
    assert!(!log.contains("hunter2"), "{log}");
    let logged: Vec<serde_json::Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &serde_json::Value| line["target"] == "tollgate::decision")
        .collect();
    let of = |rule: &str| {
        let found = logged.iter().find(|line| line["rule"] == rule);
        found.unwrap_or_else(|| panic!("nothing of {rule}:\n{log}"))
    };
    let api = of("api");
    assert_eq!(api["outcome"], "denied");
    assert_eq!(
        Some(api["limit"].as_str().unwrap()),
        denied.header("x-tollgate-limit")
    );
    assert_eq!(denied.json()["violated-policies"][0], api["limit"]);
    let key = api["key"].as_str().unwrap();
    assert!(key.starts_with("header.x-api-key=#"), "{key}");
    assert_eq!(api["path"], "/v1/a");
    assert!(api["retry_after_ms"].as_u64().unwrap() > 80_000_000);
    assert_eq!(of("tried")["outcome"], "shadow_denied");
    assert_eq!(of("gone")["reason"], "action: deny");
}
