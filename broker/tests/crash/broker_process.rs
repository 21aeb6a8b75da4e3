//! The real broker as a child process on a folder: started, killed, started again. Always killed by its own pid.

use std::fs::{File, OpenOptions};
use std::io::{Error, Result};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::wire::Wire;

/// Longest wait until a started broker answers.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// How a broker is run; the same over all of its restarts.
#[derive(Debug, Clone)]
pub struct BrokerSetup {
    pub program: PathBuf,
    /// Configuration, data and log file are below it.
    pub folder: PathBuf,
    pub address: SocketAddr,
    /// `SEAWALL_FAULT`, for builds that have it.
    pub fault: Option<String>,
}

/// Sizes that make uploads, trims and laps of the ring frequent.
pub struct SmallSizes {
    /// "none": no WAL at all.
    pub wal: &'static str,
    /// A formatted device that holds the WAL, instead of a file of that size.
    pub wal_device: Option<PathBuf>,
    pub upload_bytes: &'static str,
    pub upload_interval: &'static str,
    pub log_cache: &'static str,
    /// A configuration whose `[backend]` is taken, under a prefix of its own, instead of a folder beside the data.
    pub store: Option<PathBuf>,
}

impl Default for SmallSizes {
    fn default() -> Self {
        Self {
            wal: "32MiB",
            wal_device: None,
            upload_bytes: "1MiB",
            upload_interval: "300ms",
            log_cache: "4MiB",
            store: None,
        }
    }
}

impl BrokerSetup {
    /// Writes a configuration below `folder`, on ports that are free now.
    pub fn create(program: impl Into<PathBuf>, folder: &Path, sizes: &SmallSizes) -> Result<Self> {
        let [kafka, admin] = free_ports()?;
        let data = folder.join("data");
        let SmallSizes { wal, wal_device, upload_bytes, upload_interval, log_cache, .. } = sizes;
        let wal = match wal_device {
            Some(device) => format!("kind = \"device\"\ndevice = {device:?}"),
            None if *wal == "none" => "kind = \"none\"".to_owned(),
            None => format!("kind = \"file\"\nsize = \"{wal}\""),
        };
        let backend = sizes.store.as_deref().map_or_else(|| Ok("kind = \"fs\"\n".to_owned()), backend_section)?;
        let config = format!(
            "[node]\nid = 1\ndata_dir = {data:?}\n\n[listeners]\nkafka = \"{kafka}\"\nadmin = \"{admin}\"\n\n\
             [backend]\n{backend}\n[[wal]]\n{wal}\n\n\
             [upload]\nbytes = \"{upload_bytes}\"\ninterval = \"{upload_interval}\"\n\n\
             [cache]\nlog_bytes = \"{log_cache}\"\n"
        );
        std::fs::create_dir_all(&data)?;
        std::fs::write(config_file(folder), config)?;
        Ok(Self { program: program.into(), folder: folder.into(), address: kafka, fault: None })
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub fn format_wal_device(&self, device: &Path) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(["wal", "format"]).arg(device).arg("--config").arg(config_file(&self.folder)).arg("--yes");
        let output = command.output()?;
        if !output.status.success() {
            return Err(Error::other(format!("wal format: {}", String::from_utf8_lossy(&output.stderr))));
        }
        Ok(())
    }

    pub fn log(&self) -> PathBuf {
        self.folder.join("broker.log")
    }

    /// Starts the process and does not wait for it.
    pub fn spawn(&self) -> Result<BrokerProcess> {
        let log = || -> Result<File> { OpenOptions::new().create(true).append(true).open(self.log()) };
        let mut command = Command::new(&self.program);
        command.arg("start").arg("--config").arg(config_file(&self.folder));
        command.stdin(Stdio::null()).stdout(log()?).stderr(log()?);
        if let Some(fault) = &self.fault {
            command.env("SEAWALL_FAULT", fault);
        }
        Ok(BrokerProcess { child: command.spawn()?, address: self.address })
    }

    /// Starts the process and waits until it answers.
    pub fn start(&self) -> Result<BrokerProcess> {
        let mut broker = self.spawn()?;
        broker.wait_ready().map_err(|error| Error::other(format!("{error}\n{}", self.log_tail())))?;
        Ok(broker)
    }

    /// The last lines of the broker's log, for a failure's message.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

pub struct BrokerProcess {
    child: Child,
    address: SocketAddr,
}

impl BrokerProcess {
    /// Waits until the broker answers a request; an error if it ends before.
    pub fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(Error::other(format!("the broker ended with {status}")));
            }
            // The first API that needs partitions to be open.
            if Wire::connect(self.address).and_then(|mut wire| wire.init_producer_id()).is_ok() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Error::other("the broker does not answer"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[allow(dead_code, reason = "the outages use it")]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, at once.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait().map(|_| ())
    }

    /// SIGSTOP: it does nothing more, but is not gone. I/O that the kernel has of it goes on.
    pub fn freeze(&self) -> Result<()> {
        self.signal(libc::SIGSTOP)
    }

    /// SIGTERM, and how it ended.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM)?;
        self.wait_end(Duration::from_secs(30))
    }

    fn signal(&self, signal: libc::c_int) -> Result<()> {
        let pid = libc::pid_t::try_from(self.child.id()).map_err(Error::other)?;
        // SAFETY: a plain system call; the child is not waited for yet, so the pid is its own.
        if unsafe { libc::kill(pid, signal) } != 0 {
            return Err(Error::last_os_error());
        }
        Ok(())
    }

    /// Waits for a broker that is expected to end by itself.
    pub fn wait_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(Error::other("the broker does not end"))
    }
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn config_file(folder: &Path) -> PathBuf {
    folder.join("broker.toml")
}

fn backend_section(config: &Path) -> Result<String> {
    let text = std::fs::read_to_string(config)?;
    let config: toml::Table = text.parse().map_err(Error::other)?;
    let mut section = config.get("backend").and_then(|section| section.as_table()).cloned().unwrap_or_default();
    let prefix = section.get("prefix").and_then(|prefix| prefix.as_str()).unwrap_or("seawall");
    let prefix = format!("{prefix}/crash-{}", uuid::Uuid::new_v4().simple());
    section.insert("prefix".to_owned(), prefix.into());
    Ok(section.to_string())
}

fn free_ports() -> Result<[SocketAddr; 2]> {
    let first = TcpListener::bind("127.0.0.1:0")?;
    let second = TcpListener::bind("127.0.0.1:0")?;
    Ok([first.local_addr()?, second.local_addr()?])
}
