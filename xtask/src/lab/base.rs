//! What all hosts begin with: a small Debian from debootstrap, made once and kept in the cache folder. For containers it is a folder that
//! lies below their own; for virtual machines the image of a disk, and the kernel that came with it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::host::Kind;
use super::output;
use crate::tools::{self, Tool};

pub const SUITE: &str = "bookworm";
/// Of a server as its owner hands it over; the last ones are what a play may expect to find, as a host of a lab has no way to a mirror.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,udev,openssh-server,python3,sudo,iproute2,iputils-ping,procps,kmod,less,\
                        ca-certificates,python3-apt,chrony";
/// What a virtual machine has besides.
const MACHINE_PACKAGES: &str = ",linux-image-cloud-amd64,initramfs-tools,nvme-cli";
const BUILD_MAX: Duration = Duration::from_secs(1800);

/// The folder of the base, which nothing may write to.
pub fn get(kind: Kind) -> Result<PathBuf> {
    let folder = tools::cache_folder().join("lab");
    fs::create_dir_all(&folder)?;
    let base = folder.join(name(kind));
    // Two labs may want it at once; one makes it.
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;
    if !base.is_dir() {
        remove_others(&folder)?;
        build(kind, &folder, &base)?;
    }
    Ok(base)
}

fn packages(kind: Kind) -> String {
    match kind {
        Kind::Container => PACKAGES.to_owned(),
        Kind::Machine => [PACKAGES, MACHINE_PACKAGES].concat(),
    }
}

/// What a base is made by; another recipe is another base.
fn recipe(kind: Kind) -> &'static str {
    match kind {
        Kind::Container => include_str!("base.sh"),
        Kind::Machine => concat!(include_str!("base.sh"), include_str!("base_machine.sh")),
    }
}

fn name(kind: Kind) -> String {
    format!("{SUITE}-{:016x}", fingerprint(&[SUITE, &packages(kind), recipe(kind)]))
}

fn build(kind: Kind, folder: &Path, base: &Path) -> Result<()> {
    println!("making the root file system of each {kind}, once: {}", base.display());
    let (unfinished, downloads) = (folder.join("unfinished"), folder.join("packages"));
    fs::create_dir_all(&downloads)?;
    let debootstrap = Tool::Debootstrap.find().with_context(|| Tool::Debootstrap.hint())?;
    let mut shell = Command::new("sh");
    shell.args(["-euc", recipe(kind), "base"]).arg(debootstrap).arg(&unfinished).arg(&downloads);
    shell.args([SUITE, &packages(kind)]).arg(mirror()?);
    output(&mut shell, BUILD_MAX).context("debootstrap")?;
    fs::rename(&unfinished, base)?;
    Ok(())
}

/// The one that this machine's own packages come from.
fn mirror() -> Result<String> {
    let mut apt = Command::new("apt-get");
    apt.args(["indextargets", "--format", "$(CODENAME) $(REPO_URI)"]);
    let targets = output(&mut apt, Duration::from_secs(30)).context("ask apt for its sources")?;
    let of_suite = targets.lines().filter_map(|line| line.split_once(' ')).find(|(codename, _)| *codename == SUITE);
    let (_, uri) = of_suite.with_context(|| format!("apt has no source of Debian {SUITE} here to make hosts from"))?;
    Ok(uri.to_owned())
}

/// Of earlier recipes, and what a build left that was cut off.
fn remove_others(folder: &Path) -> Result<()> {
    let kept = [name(Kind::Container), name(Kind::Machine), "packages".to_owned()];
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path().is_dir() && !kept.iter().any(|name| entry.file_name() == name.as_str()) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// FNV-1a: the same on every machine and in every build.
fn fingerprint(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_recipe_has_another_fingerprint() {
        assert_eq!(fingerprint(&["a", "b"]), fingerprint(&["a", "b"]));
        assert_ne!(fingerprint(&["a", "b"]), fingerprint(&["ab"]));
        assert_ne!(fingerprint(&["a", "b"]), fingerprint(&["a", "c"]));
        assert_ne!(name(Kind::Container), name(Kind::Machine));
    }
}
