//! Power cuts of a virtual machine: the WAL under the real `nvme` driver and on `null_blk`, both with a volatile cache.
//!
//! `cargo xtask wal vm` makes what is booted and runs this. The ledger is the host's. The emulated NVMe drive lies on a faulty
//! disk of the host, opened past the page cache, so that a flush of the guest is a flush there; its power is cut together with
//! the machine's. `null_blk` keeps its medium and its cache in the guest, so that it is cut by its own switch and scanned by
//! the guest. `WAL_VM_CUTS` (20) says how many cuts there are in all, `WAL_SEED` (1) which.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use seawall_qualify::fault_disk::{FaultDisk, possible, power_cut_together};
use seawall_qualify::wal_guest::{Order, PORT, Told};
use seawall_qualify::wal_ledger::{Known, config, recover};
use seawall_wal_device::device::Durable;
use seawall_wal_device::{FormatConfig, format};
use tempfile::TempDir;

const CUTS: u64 = 20;
const RING_BYTES: u64 = 16 << 20;
const DISK_BYTES: u64 = RING_BYTES + (1 << 20);
/// Software emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// A life is worth a cut after so many acks.
const ACKS_MIN: u64 = 30;
/// A drive that breaks its word is caught by one of so many cuts.
const CUTS_UNTIL_CAUGHT: u64 = 5;

/// What is booted.
struct Kit {
    kernel: PathBuf,
    initramfs: PathBuf,
}

impl Kit {
    fn find() -> Option<Self> {
        let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
        match (path("WAL_VM_KERNEL"), path("WAL_VM_INITRAMFS")) {
            (Some(kernel), Some(initramfs)) if possible() => Some(Self { kernel, initramfs }),
            _ => {
                eprintln!("left out: `cargo xtask wal vm` runs this");
                None
            }
        }
    }
}

/// The NVMe drive of a machine.
#[derive(Debug, Clone, Copy)]
struct Drive {
    /// Off: each write is on the medium when it is answered, with or without FUA.
    cache: bool,
    /// `None`: as the WAL chooses.
    durable: Option<Durable>,
    skip_flush: bool,
}

/// A running machine. SIGKILL when dropped.
struct Machine {
    process: Child,
    line: Line,
    told: Receiver<Told>,
    console: PathBuf,
}

/// The host's end of the serial port.
#[derive(Clone)]
struct Line(Arc<Mutex<Ledger>>);

struct Ledger {
    known: Known,
    noting: Noting,
    /// The guest waits for an answer.
    owed: bool,
    port: UnixStream,
}

/// What becomes of that which the guest tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Noting {
    WrittenDown,
    /// Not answered: nothing may depend on it.
    Unanswered,
    /// Answered so that the guest can end, and forgotten: the power has gone.
    Forgotten,
}

impl Line {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, port: impl BufRead, tell: &SyncSender<Told>) {
        for line in port.lines().map_while(Result::ok) {
            let told = Told::parse(&line).unwrap_or_else(|error| Told::Broken(format!("{error:#}")));
            match told {
                Told::Known(known) => self.ledger().hear(known),
                told => {
                    if tell.send(told).is_err() {
                        return;
                    }
                }
            }
        }
    }
}

impl Ledger {
    fn hear(&mut self, known: Known) {
        self.owed = true;
        match self.noting {
            Noting::WrittenDown => {
                self.known = known;
                self.answer();
            }
            Noting::Unanswered => {}
            Noting::Forgotten => self.answer(),
        }
    }

    fn answer(&mut self) {
        self.owed = false;
        self.say(&Order::Noted);
    }

    fn say(&mut self, order: &Order) {
        // A machine that has gone is seen by whoever waits for it.
        let _ = self.port.write_all(format!("{}\n", order.to_line()).as_bytes());
    }
}

