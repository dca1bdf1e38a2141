//! Claims of the bearer token, which the client asserts itself.
//!
//! The token's signature is **not verified**: tollgate has no keys. A gateway that has them should
//! verify it before it asks. Otherwise a client can take any name, and so another client's quota or
//! a fresh one. A token that cannot be read counts as missing.

use base64::{
    Engine as _,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::header::AUTHORIZATION;
use serde_json::Value;

use crate::wire::Headers;

/// The longest token that is read. Proxies take heads of 8 to 60 kB; real tokens have one or two.
const MAX_TOKEN: usize = 16 * 1024;

/// RFC 7515 has no padding. Padded tokens are read too, and so are those with stray bits in the
/// last digit.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A claim in the payload of the request's JWT (RFC 7519, RFC 6750 §2.1), as text.
///
/// `path` leads to the claim. A string is returned as it is, a number or boolean as JSON writes it.
/// `None` without such a token or claim, or if the claim is a list, an object or null.
pub fn claim(headers: &Headers, path: &[String]) -> Option<String> {
    let header = headers.get(&AUTHORIZATION)?;
    let (scheme, token) = header.split_at_checked(b"bearer ".len())?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") || token.len() > MAX_TOKEN {
        return None;
    }
    let mut segments = token.trim_ascii().split(|&byte| byte == b'.');
    // Header, payload, signature. Five segments are an encrypted token (RFC 7516), which cannot be
    // read.
    let (_, payload) = (segments.next()?, segments.next()?);
    if segments.next().is_none() || segments.next().is_some() {
        return None;
    }
    let payload = BASE64.decode(payload).ok()?;
    let claims: Value = serde_json::from_slice(&payload).ok()?;
    let found = path
        .iter()
        .try_fold(&claims, |value, name| value.as_object()?.get(name))?;
    match found {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(authorization: &str, path: &[&str]) -> Option<String> {
        let mut headers = Headers::default();
        headers.append("authorization", authorization);
        let path: Vec<String> = path.iter().map(|&name| name.to_owned()).collect();
        claim(&headers, &path)
    }

    fn token(payload: &str) -> String {
        format!("Bearer e30.{}.c2ln", BASE64.encode(payload))
    }

    #[test]
    fn claims_are_read_as_text() {
        let token = token(r#"{"sub":"a b","n":7,"ok":true,"https://x/y":"z","realm":{"id":"r"}}"#);
        let claim = |path: &[&str]| bearer(&token, path);
        assert_eq!(claim(&["sub"]).as_deref(), Some("a b"));
        assert_eq!(claim(&["n"]).as_deref(), Some("7"));
        assert_eq!(claim(&["ok"]).as_deref(), Some("true"));
        assert_eq!(claim(&["https://x/y"]).as_deref(), Some("z"));
        assert_eq!(claim(&["realm", "id"]).as_deref(), Some("r"));
        for missing in [&["realm"][..], &["other"], &["sub", "x"], &["realm", "x"]] {
            assert_eq!(claim(missing), None, "{missing:?}");
        }
    }

    #[test]
    fn the_scheme_ignores_case_and_padding() {
        // {"sub":"a"} has 11 bytes: one `=` of padding.
        for authorization in [
            "bearer e30.eyJzdWIiOiJhIn0.x",
            "BEARER e30.eyJzdWIiOiJhIn0=.x",
            "Bearer   e30.eyJzdWIiOiJhIn0. ",
        ] {
            assert_eq!(
                bearer(authorization, &["sub"]).as_deref(),
                Some("a"),
                "{authorization}"
            );
        }
    }

    #[test]
    fn an_invalid_token_has_no_claim() {
        let deep = token(&("[".repeat(10_000) + &"]".repeat(10_000)));
        let long = token(&format!(r#"{{"sub":"a","x":"{}"}}"#, "x".repeat(MAX_TOKEN)));
        for authorization in [
            "",
            "Bearer",
            "Bearer ",
            "Basic dXNlcjpwYXNz",
            "Bearer a",
            "Bearer a.b",
            "Bearer e30.eyJzdWIiOiJhIn0",
            "Bearer e30.eyJzdWIiOiJhIn0.a.b.c",
            "Bearer e30.!!!.c",
            "Bearer e30.bm90IGpzb24.c",
            "Bearer e30.W10.c",
            "Bearer e30..c",
            "Bearer ...",
            &deep,
            &long,
        ] {
            assert_eq!(bearer(authorization, &["sub"]), None, "{authorization}");
        }
    }
}
