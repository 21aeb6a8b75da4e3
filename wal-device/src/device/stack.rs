//! What lies under a block device, as sysfs shows it: a partition lies on a disk, a volume of LVM, dm or RAID on one or more
//! devices (`slaves/`), in several layers if need be. The answers are those of all of them, the most careful one counts: a
//! volume has no model of its own, and the kernel sends a drive no flush that a layer above it drops.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::WriteCache;
use super::facts::{DeviceFacts, Drive};

/// sysfs counts in these, whatever the drive does.
const SYSFS_SECTOR_BYTES: u64 = 512;
/// A stack deeper than this is none.
const LAYERS_MAX: usize = 8;

/// `/sys`, or what a test takes for it.
#[derive(Debug, Clone)]
pub struct Sysfs {
    root: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Self {
        Self::at("/sys")
    }
}

/// The disks that a write passes on its way to one drive: the topmost first, the drive last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayDown {
    disks: Vec<PathBuf>,
    /// Of each disk, the file that tells what the kernel believes of its cache.
    caches: Vec<PathBuf>,
}

impl Sysfs {
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// A way to each drive; none if the kernel does not tell.
    pub fn ways_down(&self, device: u64) -> Vec<WayDown> {
        let (major, minor) = (libc::major(device), libc::minor(device));
        let entry = self.root.join(format!("dev/block/{major}:{minor}"));
        let mut ways = Vec::new();
        if let Some(disk) = disk_at(&entry) {
            go_down(vec![disk], &mut ways);
        }
        ways
    }

    /// What the kernel tells of a device now.
    pub fn facts(&self, device: u64) -> DeviceFacts {
        let ways = self.ways_down(device);
        let number = |name| ways.first().and_then(|way| fact(way.top(), name)?.parse().ok()).unwrap_or(0u64);
        let caches = || ways.iter().flat_map(|way| &way.caches).filter_map(|file| write_cache(file));
        let volatile = caches().any(|cache| cache == WriteCache::WriteBack);
        let fua = || ways.iter().flat_map(|way| &way.disks).filter_map(|disk| fact(disk, "queue/fua"));
        DeviceFacts {
            logical_bytes: number("queue/logical_block_size") as u32,
            physical_bytes: number("queue/physical_block_size") as u32,
            write_cache: if volatile { Some(WriteCache::WriteBack) } else { caches().next() },
            fua: fua().next().map(|_| fua().all(|fua| fua == "1")),
            atomic_bytes: number("queue/atomic_write_unit_max_bytes"),
            drives: ways.iter().map(WayDown::drive_facts).collect(),
            device: Some(device),
            ..DeviceFacts::default()
        }
    }
}

impl WayDown {
    fn top(&self) -> &Path {
        &self.disks[0]
    }

    fn drive(&self) -> &Path {
        self.disks.last().expect("a way has an end")
    }

    /// As the kernel calls the drive: `nvme0n1`.
    pub fn drive_name(&self) -> Option<&str> {
        self.drive().file_name()?.to_str()
    }

    /// What the kernel believes of the drive's own cache.
    pub fn drive_cache(&self) -> Option<WriteCache> {
        write_cache(self.caches.last()?)
    }

    /// `WriteThrough`: a flush of the topmost does not reach the drive, for this layer or another one drops it.
    pub fn kernel_cache(&self) -> Option<WriteCache> {
        let caches = || self.caches.iter().filter_map(|file| write_cache(file));
        caches().find(|cache| *cache == WriteCache::WriteThrough).or_else(|| caches().next())
    }

    /// Has each layer send flushes down. `Err`: one keeps its opinion.
    pub fn make_flushes_pass(&self) -> std::io::Result<()> {
        for file in &self.caches {
            if write_cache(file) != Some(WriteCache::WriteBack) {
                std::fs::write(file, "write back")?;
            }
            if write_cache(file) != Some(WriteCache::WriteBack) {
                return Err(std::io::Error::other("the kernel keeps its opinion of the cache"));
            }
        }
        Ok(())
    }

