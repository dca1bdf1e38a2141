//! `tollgate validate`: everything that is wrong with a rule file, in one go.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{
    failure::Failure,
    output::{Format, print},
    rules,
};
use crate::{
    counter_key::KeySettings,
    rulefile::{Severity, counted},
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

    /// The output format
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run(args: &ValidateArgs) -> Result<(), Failure> {
    let loaded = rules::load(&args.file, &KeySettings::default());
    let name = args.file.display().to_string();
    let (rule_count, limit_count) = loaded
        .set
        .as_ref()
        .map_or((0, 0), |set| (set.rules.len(), set.limits().count()));
    let diagnostics = &loaded.diagnostics;
    let count = |severity| diagnostics.of(severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    match args.format {
        Format::Json => {
            let answer = json!({
                "file": name,
                "valid": errors == 0,
                "errors": errors,
                "warnings": warnings,
                "files": loaded.files,
                "lists": loaded.lists,
                "listed_blocks": loaded.listed_blocks,
                "rules": rule_count,
                "limits": limit_count,
                "diagnostics": diagnostics.list,
            });
            print(&format!("{answer:#}"))?;
            match errors {
                0 => Ok(()),
                _ => Err(Failure::Reported),
            }
        }
        Format::Text if errors > 0 => Err(rules::invalid(diagnostics)),
        Format::Text => {
            if warnings > 0 {
                print(&diagnostics.to_string())?;
            }
            let mut parts = vec!["valid".to_owned()];
            if loaded.files > 1 {
                parts.push(counted(loaded.files, "file"));
            }
            parts.push(counted(rule_count, "rule"));
            parts.push(counted(limit_count, "limit"));
            if loaded.lists > 0 {
                let blocks = counted(loaded.listed_blocks, "block");
                parts.push(format!("{} ({blocks})", counted(loaded.lists, "list")));
            }
            if warnings > 0 {
                parts.push(counted(warnings, "warning"));
            }
            print(&format!("{name}: {}", parts.join(", ")))
        }
    }
}
