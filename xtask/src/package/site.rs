//! The host of the journey: a fresh Debian with a drive for the write-ahead log and one that is nobody's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::finish;
use crate::lab::{Disk, Lab};
use crate::process;
use crate::tools::Tool;

const HOST: &str = "h1";
const TOPIC: &str = "journey";
const DISK_BYTES: u64 = 256 << 20;
/// Of one command there.
const SHORT: Duration = Duration::from_secs(120);
/// The watchdog of the unit is as long as a broker may stand still; here a few seconds are enough.
const FASTER: &str = "[Service]\nWatchdogSec=5s\nRestartSec=1s\n";

pub struct Site {
    lab: Lab,
    pub wal: Disk,
    pub other: Disk,
}

impl Site {
    pub fn up() -> Result<Self> {
        let lab = Lab::up("package", 1)?;
        let wal = lab.add_disk(HOST, "wal", DISK_BYTES)?;
        let other = lab.add_disk(HOST, "other", DISK_BYTES)?;
        Ok(Self { lab, wal, other })
    }

    /// What a script there prints. It ends with the first command that fails.
    pub fn sh(&self, script: &str) -> Result<String> {
        Ok(self.lab.sh(HOST, &format!("set -e\n{script}"), SHORT)?.trim().to_owned())
    }

    /// What a script there prints that fails.
    pub fn sh_fails(&self, script: &str) -> Result<String> {
        self.sh(&format!("if {{ {script}\n}} 2>&1; then echo 'it succeeded'; exit 1; fi"))
    }

    pub fn copy(&self, from: &Path, to: &str) -> Result<()> {
        self.lab.copy(from, HOST, to)
    }

    /// By apt, as the Ansible role does it.
    pub fn install(&self, package: &Path, options: &str) -> Result<String> {
        self.copy(package, "/root/seawall.deb")?;
        self.sh(&format!(
            "DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends --option=Dpkg::Options::=--force-confold \
             {options} /root/seawall.deb 2>&1"
        ))
    }

    /// A WAL on the drive, objects in a folder; and keys, which nothing may touch.
    pub fn configure(&self) -> Result<()> {
        let address = self.lab.address(HOST)?;
        let config = format!(
            "[node]\nid = 1\ndata_dir = \"/var/lib/seawall\"\n[listeners]\nkafka = \"0.0.0.0:9092\"\nadvertised = \"{address}:9092\"\n\
             [backend]\nkind = \"fs\"\npath = \"/srv/seawall/objects\"\n[[wal]]\nkind = \"device\"\ndevice = \"{}\"\n",
            self.wal.by_id
        );
        self.sh(&format!(
            "install -d -o seawall -g seawall /srv/seawall/objects\n\
             cat >/etc/seawall/seawall.toml <<'TOML'\n{config}TOML\n\
             echo secret >/etc/seawall/secret_key\n\
             chown root:seawall /etc/seawall/*\nchmod 640 /etc/seawall/*\n\
             mkdir -p /etc/systemd/system/seawall.service.d\n\
             printf '{FASTER}' >/etc/systemd/system/seawall.service.d/journey.conf\nsystemctl daemon-reload\n\
             seawall config check /etc/seawall/seawall.toml\n\
             seawall wal format {} --config /etc/seawall/seawall.toml --yes",
            self.wal.by_id
        ))?;
        Ok(())
    }

    pub fn shows(&self, property: &str) -> Result<String> {
        self.sh(&format!("systemctl show seawall.service --property={property} --value"))
    }

    /// The main process of a broker that serves.
    pub fn pid(&self) -> Result<String> {
        // Of one moment.
        let state = self.sh("systemctl show seawall.service --property=ActiveState,MainPID")?;
        let of = |name: &str| state.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
        ensure!(of("ActiveState=") == "active" && of("MainPID=") != "0", "the broker is {}", of("ActiveState="));
        Ok(of("MainPID="))
    }

    /// The broker runs as another process, and serves.
    pub fn wait_for_another(&self, pid: &str, time_max: Duration) -> Result<String> {
        let end = Instant::now() + time_max;
        loop {
            match self.pid() {
                Ok(now) if now != pid => return Ok(now),
                other if Instant::now() > end => bail!("no other broker than {pid} after {time_max:?}: {other:?}"),
                _ => thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    pub fn journal(&self) -> Result<String> {
        self.sh("journalctl --unit=seawall --output=cat --no-pager")
    }

    /// Lines of `from..to`, each acked.
    pub fn produce(&self, from: u32, to: u32) -> Result<()> {
        let lines: String = (from..to).map(|number| format!("record {number}\n")).collect();
        let mut kcat =
            self.kcat(&["-P", "-t", TOPIC, "-p", "0", "-X", "acks=all", "-X", "message.timeout.ms=30000"])?;
        process::capture(&mut kcat, lines.into_bytes(), SHORT)?.stdout_if_success("produce")?;
        Ok(())
    }

    /// All there are, which must be `0..to`, each once and in order.
    pub fn consume(&self, to: u32) -> Result<()> {
        let mut kcat = self.kcat(&["-C", "-t", TOPIC, "-p", "0", "-o", "beginning", "-e", "-q"])?;
        let read = process::capture(&mut kcat, Vec::new(), SHORT)?.stdout_if_success("consume")?;
        let expected: String = (0..to).map(|number| format!("record {number}\n")).collect();
        ensure!(read == expected, "{} of {to} records were read, or others", read.lines().count());
        Ok(())
    }

    /// A checksum of the bytes on the drive of the WAL, as the machine sees them.
    pub fn wal_checksum(&self) -> Result<String> {
        finish(Command::new("sha256sum").arg(&self.wal.image))
    }

    /// A checksum of all that is the site's own: data, objects, configuration, keys; with owners and rights.
    pub fn data_checksum(&self) -> Result<String> {
        self.sh(
            "cd /; for folder in var/lib/seawall srv/seawall etc/seawall; do \
             find $folder -printf '%p %U %G %m %s\\n'; find $folder -type f -exec sha256sum {} +; done | sort | sha256sum",
        )
    }

    /// What a stopped broker left on the drive, asked from outside.
    pub fn wal_is_clean(&self, program: &Path) -> Result<bool> {
        let inspected = finish(Command::new(program).args(["wal", "inspect", "--json"]).arg(&self.wal.image))?;
        let inspected: serde_json::Value = serde_json::from_str(&inspected)?;
        inspected["superblock"]["clean_shutdown"].as_bool().context("`wal inspect` does not say how it ended")
    }

    fn kcat(&self, arguments: &[&str]) -> Result<Command> {
        let program: PathBuf = Tool::Kcat.find().with_context(|| Tool::Kcat.hint())?;
        let mut kcat = self.lab.command(&program.display().to_string());
        kcat.args(["-b", &format!("{}:9092", self.lab.address(HOST)?)]).args(arguments);
        Ok(kcat)
    }
}
