//! Compiles `overrides` and `overrides_file`: limits for single clients.

use std::{collections::HashMap, io, path::Path};

use super::{Compiler, limits::AlgorithmChoice, value};
use crate::{
    rulefile::{
        beside::unreadable,
        decode::{Field, FieldPaths, decode},
        diagnostic::counted,
        document::Document,
        lint,
        model::{self, Override, OverridesFile},
        yaml::FieldPath,
    },
    rules::{
        Cost, Plan,
        key::{Context, Descriptor},
    },
};

/// What overrides need to know of their rule.
#[derive(Clone, Copy)]
pub(super) struct OverriddenRule<'a> {
    pub(super) rule: &'a str,
    pub(super) choice: AlgorithmChoice,
    pub(super) descriptor: &'a Descriptor,
    pub(super) cost: &'a Cost,
}

/// The most bytes of a file of overrides.
const MAX_LENGTH: usize = 16 * 1024 * 1024;

fn bounded(text: String) -> io::Result<String> {
    if text.len() > MAX_LENGTH {
        let reason = "it is longer than 16 MiB";
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(text)
}

impl Compiler<'_, '_> {
    pub(super) fn overrides(
        &self,
        rule: &model::Rule,
        of: OverriddenRule<'_>,
    ) -> HashMap<Box<str>, Plan> {
        let mut out = HashMap::new();
        for field in value(rule.overrides.as_ref()).into_iter().flatten() {
            self.override_for(field, of, &mut out);
        }
        if let Some(field) = &rule.overrides_file
            && let Some(path) = &field.value
        {
            self.overrides_file(field, path, of, &mut out);
        }
        out
    }

    fn overrides_file(
        &self,
        field: &Field<String>,
        path: &str,
        of: OverriddenRule<'_>,
        out: &mut HashMap<Box<str>, Plan>,
    ) {
        let beside = self.beside(path);
        let text = match (self.context.read)(&beside).and_then(bounded) {
            Ok(text) => text,
            Err(error) => return self.report(field, unreadable(Path::new(path), &error)),
        };
        let document = Document::new(self.shown(path), text);
        if let Some(tree) = document.parse() {
            let paths = FieldPaths::default();
            let root: Field<OverridesFile> = decode(&tree, &document.problems, &paths);
            if let Some(file) = &root.value {
                let compiler = self.of(&document, &beside, &paths);
                compiler.overrides_of(file, of, out);
            }
        }
        self.document.include(document);
    }

    /// The overrides of a file that holds nothing else.
    fn overrides_of(
        &self,
        file: &OverridesFile,
        of: OverriddenRule<'_>,
        out: &mut HashMap<Box<str>, Plan>,
    ) {
        let root = FieldPath::root();
        if file.overrides.is_none() && !self.problems.has_error(&root) {
            self.problems.error(
                &root,
                "the file has no overrides",
                "add `overrides:` with a list of them, which may be empty: []",
            );
        }
        self.version(file.version.as_ref());
        for field in value(file.overrides.as_ref()).into_iter().flatten() {
            self.override_for(field, of, out);
        }
    }

    fn override_for(
        &self,
        field: &Field<Override>,
        of: OverriddenRule<'_>,
        out: &mut HashMap<Box<str>, Plan>,
    ) {
        let Some(written) = &field.value else { return };
        let path = self.path(field);
        if written.key.is_none() {
            self.missing_key(field);
        }
        let key = written.key.as_ref();
        let key = key.and_then(|key| self.override_key(key, of.descriptor));
        let name = match &written.name {
            Some(field) => self.plan_name(field, "an override"),
            None => Some("override".into()),
        };
        let Some(name) = name else { return };
        let limits = (written.limit.as_ref(), written.limits.as_ref());
        let name = format!("{}/{name}", of.rule);
        let plan = self.plan(limits, &path, &name, of.choice);
        let (Some(key), Some(plan)) = (key, plan) else {
            return;
        };
        lint::lint_plan(self.problems, &plan, of.cost, &path);
        if out.insert(key.into(), plan).is_some() {
            self.problems.error(
                &path,
                "there is another override for this caller",
                "keep one",
            );
        }
    }

    fn missing_key(&self, field: &Field<Override>) {
        if !self.has_error(field) {
            self.error(
                field,
                "the override has no `key`",
                "add `key:` with the value of the rule's key, or a list with one value for each part",
            );
        }
    }

    /// The descriptor as it appears in keys.
    fn override_key(
        &self,
        field: &Field<Vec<Field<model::KeyValue>>>,
        descriptor: &Descriptor,
    ) -> Option<String> {
        let values = field.value.as_ref()?;
        let parts = &descriptor.parts;
        if parts.is_empty() {
            self.error(
                field,
                "the rule has no key, so all callers share one counter",
                "give the rule a `key`, or remove its overrides",
            );
            return None;
        }
        if values.len() != parts.len() {
            self.error(
                field,
                format!(
                    "the rule's key has {}, but here {}",
                    counted(parts.len(), "part"),
                    match values.len() {
                        1 => "is 1 value".to_owned(),
                        n => format!("are {n} values"),
                    }
                ),
                format!("write one for each of: {}", descriptor.names().join(", ")),
            );
            return None;
        }
        let mut key = String::new();
        let context = Context {
            client_ip: &self.client_ip,
            hash_key: &self.context.keys.hash_key,
        };
        for (part, value) in parts.iter().zip(values) {
            let text = value.value.as_ref()?;
            if !key.is_empty() {
                key.push(',');
            }
            part.push_name(&mut key);
            if let Err(problem) = part.push_given(&mut key, &text.0, context) {
                self.report(value, problem);
                return None;
            }
        }
        Some(key)
    }
}
