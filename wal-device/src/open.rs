//! Opening as a typestate: `inspect` looks, `scan` reads and locks, and only a `Scanned` can be opened, after the caller
//! has committed the open (owner epoch, start = recovered end) in metadata.

use std::io;
use std::path::Path;
use std::sync::{Arc, mpsc};

use uuid::Uuid;

use crate::aligned_buf::SharedBuf;
use crate::config::{EngineChoice, Expectation, Fault, RECORD_BYTES_LIMIT, ScanFrom, WalConfig};
use crate::device::file::{Access, DeviceFile};
use crate::device::pwrite::PwriteDevice;
use crate::device::uring::UringDevice;
use crate::device::{BlockDevice, Operation, run};
use crate::engine::Engine;
use crate::error::{Damage, IoError, OpenError, ScanError};
use crate::format::SUPERBLOCK_OFFSETS;
use crate::format::superblock::{FORMAT_VERSION, Superblock, SuperblockError};
use crate::format_device::write_superblock;
use crate::handle::{Completions, Wal};
use crate::ring::{Ring, reach_bytes};
use crate::scan::{Scan, ScannedRecord};
use crate::shared::Shared;
use crate::space::Space;
use crate::types::{LegId, Lsn, WalId, WalKind};

/// What a look at a WAL shows, without locking or changing it.
#[derive(Debug, Clone)]
pub struct Inspection {
    pub kind: WalKind,
    pub superblock: Superblock,
    /// One of the two copies cannot be used.
    pub superblock_copy_lost: bool,
    /// Facts about the device, for people.
    pub facts: String,
}

/// Reads the superblocks. May be used while a broker runs on the WAL.
pub fn inspect(path: &Path) -> Result<Inspection, OpenError> {
    let file = Arc::new(DeviceFile::open(path, Access::Inspect)?);
    let mut device = PwriteDevice::inline(file.clone());
    let (superblock, superblock_copy_lost) = load_superblock(&mut device, path, file.bytes)?;
    Ok(Inspection { kind: file.kind, superblock, superblock_copy_lost, facts: file.facts.to_string() })
}

/// A WAL that was read and is locked, but not written. Everything in `records` is durable.
pub struct Scanned {
    pub wal_id: WalId,
    pub kind: WalKind,
    pub trim: Lsn,
    /// Where the next frame goes: the start LSN to commit.
    pub end: Lsn,
    /// In LSN order. The bytes stay on the device: `Wal::read` brings them.
    pub records: Vec<ScannedRecord>,
    /// The first `WalConfig::scan_head_bytes` of each payload, in the order of `records`; a shorter one is filled with zeros.
    pub heads: Vec<u8>,
    pub frames: u64,
    /// The newest trim LSN that the device carries; metadata's counts.
    pub newest_trim_hint: Lsn,
    /// The next owner epoch must be higher.
    pub owner_epoch_seen: u64,
    /// Acknowledged data is missing: `open` refuses, an operator decides.
    pub damage: Option<Damage>,
    pub clean_shutdown: bool,
    pub superblock: Superblock,
    config: WalConfig,
    medium: Medium,
}

/// What a `Scanned` holds on to until it is opened.
enum Medium {
    File(Arc<DeviceFile>),
    Given(Box<dyn BlockDevice>),
}

/// Reads the WAL from metadata's trim LSN on and flushes what it returns. Blocks; locks the WAL until the `Scanned` (or
/// the `Wal` made of it) is dropped.
pub fn scan(config: &WalConfig, expect: &Expectation, from: ScanFrom) -> Result<Scanned, ScanError> {
    let file = Arc::new(DeviceFile::open(&config.path, Access::Own)?);
    if !file.direct {
        file.drop_cached().map_err(|error| ScanError::Io(IoError::new("flush", error)))?;
    }
    let mut device = PwriteDevice::inline(file.clone());
    let (superblock, found) = scan_device(&mut device, file.bytes, config, expect, &from)?;
    Ok(Scanned::new(config, from, superblock, found, file.kind, Medium::File(file)))
}

/// As [`scan`], on a device that the caller made: a simulated disk.
pub fn scan_on(
    mut device: Box<dyn BlockDevice>,
    device_bytes: u64,
    config: &WalConfig,
    expect: &Expectation,
    from: ScanFrom,
) -> Result<Scanned, ScanError> {
    let (superblock, found) = scan_device(device.as_mut(), device_bytes, config, expect, &from)?;
    Ok(Scanned::new(config, from, superblock, found, WalKind::Device, Medium::Given(device)))
}

