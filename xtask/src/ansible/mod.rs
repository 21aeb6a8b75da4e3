//! `cargo xtask ansible`: the collection in `ansible/`, checked: yamllint, ansible-lint at its strictest profile, the unit tests of the
//! module that judges devices, and docs/ansible.md against the argument specs of the roles.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::clients::python_environment;
use crate::process;
use crate::tools::{self, Tool};

/// At one version each, in a virtual environment of the cache folder.
const PACKAGES: [&str; 3] = ["ansible-core==2.19.14", "ansible-lint==26.10.1", "yamllint==1.38.0"];
const CHECK_MAX: Duration = Duration::from_secs(600);

#[derive(clap::Args)]
pub struct Args {
    /// Write the tables of variables in docs/ansible.md.
    #[arg(long)]
    write: bool,
}

pub fn run(args: &Args) -> Result<bool> {
    if tools::is_ci() {
        tools::install(&[Tool::PythonVenv])?;
    }
    let site = Collection::new()?;
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

/// The collection where Ansible looks for it by its name, which is a folder's place.
struct Collection {
    programs: PathBuf,
    /// Removed when dropped.
    home: PathBuf,
}

impl Collection {
    fn new() -> Result<Self> {
        let programs = python_environment(&PACKAGES)?.join("bin");
        let home = std::env::temp_dir().join(format!("seawall-ansible-{}", std::process::id()));
        let namespace = home.join("collections/ansible_collections/seawall");
        std::fs::create_dir_all(&namespace)?;
        std::os::unix::fs::symlink(crate::root().join("ansible"), namespace.join("cluster"))?;
        Ok(Self { programs, home })
    }

    fn check(&self, name: &str, program: &str, arguments: &[&str]) -> Result<()> {
        let path = std::env::var("PATH").unwrap_or_default();
        let collections = self.home.join("collections");
        let mut command = Command::new(self.programs.join(program));
        command
            .args(arguments)
            .current_dir(collections.join("ansible_collections/seawall/cluster"))
            .env("PATH", format!("{}:{path}", self.programs.display()))
            .env("ANSIBLE_HOME", self.home.join("home"))
            .env("ANSIBLE_COLLECTIONS_PATH", &collections)
            .env("LC_ALL", "C.UTF-8")
            .env_remove("ANSIBLE_CONFIG");
        let finished = process::capture(&mut command, Vec::new(), CHECK_MAX)?;
        ensure!(!finished.timed_out, "{name} was ended after {CHECK_MAX:?}");
        if !finished.success {
            bail!("{name}:\n{}\n{}", finished.stdout, finished.stderr);
        }
        println!("{name}: ok in {:.1} s", finished.elapsed.as_secs_f64());
        Ok(())
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.home);
    }
}
