//! What a running system says of a drive: the cache mode that the kernel believes in and the one that the drive reports,
//! and the drive's critical warnings. Reading the latter two needs an NVMe drive and rights on its controller device.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use super::WriteCache;
use super::stack::{Sysfs, WayDown};
use crate::watchdog::{FactSource, LegFacts};

/// The critical warnings of an NVMe drive, a bit each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health(pub u8);

impl Health {
    const WARNINGS: [&'static str; 6] = [
        "spare space is low",
        "temperature out of range",
        "reliability is degraded",
        "media is read-only",
        "the backup of its volatile memory has failed",
        "its persistent memory region is unreliable",
    ];

    pub fn has_more_than(self, other: Self) -> bool {
        self.0 & !other.0 != 0
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let warnings = Self::WARNINGS.iter().enumerate().filter(|(bit, _)| self.0 & (1 << bit) != 0);
        let warnings: Vec<&str> = warnings.map(|(_, warning)| *warning).collect();
        f.write_str(if warnings.is_empty() { "none" } else { "" })?;
        f.write_str(&warnings.join(", "))
    }
}

/// sysfs, and the NVMe admin commands for what sysfs does not know. Of a volume all drives are asked.
#[derive(Default)]
pub struct SysFacts {
    sysfs: Sysfs,
    /// The drives under each device, found again each minute: a volume may move to others.
    drives: BTreeMap<u64, Drives>,
    /// Said once for each: the drive cannot be asked.
    not_readable: BTreeSet<PathBuf>,
}

struct Drives {
    ways: Vec<(WayDown, Option<PathBuf>)>,
    looks: u32,
}

const LOOKS_AT_THE_SAME: u32 = 60;

impl FactSource for SysFacts {
    fn read(&mut self, device: u64) -> LegFacts {
        let sysfs = &self.sysfs;
        let drives = self.drives.entry(device).or_insert_with(|| Drives::of(sysfs, device));
        drives.looks += 1;
        if drives.looks > LOOKS_AT_THE_SAME {
            *drives = Drives::of(sysfs, device);
        }
        let facts = drives.ways.iter().map(|(way, controller)| {
            let facts = facts_of(way, controller.as_deref());
            facts.unwrap_or_else(|(known, error)| {
                if let Some(controller) = controller.as_ref().filter(|path| !self.not_readable.contains(*path)) {
                    tracing::info!(%error, controller = %controller.display(), "the health of the drive is not readable");
                    self.not_readable.insert(controller.clone());
                }
                known
            })
        });
        facts.reduce(LegFacts::worse).unwrap_or_default()
    }

    fn make_kernel_flush(&mut self, device: u64) -> io::Result<()> {
        let drives = Drives::of(&self.sysfs, device);
        if drives.ways.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let is_unflushed = |(way, controller): &&(WayDown, Option<PathBuf>)| match facts_of(way, controller.as_deref())
        {
            Ok(facts) | Err((facts, _)) => facts.is_unflushed(),
        };
        drives.ways.iter().filter(is_unflushed).try_for_each(|(way, _)| way.make_flushes_pass())
    }
}

impl Drives {
    fn of(sysfs: &Sysfs, device: u64) -> Self {
        let with_controller = |way: WayDown| {
            let controller = way.drive_name().and_then(nvme_controller);
            (way, controller)
        };
        Self { ways: sysfs.ways_down(device).into_iter().map(with_controller).collect(), looks: 0 }
    }
}

/// `Err`: what is known of a drive that cannot be asked.
fn facts_of(way: &WayDown, controller: Option<&Path>) -> Result<LegFacts, (LegFacts, io::Error)> {
    // Below a volume that takes it for write-through the kernel may know better.
    let known = LegFacts { kernel_cache: way.kernel_cache(), drive_cache: way.drive_cache(), health: None };
    let Some(controller) = controller else { return Ok(known) };
    match File::open(controller).and_then(|file| Ok((nvme_health(&file)?, nvme_cache(&file)?))) {
        Ok((health, cache)) => {
            let volatile = cache.filter(|cache| *cache == WriteCache::WriteBack);
            Ok(LegFacts { drive_cache: volatile.or(known.drive_cache), health: Some(health), ..known })
        }
        Err(error) => Err((known, error)),
    }
}

/// `/dev/nvme0` of `nvme0n1`.
fn nvme_controller(drive: &str) -> Option<PathBuf> {
    let number: String = drive.strip_prefix("nvme")?.chars().take_while(char::is_ascii_digit).collect();
    (!number.is_empty()).then(|| PathBuf::from(format!("/dev/nvme{number}")))
}

/// As the kernel defines it for `NVME_IOCTL_ADMIN_CMD`.
#[repr(C)]
#[derive(Default)]
struct AdminCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    words_2_3: [u32; 2],
    metadata: u64,
    address: u64,
    metadata_bytes: u32,
    bytes: u32,
    words_10_15: [u32; 6],
    timeout_ms: u32,
    result: u32,
}

nix::ioctl_readwrite!(nvme_admin_command, b'N', 0x41, AdminCommand);

const GET_LOG_PAGE: u8 = 0x02;
const GET_FEATURES: u8 = 0x0a;
const LOG_HEALTH: u32 = 0x02;
const FEATURE_WRITE_CACHE: u32 = 0x06;
const ALL_NAMESPACES: u32 = u32::MAX;
/// A drive that does not answer must not hang the watchdog for long.
const TIMEOUT_MS: u32 = 500;

fn nvme_health(controller: &File) -> io::Result<Health> {
    const LOG_BYTES: usize = 512;
    let mut log = [0u8; LOG_BYTES];
    let mut command = AdminCommand {
        opcode: GET_LOG_PAGE,
        namespace: ALL_NAMESPACES,
        address: log.as_mut_ptr() as u64,
        bytes: LOG_BYTES as u32,
        timeout_ms: TIMEOUT_MS,
        ..AdminCommand::default()
    };
    command.words_10_15[0] = LOG_HEALTH | ((LOG_BYTES as u32 / 4 - 1) << 16);
    // SAFETY: the kernel writes at most `bytes` bytes to `log`, which lives until the call is over, and the result to
    // `command`.
    let status = unsafe { nvme_admin_command(controller.as_raw_fd(), &mut command) }?;
    if status == 0 { Ok(Health(log[0])) } else { Err(io::Error::other(format!("NVMe status {status:#x}"))) }
}

/// `None`: the drive has no volatile cache that could be turned on, or does not say.
fn nvme_cache(controller: &File) -> io::Result<Option<WriteCache>> {
    let mut command = AdminCommand { opcode: GET_FEATURES, timeout_ms: TIMEOUT_MS, ..AdminCommand::default() };
    command.words_10_15[0] = FEATURE_WRITE_CACHE;
    // SAFETY: the command carries no buffer; the kernel writes the result to `command`.
    let status = unsafe { nvme_admin_command(controller.as_raw_fd(), &mut command) }?;
    Ok((status == 0).then_some(match command.result & 1 {
        0 => WriteCache::WriteThrough,
        _ => WriteCache::WriteBack,
    }))
}
