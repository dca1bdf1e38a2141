use std::sync::LazyLock;

use http::HeaderName;

use super::*;
use crate::replay::time;

/// A set of rules that wants these headers.
fn wanted(headers: &[&str]) -> Wanted {
    let keys = headers.iter().map(|name| format!("{{ header: {name} }}"));
    let keys = keys.collect::<Vec<_>>().join(", ");
    let rules = format!("version: 1\nrules: [{{ name: a, key: [{keys}], limit: 5/m }}]\n");
    Wanted::of([&crate::rulefile::load("rules.yaml", &rules).unwrap()])
}

const HEADERS: [&str; 4] = ["user-agent", "referer", "x-api-key", "authorization"];

/// What is read of a line, in one text.
fn seen(line: &str) -> Result<String, Why> {
    seen_as(Format::Auto, line.as_bytes())
}

fn seen_as(format: Format, line: &[u8]) -> Result<String, Why> {
    static WANTED: LazyLock<Wanted> = LazyLock::new(|| wanted(&HEADERS));
    let mut record = Record::default();
    read(format, line, &WANTED, &mut record)?;
    let us = record.time_us % 1_000_000;
    let mut out = format!(
        "{}+{us} {} {} host={} peer={} for={} scheme={:?} {}",
        time::shown(record.time_us),
        record.method,
        record.target,
        record.host,
        record.peer,
        record.forwarded_for,
        record.scheme.map(crate::request::Scheme::as_str),
        record.status,
    );
    for name in HEADERS {
        let header = HeaderName::from_static(name);
        if let Some(value) = record.headers.get(&header) {
            out = format!("{out} {name}={}", String::from_utf8_lossy(value));
        }
    }
    Ok(out)
}

fn is(line: &str, expected: &str) {
    assert_eq!(seen(line).as_deref(), Ok(expected), "{line}");
}

#[test]
fn nginx_and_apache() {
    // From Apache's documentation.
    is(
        r#"127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326 "http://www.example.com/start.html" "Mozilla/4.08 [en] (Win98; I ;Nav)""#,
        "2000-10-10T20:55:36Z+0 GET /apache_pb.gif host= peer=127.0.0.1 for= scheme=None 200 user-agent=Mozilla/4.08 [en] (Win98; I ;Nav) referer=http://www.example.com/start.html",
    );
    is(
        r#"127.0.0.1 - - [10/Oct/2000:13:55:36 -0700] "GET /a?b=c HTTP/1.0" 304 -"#,
        "2000-10-10T20:55:36Z+0 GET /a?b=c host= peer=127.0.0.1 for= scheme=None 304",
    );
    // `main` of nginx' packages.
    is(
        r#"172.17.0.1 - - [30/Jul/2026:10:11:12 +0000] "GET / HTTP/1.1" 200 615 "-" "curl/8.5.0" "10.1.2.3, 203.0.113.7""#,
        "2026-07-30T10:11:12Z+0 GET / host= peer=172.17.0.1 for=10.1.2.3, 203.0.113.7 scheme=None 200 user-agent=curl/8.5.0",
    );
    // ingress-nginx has more behind it.
    is(
        r#"2001:db8::1 - - [30/Jul/2026:10:11:12 +0000] "GET / HTTP/2.0" 429 0 "-" "-" 41 0.001 [default-http-80] [] - - - - 6a7c"#,
        "2026-07-30T10:11:12Z+0 GET / host= peer=2001:db8::1 for= scheme=None 429",
    );
    // `vhost_combined` of Debian's Apache.
    is(
        r#"www.example.com:443 203.0.113.7 - - [30/Jul/2026:10:11:12 +0000] "GET / HTTP/1.1" 200 5 "-" "-""#,
        "2026-07-30T10:11:12Z+0 GET / host=www.example.com:443 peer=203.0.113.7 for= scheme=None 200",
    );
    // What is shipped: the path is decoded.
    is(
        r#"2026-07-30T10:11:12+00:00 203.0.113.7 "GET /a b%\x22?" 200 tollgate=200 rule=data limit=- 2.345"#,
        "2026-07-30T10:11:10Z+0 GET /a%20b%25%22%3F host= peer=203.0.113.7 for= scheme=None 200",
    );
    // A user that looks like a time and a request, and a request with quotes.
    is(
        r#"1.2.3.4 - [10/Oct/2000:13:55:36 -0700] \x22GET [30/Jul/2026:10:11:12 +0000] "GET /\x22x\x22 HTTP/1.1" 200 5 "-" "say \"hi\"""#,
        "2026-07-30T10:11:12Z+0 GET /\"x\" host= peer=1.2.3.4 for= scheme=None 200 user-agent=say \"hi\"",
    );
}

