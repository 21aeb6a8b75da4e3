//! `cargo xtask rack`: `seawall-qualify all` over a rack of three hosts of a lab, through a real ssh and sshd.
//!
//! One host has a slow way out: the report of the rack must name it, and nobody else. Then the run is ended from outside, by Ctrl-C as a
//! terminal sends it and by SIGKILL: nothing of it may be left on any host. Needs root.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::lab::{Disk, Lab, require_tools};
use crate::{builds, process};

const HOSTS: u8 = 3;
/// Whose packets go out at a hundredth of what the others have.
const SLOW: &str = "h3";
const DISK_BYTES: u64 = 256 << 20;
const ON_HOST: &str = "/usr/local/bin/seawall-qualify";
const RUN_MAX: Duration = Duration::from_secs(240);
const SHORT: Duration = Duration::from_secs(60);
/// Within this a host has cleaned up after a run that is gone.
const CLEAN_MAX: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub struct Args {
    /// A seawall-qualify that is built already.
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<bool> {
    require_tools()?;
    let program = args.program.clone().map_or_else(|| builds::program("seawall-qualify"), Ok)?;
    let rack = Rack::up(program)?;
    type Check = fn(&Rack) -> Result<()>;
    let checks: [(&str, Check); 3] = [
        ("the report names the slow host", |rack| rack.names_the_slow_host()),
        ("Ctrl-C leaves nothing on the hosts", |rack| rack.ended("INT", true)),
        ("SIGKILL leaves nothing on the hosts", |rack| rack.ended("KILL", false)),
    ];
    let mut failed = 0;
    for (name, check) in checks {
        let started = Instant::now();
        match check(&rack) {
            Ok(()) => println!("{name}: ok in {:.1} s", started.elapsed().as_secs_f64()),
            Err(error) => {
                println!("{name}: {error:#}");
                failed += 1;
            }
        }
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {} passed; {failed} failed; 0 ignored", checks.len() - failed);
    Ok(failed == 0)
}

struct Rack {
    lab: Lab,
    hosts: Vec<String>,
    disks: Vec<Disk>,
    /// Removed with it.
    folder: PathBuf,
    /// Without debug information: it goes to each host.
    program: PathBuf,
    ssh: PathBuf,
    inventory: PathBuf,
}

impl Rack {
    fn up(built: PathBuf) -> Result<Self> {
        let lab = Lab::up("rack", HOSTS)?;
        let hosts = lab.hosts();
        let folder = lab.scratch()?;
        let program = folder.join("seawall-qualify");
        let mut strip = Command::new("strip");
        strip.arg("--strip-debug").arg("-o").arg(&program).arg(built);
        process::capture(&mut strip, Vec::new(), SHORT)?.stdout_if_success("strip")?;
        let ssh = lab.ssh_program(&folder)?;
        let mut disks = Vec::new();
        let mut inventory = "[hosts]\n".to_owned();
        for host in &hosts {
            lab.copy(&program, host, ON_HOST)?;
            let disk = lab.add_disk(host, "wal", DISK_BYTES)?;
            inventory +=
                &format!("{host} = {{ ssh = \"root@{}\", devices = [{:?}] }}\n", lab.address(host)?, disk.by_id);
            disks.push(disk);
        }
        let file = folder.join("rack.toml");
        fs::write(&file, inventory)?;
        lab.slow_way_out(SLOW, "100mbit")?;
        Ok(Self { lab, hosts, disks, folder, program, ssh, inventory: file })
    }

    /// `seawall-qualify all` as on a machine beside the hosts.
    fn all(&self, more: &[&str]) -> Command {
        let mut all = self.lab.command(&self.program.display().to_string());
        all.args(["all", "--json", "--seconds", "1", "--device-arg=--short", "--inventory"]).arg(&self.inventory);
        all.arg("--ssh").arg(&self.ssh).args(more);
        all
    }

    fn names_the_slow_host(&self) -> Result<()> {
        let page = self.folder.join("rack.html");
        let page = page.display().to_string();
        let more = ["--probes", "host,network,device", "--program", ON_HOST, "--html", &page];
        let finished = process::capture(&mut self.all(&more), Vec::new(), RUN_MAX)?;
        ensure!(!finished.timed_out, "not at its end after {RUN_MAX:?}: {}", finished.tail());
        let report: Value =
            serde_json::from_str(finished.stdout.trim()).with_context(|| format!("no report: {}", finished.tail()))?;
        let list = |name: &str| report[name].as_array().cloned().unwrap_or_default();
        ensure!(list("failures").is_empty(), "probes without findings: {:?}", list("failures"));
        let of = |role: &str| -> BTreeSet<String> {
            let findings = list("findings").into_iter().filter(|findings| findings["role"] == role);
            findings.map(|findings| findings["subject"].as_str().unwrap_or_default().to_owned()).collect()
        };
        let pairs: BTreeSet<String> = (self.hosts.iter())
            .flat_map(|from| self.hosts.iter().filter(move |to| *to != from).map(move |to| format!("{from} -> {to}")))
            .collect();
        ensure!(of("host") == self.hosts.iter().cloned().collect(), "hosts: {:?}", of("host"));
        ensure!(of("network") == pairs, "pairs: {:?}", of("network"));
        ensure!(
            of("wal_device") == self.disks.iter().map(|disk| disk.by_id.clone()).collect(),
            "{:?}",
            of("wal_device")
        );
        let slow: BTreeSet<String> = (list("outliers").iter())
            .filter(|outlier| outlier["name"] == "bandwidth_mib_per_s")
            .map(|outlier| outlier["sentence"].as_str().unwrap_or_default().to_owned())
            .collect();
        for sentence in &slow {
            println!("  {sentence}");
        }
        // A second's bandwidth on a busy machine: one pair of others may be slow as well, not all that a host has.
        for host in &self.hosts {
            let named = slow.iter().filter(|sentence| sentence.starts_with(&format!("{host} -> "))).count();
            ensure!(
                (named == usize::from(HOSTS) - 1) == (host == SLOW),
                "{named} ways out of {host}: {:?}",
                list("outliers")
            );
        }
        ensure!(slow.iter().all(|sentence| sentence.contains("of the rack's median")), "{slow:?}");
        ensure!(fs::read_to_string(page)?.contains(&format!("{SLOW} -&gt; ")), "the page does not show the slow pair");
        self.wait_until_clean(CLEAN_MAX)
    }

    /// While the hosts probe, the run on this side is ended by a signal: to all of a terminal's group, or to it alone.
    fn ended(&self, signal: &str, group: bool) -> Result<()> {
        self.wait_until_clean(Duration::ZERO)?;
        let mut all = self.all(&["--probes", "device", "--bring"]);
        let child = all.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn()?;
        let mut child = Ended(child);
        let started = Instant::now();
        let mut begun = BTreeSet::new();
        while begun.len() < self.disks.len() {
            begun.extend((0..self.disks.len()).filter(|nth| !is_blank(&self.disks[*nth].image)));
            ensure!(started.elapsed() < SHORT, "the probes do not begin");
            ensure!(child.0.try_wait()?.is_none(), "it ended by itself");
            thread::sleep(Duration::from_millis(50));
        }
        ensure!(
            self.left()?.len() >= 2 * self.hosts.len(),
            "what is looked for is not seen while it is there: {:?}",
            self.left()?
        );
        let to = if group { format!("-{}", child.0.id()) } else { child.0.id().to_string() };
        process::capture(Command::new("kill").args([&format!("-{signal}"), "--", &to]), Vec::new(), SHORT)?
            .stdout_if_success("kill")?;
        let asked = Instant::now();
        let status = loop {
            match child.0.try_wait()? {
                Some(status) => break status,
                None => ensure!(asked.elapsed() < CLEAN_MAX, "it goes on after SIG{signal}"),
            }
            thread::sleep(Duration::from_millis(50));
        };
        ensure!(signal == "KILL" || status.code() == Some(130), "it ended with {status}");
        self.wait_until_clean(CLEAN_MAX)
    }

    fn wait_until_clean(&self, max: Duration) -> Result<()> {
        let started = Instant::now();
        loop {
            let left = self.left()?;
            if left.is_empty() {
                return Ok(());
            }
            if started.elapsed() > max {
                bail!("left on the hosts: {}", left.join(", "));
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Processes, files, listeners and bytes of a run.
    fn left(&self) -> Result<Vec<String>> {
        const LOOK: &str = "pgrep -fa '[s]eawall-qualify (host|device|network)'; find /tmp /var/tmp -mindepth 1 -name 'tmp.*'; \
                            ss -Hlnt 'sport = :9399'; true";
        let mut left = Vec::new();
        for (host, disk) in self.hosts.iter().zip(&self.disks) {
            let lines = self.lab.sh(host, LOOK, SHORT)?;
            left.extend(lines.lines().map(|line| format!("{host}: {line}")));
            if !is_blank(&disk.image) {
                left.push(format!("{host}: its device is not blank"));
            }
        }
        Ok(left)
    }
}

/// Nothing in the first MiB, where a WAL has its superblocks.
fn is_blank(image: &Path) -> bool {
    use std::io::Read;
    let mut first = Vec::new();
    let read = fs::File::open(image).and_then(|file| file.take(1 << 20).read_to_end(&mut first));
    read.is_ok() && first.iter().all(|byte| *byte == 0)
}

/// Not left behind when a check fails.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