fn scan_device(
    device: &mut dyn BlockDevice,
    device_bytes: u64,
    config: &WalConfig,
    expect: &Expectation,
    from: &ScanFrom,
) -> Result<(Superblock, Scan), ScanError> {
    let (superblock, copy_lost) = load_superblock(device, &config.path, device_bytes)?;
    check_expectation(&superblock, expect)?;
    let found = crate::scan::scan(device, &superblock, copy_lost, from, config)?;
    Ok((superblock, found))
}

impl Scanned {
    fn new(
        config: &WalConfig,
        from: ScanFrom,
        superblock: Superblock,
        found: Scan,
        kind: WalKind,
        medium: Medium,
    ) -> Self {
        Self {
            wal_id: superblock.wal_id,
            kind,
            trim: from.trim,
            end: found.end,
            records: found.records,
            heads: found.heads,
            frames: found.frames,
            newest_trim_hint: found.newest_trim_hint,
            owner_epoch_seen: found.owner_epoch_seen,
            damage: found.damage,
            clean_shutdown: found.clean_shutdown,
            superblock,
            config: config.clone(),
            medium,
        }
    }

    /// Opens the WAL and starts its thread. Call it only after metadata has committed the open: `owner_epoch`, start = `end`.
    /// The owner epoch is in the superblock, durably, before the first frame. Blocks for a few writes.
    pub fn open(self, owner_epoch: u64, identity: (Uuid, Uuid)) -> Result<(Wal, Completions), OpenError> {
        let superblock = self.next_superblock(owner_epoch, identity)?;
        let (config, trim) = (self.config.clone(), self.trim);
        let medium = self.medium;
        // The engine lives on its thread from birth: an io_uring may have a single issuer.
        let (tell, hear) = mpsc::sync_channel(1);
        let path = config.path.clone();
        let thread = std::thread::Builder::new().name("wal".into()).spawn(move || {
            let engine = choose_device(medium, &config).and_then(|device| start(device, &config, trim, superblock));
            match engine {
                Ok((engine, shared)) => {
                    // If the opener has gone, the phase says so to the engine's first turn.
                    let _ = tell.send(Ok(shared.clone()));
                    crate::thread::run(engine, shared);
                }
                Err(error) => {
                    let _ = tell.send(Err(error));
                }
            }
        });
        let failed = |error| OpenError::Io { path: path.clone(), error };
        let thread = thread.map_err(|error| failed(IoError::new("start the WAL thread", error)))?;
        match hear.recv() {
            Ok(Ok(shared)) => Ok(Wal::new(shared, Some(thread))),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(failed(IoError::new("start the WAL thread", io::Error::other("it panicked")))),
        }
    }

    /// As `open`, without a thread: a simulation steps the engine itself.
    pub fn open_stepped(
        self,
        owner_epoch: u64,
        identity: (Uuid, Uuid),
    ) -> Result<(Wal, Completions, Engine), OpenError> {
        let superblock = self.next_superblock(owner_epoch, identity)?;
        let medium = self.medium;
        let failed = |error| OpenError::Io { path: self.config.path.clone(), error };
        let device = choose_device(medium, &self.config).map_err(failed)?;
        let (engine, shared) = start(device, &self.config, self.trim, superblock).map_err(failed)?;
        let (wal, completions) = Wal::new(shared, None);
        Ok((wal, completions, engine))
    }

    fn next_superblock(&self, owner_epoch: u64, identity: (Uuid, Uuid)) -> Result<Superblock, OpenError> {
        if let Some(damage) = &self.damage {
            return Err(OpenError::Damaged(damage.clone()));
        }
        if owner_epoch <= self.owner_epoch_seen {
            return Err(OpenError::StaleEpoch { asked: owner_epoch, seen: self.owner_epoch_seen });
        }
        let ring = Ring::of(&self.superblock);
        let record_bytes_max = self.config.record_bytes_max;
        if record_bytes_max > RECORD_BYTES_LIMIT {
            return Err(OpenError::RecordLimit { record_bytes_max, limit: RECORD_BYTES_LIMIT });
        }
        let needed_bytes = Space::ring_bytes_min(&ring, record_bytes_max);
        if ring.bytes < needed_bytes {
            return Err(OpenError::RingTooSmall { ring_bytes: ring.bytes, record_bytes_max, needed_bytes });
        }
        Ok(Superblock {
            generation: self.superblock.generation + 1,
            cluster_id: identity.0,
            incarnation: identity.1,
            owner_epoch,
            open_start: self.end,
            trim_hint: self.newest_trim_hint.max(self.trim),
            durable: self.end,
            reach: Lsn(self.end.0 + reach_bytes(&ring, &self.config)),
            clean_shutdown: false,
            ..self.superblock.clone()
        })
    }
}

