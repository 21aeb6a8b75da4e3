//! The root file system that all hosts begin with: a small Debian from debootstrap, made once and kept in the cache folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::output;
use crate::tools::{self, Tool};

pub const SUITE: &str = "bookworm";
/// Of a server as its owner hands it over; the last ones are what a play may expect to find, as a host of a lab has no way to a mirror.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,udev,openssh-server,python3,sudo,iproute2,iputils-ping,procps,kmod,less,\
                        ca-certificates,python3-apt,chrony";
/// What a base is made by; another recipe is another base.
const RECIPE: &str = include_str!("base.sh");
const BUILD_MAX: Duration = Duration::from_secs(900);

/// The folder of the base, which nothing may write to.
pub fn get() -> Result<PathBuf> {
    let folder = tools::cache_folder().join("lab");
    fs::create_dir_all(&folder)?;
    let base = folder.join(format!("{SUITE}-{:016x}", fingerprint(&[SUITE, PACKAGES, RECIPE])));
    // Two labs may want it at once; one makes it.
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;
    if !base.is_dir() {
        remove_others(&folder)?;
        build(&folder, &base)?;
    }
    Ok(base)
}

fn build(folder: &Path, base: &Path) -> Result<()> {
    println!("making the hosts' root file system, once: {}", base.display());
    let (unfinished, packages) = (folder.join("unfinished"), folder.join("packages"));
    fs::create_dir_all(&packages)?;
    let debootstrap = Tool::Debootstrap.find().with_context(|| Tool::Debootstrap.hint())?;
    let mut shell = Command::new("sh");
    shell.args(["-euc", RECIPE, "base"]).arg(debootstrap).arg(&unfinished).arg(&packages);
    shell.args([SUITE, PACKAGES]).arg(mirror()?);
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
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path().is_dir() && entry.file_name() != "packages" {
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
    }
}
