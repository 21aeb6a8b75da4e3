//! Programs that the commands need besides Rust, and how they come onto a machine.
//!
//! Under `CI=true` what is missing is installed; elsewhere nothing is, and the step that needs it is left out with the
//! command that would install it.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::process;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    Rustfmt,
    Clippy,
    CargoDeny,
    Mdbook,
    CargoDeb,
    Java,
    Maven,
    Unzip,
    Kcat,
    /// Python 3 that can make virtual environments.
    PythonVenv,
    Cmake,
    Go,
    Node,
    Npm,
    MakeExt4,
    Mount,
    Losetup,
    Fio,
    Qemu,
    Curl,
    Openssl,
    CephMon,
    CephMgr,
    CephOsd,
    CephCommon,
    RadosGateway,
    /// systemd in containers.
    Nspawn,
    Debootstrap,
    Ip,
    Ssh,
    Unshare,
    Promtool,
    Jq,
}

const CARGO_DENY_VERSION: &str = "0.20.2";
const MDBOOK_VERSION: &str = "0.5.4";
const CARGO_DEB_VERSION: &str = "3.8.0";

enum Source {
    Apt(&'static str),
    /// A program out of a package that is not installed: it would start a service.
    AptProgram(&'static str),
    Rustup(&'static str),
    /// Of its own name, in this version, with these features instead of its default ones.
    Cargo {
        version: &'static str,
        features: Option<&'static str>,
    },
}

impl Tool {
    pub fn program(self) -> &'static str {
        match self {
            Self::Rustfmt => "cargo-fmt",
            Self::Clippy => "cargo-clippy",
            Self::CargoDeny => "cargo-deny",
            Self::Mdbook => "mdbook",
            Self::CargoDeb => "cargo-deb",
            Self::Java => "java",
            Self::Maven => "mvn",
            Self::Unzip => "unzip",
            Self::Kcat => "kcat",
            Self::PythonVenv => "python3",
            Self::Cmake => "cmake",
            Self::Go => "go",
            Self::Node => "node",
            Self::Npm => "npm",
            Self::MakeExt4 => "mkfs.ext4",
            Self::Mount => "mount",
            Self::Losetup => "losetup",
            Self::Fio => "fio",
            Self::Qemu => "qemu-system-x86_64",
            Self::Curl => "curl",
            Self::Openssl => "openssl",
            Self::CephMon => "ceph-mon",
            Self::CephMgr => "ceph-mgr",
            Self::CephOsd => "ceph-osd",
            Self::CephCommon => "ceph",
            Self::RadosGateway => "radosgw",
            Self::Nspawn => "systemd-nspawn",
            Self::Debootstrap => "debootstrap",
            Self::Ip => "ip",
            Self::Ssh => "ssh",
            Self::Unshare => "unshare",
            Self::Promtool => "promtool",
            Self::Jq => "jq",
        }
    }

    fn source(self) -> Source {
        match self {
            Self::Rustfmt => Source::Rustup("rustfmt"),
            Self::Clippy => Source::Rustup("clippy"),
            Self::CargoDeny => Source::Cargo { version: CARGO_DENY_VERSION, features: None },
            // Without its web server and what watches files: half of what there is to build.
            Self::Mdbook => Source::Cargo { version: MDBOOK_VERSION, features: Some("search") },
            Self::CargoDeb => Source::Cargo { version: CARGO_DEB_VERSION, features: None },
            Self::Promtool => Source::AptProgram("prometheus"),
            Self::Jq => Source::Apt("jq"),
            Self::Java => Source::Apt("default-jdk-headless"),
            Self::Maven => Source::Apt("maven"),
            Self::Unzip => Source::Apt("unzip"),
            Self::Kcat => Source::Apt("kcat"),
            Self::PythonVenv => Source::Apt("python3-venv"),
            Self::Cmake => Source::Apt("cmake"),
            Self::Go => Source::Apt("golang-go"),
            Self::Node => Source::Apt("nodejs"),
            Self::Npm => Source::Apt("npm"),
            Self::MakeExt4 => Source::Apt("e2fsprogs"),
            Self::Mount | Self::Losetup => Source::Apt("mount"),
            Self::Fio => Source::Apt("fio"),
            Self::Qemu => Source::Apt("qemu-system-x86"),
            Self::Curl => Source::Apt("curl"),
            Self::Openssl => Source::Apt("openssl"),
            Self::CephMon => Source::Apt("ceph-mon"),
            Self::CephMgr => Source::Apt("ceph-mgr"),
            Self::CephOsd => Source::Apt("ceph-osd"),
            Self::CephCommon => Source::Apt("ceph-common"),
            Self::RadosGateway => Source::Apt("radosgw"),
            Self::Nspawn => Source::Apt("systemd-container"),
            Self::Debootstrap => Source::Apt("debootstrap"),
            Self::Ip => Source::Apt("iproute2"),
            Self::Ssh => Source::Apt("openssh-client"),
            Self::Unshare => Source::Apt("util-linux"),
        }
    }

    /// Where it is, if it is there.
    pub fn find(self) -> Option<PathBuf> {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path)
            .chain([tools_folder().join("bin"), "/usr/local/go/bin".into(), "/usr/sbin".into(), "/sbin".into()])
            .map(|folder| folder.join(self.program()))
            .find(|file| file.is_file() && self.is_whole(file))
    }

    /// Debian has Python without what makes virtual environments.
    fn is_whole(self, program: &Path) -> bool {
        let can = |code| Command::new(program).args(["-c", code]).stderr(Stdio::null()).status();
        self != Self::PythonVenv || can("import ensurepip, venv").is_ok_and(|status| status.success())
    }

    /// How a person would install it.
    pub fn hint(self) -> String {
        match self.source() {
            Source::Apt(package) => format!("apt-get install {package}"),
            Source::Rustup(component) => format!("rustup component add {component}"),
            Source::Cargo { version, .. } => format!("cargo install {} --version {version} --locked", self.program()),
            Source::AptProgram(package) => format!("apt-get install {package}"),
        }
    }
}

/// Outside the checkout, so that a fresh clone finds everything again.
pub fn cache_folder() -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.unwrap_or_else(|| PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache"));
    base.join("seawall")
}

/// Where cargo puts what it builds of this checkout.
pub fn target_folder() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| crate::root().join("target"), PathBuf::from)
}

