//! Bytes that are no check, and responses read with somebody else's parser.
//!
//! The cases are of the kinds in the suites that servers are tested with: invalid requests as in
//! gunicorn's, misuse of HTTP/2 as in h2spec.

use sfv::{BareItem, ListEntry, Parser};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Duration, timeout},
};

use crate::support::{
    client::{Connection, Response, ask, head},
    tollgate::{Settings, Tollgate},
};

const RULES: &str = "
version: 1
rules:
  - { name: all, key: [client_ip], limit: 1000000/day }
";

async fn tollgate(rules: &str) -> Tollgate {
    Tollgate::start(Settings {
        rules,
        args: &[
            "--legacy-headers",
            "--header-timeout=500ms",
            "--idle-timeout=500ms",
        ],
        ..Settings::default()
    })
    .await
}

async fn check(tollgate: &Tollgate, uri: &str) -> Response {
    let uri = format!("x-forwarded-uri: {uri}");
    let lines = ["x-forwarded-method: GET", &uri, "x-real-ip: 192.0.2.1"];
    ask(tollgate.addr(), &head("GET", "/v1/check", &lines)).await
}

/// What comes back until the connection ends. (A client that closes its side no longer wants an
/// answer.)
async fn answer(tollgate: &Tollgate, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(tollgate.addr()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut out = Vec::new();
    let all = timeout(Duration::from_secs(20), stream.read_to_end(&mut out));
    // A reset is an end too.
    let _ = all.await.expect("the connection is left open");
    out
}

/// Waits for an answer, and has another connection admitted meanwhile, again and again: so it is
/// never idle for as long as tollgate allows.
async fn beside<T>(other: &mut Connection, good: &[u8], answering: impl Future<Output = T>) -> T {
    let mut answering = std::pin::pin!(answering);
    loop {
        let answer = timeout(Duration::from_millis(50), &mut answering).await;
        assert_eq!(other.ask(good).await.unwrap().status, 200, "another check");
        if let Ok(answer) = answer {
            return answer;
        }
    }
}

/// Requests that are none. Before the blank, what is wrong.
const NO_REQUESTS: &[(&str, &[u8])] = &[
    ("no version", b"GET /v1/check\r\n\r\n"),
    ("version 0.9", b"GET /v1/check HTTP/0.9\r\n\r\n"),
    ("version 1.2", b"GET /v1/check HTTP/1.2\r\n\r\n"),
    ("version 2.0", b"GET /v1/check HTTP/2.0\r\n\r\n"),
    (
        "version of four digits",
        b"GET /v1/check HTTP/1.1000\r\n\r\n",
    ),
    (
        "a method with brackets",
        b"GET() /v1/check HTTP/1.1\r\n\r\n",
    ),
    ("a method with a NUL", b"GE\0T /v1/check HTTP/1.1\r\n\r\n"),
    (
        "bytes beyond ASCII in the method",
        b"GET\xdf /v1/check HTTP/1.1\r\n\r\n",
    ),
    (
        "a space before the method",
        b" GET /v1/check HTTP/1.1\r\n\r\n",
    ),
    ("a tab after the method", b"GET\t/v1/check HTTP/1.1\r\n\r\n"),
    ("a NUL in the target", b"GET /v1/\0check HTTP/1.1\r\n\r\n"),
    ("a space in the target", b"GET /v1/ch eck HTTP/1.1\r\n\r\n"),
    (
        "a header without a colon",
        b"GET /v1/check HTTP/1.1\r\nbroken\r\n\r\n",
    ),
    (
        "a header without a name",
        b"GET /v1/check HTTP/1.1\r\n: x\r\n\r\n",
    ),
    (
        "a space before the colon",
        b"GET /v1/check HTTP/1.1\r\nHost : x\r\n\r\n",
    ),
    (
        "a space in a name",
        b"GET /v1/check HTTP/1.1\r\nX Y: x\r\n\r\n",
    ),
    (
        "bytes beyond ASCII in a name",
        b"GET /v1/check HTTP/1.1\r\nX\xe4: x\r\n\r\n",
    ),
    (
        "a folded header",
        b"GET /v1/check HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
    ),
    (
        "a NUL in a value",
        b"GET /v1/check HTTP/1.1\r\nX: a\0b\r\n\r\n",
    ),
    (
        "a bell in a value",
        b"GET /v1/check HTTP/1.1\r\nX: a\x07b\r\n\r\n",
    ),
    (
        "a DEL in a value",
        b"GET /v1/check HTTP/1.1\r\nX: a\x7fb\r\n\r\n",
    ),
    (
        "a lone CR in a value",
        b"GET /v1/check HTTP/1.1\r\nX: a\rb\r\n\r\n",
    ),
    (
        "two lengths",
        b"POST /v1/check HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ),
    (
        "a length with a sign",
        b"POST /v1/check HTTP/1.1\r\nContent-Length: +1\r\n\r\na",
    ),
    (
        "a negative length",
        b"POST /v1/check HTTP/1.1\r\nContent-Length: -1\r\n\r\na",
    ),
    (
        "a length beyond numbers",
        b"POST /v1/check HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\na",
    ),
    (
        "a transfer coding that is none",
        b"POST /v1/check HTTP/1.1\r\nTransfer-Encoding: x\r\n\r\n",
    ),
    (
        "chunked before another coding",
        b"POST /v1/check HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
    ),
    (
        "chunked in HTTP/1.0",
        b"POST /v1/check HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "the PROXY protocol",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET /v1/check HTTP/1.1\r\n\r\n",
    ),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ("nothing but line breaks", b"\r\n\r\n\r\n\r\n"),
    ("random bytes", b"\xde\xad\xbe\xef\0\x01\x02\x03\r\n\r\n"),
];

/// Bodies that break off or are none, behind a head that is a check.
const BODIES: &[(&str, &[u8])] = &[
    ("a chunk without a size", b"\r\nabc\r\n0\r\n\r\n"),
    ("a chunk size with a sign", b"+3\r\nabc\r\n0\r\n\r\n"),
    ("a negative chunk size", b"-3\r\nabc\r\n0\r\n\r\n"),
    ("a chunk size with 0x", b"0x3\r\nabc\r\n0\r\n\r\n"),
    (
        "a chunk size beyond numbers",
        b"ffffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    ),
    (
        "a chunk that is longer than it says",
        b"3\r\nabcdef\r\n0\r\n\r\n",
    ),
    ("no last chunk", b"3\r\nabc\r\n"),
    ("a forbidden trailer", b"3\r\nabc\r\n0\r\nHost: x\r\n\r\n"),
    ("a trailer that is none", b"3\r\nabc\r\n0\r\nbroken\r\n\r\n"),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_gets_an_answer_and_harms_nobody() {
    let tollgate = tollgate(RULES).await;
    let mut other = Connection::open(tollgate.addr()).await.unwrap();
    let good = head(
        "GET",
        "/v1/check",
        &[
            "x-forwarded-method: GET",
            "x-forwarded-uri: /",
            "x-real-ip: 192.0.2.1",
        ],
    );
    for (what, bytes) in NO_REQUESTS {
        let answer = beside(&mut other, &good, answer(&tollgate, bytes)).await;
        let answer = String::from_utf8_lossy(&answer);
        // A check that no proxy sends. It must not be admitted, whatever else it gets.
        let refused = answer.is_empty()
            || answer.starts_with("HTTP/1.1 4")
            || answer.starts_with("HTTP/1.1 503");
        assert!(refused, "{what}: {answer}");
        assert_eq!(
            other.ask(&good).await.unwrap().status,
            200,
            "{what}: another check"
        );
    }
    for (what, body) in BODIES {
        let mut request = head(
            "POST",
            "/v1/check",
            &[
                "x-forwarded-method: POST",
                "x-forwarded-uri: /",
                "x-real-ip: 192.0.2.1",
                "transfer-encoding: chunked",
            ],
        );
        request.extend_from_slice(body);
        let answer = beside(&mut other, &good, answer(&tollgate, &request)).await;
        let answer = String::from_utf8_lossy(&answer);
        // The decision does not depend on the body; the bytes behind it are no second check.
        assert!(answer.starts_with("HTTP/1.1 200"), "{what}: {answer}");
        let second = answer[1..].find("HTTP/1.1 200");
        assert_eq!(second, None, "{what}: {answer}");
        assert_eq!(
            other.ask(&good).await.unwrap().status,
            200,
            "{what}: another check"
        );
    }
    assert_eq!(tollgate.metric("tollgate_handler_panics_total").await, 0);
}

/// Frames of HTTP/2 behind its preface, as of clients that do not keep to it.
const FRAMES: &[(&str, &[u8])] = &[
    ("none", b""),
    ("SETTINGS", b"\0\0\0\x04\0\0\0\0\0"),
    (
        "no SETTINGS first",
        b"\0\0\x08\x06\0\0\0\0\0\0\0\0\0\0\0\0\0",
    ),
    ("a frame of 16 MB", b"\xff\xff\xff\0\0\0\0\0\x01"),
    ("DATA on stream 0", b"\0\0\x01\0\0\0\0\0\0x"),
    (
        "HEADERS of junk",
        b"\0\0\x04\x01\x05\0\0\0\x01\xff\xff\xff\xff",
    ),
    ("WINDOW_UPDATE of 0", b"\0\0\x04\x08\0\0\0\0\0\0\0\0\0"),
    ("CONTINUATION alone", b"\0\0\0\x09\x04\0\0\0\x01"),
    ("an unknown type", b"\0\0\0\xff\0\0\0\0\0"),
];

#[tokio::test(flavor = "multi_thread")]
async fn http2_gets_its_goodbye_whatever_follows_the_preface() {
    let tollgate = tollgate(RULES).await;
    for (what, frames) in FRAMES {
        let bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", *frames].concat();
        let answer = answer(&tollgate, &bytes).await;
        // SETTINGS, then GOAWAY with HTTP_1_1_REQUIRED.
        assert_eq!(answer.get(3), Some(&4), "{what}: {answer:?}");
        assert_eq!(answer.get(12), Some(&7), "{what}: {answer:?}");
        assert_eq!(
            answer.get(22..26),
            Some(&[0, 0, 0, 13][..]),
            "{what}: {answer:?}"
        );
    }
    assert_eq!(check(&tollgate, "/").await.status, 200);
    tollgate.until_logged("HTTP/2").await;
}

/// Every `RateLimit` field is a list as RFC 9651 has it, whatever the names in the rule file.
#[tokio::test(flavor = "multi_thread")]
async fn ratelimit_fields_are_structured_fields() {
    let rules = "
version: 1
forwarded_headers: '*'
rules:
  - name: A.b_c-1
    key: [client_ip]
    limits:
      - 2/500ms
      - 20/s burst 40
      - 3/h
      - { rate: 10000/month, align: calendar }
      - { header: x-limit, default: 60, max: 6000, per: 1m }
    ban: { after: 2, within: 10m, for: 1h }
";
    let tollgate = tollgate(rules).await;
    let mut verdicts = Vec::new();
    for _ in 0..12 {
        let answer = check(&tollgate, "/").await;
        verdicts.push(answer.status);
        for (name, wanted) in [("ratelimit", ["r", "t"]), ("ratelimit-policy", ["q", "w"])] {
            let value = answer
                .header(name)
                .unwrap_or_else(|| panic!("no {name}: {answer:?}"));
            let list = Parser::new(value).parse::<sfv::List>();
            let list = list.unwrap_or_else(|error| panic!("{name}: {value}: {error}"));
            assert!(!list.is_empty(), "{name}");
            for member in list {
                let ListEntry::Item(item) = member else {
                    panic!("{name}: {value}: an inner list");
                };
                let BareItem::String(limit) = &item.bare_item else {
                    panic!("{name}: {value}: a member that is no string");
                };
                assert!(limit.as_str().starts_with("A.b_c-1"), "{value}");
                for (key, number) in &item.params {
                    let whole = number
                        .as_integer()
                        .unwrap_or_else(|| panic!("{value}: {key:?}"));
                    assert!(i64::from(whole) >= 0, "{value}: {key:?}");
                    assert!(wanted.contains(&key.as_str()), "{value}: {key:?}");
                }
                let must = item.params.iter().any(|(key, _)| key.as_str() == wanted[0]);
                assert!(must, "{value}: {} is required", wanted[0]);
            }
        }
        for name in [
            "x-ratelimit-limit",
            "x-ratelimit-remaining",
            "x-ratelimit-reset",
        ] {
            assert!(
                answer.header(name).unwrap().parse::<u64>().is_ok(),
                "{name}"
            );
        }
        if answer.status != 200 {
            assert!(
                answer
                    .header("retry-after")
                    .unwrap()
                    .parse::<u64>()
                    .unwrap()
                    >= 1
            );
        }
    }
    assert!(
        verdicts.contains(&200) && verdicts.contains(&429),
        "{verdicts:?}"
    );
}

/// A load balancer's probe is no fault of a proxy.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_is_no_fault_that_raises_an_alert() {
    let tollgate = tollgate(RULES).await;
    for method in ["GET", "HEAD"] {
        let answer = ask(tollgate.addr(), &head(method, "/", &[])).await;
        assert_eq!(
            answer.status, 503,
            "a client of a proxy that passes paths on could ask for it"
        );
    }
    let faults = tollgate.metric("tollgate_contract_faults_total").await;
    let probes = tollgate
        .metric("tollgate_contract_faults_total{kind=\"probe\"}")
        .await;
    assert_eq!((faults, probes), (2, 2));
    tollgate.until_logged("/readyz").await;
}
