//! What scenes have in common: a lab of hosts, the package, a store that hosts reach.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::names::NOT_ASKED;
use super::play::{Play, quoted};
use crate::beds::{self, Bed, CephSize};
use crate::lab::{Disk, Lab, Relay};
use crate::package::{Package, Profile};
use crate::process;
use crate::tools::Tool;

const HOSTS: u8 = 5;
const WAL_BYTES: u64 = 256 << 20;
const STORE: CephSize = CephSize { disk_bytes: 8 << 30, garbage_s: 5 };
pub const SHORT: Duration = Duration::from_secs(120);
/// Programs of the machine that a bare host lacks.
const CLIENTS: [Tool; 2] = [Tool::Curl, Tool::Jq];
/// For `PREPARE`.
const COPY_PROGRAMS: &str = "mkdir -p \"$0/bin\" \"$0/lib\"; for program; do cp \"$program\" \"$0/bin/\"; \
                             ldd \"$program\" | awk '/=> \\//{print $3}' | xargs cp -Lt \"$0/lib/\"; done";
/// What blocks find on a host: a checkout whose `cargo` knows one command, an editor that types what the page shows, clients.
const PREPARE: &str = r#"set -e
for program in /opt/page/bin/*; do
  printf '#!/bin/sh\nLD_LIBRARY_PATH=/opt/page/lib exec %s "$@"\n' "$program" >"/usr/local/bin/${program##*/}"
