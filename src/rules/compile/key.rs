//! `key`: from the model to a descriptor's parts.

use http::HeaderName;

use super::{Compiler, given};
use crate::rules::{
    decode::Field,
    file::{KEY_PARTS, KeyPart, NamedPart},
    key::{Part, is_secret},
    matcher::{Matcher, PathPattern},
    yaml::Step,
};

impl Compiler<'_, '_> {
    pub(super) fn part(&mut self, field: &Field<KeyPart>, matcher: &Matcher) -> Option<Part> {
        match field.value.as_ref()? {
            KeyPart::ClientIp => Some(Part::ClientIp),
            KeyPart::Method => Some(Part::Method),
            KeyPart::Host => Some(Part::Host),
            KeyPart::Named(named) => self.named_part(field, named, matcher),
        }
    }

    fn named_part(
        &mut self,
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
        let sources = [
            path.is_some(),
            header.is_some(),
            cookie.is_some(),
            query.is_some(),
            jwt.is_some(),
        ];
        match sources.into_iter().filter(|given| *given).count() {
            0 => {
                if !self.troubled(field) {
                    self.problem(
                        field,
                        "the key part names no source",
                        &format!("one of: {KEY_PARTS}"),
                    );
                }
                return None;
            }
            1 => {}
            _ => {
                self.problem(
                    field,
                    "a key part has one source",
                    "write two parts: [{ path: … }, { header: … }]",
                );
                return None;
            }
        }
        let marked = given(secret.as_ref()).copied();
        if let Some(field) = path {
            let part = self.path_part(field, matcher);
            if let Some(field) = secret {
                self.problem(
                    field,
                    "a path cannot be marked secret: it stands in logs everywhere",
                    "remove `secret`",
                );
            }
            return part;
        }
        if let Some(field) = header {
            return self.header_part(field, secret.as_ref());
        }
        if let Some(field) = cookie {
            return self.cookie_part(field, secret.as_ref());
        }
        if let Some(field) = query {
            let name = field.value.clone()?;
            if name.is_empty() {
                self.problem(
                    field,
                    "the query parameter has no name",
                    "write it like api_key",
                );
                return None;
            }
            return Some(Part::Query {
                name,
                secret: marked.unwrap_or(false),
            });
        }
        let field = jwt.as_ref()?;
        let path: Vec<String> = field
            .value
            .as_ref()?
            .iter()
            .map(|step| step.value.clone())
            .collect::<Option<_>>()?;
        if path.is_empty() || path.iter().any(String::is_empty) {
            self.problem(
                field,
                "the claim has no name",
                "write it like sub, or [realm, id] for a member of a claim",
            );
            return None;
        }
        Some(Part::Jwt {
            path,
            secret: marked.unwrap_or(true),
        })
    }

    fn cookie_part(&mut self, field: &Field<String>, secret: Option<&Field<bool>>) -> Option<Part> {
        if given(secret) == Some(&false) {
            self.always_secret(secret, "a cookie");
        }
        let name = field.value.clone()?;
        let valid = HeaderName::from_bytes(name.as_bytes()).is_ok();
        if !valid {
            self.problem(
                field,
                format!("{name:?} is not the name of a cookie"),
                "write only the name, like session",
            );
            return None;
        }
        Some(Part::Cookie { name })
    }

    fn header_part(&mut self, field: &Field<String>, secret: Option<&Field<bool>>) -> Option<Part> {
        let text = field.value.as_deref()?;
        if text.eq_ignore_ascii_case("host") {
            self.problem(
                field,
                "the host header differs from proxy to proxy",
                "write the key part `host`",
            );
            return None;
        }
        let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
            self.problem(
                field,
                format!("{text:?} is not the name of a header"),
                "write it like x-api-key",
            );
            return None;
        };
        let marked = given(secret).copied();
        if is_secret(&name) && marked == Some(false) {
            self.always_secret(secret, &format!("the {name} header"));
        }
        Some(Part::Header {
            secret: is_secret(&name) || marked == Some(true),
            name,
        })
    }

    fn always_secret(&mut self, secret: Option<&Field<bool>>, what: &str) {
        if let Some(field) = secret {
            self.problem(
                field,
                format!("{what} is a secret by its nature"),
                "remove `secret: false`",
            );
        }
    }

    /// Whether something is wrong with the paths of the rule that a field belongs to, so that they cannot be asked.
    fn paths_are_wrong<T>(&self, field: &Field<T>) -> bool {
        let mut paths = self.findings.path(field);
        paths.0.truncate(2);
        let matches = paths.child(Step::Key("match".to_owned()));
        self.findings.misspelt(&paths, "match")
            || self.findings.misspelt(&matches, "path")
            || self
                .findings
                .troubled(&matches.child(Step::Key("path".to_owned())))
    }

    fn path_part(&mut self, field: &Field<String>, matcher: &Matcher) -> Option<Part> {
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
                    format!("in paths, :{name} is no parameter but stands for itself"),
                    format!("write {{{name}}} in its place"),
                )
            } else if paths.is_empty() {
                (
                    format!("the rule has no path with the parameter {{{name}}}"),
                    format!("write one into match.path, like \"/users/{{{name}}}\""),
                )
            } else {
                (
                    format!("the path {} has no parameter {{{name}}}", paths[0]),
                    format!("write it there, like \"/users/{{{name}}}\""),
                )
            };
            self.problem(field, message, &hint);
            return None;
        };
        if places.any(|place| place != first) {
            self.problem(
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

/// The place of a parameter among those of a path.
fn place(pattern: &PathPattern, name: &str) -> Option<usize> {
    pattern.params().position(|param| param == name)
}
