//! Reads a check: which contract it speaks, and the client's request in it.

use std::{borrow::Cow, fmt::Write as _, net::IpAddr, time::Duration};

use http::{HeaderName, Method, header::HOST};

use super::{
    fault::Fault,
    headers::{
        X_ENVOY_BUDGET, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_METHOD, X_FORWARDED_PROTO,
        X_FORWARDED_URI, X_ORIGINAL_METHOD, X_ORIGINAL_URL, X_REAL_IP,
    },
    refusal::Refusal,
};
use crate::{
    metrics::Contract as Endpoint,
    request::{
        Ambiguity, Attributes, ClientIpPolicy, PathPolicy, Scheme, normal_host, normal_method,
        query_of,
    },
    wire::{Headers, Request},
};

/// A check, understood.
#[derive(Debug)]
pub struct Check<'a> {
    /// Which contract it speaks.
    pub endpoint: Endpoint,
    /// The client's request.
    pub request: Attributes<'a>,
    /// How long the proxy will wait for the answer, if it said so.
    pub proxy_waits: Option<Duration>,
}

/// What the rule file says about reading requests.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// Which hop is the client.
    pub client_ip: &'a ClientIpPolicy,
    /// How paths are read.
    pub paths: PathPolicy,
}

/// Why a check was not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// The proxy is not configured as it should be.
    Fault(Fault),
    /// The client's request cannot be judged.
    Refused(Refusal, Endpoint),
}

/// Reads a check.
pub fn read<'a>(check: &'a Request, reading: Reading<'_>) -> Result<Check<'a>, Unreadable> {
    let endpoint = endpoint(check).map_err(Unreadable::Fault)?;
    let request = request(check, endpoint, reading).map_err(|problem| match problem {
        NotARequest::Fault(fault) => Unreadable::Fault(fault),
        NotARequest::Refused(refusal) => Unreadable::Refused(refusal, endpoint),
    })?;
    let budget = match endpoint {
        Endpoint::Check | Endpoint::Envoy => check.headers().get(&X_ENVOY_BUDGET),
        // ingress-nginx passes on what a client sends under this name.
        Endpoint::AuthRequest => None,
    };
    let budget = budget.and_then(|value| ascii(value)?.parse().ok());
    Ok(Check {
        endpoint,
        request,
        proxy_waits: budget.map(Duration::from_millis),
    })
}

/// Below this path, a check's target is the client's own.
const PREFIX: &str = "/v1/envoy";

/// Which contract a check speaks.
///
/// The path is compared as it came: normalising first would let a client's `/v1/envoy/../check`
/// change the endpoint.
fn endpoint(check: &Request) -> Result<Endpoint, Fault> {
    match check.path() {
        "/v1/check" => Ok(Endpoint::Check),
        "/v1/auth-request" => Ok(Endpoint::AuthRequest),
        path => match path.strip_prefix(PREFIX) {
            Some(original) if original.is_empty() || original.starts_with('/') => {
                Ok(Endpoint::Envoy)
            }
            _ if path == "/" => Err(Fault::Probe),
            _ if path.is_empty() && check.method() == "CONNECT" => Err(Fault::Tunnel),
            _ => Err(Fault::UnknownPath),
        },
    }
}

/// Why there is no request in a check.
enum NotARequest {
    Fault(Fault),
    Refused(Refusal),
}

impl From<Fault> for NotARequest {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Refusal> for NotARequest {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The client's request line and host, from where the contract has them.
struct RequestLine<'a> {
    method: Cow<'a, str>,
    scheme: Option<Scheme>,
    host: Cow<'a, str>,
    target: Cow<'a, str>,
}

fn request<'a>(
    check: &'a Request,
    endpoint: Endpoint,
    reading: Reading<'_>,
) -> Result<Attributes<'a>, NotARequest> {
    let line = match endpoint {
        Endpoint::Check => forwarded_line(check)?,
        Endpoint::AuthRequest => original_line(check)?,
        Endpoint::Envoy => own_line(check)?,
    };
    Ok(Attributes {
        with_parameters: reading.paths.with_parameters(&line.target),
        path: in_form(line.target.clone(), |target| {
            reading.paths.read(target).map_err(Refusal::Target)
        })?,
        query: in_form(line.target, |target| {
            Ok::<_, Refusal>(Cow::Borrowed(query_of(target)))
        })?,
        method: in_form(line.method, |method| {
            match Method::from_bytes(method.as_bytes()) {
                Ok(_) => Ok(normal_method(method)),
                Err(_) => Err(Refusal::Method),
            }
        })?,
        scheme: line.scheme,
        host: in_form(line.host, normal_host).map_err(|_| Refusal::Host)?,
        client_ip: client_ip(check.headers(), reading.client_ip)?,
        headers: check.headers(),
    })
}

