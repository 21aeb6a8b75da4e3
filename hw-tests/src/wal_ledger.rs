//! A ledger around a bare WAL: writers that append records whose bytes follow from their number, what someone outside
//! knows of them ([`Known`]), and the check of what a recovery finds against that.
//!
//! `Known` is told before anything depends on it: an open before the WAL hears of it, a trim before slots are reused, an
//! ack after it came. So whoever has the last one that was told can judge the device, whatever happened to the writers.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use seawall_wal_device::format::frame::RECORD_HEADER_BYTES;
use seawall_wal_device::{
    Completions, Expectation, LegSet, Lsn, RecordHeader, RecordPosition, ScanFrom, Scanned, SpaceClass, Wal, WalConfig,
    WalFull, scan,
};
use uuid::Uuid;

/// Largest record; larger than a frame.
pub const RECORD_BYTES_MAX: u32 = 400 << 10;
const APPENDERS: u64 = 4;
const IDENTITY: (Uuid, Uuid) = (Uuid::from_u128(7), Uuid::from_u128(8));

/// What someone outside knows of a WAL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    pub trim: Lsn,
    /// The first record at or behind the trim LSN.
    pub first: u64,
    /// All records below were acknowledged.
    pub acked: u64,
    /// Committed opens, oldest first; the newest decide.
    pub opened_at: Vec<(u64, Lsn)>,
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} ", self.trim.0, self.first, self.acked)?;
        let opens: Vec<String> = self.opened_at.iter().map(|(epoch, start)| format!("{epoch}:{}", start.0)).collect();
        f.write_str(if opens.is_empty() { "-" } else { "" })?;
        f.write_str(&opens.join(","))
    }
}

impl FromStr for Known {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        ensure!(words.len() == 4, "a ledger line has four words: {line:?}");
        let mut opened_at = Vec::new();
        for open in words[3].split(',').filter(|open| *open != "-") {
            let (epoch, start) = open.split_once(':').context("an open is EPOCH:LSN")?;
            opened_at.push((epoch.parse()?, Lsn(start.parse()?)));
        }
        Ok(Self { trim: Lsn(words[0].parse()?), first: words[1].parse()?, acked: words[2].parse()?, opened_at })
    }
}

impl Known {
    /// Opens that began below the trim LSN say nothing any more, but for the newest of them.
    fn forget_old_opens(&mut self) {
        let old = self.opened_at.iter().filter(|(_, start)| *start <= self.trim).count();
        self.opened_at.drain(..old.saturating_sub(1));
    }

    fn epoch_at(&self, lsn: Lsn) -> u64 {
        self.opened_at.iter().filter(|(_, start)| *start <= lsn).map(|(epoch, _)| *epoch).max().unwrap_or(0)
    }

    fn epoch(&self) -> u64 {
        self.opened_at.iter().map(|(epoch, _)| *epoch).max().unwrap_or(0)
    }
}

/// Sizes that make frames many, laps frequent and some records larger than a frame.
pub fn config(path: &Path) -> WalConfig {
    WalConfig { record_bytes_max: RECORD_BYTES_MAX, frame_bytes_max: 128 << 10, ..WalConfig::new(path) }
}

/// What recovery finds, checked: a prefix of what was appended, byte for byte, that holds all that was acknowledged.
pub struct Found {
    pub scanned: Scanned,
    /// The next record to append.
    pub next: u64,
}

/// Recovers the WAL at `config.path` (a device, or the image of one) and checks it. `Err` says what is broken.
pub fn recover(config: &WalConfig, known: &Known) -> Result<Found> {
    recover_legs(config, known, None)
}

