//! Power cuts: the metadata log, the `fs` store and the WAL lie on disks that forget what was never flushed. The WAL is a file
//! beside the others, or has a raw device of its own, which loses power together with them.
//!
//! A cut holds all disks at one moment, freezes the broker, takes what is on each medium plus a seeded part of each drive's
//! cache, kills the broker and gives the next one disks with just that. What was acked must be there; the kernel replays the
//! journal of ext4 in between. `POWER_CUTS` says how often, for each form (10 with a file, 5 with a device).

use std::iter::once;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use seawall_qualify::fault_disk::{FaultDisk, PowerCut, possible, power_cut_together};

use super::broker_process::{BrokerSetup, SmallSizes};
use super::ledger::{Random, summary};
use super::rounds::{Outcome, Rounds, crash_rounds};
use super::{broker_program, number, seed};

const FILE_CUTS: u64 = 10;
const DEVICE_CUTS: u64 = 5;
const DISK_BYTES: u64 = 1 << 30;
const WAL_DISK_BYTES: u64 = 33 << 20;

/// Where the broker's WAL lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WalOn {
    File,
    Device,
}

/// A disk, and those that came after it, each with what a power cut had left of the one before.
struct PoweredDisk {
    name: &'static str,
    folder: PathBuf,
    disk: Option<FaultDisk>,
    cuts: u64,
    lost: PowerCut,
}

impl PoweredDisk {
    fn new(folder: &Path, name: &'static str, bytes: u64) -> anyhow::Result<Self> {
        let lost = PowerCut { flushes: 0, sectors_kept: 0, sectors_lost: 0 };
        let mut disk = Self { name, folder: folder.into(), disk: None, cuts: 0, lost };
        disk.disk = Some(FaultDisk::create(&disk.files(), bytes)?);
        Ok(disk)
    }

    fn files(&self) -> PathBuf {
        self.folder.join(format!("{}.{}", self.name, self.cuts))
    }

    fn image(&self) -> PathBuf {
        self.folder.join(format!("{}.image", self.name))
    }

    fn plugged_in(&mut self) -> &mut FaultDisk {
        self.disk.as_mut().expect("a disk is plugged in")
    }

    fn lost_power(&mut self, left: PowerCut) {
        self.lost.flushes += left.flushes;
        self.lost.sectors_kept += left.sectors_kept;
        self.lost.sectors_lost += left.sectors_lost;
    }

    /// The power comes back. Nobody may hold the disk any more.
    fn come_back(&mut self) -> anyhow::Result<&mut FaultDisk> {
        self.disk = None;
        std::fs::remove_dir_all(self.files())?;
        self.cuts += 1;
        self.disk = Some(FaultDisk::from_image(&self.files(), &self.image())?);
        Ok(self.plugged_in())
    }
}

/// Cuts the power under the broker, again and again.
struct PoweredHost {
    data_folder: PathBuf,
    data: PoweredDisk,
    /// With the name by which the broker knows it.
    wal: Option<(PoweredDisk, PathBuf)>,
    random: Random,
    cuts: u64,
    slowest_cut: Duration,
}

impl PoweredHost {
    fn new(setup: &BrokerSetup, wal_name: Option<PathBuf>, seed: u64) -> anyhow::Result<Self> {
        let mut data = PoweredDisk::new(&setup.folder, "disk", DISK_BYTES)?;
        data.plugged_in().make_ext4()?;
        data.plugged_in().mount(&setup.data())?;
        let wal = match wal_name {
            None => None,
            Some(name) => {
                let mut wal = PoweredDisk::new(&setup.folder, "wal", WAL_DISK_BYTES)?;
                std::os::unix::fs::symlink(wal.plugged_in().device(), &name)?;
                setup.format_wal_device(&name)?;
                Some((wal, name))
            }
        };
        let random = Random::new(seed ^ 0x70_77_72);
        Ok(Self { data_folder: setup.data(), data, wal, random, cuts: 0, slowest_cut: Duration::ZERO })
    }