impl Machine {
    fn start(kit: &Kit, folder: &Path, drive: Option<(&Path, Drive)>) -> Result<Self> {
        let (socket, console) = (folder.join("port"), folder.join("console"));
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)?;
        listener.set_nonblocking(true)?;
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "pc"])
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "384"])
            .arg("-kernel")
            .arg(&kit.kernel)
            .arg("-initrd")
            .arg(&kit.initramfs)
            .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-chardev")
            .arg(format!("socket,id=port,path={}", socket.display()))
            .args(["-device", "virtio-serial-pci", "-device", &format!("virtserialport,chardev=port,name={PORT}")]);
        if let Some((device, Drive { cache, .. })) = drive {
            let cache = if cache { "on" } else { "off" };
            qemu.arg("-drive")
                .arg(format!("file={},if=none,id=drive,format=raw,cache=none,aio=threads", device.display()))
                .arg("-device")
                .arg(format!(
                    "nvme,drive=drive,serial=SEAWALL,logical_block_size=4096,physical_block_size=4096,write-cache={cache}"
                ));
        }
        let errors = fs::File::create(folder.join("qemu.log"))?;
        let process = qemu.stdin(Stdio::null()).stdout(errors.try_clone()?).stderr(errors).spawn();
        let mut process = process.context("start qemu-system-x86_64")?;
        let deadline = Instant::now() + PATIENCE;
        let port = loop {
            match listener.accept() {
                Ok((port, _)) => break port,
                Err(_) if Instant::now() < deadline && process.try_wait()?.is_none() => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(_) => {
                    let _ = process.kill();
                    process.wait()?;
                    bail!("QEMU did not start: {}", fs::read_to_string(folder.join("qemu.log"))?);
                }
            }
        };
        port.set_nonblocking(false)?;
        let reader = BufReader::new(port.try_clone()?);
        let ledger = Ledger { known: Known::default(), noting: Noting::WrittenDown, owed: false, port };
        let line = Line(Arc::new(Mutex::new(ledger)));
        let (tell, told) = sync_channel(16);
        let listener = line.clone();
        std::thread::spawn(move || listener.listen(reader, &tell));
        Ok(Self { process, line, told, console })
    }

    fn order(&self, order: &Order) {
        self.line.ledger().say(order);
    }

    /// The next that is told, acks apart.
    fn hear(&self) -> Result<Told> {
        match self.told.recv_timeout(PATIENCE) {
            Ok(told) => Ok(told),
            Err(error) => {
                let console = fs::read_to_string(&self.console).unwrap_or_default();
                let lines: Vec<&str> = console.lines().collect();
                bail!("the guest is silent ({error}):\n{}", lines[lines.len().saturating_sub(20)..].join("\n"))
            }
        }
    }

    fn expect(&self, expected: &Told) -> Result<()> {
        let told = self.hear()?;
        ensure!(told == *expected, "the guest told {told:?}, not {expected:?}");
        Ok(())
    }

    fn ready(&self) -> Result<String> {
        match self.hear()? {
            Told::Ready(kernel) => Ok(kernel),
            told => bail!("not ready: {told:?}"),
        }
    }

    /// The guest recovers, checks and goes on: how many records there were, and how they become durable. Or what it found.
    fn run(
        &self,
        device: &str,
        durable: Option<Durable>,
        skip_flush: bool,
        known: &Known,
    ) -> Result<Result<(u64, String), String>> {
        {
            let mut ledger = self.line.ledger();
            (ledger.known, ledger.noting) = (known.clone(), Noting::WrittenDown);
        }
        let (device, known) = (device.to_owned(), known.clone());
        self.order(&Order::Run { device, durable, skip_flush, known });
        match self.hear()? {
            Told::Running { records, facts } => Ok(Ok((records, facts))),
            Told::Broken(why) => Ok(Err(why)),
            told => bail!("it does not run: {told:?}"),
        }
    }

    /// Until there are acks that a cut could take, and a seeded while longer.
    fn work(&self, seed: u64) -> Result<()> {
        let enough = self.line.ledger().known.acked + ACKS_MIN;
        let deadline = Instant::now() + PATIENCE;
        while self.line.ledger().known.acked < enough {
            if let Ok(told) = self.told.try_recv() {
                bail!("while appending: {told:?}");
            }
            ensure!(Instant::now() < deadline, "nothing is acked");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 1_500));
        Ok(())
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

