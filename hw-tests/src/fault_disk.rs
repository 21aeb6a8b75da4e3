//! A real block device of this machine's kernel that forgets what was never flushed.
//!
//! A FUSE file system of one file plays the drive: writes go to its volatile cache, a flush moves them to the medium. A
//! loop device sits on that file, and a file system or a WAL sits on the loop device. [`FaultDisk::power_cut`] writes the
//! image a power cut would leave at this very moment: everything a flush covered is there, and of what was still in
//! the cache each 4 KiB sector is kept or lost by itself, by seed. Errors can be asked for too.
//!
//! Needs root, `/dev/fuse`, `losetup`, `mount` and `mkfs.ext4`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

/// The unit that is kept or lost as a whole.
pub const SECTOR_BYTES: u64 = 4096;

/// The drive's volatile cache; a drive that has more than this unflushed writes the oldest back by itself.
const CACHE_SECTORS_MAX: usize = 64 * 1024;

const DISK_FILE: &str = "disk";
const DISK_INODE: INodeNo = INodeNo(2);
const NEVER_CHANGES: Duration = Duration::from_secs(3600);

/// The tools a [`FaultDisk`] starts; empty when all are there.
fn missing_tools() -> Vec<&'static str> {
    let missing = |tool: &&str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        !std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|dir| dir.join(tool).exists())
    };
    let mut tools: Vec<_> = ["losetup", "mount", "umount", "mkfs.ext4"].into_iter().filter(missing).collect();
    if !Path::new("/dev/fuse").exists() {
        tools.push("/dev/fuse");
    }
    tools
}

/// Whether a test can have [`FaultDisk`]s: root and the tools are there. Under `CI=true` what is missing is a failure, never a
/// silent skip.
pub fn possible() -> bool {
    let missing = missing_tools();
    let root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if root && missing.is_empty() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "needs root ({root}) and {missing:?}");
    eprintln!("left out: needs root and {missing:?}");
    false
}

/// What can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Read,
    Write,
    Flush,
}

/// What a power cut left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PowerCut {
    pub flushes: u64,
    pub sectors_kept: u64,
    pub sectors_lost: u64,
}

/// One device. Dropping it unmounts and detaches everything it set up.
pub struct FaultDisk {
    drive: Arc<Mutex<Drive>>,
    session: Option<fuser::BackgroundSession>,
    fuse: PathBuf,
    loop_device: PathBuf,
    mount_point: Option<PathBuf>,
}

impl FaultDisk {
    /// An empty device of `bytes`, its files under `dir`.
    pub fn create(dir: &Path, bytes: u64) -> Result<Self> {
        ensure!(
            bytes > 0 && bytes.is_multiple_of(SECTOR_BYTES),
            "a device is a whole number of {SECTOR_BYTES}-byte sectors"
        );
        fs::create_dir_all(dir)?;
        File::create(dir.join("medium"))?.set_len(bytes)?;
        Self::start(dir)
    }

    /// A device that holds what `image` holds: how a host finds its drive after a power cut.
    pub fn from_image(dir: &Path, image: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        copy_sparse(image, &dir.join("medium"))?;
        Self::start(dir)
    }

    fn start(dir: &Path) -> Result<Self> {
        let drive = Arc::new(Mutex::new(Drive::open(dir)?));
        let fuse = dir.join("fuse");
        fs::create_dir_all(&fuse)?;
        let session = fuser::spawn_mount(DriveFile(drive.clone()), &fuse, &fuser::Config::default())
            .context("mount the FUSE file that plays the drive")?;
        let output = Command::new("losetup")
            .args(["--find", "--show", "--direct-io=on", "--sector-size", &SECTOR_BYTES.to_string()])
            .arg(fuse.join(DISK_FILE))
            .output()
            .context("run losetup")?;
        ensure!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
        let loop_device = PathBuf::from(String::from_utf8(output.stdout)?.trim());
        Ok(Self { drive, session: Some(session), fuse, loop_device, mount_point: None })
    }

    /// The block device.
    pub fn device(&self) -> &Path {
        &self.loop_device
    }

    /// Makes an ext4 file system on the device, with no work left for later.
    pub fn make_ext4(&self) -> Result<()> {
        let options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", options]).arg(self.device()))
    }

    /// Mounts the device; after a power cut the kernel replays the journal here.
    pub fn mount(&mut self, mount_point: &Path) -> Result<()> {
        fs::create_dir_all(mount_point)?;
        run(Command::new("mount").args(["-t", "ext4"]).arg(self.device()).arg(mount_point))?;
        self.mount_point = Some(mount_point.to_owned());
        Ok(())
    }

