//! Why a command did not succeed, and the exit code that says so.

use std::process::ExitCode;

use crate::problem::Problem;

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Something failed at run time.
    #[error("{0:#}")]
    Runtime(#[from] anyhow::Error),
    /// The rule file is not valid; the text has all diagnostics.
    #[error("{0}")]
    Rules(String),
    /// The rule file is not valid, and the JSON that was printed says why.
    #[error("the rule file is not valid")]
    Reported,
    /// The options contradict each other.
    #[error("{0}")]
    Usage(Problem),
}

impl Failure {
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Runtime(_) => ExitCode::from(1),
            Self::Rules(_) | Self::Reported => ExitCode::from(2),
            Self::Usage(_) => ExitCode::from(64),
        }
    }
}
