//! How many appends per second does one WAL carry, at which latency, CPU and allocations, with N appenders that each wait
//! for their acknowledgement? append/size=1KiB/appenders=1,16,64
//!
//! `cargo run --release -p seawall-wal-device --example wal_append -- [--path FILE] [--appenders N]... [--bytes N]
//! [--seconds N] [--engine auto|pwrite] [--frames N] [--pipeline BYTES]`. The file is created and removed.

#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use seawall_wal_device::{
    EngineChoice, Expectation, FormatConfig, RecordHeader, ScanFrom, Segments, SpaceClass, WalConfig,
};
use tokio::sync::Notify;
use uuid::Uuid;

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

#[derive(Debug, Clone)]
pub struct Options {
    pub path: PathBuf,
    pub appenders: Vec<usize>,
    pub bytes: usize,
    pub time: Duration,
    pub engine: EngineChoice,
    pub ring_bytes: u64,
    pub frames_in_flight_max: Option<u32>,
    pub pipeline_bytes: Option<u32>,
}

#[derive(Debug)]
pub struct Measured {
    pub appenders: usize,
    pub appends: u64,
    pub per_second: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub cpu_us_per_append: f64,
    /// In the whole process, after a warm-up.
    pub allocations_per_append: f64,
    /// What recovery read afterwards, and how long that took, the search behind the end included.
    pub scanned_bytes: u64,
    pub scanned_records: usize,
    pub scan: Duration,
}

/// One run for each number of appenders.
pub fn measure(options: &Options) -> Vec<Measured> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut all = Vec::new();
        for &appenders in &options.appenders {
            all.push(measure_one(options, appenders).await);
        }
        all
    })
}

struct Appender {
    acknowledged: Notify,
}

async fn measure_one(options: &Options, appenders: usize) -> Measured {
    let path = &options.path;
    let _ = std::fs::remove_file(path);
    seawall_wal_device::format(&FormatConfig::new(path, options.ring_bytes, 1)).unwrap();
    let mut config = WalConfig { engine: options.engine, ..WalConfig::new(path) };
    config.frames_in_flight_max = options.frames_in_flight_max.unwrap_or(config.frames_in_flight_max);
    config.pipeline_bytes = options.pipeline_bytes.unwrap_or(config.pipeline_bytes);
    let scanned = seawall_wal_device::scan(&config, &Expectation::default(), ScanFrom::default()).unwrap();
    let (wal, mut completions) = scanned.open(1, (Uuid::nil(), Uuid::nil())).unwrap();
    println!("# {}", wal.durability());

    let everyone: Arc<Vec<Appender>> =
        Arc::new((0..appenders).map(|_| Appender { acknowledged: Notify::new() }).collect());
    let stop = Arc::new(AtomicBool::new(false));
    let measuring = Arc::new(AtomicBool::new(false));
    let payload = Bytes::from(vec![0x5a; options.bytes]);
    let mut tasks = Vec::new();
    for i in 0..appenders {
        let (wal, everyone, stop, measuring) = (wal.clone(), everyone.clone(), stop.clone(), measuring.clone());
        let payload = payload.clone();
        tasks.push(tokio::spawn(async move {
            let header = RecordHeader { stream: i as u64, leader_epoch: 1, base_offset: 0, last_offset: 0 };
            let mut latencies = Histogram::new();
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                let reservation = loop {
                    let freed = wal.space_freed();
                    match wal.reserve(payload.len() as u64, SpaceClass::Normal) {
                        Ok(reservation) => break reservation,
                        Err(_) => freed.await,
                    }
                };
                wal.append(reservation, header, Segments::from(payload.clone()), i as u64);
                everyone[i].acknowledged.notified().await;
                if measuring.load(Ordering::Relaxed) {
                    latencies.add(start.elapsed());
                }
            }
            latencies
        }));
    }
    let consumer = {
        let (wal, everyone) = (wal.clone(), everyone.clone());
        tokio::spawn(async move {
            let mut trim = seawall_wal_device::Lsn(0);
            while let Some(durable) = completions.next().await {
                for record in &durable.records {
                    everyone[record.token as usize].acknowledged.notify_one();
                }
                if wal.usage().used_bytes > wal.usage().ring_bytes / 2 {
                    trim = wal.usage().durable;
                    wal.trim(trim);
                }
                completions.recycle(durable);
            }
            trim
        })
    };

    tokio::time::sleep(options.time / 4).await;
    let (cpu, allocations, start) = (cpu_time(), ALLOCATIONS.load(Ordering::Relaxed), Instant::now());
    measuring.store(true, Ordering::Relaxed);
    tokio::time::sleep(options.time).await;
    measuring.store(false, Ordering::Relaxed);
    let (cpu, allocations, took) =
        (cpu_time() - cpu, ALLOCATIONS.load(Ordering::Relaxed) - allocations, start.elapsed());
    stop.store(true, Ordering::Relaxed);
    let mut all = Histogram::new();
    for task in tasks {
        all.merge(&task.await.unwrap());
    }
    wal.close().await.unwrap();
    let last_trim = consumer.await.unwrap();
    let scan = Instant::now();
    let scanned =
        seawall_wal_device::scan(&config, &Expectation::default(), ScanFrom { trim: last_trim, opened_at: Vec::new() });
    let (scan, scanned) = (scan.elapsed(), scanned.unwrap());
    assert!(scanned.damage.is_none() && scanned.clean_shutdown);
    std::fs::remove_file(path).unwrap();
    Measured {
        scanned_bytes: scanned.end.0 - scanned.trim.0,
        scanned_records: scanned.records.len(),
        scan,
        appenders,
        appends: all.count,
        per_second: all.count as f64 / took.as_secs_f64(),
        p50_us: all.quantile(0.5),
        p99_us: all.quantile(0.99),
        cpu_us_per_append: cpu.as_secs_f64() * 1e6 / all.count.max(1) as f64,
        allocations_per_append: allocations as f64 / all.count.max(1) as f64,
    }
}

