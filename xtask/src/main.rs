//! The commands of this repository: `cargo xtask <command>`.

fn main() {}
