//! What the machine says: CPU times, memory, page cache, the speed of its disk, and the conditions of a run.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::process;

/// USER_HZ, which every Linux of today shows to user space as 100.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds of the whole machine; kernel threads count.
#[derive(Debug, Clone, Copy)]
pub struct CpuTimes {
    pub busy: f64,
    pub idle: f64,
}

impl CpuTimes {
    /// Busy is the time that was neither idle nor stolen. The kernel counts idle time exactly; the other columns are samples
    /// of its tick, which work that begins with a timer and is short always misses.
    pub fn read() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let now = now_s();
        let cpus = stat.lines().skip(1).take_while(|line| line.starts_with("cpu")).count();
        let line = stat.lines().next().context("/proc/stat is empty")?;
        let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        ensure!(ticks.len() >= 8 && cpus > 0, "/proc/stat has no CPU line");
        // user nice system idle iowait irq softirq steal
        let [idle, stolen] = [ticks[3] + ticks[4], ticks[7]].map(|ticks| ticks / TICKS_PER_SECOND);
        Ok(Self { busy: now * cpus as f64 - idle - stolen, idle })
    }

    pub fn since(&self, before: &Self) -> Self {
        Self { busy: self.busy - before.busy, idle: self.idle - before.idle }
    }

    pub fn idle_share(&self) -> f64 {
        self.idle / (self.busy + self.idle).max(f64::MIN_POSITIVE)
    }
}

/// Seconds since some start.
fn now_s() -> f64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}

/// CPU seconds of all children that have been waited for.
pub fn children_cpu() -> Result<f64> {
    let fields = stat_fields("self")?;
    Ok((fields[13].parse::<f64>()? + fields[14].parse::<f64>()?) / TICKS_PER_SECOND)
}

/// CPU seconds of a process, without its children and without kernel threads that work for it.
pub fn process_cpu(pid: u32) -> Result<f64> {
    let fields = stat_fields(&pid.to_string())?;
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / TICKS_PER_SECOND)
}

/// The fields of /proc/PID/stat behind the name, so that the third of `man 5 proc` is the first.
fn stat_fields(process: &str) -> Result<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<String> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().map(str::to_owned).collect();
    ensure!(fields.len() > 20, "/proc/{process}/stat is short");
    Ok(fields)
}

/// Resident memory of a process now, in MiB.
pub fn rss_mib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no VmRSS")?.parse()?;
    Ok(kib / 1024.0)
}

/// What of the files below a folder is in the page cache, in MiB.
pub fn page_cache_mib(folder: &Path) -> Result<f64> {
    let mut find = Command::new("find");
    find.arg(folder).args(["-type", "f", "-exec", "fincore", "--bytes", "--noheadings", "--output", "RES", "{}", "+"]);
    // Files that are deleted meanwhile are no failure.
    let finished = process::capture(&mut find, Vec::new(), Duration::from_secs(60))?;
    let bytes: f64 = finished.stdout.lines().filter_map(|line| line.trim().parse::<f64>().ok()).sum();
    Ok(bytes / (1 << 20) as f64)
}

/// Writes back what is dirty, so that one load does not pay for another.
pub fn sync() -> Result<()> {
    process::capture(&mut Command::new("sync"), Vec::new(), Duration::from_secs(120))?.stdout_if_success("sync")?;
    Ok(())
}

/// Waits until the machine has nothing to do: deletions and uploads of the last load would be charged to the next one.
/// False when it has not come to rest in time.
pub fn settle(time_max: Duration) -> Result<bool> {
    const QUIET: f64 = 0.96;
    let end = Instant::now() + time_max;
    while Instant::now() < end {
        let before = CpuTimes::read()?;
        std::thread::sleep(Duration::from_millis(400));
        if CpuTimes::read()?.since(&before).idle_share() >= QUIET {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Free space of the disk under a folder, in GiB.
pub fn free_gib(folder: &Path) -> Result<f64> {
    let mut df = Command::new("df");
    df.args(["--output=avail", "--block-size=1M"]).arg(folder);
    let text = process::capture(&mut df, Vec::new(), Duration::from_secs(10))?.stdout_if_success("df")?;
    let mib: f64 = text.lines().nth(1).context("df says nothing")?.trim().parse()?;
    Ok(mib / 1024.0)
}

/// Commit, load average and the speed of the disk: what stands above every table.
pub fn conditions() -> Result<String> {
    let commit = process::capture(
        Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(crate::root()),
        Vec::new(),
        Duration::from_secs(10),
    )?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    let cores = std::thread::available_parallelism()?;
    Ok(format!(
        "commit {}, {cores} cores, load average {}, synced 4 KiB write p50 {:.0} us",
        commit.stdout.trim(),
        load.join(" "),
        synced_write_p50_us()?
    ))
}

/// p50 of 4 KiB written with O_DSYNC on the disk of the brokers' folders, in microseconds.
pub fn synced_write_p50_us() -> Result<f64> {
    let folder = Scratch::new("synced")?;
    let path = folder.path().join("synced");
    File::create(&path)?.write_all(&vec![0u8; 4 << 20])?;
    // O_DSYNC has this value on every Linux architecture that Rust builds the broker for.
    let file = OpenOptions::new().write(true).custom_flags(0o10000).open(&path)?;
    let mut times: Vec<f64> = Vec::new();
    for n in 0..200u64 {
        let begun = Instant::now();
        file.write_all_at(&[1u8; 4096], (n * 4096) % (4 << 20))?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(times))
}

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().filter(|value| !value.is_nan()).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// A folder that goes away with its owner, on the disk where the brokers' folders are.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(what: &str) -> Result<Self> {
        let folder = PathBuf::from(format!("/var/tmp/seawall-bench-{what}-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median([]).is_nan());
    }

    #[test]
    fn the_machine_answers() {
        let before = CpuTimes::read().unwrap();
        let own = std::process::id();
        assert!(rss_mib(own).unwrap() > 0.1);
        assert!(process_cpu(own).unwrap() >= 0.0 && children_cpu().unwrap() >= 0.0);
        let share = CpuTimes::read().unwrap().since(&before).idle_share();
        assert!((0.0..=1.0).contains(&share), "{share}");
        assert!(free_gib(Path::new("/var/tmp")).unwrap() > 0.0);
    }
}