#[derive(Debug, Default)]
struct Summary {
    cuts: u64,
    acked: u64,
    recovered: u64,
    /// Unflushed when the power went; not known of `null_blk`.
    sectors_lost: u64,
    facts: String,
    /// What a check said. Then there are no more cuts.
    finding: Option<String>,
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("seawall-wal-vm-").tempdir_in("/var/tmp").unwrap()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

fn cuts() -> u64 {
    number("WAL_VM_CUTS").unwrap_or(CUTS)
}

fn seed_of(cut: u64) -> u64 {
    number("WAL_SEED").unwrap_or(1).wrapping_mul(1_000_003).wrapping_add(cut)
}

/// Machine and drive lose power; the host scans what is left, and so does the guest that boots on it next.
fn nvme_cuts(kit: &Kit, cuts: u64, drive: Drive) -> Result<Summary> {
    let folder = folder();
    let files = |life: u64| folder.path().join(format!("disk.{life}"));
    let image = folder.path().join("image");
    let mut disk = FaultDisk::create(&files(0), DISK_BYTES)?;
    format(&FormatConfig { overwrite: true, ..FormatConfig::new(disk.device(), RING_BYTES, 1) })?;
    let (mut known, mut summary) = (Known::default(), Summary::default());
    for cut in 1..=cuts {
        let mut machine = Machine::start(kit, folder.path(), Some((disk.device(), drive)))?;
        let kernel = machine.ready()?;
        match machine.run("/dev/nvme0n1", drive.durable, drive.skip_flush, &known)? {
            Ok((_, facts)) => summary.facts = format!("{kernel}, {facts}"),
            Err(why) => {
                summary.finding = Some(format!("cut {}, in the guest: {why}", cut - 1));
                break;
            }
        }
        machine.work(seed_of(cut))?;
        {
            let mut ledger = machine.line.ledger();
            ledger.noting = Noting::Unanswered;
            let left = power_cut_together(&[(&disk, seed_of(cut), &image)], || Ok(()))?;
            summary.sectors_lost += left[0].sectors_lost;
            known = ledger.known.clone();
        }
        machine.kill();
        summary.cuts += 1;
        summary.acked = known.acked;
        match recover(&config(&image), &known) {
            Ok(found) => summary.recovered += found.scanned.records.len() as u64,
            Err(error) => {
                summary.finding = Some(format!("cut {cut}, known {known}: {error:#}"));
                break;
            }
        }
        drop(disk);
        fs::remove_dir_all(files(cut - 1))?;
        disk = FaultDisk::from_image(&files(cut), &image)?;
    }
    Ok(summary)
}

/// The drive of one machine loses its power again and again; the next run scans it.
fn null_blk_cuts(kit: &Kit, cuts: u64, durable: [Durable; 2], skip_flush: bool) -> Result<Summary> {
    const DEVICE: &str = "/dev/nullb0";
    let folder = folder();
    let machine = Machine::start(kit, folder.path(), None)?;
    let kernel = machine.ready()?;
    machine.order(&Order::Power(true));
    machine.expect(&Told::Power(true))?;
    machine.order(&Order::Format { device: DEVICE.into() });
    machine.expect(&Told::Formatted)?;
    let (mut known, mut summary) = (Known::default(), Summary::default());
    for cut in 1..=cuts + 1 {
        match machine.run(DEVICE, Some(durable[cut as usize % 2]), skip_flush, &known)? {
            Ok((records, facts)) => {
                summary.recovered += records;
                summary.facts = format!("{kernel}, {facts}");
            }
            Err(why) => {
                summary.finding = Some(format!("cut {}, known {known}: {why}", cut - 1));
                break;
            }
        }
        if cut > cuts {
            break;
        }
        machine.work(seed_of(cut))?;
        {
            let mut ledger = machine.line.ledger();
            ledger.noting = Noting::Unanswered;
            known = ledger.known.clone();
        }
        machine.order(&Order::Power(false));
        machine.expect(&Told::Power(false))?;
        {
            let mut ledger = machine.line.ledger();
            ledger.noting = Noting::Forgotten;
            if ledger.owed {
                ledger.answer();
            }
        }
        machine.expect(&Told::Stopped)?;
        machine.order(&Order::Power(true));
        machine.expect(&Told::Power(true))?;
        summary.cuts += 1;
        summary.acked = known.acked;
    }
    Ok(summary)
}

fn nothing_is_lost(name: &str, cuts: impl FnOnce(&Kit) -> Result<Summary>) {
    let Some(kit) = Kit::find() else { return };
    let began = Instant::now();
    let summary = cuts(&kit).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    let Summary { cuts, acked, recovered, sectors_lost, facts, finding } = &summary;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{name}: {cuts} power cuts, {acked} acked, {recovered} recovered, {sectors_lost} sectors lost, {seconds:.0} s; {facts}"
    );
    assert!(finding.is_none() && acked > cuts, "{name}: {summary:?}");
}