    /// The next `count` operations of this kind end in EIO.
    pub fn fail_next(&self, operation: Operation, count: u32) {
        self.fail_after(operation, 0, count);
    }

    /// After `good` more operations of this kind, `count` end in EIO.
    pub fn fail_after(&self, operation: Operation, good: u32, count: u32) {
        lock(&self.drive).failing[operation as usize] = Failing { good, count };
    }

    /// Errors that were asked for and have not come yet are forgotten.
    pub fn fail_no_more(&self) {
        lock(&self.drive).failing = Default::default();
    }

    /// The sector of this byte cannot be read until it is written again.
    pub fn make_unreadable(&self, offset: u64) {
        lock(&self.drive).unreadable.insert(offset / SECTOR_BYTES);
    }

    /// From now on flushes are answered and do nothing, as some drives do.
    pub fn lie_about_flushes(&self) {
        lock(&self.drive).lies = true;
    }

    /// Writes to `image` what a power cut at this moment would leave on the medium. The device itself goes on.
    pub fn power_cut(&self, seed: u64, image: &Path) -> Result<PowerCut> {
        lock(&self.drive).power_cut(seed, image)
    }
}

/// As [`FaultDisk::power_cut`], for disks of one host at the same moment: (disk, seed, image) of each. Their I/O is held while
/// `stop` stops whoever uses them, so that nobody sees the power cut that a disk has already had. The moment is one with
/// something in the cache of the last disk, if there is one soon.
pub fn power_cut_together(
    cuts: &[(&FaultDisk, u64, &Path)],
    stop: impl FnOnce() -> Result<()>,
) -> Result<Vec<PowerCut>> {
    let deadline = Instant::now() + Duration::from_millis(100);
    let drives = loop {
        let drives: Vec<MutexGuard<'_, Drive>> = cuts.iter().map(|(disk, ..)| lock(&disk.drive)).collect();
        if drives.last().is_none_or(|drive| !drive.cache.is_empty()) || Instant::now() > deadline {
            break drives;
        }
        drop(drives);
        std::thread::sleep(Duration::from_micros(10));
    };
    stop()?;
    drives.iter().zip(cuts).map(|(drive, (_, seed, image))| drive.power_cut(*seed, image)).collect()
}

impl Drop for FaultDisk {
    fn drop(&mut self) {
        if let Some(mount_point) = self.mount_point.take() {
            // A killed process's ring keeps its files open for a moment longer.
            let unmounted = soon(|| run(Command::new("umount").arg(&mount_point)).is_ok());
            if !unmounted {
                let _ = run(Command::new("umount").arg("--lazy").arg(&mount_point));
            }
        }
        let _ = run(Command::new("losetup").arg("--detach").arg(&self.loop_device));
        // The device lets go of its file a moment later, and a file in use cannot be unmounted.
        let backing = self.loop_device.file_name().map(|name| Path::new("/sys/block").join(name).join("loop"));
        soon(|| backing.as_ref().is_none_or(|backing| !backing.exists()));
        // It closes the file later still.
        let unmounted = soon(|| run(Command::new("umount").arg(&self.fuse)).is_ok());
        if !unmounted {
            let _ = run(Command::new("umount").arg("--lazy").arg(&self.fuse));
        }
        // While somebody has the file, its session goes on.
        if let Some(session) = self.session.take().filter(|_| unmounted) {
            let _ = session.join();
        }
    }
}

