//! `/`: a page for people, in three resources that are part of the program.
//!
//! It has no data of its own: its program asks the other resources of the port, as anybody can.

use http::StatusCode;

use super::answer::answer;
use crate::wire::Response;

/// Nothing but what this port serves: no other site's resource, nothing written within the page, no
/// frame around it. So if what a client sent became markup after all, it would run nothing.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// The page.
pub(super) fn page() -> Response {
    part("text/html; charset=utf-8", include_str!("page/page.html"))
}

/// Its program.
pub(super) fn program() -> Response {
    part(
        "text/javascript; charset=utf-8",
        include_str!("page/page.js"),
    )
}

/// Its looks.
pub(super) fn looks() -> Response {
    part("text/css; charset=utf-8", include_str!("page/page.css"))
}

fn part(content_type: &str, text: &str) -> Response {
    let mut response = answer(StatusCode::OK, content_type, text.to_owned());
    response.set("content-security-policy", POLICY);
    response.set("referrer-policy", "no-referrer");
    response.set("cross-origin-opener-policy", "same-origin");
    response
}
