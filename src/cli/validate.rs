//! `tollgate validate`: everything that is wrong with a rule file, in one go.

use std::path::Path;

use super::Failure;
use crate::rules;

pub(super) fn run(file: &Path) -> Result<(), Failure> {
    let set = load(file)?;
    let limits: usize = set.limits().count();
    super::print(&format!(
        "{}: valid, {} rules, {limits} limits",
        file.display(),
        set.rules.len()
    ));
    Ok(())
}

/// Reads and compiles a rule file.
pub(super) fn load(file: &Path) -> Result<rules::RuleSet, Failure> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::Rules(format!("the rule file {name} cannot be read: {error}\n  hint: name another with --rules or TOLLGATE_RULES"))
    })?;
    rules::load(&name, &text)
        .map_err(|report| Failure::Rules(format!("the rule file is not valid\n{report}")))
}