/// As `recover`, with the set of legs that metadata would hold.
pub fn recover_legs(config: &WalConfig, known: &Known, legs: Option<LegSet>) -> Result<Found> {
    let from = ScanFrom { trim: known.trim, opened_at: known.opened_at.clone(), legs, ..ScanFrom::default() };
    let scanned = scan(config, &Expectation::default(), from)?.resync()?;
    ensure!(scanned.damage.is_none(), "damage: {}", scanned.damage.as_ref().expect("checked"));
    let device = File::open(&config.path)?;
    let mut bytes = Vec::new();
    let mut next = known.first;
    for record in &scanned.records {
        let (lsn, epoch) = (record.position.lsn, known.epoch_at(record.position.lsn));
        let expected = header(next, epoch);
        ensure!(record.header == expected, "found {record:?}, expected {expected:?}");
        ensure!(record.position.bytes as usize == payload_bytes(next), "{record:?} has another length");
        bytes.resize(record.position.bytes as usize, 0);
        let ring = &scanned.superblock;
        let at = ring.ring_offset + lsn.0 % ring.ring_bytes + RECORD_HEADER_BYTES as u64;
        device.read_exact_at(&mut bytes, at)?;
        ensure!(bytes[..] == payload(next, epoch)[..], "{record:?} has other bytes");
        next += 1;
    }
    ensure!(next >= known.acked, "{} acked records are lost: {} of {}", known.acked - next, next, known.acked);
    Ok(Found { scanned, next })
}

fn header(id: u64, epoch: u64) -> RecordHeader {
    RecordHeader { stream: id % 5, leader_epoch: epoch as i32, base_offset: id as i64, last_offset: id as i64 }
}

/// Most are small, some are larger than a frame.
fn payload_bytes(id: u64) -> usize {
    let random = mix(id);
    let below = |bytes: u64| (random >> 8) % bytes;
    (match random % 100 {
        0..50 => below(300),
        50..85 => below(16 << 10),
        85..98 => below(100 << 10),
        _ => below(u64::from(RECORD_BYTES_MAX)),
    }) as usize
}

/// Another owner's record of the same number has other bytes.
fn payload(id: u64, epoch: u64) -> Bytes {
    let length = payload_bytes(id);
    let mut bytes = Vec::with_capacity(length + 8);
    let mut word = mix(id ^ (epoch << 40));
    while bytes.len() < length {
        bytes.extend_from_slice(&word.to_le_bytes());
        word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    }
    bytes.truncate(length);
    bytes.into()
}

fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Several threads that append and wait for their acks, and one that takes the acks and trims.
pub struct Writers {
    wal: Option<Wal>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    ledger: Mutex<Ledger>,
    acked: Condvar,
    stopping: AtomicBool,
}

/// Under one lock, so that whoever holds it sees a standstill of acks and trims.
pub struct Ledger {
    pub known: Known,
    next: u64,
    /// Acknowledged and not trimmed.
    kept: VecDeque<(u64, RecordPosition)>,
    /// Why the WAL takes no more.
    pub failed: Option<String>,
    tell: Tell,
}

/// Called with every change, before anything depends on it.
pub type Tell = Box<dyn FnMut(&Known) + Send>;

impl Writers {
    /// Opens what was recovered and starts.
    pub fn start(found: Found, known: &Known, mut tell: Tell) -> Result<Self> {
        let Found { scanned, next } = found;
        let mut known = known.clone();
        // What recovery returned is durable: it counts as acknowledged.
        known.acked = next;
        let epoch = known.epoch().max(scanned.owner_epoch_seen) + 1;
        known.opened_at.push((epoch, scanned.end));
        known.forget_old_opens();
        let kept = scanned.records.iter().map(|record| (record.header.base_offset as u64, record.position)).collect();
        tell(&known);
        let (wal, completions) = scanned.open(epoch, IDENTITY)?;
        let shared = Arc::new(Shared {
            ledger: Mutex::new(Ledger { known, next, kept, failed: None, tell }),
            acked: Condvar::new(),
            stopping: AtomicBool::new(false),
        });
        let mut threads = Vec::new();
        for appender in 0..APPENDERS {
            let (wal, shared) = (wal.clone(), shared.clone());
            threads.push(std::thread::spawn(move || append(&wal, &shared, appender, epoch)));
        }
        let (taker, of) = (wal.clone(), shared.clone());
        threads.push(std::thread::spawn(move || take_acks(&taker, &of, completions)));
        Ok(Self { wal: Some(wal), shared, threads })
    }