#[test]
fn envoys_text() {
    // From Envoy's documentation.
    is(
        r#"[2016-04-15T20:17:00.310Z] "POST /api/v1/locations HTTP/2" 204 - 154 0 226 100 "10.0.35.28" "nsq2http" "cc21d9b0-cf5c-432b-8c7e-98aeb7988cd2" "locations" "tcp://10.0.2.1:80""#,
        "2016-04-15T20:17:00Z+310000 POST /api/v1/locations host=locations peer= for=10.0.35.28 scheme=None 204 user-agent=nsq2http",
    );
    // From Istio's documentation.
    is(
        r#"[2020-11-25T21:26:18.409Z] "GET /status/418 HTTP/1.1" 418 - via_upstream - "-" 0 135 3 1 "-" "curl/7.73.0-DEV" "84961386-6d84-929d-98bd-c5aee93b5c88" "httpbin:8000" "127.0.0.1:80" inbound|8000|| 127.0.0.1:41854 10.44.1.27:80 10.44.1.23:37652 outbound_.8000_._.httpbin.foo.svc.cluster.local default"#,
        "2020-11-25T21:26:18Z+409000 GET /status/418 host=httpbin:8000 peer= for= scheme=None 418 user-agent=curl/7.73.0-DEV",
    );
    // Envoy escapes nothing; an agent may have quotes.
    is(
        r#"[2016-04-15T20:17:00.310Z] "GET / HTTP/1.1" 200 - 0 5 1 1 "203.0.113.7" "a" "b" "c" "id" "app.test" "10.0.2.1:80""#,
        "2016-04-15T20:17:00Z+310000 GET / host=app.test peer= for=203.0.113.7 scheme=None 200 user-agent=a",
    );
    assert_eq!(
        seen(r#"[2016-04-15T20:17:00.310Z] "- - HTTP/1.1" 400 DPE 0 11 0 - "-" "-" "-" "-" "-""#),
        Err(Why::NoRequest)
    );
}

#[test]
fn json() {
    // From Caddy's documentation.
    is(
        r#"{"level":"info","ts":1646861401.5241024,"logger":"http.log.access","msg":"handled request","request":{"remote_ip":"127.0.0.1","remote_port":"41342","client_ip":"127.0.0.1","proto":"HTTP/2.0","method":"GET","host":"localhost","uri":"/","headers":{"User-Agent":["curl/7.82.0"],"Accept":["*/*"],"Accept-Encoding":["gzip, deflate, br"],"Authorization":["REDACTED"]},"tls":{"resumed":false,"version":772,"cipher_suite":4865,"proto":"h2","server_name":"example.com"}},"bytes_read": 0,"user_id":"","duration":0.000929675,"size":10900,"status":200,"resp_headers":{"Server":["Caddy"]}}"#,
        "2022-03-09T21:30:01Z+523173 GET / host=localhost peer=127.0.0.1 for= scheme=Some(\"https\") 200 user-agent=curl/7.82.0",
    );
    // What people have nginx write.
    is(
        r#"{"time_local":"30/Jul/2026:10:11:12 +0000","msec":"1785406272.250","remote_addr":"203.0.113.7","request":"GET /a?b=c HTTP/1.1","status":"200","request_time":"0.250","http_referrer":"","http_user_agent":"curl/8.5.0","http_x_api_key":"k-1","http_host":"api.example.com","scheme":"https"}"#,
        "2026-07-30T10:11:12Z+0 GET /a?b=c host=api.example.com peer=203.0.113.7 for= scheme=Some(\"https\") 200 user-agent=curl/8.5.0 x-api-key=k-1",
    );
    is(
        r#"{"time_iso8601":"2026-07-30T10:11:12+00:00","remote_addr":"203.0.113.7","request_method":"GET","uri":"/a b","args":"x=1","status":404}"#,
        "2026-07-30T10:11:12Z+0 GET /a%20b?x=1 host= peer=203.0.113.7 for= scheme=None 404",
    );
    // What is shipped for Envoy.
    is(
        r#"{"check_ms":"1","client":"203.0.113.7","details":"ext_authz_denied","duration_ms":4,"flags":"UAEX","limit":"data","method":"GET","path":"/data","rule":"data","status":429,"time":"2026-07-30T10:11:12.345Z"}"#,
        "2026-07-30T10:11:12Z+345000 GET /data host= peer=203.0.113.7 for= scheme=None 429",
    );
    // Istio's.
    is(
        r#"{"start_time":"2020-11-25T21:26:18.409Z","authority":"httpbin:8000","duration":3,"downstream_remote_address":"10.44.1.23:37652","method":"GET","path":"/status/418?x","protocol":"HTTP/1.1","response_code":418,"user_agent":"curl/7.73.0-DEV","x_forwarded_for":null}"#,
        "2020-11-25T21:26:18Z+409000 GET /status/418?x host=httpbin:8000 peer=10.44.1.23:37652 for= scheme=None 418 user-agent=curl/7.73.0-DEV",
    );
    for (line, why) in [
        (
            r#"{"level":"info","ts":1646861401.5,"msg":"serving"}"#,
            Why::NoRequest,
        ),
        (r#"{"time":"soon","method":"GET","path":"/"}"#, Why::Time),
        (r#"{"method":"GET","path":"/"}"#, Why::Time),
        (r#"{"ts":1646861401.5,"method":"GET"}"#, Why::NoRequest),
        (
            r#"{"ts":1646861401.5,"method":"GET","path":"/""#,
            Why::Format,
        ),
        (
            r#"{"ts":1646861401.5,"method":"GET","path":"/"} x"#,
            Why::Format,
        ),
        ("{}", Why::NoRequest),
        ("[]", Why::Format),
        ("{\"a\":", Why::Format),
        (&"[".repeat(60_000), Why::Format),
        (&"{\"request\":".repeat(6_000), Why::Format),
    ] {
        assert_eq!(seen(line), Err(why), "{line:.60}");
    }
    // nginx passes bytes on that are no text.
    let line =
        b"{\"msec\":1646861401,\"method\":\"GET\",\"path\":\"/\",\"http_user_agent\":\"\xff\"}";
    assert!(
        seen_as(Format::Auto, line)
            .unwrap()
            .contains("user-agent=\u{fffd}")
    );
}

#[test]
fn lines_that_are_broken_or_of_something_else() {
    for (line, why) in [
        ("", Why::Format),
        ("-", Why::Format),
        ("hello world", Why::Format),
        ("\"", Why::Format),
        ("\"\"", Why::Format),
        (
            r#"1.2.3.4 - - [30/Jul/2026:10:11:12 +0000] "GET / HT"#,
            Why::Format,
        ),
        (
            r#"1.2.3.4 - - [30/Foo/2026:10:11:12 +0000] "GET / HTTP/1.1" 200 5"#,
            Why::Time,
        ),
        (
            r#"1.2.3.4 - - [30/Jul/2026:10:11:12 +0000] "" 400 0 "-" "-""#,
            Why::NoRequest,
        ),
        (
            r#"1.2.3.4 - - [30/Jul/2026:10:11:12 +0000] "-" 408 0 "-" "-""#,
            Why::NoRequest,
        ),
        (
            r#"1.2.3.4 - - [30/Jul/2026:10:11:12 +0000] "\x16\x03\x01 \x00" 400 157 "-" "-""#,
            Why::NoRequest,
        ),
        (
            r#" - - [30/Jul/2026:10:11:12 +0000] "GET / HTTP/1.1" 200 5"#,
            Why::Format,
        ),
        ("[error] 31#31: *1 connect() failed", Why::Format),
        (
            r#"2026/07/30 10:11:12 [error] 31#31: *1 open() "/x" failed"#,
            Why::Format,
        ),
    ] {
        assert_eq!(seen(line), Err(why), "{line}");
    }
}

/// Whatever a line is, reading it does not panic.
#[test]
fn no_part_of_a_line_is_relied_on() {
    let lines = [
        r#"127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /a HTTP/1.0" 200 2326 "ref" "agent" "1.2.3.4""#,
        r#"2026-07-30T10:11:12+00:00 203.0.113.7 "GET /a" 200 tollgate=200 rule=data limit=- 2.345"#,
        r#"[2016-04-15T20:17:00.310Z] "POST /a HTTP/2" 204 - 154 0 226 100 "10.0.35.28" "a" "b" "c" "d""#,
        r#"{"ts":1646861401.5,"request":{"method":"GET","uri":"/","headers":{"User-Agent":["a"]}}}"#,
    ];
    let formats = Format::ALL;
    for line in lines {
        for at in 0..line.len() {
            for junk in [
                &b""[..],
                b"\"",
                b"\\",
                b"\xff",
                b" ",
                b"[",
                b"{\"a\":[[{}]]}",
            ] {
                let (head, tail) = line.as_bytes().split_at(at);
                for format in formats {
                    let _ = seen_as(format, &[head, junk].concat());
                    let _ = seen_as(format, &[head, junk, tail].concat());
                }
            }
        }
    }
}