fn is_caught(name: &str, cuts: impl FnOnce(&Kit) -> Result<Summary>) {
    let Some(kit) = Kit::find() else { return };
    let summary = cuts(&kit).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    let finding = summary.finding.unwrap_or_else(|| panic!("{name}: it was not caught in {} cuts", summary.cuts));
    println!("{name}, caught: {finding}; {}", summary.facts);
}

const BY_TURNS: [Durable; 2] = [Durable::Dsync, Durable::LinkedSync];

/// As the WAL chooses, which knows what this drive does with FUA.
#[test]
fn what_was_acknowledged_by_flush_survives_power_cuts_of_an_nvme_drive_with_a_volatile_cache() {
    let drive = Drive { cache: true, durable: None, skip_flush: false };
    nothing_is_lost("nvme, volatile cache, flush", |kit| nvme_cuts(kit, cuts().div_ceil(4), drive));
}

/// QEMU's drive takes no notice of FUA while its cache is on: see the last test. With its cache off it keeps its word.
#[test]
fn what_was_acknowledged_by_fua_survives_power_cuts_of_an_nvme_drive() {
    let drive = Drive { cache: false, durable: Some(Durable::Dsync), skip_flush: false };
    nothing_is_lost("nvme, FUA", |kit| nvme_cuts(kit, cuts().div_ceil(4), drive));
}

#[test]
fn what_was_acknowledged_by_fua_or_flush_survives_power_cuts_of_null_blk_with_a_volatile_cache() {
    let name = "null_blk, volatile cache, FUA and flush by turns";
    nothing_is_lost(name, |kit| null_blk_cuts(kit, cuts() / 2, BY_TURNS, false));
}

/// The checker can fail.
#[test]
fn a_wal_that_skips_the_flush_is_caught_by_a_power_cut_on_both() {
    let drive = Drive { cache: true, durable: None, skip_flush: true };
    is_caught("nvme, skip-flush", |kit| nvme_cuts(kit, CUTS_UNTIL_CAUGHT, drive));
    for durable in BY_TURNS {
        // With fdatasync a superblock flushes the frames before it: what came later is lost.
        let name = format!("null_blk, skip-flush, superblocks by {durable}");
        is_caught(&name, |kit| null_blk_cuts(kit, CUTS_UNTIL_CAUGHT, [durable; 2], true));
    }
}

/// QEMU's NVMe drive says that it has a volatile cache and takes FUA writes, and answers them from its cache.
#[test]
fn a_drive_that_ignores_fua_is_caught_by_a_power_cut() {
    let drive = Drive { cache: true, durable: Some(Durable::Dsync), skip_flush: false };
    is_caught("nvme, FUA with a volatile cache", |kit| nvme_cuts(kit, CUTS_UNTIL_CAUGHT, drive));
}