    /// Acks and trims stand still while this is held; writes under way go on.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared.lock()
    }

    /// Reads everything that is acknowledged and not trimmed back through the WAL; the count.
    pub fn read_all(&self) -> Result<u64> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let wal = self.wal.as_ref().context("stopped")?;
        let ledger = self.ledger();
        for (id, position) in &ledger.kept {
            let epoch = ledger.known.epoch_at(position.lsn);
            let bytes = runtime.block_on(wal.read(*position, header(*id, epoch)))?;
            ensure!(bytes == payload(*id, epoch), "record {id} was read with other bytes");
        }
        Ok(ledger.kept.len() as u64)
    }

    /// The WAL itself, for what a broker does beside appending.
    pub fn wal(&self) -> &Wal {
        self.wal.as_ref().expect("it goes with the writers")
    }

    /// Waits until the WAL has failed. False when it has not within 10 s.
    pub fn wait_for_failure(&self) -> bool {
        for _ in 0..1_000 {
            if self.ledger().failed.is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Stops and lets the WAL go, without a close; what is known then.
    pub fn stop(mut self) -> Known {
        self.end();
        self.ledger().known.clone()
    }

    fn end(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.shared.acked.notify_all();
        self.wal = None;
        for thread in self.threads.drain(..) {
            // A panic in a thread has said why; the check will miss what it did not do.
            let _ = thread.join();
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// Bursts of records, each waited for.
fn append(wal: &Wal, shared: &Shared, appender: u64, epoch: u64) {
    let mut burst = 0;
    while !shared.stopping() {
        burst += 1;
        let mut last = None;
        for _ in 0..1 + mix(appender << 32 | burst) % 8 {
            let mut ledger = shared.lock();
            let id = ledger.next;
            match wal.reserve(payload_bytes(id) as u64, SpaceClass::Normal) {
                Ok(reservation) => {
                    wal.append(reservation, header(id, epoch), payload(id, epoch), id);
                    ledger.next += 1;
                    last = Some(id);
                }
                Err(WalFull::Unusable(_)) => return,
                Err(_) => break,
            }
        }
        let Some(last) = last else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let mut ledger = shared.lock();
        while ledger.known.acked <= last && ledger.failed.is_none() && !shared.stopping() {
            let waited = shared.acked.wait_timeout(ledger, Duration::from_millis(100));
            ledger = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if ledger.failed.is_some() {
            return;
        }
    }
}

fn take_acks(wal: &Wal, shared: &Shared, mut completions: Completions) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    while !shared.stopping() {
        let next =
            runtime.block_on(async { tokio::time::timeout(Duration::from_millis(50), completions.next()).await });
        let durable = match next {
            Err(_) => continue,
            Ok(None) => break,
            Ok(Some(durable)) => durable,
        };
        let mut ledger = shared.lock();
        for record in &durable.records {
            assert_eq!(record.token, ledger.known.acked, "acks come in order");
            ledger.kept.push_back((record.token, record.position));
            ledger.known.acked += 1;
        }
        if let Some(error) = &durable.failed {
            ledger.failed = Some(error.to_string());
        }
        ledger.tell();
        trim(wal, &mut ledger);
        drop(ledger);
        shared.acked.notify_all();
        completions.recycle(durable);
    }
    let mut ledger = shared.lock();
    if ledger.failed.is_none() {
        ledger.failed = Some("ended".into());
    }
    drop(ledger);
    shared.acked.notify_all();
}

/// Half of what is kept goes when the ring is half full.
fn trim(wal: &Wal, ledger: &mut Ledger) {
    let usage = wal.usage();
    if usage.used_bytes < usage.ring_bytes / 2 || ledger.kept.len() < 2 {
        return;
    }
    let to = ledger.kept[ledger.kept.len() / 2].1.frame();
    ledger.kept.retain(|(_, position)| position.frame() >= to);
    ledger.known.trim = to;
    ledger.known.first = ledger.kept.front().map_or(ledger.known.acked, |(id, _)| *id);
    ledger.known.forget_old_opens();
    ledger.tell();
    wal.trim(to);
}

impl Ledger {
    fn tell(&mut self) {
        (self.tell)(&self.known);
    }
}
