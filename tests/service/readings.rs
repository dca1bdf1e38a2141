//! Spellings of requests that proxies, tollgate and applications may read differently.
//!
//! Each is sent through each real proxy with the file that we ship. tollgate denies `/data`; what
//! reaches the application must not be `/data` to any kind of server. The table in docs/proxies.md
//! is what this test saw.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use url::Url;

use crate::support::{
    caddy::{self, Caddy},
    client::{Connection, get},
    envoy::{self, Envoy},
    haproxy::{self, Haproxy},
    nginx::{self, Nginx},
    tollgate::{Settings, Tollgate},
    upstream::Upstream,
};

const RULES: &str = "
version: 1
rules:
  - { name: data, match: { path: /data, methods: [GET, CONNECT], host: app.test }, action: deny }
";

/// What is asked for: a name for the table, and the request.
const SPELLINGS: &[(&str, &[u8])] = &[
    ("`/data`", b"GET /data HTTP/1.1\r\nHost: app.test\r\n\r\n"),
    ("`//data`", b"GET //data HTTP/1.1\r\nHost: app.test\r\n\r\n"),
    (
        "`//x/data`",
        b"GET //x/data HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    ("`/data/`", b"GET /data/ HTTP/1.1\r\nHost: app.test\r\n\r\n"),
    (
        "`/x/../data`",
        b"GET /x/../data HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/x/%2e%2E/data`",
        b"GET /x/%2e%2E/data HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/%64ata`",
        b"GET /%64ata HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/%2564ata`",
        b"GET /%2564ata HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    ("`/DATA`", b"GET /DATA HTTP/1.1\r\nHost: app.test\r\n\r\n"),
    (
        "`/data;v=1`",
        b"GET /data;v=1 HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/x/..;/data`",
        b"GET /x/..;/data HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/x/..%2fdata`",
        b"GET /x/..%2fdata HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/x/..%5cdata`",
        b"GET /x/..%5cdata HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        r"`/x\..\data`",
        b"GET /x\\..\\data HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/#/../data`",
        b"GET /#/../data HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/data#x`",
        b"GET /data#x HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/data?x#y`",
        b"GET /data?x#y HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/%23/../data`",
        b"GET /%23/../data HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/data%23x`",
        b"GET /data%23x HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/data%3Fx`",
        b"GET /data%3Fx HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/data%00`",
        b"GET /data%00 HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/data%0A`",
        b"GET /data%0A HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/data//..`",
        b"GET /data//.. HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/x//../data`",
        b"GET /x//../data HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/data/x/..`",
        b"GET /data/x/.. HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/data/../x`",
        b"GET /data/../x HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/data//x/../..`",
        b"GET /data//x/../.. HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/data/;/..`",
        b"GET /data/;/.. HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/<data>`",
        b"GET /<data> HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/data`, byte A0",
        b"GET /data\xa0 HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/%u0064ata`",
        b"GET /%u0064ata HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/data/;x`",
        b"GET /data/;x HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/%c1%a1ata`",
        b"GET /%c1%a1ata HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`/`, byte FF, `/../data`",
        b"GET /\xff/../data HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`http://app.test/data`",
        b"GET http://app.test/data HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`http://app.test/data`, `Host: b.test`",
        b"GET http://app.test/data HTTP/1.1\r\nHost: b.test\r\n\r\n",
    ),
    (
        "`ftp://app.test/data`",
        b"GET ftp://app.test/data HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`x:/data`",
        b"GET x:/data HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`http:data`",
        b"GET http:data HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`http:/data`",
        b"GET http:/data HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    ("`data`", b"GET data HTTP/1.1\r\nHost: app.test\r\n\r\n"),
    (
        "method `get`",
        b"get /data HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "method `CONNECT`",
        b"CONNECT /data HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "method `connect`",
        b"connect /data HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "method `G(T`",
        b"G(T /data HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ),
    (
        "`Host: APP.test.:80`",
        b"GET /data HTTP/1.1\r\nHost: APP.test.:80\r\n\r\n",
    ),
    (
        "`Host: app.test, b.test`",
        b"GET /data HTTP/1.1\r\nHost: app.test, b.test\r\n\r\n",
    ),
    (
        "`Host: app.test:b:c`",
        b"GET /data HTTP/1.1\r\nHost: app.test:b:c\r\n\r\n",
    ),
    (
        "`Host: u@app.test`",
        b"GET /data HTTP/1.1\r\nHost: u@app.test\r\n\r\n",
    ),
    (
        "two `Host` lines",
        b"GET /data HTTP/1.1\r\nHost: app.test\r\nHost: b.test\r\n\r\n",
    ),
];

/// An application that answers 200 and remembers the request lines as they came.
struct RawUpstream {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl RawUpstream {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let record = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&record)));
            }
        });
        Self { addr, seen }
    }

    /// The target of the last request, and none any more.
    fn take(&self) -> Option<Vec<u8>> {
        self.seen.lock().unwrap().pop()
    }
}

