//! The WAL on real block devices of this kernel that lose power, fail, and lose their process.
//!
//! A cut takes what a power cut would leave of the device at that moment and judges that image by what was known outside
//! just before. `WAL_CUTS` (200) says how many, `WAL_SEED` which; a failure prints both. Needs root.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use seawall_qualify::fault_disk::{FaultDisk, Operation, possible};
use seawall_qualify::wal_ledger::{Known, RECORD_BYTES_MAX, Writers, config, recover, recover_legs};
use seawall_wal_device::{
    EngineChoice, Expectation, Fault, Faults, FormatConfig, LegSet, LegState, OpenError, ScanError, ScanFrom,
    WalConfig, format, scan,
};
use tempfile::TempDir;

const CUTS: u64 = 200;
const KILLS: u64 = 30;
const RING_BYTES: u64 = 16 << 20;
const DISK_BYTES: u64 = RING_BYTES + (1 << 20);
/// The device goes on from the image of every so manieth cut.
const CUTS_PER_LIFE: u64 = 10;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// Images are many and short-lived: in memory where that is possible.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory } else { Path::new("/var/tmp") };
    tempfile::Builder::new().prefix("seawall-wal-").tempdir_in(base).unwrap()
}

fn format_device(path: &Path) {
    let format_config = FormatConfig { overwrite: true, ..FormatConfig::new(path, RING_BYTES, 1) };
    format(&format_config).unwrap();
}

/// A WAL on a faulty disk, with writers on it.
struct Host {
    // Dropped in this order: nobody may hold the disk when it goes, nor the disk its folder.
    writers: Option<Writers>,
    disk: FaultDisk,
    folder: TempDir,
    lives: u64,
    adjust: fn(WalConfig, u64) -> WalConfig,
}

/// By turns io_uring and pwritev2.
fn engines_by_turns(config: WalConfig, life: u64) -> WalConfig {
    let engine = if life.is_multiple_of(2) { EngineChoice::Auto } else { EngineChoice::Pwrite };
    WalConfig { engine, ..config }
}

impl Host {
    fn new(adjust: fn(WalConfig, u64) -> WalConfig) -> Self {
        let folder = folder();
        let disk = FaultDisk::create(&folder.path().join("disk.0"), DISK_BYTES).unwrap();
        format_device(disk.device());
        let mut host = Self { folder, lives: 0, disk, writers: None, adjust };
        host.start(&Known::default()).unwrap();
        host
    }

    fn start(&mut self, known: &Known) -> Result<()> {
        let config = (self.adjust)(config(self.disk.device()), self.lives);
        let found = recover(&config, known)?;
        self.writers = Some(Writers::start(found, known, Box::new(|_| ()))?);
        Ok(())
    }

