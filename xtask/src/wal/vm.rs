//! What `cargo xtask wal vm` boots: the kernel of a Debian package, the few drivers that are needed, and one static program as
//! the first process. All of it lies in the build cache.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::{process, tools};

/// The package that names the newest kernel.
const KERNEL_PACKAGE: &str = "linux-image-amd64";
/// With what they need, in the order in which they can be loaded.
const DRIVERS: [&str; 4] = ["virtio_pci", "virtio_console", "nvme", "null_blk"];
const TARGET: &str = "x86_64-unknown-linux-gnu";
const GUEST: &str = "seawall-wal-guest";
const DOWNLOAD_MAX: Duration = Duration::from_secs(900);
const BUILD_MAX: Duration = Duration::from_secs(1_800);

pub struct Kit {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
}

/// Downloads and builds what is missing.
pub fn make() -> anyhow::Result<Kit> {
    let folder = tools::cache_folder().join("vm");
    let kernel = folder.join("kernel");
    if !kernel.exists() {
        fetch_kernel(&folder, &kernel)?;
    }
    let guest = build_guest(&folder)?;
    let initramfs = folder.join("initramfs");
    fs::write(&initramfs, pack(&guest, &kernel.join("drivers"))?)?;
    Ok(Kit { kernel: kernel.join("vmlinuz"), initramfs })
}

/// Into `kernel`, which is there when all of it is.
fn fetch_kernel(folder: &Path, kernel: &Path) -> anyhow::Result<()> {
    let temporary = folder.join(format!("download.{}", std::process::id()));
    fs::create_dir_all(&temporary)?;
    let fetched = unpack_kernel(&temporary).and_then(|()| Ok(fs::rename(temporary.join("kernel"), kernel)?));
    fs::remove_dir_all(&temporary)?;
    fetched
}

fn unpack_kernel(folder: &Path) -> anyhow::Result<()> {
    let depends = process::capture(
        Command::new("apt-cache").args(["depends", "--important", KERNEL_PACKAGE]),
        Vec::new(),
        DOWNLOAD_MAX,
    )?;
    let depends = depends.stdout_if_success("apt-cache depends")?;
    let name = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let name = name.with_context(|| format!("{KERNEL_PACKAGE} names no kernel: `apt-get update` may help"))?;
    run(Command::new("apt-get").args(["-q", "download", name]).current_dir(folder))?;
    let package = (fs::read_dir(folder)?.flatten().map(|entry| entry.path()))
        .find(|path| path.extension() == Some(OsStr::new("deb")))
        .context("apt-get downloaded nothing")?;
    run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(folder.join("package")))?;
    let files = files_below(&folder.join("package"))?;
    let kernel = folder.join("kernel");
    fs::create_dir_all(kernel.join("drivers"))?;
    let image = files.iter().find(|path| name_of(path).starts_with("vmlinuz")).context("the package has no kernel")?;
    fs::copy(image, kernel.join("vmlinuz"))?;
    let mut needed = Vec::new();
    for driver in DRIVERS {
        add_with_what_it_needs(driver, &files, &mut needed)?;
    }
    for (n, path) in needed.iter().enumerate() {
        fs::copy(path, kernel.join("drivers").join(format!("{n:02}-{}", name_of(path))))?;
    }
    Ok(())
}

/// One that is built into the kernel has no file.
fn add_with_what_it_needs(driver: &str, files: &[PathBuf], needed: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let name = |path: &PathBuf| name_of(path).trim_end_matches(".ko").replace('-', "_");
    let Some(path) = files.iter().find(|path| name_of(path).ends_with(".ko") && name(path) == driver.replace('-', "_"))
    else {
        return Ok(());
    };
    if needed.contains(path) {
        return Ok(());
    }
    for other in depends_of(&fs::read(path)?).split(',').filter(|other| !other.is_empty()) {
        add_with_what_it_needs(other, files, needed)?;
    }
    needed.push(path.clone());
    Ok(())
}

/// `depends=a,b` among the strings of a kernel module that end in zeros.
fn depends_of(module: &[u8]) -> String {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return String::new() };
    let value = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
}

/// Without anything that it would load from a file system.
fn build_guest(folder: &Path) -> anyhow::Result<PathBuf> {
    let target = folder.join("target");
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--quiet", "-p", "seawall-qualify", "--no-default-features", "--features", "fault-injection"])
        .args(["--bin", GUEST, "--target", TARGET, "--target-dir"])
        .arg(&target)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .current_dir(crate::root());
    ensure!(process::show(&mut cargo, BUILD_MAX)?.success, "{GUEST} does not build");
    Ok(target.join(TARGET).join("debug").join(GUEST))
}

/// An initramfs: `/init`, `/drivers` and folders to mount on.
fn pack(guest: &Path, drivers: &Path) -> anyhow::Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["dev", "proc", "sys", "drivers"] {
        archive.add(folder, 0o040_755, &[]);
    }
    archive.add("init", 0o100_755, &fs::read(guest)?);
    for driver in files_below(drivers)? {
        archive.add(&format!("drivers/{}", name_of(&driver)), 0o100_644, &fs::read(&driver)?);
    }
    Ok(archive.end())
}

/// A cpio archive as the kernel reads it.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let (inode, links, bytes, name_bytes) = (self.entries, 1, content.len() as u32, name.len() as u32 + 1);
        let numbers = [inode, mode, 0, 0, links, 0, bytes, 0, 0, 0, 0, name_bytes, 0];
        self.bytes.extend_from_slice(b"070701");
        for number in numbers {
            self.bytes.extend_from_slice(format!("{number:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn files_below(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort();
    Ok(files)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    ensure!(process::show(command, DOWNLOAD_MAX)?.success, "{command:?} failed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_driver_needs_is_read_from_it() {
        assert_eq!(depends_of(b"x\0license=GPL\0depends=a,b-c\0name=d\0"), "a,b-c");
        assert_eq!(depends_of(b"x\0license=GPL\0depends=\0name=d\0"), "");
        assert_eq!(depends_of(b"x"), "");
    }

    #[test]
    fn an_archive_is_made_of_aligned_entries() {
        let mut archive = Archive::default();
        archive.add("init", 0o100_755, b"hello");
        let bytes = archive.end();
        assert!(bytes.starts_with(b"07070100000001000081ed") && bytes.len().is_multiple_of(4));
        assert_eq!(&bytes[110..115], b"init\0");
        assert_eq!(&bytes[116..121], b"hello");
        assert_eq!(&bytes[124..130], b"070701");
    }
}