async fn serve(mut stream: TcpStream, record: Arc<Mutex<Vec<Vec<u8>>>>) {
    let mut head = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut head).await {
        let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
            continue;
        };
        let line: Vec<u8> = head.split(|&byte| byte == b'\r').next().unwrap().to_vec();
        head.drain(..end + 4);
        let target = line.split(|&byte| byte == b' ').nth(1).unwrap_or_default();
        record.lock().unwrap().push(target.to_vec());
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

/// The paths that servers of different kinds would serve for a target.
fn readings(target: &[u8]) -> Vec<(&'static str, String)> {
    let text: String = target.iter().map(|&byte| char::from(byte)).collect();
    let without_origin = match text.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => &text,
    };
    let path = without_origin.split('?').next().unwrap();
    let before_fragment = path.split('#').next().unwrap();
    let without_parameters: Vec<&str> = before_fragment
        .split('/')
        .map(|segment| segment.split(';').next().unwrap())
        .collect();
    let browser = Url::parse("http://app.test").unwrap().join(without_origin);
    let browser = browser.map(|url| url.path().to_owned()).unwrap_or_default();
    vec![
        // Go's file server: the fragment is kept, then decoded, then cleaned.
        ("Go", clean(&decoded(path))),
        // Python's http.server.
        ("Python", clean(&decoded(before_fragment))),
        // Dot segments by RFC 3986, with empty segments kept, then decoded.
        ("RFC 3986", resolved(before_fragment)),
        // Node's `new URL(request.url)`.
        ("Node", decoded(&browser)),
        // Tomcat: parameters first.
        ("Tomcat", clean(&decoded(&without_parameters.join("/")))),
        // On Windows.
        (
            "Windows",
            clean(&decoded(before_fragment).replace('\\', "/")),
        ),
        // In C.
        (
            "C",
            clean(decoded(before_fragment).split('\0').next().unwrap()),
        ),
        // A handler that is mounted at `/data`, and takes all below it as it came.
        (
            "a mounted handler",
            path.strip_prefix("/data/")
                .map_or("-", |_| "/data")
                .to_owned(),
        ),
        // A regular expression `^/data$`.
        (
            "a regular expression",
            decoded(before_fragment).trim_end_matches('\n').to_owned(),
        ),
    ]
}

fn decoded(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let escape = after.get(..2);
        if let Some(byte) = escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            out.push(char::from(byte));
            rest = &after[2..];
        } else {
            out.push('%');
            rest = after;
        }
    }
    out + rest
}

/// Empty and dot segments gone.
fn clean(path: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(out.pop()),
            name => out.push(name),
        }
    }
    format!("/{}", out.join("/"))
}

/// Dot segments gone, empty ones kept.
fn resolved(path: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(out.pop()),
            name => out.push(name),
        }
    }
    format!("/{}", decoded(&out.join("/")))
}

enum Proxy {
    Envoy(Envoy),
    Nginx(Nginx),
    Caddy(Caddy),
    Haproxy(Haproxy),
}

impl Proxy {
    fn addr(&self) -> SocketAddr {
        match self {
            Self::Envoy(proxy) => proxy.addr,
            Self::Nginx(proxy) => proxy.addr,
            Self::Caddy(proxy) => proxy.addr,
            Self::Haproxy(proxy) => proxy.addr,
        }
    }
}

/// What became of one spelling behind one proxy, as the table has it.
async fn outcome(
    proxy: SocketAddr,
    tollgate: &Tollgate,
    upstream: &RawUpstream,
    (name, request): (&str, &[u8]),
) -> String {
    let counted = async |metric: &str| tollgate.metric(metric).await;
    let checks = counted("tollgate_checks_total").await;
    let refusals = counted("tollgate_refused_requests_total").await;
    let mut client = Connection::open(proxy).await.unwrap();
    client.send(request).await.unwrap();
    let answer = client.response().await;
    let status = answer.as_ref().map_or(0, |answer| answer.status);
    assert_eq!(counted("tollgate_contract_faults_total").await, 0, "{name}");
    let asked = counted("tollgate_checks_total").await - checks;
    let refused = counted("tollgate_refused_requests_total").await - refusals;
    match upstream.take() {
        Some(target) => {
            assert_eq!(
                (status, asked, refused),
                (200, 1, 0),
                "{name}: a decision was made"
            );
            for (server, path) in readings(&target) {
                let path = path.strip_suffix('/').unwrap_or(&path);
                assert_ne!(path, "/data", "{name} is /data to {server}");
            }
            "passed on".to_owned()
        }
        None if refused == 1 => {
            assert!(matches!(status, 400 | 403), "{name}: {answer:?}");
            "refused".to_owned()
        }
        None if asked == 1 => {
            assert_eq!(status, 403, "{name}: {answer:?}");
            "as `/data`".to_owned()
        }
        None => {
            // Some proxies close the connection without an answer.
            assert!(matches!(status, 0 | 400..=499 | 501), "{name}: {answer:?}");
            "refused by the proxy".to_owned()
        }
    }
}

