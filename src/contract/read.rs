//! Reads a check: which contract it speaks, and the client's request in it.

use std::{borrow::Cow, fmt::Write as _, net::IpAddr, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header::HOST, request::Parts};

use super::{
    fault::Fault,
    headers::{
        X_ENVOY_BUDGET, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_METHOD, X_FORWARDED_URI,
        X_REAL_IP,
    },
};
use crate::{
    metrics::Contract as Endpoint,
    request::{Attributes, ClientIpPolicy, normal_host, normal_path, query_of},
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

/// Reads a check.
pub fn read<'a>(parts: &'a Parts, policy: &ClientIpPolicy) -> Result<Check<'a>, Fault> {
    let headers = &parts.headers;
    let (endpoint, line) = request_line(parts)?;
    let budget = headers.get(X_ENVOY_BUDGET);
    let budget = budget.and_then(|value| value.to_str().ok()?.parse().ok());
    Ok(Check {
        endpoint,
        request: Attributes {
            method: line.method,
            host: normal(line.host, normal_host),
            path: normal(line.path, normal_path),
            query: line.query,
            client_ip: client_ip(headers, policy)?,
            headers,
        },
        proxy_waits: budget.map(Duration::from_millis),
    })
}

/// The client's request line and host, from where the contract has them.
struct RequestLine<'a> {
    method: &'a str,
    host: Cow<'a, str>,
    /// Not yet in normal form, and possibly with the query.
    path: Cow<'a, str>,
    query: Cow<'a, str>,
}

/// Which contract a check speaks, and the request line that it describes.
fn request_line(parts: &Parts) -> Result<(Endpoint, RequestLine<'_>), Fault> {
    // The path is compared as it came: normalising first would let a client's `/v1/envoy/../check`
    // change the endpoint.
    match parts.uri.path() {
        "/v1/check" => Ok((Endpoint::Check, forwarded_line(parts)?)),
        "/v1/auth-request" => Ok((Endpoint::AuthRequest, forwarded_line(parts)?)),
        path => match path.strip_prefix("/v1/envoy") {
            Some(original) if original.is_empty() || original.starts_with('/') => {
                let line = RequestLine {
                    method: parts.method.as_str(),
                    host: authority(parts)?,
                    path: Cow::Borrowed(original),
                    query: Cow::Borrowed(parts.uri.query().unwrap_or_default()),
                };
                Ok((Endpoint::Envoy, line))
            }
            _ => Err(Fault::UnknownPath),
        },
    }
}

/// The request line in the headers of a check on a fixed path.
fn forwarded_line(parts: &Parts) -> Result<RequestLine<'_>, Fault> {
    let headers = &parts.headers;
    let host = match once(headers, &X_FORWARDED_HOST)? {
        None => authority(parts)?,
        Some(value) => any_text(value),
    };
    let method = text(needed(headers, &X_FORWARDED_METHOD)?, &X_FORWARDED_METHOD)?;
    let target = any_text(needed(headers, &X_FORWARDED_URI)?);
    Ok(RequestLine {
        method,
        host,
        query: normal(target.clone(), |target| Cow::Borrowed(query_of(target))),
        path: target,
    })
}

/// The client's address, from the hops that the proxy reports.
fn client_ip(headers: &HeaderMap, policy: &ClientIpPolicy) -> Result<Option<IpAddr>, Fault> {
    let real_ip = match once(headers, &X_REAL_IP)? {
        Some(value) => Some(text(value, &X_REAL_IP)?),
        None => None,
    };
    let forwarded_for: Vec<&str> = match real_ip {
        // The common case costs nothing: the address that the proxy saw is the client's.
        Some(_) if policy.trusted_proxies.is_empty() => Vec::new(),
        _ => {
            let lines = headers.get_all(X_FORWARDED_FOR).iter();
            lines.map(|value| value.to_str().unwrap_or("")).collect()
        }
    };
    Ok(policy.client_ip(real_ip, &forwarded_for))
}

/// The host that the check was sent to: `:authority` over HTTP/2, `Host` over HTTP/1; empty if
/// there is none.
fn authority(parts: &Parts) -> Result<Cow<'_, str>, Fault> {
    if let Some(authority) = parts.uri.authority() {
        return Ok(Cow::Borrowed(authority.as_str()));
    }
    Ok(once(&parts.headers, &HOST)?.map_or(Cow::Borrowed(""), any_text))
}

/// The value of a header that a check must have.
fn needed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a HeaderValue, Fault> {
    match once(headers, name)? {
        Some(value) if !value.is_empty() => Ok(value),
        _ => Err(Fault::MissingHeader(name.clone())),
    }
}

/// The value of a header that must not occur twice.
fn once<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Fault> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() {
        return Err(Fault::RepeatedHeader(name.clone()));
    }
    Ok(value)
}

/// The text of a header that the proxy itself wrote. Anything but text is the proxy's fault.
fn text<'a>(value: &'a HeaderValue, name: &HeaderName) -> Result<&'a str, Fault> {
    std::str::from_utf8(value.as_bytes()).map_err(|_| Fault::UnreadableHeader(name.clone()))
}

/// The text of a header that the proxy copied from the client.
///
/// nginx passes raw bytes on. If they were a fault, a proxy that fails open would let the request
/// through; so bytes that are not text are percent-encoded, as in a path's normal form.
fn any_text(value: &HeaderValue) -> Cow<'_, str> {
    let bytes = value.as_bytes();
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

