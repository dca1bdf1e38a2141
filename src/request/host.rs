//! The normal form of a request's host.

use std::{borrow::Cow, net::Ipv6Addr};

/// A text that is not a host: no server can be meant by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAHost;

/// The host of a request in normal form: in lower case, without port and trailing dot.
///
/// A name in another script is written in ASCII (UTS #46: `bücher.example` is
/// `xn--bcher-kva.example`), an IPv6 address in brackets and in its short form (RFC 5952).
///
/// What different servers could read differently is not a host: two of them with a comma, a user
/// before an `@`, more than one port, an empty label, more characters than DNS allows, or one that
/// no name has. An empty text is no host either, but an allowed one: HTTP/1.0 knows requests
/// without.
pub fn normal_host(host: &str) -> Result<Cow<'_, str>, NotAHost> {
    if let Some(rest) = host.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or(NotAHost)?;
        let address: Ipv6Addr = address.parse().map_err(|_| NotAHost)?;
        return match after.strip_prefix(':') {
            Some(port) if is_port(port) => Ok(Cow::Owned(format!("[{address}]"))),
            None if after.is_empty() => Ok(Cow::Owned(format!("[{address}]"))),
            _ => Err(NotAHost),
        };
    }
    let name = match host.split_once(':') {
        Some((name, port)) if is_port(port) => name,
        Some(_) => return Err(NotAHost),
        None => host,
    };
    if !name.is_ascii() {
        // Punycode is never shorter.
        if name.chars().nth(MAX_CHARS + 1).is_some() {
            return Err(NotAHost);
        }
        let ascii = idna::domain_to_ascii(name).map_err(|_| NotAHost)?;
        return Ok(Cow::Owned(ascii_name(&ascii)?.into_owned()));
    }
    ascii_name(name)
}

/// The longest name, without the dot at its end (RFC 1035 §2.3.4). Without a bound, the conversion
/// of a name to ASCII takes as long as a client likes: milliseconds for 8 kB.
const MAX_CHARS: usize = 253;

/// An empty port is that of the scheme (RFC 3986 §3.2.3).
fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

fn ascii_name(name: &str) -> Result<Cow<'_, str>, NotAHost> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() > MAX_CHARS {
        return Err(NotAHost);
    }
    let mut label_is_empty = true;
    let mut has_upper = false;
    for byte in name.bytes() {
        match byte {
            b'.' if label_is_empty => return Err(NotAHost),
            b'.' => label_is_empty = true,
            // Names of containers and of old machines have underscores.
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => label_is_empty = false,
            b'A'..=b'Z' => (label_is_empty, has_upper) = (false, true),
            _ => return Err(NotAHost),
        }
    }
    if label_is_empty && !name.is_empty() {
        return Err(NotAHost);
    }
    if has_upper {
        Ok(Cow::Owned(name.to_ascii_lowercase()))
    } else {
        Ok(Cow::Borrowed(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_lose_port_dot_and_case() {
        for (host, expected) in [
            ("api.example.com", "api.example.com"),
            ("API.Example.com:8080", "api.example.com"),
            ("api.example.com.", "api.example.com"),
            ("api.example.com.:443", "api.example.com"),
            ("api.example.com:", "api.example.com"),
            ("[2001:db8::1]:80", "[2001:db8::1]"),
            ("[2001:DB8:0::1]", "[2001:db8::1]"),
            ("B\u{dc}CHER.example:80", "xn--bcher-kva.example"),
            (
                "b\u{fc}cher\u{3002}example\u{3002}",
                "xn--bcher-kva.example",
            ),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("some_container", "some_container"),
            ("", ""),
            (":80", ""),
        ] {
            assert_eq!(normal_host(host).as_deref(), Ok(expected), "{host:?}");
        }
    }

    #[test]
    fn what_could_be_read_as_another_host_is_none() {
        for host in [
            "a.test, b.test",
            "a.test,b.test",
            "a:b:c",
            "::1",
            "a.test:80:90",
            "a.test:80@b.test",
            "user@a.test",
            "a.test:x",
            "[::1",
            "[::1]x",
            "[a.test]",
            "[fe80::1%25eth0]",
            "a..test",
            ".a.test",
            "a.test..",
            "a.test/x",
            "a.test\\b",
            "a.test?x",
            "a.test#x",
            "a test",
            "a%2etest",
            "a\u{ad}\u{0}b",
        ] {
            assert_eq!(normal_host(host), Err(NotAHost), "{host:?}");
        }
    }

    #[test]
    fn a_name_is_as_long_as_in_dns() {
        let longest = format!("{}a.test", "a.".repeat(124));
        assert_eq!(longest.len() - 1, MAX_CHARS);
        let longest = &longest[1..];
        let dotted = format!("x{}.:80", &longest[1..]);
        assert!(normal_host(&dotted).is_ok());
        for host in [
            format!("xx{longest}"),
            "\u{fc}".repeat(MAX_CHARS),
            "\u{fc}.".repeat(30_000),
        ] {
            assert_eq!(normal_host(&host), Err(NotAHost), "{} bytes", host.len());
        }
    }
}