/// The request line in the `X-Forwarded-` headers.
fn forwarded_line(check: &Request) -> Result<RequestLine<'_>, NotARequest> {
    let headers = check.headers();
    let host = match once(headers, &X_FORWARDED_HOST)? {
        None => authority(check)?,
        Some(value) => any_text(value),
    };
    let method = any_text(needed(headers, &X_FORWARDED_METHOD)?);
    let target = once(headers, &X_FORWARDED_URI)?.map_or(Ok(""), text)?;
    let target = Cow::Borrowed(target);
    let target = without_authority(&method, target);
    if target == "*" && !method.eq_ignore_ascii_case("OPTIONS") {
        return Err(Refusal::Target(Ambiguity::Form).into());
    }
    if target.is_empty() {
        return Err(Fault::MissingHeader(X_FORWARDED_URI).into());
    }
    Ok(RequestLine {
        method,
        scheme: forwarded_scheme(headers),
        host,
        target,
    })
}

/// The request line in the `X-Original-` headers of ingress-nginx.
fn original_line(check: &Request) -> Result<RequestLine<'_>, NotARequest> {
    let headers = check.headers();
    let method = any_text(needed(headers, &X_ORIGINAL_METHOD)?);
    let url = text(needed(headers, &X_ORIGINAL_URL)?)?;
    let split = |url: &str| {
        let scheme = url.find("://")?;
        let host = scheme + "://".len();
        let target = url[host..].find('/').map_or(url.len(), |at| host + at);
        Some((scheme, host, target))
    };
    let Some((scheme, host, target)) = split(url) else {
        return Err(Fault::MissingHeader(X_ORIGINAL_URL).into());
    };
    Ok(RequestLine {
        target: without_authority(&method, Cow::Borrowed(&url[target..])),
        method,
        scheme: Scheme::parse(&url[..scheme]),
        host: Cow::Borrowed(&url[host..target]),
    })
}

/// The request line of the check itself, without the prefix.
fn own_line(check: &Request) -> Result<RequestLine<'_>, NotARequest> {
    let target = check.path_and_query();
    Ok(RequestLine {
        method: Cow::Borrowed(check.method()),
        scheme: forwarded_scheme(check.headers()),
        host: authority(check)?,
        target: Cow::Borrowed(target.strip_prefix(PREFIX).unwrap_or(target)),
    })
}

/// `/` in place of the target of a request for a tunnel, which has no path (RFC 9110 §9.3.6).
///
/// A proxy may pass on a CONNECT that has one; that is a request like any other.
fn without_authority<'a>(method: &str, target: Cow<'a, str>) -> Cow<'a, str> {
    if method.eq_ignore_ascii_case("CONNECT") && !target.contains('/') {
        Cow::Borrowed("/")
    } else {
        target
    }
}

/// The scheme that the last proxy has reported.
fn forwarded_scheme(headers: &Headers) -> Option<Scheme> {
    let line = headers.get_all(&X_FORWARDED_PROTO).next_back()?;
    Scheme::parse(ascii(line)?.rsplit(',').next()?.trim())
}

/// The client's address, from the hops that the proxy reports.
fn client_ip(headers: &Headers, policy: &ClientIpPolicy) -> Result<Option<IpAddr>, Refusal> {
    // What is not text is no address.
    let real_ip = once(headers, &X_REAL_IP)?.map(|value| ascii(value).unwrap_or(""));
    let forwarded_for: Vec<&str> = match real_ip {
        // The common case costs nothing: the address that the proxy saw is the client's.
        Some(_) if policy.trusted_proxies.is_empty() => Vec::new(),
        _ => headers
            .get_all(&X_FORWARDED_FOR)
            .map(|value| ascii(value).unwrap_or("unreadable"))
            .collect(),
    };
    Ok(policy.client_ip(real_ip, &forwarded_for))
}

