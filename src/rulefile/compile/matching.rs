//! Compiles `match` into a [`Matcher`].

use std::{collections::BTreeMap, path::Path, sync::Arc};

use http::{HeaderName, header::HOST};

use super::{Compiler, value};
use crate::{
    nearest::nearest,
    request::{KNOWN_METHODS, Parameters},
    rulefile::{
        addresses::Unusable,
        beside::unreadable,
        decode::Field,
        model::{Match, Method, NetworkFile, NetworkSpec, PathSpec, ValueSpec, ValueTests},
    },
    rules::matcher::{
        Conditions, HeaderTest, Matcher, NetworkList, Networks, PathPattern, Pattern, Purpose,
        QueryTest, ValueTest,
    },
};

impl Compiler<'_, '_> {
    /// The matcher of a rule's `match` or a tier's `when`; an empty one if there is none.
    pub(super) fn matcher(&self, field: Option<&Field<Match>>) -> Matcher {
        let Some(conditions) = value(field) else {
            return Matcher::default();
        };
        let when = self.conditions(conditions);
        let mut not = Vec::new();
        for field in value(conditions.not.as_ref()).into_iter().flatten() {
            let Some(block) = &field.value else { continue };
            if let Some(within) = &block.not {
                self.error(
                    within,
                    "`not` within `not` is not supported",
                    "write what must hold outside of it",
                );
            }
            let block = self.conditions(block);
            if !block.is_empty() {
                not.push(block);
            } else if !self.has_error(field) {
                self.error(
                    field,
                    "the `not` is empty, so it would exclude every request",
                    "write a condition into it, or remove it",
                );
            }
        }
        Matcher {
            when,
            not,
            purpose: Purpose::default(),
        }
    }

    fn conditions(&self, given: &Match) -> Conditions {
        Conditions {
            paths: self.paths(given.path.as_ref()),
            methods: self.methods(given.methods.as_ref()),
            schemes: self.values(given.scheme.as_ref(), "scheme"),
            hosts: self.values(given.host.as_ref(), "host"),
            client_ip: self.networks(given.client_ip.as_ref()),
            headers: self.headers_of(given.headers.as_ref()),
            query: self.query_of(given.query.as_ref()),
        }
    }

    /// The values of a condition, of which there must be one: an empty list would be no condition.
    fn values<T: Clone>(&self, field: Option<&Field<Vec<Field<T>>>>, what: &str) -> Vec<T> {
        let Some(field) = field else {
            return Vec::new();
        };
        let values = field.value.as_deref().unwrap_or_default();
        if field.value.as_ref().is_some_and(Vec::is_empty) {
            self.error(
                field,
                "the list is empty",
                format!("name a {what}, or remove the condition"),
            );
        }
        values
            .iter()
            .filter_map(|field| field.value.clone())
            .collect()
    }

    fn networks(&self, field: Option<&Field<Vec<Field<NetworkSpec>>>>) -> Option<Networks> {
        self.values(field, "network");
        let (mut blocks, mut lists) = (Vec::new(), Vec::new());
        let fields = value(field).filter(|fields| !fields.is_empty())?;
        for field in fields {
            match &field.value {
                None => {}
                Some(NetworkSpec::Block(network)) => blocks.push(network.0),
                Some(NetworkSpec::File(fields)) => lists.extend(self.list(field, fields)),
            }
        }
        // A list that is empty for now is a condition nevertheless, which holds for nobody.
        Some(Networks::new(blocks, lists))
    }

    /// The list in a file.
    fn list(&self, field: &Field<NetworkSpec>, fields: &NetworkFile) -> Option<Arc<NetworkList>> {
        let file = fields.file.as_ref();
        let Some(file) = file.filter(|file| file.value.as_deref() != Some("")) else {
            if !self.has_error(field) {
                self.error(
                    field,
                    "the network is empty",
                    "write { file: blocklist.txt }, a block, or an address",
                );
            }
            return None;
        };
        let path = file.value.as_deref()?;
        let (beside, shown) = (self.beside(path), self.shown(path));
        let list = match self.lists.get(&beside, &shown) {
            Ok(list) => list,
            Err(Unusable::Unreadable(error)) => {
                self.report(file, unreadable(Path::new(path), &error));
                return None;
            }
            Err(Unusable::TooMuch(problem)) => {
                self.report(file, problem);
                return None;
            }
            Err(Unusable::Bad(found)) => {
                self.document.include_list(found);
                return None;
            }
        };
        if list.is_empty() {
            let message = format!("{path} has no address, so no client is in it");
            let hint = "add one to it; if there is none to add, ignore this warning";
            self.problems.warning(&self.path(file), message, hint);
        }
        Some(list)
    }

    fn methods(&self, field: Option<&Field<Vec<Field<Method>>>>) -> Vec<String> {
        for field in value(field).into_iter().flatten() {
            let Some(Method(method)) = &field.value else {
                continue;
            };
            if !KNOWN_METHODS.contains(&method.as_str()) {
                let hint = match nearest(method, &KNOWN_METHODS) {
                    Some(known) => format!("write {known}, if that is what you mean"),
                    None => "a client of yours may send it; else write one like GET".to_owned(),
                };
                let message = format!("{method} is not a registered method of HTTP");
                self.problems.warning(&self.path(field), message, hint);
            }
        }
        let methods = self.values(field, "method").into_iter();
        methods.map(|method| method.0).collect()
    }

