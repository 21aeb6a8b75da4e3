//! Power cuts: WAL, metadata log and `fs` store lie together on a disk that forgets what was never flushed.
//!
//! A cut freezes the broker, takes what is on the medium plus a seeded part of the drive's cache, kills the broker and
//! gives the next one a disk with just that. What it had acked before the freeze must be there; the kernel replays the
//! journal of ext4 in between. `POWER_CUTS` (10) says how often.

use std::path::Path;
use std::time::{Duration, Instant};

use seawall_qualify::fault_disk::{FaultDisk, missing_tools};

use super::broker_process::{BrokerSetup, SmallSizes};
use super::ledger::{Random, summary};
use super::rounds::{Outcome, Rounds, crash_rounds};
use super::{broker_program, number, seed};

const CUTS: u64 = 10;
const DISK_BYTES: u64 = 1 << 30;

/// Root and tools are there; under `CI=true` a missing one is a failure, never a silent skip.
fn possible() -> bool {
    let missing = missing_tools();
    // SAFETY: a plain system call without arguments.
    let root = unsafe { libc::geteuid() } == 0;
    if root && missing.is_empty() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "needs root ({root}) and {missing:?}");
    eprintln!("left out: needs root and {missing:?}");
    false
}

/// Cuts the power under the broker's data folder, again and again.
struct PoweredHost<'a> {
    folder: &'a Path,
    data: std::path::PathBuf,
    disk: Option<FaultDisk>,
    random: Random,
    cuts: u64,
    sectors_lost: u64,
    flushes: u64,
    slowest_cut: Duration,
}

impl PoweredHost<'_> {
    fn disk_folder(&self, generation: u64) -> std::path::PathBuf {
        self.folder.join(format!("disk.{generation}"))
    }

    fn plug_in(&mut self) -> anyhow::Result<()> {
        let mut disk = FaultDisk::create(&self.disk_folder(0), DISK_BYTES)?;
        disk.make_ext4()?;
        disk.mount(&self.data)?;
        self.disk = Some(disk);
        Ok(())
    }

    fn cut(&mut self, broker: super::broker_process::BrokerProcess) -> anyhow::Result<()> {
        let began = Instant::now();
        // Nothing is acked from here on; what was acked before was flushed before.
        broker.freeze()?;
        let image = self.folder.join("image");
        let disk = self.disk.take().expect("a disk is plugged in");
        let left = disk.power_cut(self.random.next(), &image)?;
        broker.kill()?;
        drop(disk);
        std::fs::remove_dir_all(self.disk_folder(self.cuts))?;
        self.cuts += 1;
        self.sectors_lost += left.sectors_lost;
        self.flushes += left.flushes;
        let mut disk = FaultDisk::from_image(&self.disk_folder(self.cuts), &image)?;
        disk.mount(&self.data)?;
        self.disk = Some(disk);
        self.slowest_cut = self.slowest_cut.max(began.elapsed());
        Ok(())
    }
}

/// Cuts the power `cuts` times under a broker with `fault`, and says what was found.
fn power_cuts(cuts: u64, seed: u64, fault: Option<&str>) -> (Outcome, u64, String) {
    // Not in memory, so that direct I/O is possible.
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut setup = BrokerSetup::create(broker_program(), folder.path(), &SmallSizes::default()).unwrap();
    setup.fault = fault.map(str::to_owned);
    let mut host = PoweredHost {
        folder: folder.path(),
        data: setup.data(),
        disk: None,
        random: Random::new(seed ^ 0x70_77_72),
        cuts: 0,
        sectors_lost: 0,
        flushes: 0,
        slowest_cut: Duration::ZERO,
    };
    host.plug_in().unwrap();
    let life = (Duration::from_millis(300), Duration::from_millis(1_500));
    let rounds = Rounds { kills: cuts, seed, life, early_kill_every: 5, ..Rounds::default() };
    let outcome = crash_rounds(&setup, &rounds, |broker| {
        host.cut(broker).map_err(|error| format!("power cut: {error:#}")).inspect_err(|error| println!("{error}"))
    })
    .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    println!("{}", summary(&outcome.findings, cuts, seed));
    println!(
        "{} power cuts, {} flushes, {} sectors lost, slowest restart {:?}, slowest cut {:?}",
        host.cuts, host.flushes, host.sectors_lost, outcome.slowest_restart, host.slowest_cut
    );
    (outcome, host.sectors_lost, setup.log_tail())
}

#[test]
fn every_acked_record_survives_power_cuts_once_in_order_at_its_acked_offset() {
    if !possible() {
        return;
    }
    let (seed, cuts) = (seed(), number("POWER_CUTS").unwrap_or(CUTS));
    println!("CRASH_SEED={seed} POWER_CUTS={cuts}");
    let (outcome, sectors_lost, log) = power_cuts(cuts, seed, None);
    assert!(outcome.findings.is_clean(), "seed {seed}: {}\n{log}", outcome.findings);
    assert!(outcome.findings.records_acked > cuts, "the producers got somewhere");
    assert!(sectors_lost > 0, "no cut took anything away");
}

#[cfg(feature = "fault-injection")]
#[test]
fn a_broker_that_skips_the_flush_is_caught_by_a_power_cut() {
    if !possible() {
        return;
    }
    let seed = seed();
    println!("CRASH_SEED={seed}");
    let (outcome, _, _) = power_cuts(3, seed, Some("skip-flush"));
    assert!(!outcome.findings.is_clean(), "seed {seed}: nothing was found");
}
