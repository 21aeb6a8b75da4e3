//! The collection where Ansible looks for it by its name, which is a folder's place, and Ansible itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::clients::python_environment;
use crate::process;

/// At one version each, in a virtual environment of the cache folder.
const PACKAGES: [&str; 3] = ["ansible-core==2.19.14", "ansible-lint==26.10.1", "yamllint==1.38.0"];
const CHECK_MAX: Duration = Duration::from_secs(600);

pub struct Collection {
    programs: PathBuf,
    /// Removed when dropped.
    home: PathBuf,
}

impl Collection {
    /// The one in `source`.
    pub fn new(source: &Path) -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let programs = python_environment(&PACKAGES)?.join("bin");
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let home = std::env::temp_dir().join(format!("seawall-ansible-{}-{number}", std::process::id()));
        let namespace = home.join("collections/ansible_collections/seawall");
        std::fs::create_dir_all(&namespace)?;
        std::os::unix::fs::symlink(source, namespace.join("cluster"))?;
        Ok(Self { programs, home })
    }

    pub fn check(&self, name: &str, program: &str, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(self.program(program));
        self.prepare(command.args(arguments)).current_dir(self.folder());
        let finished = process::capture(&mut command, Vec::new(), CHECK_MAX)?;
        ensure!(!finished.timed_out, "{name} was ended after {CHECK_MAX:?}");
        if !finished.success {
            bail!("{name}:\n{}\n{}", finished.stdout, finished.stderr);
        }
        println!("{name}: ok in {:.1} s", finished.elapsed.as_secs_f64());
        Ok(())
    }

    /// One of Ansible's.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Of a command that runs one of Ansible's programs, maybe by way of another.
    pub fn prepare<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", self.programs.display()))
            .env("ANSIBLE_HOME", self.home.join("home"))
            // Or a connection to a host of another lab, which has the same address, would be taken for one to ours.
            .env("ANSIBLE_SSH_CONTROL_PATH_DIR", self.home.join("cp"))
            .env("ANSIBLE_COLLECTIONS_PATH", self.home.join("collections"))
            .env("LC_ALL", "C.UTF-8")
            .env_remove("ANSIBLE_CONFIG")
    }

    fn folder(&self) -> PathBuf {
        self.home.join("collections/ansible_collections/seawall/cluster")
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.home);
    }
}