    fn writers(&self) -> &Writers {
        self.writers.as_ref().unwrap()
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// What a power cut leaves, what was known when it came, and how many sectors it took.
    fn cut(&self, seed: u64) -> Result<(Known, u64)> {
        let ledger = self.writers().ledger();
        let left = self.disk.power_cut(seed, &self.image())?;
        Ok((ledger.known.clone(), left.sectors_lost))
    }

    /// The next life, on a device that holds what the cut left.
    fn live_on(&mut self, known: &Known) -> Result<()> {
        self.writers = None;
        self.lives += 1;
        let next = self.folder.path().join(format!("disk.{}", self.lives));
        self.disk = FaultDisk::from_image(&next, &self.image())?;
        std::fs::remove_dir_all(self.folder.path().join(format!("disk.{}", self.lives - 1)))?;
        self.start(known)
    }
}

#[derive(Debug, Default)]
struct Summary {
    cuts: u64,
    lives: u64,
    sectors_lost: u64,
    acked: u64,
    recovered: u64,
}

fn power_cuts(cuts: u64, seed: u64, adjust: fn(WalConfig, u64) -> WalConfig) -> Result<Summary> {
    let mut host = Host::new(adjust);
    let mut summary = Summary::default();
    for cut in 1..=cuts {
        let cut_seed = seed.wrapping_mul(1_000_003).wrapping_add(cut);
        std::thread::sleep(Duration::from_millis(5 + cut_seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 60));
        let (known, sectors_lost) = host.cut(cut_seed)?;
        let found = recover(&config(&host.image()), &known).with_context(|| format!("cut {cut}, known: {known}"))?;
        summary.cuts += 1;
        summary.sectors_lost += sectors_lost;
        summary.acked = known.acked;
        summary.recovered += found.scanned.records.len() as u64;
        drop(found);
        if cut % CUTS_PER_LIFE == 0 {
            host.live_on(&known).with_context(|| format!("life after cut {cut}, known: {known}"))?;
            summary.lives += 1;
        }
    }
    let failed = host.writers().ledger().failed.clone();
    ensure!(failed.is_none(), "the WAL failed by itself: {failed:?}");
    Ok(summary)
}

#[test]
fn what_was_acknowledged_survives_every_power_cut_of_the_raw_device() {
    if !possible() {
        return;
    }
    let (cuts, seed) = (number("WAL_CUTS").unwrap_or(CUTS), number("WAL_SEED").unwrap_or(1));
    println!("WAL_CUTS={cuts} WAL_SEED={seed}");
    let began = Instant::now();
    let summary = power_cuts(cuts, seed, engines_by_turns).unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
    println!("{summary:?} in {:.1} s", began.elapsed().as_secs_f64());
    assert!(summary.sectors_lost > 0 && summary.recovered > summary.cuts && summary.acked > cuts, "{summary:?}");
}

/// The checker can fail.
#[test]
fn a_wal_that_skips_the_flush_or_acks_early_is_caught_by_a_power_cut() {
    if !possible() {
        return;
    }
    let skip: fn(WalConfig, u64) -> WalConfig =
        |config, _| WalConfig { faults: Faults::default().with(Fault::SkipFlush), ..config };
    let early: fn(WalConfig, u64) -> WalConfig =
        |config, _| WalConfig { faults: Faults::default().with(Fault::AckEarly), ..config };
    for (name, adjust) in [("skip-flush", skip), ("ack-early", early)] {
        let found = power_cuts(50, 1, adjust).err().unwrap_or_else(|| panic!("{name} was not caught"));
        println!("{name}: {found:#}");
    }
}

/// Lets writers work, makes the next of `operation` fail, and expects an end without a loss.
fn an_error_ends_it(operation: Operation) {
    if !possible() {
        return;
    }
    for (life, good) in [(0, 0), (1, 0), (0, 7), (1, 30)] {
        let adjust: fn(WalConfig, u64) -> WalConfig =
            if life == 0 { |c, _| engines_by_turns(c, 0) } else { |c, _| engines_by_turns(c, 1) };
        let host = Host::new(adjust);
        std::thread::sleep(Duration::from_millis(50));
        host.disk.fail_after(operation, good, 1);
        assert!(host.writers().wait_for_failure(), "no end after a failed {operation:?}");
        let acked = host.writers().ledger().known.acked;
        // What was acknowledged is still served, and nothing more is acknowledged.
        let read = host.writers().read_all().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(host.writers().ledger().known.acked, acked, "acknowledged after the end");
        for seed in 0..5 {
            let (known, _) = host.cut(seed).unwrap();
            recover(&config(&host.image()), &known).unwrap_or_else(|e| panic!("{operation:?}, seed {seed}: {e:#}"));
        }
        println!("{operation:?} after {good}: {acked} acked, {read} read back");
    }
}

#[test]
fn a_failed_write_ends_the_wal_and_loses_nothing_that_was_acknowledged() {
    an_error_ends_it(Operation::Write);
}

#[test]
fn a_failed_flush_ends_the_wal_and_loses_nothing_that_was_acknowledged() {
    an_error_ends_it(Operation::Flush);
}

#[test]
fn a_read_that_fails_once_is_repeated_by_recovery_and_one_that_always_fails_is_reported() {
    if !possible() {
        return;
    }
    let host = Host::new(engines_by_turns);
    std::thread::sleep(Duration::from_millis(200));
    let (known, _) = host.cut(1).unwrap();
    let disk = FaultDisk::from_image(&host.folder.path().join("cut"), &host.image()).unwrap();
    let whole = recover(&config(disk.device()), &known).unwrap();
    let (records, next) = (whole.scanned.records.clone(), whole.next);
    drop(whole);
    for good in [0, 1, 2, 3, 5, 8, 13] {
        disk.fail_after(Operation::Read, good, 1);
        let again = recover(&config(disk.device()), &known).or_else(|error| {
            // The look at what lies on the device, before anything of the log is read, does not try twice.
            let refused = error.downcast_ref::<ScanError>();
            assert!(matches!(refused, Some(ScanError::Open(OpenError::Io { .. }))), "error after {good}: {error:#}");
            recover(&config(disk.device()), &known)
        });
        let again = again.unwrap_or_else(|error| panic!("error after {good} reads: {error:#}"));
        disk.fail_no_more();
        assert_eq!((&again.scanned.records, again.next), (&records, next), "error after {good} reads");
    }
    let spoilt = records[records.len() / 2].position;
    disk.make_unreadable((64 << 10) + spoilt.lsn.0 % RING_BYTES);
    let from = ScanFrom { trim: known.trim, opened_at: known.opened_at.clone(), ..ScanFrom::default() };
    let scanned = scan(&config(disk.device()), &Expectation::default(), from).unwrap();
    let damage = scanned.damage.expect("an unreadable frame is never a tail");
    assert_eq!(damage.at, spoilt.frame(), "{damage}");
    println!("{damage}");
}

/// Two disks lose power together, then one of them fails for good.
#[test]
fn a_mirror_survives_power_cuts_and_the_failure_of_a_disk() {
    if !possible() {
        return;
    }
    let folder = folder();
    let disks = ["a", "b"].map(|name| FaultDisk::create(&folder.path().join(name), DISK_BYTES).unwrap());
    let [a, b] = &disks;
    let mirror = Some(b.device().to_owned());
    format(&FormatConfig { mirror: mirror.clone(), overwrite: true, ..FormatConfig::new(a.device(), RING_BYTES, 1) })
        .unwrap();
    let both = WalConfig { mirror, ..config(a.device()) };
    let found = recover_legs(&both, &Known::default(), None).unwrap();
    let legs: Vec<_> = found.scanned.legs.iter().map(|leg| leg.leg).collect();
    let set = |epoch, legs: &[_]| Some(LegSet { epoch, legs: legs.to_vec() });
    let writers = Writers::start(found, &Known::default(), Box::new(|_| ())).unwrap();
    let images = ["image.a", "image.b"].map(|name| folder.path().join(name));
    let of_images = WalConfig { mirror: Some(images[1].clone()), ..config(&images[0]) };
    let cut = |seed: u64| {
        let ledger = writers.ledger();
        a.power_cut(2 * seed, &images[0]).unwrap();
        b.power_cut(2 * seed + 1, &images[1]).unwrap();
        ledger.known.clone()
    };
    for seed in 0..20 {
        std::thread::sleep(Duration::from_millis(20));
        let known = cut(seed);
        // Both are written one after the other here, so that the second one may hold more than the first.
        recover_legs(&of_images, &known, set(1, &legs)).unwrap_or_else(|e| panic!("cut {seed}, {known}: {e:#}"));
        // What was acknowledged lies on each.
        let alone = recover_legs(&config(&images[1]), &known, set(2, &legs[1..]));
        alone.unwrap_or_else(|e| panic!("cut {seed}, second leg alone, {known}: {e:#}"));
    }
    b.fail_next(Operation::Write, u32::MAX);
    let failed = || writers.wal().status().legs.iter().any(|leg| matches!(leg.state, LegState::Failed(_)));
    let deadline = Instant::now() + Duration::from_secs(10);
    while !failed() {
        assert!(Instant::now() < deadline, "a leg that cannot be written is not told");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(50));
    let held = writers.ledger().known.acked;
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(writers.ledger().known.acked, held, "acknowledged while a leg had failed and was not dropped");
    writers.wal().drop_leg(legs[1], 2);
    let deadline = Instant::now() + Duration::from_secs(10);
    while writers.ledger().known.acked < held + 100 {
        assert!(Instant::now() < deadline, "nothing is acknowledged after the drop");
        std::thread::sleep(Duration::from_millis(5));
    }
    let known = cut(100);
    recover_legs(&config(&images[0]), &known, set(2, &legs[..1])).unwrap();
    let stale = recover_legs(&config(&images[1]), &known, set(2, &legs[..1]));
    println!("{} acked, held at {held}; {:#}", known.acked, stale.err().expect("a stale leg is refused"));
    drop(writers);
}

/// A plain loop device over a file of this machine's file system; gone when dropped.
struct LoopDevice {
    path: PathBuf,
    _folder: TempDir,
}

impl LoopDevice {
    fn attach() -> Self {
        let folder = tempfile::Builder::new().prefix("seawall-wal-").tempdir_in("/var/tmp").unwrap();
        let file = folder.path().join("device");
        File::create(&file).unwrap().set_len(DISK_BYTES).unwrap();
        let mut losetup = Command::new("losetup");
        let output =
            losetup.args(["--find", "--show", "--direct-io=on", "--sector-size=4096"]).arg(&file).output().unwrap();
        assert!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
        Self { path: String::from_utf8(output.stdout).unwrap().trim().into(), _folder: folder }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

#[test]
fn what_was_acknowledged_survives_the_death_of_the_process_on_a_loop_device() {
    if !possible() {
        return;
    }
    let kills = number("WAL_KILLS").unwrap_or(KILLS);
    let device = LoopDevice::attach();
    format_device(&device.path);
    let mut known = Known::default();
    let mut records = 0;
    for kill in 0..kills {
        let life = Duration::from_millis(30 + kill * 7919 % 120);
        known = run_and_kill(&device.path, &known, life).unwrap_or_else(|error| panic!("kill {kill}: {error:#}"));
        let found = recover(&config(&device.path), &known).unwrap_or_else(|e| panic!("kill {kill}, {known}: {e:#}"));
        records += found.scanned.records.len();
    }
    println!("{kills} kills, {} acked, {records} recovered", known.acked);
    assert!(known.acked > kills, "the writers got somewhere: {known}");
}

/// One life of the ledger program, ended by SIGKILL after its first ack and `life`; the last that it told.
fn run_and_kill(device: &Path, known: &Known, life: Duration) -> Result<Known> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_seawall-wal-ledger"))
        .arg(device)
        .arg(known.to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let last = Arc::new(Mutex::new(None::<Known>));
    let mut out = BufReader::new(child.stdout.take().context("it has an output")?);
    let told = last.clone();
    let reader = std::thread::spawn(move || -> Result<()> {
        let mut line = String::new();
        // A line that the kill cut off says nothing.
        while out.read_line(&mut line)? > 0 && line.ends_with('\n') {
            *told.lock().unwrap() = Some(line.parse()?);
            line.clear();
        }
        Ok(())
    });
    let deadline = Instant::now() + Duration::from_secs(30);
    let started = |known: &Option<Known>| known.as_ref().is_some_and(|known| !known.opened_at.is_empty());
    while !started(&last.lock().unwrap()) && Instant::now() < deadline && child.try_wait()?.is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(life);
    child.kill()?;
    child.wait()?;
    reader.join().expect("the reader does not panic")?;
    let known = last.lock().unwrap().take();
    known.context("it told nothing before it ended")
}

#[test]
fn what_is_known_survives_its_line() {
    let known =
        Known { trim: seawall_wal_device::Lsn(4096), first: 3, acked: 9, opened_at: vec![(1, Default::default())] };
    assert_eq!(known.to_string().parse::<Known>().unwrap(), known);
    assert_eq!(Known::default().to_string().parse::<Known>().unwrap(), Known::default());
    assert!(u64::from(RECORD_BYTES_MAX) * 4 < RING_BYTES);
}