/// User and system time of the process, the kernel's I/O workers for it included.
fn cpu_time() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let of = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec() as u64) + Duration::from_micros(time.tv_usec() as u64)
    };
    of(usage.user_time()) + of(usage.system_time())
}

/// Counts per microsecond up to 100 ms, then one bucket: nothing is allocated while measuring.
struct Histogram {
    buckets: Vec<u32>,
    count: u64,
}

impl Histogram {
    fn new() -> Self {
        Self { buckets: vec![0; 100_000], count: 0 }
    }

    fn add(&mut self, time: Duration) {
        let at = (time.as_micros() as usize).min(self.buckets.len() - 1);
        self.buckets[at] += 1;
        self.count += 1;
    }

    fn merge(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(mine, theirs)| *mine += theirs);
        self.count += other.count;
    }

    fn quantile(&self, q: f64) -> u64 {
        let mut left = (self.count as f64 * q) as u64;
        for (us, &count) in self.buckets.iter().enumerate() {
            if u64::from(count) > left {
                return us as u64;
            }
            left -= u64::from(count);
        }
        self.buckets.len() as u64
    }
}

#[allow(dead_code)]
fn main() {
    let mut options = Options {
        path: std::env::temp_dir().join("wal_append.wal"),
        appenders: Vec::new(),
        bytes: 1024,
        time: Duration::from_secs(3),
        engine: EngineChoice::Auto,
        ring_bytes: 256 << 20,
        frames_in_flight_max: None,
        pipeline_bytes: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            "--path" => options.path = value.into(),
            "--appenders" => options.appenders.push(value.parse().unwrap()),
            "--bytes" => options.bytes = value.parse().unwrap(),
            "--seconds" => options.time = Duration::from_secs_f64(value.parse().unwrap()),
            "--engine" if value == "pwrite" => options.engine = EngineChoice::Pwrite,
            "--engine" => options.engine = EngineChoice::Auto,
            "--frames" => options.frames_in_flight_max = Some(value.parse().unwrap()),
            "--pipeline" => options.pipeline_bytes = Some(value.parse().unwrap()),
            _ => panic!("unknown option {name}"),
        }
    }
    if options.appenders.is_empty() {
        options.appenders = vec![1, 16, 64];
    }
    for m in measure(&options) {
        println!(
            "appenders={} bytes={} appends/s={:.0} p50={}us p99={}us cpu={:.2}us/append allocations={:.3}/append",
            m.appenders, options.bytes, m.per_second, m.p50_us, m.p99_us, m.cpu_us_per_append, m.allocations_per_append
        );
        println!("  scan of {} MiB, {} records: {} ms", m.scanned_bytes >> 20, m.scanned_records, m.scan.as_millis());
    }
}
