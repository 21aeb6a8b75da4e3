//! Opening as a typestate: `inspect` looks, `scan` reads and locks, and only a `Scanned` can be opened, after the caller
//! has committed the open (owner epoch, start = recovered end) in metadata.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::accept::ScannedRecord;
use crate::config::{EngineChoice, Expectation, Fault, RECORD_BYTES_LIMIT, ScanFrom, WalConfig};
use crate::device::file::{Access, DeviceFile};
use crate::device::pwrite::PwriteDevice;
use crate::device::uring::UringDevice;
use crate::device::{BlockDevice, DeviceFacts, Medium, flush};
use crate::edges::what_others_left;
use crate::engine::Engine;
use crate::error::{Damage, IoError, OpenError, ScanError};
use crate::format::superblock::Superblock;
use crate::format_device::write_superblock_to;
use crate::handle::{Completions, Wal};
use crate::holders::who_holds;
use crate::legs;
use crate::resync::{LegError, Missing, resync, write_once};
use crate::ring::{Ring, frame_bytes_max, reach_bytes};
use crate::scan::{Known, LegView, Scan};
use crate::shared::{Phase, Shared};
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
    pub device: DeviceFacts,
    pub device_bytes: u64,
    /// Who uses the device otherwise: "is mounted at /data".
    pub held: Option<String>,
}

/// Reads the superblocks. May be used while a broker runs on the WAL.
pub fn inspect(path: &Path) -> Result<Inspection, OpenError> {
    let file = Arc::new(DeviceFile::open(path, Access::Inspect)?);
    let mut device = PwriteDevice::inline(file.clone());
    let view = match legs::load_leg(&mut device, 0, path, file.bytes) {
        Err(OpenError::NotAWal { why, .. }) => return Err(not_a_wal(&mut device, &file, why)),
        view => view?,
    };
    Ok(Inspection {
        kind: file.kind,
        superblock: view.superblock,
        superblock_copy_lost: view.copy_lost,
        facts: file.facts.to_string(),
        device: file.facts.clone(),
        device_bytes: file.bytes,
        held: who_holds(path),
    })
}

/// Names what lies there instead, if it is known.
fn not_a_wal(device: &mut dyn BlockDevice, file: &DeviceFile, why: String) -> OpenError {
    let path = file.path.clone();
    match what_others_left(device, 0, file.bytes) {
        Some(what) => OpenError::HoldsOther { path, what: what.into() },
        None => OpenError::NotAWal { path, why },
    }
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
    /// The newest of all legs.
    pub superblock: Superblock,
    /// In the order of the devices.
    pub legs: Vec<LegView>,
    /// What a leg lacks and another one has: copied before the WAL is opened.
    pub missing: Vec<Missing>,
    frame_bytes_max: u64,
    from: ScanFrom,
    config: WalConfig,
    held: Held,
}

/// What a `Scanned` holds on to until it is opened.
enum Held {
    Files(Vec<Arc<DeviceFile>>),
    Given(Box<dyn BlockDevice>),
}

/// Reads the WAL from metadata's trim LSN on and flushes what it returns. Blocks; locks the WAL until the `Scanned` (or
/// the `Wal` made of it) is dropped.
pub fn scan(config: &WalConfig, expect: &Expectation, from: ScanFrom) -> Result<Scanned, ScanError> {
    let paths: Vec<&Path> = [Some(&config.path), config.mirror.as_ref()].into_iter().flatten().map(|p| &**p).collect();
    let files = paths.iter().map(|path| open_own(path, Access::Own)).collect::<Result<Vec<_>, _>>()?;
    #[cfg(any(test, feature = "fault-injection"))]
    if config.faults.has(Fault::Mishaps) {
        files.iter().for_each(|file| file.mishaps.plan_every(5));
    }
    let mut device = reading_device(&files).map_err(|error| ScanError::Io(IoError::new("start I/O threads", error)))?;
    let bytes: Vec<u64> = files.iter().map(|file| file.bytes).collect();
    let (legs, found) = scan_device(&mut device, &bytes, &paths, config, expect, &from)?;
    drop(device);
    Ok(Scanned::new(config, from, legs, found, files[0].kind, Held::Files(files)))
}

