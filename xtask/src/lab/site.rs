//! A lab: its hosts, and what can be done to them. Gone when dropped, unless kept; and gone as well when this process is killed, but for a
//! folder and loop devices, which the next lab removes. Made on the main thread: it ends with the thread that made it.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::disk::{self, Disk, Drive};
use super::host::{Host, Kind};
use super::keeper::Keeper;
use super::{MACHINE_TOOLS, base, output, require_tools};
use crate::tools;

const PARENT: &str = "/var/tmp";
const PREFIX: &str = "seawall-lab-";
/// Of the side that the hosts are reached from, and that they reach. Hosts follow from .11 on.
pub const ADDRESS: &str = "10.77.0.1";
const SHORT: Duration = Duration::from_secs(60);

pub struct Lab {
    folder: PathBuf,
    keeper: Keeper,
    hosts: Vec<Host>,
    /// None for one that another process started, or that is kept.
    owned: Option<Child>,
}

impl Lab {
    /// Hosts h1 to hN, which answer. `tag` tells it from others that run at the same time.
    pub fn up(tag: &str, hosts: u8) -> Result<Self> {
        Self::make(tag, hosts, false)
    }

    /// One that can be kept.
    pub fn up_lasting(tag: &str, hosts: u8) -> Result<Self> {
        Self::make(tag, hosts, true)
    }

    fn make(tag: &str, hosts: u8, lasting: bool) -> Result<Self> {
        require_tools()?;
        let base = base::get(Kind::Container)?;
        remove_dead_ones()?;
        let folder = folder_of(tag);
        fs::create_dir(&folder).with_context(|| format!("{}: is the lab \"{tag}\" up already?", folder.display()))?;
        fs::write(folder.join(OWNER), std::process::id().to_string())?;
        let started = Keeper::start(&folder, ADDRESS, lasting);
        if started.is_err() {
            remove(&folder);
        }
        let (keeper, child) = started?;
        // From here on its drop cleans up.
        let mut lab = Self { folder, keeper, hosts: Vec::new(), owned: Some(child) };
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f"]).arg(lab.key_file());
        output(&mut keygen, SHORT)?;
        lab.hosts = (1..=hosts).map(|number| Host::new(&lab.folder, Kind::Container, number)).collect();
        for host in &lab.hosts {
            lab.first_boot(host, &base)?;
        }
        for name in lab.hosts() {
            lab.wait_until_up(&name)?;
        }
        Ok(lab)
    }

    fn first_boot(&self, host: &Host, base: &Path) -> Result<()> {
        let mut others = format!("127.0.0.1 localhost\n{ADDRESS} lab\n");
        for other in &self.hosts {
            others += &format!("{} {}\n", other.address, other.name);
        }
        host.prepare(&self.keeper, base, &self.key_file().with_extension("pub"), &others)?;
        let mut known = File::options().create(true).append(true).open(self.folder.join(KNOWN_HOSTS))?;
        writeln!(known, "{} {}", host.address, host.public_key()?)?;
        host.boot(&self.keeper)
    }

    /// A virtual machine, v1 and so on, with these NVMe drives (name and bytes), which answers. `Drive` says how they are called there.
    pub fn add_machine(&mut self, drives: &[(String, u64)]) -> Result<String> {
        tools::require(MACHINE_TOOLS)?;
        let base = base::get(Kind::Machine)?;
        let number = 1 + self.hosts.iter().filter(|host| host.kind == Kind::Machine).count();
        let host = Host::new(&self.folder, Kind::Machine, u8::try_from(number)?);
        let name = host.name.clone();
        let drives = drives.iter().map(|(drive, bytes)| Drive::new(&self.folder, &name, drive, *bytes));
        host.set_drives(&drives.collect::<Result<Vec<_>>>()?)?;
        self.hosts.push(host);
        self.first_boot(self.host(&name)?, &base)?;
        self.wait_until_up(&name)?;
        Ok(name)
    }

    /// One that was kept.
    pub fn open(tag: &str) -> Result<Self> {
        let folder = folder_of(tag);
        let keeper =
            Keeper::find(&folder).with_context(|| format!("there is no lab \"{tag}\": cargo xtask lab up N"))?;
        let mut names = Vec::new();
        for entry in fs::read_dir(folder.join("hosts"))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_by_key(|name| (name.len(), name.clone()));
        let hosts = names.iter().map(|name| Host::named(&folder, name)).collect::<Result<_>>()?;
        Ok(Self { folder, keeper, hosts, owned: None })
    }