    fn paths(&self, field: Option<&Field<Vec<Field<PathSpec>>>>) -> Vec<PathPattern> {
        self.values(field, "path");
        let mut out = Vec::new();
        for field in value(field).into_iter().flatten() {
            match &field.value {
                None => {}
                Some(PathSpec::Template(pattern)) => {
                    self.check_parameters(field, pattern);
                    out.push(pattern.clone());
                }
                Some(PathSpec::Regex(fields)) => match &fields.regex {
                    None if self.has_error(field) => {}
                    None => self.error(
                        field,
                        "the path is empty",
                        "write { regex: \"/v[0-9]+/.*\" }",
                    ),
                    Some(regex) => match regex.value.as_ref().map(|r| PathPattern::regex(&r.0)) {
                        None => {}
                        Some(Ok(pattern)) => out.push(pattern),
                        Some(Err(problem)) => self.report(regex, problem),
                    },
                },
            }
        }
        out
    }

    /// Reports a path that no request has, because parameters are no part of it.
    fn check_parameters(&self, field: &Field<PathSpec>, pattern: &PathPattern) {
        if self.path_policy.parameters == Parameters::Ignore && pattern.to_string().contains(';') {
            self.error(
                field,
                "no path has a `;`: what follows it in a segment are parameters, and ignored",
                "leave them out, or write `paths: { parameters: keep }` at the top of the file",
            );
        }
    }

    fn headers_of(
        &self,
        field: Option<&Field<BTreeMap<String, Field<ValueSpec>>>>,
    ) -> Vec<HeaderTest> {
        self.some_tests(field, "a header");
        let mut out: Vec<HeaderTest> = Vec::new();
        for (name, field) in value(field).into_iter().flatten() {
            let test = self.value_test(field);
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(known) if out.iter().any(|other| other.name == known) => {
                    self.problems.error_at_name(
                        &self.path(field),
                        format!("the header {known} is here twice; case is ignored"),
                        "keep one; to accept several values, write a list, like x-plan: [gold, silver]",
                    );
                }
                Ok(HOST) => self.problems.error_at_name(
                    &self.path(field),
                    "the host header differs from proxy to proxy".to_owned(),
                    "write `host:` beside `headers:`",
                ),
                Ok(name) => out.extend(test.map(|test| HeaderTest { name, test })),
                Err(_) => self.problems.error_at_name(
                    &self.path(field),
                    format!("{name:?} is not the name of a header"),
                    "write it like x-plan",
                ),
            }
        }
        out
    }

    /// Reports an empty mapping of conditions, which would always hold.
    fn some_tests(&self, field: Option<&Field<BTreeMap<String, Field<ValueSpec>>>>, what: &str) {
        if let Some(field) = field
            && field.value.as_ref().is_some_and(BTreeMap::is_empty)
            && !self.has_error(field)
        {
            self.error(
                field,
                "there is no condition here",
                format!("name {what}, or remove the field"),
            );
        }
    }

    fn query_of(
        &self,
        field: Option<&Field<BTreeMap<String, Field<ValueSpec>>>>,
    ) -> Vec<QueryTest> {
        self.some_tests(field, "a parameter");
        let mut out = Vec::new();
        for (name, field) in value(field).into_iter().flatten() {
            out.extend(self.value_test(field).map(|test| QueryTest {
                name: name.clone(),
                test,
            }));
        }
        out
    }

    fn value_test(&self, field: &Field<ValueSpec>) -> Option<ValueTest> {
        match field.value.as_ref()? {
            ValueSpec::Exact(values) => Some(ValueTest {
                exact: values.iter().cloned().collect(),
                ..ValueTest::default()
            }),
            ValueSpec::Tests(tests) => self.value_tests(field, tests),
        }
    }

    fn value_tests(&self, field: &Field<ValueSpec>, tests: &ValueTests) -> Option<ValueTest> {
        let exact = self.values(tests.exact.as_ref(), "value");
        let prefix = self.values(tests.prefix.as_ref(), "prefix");
        let regex = match value(tests.regex.as_ref()) {
            Some(text) => Pattern::parse(&text.0).ok(),
            None => None,
        };
        let present = value(tests.present.as_ref()).copied();
        let absent = value(tests.absent.as_ref()).copied();
        let asks_value = tests.exact.is_some() || tests.prefix.is_some() || tests.regex.is_some();
        if !asks_value && present.is_none() && absent.is_none() {
            if self.has_error(field) {
                return None;
            }
            self.error(
                field,
                "the condition is empty",
                "write a value, or { prefix: … }, { regex: … }, { present: true } or { absent: true }",
            );
            return None;
        }
        let gone = absent == Some(true) || present == Some(false);
        let there = asks_value || present == Some(true) || absent == Some(false);
        if gone && there {
            self.error(
                field,
                "a value cannot be both present and absent",
                "keep one of the two",
            );
            return None;
        }
        Some(ValueTest {
            absent: gone,
            exact: exact.into_iter().map(|text| text.0).collect(),
            prefix: prefix.into_iter().map(|text| text.0).collect(),
            regex,
        })
    }
}
