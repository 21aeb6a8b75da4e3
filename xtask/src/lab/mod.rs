//! `cargo xtask lab`: physical servers for tests, on one machine. Each host is a systemd-nspawn container with systemd as its first
//! process, sshd, a root file system and a network address of its own; loop devices are its disks.
//!
//! A host has no way out of its lab. What hosts share is the kernel: limits of cgroups, sysctls and modules are those of the machine.
//! A host can be a virtual machine as well, with a kernel of its own and NVMe drives that its nvme driver takes for real.

mod base;
mod disk;
mod host;
mod keeper;
mod relay;
mod site;

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Subcommand;

use crate::process;
use crate::tools::{self, Tool};
pub use disk::Disk;
pub use host::Kind;
pub use relay::Relay;
pub use site::Lab;

pub const TOOLS: &[Tool] =
    &[Tool::Nspawn, Tool::Debootstrap, Tool::Ip, Tool::Ssh, Tool::Unshare, Tool::Losetup, Tool::Mount];
/// Of a lab with virtual machines, besides.
pub const MACHINE_TOOLS: &[Tool] = &[Tool::Qemu, Tool::MakeExt4];

#[derive(clap::Args)]
pub struct Args {
    /// Labs with different tags run side by side.
    #[arg(long, default_value = "own", global = true, value_parser = parse_tag)]
    tag: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start hosts h1 to hN, and leave them running.
    Up {
        #[arg(value_parser = clap::value_parser!(u8).range(1..=99))]
        hosts: u8,
        /// A disk of each host, such as wal=256; it is /dev/disk/by-id/lab-HOST-NAME there.
        #[arg(long, value_name = "NAME=MIB", value_parser = parse_disk)]
        disk: Vec<(String, u64)>,
        /// So many virtual machines v1 to vN besides, with the same disks as NVMe drives; HOST-NAME is the serial number.
        #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=99))]
        machines: u8,
    },
    /// End a lab and remove all of it.
    Down,
    /// The running hosts, for Ansible.
    Inventory,
    /// Run a command where the hosts can be reached: `lab run -- ansible-playbook -i FILE site.yml`.
    Run {
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run a command on a host, as root.
    Ssh {
        host: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Take the power from a host: SIGKILL to all that runs on it.
    Kill { host: String },
    /// Switch a host on that was killed or has powered off.
    Start { host: String },
    /// Restart a host in order, and wait until it answers.
    Reboot { host: String },
}

pub fn run(args: &Args) -> Result<bool> {
    require_tools()?;
    let lab = || Lab::open(&args.tag);
    match &args.action {
        Action::Up { hosts, disk, machines } => {
            let mut lab = Lab::up_lasting(&args.tag, *hosts)?;
            for host in lab.hosts() {
                for (name, mib) in disk {
                    let disk = lab.add_disk(&host, name, mib << 20)?;
                    println!("{host}: {} is {} ({})", disk.by_id, disk.device, disk.image.display());
                }
            }
            let drives: Vec<_> = disk.iter().map(|(name, mib)| (name.clone(), mib << 20)).collect();
            for _ in 0..*machines {
                lab.add_machine(&drives)?;
            }
            print!("{}", lab.inventory()?);
            lab.keep();
            println!("\n# end it: cargo xtask lab down --tag {}", args.tag);
        }
        Action::Down => ensure!(Lab::down(&args.tag)?, "there is no lab \"{}\"", args.tag),
        Action::Inventory => print!("{}", lab()?.inventory()?),
        Action::Run { command } => return pass_on(lab()?.command(&command[0]).args(&command[1..])),
        Action::Ssh { host, command } => return pass_on(lab()?.ssh(host)?.args(command)),
        Action::Kill { host } => lab()?.kill(host)?,
        Action::Start { host } => lab()?.start(host)?,
        Action::Reboot { host } => lab()?.reboot(host)?,
    }
    Ok(true)
}

pub fn require_tools() -> Result<()> {
    ensure!(tools::is_root(), "a lab of hosts needs root");
    tools::require(TOOLS)
}

fn pass_on(command: &mut Command) -> Result<bool> {
    Ok(command.status()?.success())
}

/// Runs to its end, and answers what it printed.
fn output(command: &mut Command, time_max: Duration) -> Result<String> {
    let what = format!("{command:?}");
    let what: String = what.chars().take(300).collect();
    process::capture(command, Vec::new(), time_max)?.stdout_if_success(&what)
}

/// It becomes part of paths and of a control group's name.
fn parse_tag(text: &str) -> Result<String, String> {
    let fits =
        !text.is_empty() && text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if fits { Ok(text.to_owned()) } else { Err("1 to 20 letters, digits and dashes".to_owned()) }
}

fn parse_disk(text: &str) -> Result<(String, u64), String> {
    let (name, mib) = text.split_once('=').ok_or("NAME=MIB")?;
    let mib = mib.parse().map_err(|_| "the size is a number of MiB")?;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err("a disk's name is letters and digits".to_owned());
    }
    Ok((name.to_owned(), mib))
}
