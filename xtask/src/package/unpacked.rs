//! A package, unpacked: to be given what cargo-deb leaves out, or to be made another one for the journey.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::finish;

/// The Ansible role knows by them whether a package is the one that is installed. What an admin may change is not in them.
const MD5SUMS: &str = "cd \"$0\"; find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums; chmod 644 DEBIAN/md5sums";

pub struct Unpacked {
    folder: PathBuf,
}

impl Unpacked {
    /// In a folder that is not there yet.
    pub fn new(package: &Path, folder: PathBuf) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        finish(Command::new("dpkg-deb").arg("--raw-extract").arg(package).arg(&folder))?;
        Ok(Self { folder })
    }

    /// `more` is put behind the version of the package.
    pub fn version(&self, more: &str) -> Result<()> {
        self.change("DEBIAN/control", |control| {
            let lines = control.lines().map(|line| match line.strip_prefix("Version: ") {
                Some(version) => format!("Version: {version}{more}\n"),
                None => format!("{line}\n"),
            });
            lines.collect()
        })
    }

    /// A line at the end of a file.
    pub fn append(&self, file: &str, line: &str) -> Result<()> {
        self.change(file, |text| format!("{text}{line}\n"))
    }

    /// Lines behind the first one of a script, which is `#!`.
    pub fn begin(&self, script: &str, lines: &str) -> Result<()> {
        self.change(script, |text| text.replacen('\n', &format!("\n{lines}\n"), 1))
    }

    /// Takes the folder away. The time of its files is that of `SOURCE_DATE_EPOCH` at most.
    pub fn pack(self, package: &Path, compression: &[&str], time: &str) -> Result<()> {
        finish(Command::new("sh").args(["-euc", MD5SUMS]).arg(&self.folder))?;
        let mut build = Command::new("dpkg-deb");
        build.args(["--build", "--root-owner-group"]).args(compression).arg(&self.folder).arg(package);
        finish(build.env("SOURCE_DATE_EPOCH", time))?;
        Ok(fs::remove_dir_all(&self.folder)?)
    }

    fn change(&self, file: &str, change: impl Fn(&str) -> String) -> Result<()> {
        let path = self.folder.join(file);
        let before = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let after = change(&before);
        ensure!(before != after, "{file} was not changed");
        Ok(fs::write(&path, after)?)
    }
}
