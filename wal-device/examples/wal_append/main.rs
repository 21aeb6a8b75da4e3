//! How many appends per second does one WAL carry, at which latency, CPU and allocations, with N appenders that each wait
//! for their acknowledgement? And what did the device get for it: writes, bytes, depth, latency. append/size=1KiB/appenders=64
//!
//! `cargo run --release -p seawall-wal-device --example wal_append -- --path PATH [--appenders N]... [--bytes N]
//! [--seconds N] [--warmup N] [--ring-bytes N] [--form slots|tasks|scan] [--engine auto|pwrite] [--frames N]
//! [--pipeline BYTES]`; prints a line of JSON for each run. **What was at PATH is gone**: a block device or a file, it is
//! formatted for each run. A file is left there.
//!
//! `slots`: all appenders are slots of one thread, which appends again as soon as it hears that a record is durable, as fio
//! does with its depth. `tasks`: each is a task of a runtime with two threads, which costs a wake-up more. `scan`: fills the
//! ring and measures recovery instead.

#![allow(clippy::unwrap_used)]

mod copy;
mod histogram;
mod meter;
mod observed;
mod recovery;
mod slots;
mod tasks;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use seawall_wal_device::device::file::{Access, DeviceFile};
use seawall_wal_device::{
    Completions, EngineChoice, Expectation, FormatConfig, RecordHeader, ScanFrom, Segments, SpaceClass, Wal, WalConfig,
};
use uuid::Uuid;

use observed::{Observed, Observer};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is passed on to the system allocator; the count changes nothing of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, bytes: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(bytes, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// No cache holds what the payloads are cut from.
const SOURCE_BYTES: usize = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Slots,
    Tasks,
    Scan,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub path: PathBuf,
    pub appenders: Vec<usize>,
    pub bytes: usize,
    pub time: Duration,
    pub warmup: Duration,
    pub form: Form,
    pub engine: EngineChoice,
    pub ring_bytes: u64,
    pub frames_in_flight_max: Option<u32>,
    pub pipeline_bytes: Option<u32>,
}

impl Options {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            appenders: Vec::new(),
            bytes: 1024,
            time: Duration::from_secs(3),
            warmup: Duration::from_secs(1),
            form: Form::Slots,
            engine: EngineChoice::Auto,
            ring_bytes: 256 << 20,
            frames_in_flight_max: None,
            pipeline_bytes: None,
        }
    }

    fn config(&self) -> WalConfig {
        let config = WalConfig { engine: self.engine, ..WalConfig::new(&self.path) };
        WalConfig {
            frames_in_flight_max: self.frames_in_flight_max.unwrap_or(config.frames_in_flight_max),
            pipeline_bytes: self.pipeline_bytes.unwrap_or(config.pipeline_bytes),
            ..config
        }
    }
}

/// What one run measured.
#[derive(Debug)]
pub struct Measured {
    pub appenders: usize,
    pub bytes: usize,
    pub durability: String,
    pub appends: u64,
    pub seconds: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    /// User and system time of the process, the kernel's I/O workers for it included.
    pub cpu_us_per_append: f64,
    /// Busy time of the whole machine: kernel threads, and all others that ran.
    pub busy_us_per_append: f64,
    /// One copy and one CRC of the same bytes, in the same minute.
    pub copy_crc_us: f64,
    /// In the whole process, after a warm-up.
    pub allocations_per_append: f64,
    pub device_writes: u64,
    pub device_bytes: u64,
    /// Writes in flight, on average.
    pub depth: f64,
    pub device_p50_us: u64,
    pub device_p99_us: u64,
    pub rss_bytes: u64,
    /// After the run: what recovery returned, all checked.
    pub recovered_records: usize,
}

impl Measured {
    pub fn json(&self) -> String {
        format!(
            concat!(
                r#"{{"appenders":{},"bytes":{},"durability":{:?},"appends":{},"seconds":{:.6},"p50_us":{},"p99_us":{},"#,
                r#""cpu_us_per_append":{:.4},"busy_us_per_append":{:.4},"copy_crc_us":{:.4},"allocations_per_append":{:.6},"#,
                r#""device_writes":{},"device_bytes":{},"depth":{:.4},"device_p50_us":{},"device_p99_us":{},"rss_bytes":{},"#,
                r#""recovered_records":{}}}"#
            ),
            self.appenders,
            self.bytes,
            self.durability,
            self.appends,
            self.seconds,
            self.p50_us,
            self.p99_us,
            self.cpu_us_per_append,
            self.busy_us_per_append,
            self.copy_crc_us,
            self.allocations_per_append,
            self.device_writes,
            self.device_bytes,
            self.depth,
            self.device_p50_us,
            self.device_p99_us,
            self.rss_bytes,
            self.recovered_records,
        )
    }
}

