//! `cargo xtask ansible`: the collection in `ansible/`, checked: yamllint, ansible-lint at its strictest profile, the unit tests of the
//! modules that judge devices and passports, and docs/ansible.md against the argument specs of the roles. `cargo xtask ansible hosts` and
//! `vm` play it.

mod collection;
mod hosts;
mod machine;

use anyhow::Result;

use crate::tools::{self, Tool};
use collection::Collection;

#[derive(clap::Args)]
pub struct Args {
    /// Write the tables of variables in docs/ansible.md.
    #[arg(long)]
    write: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Play it on three hosts of a lab with a real Ceph RGW, under load
    Hosts(hosts::Args),
    /// Play it on a virtual machine with a kernel and NVMe drives of its own, every task of it
    Vm(machine::Args),
}

pub fn run(args: &Args) -> Result<bool> {
    if tools::is_ci() {
        tools::install(&[Tool::PythonVenv])?;
    }
    match &args.action {
        Some(Action::Hosts(args)) => return hosts::run(args),
        Some(Action::Vm(args)) => return machine::run(args),
        None => {}
    }
    let site = Collection::new(&crate::root().join("ansible"))?;
    if args.write {
        site.check("variables", "python", &["-B", "tests/variables.py", "--write"])?;
        return Ok(true);
    }
    let checks: [(&str, &str, &[&str]); 4] = [
        ("unit tests", "python", &["-B", "-m", "unittest", "discover", "--start-directory", "tests/unit"]),
        ("variables in docs/ansible.md", "python", &["-B", "tests/variables.py"]),
        ("yamllint", "yamllint", &["--strict", "."]),
        ("ansible-lint", "ansible-lint", &["--offline", "--profile", "production", "--nocolor"]),
    ];
    let mut failed = 0;
    for (name, program, arguments) in checks {
        if let Err(error) = site.check(name, program, arguments) {
            println!("{error:#}");
            failed += 1;
        }
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {} passed; {failed} failed; 0 ignored", checks.len() - failed);
    Ok(failed == 0)
}
