//! What holds a lab together: one process, the first of a process namespace, with a mount and a network namespace. Whatever a lab
//! starts and mounts is inside of them, so the kernel ends and unmounts all of it when that process ends, however it ends.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

use crate::process;
use crate::tools::Tool;

const SCRIPT: &str = include_str!("keeper.sh");
/// Its process, as `unshare` starts it and waits for it.
const PID_FILE: &str = "keeper";
const LOG_FILE: &str = "keeper.log";

pub struct Keeper {
    pid: u32,
    folder: PathBuf,
}

impl Keeper {
    /// `address` is the one that hosts know this side by. It dies with this process, unless it is `lasting`.
    pub fn start(folder: &Path, address: &str, lasting: bool) -> Result<(Self, Child)> {
        let unshare = Tool::Unshare.find().with_context(|| Tool::Unshare.hint())?;
        let mut command = if lasting {
            Command::new(unshare)
        } else {
            let mut dying = Command::new("setpriv");
            dying.args(["--pdeathsig", "KILL"]).arg(unshare);
            dying
        };
        command
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"])
            .args(["sh", "-euc", SCRIPT])
            .arg(folder)
            .arg(address)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // It outlives whoever reads ours.
            .stderr(File::create(folder.join(LOG_FILE))?)
            // Ctrl-C is for who started it.
            .process_group(0);
        let mut child = command.spawn().context("start unshare")?;
        let keeper = Self { pid: child.id(), folder: folder.to_owned() };
        fs::write(folder.join(PID_FILE), keeper.pid.to_string())?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        if line.trim() != "ready" {
            keeper.end();
            child.wait()?;
            bail!("the namespaces of a lab were not made: {}", fs::read_to_string(folder.join(LOG_FILE))?.trim());
        }
        Ok((keeper, child))
    }

    /// The one of a lab that runs.
    pub fn find(folder: &Path) -> Option<Self> {
        let pid = fs::read_to_string(folder.join(PID_FILE)).ok()?.trim().parse().ok()?;
        let keeper = Self { pid, folder: folder.to_owned() };
        keeper.is_alive().then_some(keeper)
    }

    /// Process ids are used again: it must be the one that was started for this folder.
    pub fn is_alive(&self) -> bool {
        let arguments = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| Path::new(&*String::from_utf8_lossy(argument)) == self.folder)
    }

    /// A command on the lab's network, which sees the machine's own files and processes.
    pub fn on_network(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.pid)).arg("--").arg(program);
        command
    }

    /// A socket that hosts can connect to, on a free port; who accepts is on the machine's own network.
    pub fn listen(&self, address: &str) -> Result<TcpListener> {
        let network = File::open(format!("/proc/{}/ns/net", self.pid))?;
        let address = address.to_owned();
        // A thread that is on another network stays there, so it ends with this.
        let made = thread::spawn(move || -> Result<TcpListener> {
            setns(network, CloneFlags::CLONE_NEWNET).context("enter the lab's network")?;
            Ok(TcpListener::bind((address.as_str(), 0))?)
        });
        made.join().map_err(|_| anyhow!("making a socket panicked"))?
    }

    /// A shell script inside; what it starts ends with the lab.
    pub fn inside(&self, script: &str) -> Command {
        let namespaces = format!("/proc/{}/ns", self.pid);
        let mut command = Command::new("nsenter");
        command
            .args([format!("--net={namespaces}/net"), format!("--mount={namespaces}/mnt")])
            .args([format!("--pid={namespaces}/pid_for_children")])
            .args(["--", "sh", "-euc", script]);
        command
    }

    /// SIGKILL to all of the lab.
    pub fn end(&self) {
        if self.is_alive() {
            process::signal("KILL", &[self.pid]);
        }
    }
}