fn tools_folder() -> PathBuf {
    cache_folder().join("tools")
}

pub fn is_ci() -> bool {
    env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false" && value != "0")
}

pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Under CI=true what is missing is installed; elsewhere it is an error that says how.
pub fn require(needs: &[Tool]) -> anyhow::Result<()> {
    if is_ci() {
        install(needs)?;
    }
    for tool in needs {
        ensure!(tool.find().is_some(), "{} is missing: {}", tool.program(), tool.hint());
    }
    Ok(())
}

/// Installs those that are missing; the package lists are read once for all.
pub fn install(tools: &[Tool]) -> anyhow::Result<()> {
    let mut missing: Vec<Tool> = tools.iter().copied().filter(|tool| tool.find().is_none()).collect();
    missing.sort();
    missing.dedup();
    let mut packages: Vec<&str> = Vec::new();
    for tool in &missing {
        if let Source::Apt(package) = tool.source() {
            packages.push(package);
        }
    }
    packages.dedup();
    let unpacks = missing.iter().any(|tool| matches!(tool.source(), Source::AptProgram(_)));
    if !packages.is_empty() || unpacks {
        apt_get(&["update"])?;
    }
    if !packages.is_empty() {
        let mut install = vec!["install", "-y", "--no-install-recommends"];
        install.extend(packages);
        apt_get(&install)?;
    }
    for tool in missing {
        match tool.source() {
            Source::Apt(_) => {}
            Source::AptProgram(package) => unpack(package, tool.program())?,
            Source::Rustup(component) => {
                run(Command::new("rustup").args(["component", "add", component]), Duration::from_secs(300))?;
            }
            Source::Cargo { version, features } => cargo_install(tool.program(), version, features)?,
        }
        ensure!(tool.find().is_some(), "{} is still missing after `{}`", tool.program(), tool.hint());
    }
    Ok(())
}

/// Unoptimised: it builds in a third of the time, and what is installed so takes seconds either way.
fn cargo_install(name: &str, version: &str, features: Option<&str>) -> anyhow::Result<()> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["install", name, "--version", version, "--locked", "--debug", "--root"])
        .arg(tools_folder())
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env_remove("CARGO_TARGET_DIR");
    if let Some(features) = features {
        cargo.args(["--no-default-features", "--features", features]);
    }
    run(&mut cargo, Duration::from_secs(1_200))
}

/// Takes one program out of a package, without installing it.
fn unpack(package: &str, program: &str) -> anyhow::Result<()> {
    let folder = cache_folder().join("apt").join(package);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let time_max = Duration::from_secs(600);
    run(Command::new("apt-get").args(["-q", "download", package]).current_dir(&folder), time_max)?;
    let files: Vec<PathBuf> = fs::read_dir(&folder)?.flatten().map(|entry| entry.path()).collect();
    for file in files {
        run(Command::new("dpkg-deb").arg("-x").arg(file).arg(folder.join("unpacked")), time_max)?;
    }
    let bin = tools_folder().join("bin");
    fs::create_dir_all(&bin)?;
    fs::copy(folder.join("unpacked/usr/bin").join(program), bin.join(program))?;
    Ok(fs::remove_dir_all(&folder)?)
}

/// Packages stay in the cache folder, so that the next machine with it loads none.
fn apt_get(arguments: &[&str]) -> anyhow::Result<()> {
    let archives = cache_folder().join("apt");
    fs::create_dir_all(archives.join("partial"))?;
    let mut apt = if is_root() {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "apt-get"]);
        sudo
    };
    apt.args(["-q", "-o", "DPkg::Lock::Timeout=120", "-o", "APT::Keep-Downloaded-Packages=true", "-o"])
        .arg(format!("Dir::Cache::archives={}", archives.display()))
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    run(&mut apt, Duration::from_secs(900))
}

fn run(command: &mut Command, time_max: Duration) -> anyhow::Result<()> {
    let finished = process::show(command, time_max)?;
    ensure!(finished.success, "{command:?} failed");
    Ok(())
}

/// Debian gives the program no option for a short version line; the first line of `-version` will do.
pub fn first_line(command: &mut Command) -> anyhow::Result<String> {
    let finished = process::capture(command, Vec::new(), Duration::from_secs(30))?;
    let both = format!("{}{}", finished.stdout, finished.stderr);
    Ok(both.lines().next().context("no version printed")?.trim().to_owned())
}
