//! Other packages made of one: of a higher version, and one whose broker does not start.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process;

const PACK_MAX: Duration = Duration::from_secs(120);
const BROKER: &str = "usr/bin/seawall";
/// It answers what a play asks of it; as a broker it ends at once.
const BROKEN: &str = "#!/bin/sh\ncase $1 in config|backend|wal) exec /usr/lib/seawall/seawall-whole \"$@\" ;; esac\n\
                      echo 'this build does not start' >&2\nexit 1\n";

/// The same programs, as a later version.
pub fn later(package: &Path, to: &Path, mark: &str) -> Result<()> {
    repack(package, to, mark, |_| Ok(()))
}

pub fn broken(package: &Path, to: &Path, mark: &str) -> Result<()> {
    repack(package, to, mark, |root| {
        fs::create_dir_all(root.join("usr/lib/seawall"))?;
        fs::rename(root.join(BROKER), root.join("usr/lib/seawall/seawall-whole"))?;
        fs::write(root.join(BROKER), BROKEN)?;
        fs::set_permissions(root.join(BROKER), fs::Permissions::from_mode(0o755))?;
        Ok(())
    })
}

fn repack(package: &Path, to: &Path, mark: &str, change: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let root = to.with_extension("root");
    run(Command::new("dpkg-deb").arg("--raw-extract").arg(package).arg(&root))?;
    let control = root.join("DEBIAN/control");
    let text = fs::read_to_string(&control)?;
    let version = text.lines().find_map(|line| line.strip_prefix("Version: ")).context("a package without version")?;
    fs::write(&control, text.replace(&format!("Version: {version}\n"), &format!("Version: {version}+{mark}\n")))?;
    change(&root)?;
    let sums = root.join("DEBIAN/md5sums");
    let mut sum = Command::new("sh");
    sum.args(["-euc", "find usr etc lib var -type f 2>/dev/null | sort | xargs -r -d '\\n' md5sum"]).current_dir(&root);
    let text = process::capture(&mut sum, Vec::new(), PACK_MAX)?.stdout;
    ensure!(text.contains(BROKER), "no sums of the package's files");
    fs::write(sums, text)?;
    run(Command::new("dpkg-deb").args(["--build", "--root-owner-group", "-Znone"]).arg(&root).arg(to))?;
    fs::remove_dir_all(&root)?;
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    process::capture(command, Vec::new(), PACK_MAX)?.stdout_if_success("dpkg-deb")?;
    Ok(())
}
