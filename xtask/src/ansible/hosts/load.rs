//! Producers and a consumer for each broker, on the hosts' network, with a ledger of what was acked.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::lab::{Kind, Lab};
use crate::process;

/// Records per second for each broker.
const RATE: u32 = 100;
/// An emulated processor has little left for Ansible at more: plays take three times as long.
const RATE_EMULATED: u32 = 10;
const RECORD_BYTES: u32 = 1024;
const PARTITIONS: u32 = 3;
/// How long a broker may be away before a record is given up.
const DRAIN_S: u32 = 300;
/// Nobody waits for its end: it is asked to stop.
const LONGEST_S: u32 = 7_200;
/// Longer than a record is waited for.
const CHECK_MAX: Duration = Duration::from_secs(DRAIN_S as u64 + 60);
const FIRST_ACK_MAX: Duration = Duration::from_secs(30);

pub struct Load {
    host: String,
    bootstrap: String,
    child: Child,
    ledger: PathBuf,
    report: PathBuf,
    log: PathBuf,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Report {
    pub failed: u64,
    ledger: Option<Verdict>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Verdict {
    pub acked: u64,
    pub read: u64,
    pub lost: u64,
    pub doubled: u64,
    pub moved: u64,
}

impl Load {
    /// Returns while it connects.
    pub fn start(lab: &Lab, generator: &Path, host: &str, folder: &Path) -> Result<Self> {
        let bootstrap = format!("{}:9092", lab.address(host)?);
        let file = |end: &str| folder.join(format!("load-{host}.{end}"));
        let (ledger, report, log) = (file("acks"), file("json"), file("log"));
        let rate = if Kind::of(host) == Some(Kind::Machine) { RATE_EMULATED } else { RATE };
        let mut command = lab.command(&generator.display().to_string());
        command.args(["cluster", "--json", "--topic", "ledger", "--connections", "1", "--producers", "1"]);
        command.args(["--bootstrap", &bootstrap, "--ledger"]).arg(&ledger);
        for (name, value) in [
            ("rate", rate),
            ("record-bytes", RECORD_BYTES),
            ("partitions", PARTITIONS),
            ("drain", DRAIN_S),
            ("duration", LONGEST_S),
        ] {
            command.args([format!("--{name}"), value.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(File::create(&report)?).stderr(File::create(&log)?);
        let child = command.spawn().context("start the load")?;
        Ok(Self { host: host.to_owned(), bootstrap, child, ledger, report, log })
    }

    pub fn wait_until_acked(&mut self) -> Result<()> {
        let end = Instant::now() + FIRST_ACK_MAX;
        loop {
            let log = fs::read_to_string(&self.log)?;
            if log.lines().any(|line| line.contains(" acked,") && !line.contains(" 0 acked,")) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the load of {} ended with {status}: {}", self.host, last_lines(&log));
            }
            ensure!(Instant::now() < end, "{} acks nothing: {}", self.host, last_lines(&log));
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends the sending; what was acked was read as it came, and is read again from the beginning.
    pub fn finish(mut self, lab: &Lab, generator: &Path) -> Result<Verdict> {
        process::signal("TERM", &[self.child.id()]);
        let end = Instant::now() + CHECK_MAX;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < end, "the load of {} does not end", self.host);
            thread::sleep(Duration::from_millis(50));
        };
        let log = last_lines(&fs::read_to_string(&self.log)?);
        ensure!(status.success(), "the load of {} found what is wrong, {status}:\n{log}", self.host);
        let seen: Report = serde_json::from_str(&fs::read_to_string(&self.report)?).context("the load's report")?;
        let mut check = lab.command(&generator.display().to_string());
        check.args(["cluster", "--json", "--drain", "60", "--bootstrap", &self.bootstrap, "--check"]).arg(&self.ledger);
        let again = check_ledger(&mut check).with_context(|| self.host.clone())?;
        let acked = seen.ledger.unwrap_or_default().acked;
        ensure!(again.acked == acked, "{} acked {acked} records, its ledger has {}", self.host, again.acked);
        println!(
            "{}: {} records acked, {} read from the beginning, {} lost, {} doubled, {} moved; {} given up by the client",
            self.host, again.acked, again.read, again.lost, again.doubled, again.moved, seen.failed
        );
        ensure!(again.acked > 0 && again.lost + again.doubled + again.moved == 0, "{} lost what it acked", self.host);
        Ok(again)
    }
}

fn check_ledger(check: &mut Command) -> Result<Verdict> {
    let finished = process::capture(check, Vec::new(), CHECK_MAX)?;
    let report = finished.stdout_if_success("comparing the topic with the ledger")?;
    let report: Report = serde_json::from_str(&report)?;
    report.ledger.context("no ledger in the report")
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
