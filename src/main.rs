//! The `tollgate` binary: everything is in the library.

use std::process::ExitCode;

/// Gives memory back after a load has gone, which the allocator of glibc keeps.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tollgate::cli::main()
}
