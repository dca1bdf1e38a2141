//! The rules of all files, in order: their names are unique, and lints look at all of them.

use std::{cell::Cell, collections::HashMap, sync::Arc};

use http::HeaderName;

use crate::{
    rulefile::{
        document::MAX_REPORTED,
        include::Source,
        lint::{self, Placed},
        yaml::FieldPath,
    },
    rules::Rule,
};

/// The rules that can be used, each with its place.
pub(super) struct Rules<'a> {
    sources: &'a [Source<'a>],
    list: Vec<Rule>,
    places: Vec<Place>,
    /// The number of the first rule of each name.
    named: HashMap<Arc<str>, usize>,
    /// How many rules with the name of another were found.
    repeated: Cell<usize>,
}

/// Where a rule is written.
struct Place {
    /// The number of the file.
    source: usize,
    path: FieldPath,
}

impl<'a> Rules<'a> {
    /// No rules yet, of these files.
    pub(super) fn new(sources: &'a [Source<'a>]) -> Self {
        Self {
            sources,
            list: Vec::new(),
            places: Vec::new(),
            named: HashMap::new(),
            repeated: Cell::default(),
        }
    }

    /// Adds a rule of the file with the number `source`. If an earlier one has its name, that is
    /// reported.
    pub(super) fn add(&mut self, rule: Rule, source: usize, path: FieldPath) {
        let place = Place { source, path };
        if let Some(first) = self.named.get(&rule.name) {
            self.report_name(&rule.name, &place, &self.places[*first]);
        } else {
            self.named.insert(Arc::clone(&rule.name), self.list.len());
        }
        self.list.push(rule);
        self.places.push(place);
    }

    fn report_name(&self, name: &str, place: &Place, first: &Place) {
        self.repeated.set(self.repeated.get() + 1);
        // Finding a place takes as long as reading the file.
        let message = if self.repeated.get() > MAX_REPORTED {
            format!("another rule already has the name {name:?}")
        } else {
            let document = &self.sources[first.source].document;
            let first = document.place(&first.path.key("name"));
            format!("the rule at {first} already has the name {name:?}")
        };
        self.sources[place.source].document.problems.error(
            &place.path.key("name"),
            message,
            "rules with the same name would share counters: give each its own name",
        );
    }

    /// Warns of rules that are probably a mistake. Rules with a problem are left out: what could be
    /// compiled of a rule with an error is not what was written.
    pub(super) fn lint(&self, forwarded: Option<&[HeaderName]>) {
        let placed = self.list.iter().zip(&self.places).map(|(rule, place)| {
            let document = &self.sources[place.source].document;
            Placed {
                rule,
                path: &place.path,
                problems: &document.problems,
                file: document.name(),
            }
        });
        let sound = placed.filter(|placed| !placed.problems.has_any(placed.path));
        let main = self.sources[0].document.name();
        lint::lint(&sound.collect::<Vec<_>>(), main, forwarded);
    }

    /// The rules.
    pub(super) fn into_list(self) -> Vec<Rule> {
        self.list
    }
}
