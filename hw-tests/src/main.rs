//! The `seawall-qualify` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    seawall_qualify::cli::run()
}
