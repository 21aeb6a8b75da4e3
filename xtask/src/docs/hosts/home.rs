//! A folder of this machine in which blocks run: a reader's working folder, with a home and an `/etc/seawall` of its own, with the programs of the package.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::play::Play;
use super::world::World;

#[derive(Clone)]
pub struct Home {
    pub folder: PathBuf,
    /// Before that of this machine.
    path: Vec<PathBuf>,
    variables: Vec<(&'static str, String)>,
}

impl Home {
    pub fn new(world: &World, name: &str) -> Result<Self> {
        let folder = world.folder.join(name);
        for part in ["bin", "etc", "home"] {
            fs::create_dir_all(folder.join(part))?;
        }
        for program in ["seawall", "seawall-qualify"] {
            symlink(world.program(program), folder.join("bin").join(program))?;
        }
        fs::copy(world.folder.join("lab.toml"), folder.join("lab.toml"))?;
        Ok(Self { path: vec![folder.join("bin")], folder, variables: Vec::new() })
    }

    pub fn etc(&self) -> PathBuf {
        self.folder.join("etc")
    }

    pub fn program(&self, name: &str, text: &str) -> Result<()> {
        let file = self.folder.join("bin").join(name);
        fs::write(&file, text)?;
        Ok(fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?)
    }

    pub fn path(&mut self, folder: PathBuf) {
        self.path.push(folder);
    }

    pub fn variable(&mut self, name: &'static str, value: impl AsRef<Path>) {
        self.variables.push((name, value.as_ref().display().to_string()));
    }

    /// The names of this folder, and the page's files in it.
    pub fn open(&self, play: &mut Play) -> Result<()> {
        play.names.set("etc", &self.etc().display().to_string());
        for (name, text) in play.files()? {
            fs::write(self.folder.join(name), text)?;
        }
        Ok(())
    }

    /// A script of bash in it; `bash` may be one on another network.
    pub fn run(&self, mut bash: Command, script: &str) -> Command {
        let own = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(self.path.iter().cloned().chain(std::env::split_paths(&own)));
        bash.args(["--norc", "-euo", "pipefail", "-c", script])
            .env("HOME", self.folder.join("home"))
            .env("PATH", path.unwrap_or(own))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.folder);
        bash
    }
}
