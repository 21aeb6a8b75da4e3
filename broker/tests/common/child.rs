//! The real binary as a child process, killed when dropped.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::{Client, http_get};

/// A start from an empty folder writes the whole WAL file first.
const START: Duration = Duration::from_secs(60);

pub struct ChildBroker {
    child: Child,
    pub kafka_address: SocketAddr,
    pub admin_address: SocketAddr,
    pub banner: String,
}

impl ChildBroker {
    /// `seawall dev` on free ports with its data in `data`, and what else `args` say.
    pub fn dev(data: &Path, args: &[&str]) -> Self {
        Self::dev_with(data, args, &[])
    }

    /// As `dev`, with environment variables.
    pub fn dev_with(data: &Path, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = dev_command(data);
        command.args(args).envs(env.iter().copied());
        Self::spawn(command)
    }

    /// `seawall start` by a configuration file.
    pub fn start(config: &Path) -> Self {
        let mut command = Command::new(binary());
        command.arg("start").arg("--config").arg(config);
        Self::spawn(command)
    }

    /// Runs a command that serves, and waits until it is ready.
    pub fn spawn(mut command: Command) -> Self {
        command.env("SEAWALL_LOG", std::env::var("SEAWALL_LOG").unwrap_or_else(|_| "warn".into()));
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let (lines, banner) = mpsc::sync_channel(64);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        // The pipe is read to its end, so that the child never blocks on it.
        thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(|line| drop(lines.send(line))));
        let deadline = Instant::now() + START;
        let (mut text, mut kafka_address, mut admin_address) = (String::new(), None, None);
        // The banner ends with an empty line.
        while !text.ends_with("\n\n") {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = banner.recv_timeout(left) else {
                let _ = child.kill();
                panic!("the broker did not start: {:?}\n{text}", child.wait());
            };
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("kafka"), Some(address)) => kafka_address = address.parse().ok(),
                (Some("admin"), Some(url)) => {
                    admin_address = url.trim_start_matches("http://").trim_end_matches('/').parse().ok();
                }
                _ => {}
            }
            text.push_str(&line);
            text.push('\n');
        }
        let (kafka_address, admin_address) = (kafka_address.unwrap(), admin_address.unwrap());
        Self { child, kafka_address, admin_address, banner: text }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.kafka_address).await
    }

    pub async fn admin(&self, path: &str) -> (u16, String) {
        http_get(self.admin_address, path).await
    }

    /// SIGKILL, and waits for the process to be gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and waits for the exit.
    pub fn terminate(mut self) -> ExitStatus {
        signal(self.child.id(), "TERM");
        wait(&mut self.child, Duration::from_secs(60))
    }

    /// Waits for an exit of its own.
    pub fn exited(mut self, limit: Duration) -> ExitStatus {
        wait(&mut self.child, limit)
    }

    /// Memory that the process has in RAM, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for ChildBroker {
    fn drop(&mut self) {
        // Most likely it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `seawall dev` on free ports, not started.
pub fn dev_command(data: &Path) -> Command {
    let mut command = Command::new(binary());
    command.args(["dev", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"]).arg(data);
    command
}

/// Runs a command that is expected to end by itself: exit code and stderr.
pub fn run_to_end(mut command: Command) -> (i32, String) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let status = wait(&mut child, Duration::from_secs(60));
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    (status.code().unwrap_or(-1), stderr)
}

/// The binary under test; `SEAWALL_BIN` names another one.
pub fn binary() -> PathBuf {
    std::env::var_os("SEAWALL_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_seawall")), PathBuf::from)
}

fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(status.success());
}

fn wait(child: &mut Child, limit: Duration) -> ExitStatus {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("the process did not end within {limit:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}
