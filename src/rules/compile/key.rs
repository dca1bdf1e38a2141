//! `key`: from the model to a descriptor's parts.

use http::HeaderName;

use super::Compiler;
use crate::rules::{
    decode::Field,
    file::KeyPart,
    key::{Part, is_secret},
    matcher::{Matcher, PathPattern},
};

impl Compiler<'_, '_> {
    pub(super) fn part(&mut self, field: &Field<KeyPart>, matcher: &Matcher) -> Option<Part> {
        let path = self.findings.path(field);
        match field.value.as_ref()? {
            KeyPart::ClientIp => Some(Part::ClientIp),
            KeyPart::Method => Some(Part::Method),
            KeyPart::Host => Some(Part::Host),
            KeyPart::Header { name, .. } if name.eq_ignore_ascii_case("host") => {
                self.document.problem(
                    &path,
                    "the host header differs from proxy to proxy",
                    "write the key part `host`",
                );
                None
            }
            KeyPart::Header { name, secret } => {
                if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                    let secret = *secret || is_secret(&name);
                    return Some(Part::Header { name, secret });
                }
                self.document.problem(
                    &path,
                    format!("{name:?} is not the name of a header"),
                    "write it like x-api-key",
                );
                None
            }
            KeyPart::Path { name } => {
                let mut places = matcher.paths.iter().map(|pattern| place(pattern, name));
                let first = places.next().flatten();
                let Some(index) = first else {
                    self.document.problem(
                        &path,
                        format!("no path of this rule has the parameter {{{name}}} in every case"),
                        &format!("write it into match.path, like \"/users/{{{name}}}\""),
                    );
                    return None;
                };
                if places.any(|place| place != first) {
                    self.document.problem(
                        &path,
                        format!("the paths of this rule have {{{name}}} in different places, or not at all"),
                        "split the rule, so that each path has the parameter in the same place",
                    );
                    return None;
                }
                Some(Part::Path {
                    name: name.clone(),
                    place: index,
                })
            }
        }
    }
}

/// The place of a parameter among those of a path.
fn place(pattern: &PathPattern, name: &str) -> Option<usize> {
    pattern.params().position(|param| param == name)
}
