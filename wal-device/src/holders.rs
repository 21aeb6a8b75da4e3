//! Who uses a block device: a mount, a device mapper or RAID above it, swap. So that a refusal names it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// A device number: major, minor.
type Number = (u32, u32);

/// What uses the device or a partition of it, in words: "is mounted at /data". `None`: nothing that the kernel tells of.
pub(crate) fn who_holds(path: &Path) -> Option<String> {
    let device = number_of(path)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let of = |device: Number| mounted_at(&mounts, device).or_else(|| swap(&swaps, device)).or_else(|| held_by(device));
    of(device).or_else(|| {
        let of_partition = |(name, device)| Some(format!("has a partition, {name}, that {}", of(device)?));
        partitions(device).into_iter().find_map(of_partition)
    })
}

fn number_of(path: &Path) -> Option<Number> {
    let metadata = fs::metadata(path).ok().filter(|metadata| metadata.file_type().is_block_device())?;
    Some((libc::major(metadata.rdev()), libc::minor(metadata.rdev())))
}

/// A line is: id, parent, major:minor, root, mount point, ..., "-", type, source, options. Some file systems (btrfs) have a
/// number of their own: then the source tells.
fn mounted_at(mountinfo: &str, (major, minor): Number) -> Option<String> {
    let number = format!("{major}:{minor}");
    mountinfo.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let fields: Vec<&str> = mount.split(' ').collect();
        let source = source.split(' ').nth(1)?;
        let same = *fields.get(2)? == number
            || source.starts_with('/') && number_of(Path::new(&unescape(source))) == Some((major, minor));
        same.then(|| format!("is mounted at {}", unescape(fields.get(4).copied().unwrap_or_default())))
    })
}

/// The kernel writes spaces and the like as three octal digits.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

fn swap(swaps: &str, device: Number) -> Option<String> {
    let is_it = |line: &str| line.split_whitespace().next().and_then(|path| number_of(Path::new(path))) == Some(device);
    swaps.lines().skip(1).any(is_it).then(|| "is used for swap".into())
}

fn held_by((major, minor): Number) -> Option<String> {
    let holders = fs::read_dir(format!("/sys/dev/block/{major}:{minor}/holders")).ok()?;
    let name = holders.flatten().next()?.file_name().to_string_lossy().into_owned();
    let mapped = fs::read_to_string(format!("/sys/block/{name}/dm/name"));
    Some(match mapped {
        Ok(mapped) => format!("is held by {name} ({})", mapped.trim()),
        Err(_) => format!("is held by {name}"),
    })
}

fn partitions((major, minor): Number) -> Vec<(String, Number)> {
    let Ok(entries) = fs::read_dir(format!("/sys/dev/block/{major}:{minor}")) else { return Vec::new() };
    let partition = |entry: fs::DirEntry| {
        let path = entry.path();
        if !path.join("partition").exists() {
            return None;
        }
        let number = fs::read_to_string(path.join("dev")).ok()?;
        let (major, minor) = number.trim().split_once(':')?;
        Some((entry.file_name().to_string_lossy().into_owned(), (major.parse().ok()?, minor.parse().ok()?)))
    };
    let mut partitions: Vec<_> = entries.flatten().filter_map(partition).collect();
    partitions.sort();
    partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_number() {
        let mountinfo = "22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
                         40 22 8:17 / /srv/my\\040data rw - xfs /dev/nosuch rw\n\
                         41 22 0:35 / /proc rw - proc proc rw\n";
        assert_eq!(mounted_at(mountinfo, (8, 17)).as_deref(), Some("is mounted at /srv/my data"));
        assert_eq!(mounted_at(mountinfo, (259, 2)).as_deref(), Some("is mounted at /"));
        assert_eq!(mounted_at(mountinfo, (8, 1)), None);
    }

    #[test]
    fn a_file_is_held_by_nobody() {
        assert_eq!(who_holds(Path::new("/proc/self/exe")), None);
    }
}