    fn drive_facts(&self) -> Drive {
        let known = |name: &&str| fact(self.drive(), name).filter(|value| !value.is_empty());
        let first_of = |names: &[&str]| names.iter().find_map(known).unwrap_or_default();
        Drive {
            model: first_of(&["device/model"]),
            // NVMe, virtio, SCSI and what it is in words, a loop device.
            serial: first_of(&["device/serial", "serial", "wwid", "device/wwid", "loop/backing_file"]),
            firmware: first_of(&["device/firmware_rev", "device/rev"]),
            bytes: first_of(&["size"]).parse().unwrap_or(0) * SYSFS_SECTOR_BYTES,
        }
    }
}

fn go_down(way: Vec<PathBuf>, ways: &mut Vec<WayDown>) {
    let lowest = way.last().expect("it begins with a disk");
    let entries = std::fs::read_dir(lowest.join("slaves")).into_iter().flatten().flatten();
    let mut below: Vec<PathBuf> = entries.filter_map(|entry| disk_at(&entry.path())).collect();
    below.sort();
    below.dedup();
    if below.is_empty() || way.len() == LAYERS_MAX {
        let caches = way.iter().map(|disk| disk.join("queue/write_cache")).collect();
        ways.push(WayDown { disks: way, caches });
        return;
    }
    for disk in below {
        go_down(way.iter().cloned().chain([disk]).collect(), ways);
    }
}

/// The disk itself, or the one that a partition is on.
fn disk_at(entry: &Path) -> Option<PathBuf> {
    let disk = entry.canonicalize().ok()?;
    if disk.join("partition").exists() { disk.parent().map(Path::to_owned) } else { Some(disk) }
}

/// Allocates nothing: it is asked each second.
fn write_cache(file: &Path) -> Option<WriteCache> {
    let mut text = [0; 32];
    let bytes = File::open(file).and_then(|mut file| file.read(&mut text)).ok()?;
    match text[..bytes].trim_ascii() {
        b"write back" => Some(WriteCache::WriteBack),
        b"write through" => Some(WriteCache::WriteThrough),
        _ => None,
    }
}

