//! The `seawall` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    seawall::cli::run()
}
