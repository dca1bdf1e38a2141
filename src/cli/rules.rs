//! The rule file on the command line: the option that names it, and reading it.

use std::{
    io,
    path::{Path, PathBuf},
};

use clap::Args;

use super::failure::Failure;
use crate::{
    app,
    counter_key::KeySettings,
    rulefile::{Diagnostics, Loaded},
    rules::RuleSet,
};

/// The option that names the rule file.
#[derive(Debug, Args)]
pub(super) struct RulesArg {
    /// The rule file; `tollgate serve` watches it, and changes are in force at once
    #[arg(
        long,
        env = "TOLLGATE_RULES",
        value_name = "FILE",
        default_value = "config/rules.yaml"
    )]
    pub(super) rules: PathBuf,
}

/// Reads and compiles a rule file and the files that it names.
pub(super) fn load(file: &Path, keys: &KeySettings) -> Loaded {
    match app::read_text(file) {
        Ok(text) => app::load_rules(file, &text, keys),
        Err(error) => {
            let hint = match error.kind() {
                io::ErrorKind::InvalidData => "save it in the encoding UTF-8",
                _ => "give the path of another one, on the command line or in TOLLGATE_RULES",
            };
            let file = file.display().to_string();
            Loaded {
                set: None,
                diagnostics: Diagnostics::unreadable(&file, &error.to_string(), hint),
                files: 1,
                lists: 0,
                listed_blocks: 0,
            }
        }
    }
}

/// As [`load`]; errors are a failure, and warnings are logged.
pub(super) fn load_or_fail(file: &Path, keys: &KeySettings) -> Result<RuleSet, Failure> {
    let loaded = load(file, keys);
    match loaded.set {
        Some(set) => {
            app::log_warnings(&loaded.diagnostics);
            Ok(set)
        }
        None => Err(invalid(&loaded.diagnostics)),
    }
}

/// The failure of a command whose rule file is not valid.
pub(super) fn invalid(diagnostics: &Diagnostics) -> Failure {
    Failure::Rules(format!("the rule file is not valid\n{diagnostics}"))
}