    /// False if there was none.
    pub fn down(tag: &str) -> Result<bool> {
        let folder = folder_of(tag);
        if !folder.join(OWNER).is_file() {
            return Ok(false);
        }
        if let Some(keeper) = Keeper::find(&folder) {
            keeper.end();
        }
        remove(&folder);
        Ok(true)
    }

    /// It goes on when this process has ended.
    pub fn keep(mut self) {
        self.owned = None;
    }

    pub fn hosts(&self) -> Vec<String> {
        self.hosts.iter().map(|host| host.name.clone()).collect()
    }

    pub fn address(&self, host: &str) -> Result<&str> {
        Ok(&self.host(host)?.address)
    }

    /// A command on the network of the hosts, at `ADDRESS`; beyond that it sees the machine as any other.
    pub fn command(&self, program: &str) -> Command {
        self.keeper.on_network(program)
    }

    /// A socket at `ADDRESS`, on a free port, for hosts to connect to.
    pub fn listen(&self) -> Result<TcpListener> {
        self.keeper.listen(ADDRESS)
    }

    /// A command on a host, as root; the arguments are joined and given to the shell there.
    pub fn ssh(&self, host: &str) -> Result<Command> {
        let mut command = self.command("ssh");
        command.args(self.ssh_options()).arg(format!("root@{}", self.address(host)?)).arg("--");
        Ok(command)
    }

    /// A program in `folder` that is ssh as it gets into the hosts, for what calls an ssh by itself.
    pub fn ssh_program(&self, folder: &Path) -> Result<PathBuf> {
        let program = folder.join("ssh");
        let options: Vec<String> = self.ssh_options().iter().map(|option| format!("'{option}'")).collect();
        fs::write(&program, format!("#!/bin/sh\nexec ssh {} \"$@\"\n", options.join(" ")))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(program)
    }