done
printf '#!/bin/sh\n[ "$*" = "xtask package" ] && mkdir -p target/package && cp -v *.deb target/package/\n' >/usr/local/bin/cargo
printf '#!/bin/sh\nfor file; do :; done\ncat /root/page/override.conf >"$file"\n' >/usr/local/bin/page-editor
chmod 755 /usr/local/bin/*
"#;

pub struct World {
    // Ends before the store does.
    pub lab: Lab,
    pub package: PathBuf,
    /// Removed with the lab.
    pub folder: PathBuf,
    store: OnceCell<Store>,
    /// Brokers of the inventory in this folder run.
    pub deployed: OnceCell<PathBuf>,
}

/// Ceph's gateway.
pub struct Store {
    pub bed: Bed,
    /// As hosts reach it, over TLS; its certificate is that of `localhost`.
    pub endpoint: String,
    /// As this machine does.
    pub endpoint_here: String,
    pub ca: PathBuf,
}

impl World {
    pub fn up(package: Option<&Path>) -> Result<Self> {
        let package = match package {
            Some(package) => package.canonicalize().with_context(|| package.display().to_string())?,
            None => Package { profile: Profile::Release, version: None, fast: true }.build()?,
        };
        let lab = Lab::up("docs", HOSTS)?;
        let folder = lab.scratch()?;
        let world = Self { lab, package, folder, store: OnceCell::new(), deployed: OnceCell::new() };
        finish(Command::new("dpkg-deb").arg("--extract").arg(&world.package).arg(world.folder.join("programs")))?;
        let asked = finish(Command::new(world.program("seawall-qualify")).arg("thresholds"))?;
        let is_asked = |line: &&str| !NOT_ASKED.iter().any(|rule| line.starts_with(&format!("{rule} = ")));
        let asked: String = asked.lines().filter(is_asked).map(|line| format!("{line}\n")).collect();
        fs::write(world.folder.join("lab.toml"), asked)?;
        let mut copy = Command::new("sh");
        copy.args(["-euc", COPY_PROGRAMS]).arg(world.folder.join("clients"));
        for tool in CLIENTS {
            copy.arg(tool.find().with_context(|| tool.hint())?);
        }
        finish(&mut copy)?;
        Ok(world)
    }

    /// Of the package, on this machine.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join("programs/usr/bin").join(name)
    }

    /// Blocks of the page run on this host from here on, as root in a folder with the files of the page.
    pub fn host<'a>(&'a self, host: &'a str, play: &mut Play<'a>) -> Result<()> {
        play.names.set("host", self.lab.address(host)?);
        self.sh(host, "mkdir -p /root/page")?;
        self.lab.copy(&self.folder.join("clients"), host, "/opt/page")?;
        self.sh(host, PREPARE)?;
        self.lab.copy(&self.folder.join("lab.toml"), host, "/root/page/lab.toml")?;
        self.lab.copy(&self.package, host, "/root/page/")?;
        for (name, text) in play.files()? {
            self.write(host, &format!("/root/page/{name}"), &text)?;
        }
        self.at(host, play);
        Ok(())
    }

    /// The same, on a host as it is.
    pub fn at<'a>(&'a self, host: &'a str, play: &mut Play<'a>) {
        play.at(move |script| {
            let mut ssh = self.lab.ssh(host)?;
            let script = quoted(script);
            ssh.arg(format!(
                "mkdir -p /root/page && cd /root/page && \
                 SYSTEMD_EDITOR=/usr/local/bin/page-editor bash --norc -euo pipefail -c {script}"
            ));
            Ok(ssh)
        });
    }

    /// As `host`, with the package installed.
    pub fn installed<'a>(&'a self, host: &'a str, play: &mut Play<'a>) -> Result<()> {
        self.host(host, play)?;
        self.install(host)
    }

    pub fn install(&self, host: &str) -> Result<()> {
        self.lab.copy(&self.package, host, "/root/seawall.deb")?;
        self.sh(host, "DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet /root/seawall.deb 2>&1")?;
        Ok(())
    }

    /// A configuration, and the keys of the store.
    pub fn configure(&self, host: &str, config: &str) -> Result<()> {
        if let Some(store) = self.store.get() {
            let keys = store.bed.keys.as_ref().context("the gateway has no keys")?;
            self.write(host, "/etc/seawall/access_key", &keys.access)?;
            self.write(host, "/etc/seawall/secret_key", &keys.secret)?;
            self.write(host, "/etc/seawall/store-ca.pem", &fs::read_to_string(&store.ca)?)?;
        }
        self.write(host, "/etc/seawall/seawall.toml", config)?;
        self.sh(host, "chown root:seawall /etc/seawall/*; chmod 640 /etc/seawall/*")?;
        Ok(())
    }

    /// What a script there prints. It ends with the first command that fails.
    pub fn sh(&self, host: &str, script: &str) -> Result<String> {
        Ok(self.lab.sh(host, &format!("set -e\n{script}"), SHORT)?.trim().to_owned())
    }

    pub fn write(&self, host: &str, path: &str, text: &str) -> Result<()> {
        self.sh(host, &format!("printf %s {} >{path}", quoted(text)))?;
        Ok(())
    }

    /// An empty one.
    pub fn disk(&self, host: &str, name: &str) -> Result<Disk> {
        self.lab.add_disk(host, name, WAL_BYTES)
    }

    /// Starts with the first page that needs it.
    pub fn store(&self) -> Result<&Store> {
        if let Some(store) = self.store.get() {
            return Ok(store);
        }
        let bed = beds::start_rgw(STORE)?;
        let (here, ca) = over_tls(&bed)?;
        let relay = Relay::start(&self.lab, here.trim_start_matches("https://"))?;
        let endpoint = format!("https://{}", relay.address());
        let store = Store { endpoint, endpoint_here: here.to_owned(), ca: ca.to_owned(), bed };
        Ok(self.store.get_or_init(|| store))
    }
}

/// The endpoint of a bed, and who signed its certificate.
pub fn over_tls(bed: &Bed) -> Result<(&str, &Path)> {
    let starts = bed.forms.iter().filter_map(|form| form.starts.as_ref());
    let mut found = starts.filter(|(endpoint, _)| endpoint.starts_with("https"));
    found.next().map(|(endpoint, ca)| (endpoint.as_str(), ca.as_path())).context("the store has no endpoint with TLS")
}

pub fn finish(command: &mut Command) -> Result<String> {
    let what = command.get_program().display().to_string();
    process::capture(command, Vec::new(), SHORT)?.stdout_if_success(&what)
}