fn normal(value: Cow<'_, str>, form: fn(&str) -> Cow<'_, str>) -> Cow<'_, str> {
    match value {
        Cow::Borrowed(text) => form(text),
        Cow::Owned(text) => Cow::Owned(form(&text).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn seen(parts: &Parts) -> Result<String, Fault> {
        read(parts, &ClientIpPolicy::default()).map(|check| {
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
        assert_eq!(
            seen(&parts("HEAD", "/v1/auth-request", &nginx)).unwrap(),
            "auth_request POST api.example.com /data 192.0.2.7"
        );
        let envoy = [URI, METHOD, ("host", "api.example.com")];
        assert_eq!(
            seen(&parts("GET", "/v1/check", &envoy)).unwrap(),
            "check POST api.example.com /data -"
        );
    }

    #[test]
    fn bytes_that_are_not_text_do_not_avoid_a_limit() {
        let mut check = parts("GET", "/v1/check", &[METHOD]);
        let raw = |bytes: &[u8]| HeaderValue::from_bytes(bytes).unwrap();
        check
            .headers
            .insert(X_FORWARDED_URI, raw(b"/d\xffta?x=\xfe"));
        check
            .headers
            .insert(X_FORWARDED_HOST, raw(b"Api\xff.example.com:80"));
        assert_eq!(
            seen(&check).unwrap(),
            "check POST api%ff.example.com /d%FFta -"
        );
        check.headers.insert(X_REAL_IP, raw(b"\xff"));
        assert_eq!(seen(&check), Err(Fault::UnreadableHeader(X_REAL_IP)));
    }

    #[test]
    fn the_query_is_the_clients() {
        let query = |parts: &Parts| {
            let check = read(parts, &ClientIpPolicy::default()).unwrap();
            check.request.query.into_owned()
        };
        let check = |uri: &str| {
            let headers = [METHOD, ("x-forwarded-uri", uri)];
            query(&parts("GET", "/v1/check?not=this", &headers))
        };
        assert_eq!(check("/data?x=1&y=a+b#f?"), "x=1&y=a+b");
        assert_eq!(check("/data"), "");
        assert_eq!(check("/data#f?x=1"), "");
        let envoy = |target: &str| query(&parts("GET", target, &[URI, METHOD]));
        assert_eq!(envoy("/v1/envoy/data?y=2&z"), "y=2&z");
        assert_eq!(envoy("/v1/envoy?y=2"), "y=2");
        assert_eq!(envoy("/v1/envoy/data"), "");

        let mut raw = parts("GET", "/v1/check", &[METHOD]);
        let uri = HeaderValue::from_bytes(b"/data?x=\xfe&y=1").unwrap();
        raw.headers.insert(X_FORWARDED_URI, uri);
        assert_eq!(query(&raw), "x=%FE&y=1");
        let seen = read(&raw, &ClientIpPolicy::default()).unwrap().request;
        assert_eq!(seen.query_value("x").as_deref(), Some(&b"\xfe"[..]));
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
            seen(&parts("GET", "/v1/envoy/x/../login?a", &spoofed)).unwrap(),
            "envoy GET api /login 192.0.2.7"
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
        assert_eq!(
            seen(&parts("GET", "/v1/envoy/../check", &spoofed)).unwrap(),
            "envoy GET  /check -"
        );
        for path in [
            "/metrics",
            "/v1/envoyx",
            "/v1/check/",
            "/v1/Check",
            "//v1/check",
            "/",
        ] {
            assert_eq!(
                seen(&parts("GET", path, &spoofed)),
                Err(Fault::UnknownPath),
                "{path}"
            );
        }
    }

    #[test]
    fn headers_that_the_proxy_must_set_are_needed_once() {
        let fault =
            |headers: &[(&str, &str)]| seen(&parts("GET", "/v1/check", headers)).unwrap_err();
        assert_eq!(fault(&[METHOD]), Fault::MissingHeader(X_FORWARDED_URI));
        assert_eq!(fault(&[URI]), Fault::MissingHeader(X_FORWARDED_METHOD));
        assert_eq!(
            fault(&[URI, METHOD, ("x-forwarded-uri", "/other")]),
            Fault::RepeatedHeader(X_FORWARDED_URI)
        );
        assert_eq!(
            fault(&[
                URI,
                METHOD,
                ("x-real-ip", "1.1.1.1"),
                ("x-real-ip", "2.2.2.2")
            ]),
            Fault::RepeatedHeader(X_REAL_IP)
        );
    }

    #[test]
    fn the_budget_of_the_proxy_is_read() {
        let check = parts(
            "GET",
            "/v1/envoy/",
            &[("x-envoy-expected-rq-timeout-ms", "250")],
        );
        let waits = read(&check, &ClientIpPolicy::default())
            .unwrap()
            .proxy_waits;
        assert_eq!(waits, Some(Duration::from_millis(250)));
        let check = parts(
            "GET",
            "/v1/envoy/",
            &[("x-envoy-expected-rq-timeout-ms", "soon")],
        );
        assert_eq!(
            read(&check, &ClientIpPolicy::default())
                .unwrap()
                .proxy_waits,
            None
        );
    }
}