/// As [`scan`], on a device that the caller made: a simulated disk.
pub fn scan_on(
    device: Box<dyn BlockDevice>,
    device_bytes: u64,
    config: &WalConfig,
    expect: &Expectation,
    from: ScanFrom,
) -> Result<Scanned, ScanError> {
    scan_legs_on(device, &[device_bytes], config, expect, from)
}

/// As [`scan_on`], with the size of each leg.
pub fn scan_legs_on(
    mut device: Box<dyn BlockDevice>,
    device_bytes: &[u64],
    config: &WalConfig,
    expect: &Expectation,
    from: ScanFrom,
) -> Result<Scanned, ScanError> {
    let paths = vec![&*config.path; device_bytes.len()];
    let (legs, found) = scan_device(device.as_mut(), device_bytes, &paths, config, expect, &from)?;
    Ok(Scanned::new(config, from, legs, found, WalKind::Device, Held::Given(device)))
}

fn scan_device(
    device: &mut dyn BlockDevice,
    device_bytes: &[u64],
    paths: &[&Path],
    config: &WalConfig,
    expect: &Expectation,
    from: &ScanFrom,
) -> Result<(Vec<LegView>, Scan), ScanError> {
    let mut views = Vec::new();
    for ((leg, bytes), path) in (0..).zip(device_bytes).zip(paths) {
        let view = legs::load_leg(device, leg, path, *bytes)?;
        let (block_bytes, sector_bytes) = (view.superblock.block_bytes, device.facts(leg).logical_bytes);
        if block_bytes < sector_bytes {
            return Err(OpenError::BlockBelowSector { path: path.to_path_buf(), block_bytes, sector_bytes }.into());
        }
        views.push(view);
    }
    legs::check(&views, paths, expect, from, config.faults.has(Fault::AcceptStaleLeg))?;
    let found = crate::scan::scan(device, &views, from, config)?;
    for (leg, view) in (0..).zip(&views) {
        let failed = |error| OpenError::LegFailed {
            path: paths[usize::from(leg)].to_owned(),
            leg: view.leg,
            error: IoError::new("flush", error),
        };
        flush(device, leg).map_err(failed)?;
    }
    legs::check_epoch(found.owner_epoch_seen, expect)?;
    Ok((views, found))
}

/// Opens and locks a file or device; says who holds it, or what it holds, if it is not free or no WAL.
pub(crate) fn open_own(path: &Path, access: Access) -> Result<Arc<DeviceFile>, OpenError> {
    if let Some(by) = who_holds(path) {
        return Err(OpenError::InUse { path: path.to_owned(), by });
    }
    let file = Arc::new(DeviceFile::open(path, access)?);
    if !file.direct {
        let failed = |error| OpenError::Io { path: path.to_owned(), error: IoError::new("flush", error) };
        file.drop_cached().map_err(failed)?;
    }
    if file.kind == WalKind::Device {
        // A file system made over a WAL may leave its superblocks as they were.
        let mut device = PwriteDevice::inline(file.clone());
        if let Some(what) = what_others_left(&mut device, 0, file.bytes) {
            return Err(OpenError::HoldsOther { path: path.to_owned(), what: what.into() });
        }
    }
    Ok(file)
}

/// For reading several parts of each leg at once.
pub(crate) fn reading_device(files: &[Arc<DeviceFile>]) -> io::Result<PwriteDevice> {
    const THREADS_PER_LEG: usize = 3;
    let mut device = PwriteDevice::with_threads(files[0].clone(), THREADS_PER_LEG * files.len())?;
    for (leg, file) in (0..).zip(files).skip(1) {
        device.add_leg(leg, Medium::File(file.clone()))?;
    }
    Ok(device)
}