    fn cut(&mut self, broker: super::broker_process::BrokerProcess) -> anyhow::Result<()> {
        let began = Instant::now();
        let disks: Vec<&PoweredDisk> = once(&self.data).chain(self.wal.iter().map(|(wal, _)| wal)).collect();
        let images: Vec<PathBuf> = disks.iter().map(|disk| disk.image()).collect();
        let mut cuts = Vec::new();
        for (disk, image) in disks.iter().zip(&images) {
            let disk = disk.disk.as_ref().expect("a disk is plugged in");
            cuts.push((disk, self.random.next(), &**image));
        }
        // Nothing becomes durable from here on, so that nothing more can be acked; then nobody acks any more.
        let left = power_cut_together(&cuts, || Ok(broker.freeze()?))?;
        self.data.lost_power(left[0]);
        if let Some((wal, _)) = &mut self.wal {
            wal.lost_power(left[1]);
        }
        broker.kill()?;
        self.cuts += 1;
        self.data.come_back()?.mount(&self.data_folder)?;
        if let Some((wal, name)) = &mut self.wal {
            std::fs::remove_file(&*name)?;
            std::os::unix::fs::symlink(wal.come_back()?.device(), name)?;
        }
        self.slowest_cut = self.slowest_cut.max(began.elapsed());
        Ok(())
    }

    /// Of the disk on which the WAL lies.
    fn wal_lost(&self) -> PowerCut {
        self.wal.as_ref().map_or(self.data.lost, |(wal, _)| wal.lost)
    }
}

/// Cuts the power `cuts` times under a broker with `fault`, and says what was found.
fn power_cuts(wal: WalOn, cuts: u64, seed: u64, fault: Option<&str>) -> (Outcome, u64, String) {
    // Not in memory, so that direct I/O is possible.
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let wal_name = (wal == WalOn::Device).then(|| folder.path().join("wal-device"));
    let sizes = SmallSizes { wal_device: wal_name.clone(), ..SmallSizes::default() };
    let mut setup = BrokerSetup::create(broker_program(), folder.path(), &sizes).unwrap();
    setup.fault = fault.map(str::to_owned);
    let mut host = PoweredHost::new(&setup, wal_name, seed).unwrap();
    let life = (Duration::from_millis(300), Duration::from_millis(1_500));
    let rounds = Rounds { kills: cuts, seed, life, early_kill_every: 5, ..Rounds::default() };
    let outcome = crash_rounds(&setup, &rounds, |broker| {
        host.cut(broker).map_err(|error| format!("power cut: {error:#}")).inspect_err(|error| println!("{error}"))
    })
    .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    println!("WAL on a {wal:?}: {}", summary(&outcome.findings, cuts, seed));
    println!(
        "{} power cuts, slowest restart {:?}, slowest cut {:?}, data disk {:?}, WAL {:?}",
        host.cuts,
        outcome.slowest_restart,
        host.slowest_cut,
        host.data.lost,
        host.wal_lost(),
    );
    (outcome, host.wal_lost().sectors_lost, setup.log_tail())
}

fn nothing_is_lost(wal: WalOn, cuts: u64) {
    if !possible() {
        return;
    }
    let (seed, cuts) = (seed(), number("POWER_CUTS").unwrap_or(cuts));
    println!("CRASH_SEED={seed} POWER_CUTS={cuts}");
    let (outcome, sectors_lost, log) = power_cuts(wal, cuts, seed, None);
    assert!(outcome.findings.is_clean(), "seed {seed}: {}\n{log}", outcome.findings);
    assert!(outcome.findings.records_acked > cuts, "the producers got somewhere");
    assert!(sectors_lost > 0, "no cut took anything away");
}

#[test]
fn every_acked_record_survives_power_cuts_once_in_order_at_its_acked_offset() {
    nothing_is_lost(WalOn::File, FILE_CUTS);
}

#[test]
fn every_acked_record_survives_power_cuts_of_a_raw_device_with_the_wal() {
    nothing_is_lost(WalOn::Device, DEVICE_CUTS);
}

#[cfg(feature = "fault-injection")]
fn a_skipped_flush_is_caught(wal: WalOn) {
    if !possible() {
        return;
    }
    let seed = seed();
    println!("CRASH_SEED={seed}");
    let (outcome, _, _) = power_cuts(wal, 3, seed, Some("skip-flush"));
    assert!(!outcome.findings.is_clean(), "seed {seed}: nothing was found");
}

#[cfg(feature = "fault-injection")]
#[test]
fn a_broker_that_skips_the_flush_is_caught_by_a_power_cut() {
    a_skipped_flush_is_caught(WalOn::File);
}

#[cfg(feature = "fault-injection")]
#[test]
fn a_broker_that_skips_the_flush_of_a_raw_device_is_caught_by_a_power_cut() {
    a_skipped_flush_is_caught(WalOn::Device);
}