/// The part of docs/proxies.md that this test writes.
const MARKS: (&str, &str) = ("<!-- table of spellings -->\n", "<!-- end of table -->\n");

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_means_two_things() {
    let mut columns = Vec::new();
    for name in ["Envoy", "nginx", "Caddy", "HAProxy"] {
        let upstream = RawUpstream::start().await;
        let tollgate = Tollgate::start(Settings {
            rules: RULES,
            ..Settings::default()
        })
        .await;
        let asked = tollgate.addr();
        let patient_nginx = nginx::Config::shipped()
            .with("proxy_connect_timeout 1s;", "proxy_connect_timeout 20s;")
            .with("proxy_send_timeout    1s;", "proxy_send_timeout 20s;")
            .with("proxy_read_timeout    1s;", "proxy_read_timeout 20s;");
        let proxy = match name {
            "Envoy" => {
                let config = envoy::Config::shipped().patient();
                let app = Upstream::at(upstream.addr);
                Proxy::Envoy(Envoy::start(config, &[&tollgate.listen], &app).await)
            }
            "nginx" => Proxy::Nginx(Nginx::start(patient_nginx, asked, upstream.addr).await),
            "Caddy" => Proxy::Caddy(Caddy::start(caddy::patient(), asked, upstream.addr).await),
            _ => Proxy::Haproxy(Haproxy::start(haproxy::patient(), asked, upstream.addr).await),
        };
        let mut column = Vec::new();
        for spelling in SPELLINGS {
            let (addr, spelling) = (proxy.addr(), *spelling);
            column.push(outcome(addr, &tollgate, &upstream, spelling).await);
        }
        columns.push(column);
    }
    let mut table = "| | Envoy | nginx | Caddy | HAProxy |\n|---|---|---|---|---|\n".to_owned();
    for (row, (spelling, _)) in SPELLINGS.iter().enumerate() {
        let cells: Vec<&str> = columns.iter().map(|column| &*column[row]).collect();
        let spelling = spelling.replace('|', "\\|");
        writeln!(table, "| {spelling} | {} |", cells.join(" | ")).unwrap();
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/proxies.md");
    let text = std::fs::read_to_string(file).unwrap();
    let (before, rest) = text.split_once(MARKS.0).expect("the mark before the table");
    let (written, after) = rest.split_once(MARKS.1).expect("the mark after the table");
    if std::env::var_os("TOLLGATE_TEST_WRITE").is_some() {
        let text = format!("{before}{}{table}{}{after}", MARKS.0, MARKS.1);
        std::fs::write(file, text).unwrap();
    } else {
        assert_eq!(
            written, table,
            "docs/proxies.md has another table: write it anew with TOLLGATE_TEST_WRITE=1"
        );
    }
}

/// To an application that does not know parameters, `/health;x` is not `/health`.
#[tokio::test(flavor = "multi_thread")]
async fn parameters_exempt_from_nothing() {
    let tollgate = Tollgate::start(Settings {
        rules: "
version: 1
rules:
  - name: free
    match: { path: [/health, '/static/**'], not: { path: '/static/private/*.js' } }
    action: allow
  - { name: scripts, match: { path: { regex: '/r/.+[.]php' } }, action: deny }
  - { name: images, match: { path: '/img/*.png' }, action: deny }
  - { name: all, match: { not: { path: [/open, '/img/*', '/r/**'] } }, action: deny }
",
        ..Settings::default()
    })
    .await;
    let upstream = Upstream::start().await;
    let nginx = Nginx::start(nginx::Config::shipped(), tollgate.addr(), upstream.addr).await;
    for (target, status) in [
        ("/health", 200),
        ("/health;x", 403),
        ("/health%3Bx", 403),
        ("/static/a;v=1", 200),
        ("/static;x/a", 403),
        ("/open", 200),
        ("/open;x", 403),
        ("/other", 403),
        ("/static/private/a;x.js", 403),
        ("/static/;x", 403),
        ("/img/a", 200),
        ("/img/a;x.png", 403),
        ("/img/a.png;x", 403),
        ("/r/a;x.php", 403),
    ] {
        let answer = get(nginx.addr, target).await;
        assert_eq!(answer.status, status, "{target}: {answer:?}");
    }
}
