//! One file per subcommand.

pub mod healthcheck;
pub mod upstream;
