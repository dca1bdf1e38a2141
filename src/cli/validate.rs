//! `tollgate validate`: everything that is wrong with a rule file, in one go.

use std::{
    io,
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::json;

use super::{Failure, Format};
use crate::{
    app,
    hash::HashKey,
    rules::{Loaded, Report, RuleSet, Severity, diagnostic::counted},
};

/// Options of `tollgate validate`.
#[derive(Debug, Args)]
pub(super) struct ValidateArgs {
    /// The rule file
    #[arg(
        value_name = "FILE",
        env = "TOLLGATE_RULES",
        default_value = "config/rules.yaml"
    )]
    file: PathBuf,

    /// How the findings are printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run(args: &ValidateArgs) -> Result<(), Failure> {
    let loaded = load(&args.file, &HashKey::default());
    let name = args.file.display().to_string();
    let (rules, limits) = loaded
        .set
        .as_ref()
        .map_or((0, 0), |set| (set.rules.len(), set.limits().count()));
    let report = &loaded.report;
    let count = |severity| report.of(severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    match args.format {
        Format::Json => {
            let answer = json!({
                "file": name,
                "valid": errors == 0,
                "errors": errors,
                "warnings": warnings,
                "rules": rules,
                "limits": limits,
                "diagnostics": report.diagnostics,
            });
            super::print(&format!("{answer:#}"))?;
            match errors {
                0 => Ok(()),
                _ => Err(Failure::Told),
            }
        }
        Format::Text if errors > 0 => Err(invalid(&loaded)),
        Format::Text => {
            if warnings > 0 {
                super::print(&report.to_string())?;
            }
            let mut told = vec![
                "valid".to_owned(),
                counted(rules, "rule"),
                counted(limits, "limit"),
            ];
            if warnings > 0 {
                told.push(counted(warnings, "warning"));
            }
            super::print(&format!("{name}: {}", told.join(", ")))
        }
    }
}

/// Reads and compiles a rule file with those that belong to it.
fn load(file: &Path, hash_key: &HashKey) -> Loaded {
    match app::read_text(file) {
        Ok(text) => app::load_rules(file, &text, hash_key),
        Err(error) => {
            let hint = match error.kind() {
                io::ErrorKind::InvalidData => "save it in the encoding UTF-8",
                _ => "name another, on the command line or in TOLLGATE_RULES",
            };
            let file = file.display().to_string();
            Loaded {
                set: None,
                report: Report::unreadable(&file, &error.to_string(), hint),
            }
        }
    }
}

/// As [`load`]; what is wrong is a failure, and what is probably wrong is logged.
pub(super) fn load_or_fail(file: &Path, hash_key: &HashKey) -> Result<RuleSet, Failure> {
    let loaded = load(file, hash_key);
    match loaded.set {
        Some(set) => {
            app::tell_warnings(&loaded.report);
            Ok(set)
        }
        None => Err(invalid(&loaded)),
    }
}

fn invalid(loaded: &Loaded) -> Failure {
    Failure::Rules(format!("the rule file is not valid\n{}", loaded.report))
}
