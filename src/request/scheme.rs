//! The scheme of a request.

use crate::words::words;

words! {
    /// The scheme by which the client reached the proxy.
    pub enum Scheme {
        /// Plain HTTP.
        Http => "http",
        /// HTTP over TLS.
        Https => "https",
    }
}

impl Scheme {
    /// Reads a scheme as proxies write it. Some call that of a WebSocket `ws` and `wss`.
    pub fn parse(text: &str) -> Option<Self> {
        let is = |scheme: &str| text.eq_ignore_ascii_case(scheme);
        if is("http") || is("ws") {
            Some(Self::Http)
        } else if is("https") || is("wss") {
            Some(Self::Https)
        } else {
            None
        }
    }
}
