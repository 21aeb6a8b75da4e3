//! The WAL itself under load: records are appended, group commit makes them durable, what is durable is trimmed and, if asked,
//! read back meanwhile, as uploads read.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use seawall_wal_device::{
    Completions, Lsn, RecordHeader, RecordPosition, ScanFrom, SpaceClass, Wal, WalConfig, WalError, WalFull,
};
use uuid::Uuid;

use super::super::{Slices, histogram_us};
use super::probe::Run;
use super::target::Target;

const RECORD_BYTES_MAX: u32 = 1 << 20;
/// No drive compresses it, and no cache of the CPU holds it.
const SOURCE_BYTES: usize = 32 << 20;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A WAL that acknowledges nothing for so long does not work.
const HANGS_AFTER: Duration = Duration::from_secs(60);
/// Records that reads choose from.
const READABLE_MAX: usize = 4096;
const HEADER: RecordHeader = RecordHeader { stream: 1, leader_epoch: 1, base_offset: 0, last_offset: 0 };

#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Each waits for its acknowledgement before it appends again.
    pub appenders: usize,
    pub record_bytes: usize,
    pub time: Duration,
    pub slice: Duration,
    /// Reads what is durable back all the while.
    pub reads: bool,
}

/// The latencies of acknowledgements, in all and by slices, and of reads if there were any.
pub struct Ran {
    pub acks: Slices,
    pub reads: Histogram<u64>,
    pub elapsed: Duration,
}

/// A WAL that was opened on a target.
pub struct Running {
    wal: Wal,
    completions: Completions,
    source: Bytes,
    durability: String,
    trim: Lsn,
}

fn config() -> WalConfig {
    WalConfig { record_bytes_max: RECORD_BYTES_MAX, ..WalConfig::new("") }
}

impl Running {
    /// What is on the target must be formatted and never opened.
    pub fn open(target: &dyn Target) -> Result<Self> {
        let scanned = target.scan(&config(), ScanFrom::default())?;
        let (wal, completions) = scanned.open(1, (Uuid::nil(), Uuid::nil()))?;
        let durability = wal.durability().to_owned();
        Ok(Self { wal, completions, source: source(), durability, trim: Lsn(0) })
    }

    pub fn durability(&self) -> &str {
        &self.durability
    }

    pub fn run(&mut self, load: &Load, run: &Run<'_>) -> Result<Ran> {
        let readable = Arc::new(Readable::default());
        let reader = load.reads.then(|| {
            let (wal, readable) = (self.wal.clone(), readable.clone());
            std::thread::spawn(move || read(&wal, &readable))
        });
        let appended = self.append(load, &readable, run);
        readable.over.store(true, Ordering::Relaxed);
        let reads = match reader.map(std::thread::JoinHandle::join) {
            None => Ok(histogram_us()),
            Some(Ok(reads)) => reads,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        };
        let (acks, elapsed) = appended?;
        Ok(Ran { acks, reads: reads?, elapsed })
    }

    fn append(&mut self, load: &Load, readable: &Readable, run: &Run<'_>) -> Result<(Slices, Duration)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let mut slices = Slices::new(load.slice);
        let mut starts = vec![Instant::now(); load.appenders];
        let mut idle: Vec<usize> = (0..load.appenders).collect();
        let (begun, mut at) = (Instant::now(), 0);
        let mut last_ack = begun;
        loop {
            let over = begun.elapsed() >= load.time || run.stop.is_asked();
            if over && idle.len() == load.appenders {
                break;
            }
            while !over && let Some(slot) = idle.pop() {
                if at + load.record_bytes > self.source.len() {
                    at = 0;
                }
                match self.wal.reserve(load.record_bytes as u64, SpaceClass::Normal) {
                    Ok(reservation) => {
                        starts[slot] = Instant::now();
                        let payload = self.source.slice(at..at + load.record_bytes);
                        at += load.record_bytes;
                        self.wal.append(reservation, HEADER, payload, slot as u64);
                    }
                    Err(WalFull::Unusable(error)) => return Err(error).context("append"),
                    // The reader still holds what was trimmed: after the next acknowledgement or a moment.
                    Err(_) => {
                        idle.push(slot);
                        break;
                    }
                }
            }
            let wait = if idle.is_empty() { LOOK_EVERY } else { Duration::from_millis(1) };
            let next = runtime.block_on(async { tokio::time::timeout(wait, self.completions.next()).await });
            run.tick();
            let Ok(next) = next else {
                ensure!(last_ack.elapsed() < HANGS_AFTER, "the WAL has hung for {} s", HANGS_AFTER.as_secs());
                continue;
            };
            let durable = next.context("the WAL ended")?;
            if let Some(error) = &durable.failed {
                return Err(error.clone()).context("the WAL failed");
            }
            last_ack = Instant::now();
            for record in &durable.records {
                let slot = record.token as usize;
                slices.record(begun.elapsed(), starts[slot].elapsed(), load.record_bytes as u64);
                idle.push(slot);
            }
            if load.reads {
                readable.add(durable.records.iter().map(|record| record.position));
            }
            let usage = self.wal.usage();
            if usage.used_bytes > usage.ring_bytes / 2 {
                readable.lock().clear();
                self.trim = usage.durable;
                self.wal.trim(usage.durable);
            }
            self.completions.recycle(durable);
        }
        run.stop.check()?;
        Ok((slices, begun.elapsed()))
    }

    /// Closes it and recovers as a broker would at its next start. Answers what is wrong.
    pub fn recovers(self, target: &dyn Target) -> Result<Option<String>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let Self { wal, completions, trim, .. } = self;
        let durable = wal.usage().durable;
        runtime.block_on(wal.close()).context("close the WAL")?;
        drop(completions);
        let from = ScanFrom { trim, opened_at: vec![(1, Lsn(0))], ..ScanFrom::default() };
        let scanned = target.scan(&config(), from)?;
        Ok(match &scanned.damage {
            Some(damage) => Some(damage.to_string()),
            None if !scanned.clean_shutdown || scanned.end < durable => {
                Some(format!("the log ends at {}, {durable} was durable", scanned.end))
            }
            None => None,
        })
    }
}

/// What the reader may read.
#[derive(Default)]
struct Readable {
    records: Mutex<VecDeque<RecordPosition>>,
    over: AtomicBool,
}

impl Readable {
    fn lock(&self) -> MutexGuard<'_, VecDeque<RecordPosition>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, positions: impl Iterator<Item = RecordPosition>) {
        let mut records = self.lock();
        records.extend(positions);
        let more = records.len().saturating_sub(READABLE_MAX);
        records.drain(..more);
    }
}

/// One record after the other, spread over what there is.
fn read(wal: &Wal, readable: &Readable) -> Result<Histogram<u64>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let mut histogram = histogram_us();
    let mut turn = 0usize;
    while !readable.over.load(Ordering::Relaxed) {
        turn = turn.wrapping_add(7919);
        let position = {
            let records = readable.lock();
            (!records.is_empty()).then(|| records[turn % records.len()])
        };
        let Some(position) = position else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let begun = Instant::now();
        match runtime.block_on(wal.read(position, HEADER)) {
            Ok(_) => histogram.saturating_record((begun.elapsed().as_micros() as u64).max(1)),
            Err(WalError::Trimmed { .. }) => {}
            Err(error) => bail!("read back: {error}"),
        }
    }
    Ok(histogram)
}

fn source() -> Bytes {
    let mut bytes = Vec::with_capacity(SOURCE_BYTES);
    let mut word = 0x9e37_79b9_7f4a_7c15u64;
    while bytes.len() < SOURCE_BYTES {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.into()
}