    /// A folder for files of a test; it goes with the lab.
    pub fn scratch(&self) -> Result<PathBuf> {
        let folder = self.folder.join("scratch");
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// What a shell script on a host prints, if it succeeds.
    pub fn sh(&self, host: &str, script: &str, time_max: Duration) -> Result<String> {
        output(self.ssh(host)?.arg(script), time_max).with_context(|| format!("on {host}"))
    }

    /// A file or folder of the machine, to a place on a host.
    pub fn copy(&self, from: &Path, host: &str, to: &str) -> Result<()> {
        let mut scp = self.command("scp");
        scp.arg("-qr").args(self.ssh_options()).arg(from).arg(format!("root@{}:{to}", self.address(host)?));
        output(&mut scp, Duration::from_secs(300))?;
        Ok(())
    }

    /// A new, empty disk; it is there again after each boot.
    pub fn add_disk(&self, host: &str, name: &str, bytes: u64) -> Result<Disk> {
        ensure!(self.host(host)?.kind == Kind::Container, "the drives of {host} are those that it was made with");
        let disk = Disk::attach(&self.folder, host, name, bytes)?;
        let script = format!(
            "printf '{}' >>/etc/lab-disks.conf; systemctl restart lab-disks",
            disk.nodes()?.replace('\n', "\\n")
        );
        self.sh(host, &script, SHORT)?;
        Ok(disk)
    }

    /// No more than so much leaves the host from here on, as `tc` understands a rate.
    pub fn slow_way_out(&self, host: &str, rate: &str) -> Result<()> {
        const SLOW: &str =
            "ip netns exec \"$0\" tc qdisc replace dev eth0 root tbf rate \"$1\" burst 64kb latency 50ms";
        let name = &self.host(host)?.name;
        output(self.keeper.inside(SLOW).args([name, rate]), SHORT).with_context(|| format!("slow down {host}"))?;
        Ok(())
    }

    /// Takes the power from a host.
    pub fn kill(&self, host: &str) -> Result<()> {
        self.host(host)?.kill(&self.keeper)
    }

    /// Switches a host on that was killed or has powered off.
    pub fn start(&self, host: &str) -> Result<()> {
        let found = self.host(host)?;
        ensure!(!found.is_running(&self.keeper), "{host} is running");
        found.boot(&self.keeper)?;
        self.wait_until_up(host)
    }

    /// Restarts a host in order.
    pub fn reboot(&self, host: &str) -> Result<()> {
        let before = self.boot_of(host)?;
        // The connection ends with the host.
        let _ = self.sh(host, "systemctl reboot", SHORT);
        let end = Instant::now() + self.host(host)?.kind.boot_max();
        while self.boot_of(host).is_ok_and(|now| now == before) {
            ensure!(Instant::now() < end, "{host} does not go down");
            thread::sleep(Duration::from_millis(100));
        }
        self.wait_until_up(host)
    }

    /// For Ansible, as user ops who may become root.
    pub fn inventory(&self) -> Result<String> {
        let mut text = "[servers]\n".to_owned();
        for host in &self.hosts {
            if host.is_running(&self.keeper) {
                text += &format!("{} ansible_host={}\n", host.name, host.address);
            }
        }
        text += "\n[servers:vars]\n";
        for (name, value) in self.ansible_variables() {
            text += &format!("{name}={value}\n");
        }
        Ok(text)
    }

    /// How Ansible reaches each host.
    pub fn ansible_variables(&self) -> [(&'static str, String); 5] {
        let known_hosts = self.folder.join(KNOWN_HOSTS);
        [
            ("ansible_user", "ops".to_owned()),
            ("ansible_become", "true".to_owned()),
            ("ansible_ssh_private_key_file", self.key_file().display().to_string()),
            ("ansible_python_interpreter", "/usr/bin/python3".to_owned()),
            (
                "ansible_ssh_common_args",
                format!("-o UserKnownHostsFile={} -o StrictHostKeyChecking=yes", known_hosts.display()),
            ),
        ]
    }

    /// Until systemd has finished its start.
    fn wait_until_up(&self, host: &str) -> Result<()> {
        let time_max = self.host(host)?.kind.boot_max();
        let end = Instant::now() + time_max;
        loop {
            let state = self.sh(host, "systemctl is-system-running --wait; true", time_max).unwrap_or_default();
            match state.trim() {
                "running" => return Ok(()),
                "degraded" => {
                    let failed = self.sh(host, "systemctl --failed --plain --no-legend", SHORT)?;
                    bail!("{host} is up without these: {}", failed.trim());
                }
                _ => {}
            }
            if Instant::now() > end {
                bail!("{host} does not answer: {}", self.host(host)?.console());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Another one for each boot.
    fn boot_of(&self, host: &str) -> Result<String> {
        // A container's kernel is the machine's, and a virtual machine's first namespace always the same.
        self.sh(host, "readlink /proc/1/ns/pid; cat /proc/sys/kernel/random/boot_id", SHORT)
    }

    fn host(&self, name: &str) -> Result<&Host> {
        self.hosts.iter().find(|host| host.name == name).with_context(|| format!("there is no host {name}"))
    }

    fn key_file(&self) -> PathBuf {
        self.folder.join("id")
    }

    fn ssh_options(&self) -> Vec<String> {
        let known_hosts = self.folder.join(KNOWN_HOSTS);
        let options = [
            format!("UserKnownHostsFile={}", known_hosts.display()),
            format!("IdentityFile={}", self.key_file().display()),
            "IdentitiesOnly=yes".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            "BatchMode=yes".to_owned(),
            // Until the keys are exchanged, which an emulated processor is slow at.
            "ConnectTimeout=20".to_owned(),
            "LogLevel=ERROR".to_owned(),
        ];
        options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(child) = &mut self.owned {
            self.keeper.end();
            let _ = child.wait();
            remove(&self.folder);
        }
    }
}

/// Who started it: a lab without keeper is being made, or left over if that process is gone.
const OWNER: &str = "owner";
const KNOWN_HOSTS: &str = "known_hosts";

fn folder_of(tag: &str) -> PathBuf {
    Path::new(PARENT).join(format!("{PREFIX}{tag}"))
}

/// What labs left behind whose process was killed.
fn remove_dead_ones() -> Result<()> {
    for entry in fs::read_dir(PARENT)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let folder = entry.path();
        let Ok(owner) = fs::read_to_string(folder.join(OWNER)) else { continue };
        let is_owned = Path::new("/proc").join(owner.trim()).is_dir();
        if !is_owned && Keeper::find(&folder).is_none() {
            println!("removing what an earlier lab left in {}", folder.display());
            remove(&folder);
        }
    }
    Ok(())
}

/// After its keeper has ended.
fn remove(folder: &Path) {
    // A group can be removed once its processes are gone, which the kernel is about.
    const GROUPS: &str = "umount -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; cd /sys/fs/cgroup; [ -d \"$0\" ] || exit 0; \
                          for try in $(seq 200); do find \"$0\" -depth -type d -exec rmdir {} + 2>/dev/null; \
                          [ -d \"$0\" ] || exit 0; sleep 0.05; done; exit 1";
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--mount", "--propagation", "private", "sh", "-uc", GROUPS])
        .arg(folder.file_name().unwrap_or_default());
    if let Err(error) = output(&mut unshare, SHORT) {
        println!("control groups of {} are left: {error:#}", folder.display());
    }
    disk::detach_all(folder);
    if let Err(error) = fs::remove_dir_all(folder) {
        println!("{} is left: {error}", folder.display());
    }
}
