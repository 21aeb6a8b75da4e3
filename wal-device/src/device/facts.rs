//! What is known of the device under a leg: for the choice of how writes become durable, and for people.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteCache {
    /// Written data may be lost with the power until it is flushed.
    WriteBack,
    WriteThrough,
}

impl fmt::Display for WriteCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WriteBack => "write back",
            Self::WriteThrough => "write through",
        })
    }
}

/// `None` and 0 where the kernel does not tell. For a file: of the disk that its file system lies on. On a volume: of all that it
/// lies on, the most careful answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Smallest write.
    pub logical_bytes: u32,
    /// Smallest write that costs no read before it.
    pub physical_bytes: u32,
    pub write_cache: Option<WriteCache>,
    /// Whether a single write can pass the cache by.
    pub fua: Option<bool>,
    /// Writes of up to this much are never torn; 0: not known.
    pub atomic_bytes: u64,
    /// Whether I/O passes the page cache by.
    pub direct: bool,
    /// A file system in memory: nothing survives a power cut.
    pub in_memory: bool,
    /// All that it lies on.
    pub drives: Vec<Drive>,
    /// Device number of the block device, or of the one under the file.
    pub device: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drive {
    pub model: String,
    /// What tells it from others of its model; of a loop device the file under it.
    pub serial: String,
    pub firmware: String,
    /// 0: not known.
    pub bytes: u64,
}

/// Drives that answer FUA writes from a volatile cache, by how their model begins. QEMU's takes no notice of FUA (seen with 7.2, by
/// `cargo xtask wal vm`), and honours flushes.
const IGNORE_FUA: [&str; 1] = ["QEMU NVMe"];

impl DeviceFacts {
    /// A write is durable only after a flush.
    pub fn ignores_fua(&self) -> bool {
        self.drives.iter().any(|drive| IGNORE_FUA.iter().any(|model| drive.model.starts_with(model)))
    }
}

impl fmt::Display for DeviceFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.direct { "direct I/O" } else { "through the page cache" })?;
        if self.in_memory {
            f.write_str(", in memory: NOTHING SURVIVES A POWER CUT")?;
        }
        if self.logical_bytes > 0 && self.physical_bytes > 0 {
            write!(f, ", blocks of {}/{}", self.logical_bytes, self.physical_bytes)?;
        }
        if let Some(cache) = self.write_cache {
            write!(f, ", device cache {cache}")?;
        }
        if self.fua == Some(true) {
            f.write_str(if self.ignores_fua() { ", fua that is ignored" } else { ", fua" })?;
        }
        if self.atomic_bytes > 0 {
            write!(f, ", atomic writes of {}", self.atomic_bytes)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_that_ignores_fua_is_known_by_its_model() {
        let of = |model: &str| {
            let drive = Drive { model: model.into(), ..Drive::default() };
            DeviceFacts { drives: vec![drive], fua: Some(true), ..DeviceFacts::default() }
        };
        assert!(
            of("QEMU NVMe Ctrl").ignores_fua() && of("QEMU NVMe Ctrl").to_string().ends_with("fua that is ignored")
        );
        assert!(!of("Samsung SSD 990").ignores_fua() && !of("").ignores_fua());
    }
}
