//! The disk below a store: filled, so that the store has no room, and freed again.

use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::process;

const COMMAND_MAX: Duration = Duration::from_secs(60);
/// Ceph hears of its own fill every few seconds.
const NOTICE_MAX: Duration = Duration::from_secs(90);

pub enum Room {
    Unknown,
    /// A file system of the store's own, mounted here.
    FileSystem(PathBuf),
    /// A Ceph with this configuration: its disk is sparse, so the ratio is moved from which it counts as full.
    Ceph(PathBuf),
}

impl Room {
    pub fn can_be_filled(&self) -> bool {
        !matches!(self, Self::Unknown)
    }

    pub fn is_file_system(&self) -> bool {
        matches!(self, Self::FileSystem(_))
    }

    /// A Ceph knows when it returns.
    pub fn fill(&self) -> Result<()> {
        match self {
            Self::Unknown => bail!("the disk of this store cannot be filled"),
            Self::FileSystem(at) => {
                let free = run(Command::new("df").args(["--output=avail", "-B1"]).arg(at))?;
                let free = free.lines().last().context("df printed nothing")?.trim().to_owned();
                run(Command::new("fallocate").args(["-l", &free]).arg(at.join(FILLER))).map(drop)
            }
            Self::Ceph(_) => {
                for ratio in ["nearfull", "backfillfull", "full"] {
                    self.ceph(&["osd", &format!("set-{ratio}-ratio"), "0.0001"])?;
                }
                self.wait_for_full(true)
            }
        }
    }

    pub fn free(&self) -> Result<()> {
        match self {
            Self::Unknown => Ok(()),
            Self::FileSystem(at) => std::fs::remove_file(at.join(FILLER)).context("remove what fills the disk"),
            Self::Ceph(_) => {
                for (ratio, share) in [("full", "0.95"), ("backfillfull", "0.90"), ("nearfull", "0.85")] {
                    self.ceph(&["osd", &format!("set-{ratio}-ratio"), share])?;
                }
                self.wait_for_full(false)
            }
        }
    }

    fn wait_for_full(&self, full: bool) -> Result<()> {
        let end = Instant::now() + NOTICE_MAX;
        while self.ceph(&["health", "detail"])?.contains("OSD_FULL") != full {
            ensure!(Instant::now() < end, "Ceph does not notice that it is{} full", if full { "" } else { " not" });
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn ceph(&self, arguments: &[&str]) -> Result<String> {
        let Self::Ceph(conf) = self else { bail!("no Ceph") };
        run(Command::new("ceph").arg("--conf").arg(conf).args(["--connect-timeout", "10"]).args(arguments))
    }
}

const FILLER: &str = "nothing-fits-beside-this";

fn run(command: &mut Command) -> Result<String> {
    let what = command.get_program().display().to_string();
    process::capture(command, Vec::new(), COMMAND_MAX)?.stdout_if_success(&what)
}
