//! The `seawall` binary.

use std::process::ExitCode;

/// Gives freed memory back while the broker runs; its settings are in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    seawall::cli::run()
}