impl Scanned {
    fn new(config: &WalConfig, from: ScanFrom, legs: Vec<LegView>, found: Scan, kind: WalKind, held: Held) -> Self {
        let superblock = Known::of(&legs, &from, config.faults).newest;
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
            legs,
            missing: found.missing,
            frame_bytes_max: found.frame_bytes_max,
            from,
            config: config.clone(),
            held,
        }
    }

    /// Copies to each leg of a mirror what only the other one has, and writes to each leg once. Call it before metadata commits
    /// the open: that commit makes what was found count as durable, and at the next start either leg may be the only one. A
    /// damaged WAL is left as it is.
    pub fn resync(mut self) -> Result<Self, OpenError> {
        if self.damage.is_some() {
            return Ok(self);
        }
        let rules = Known::of(&self.legs, &self.from, self.config.faults).rules;
        let (legs, missing) = (self.legs.len() as u8, &self.missing);
        let prepare =
            |device: &mut dyn BlockDevice| resync(device, &rules, missing).and_then(|()| write_once(device, legs));
        let prepared = match &mut self.held {
            Held::Given(device) => prepare(device.as_mut()).map_err(StartError::Leg),
            Held::Files(files) => match reading_device(files) {
                Ok(mut device) => prepare(&mut device).map_err(StartError::Leg),
                Err(error) => Err(StartError::Ours(IoError::new("start I/O threads", error))),
            },
        };
        prepared.map_err(|error| self.names().of(error))?;
        self.missing.clear();
        Ok(self)
    }

    /// The devices by their numbers, for errors.
    fn names(&self) -> Names {
        let path = |leg: usize| self.config.mirror.as_ref().filter(|_| leg > 0).unwrap_or(&self.config.path);
        Names(self.legs.iter().enumerate().map(|(i, leg)| (path(i).clone(), leg.leg)).collect())
    }

    /// Opens the WAL and starts its thread. Call it only after metadata has committed the open: `owner_epoch`, start = `end`.
    /// The owner epoch is in the superblock, durably, before the first frame. Blocks for a few writes.
    pub fn open(self, owner_epoch: u64, identity: (Uuid, Uuid)) -> Result<(Wal, Completions), OpenError> {
        let start = self.prepare(owner_epoch, identity)?;
        let (config, names, held) = (self.config.clone(), self.names(), self.held);
        let engine = move || choose_device(held, &config).and_then(|device| start.run(device, &config));
        let (shared, thread) = crate::thread::start(engine).map_err(|error| names.of(error))?;
        if let Err(error) = crate::watchdog::start(&shared) {
            tracing::warn!(%error, "nobody watches the devices of the WAL");
        }
        Ok(Wal::new(shared, Some(thread)))
    }

    /// Opens the WAL for reading only, damaged or not. Nothing is written and no owner epoch is taken.
    pub fn seal(self) -> Result<Wal, OpenError> {
        let superblock = Superblock { open_start: self.end, ..self.superblock.clone() };
        let legs: Vec<LegId> = self.legs.iter().map(|leg| leg.leg).collect();
        let (config, names, held, trim) = (self.config.clone(), self.names(), self.held, self.trim);
        let engine = move || {
            let device = choose_device(held, &config)?;
            let space = Space::new(Ring::of(&superblock), config.record_bytes_max, trim, superblock.open_start);
            let shared = Arc::new(Shared::new(config, space, device.as_ref(), &legs, superblock.salt));
            shared.lock().phase = Phase::Sealed;
            Ok((Engine::new(device, shared.clone(), superblock, &legs), shared))
        };
        let (shared, thread) = crate::thread::start(engine).map_err(|error| names.of(error))?;
        Ok(Wal::new(shared, Some(thread)).0)
    }

    /// As `open`, without a thread: a simulation steps the engine itself.
    pub fn open_stepped(
        self,
        owner_epoch: u64,
        identity: (Uuid, Uuid),
    ) -> Result<(Wal, Completions, Engine), OpenError> {
        let start = self.prepare(owner_epoch, identity)?;
        let names = self.names();
        let device = choose_device(self.held, &self.config).map_err(|error| names.of(error))?;
        let (engine, shared) = start.run(device, &self.config).map_err(|error| names.of(error))?;
        let (wal, completions) = Wal::new(shared, None);
        Ok((wal, completions, engine))
    }

    /// What is to be written before the first frame.
    fn prepare(&self, owner_epoch: u64, identity: (Uuid, Uuid)) -> Result<Start, OpenError> {
        let superblock = self.next_superblock(owner_epoch, identity)?;
        Ok(Start {
            superblock,
            legs: self.legs.iter().map(|leg| leg.leg).collect(),
            missing: self.missing.clone(),
            known: Known::of(&self.legs, &self.from, self.config.faults),
            trim: self.trim,
        })
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
            set_epoch: self.from.legs.as_ref().map_or(self.superblock.set_epoch, |set| set.epoch),
            frame_bytes_max: self.frame_bytes_max.max(frame_bytes_max(&ring, &self.config)),
            joining: false,
            ..self.superblock.clone()
        })
    }
}

