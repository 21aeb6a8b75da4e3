//! A server of a bed: a child process with a log and a pid file below the bed's folder. It dies with its owner, unless it is let go.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::process;

pub struct Daemon {
    pub name: &'static str,
    log: PathBuf,
    pid_file: PathBuf,
    /// For another start.
    command: Command,
    /// None once it was let go.
    child: Option<Child>,
}

impl Daemon {
    pub fn start(folder: &Path, name: &'static str, command: &Command) -> Result<Self> {
        let mut again = Command::new(command.get_program());
        again.args(command.get_args());
        for (variable, value) in command.get_envs() {
            match value {
                Some(value) => again.env(variable, value),
                None => again.env_remove(variable),
            };
        }
        let (log, pid_file) = (folder.join(format!("{name}.out")), folder.join(format!("{name}.pid")));
        let mut daemon = Self { name, log, pid_file, command: again, child: None };
        daemon.start_again()?;
        Ok(daemon)
    }

    /// As it was started the first time.
    pub fn start_again(&mut self) -> Result<()> {
        let output: File = OpenOptions::new().create(true).append(true).open(&self.log)?;
        self.command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = self.command.spawn().with_context(|| format!("start {}", self.name))?;
        fs::write(&self.pid_file, child.id().to_string())?;
        self.child = Some(child);
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        let child = self.child.as_mut().with_context(|| format!("{} was let go", self.name))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    pub fn signal(&self, name: &str) -> Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} was let go", self.name))?;
        process::signal(name, &[child.id()]);
        Ok(())
    }

    /// Until `ready` says so; an error when the process has ended or the time is over.
    pub fn wait(&mut self, time_max: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let end = Instant::now() + time_max;
        while !ready() {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                bail!("{} ended with {status}: {}", self.name, self.log_tail());
            }
            ensure!(Instant::now() < end, "{} is not ready after {time_max:?}: {}", self.name, self.log_tail());
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// It goes on when this program ends.
    pub fn let_go(&mut self) {
        self.child = None;
    }

    fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

impl Drop for Daemon {
    /// SIGKILL: nothing of a bed is kept.
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Ends what an earlier run let go on in `folder`, and removes the folder. A pid counts only while its output goes into the folder:
/// pids are used again.
pub fn stop_all(folder: &Path) -> Result<usize> {
    ensure!(folder.join(super::MARK).is_file(), "{} is no folder of a test bed", folder.display());
    let mut stopped = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "pid") {
            continue;
        }
        let Ok(pid) = fs::read_to_string(&path)?.trim().parse::<u32>() else { continue };
        let is_ours = || fs::read_link(format!("/proc/{pid}/fd/1")).is_ok_and(|output| output.starts_with(folder));
        if !is_ours() {
            continue;
        }
        process::signal("KILL", &[pid]);
        let end = Instant::now() + Duration::from_secs(10);
        while is_ours() {
            ensure!(Instant::now() < end, "process {pid} does not end");
            thread::sleep(Duration::from_millis(20));
        }
        stopped += 1;
    }
    fs::remove_dir_all(folder)?;
    Ok(stopped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_let_go_is_stopped_by_its_folder_and_nothing_else_is() {
        let folder = PathBuf::from(format!("/var/tmp/seawall-bed-test-{}", std::process::id()));
        assert!(stop_all(&folder).is_err());
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(super::super::MARK), "").unwrap();
        let mut ours = Daemon::start(&folder, "ours", Command::new("sleep").arg("3000")).unwrap();
        let mut other = Command::new("sleep").arg("3000").spawn().unwrap();
        fs::write(folder.join("other.pid"), other.id().to_string()).unwrap();
        let mut child = ours.child.take().unwrap();
        let reaper = thread::spawn(move || child.wait());
        assert_eq!(stop_all(&folder).unwrap(), 1);
        assert!(!reaper.join().unwrap().unwrap().success());
        assert!(!folder.exists() && other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_server_that_ends_before_it_is_ready_is_told_with_its_last_words() {
        let folder = PathBuf::from(format!("/var/tmp/seawall-bed-end-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut daemon =
            Daemon::start(&folder, "short", Command::new("sh").args(["-c", "echo no room >&2; exit 3"])).unwrap();
        let error = daemon.wait(Duration::from_secs(10), || false).unwrap_err().to_string();
        fs::remove_dir_all(&folder).unwrap();
        assert!(error.contains("exit status: 3") && error.contains("no room"), "{error}");
    }
}