/// The host that the check was sent to; empty if there is none.
fn authority(check: &Request) -> Result<Cow<'_, str>, Refusal> {
    if let Some(authority) = check.authority() {
        return Ok(Cow::Borrowed(authority));
    }
    Ok(once(check.headers(), &HOST)?.map_or(Cow::Borrowed(""), any_text))
}

/// The value of a header that a check must have.
fn needed<'a>(headers: &'a Headers, name: &HeaderName) -> Result<&'a [u8], NotARequest> {
    match once(headers, name)? {
        Some(value) if !value.is_empty() => Ok(value),
        _ => Err(Fault::MissingHeader(name.clone()).into()),
    }
}

/// The value of a header that must not occur twice.
fn once<'a>(headers: &'a Headers, name: &HeaderName) -> Result<Option<&'a [u8]>, Refusal> {
    let mut values = headers.get_all(name);
    let value = values.next();
    if values.next().is_some() {
        return Err(Refusal::RepeatedHeader(name.clone()));
    }
    Ok(value)
}

/// The text of a header that has nothing but visible ASCII characters, spaces and tabs.
fn ascii(value: &[u8]) -> Option<&str> {
    let is_ascii = |byte: &u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t');
    let text = value.iter().all(is_ascii).then_some(value)?;
    std::str::from_utf8(text).ok()
}

/// The request target in a header. Bytes that are no UTF-8 make it ambiguous: some servers take A0
/// and 85, which are white space in Latin-1, for the end of the target.
fn text(value: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(value).map_err(|_| Refusal::Target(Ambiguity::Control))
}