/// A formatted and opened WAL, and what watches its device.
pub struct Opened {
    pub wal: Wal,
    pub completions: Completions,
    pub observer: Observer,
    pub config: WalConfig,
}

impl Opened {
    pub fn new(options: &Options) -> Self {
        let ring_bytes = (!is_device(&options.path)).then_some(options.ring_bytes);
        let format = FormatConfig { ring_bytes, overwrite: true, ..FormatConfig::new(&options.path, 0, 1) };
        seawall_wal_device::format(&format).unwrap();
        let config = options.config();
        let observer = Observer::default();
        let file = Arc::new(DeviceFile::open(&options.path, Access::Own).unwrap());
        let (bytes, with_uring) = (file.bytes, options.engine == EngineChoice::Auto);
        let threads = config.frames_in_flight_max as usize + 2;
        let device = Observed::new(file, with_uring, threads, observer.clone());
        let expect = Expectation::default();
        let scanned =
            seawall_wal_device::scan_on(Box::new(device), bytes, &config, &expect, ScanFrom::default()).unwrap();
        let (wal, completions) = scanned.open(1, (Uuid::nil(), Uuid::nil())).unwrap();
        Self { wal, completions, observer, config }
    }

    /// Everything that was not trimmed must be there after the end.
    pub fn recovered_records(config: &WalConfig, trim: seawall_wal_device::Lsn) -> usize {
        let from = ScanFrom { trim, ..ScanFrom::default() };
        let scanned = seawall_wal_device::scan(config, &Expectation::default(), from).unwrap();
        assert!(scanned.damage.is_none() && scanned.clean_shutdown);
        scanned.records.len()
    }
}

fn is_device(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// Pieces of a large source, one after the other.
pub struct Payloads {
    source: Bytes,
    at: usize,
}

impl Payloads {
    pub fn new(source: &Bytes, start: usize) -> Self {
        Self { source: source.clone(), at: start % source.len() }
    }

    pub fn next(&mut self, bytes: usize) -> Bytes {
        if self.at + bytes > self.source.len() {
            self.at = 0;
        }
        self.at += bytes;
        self.source.slice(self.at - bytes..self.at)
    }
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
    Bytes::from(bytes)
}

pub fn header(stream: usize) -> RecordHeader {
    RecordHeader { stream: stream as u64, leader_epoch: 1, base_offset: 0, last_offset: 0 }
}

/// The ring is half free at least, and far larger than what is in flight: a record always fits.
pub fn append(wal: &Wal, slot: usize, payload: Bytes) {
    let reservation = wal.reserve(payload.len() as u64, SpaceClass::Normal).unwrap();
    wal.append(reservation, header(slot), Segments::from(payload), slot as u64);
}

/// One run for each number of appenders.
pub fn measure(options: &Options) -> Vec<Measured> {
    let source = source();
    let run = |&appenders| match options.form {
        Form::Slots => slots::measure(options, appenders, &source),
        Form::Tasks | Form::Scan => tasks::measure(options, appenders, &source),
    };
    options.appenders.iter().map(run).collect()
}

#[allow(dead_code)]
fn main() {
    let mut options = Options::new(std::env::temp_dir().join("wal_append.wal"));
    let seconds = |value: &str| Duration::from_secs_f64(value.parse().unwrap());
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match (name.as_str(), value.as_str()) {
            ("--path", path) => options.path = path.into(),
            ("--appenders", n) => options.appenders.push(n.parse().unwrap()),
            ("--bytes", n) => options.bytes = n.parse().unwrap(),
            ("--seconds", n) => options.time = seconds(n),
            ("--warmup", n) => options.warmup = seconds(n),
            ("--ring-bytes", n) => options.ring_bytes = n.parse().unwrap(),
            ("--form", "slots") => options.form = Form::Slots,
            ("--form", "tasks") => options.form = Form::Tasks,
            ("--form", "scan") => options.form = Form::Scan,
            ("--engine", "pwrite") => options.engine = EngineChoice::Pwrite,
            ("--engine", "auto") => options.engine = EngineChoice::Auto,
            ("--frames", n) => options.frames_in_flight_max = Some(n.parse().unwrap()),
            ("--pipeline", n) => options.pipeline_bytes = Some(n.parse().unwrap()),
            _ => panic!("unknown option {name} {value}"),
        }
    }
    if options.form == Form::Scan {
        println!("{}", recovery::measure(&options, &source()).json());
        return;
    }
    if options.appenders.is_empty() {
        options.appenders = vec![1, 16, 64];
    }
    for measured in measure(&options) {
        println!("{}", measured.json());
    }
}
