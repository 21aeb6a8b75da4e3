//! CPU, allocations and time of a stretch of a run.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::histogram::Histogram;
use super::observed::Writes;
use super::{ALLOCATIONS, Measured};

pub struct Meter {
    begun: Instant,
    cpu: Duration,
    busy: Duration,
    allocations: u64,
}

impl Meter {
    pub fn start() -> Self {
        let (cpu, busy) = (cpu_time(), machine_busy());
        Self { cpu, busy, allocations: ALLOCATIONS.load(Ordering::Relaxed), begun: Instant::now() }
    }

    pub fn stop(self) -> Stretch {
        let time = self.begun.elapsed();
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - self.allocations;
        Stretch { time, cpu: cpu_time() - self.cpu, busy: machine_busy().saturating_sub(self.busy), allocations }
    }
}

pub struct Stretch {
    time: Duration,
    cpu: Duration,
    busy: Duration,
    allocations: u64,
}

impl Stretch {
    /// What stands beside the figures of the stretch is left for the caller.
    pub fn measured(&self, appenders: usize, bytes: usize, latencies: &Histogram, writes: &Writes) -> Measured {
        let appends = latencies.count();
        let per_append = |time: Duration| time.as_secs_f64() * 1e6 / appends.max(1) as f64;
        Measured {
            appenders,
            bytes,
            durability: String::new(),
            appends,
            seconds: self.time.as_secs_f64(),
            p50_us: latencies.quantile(0.5),
            p99_us: latencies.quantile(0.99),
            cpu_us_per_append: per_append(self.cpu),
            busy_us_per_append: per_append(self.busy),
            copy_crc_us: 0.0,
            allocations_per_append: self.allocations as f64 / appends.max(1) as f64,
            device_writes: writes.latency.count(),
            device_bytes: writes.bytes,
            depth: writes.sum_us as f64 / self.time.as_micros().max(1) as f64,
            device_p50_us: writes.latency.quantile(0.5),
            device_p99_us: writes.latency.quantile(0.99),
            rss_bytes: rss_bytes(),
            recovered_records: 0,
        }
    }
}

fn cpu_time() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let of = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec() as u64) + Duration::from_micros(time.tv_usec() as u64)
    };
    of(usage.user_time()) + of(usage.system_time())
}

/// All but idle, I/O wait and what the host took.
fn machine_busy() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<u64> = stat.lines().next().unwrap_or_default().split_whitespace().flat_map(str::parse).collect();
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|&i| ticks.get(i)).sum();
    Duration::from_millis(busy * 10)
}

fn rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}