fn fact(disk: &Path, name: &str) -> Option<String> {
    let value = std::fs::read_to_string(disk.join(name)).ok()?;
    Some(value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A sysfs of our own.
    struct Tree {
        folder: tempfile::TempDir,
    }

    impl Tree {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir_all(folder.path().join("dev/block")).unwrap();
            Self { folder }
        }

        fn sysfs(&self) -> Sysfs {
            Sysfs::at(self.folder.path())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join("devices").join(name)
        }

        fn has_number(&self, name: &str, minor: u32) {
            symlink(self.path(name), self.folder.path().join(format!("dev/block/259:{minor}"))).unwrap();
        }

        fn drive(&self, name: &str, model: &str, cache: &str) -> &Self {
            self.disk(name, cache);
            fs::create_dir_all(self.path(name).join("device")).unwrap();
            fs::write(self.path(name).join("device/model"), format!("{model}   \n")).unwrap();
            self
        }

        fn disk(&self, name: &str, cache: &str) -> &Self {
            fs::create_dir_all(self.path(name).join("queue")).unwrap();
            fs::write(self.path(name).join("queue/write_cache"), format!("{cache}\n")).unwrap();
            fs::write(self.path(name).join("queue/fua"), "1\n").unwrap();
            self
        }

        fn partition(&self, name: &str) -> &Self {
            fs::create_dir_all(self.path(name)).unwrap();
            fs::write(self.path(name).join("partition"), "1\n").unwrap();
            self
        }

        fn volume(&self, name: &str, cache: &str, over: &[&str]) -> &Self {
            self.disk(name, cache);
            fs::create_dir_all(self.path(name).join("slaves")).unwrap();
            for below in over {
                let link = self.path(name).join("slaves").join(Path::new(below).file_name().unwrap());
                symlink(self.path(below), link).unwrap();
            }
            self
        }
    }

    const BACK: &str = "write back";
    const THROUGH: &str = "write through";

    fn device(minor: u32) -> u64 {
        libc::makedev(259, minor)
    }

    fn facts(tree: &Tree, name: &str) -> DeviceFacts {
        tree.has_number(name, 1);
        tree.sysfs().facts(device(1))
    }

    #[test]
    fn a_drive_that_ignores_fua_is_known_under_a_partition_and_under_volumes() {
        let nvme = |tree: &Tree| {
            tree.drive("nvme0n1", "QEMU NVMe Ctrl", BACK).partition("nvme0n1/nvme0n1p3");
            tree.drive("nvme1n1", "Samsung SSD 990", BACK);
        };
        for (name, ignores) in [
            ("nvme0n1", true),
            ("nvme0n1/nvme0n1p3", true),
            ("nvme1n1", false),
            ("dm-honest", false),
            ("dm-0", true),
            ("dm-crypt", true),
        ] {
            let tree = Tree::new();
            nvme(&tree);
            tree.volume("dm-honest", BACK, &["nvme1n1"]);
            // LVM over a partition of one and the whole of the other.
            tree.volume("dm-0", BACK, &["nvme0n1/nvme0n1p3", "nvme1n1"]);
            tree.volume("dm-crypt", BACK, &["dm-0"]);
            let facts = facts(&tree, name);
            assert_eq!((facts.ignores_fua(), facts.fua), (ignores, Some(true)), "{name}: {facts:?}");
        }
    }

    #[test]
    fn the_most_careful_answer_of_all_layers_counts() {
        let tree = Tree::new();
        tree.drive("sda", "A", THROUGH).drive("sdb", "B", BACK);
        tree.volume("md0", THROUGH, &["sda", "sdb"]);
        fs::write(tree.path("sda/queue/fua"), "0").unwrap();
        let facts = facts(&tree, "md0");
        assert_eq!((facts.write_cache, facts.fua), (Some(WriteCache::WriteBack), Some(false)));
        let models: Vec<&str> = facts.drives.iter().map(|drive| drive.model.as_str()).collect();
        assert_eq!(models, ["A", "B"]);
    }

    #[test]
    fn a_drive_is_told_by_serial_firmware_and_size_and_a_loop_device_by_its_file() {
        let tree = Tree::new();
        tree.drive("nvme0n1", "A", BACK).disk("loop0", BACK);
        for (name, value) in [("device/serial", "S1"), ("device/firmware_rev", "F2 "), ("size", "2048")] {
            fs::write(tree.path("nvme0n1").join(name), format!("{value}\n")).unwrap();
        }
        fs::create_dir_all(tree.path("loop0/loop")).unwrap();
        fs::write(tree.path("loop0/loop/backing_file"), "/srv/disk\n").unwrap();
        tree.has_number("nvme0n1", 1);
        tree.has_number("loop0", 2);
        let drive = |minor| tree.sysfs().facts(device(minor)).drives.remove(0);
        let nvme = Drive { model: "A".into(), serial: "S1".into(), firmware: "F2".into(), bytes: 1 << 20 };
        assert_eq!((drive(1), drive(2).serial.as_str()), (nvme, "/srv/disk"));
    }

    #[test]
    fn a_flush_passes_only_if_each_layer_passes_it_on() {
        let tree = Tree::new();
        tree.drive("sda", "A", BACK).volume("dm-1", THROUGH, &["sda"]).volume("dm-0", BACK, &["dm-1"]);
        tree.has_number("dm-0", 1);
        let ways = tree.sysfs().ways_down(device(1));
        let [way] = &ways[..] else { panic!("{ways:?}") };
        assert_eq!((way.drive_name(), way.drive_cache()), (Some("sda"), Some(WriteCache::WriteBack)));
        assert_eq!(way.kernel_cache(), Some(WriteCache::WriteThrough));
        way.make_flushes_pass().unwrap();
        assert_eq!(way.kernel_cache(), Some(WriteCache::WriteBack));
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_not_known_and_a_ring_of_volumes_ends() {
        let tree = Tree::new();
        let facts = tree.sysfs().facts(device(9));
        assert_eq!((facts.write_cache, facts.fua, facts.ignores_fua()), (None, None, false));
        assert_eq!((facts.device, facts.drives.len()), (Some(device(9)), 0));
        tree.volume("dm-0", BACK, &["dm-1"]).volume("dm-1", BACK, &["dm-0"]);
        tree.has_number("dm-0", 1);
        assert_eq!(tree.sysfs().ways_down(device(1)).len(), 1);
    }
}
