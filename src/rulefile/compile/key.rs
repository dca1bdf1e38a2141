//! Compiles `key` into the parts of a descriptor.

use http::HeaderName;

use super::{Compiler, value};
use crate::{
    request::is_secret,
    rulefile::{
        decode::Field,
        model::{KeyPart, NamedPart, PlainPart, key_parts},
        yaml::FieldPath,
    },
    rules::{
        key::Part,
        matcher::{Matcher, PathPattern},
    },
};

impl Compiler<'_, '_> {
    /// The parts of a rule's key. `matcher` has the paths whose parameters a part may name.
    pub(super) fn parts(
        &self,
        key: Option<&Field<Vec<Field<KeyPart>>>>,
        matcher: &Matcher,
    ) -> Vec<Part> {
        let mut parts = Vec::new();
        for field in value(key).into_iter().flatten() {
            let Some(part) = self.part(field, matcher) else {
                continue;
            };
            if parts.contains(&part) {
                self.error(
                    field,
                    "this part is in the key already",
                    "keep it once; to tell more callers apart, add a different part",
                );
            }
            parts.push(part);
        }
        parts
    }

    fn part(&self, field: &Field<KeyPart>, matcher: &Matcher) -> Option<Part> {
        match field.value.as_ref()? {
            KeyPart::Plain(PlainPart::ClientIp) => Some(Part::ClientIp),
            KeyPart::Plain(PlainPart::Method) => Some(Part::Method),
            KeyPart::Plain(PlainPart::Scheme) => Some(Part::Scheme),
            KeyPart::Plain(PlainPart::Host) => Some(Part::Host),
            KeyPart::Named(named) => self.named_part(field, named, matcher),
        }
    }

    fn named_part(
        &self,
        field: &Field<KeyPart>,
        named: &NamedPart,
        matcher: &Matcher,
    ) -> Option<Part> {
        let NamedPart {
            path,
            header,
            cookie,
            query,
            jwt,
            secret,
        } = named;
        let secret = secret.as_ref();
        match (path, header, cookie, query, jwt) {
            (Some(field), None, None, None, None) => {
                if let Some(secret) = secret {
                    self.error(
                        secret,
                        "a path cannot be marked secret, because proxies log it",
                        "remove `secret`",
                    );
                }
                self.path_part(field, matcher)
            }
            (None, Some(field), None, None, None) => self.header_part(field, secret),
            (None, None, Some(field), None, None) => self.cookie_part(field, secret),
            (None, None, None, Some(field), None) => self.query_part(field, secret),
            (None, None, None, None, Some(field)) => self.jwt_part(field, secret),
            (None, None, None, None, None) => {
                if !self.has_error(field) {
                    let hint = format!("one of: {}", key_parts());
                    self.error(field, "the key part names no source", hint);
                }
                None
            }
            _ => {
                self.error(
                    field,
                    "a key part has one source",
                    "write two parts: [{ path: … }, { header: … }]",
                );
                None
            }
        }
    }

    fn query_part(&self, field: &Field<String>, secret: Option<&Field<bool>>) -> Option<Part> {
        let name = field.value.clone()?;
        if name.is_empty() {
            self.error(
                field,
                "the query parameter has no name",
                "write it like api_key",
            );
            return None;
        }
        Some(Part::Query {
            name,
            secret: value(secret).copied().unwrap_or(false),
        })
    }

    fn jwt_part(
        &self,
        field: &Field<Vec<Field<String>>>,
        secret: Option<&Field<bool>>,
    ) -> Option<Part> {
        let names = field.value.as_ref()?.iter();
        let path: Vec<String> = names
            .map(|name| name.value.clone())
            .collect::<Option<_>>()?;
        if path.is_empty() || path.iter().any(String::is_empty) {
            self.error(
                field,
                "the claim has no name",
                "write it like sub, or [realm, id] for a member of a claim",
            );
            return None;
        }
        Some(Part::Jwt {
            path,
            secret: value(secret).copied().unwrap_or(true),
        })
    }

    fn cookie_part(&self, field: &Field<String>, secret: Option<&Field<bool>>) -> Option<Part> {
        if value(secret) == Some(&false) {
            self.always_secret(secret, "a cookie");
        }
        let name = field.value.clone()?;
        let valid = HeaderName::from_bytes(name.as_bytes()).is_ok();
        if !valid {
            self.error(
                field,
                format!("{name:?} is not the name of a cookie"),
                "write only the name, like session",
            );
            return None;
        }
        Some(Part::Cookie { name })
    }

    fn header_part(&self, field: &Field<String>, secret: Option<&Field<bool>>) -> Option<Part> {
        let text = field.value.as_deref()?;
        if text.eq_ignore_ascii_case("host") {
            self.error(
                field,
                "the host header differs from proxy to proxy",
                "write the key part `host`",
            );
            return None;
        }
        let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
            self.error(
                field,
                format!("{text:?} is not the name of a header"),
                "write it like x-api-key",
            );
            return None;
        };
        let marked = value(secret).copied();
        if is_secret(&name) && marked == Some(false) {
            self.always_secret(secret, &format!("the {name} header"));
        }
        Some(Part::Header {
            secret: is_secret(&name) || marked == Some(true),
            name,
        })
    }

    fn always_secret(&self, secret: Option<&Field<bool>>, what: &str) {
        if let Some(field) = secret {
            self.error(
                field,
                format!("{what} is always secret"),
                "remove `secret: false`",
            );
        }
    }

    /// Whether the paths of the field's rule have an error, so that their parameters are not known.
    fn paths_are_wrong<T>(&self, field: &Field<T>) -> bool {
        // `rules[n]`, which the field is in.
        let rule: FieldPath = self.path(field).first(2);
        let matches = rule.key("match");
        self.problems.has_misspelt(&rule, "match")
            || self.problems.has_misspelt(&matches, "path")
            || self.problems.has_error(&matches.key("path"))
    }

    fn path_part(&self, field: &Field<String>, matcher: &Matcher) -> Option<Part> {
        let name = field.value.as_deref()?;
        let mut places = matcher
            .when
            .paths
            .iter()
            .map(|pattern| place(pattern, name));
        let first = places.next().flatten();
        let Some(index) = first else {
            if self.paths_are_wrong(field) {
                return None;
            }
            let colon = format!("/:{name}");
            let paths = &matcher.when.paths;
            let (message, hint) = if paths.iter().any(|path| path.to_string().contains(&colon)) {
                (
                    format!("in paths, :{name} is not a parameter but literal text"),
                    format!("write {{{name}}} instead"),
                )
            } else if paths.is_empty() {
                (
                    format!("the rule has no path with the parameter {{{name}}}"),
                    format!("add it to match.path, like \"/users/{{{name}}}\""),
                )
            } else {
                (
                    format!("the path {} has no parameter {{{name}}}", paths[0]),
                    format!("add it, like \"/users/{{{name}}}\""),
                )
            };
            self.error(field, message, hint);
            return None;
        };
        if places.any(|place| place != first) {
            self.error(
                field,
                format!(
                    "the paths of this rule have {{{name}}} in different places, or not at all"
                ),
                "split the rule, so that each path has the parameter in the same place",
            );
            return None;
        }
        Some(Part::Path {
            name: name.to_owned(),
            place: index,
        })
    }
}

/// The position of a parameter among those of a path.
fn place(pattern: &PathPattern, name: &str) -> Option<usize> {
    pattern.params().position(|param| param == name)
}