struct Start {
    /// Of each leg, but for the leg's id.
    superblock: Superblock,
    legs: Vec<LegId>,
    missing: Vec<Missing>,
    known: Known,
    trim: Lsn,
}

impl Start {
    /// Makes all legs hold the same log, then the new owner epoch durable on each, then builds the engine. Nothing was
    /// written before.
    fn run(self, mut device: Box<dyn BlockDevice>, config: &WalConfig) -> Result<(Engine, Arc<Shared>), StartError> {
        if let Some(durable) = config.durable {
            (0..self.legs.len()).for_each(|leg| device.set_flush(leg as u8, durable));
        }
        resync(device.as_mut(), &self.known.rules, &self.missing)?;
        for (number, leg) in (0..).zip(&self.legs) {
            let superblock = Superblock { leg: *leg, ..self.superblock.clone() };
            write_superblock_to(device.as_mut(), number, &superblock)
                .map_err(LegError::of(number, "write the superblock"))?;
        }
        let faults = config.faults;
        let space = Space::new(self.known.rules.ring, config.record_bytes_max, self.trim, self.superblock.open_start)
            .with_faults(faults.has(Fault::ReuseSlotWhilePinned), faults.has(Fault::TrimEarly));
        let shared = Arc::new(Shared::new(config.clone(), space, device.as_ref(), &self.legs, self.superblock.salt));
        Ok((Engine::new(device, shared.clone(), self.superblock, &self.legs), shared))
    }
}

/// Why a WAL did not start.
#[derive(Debug)]
pub(crate) enum StartError {
    /// Of this process, or of the machine.
    Ours(IoError),
    Leg(LegError),
}

impl From<LegError> for StartError {
    fn from(error: LegError) -> Self {
        Self::Leg(error)
    }
}

struct Names(Vec<(PathBuf, LegId)>);

impl Names {
    fn of(&self, error: StartError) -> OpenError {
        match error {
            StartError::Ours(error) => OpenError::Io { path: self.0[0].0.clone(), error },
            StartError::Leg(LegError { leg, error }) => {
                let (path, leg) = self.0[usize::from(leg)].clone();
                OpenError::LegFailed { path, leg, error }
            }
        }
    }
}

/// The fastest engine that this machine allows.
fn choose_device(held: Held, config: &WalConfig) -> Result<Box<dyn BlockDevice>, StartError> {
    let files = match held {
        Held::Given(device) => return Ok(device),
        Held::Files(files) => files,
    };
    let add_others = |device: &mut dyn BlockDevice| {
        let mut others = (0..).zip(&files).skip(1);
        others.try_for_each(|(leg, file)| {
            device.add_leg(leg, Medium::File(file.clone())).map_err(LegError::of(leg, "prepare its I/O"))
        })
    };
    if config.engine == EngineChoice::Auto {
        match UringDevice::new(files[0].clone()) {
            Ok(mut device) => {
                add_others(&mut device)?;
                return Ok(Box::new(device));
            }
            Err(error) => tracing::warn!(%error, "io_uring is refused here, the WAL uses pwritev2"),
        }
    }
    let threads = config.frames_in_flight_max as usize * files.len() + 2;
    let device = PwriteDevice::with_threads(files[0].clone(), threads);
    let mut device = device.map_err(|error| StartError::Ours(IoError::new("start I/O threads", error)))?;
    add_others(&mut device)?;
    Ok(Box::new(device))
}
