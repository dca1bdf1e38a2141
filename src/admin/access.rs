//! Who may change counters, or see those of all callers, over the admin port.
//!
//! Whoever reaches the port may look at the rest. To change something, a port that only this
//! machine reaches (a loopback address or a Unix socket) asks for nothing more, unless there are
//! tokens. Any other one asks for a token.
//!
//! A browser on the same machine reaches a loopback address too, and any site can have it send a
//! request there. So a change must say `Content-Type: application/json`, which a browser sends to
//! another site only after asking it first (the Fetch Standard, "CORS-preflight request"). And
//! where nothing else is asked for, the port must have been asked by its address, because a site's
//! own name can be made to mean it.

use std::{fs, net::IpAddr, path::PathBuf};

use http::{
    HeaderName, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
};

use super::answer;
use crate::{
    hash::HashKey,
    jitter,
    wire::{Request, Response},
};

/// Who may change counters.
#[derive(Debug, Clone)]
pub struct Access {
    /// The file with the tokens, if there is one.
    pub tokens: Option<PathBuf>,
    /// Whether only this machine reaches the port.
    pub is_local: bool,
}

/// The name of whoever changes something without a token.
const LOCAL: &str = "local";

/// The shortest token, in characters.
const MIN_TOKEN: usize = 16;

impl Access {
    /// Who wants to change something, by the name of the token; or the response if they may not.
    pub(super) fn check(&self, request: &Request) -> Result<String, Response> {
        let content_type = header(request, &CONTENT_TYPE);
        if content_type.split(';').next().map(str::trim) != Some("application/json") {
            return Err(refusal(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "this needs `Content-Type: application/json`",
            ));
        }
        self.check_reader(request)
    }

    /// Who wants to see callers, by the name of the token; or the response if they may not. To be
    /// asked by `GET`: no browser shows the answer to another site's page, so no content type is
    /// asked for.
    pub(super) fn check_reader(&self, request: &Request) -> Result<String, Response> {
        let Some(file) = &self.tokens else {
            if !self.is_local {
                return Err(refusal(
                    StatusCode::FORBIDDEN,
                    "this needs a token, because others than this machine reach the port\n\
                     hint: start tollgate with --admin-tokens FILE, with a line `NAME TOKEN` for each person",
                ));
            }
            if !is_address(&header(request, &HOST)) {
                return Err(refusal(
                    StatusCode::FORBIDDEN,
                    "without tokens, this must be asked for by the address of the port, not by a name",
                ));
            }
            return Ok(LOCAL.to_owned());
        };
        let text = fs::read_to_string(file).map_err(|error| {
            let text = format!("the tokens in {} cannot be read: {error}", file.display());
            refusal(StatusCode::SERVICE_UNAVAILABLE, &text)
        })?;
        let authorization = header(request, &AUTHORIZATION);
        let given = authorization
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim());
        let owner = given.and_then(|given| owner(&text, given));
        owner.map(str::to_owned).ok_or_else(|| {
            let mut refusal = refusal(
                StatusCode::UNAUTHORIZED,
                "this needs a token: `Authorization: Bearer TOKEN`, with one of --admin-tokens",
            );
            refusal.set("www-authenticate", "Bearer");
            refusal
        })
    }
}

fn header(request: &Request, name: &HeaderName) -> String {
    let value = request.headers().get(name).unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
}

/// The name of the token, if it is one of the file's. Hashes are compared, so that the time that it
/// takes says nothing about a token.
fn owner<'a>(text: &'a str, given: &str) -> Option<&'a str> {
    let key = HashKey::new(&jitter::up_to(u64::MAX).to_le_bytes());
    let hash = |token: &str| {
        let mut out = String::new();
        key.push_hash(&mut out, token.as_bytes());
        out
    };
    let given = hash(given);
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut tokens = lines.filter_map(|line| line.split_once(char::is_whitespace));
    tokens.find_map(|(name, token)| {
        let token = token.trim();
        (token.len() >= MIN_TOKEN && hash(token) == given).then_some(name)
    })
}

/// Whether a `Host` is an address or this machine's own name for itself.
fn is_address(host: &str) -> bool {
    let without_port = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    without_port == "localhost" || without_port.parse::<IpAddr>().is_ok()
}

fn refusal(status: StatusCode, text: &str) -> Response {
    answer::text(status, format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");

    fn check(access: &Access, headers: &[(&str, &str)]) -> Result<String, u16> {
        let request = Request::of("POST", "/counters/reset", headers).unwrap();
        let checked = access.check(&request);
        checked.map_err(|refusal| refusal.status().as_u16())
    }

    #[test]
    fn a_port_of_this_machine_may_be_used_but_not_by_what_a_browser_brings_along() {
        let access = Access {
            tokens: None,
            is_local: true,
        };
        for host in [
            "127.0.0.1:8082",
            "[::1]:8082",
            "localhost:8082",
            "localhost",
        ] {
            assert_eq!(
                check(&access, &[("host", host), JSON]),
                Ok("local".to_owned())
            );
        }
        for host in ["evil.example:8082", "127.0.0.1.evil.example", ""] {
            assert_eq!(check(&access, &[("host", host), JSON]), Err(403), "{host}");
        }
        let read = |host| {
            let request = Request::of("GET", "/offenders", &[("host", host)]).unwrap();
            let checked = access.check_reader(&request);
            checked.map_err(|refusal| refusal.status().as_u16())
        };
        assert_eq!(read("127.0.0.1:8082"), Ok("local".to_owned()));
        assert_eq!(read("evil.example:8082"), Err(403));
        let plain = ("content-type", "text/plain");
        assert_eq!(check(&access, &[("host", "127.0.0.1"), plain]), Err(415));
        assert_eq!(check(&access, &[("host", "127.0.0.1")]), Err(415));
    }

    #[test]
    fn a_port_that_others_reach_needs_a_token() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens");
        fs::write(
            &file,
            "# people\n\nana  0123456789abcdef0\nbo fedcba9876543210f\nshort 1234\n",
        )
        .unwrap();
        let mut access = Access {
            tokens: None,
            is_local: false,
        };
        let host = ("host", "10.0.0.1:8082");
        assert_eq!(check(&access, &[host, JSON]), Err(403));
        access.tokens = Some(file);
        let with = |value: &str| check(&access, &[host, JSON, ("authorization", value)]);
        assert_eq!(with("Bearer 0123456789abcdef0"), Ok("ana".to_owned()));
        assert_eq!(with("bearer  fedcba9876543210f"), Ok("bo".to_owned()));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 1234",
            "Bearer ana",
            "Bearer 0123456789abcdef",
            "Basic 0123456789abcdef0",
        ] {
            assert_eq!(with(wrong), Err(401), "{wrong}");
        }
        assert_eq!(check(&access, &[host, JSON]), Err(401));
        // Tokens are asked for on this machine too, if there are any.
        access.is_local = true;
        assert_eq!(check(&access, &[("host", "127.0.0.1"), JSON]), Err(401));
        access.tokens = Some(dir.path().join("none"));
        assert_eq!(check(&access, &[host, JSON]), Err(503));
    }
}
