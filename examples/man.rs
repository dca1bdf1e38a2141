//! Writes the manual pages, one for each command, into a folder: `cargo run --example man -- DIR`.
//!
//! Not a command of the program: only `scripts/release.sh` needs it, and the program would be larger.

use std::{env, io, path::Path};

use clap::CommandFactory as _;
use tollgate::cli::Cli;

fn main() -> io::Result<()> {
    let Some(dir) = env::args_os().nth(1) else {
        return Err(io::Error::other("say into which folder"));
    };
    let dir = Path::new(&dir);
    std::fs::create_dir_all(dir)?;
    // `-h` prints a summary, `--help` all; a manual page is all.
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), dir)
}