/// Makes the new owner epoch durable, then builds the engine. Nothing was written before.
fn start(
    mut device: Box<dyn BlockDevice>,
    config: &WalConfig,
    trim: Lsn,
    superblock: Superblock,
) -> Result<(Engine, Arc<Shared>), IoError> {
    write_superblock(device.as_mut(), &superblock).map_err(|error| IoError::new("write the superblock", error))?;
    let faults = config.faults;
    let space = Space::new(Ring::of(&superblock), config.record_bytes_max, trim, superblock.open_start)
        .with_faults(faults.has(Fault::ReuseSlotWhilePinned), faults.has(Fault::TrimEarly));
    let legs = [LegId(superblock.wal_id.0)];
    let shared = Arc::new(Shared::new(config.clone(), space, device.as_ref(), &legs));
    Ok((Engine::new(device, shared.clone(), superblock, &legs), shared))
}

/// The fastest engine that this machine allows.
fn choose_device(medium: Medium, config: &WalConfig) -> Result<Box<dyn BlockDevice>, IoError> {
    let file = match medium {
        Medium::Given(device) => return Ok(device),
        Medium::File(file) => file,
    };
    if config.engine == EngineChoice::Auto {
        match UringDevice::new(file.clone()) {
            Ok(device) => return Ok(Box::new(device)),
            Err(error) => tracing::warn!(%error, "io_uring is refused here, the WAL uses pwritev2"),
        }
    }
    let threads = config.frames_in_flight_max as usize + 2;
    let device = PwriteDevice::with_threads(file, threads).map_err(|error| IoError::new("start I/O threads", error))?;
    Ok(Box::new(device))
}

/// The newest valid copy, and whether the other one is lost.
fn load_superblock(
    device: &mut dyn BlockDevice,
    path: &Path,
    device_bytes: u64,
) -> Result<(Superblock, bool), OpenError> {
    let mut copies = Vec::new();
    for offset in SUPERBLOCK_OFFSETS {
        let bytes = crate::format::BLOCK_BYTES_MAX as usize;
        let (buffer, result) = run(device, 0, Operation::Read, offset, Some(SharedBuf::new(bytes)), bytes);
        copies.push(match (result, buffer) {
            (Ok(()), Some(buffer)) => Superblock::decode(&buffer).map_err(|error| error.to_string_and_version()),
            (Err(error), _) => Err((error.to_string(), None)),
            (Ok(()), None) => Err(("no answer".into(), None)),
        });
    }
    let not_a_wal = |why: String| OpenError::NotAWal { path: path.to_owned(), why };
    if let Some(found) = copies.iter().find_map(|copy| copy.as_ref().err().and_then(|(_, version)| *version)) {
        return Err(OpenError::NewerFormat { path: path.to_owned(), found, known: FORMAT_VERSION });
    }
    let lost = copies.iter().any(Result::is_err);
    let why = copies.iter().find_map(|copy| copy.as_ref().err().map(|(why, _)| why.clone())).unwrap_or_default();
    let newest = copies.into_iter().flatten().max_by_key(|superblock| superblock.generation);
    let superblock = newest.ok_or_else(|| not_a_wal(why))?;
    if superblock.ring_offset + superblock.ring_bytes > device_bytes {
        return Err(not_a_wal(format!("it is shorter ({device_bytes} bytes) than its ring")));
    }
    Ok((superblock, lost))
}

impl SuperblockError {
    fn to_string_and_version(&self) -> (String, Option<u32>) {
        let version = if let Self::NewerFormat(version) = self { Some(*version) } else { None };
        (self.to_string(), version)
    }
}

fn check_expectation(superblock: &Superblock, expect: &Expectation) -> Result<(), ScanError> {
    if let Some(expected) = expect.wal_id
        && superblock.wal_id != expected
    {
        return Err(ScanError::OtherWal { found: superblock.wal_id, expected });
    }
    if let Some(expected) = expect.cluster_id
        && !superblock.cluster_id.is_nil()
        && superblock.cluster_id != expected
    {
        return Err(ScanError::OtherCluster { found: superblock.cluster_id, expected });
    }
    if let Some(expected) = expect.incarnation
        && !superblock.incarnation.is_nil()
        && superblock.incarnation != expected
    {
        return Err(ScanError::OtherIncarnation { found: superblock.incarnation, expected });
    }
    if let Some(expected) = expect.node_id
        && superblock.node_id != expected
    {
        return Err(ScanError::OtherNode { found: superblock.node_id, expected });
    }
    Ok(())
}