/// Asks again for a few seconds; true once the answer was yes.
fn soon(mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        if done() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The medium, and the volatile cache in front of it.
struct Drive {
    bytes: u64,
    /// What a flush has covered.
    medium: File,
    medium_path: PathBuf,
    /// What a reader sees: the medium with the cache over it.
    visible: File,
    /// Sectors written since the last flush, in order of writing.
    cache: Vec<(u64, Box<[u8]>)>,
    flushes: u64,
    lies: bool,
    failing: [Failing; 3],
    unreadable: BTreeSet<u64>,
}

/// Errors to come.
#[derive(Debug, Clone, Copy, Default)]
struct Failing {
    good: u32,
    count: u32,
}

impl Drive {
    fn open(dir: &Path) -> Result<Self> {
        let (medium_path, visible_path) = (dir.join("medium"), dir.join("visible"));
        copy_sparse(&medium_path, &visible_path)?;
        let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
        let medium = open(&medium_path)?;
        let bytes = medium.metadata()?.len();
        let visible = open(&visible_path)?;
        Ok(Self {
            bytes,
            medium,
            medium_path,
            visible,
            cache: Vec::new(),
            flushes: 0,
            lies: false,
            failing: Default::default(),
            unreadable: BTreeSet::new(),
        })
    }

    fn check(&mut self, operation: Operation) -> Result<(), Errno> {
        let Failing { good, count } = &mut self.failing[operation as usize];
        if *count == 0 {
            return Ok(());
        }
        if *good > 0 {
            *good -= 1;
            return Ok(());
        }
        *count -= 1;
        Err(Errno::EIO)
    }

    fn read(&mut self, offset: u64, length: u64) -> Result<Vec<u8>, Errno> {
        self.check(Operation::Read)?;
        let sectors = offset / SECTOR_BYTES..(offset + length).div_ceil(SECTOR_BYTES);
        if self.unreadable.range(sectors).next().is_some() {
            return Err(Errno::EIO);
        }
        let mut buffer = vec![0u8; length.min(self.bytes.saturating_sub(offset)) as usize];
        self.visible.read_exact_at(&mut buffer, offset).map_err(|_| Errno::EIO)?;
        Ok(buffer)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.check(Operation::Write)?;
        let whole = offset.is_multiple_of(SECTOR_BYTES) && (data.len() as u64).is_multiple_of(SECTOR_BYTES);
        if !whole || offset + data.len() as u64 > self.bytes {
            return Err(Errno::EINVAL);
        }
        self.visible.write_all_at(data, offset).map_err(|_| Errno::EIO)?;
        for (n, sector) in data.chunks_exact(SECTOR_BYTES as usize).enumerate() {
            let at = offset / SECTOR_BYTES + n as u64;
            self.unreadable.remove(&at);
            self.cache.push((at, sector.into()));
        }
        if self.cache.len() > CACHE_SECTORS_MAX {
            let oldest = self.cache.len() - CACHE_SECTORS_MAX / 2;
            self.write_back(oldest).map_err(|_| Errno::EIO)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Errno> {
        self.check(Operation::Flush)?;
        if self.lies {
            return Ok(());
        }
        self.write_back(self.cache.len()).map_err(|_| Errno::EIO)?;
        self.flushes += 1;
        Ok(())
    }

    fn write_back(&mut self, count: usize) -> io::Result<()> {
        for (sector, data) in self.cache.drain(..count) {
            self.medium.write_all_at(&data, sector * SECTOR_BYTES)?;
        }
        Ok(())
    }

    fn power_cut(&self, seed: u64, image: &Path) -> Result<PowerCut> {
        copy_sparse(&self.medium_path, image)?;
        let out = OpenOptions::new().write(true).open(image)?;
        let mut random = SplitMix(seed);
        let mut cut = PowerCut { flushes: self.flushes, sectors_kept: 0, sectors_lost: 0 };
        for (sector, data) in &self.cache {
            if random.next() & 1 == 0 {
                cut.sectors_lost += 1;
            } else {
                cut.sectors_kept += 1;
                out.write_all_at(data, sector * SECTOR_BYTES)?;
            }
        }
        Ok(cut)
    }
}

/// The FUSE face of the drive: a folder with one file.
struct DriveFile(Arc<Mutex<Drive>>);

impl DriveFile {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let file = inode == DISK_INODE;
        FileAttr {
            ino: inode,
            size: if file { lock(&self.0).bytes } else { 0 },
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if file { FileType::RegularFile } else { FileType::Directory },
            perm: if file { 0o600 } else { 0o700 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: SECTOR_BYTES as u32,
            flags: 0,
        }
    }
}

impl Filesystem for DriveFile {
    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == DISK_FILE {
            reply.entry(&NEVER_CHANGES, &self.attributes(DISK_INODE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&NEVER_CHANGES, &self.attributes(inode));
    }

    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Past the page cache, so that only the drive's own cache is volatile.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match lock(&self.0).read(offset, u64::from(size)) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match lock(&self.0).write(offset, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn fsync(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        match lock(&self.0).flush() {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        // No discard: a caller that wants zeros writes them, and they are volatile like any other write.
        reply.error(Errno::EOPNOTSUPP);
    }
}

fn lock(drive: &Mutex<Drive>) -> MutexGuard<'_, Drive> {
    drive.lock().unwrap_or_else(PoisonError::into_inner)
}

fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("--sparse=always").arg(from).arg(to))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// SplitMix64: a small seeded generator, so that a seed names one power cut.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