/// The text of a header that the proxy copied from the client.
///
/// nginx passes raw bytes on. If they were a fault, a proxy that fails open would let the request
/// through; so bytes that are not text are percent-encoded, as in a path's normal form.
fn any_text(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii() {
            out.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    Cow::Owned(out)
}

/// Applies `form`, which borrows from its argument, to a text that may be owned.
fn in_form<E>(
    text: Cow<'_, str>,
    form: impl for<'b> FnOnce(&'b str) -> Result<Cow<'b, str>, E>,
) -> Result<Cow<'_, str>, E> {
    match text {
        Cow::Borrowed(text) => form(text),
        Cow::Owned(text) => form(&text).map(|form| Cow::Owned(form.into_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: &str, target: &str, headers: &[(&str, &str)]) -> Request {
        Request::of(method, target, headers).unwrap()
    }

    /// A check with fields that are no text.
    fn raw(target: &str, fields: &[(&str, &[u8])]) -> Request {
        let mut head = format!("GET {target} HTTP/1.1\r\n").into_bytes();
        for (name, value) in fields {
            head.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        head.extend(b"\r\n");
        Request::parse(head).unwrap().0
    }

    fn try_read(parts: &Request) -> Result<Check<'_>, Unreadable> {
        let reading = Reading {
            client_ip: &ClientIpPolicy::default(),
            paths: PathPolicy::default(),
        };
        read(parts, reading)
    }

    fn refused(parts: &Request) -> Refusal {
        match try_read(parts) {
            Err(Unreadable::Refused(refusal, _)) => refusal,
            other => panic!("{other:?}"),
        }
    }

    fn seen(parts: &Request) -> Result<String, Unreadable> {
        try_read(parts).map(|check| {
            let r = check.request;
            let ip = r.client_ip.map_or("-".to_owned(), |ip| ip.to_string());
            format!(
                "{} {} {} {} {ip}",
                check.endpoint.as_str(),
                r.method,
                r.host,
                r.path
            )
        })
    }

    const URI: (&str, &str) = ("x-forwarded-uri", "/data?x=1");
    const METHOD: (&str, &str) = ("x-forwarded-method", "POST");

    #[test]
    fn fixed_paths_read_the_forwarded_headers() {
        let nginx = [
            URI,
            METHOD,
            ("host", "rl"),
            ("x-forwarded-host", "Api.example.com:80"),
            ("x-real-ip", "192.0.2.7"),
        ];
        assert_eq!(
            seen(&parts("HEAD", "/v1/check", &nginx)).unwrap(),
            "check POST api.example.com /data 192.0.2.7"
        );
        let envoy = [URI, METHOD, ("host", "api.example.com")];
        assert_eq!(
            seen(&parts("GET", "/v1/check", &envoy)).unwrap(),
            "check POST api.example.com /data -"
        );
    }

    #[test]
    fn bytes_that_are_not_text_do_not_avoid_a_limit() {
        let (uri, method) = (
            ("x-forwarded-uri", &b"/data"[..]),
            ("x-forwarded-method", &b"GET"[..]),
        );
        // To Python, A0 and 85 end the target.
        for target in [&b"/data\xa0"[..], b"/data\x85", b"/data?x=\xfe"] {
            let check = raw("/v1/check", &[method, ("x-forwarded-uri", target)]);
            assert_eq!(refused(&check), Refusal::Target(Ambiguity::Control));
            let url = [b"http://h", target].concat();
            let method = ("x-original-method", &b"GET"[..]);
            let check = raw("/v1/auth-request", &[method, ("x-original-url", &url)]);
            assert_eq!(refused(&check), Refusal::Target(Ambiguity::Control));
        }
        let check = |name, value| {
            let fields = [uri, method, (name, value)];
            raw("/v1/check", &fields)
        };
        let address = check("x-real-ip", &b"\xff"[..]);
        assert_eq!(seen(&address).unwrap(), "check GET  /data -");
        let host = check("x-forwarded-host", b"Api\xff.example.com:80");
        assert_eq!(refused(&host), Refusal::Host);
        let method = raw("/v1/check", &[uri, ("x-forwarded-method", b"PO(ST\xff")]);
        assert_eq!(refused(&method), Refusal::Method);
    }

    #[test]
    fn the_query_is_the_clients() {
        let query = |parts: &Request| {
            let check = try_read(parts).unwrap();
            check.request.query.into_owned()
        };
        let check = |uri: &str| {
            let headers = [METHOD, ("x-forwarded-uri", uri)];
            query(&parts("GET", "/v1/check?not=this", &headers))
        };
        assert_eq!(check("/data?x=1&y=a+b"), "x=1&y=a+b");
        assert_eq!(check("/data"), "");
        let envoy = |target: &str| query(&parts("GET", target, &[URI, METHOD]));
        assert_eq!(envoy("/v1/envoy/data?y=2&z"), "y=2&z");
        assert_eq!(envoy("/v1/envoy?y=2"), "y=2");
        assert_eq!(envoy("/v1/envoy/data"), "");
    }

    #[test]
    fn the_query_of_a_fixed_path_is_ignored() {
        let check = parts(
            "GET",
            "/v1/check?x-forwarded-uri=/other&x=1",
            &[URI, METHOD],
        );
        assert_eq!(seen(&check).unwrap(), "check POST  /data -");
    }

    #[test]
    fn the_prefix_contract_reads_the_request_line_and_ignores_forwarded_ones() {
        let spoofed = [
            URI,
            METHOD,
            ("x-forwarded-host", "evil"),
            ("host", "api"),
            ("x-real-ip", "192.0.2.7"),
        ];
        assert_eq!(
            seen(&parts("GET", "/v1/envoy/x//log%69n/?a", &spoofed)).unwrap(),
            "envoy GET api /x/login 192.0.2.7"
        );
        assert_eq!(
            seen(&parts("GET", "/v1/envoy", &spoofed)).unwrap(),
            "envoy GET api / 192.0.2.7"
        );
        assert_eq!(
            seen(&parts("GET", "/v1/envoy/v1/check", &spoofed)).unwrap(),
            "envoy GET api /v1/check 192.0.2.7"
        );
    }

    #[test]
    fn a_client_cannot_turn_one_endpoint_into_another() {
        let spoofed = [URI, METHOD];
        let climbing = parts("GET", "/v1/envoy/../check", &spoofed);
        assert_eq!(refused(&climbing), Refusal::Target(Ambiguity::DotSegment));
        for path in [
            "/metrics",
            "/v1/envoyx",
            "/v1/check/",
            "/v1/Check",
            "//v1/check",
        ] {
            assert_eq!(
                seen(&parts("GET", path, &spoofed)),
                Err(Unreadable::Fault(Fault::UnknownPath)),
                "{path}"
            );
        }
    }

    #[test]
    fn what_is_no_check_has_a_fault_of_its_own() {
        for (method, target, fault) in [
            ("GET", "/", Fault::Probe),
            ("CONNECT", "other.test:443", Fault::Tunnel),
            ("GET", "/data", Fault::UnknownPath),
        ] {
            let check = parts(method, target, &[("host", "app.test")]);
            assert_eq!(seen(&check), Err(Unreadable::Fault(fault)), "{target}");
        }
    }

    #[test]
    fn headers_that_the_proxy_must_set_are_needed_once() {
        let check = |headers: &[(&str, &str)]| parts("GET", "/v1/check", headers);
        let missing = |headers: &[(&str, &str)], name| {
            let fault = Fault::MissingHeader(name);
            assert_eq!(seen(&check(headers)), Err(Unreadable::Fault(fault)));
        };
        missing(&[METHOD], X_FORWARDED_URI);
        missing(&[METHOD, ("x-forwarded-uri", "")], X_FORWARDED_URI);
        missing(&[URI], X_FORWARDED_METHOD);
        // Twice: the client may have sent one of them, so it must not be an error.
        for twice in ["x-forwarded-uri", "x-forwarded-method", "x-real-ip", "host"] {
            let headers = [URI, METHOD, (twice, "/other"), (twice, "/another")];
            assert!(
                matches!(refused(&check(&headers)), Refusal::RepeatedHeader(name) if name == twice),
                "{twice}"
            );
        }
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        let hosts = ["a.test, b.test", "a:b:c", "::1", "a@b"];
        for host in hosts {
            let headers = [URI, METHOD, ("x-forwarded-host", host)];
            assert_eq!(
                refused(&parts("GET", "/v1/check", &headers)),
                Refusal::Host,
                "{host}"
            );
            let headers = [("host", host)];
            assert_eq!(
                refused(&parts("GET", "/v1/envoy/x", &headers)),
                Refusal::Host,
                "{host}"
            );
        }
        let target = |target: &str| {
            let headers = [METHOD, ("x-forwarded-uri", target)];
            refused(&parts("GET", "/v1/check", &headers))
        };
        assert_eq!(target("/#/../data"), Refusal::Target(Ambiguity::Fragment));
        assert_eq!(target("/a%2Fb"), Refusal::Target(Ambiguity::EncodedSlash));
        assert_eq!(
            refused(&parts("GET", "/v1/envoy/x/..;/data", &[])),
            Refusal::Target(Ambiguity::DotSegment)
        );
    }

    #[test]
    fn a_tunnel_has_no_path() {
        let connect = ("x-forwarded-method", "CONNECT");
        let host = ("host", "db.example.com:443");
        for headers in [
            &[connect, host][..],
            &[connect, host, ("x-forwarded-uri", "")],
            &[connect, host, ("x-forwarded-uri", "db.example.com:443")],
        ] {
            assert_eq!(
                seen(&parts("GET", "/v1/check", headers)).unwrap(),
                "check CONNECT db.example.com / -"
            );
        }
    }

    #[test]
    fn a_connect_with_a_path_is_a_request_for_that_path() {
        for method in ["CONNECT", "connect"] {
            let connect = ("x-forwarded-method", method);
            for target in ["/data", "http://h/data"] {
                let headers = [connect, ("x-forwarded-uri", target)];
                assert_eq!(
                    seen(&parts("GET", "/v1/check", &headers)).unwrap(),
                    "check CONNECT  /data -",
                    "{target}"
                );
            }
            let url = ("x-original-url", "http://h/data");
            let headers = [("x-original-method", method), url];
            assert_eq!(
                seen(&parts("GET", "/v1/auth-request", &headers)).unwrap(),
                "auth_request CONNECT h /data -"
            );
            let headers = [connect, ("x-forwarded-uri", "x:/data")];
            assert_eq!(
                refused(&parts("GET", "/v1/check", &headers)),
                Refusal::Target(Ambiguity::Form)
            );
        }
    }

    #[test]
    fn case_of_a_method_does_not_matter() {
        let headers = [URI, ("x-forwarded-method", "pOst")];
        let check = parts("GET", "/v1/check", &headers);
        assert_eq!(seen(&check).unwrap(), "check POST  /data -");
    }

    #[test]
    fn ingress_nginx_sends_the_whole_url() {
        let seen = |url: &str| {
            let headers = [
                ("x-original-url", url),
                ("x-original-method", "POST"),
                ("host", "tollgate"),
                // A client's own: ingress-nginx passes them on.
                ("x-forwarded-host", "evil"),
                ("x-forwarded-method", "GET"),
                ("x-forwarded-uri", "/evil"),
                ("x-forwarded-proto", ""),
            ];
            let check = parts("GET", "/v1/auth-request", &headers);
            let scheme = try_read(&check).ok().and_then(|check| check.request.scheme);
            seen(&check).map(|seen| format!("{seen} {}", scheme.map_or("-", Scheme::as_str)))
        };
        assert_eq!(
            seen("https://Api.example.com:8443/data?x=1").unwrap(),
            "auth_request POST api.example.com /data - https"
        );
        assert_eq!(
            seen("http://h/a?next=http://x/").unwrap(),
            "auth_request POST h /a - http"
        );
        // A request of HTTP/1.0 without a host.
        assert_eq!(
            seen("http:///data").unwrap(),
            "auth_request POST  /data - http"
        );
        assert_eq!(seen("http://h").unwrap(), "auth_request POST h / - http");
        for host in ["a?b", "a#b", "a,b", "u@a"] {
            let refused = Unreadable::Refused(Refusal::Host, Endpoint::AuthRequest);
            assert_eq!(seen(&format!("http://{host}/data")), Err(refused), "{host}");
        }
        let missing = Unreadable::Fault(Fault::MissingHeader(X_ORIGINAL_URL));
        assert_eq!(seen("/data"), Err(missing));
    }

    #[test]
    fn the_scheme_is_what_the_last_proxy_says() {
        let scheme = |lines: &[&str]| {
            let lines = lines.iter().map(|line| ("x-forwarded-proto", *line));
            let headers: Vec<_> = [URI, METHOD].into_iter().chain(lines).collect();
            let check = parts("GET", "/v1/check", &headers);
            try_read(&check).unwrap().request.scheme
        };
        assert_eq!(scheme(&["https"]), Some(Scheme::Https));
        assert_eq!(scheme(&["HTTP"]), Some(Scheme::Http));
        assert_eq!(scheme(&["wss"]), Some(Scheme::Https));
        assert_eq!(scheme(&["https, http"]), Some(Scheme::Http));
        assert_eq!(scheme(&["https", "http"]), Some(Scheme::Http));
        assert_eq!(scheme(&["gopher"]), None);
        assert_eq!(scheme(&[]), None);
    }

    #[test]
    fn the_budget_of_the_proxy_is_read() {
        let check = parts(
            "GET",
            "/v1/envoy/",
            &[("x-envoy-expected-rq-timeout-ms", "250")],
        );
        let waits = try_read(&check).unwrap().proxy_waits;
        assert_eq!(waits, Some(Duration::from_millis(250)));
        let check = parts(
            "GET",
            "/v1/envoy/",
            &[("x-envoy-expected-rq-timeout-ms", "soon")],
        );
        assert_eq!(try_read(&check).unwrap().proxy_waits, None);
        let headers = [
            ("x-original-url", "http://h/"),
            ("x-original-method", "GET"),
            ("x-envoy-expected-rq-timeout-ms", "1"),
        ];
        let check = parts("GET", "/v1/auth-request", &headers);
        assert_eq!(try_read(&check).unwrap().proxy_waits, None);
    }
}
