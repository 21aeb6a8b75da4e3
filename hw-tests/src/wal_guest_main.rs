//! `seawall-wal-guest`: the only program of a virtual machine whose power is cut. It is started as the first process, loads
//! the drivers that lie beside it, and does what the host orders over a serial port: see `wal_guest`.

#![allow(clippy::print_stderr, reason = "the console is for people")]

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use seawall_qualify::wal_guest::{Link, Order, Told, faults};
use seawall_qualify::wal_ledger::{Known, Writers, config, recover};
use seawall_wal_device::{FormatConfig, Scanned, Superblock, WalConfig, format};

/// More than a life appends: see [`FreeSpace`].
const RING_BYTES: u64 = 64 << 20;
/// MiB: the ring and its superblocks.
const NULL_BLK_SIZE: u64 = 65;
/// MiB. What does not fit is written back.
const NULL_BLK_CACHE: u64 = 8;
/// The kernel names the device after the last part, or by number.
const NULL_BLK: &str = "/sys/kernel/config/nullb/nullb0";
const DEVICE_WAIT: Duration = Duration::from_secs(60);

nix::ioctl_write_ptr_bad!(block_discard, 0x1277, [u64; 2]);

/// The end of the first process is the end of the machine; the console says why.
fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("seawall-wal-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    for (kind, folder) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        mount(kind, folder)?;
    }
    load_drivers(Path::new("/drivers"))?;
    mount("configfs", "/sys/kernel/config")?;
    let port = appears(find_port).context("there is no serial port to the host")?;
    let port = OpenOptions::new().read(true).write(true).open(&port).with_context(|| format!("open {port:?}"))?;
    let (link, orders) = Link::new(port)?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    link.tell(&Told::Ready(kernel.trim().into()));
    let mut writers: Option<Writers> = None;
    for order in orders {
        if let Err(error) = obey(order, &link, &mut writers) {
            link.tell(&Told::Broken(format!("{error:#}")));
        }
    }
    Ok(())
}

fn obey(order: Order, link: &Link, writers: &mut Option<Writers>) -> Result<()> {
    match order {
        Order::Noted => {}
        Order::Format { device } => {
            let device = appears(|| Path::new(&device).exists().then(|| device.clone())).context("no such device")?;
            format(&FormatConfig { overwrite: true, ..FormatConfig::new(&device, RING_BYTES, 1) })?;
            link.tell(&Told::Formatted);
        }
        Order::Run { device, durable, skip_flush, known } => {
            let path = appears(|| Path::new(&device).exists().then(|| device.clone())).context("no such device")?;
            let config = WalConfig { durable, faults: faults(skip_flush), ..config(Path::new(&path)) };
            let mut found = recover(&config, &known)?;
            if path.starts_with("/dev/nullb") {
                let free = FreeSpace::of(&found.scanned, &known);
                drop(found);
                free.discard(&path)?;
                found = recover(&config, &known)?;
            }
            let records = found.scanned.records.len() as u64;
            let told = link.clone();
            let started = Writers::start(found, &known, Box::new(move |known| told.tell_known(known)))?;
            let facts = started.wal().status().legs.first().map(|leg| leg.durability.clone()).unwrap_or_default();
            link.tell(&Told::Running { records, facts });
            *writers = Some(started);
        }
        Order::Power(on) => {
            let switched =
                if on { power_on() } else { fs::write(format!("{NULL_BLK}/power"), "0").map_err(Into::into) };
            switched.context("switch the power of null_blk")?;
            link.tell(&Told::Power(on));
            if !on {
                *writers = None;
                link.tell(&Told::Stopped);
            }
        }
    }
    Ok(())
}

/// What lay on its medium is there again.
fn power_on() -> Result<()> {
    if !Path::new(NULL_BLK).exists() {
        fs::create_dir(NULL_BLK)?;
        let settings = [
            ("memory_backed", 1),
            ("size", NULL_BLK_SIZE),
            ("cache_size", NULL_BLK_CACHE),
            ("blocksize", 4096),
            ("discard", 1),
        ];
        for (name, value) in settings {
            fs::write(format!("{NULL_BLK}/{name}"), value.to_string()).with_context(|| name.to_owned())?;
        }
    }
    Ok(fs::write(format!("{NULL_BLK}/power"), "1")?)
}

/// What the log does not use. `null_blk` caches only blocks that its medium does not hold, others it writes through: so the
/// medium gives up what will be written next.
struct FreeSpace {
    ring_offset: u64,
    ring_bytes: u64,
    end: u64,
    bytes: u64,
}

impl FreeSpace {
    fn of(scanned: &Scanned, known: &Known) -> Self {
        let Superblock { ring_offset, ring_bytes, .. } = scanned.superblock;
        let end = scanned.end.0;
        Self { ring_offset, ring_bytes, end, bytes: ring_bytes - (end - known.trim.0) }
    }

    fn discard(&self, device: &str) -> Result<()> {
        let device = OpenOptions::new().read(true).write(true).open(device)?;
        let at = self.end % self.ring_bytes;
        let to_edge = self.bytes.min(self.ring_bytes - at);
        for (offset, bytes) in [(at, to_edge), (0, self.bytes - to_edge)] {
            if bytes == 0 {
                continue;
            }
            let range = [self.ring_offset + offset, bytes];
            // SAFETY: an open device, and a range that outlives the call.
            unsafe { block_discard(device.as_raw_fd(), &range) }.context("discard")?;
        }
        Ok(())
    }
}

fn mount(kind: &str, folder: &str) -> Result<()> {
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some(kind), folder, Some(kind), flags, None::<&str>).with_context(|| format!("mount {folder}"))
}

/// In the order of their names; each comes behind what it needs.
fn load_drivers(folder: &Path) -> Result<()> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for path in files {
        let parameters = if path.to_string_lossy().contains("null_blk") { c"nr_devices=0" } else { c"" };
        let file = File::open(&path)?;
        // SAFETY: a plain system call with an open file and a string that ends in a zero.
        let code = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), parameters.as_ptr(), 0) };
        ensure!(code == 0, "load {path:?}: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

fn find_port() -> Option<PathBuf> {
    let devices = fs::read_dir("/dev").ok()?.flatten().map(|entry| entry.path());
    devices.into_iter().find(|path| path.to_string_lossy().starts_with("/dev/vport"))
}

/// Devices come a moment after their drivers.
fn appears<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + DEVICE_WAIT;
    loop {
        match look() {
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            answer => return answer,
        }
    }
}
