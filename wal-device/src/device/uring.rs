//! The device through io_uring: one thread, registered files, registered frame buffers where memlock allows, an eventfd
//! read in the ring to end a wait. With aligned_buf.rs the only place that handles raw memory.
//!
//! A buffer belongs to the ring from `submit` until its completion was reaped: `slots` owns it meanwhile. Dropping the
//! device waits for every slot, and leaves to the kernel for good what hangs.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, squeue, types};

use super::file::DeviceFile;
use super::lane::{IN_KERNEL_MAX, Lane};
use super::mishaps::{Allowed, Asked};
use super::{
    BlockDevice, DROP_WAIT, DeviceFacts, Done, Durable, LEGS_MAX, Medium, Operation, RETRIES_MAX, Request, Wait, Wake,
    run, stays_short,
};
use crate::aligned_buf::SharedBuf;
use crate::format::SCRATCH_OFFSET;
use crate::types::WalKind;

/// Submission entries. A durable write may take two, and the wake-up one.
const ENTRIES: u32 = 256;
const _: () = assert!(2 * LEGS_MAX * IN_KERNEL_MAX < ENTRIES as usize);
/// The largest step of one request, far below what the kernel takes at once.
const STEP_BYTES_MAX: usize = 1 << 30;

const WAKE: u64 = u64::MAX;
/// User data: the step, the slot, and which part of the step.
const STEP_SHIFT: u32 = 8;
const PART_WRITE: u64 = 0;
const PART_FINAL: u64 = 1;
const _: () = assert!(LEGS_MAX * IN_KERNEL_MAX < 1 << (STEP_SHIFT - 1));

const PROBE_WRITES: usize = 5;

pub struct UringDevice {
    ring: IoUring,
    legs: [Option<Leg>; LEGS_MAX],
    buffers_registered: bool,
    /// Legs that come from now on join a WAL that runs.
    runs: bool,
    slots: Vec<Option<Slot>>,
    free_slots: Vec<usize>,
    steps: u64,
    lanes: [Lane; LEGS_MAX],
    /// Whether a read of the eventfd is in the kernel.
    wake_armed: bool,
    wake: Arc<EventFd>,
    /// Where the kernel writes the eventfd's count. Boxed: its address must not move.
    wake_count: Box<u64>,
}

struct Leg {
    file: Arc<DeviceFile>,
    durable: Durable,
    /// The best write of the start-up probe; zero without one.
    probed: Duration,
}

struct Slot {
    request: Request,
    /// Of this step, never the same twice: completions of others are not for it.
    step: u64,
    /// Bytes that earlier steps did.
    progress: usize,
    /// One of these steps was cut short, and the write is to be durable.
    in_parts: bool,
    retries: u32,
    /// A sync is linked to this step's write.
    linked: bool,
    /// Result of this step's write, when a linked sync follows.
    written: Option<i32>,
    /// What a test lets the kernel say of this step.
    mishap: Option<Mishap>,
}

/// As the kernel says it.
#[derive(Clone, Copy)]
enum Mishap {
    /// This error, of the step or of its linked sync.
    Error(i32),
    /// The write was cut short or failed with this error, and its linked sync did not happen.
    LinkBroken(Option<i32>),
}

impl Mishap {
    fn of(linked: bool, allowed: Allowed, sync_allowed: Allowed) -> Option<Self> {
        match (allowed, sync_allowed) {
            (Allowed::Error(number), _) if linked => Some(Self::LinkBroken(Some(-number))),
            (Allowed::Part(_), _) if linked => Some(Self::LinkBroken(None)),
            (Allowed::Error(number), _) | (_, Allowed::Error(number)) => Some(Self::Error(number)),
            (Allowed::Hangs(_), _) | (_, Allowed::Hangs(_)) => Some(Self::Error(libc::EIO)),
            (Allowed::All | Allowed::Part(_) | Allowed::PartAndFlush(_), _) => None,
        }
    }
}

impl UringDevice {
    /// Must be called on the thread that uses the device. `Err`: this machine refuses io_uring.
    pub fn new(file: Arc<DeviceFile>) -> io::Result<Self> {
        let ring = build_ring()?;
        ring.submitter().register_files(&[-1; LEGS_MAX])?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring of this kernel is too old"));
        }
        let mut device = Self {
            legs: [const { None }; LEGS_MAX],
            buffers_registered: false,
            runs: false,
            slots: Vec::with_capacity(LEGS_MAX * IN_KERNEL_MAX),
            free_slots: Vec::with_capacity(LEGS_MAX * IN_KERNEL_MAX),
            steps: 0,
            lanes: Default::default(),
            wake_armed: false,
            wake: Arc::new(EventFd::new()?),
            wake_count: Box::new(0),
            ring,
        };
        device.add_file(0, file)?;
        Ok(device)
    }

    fn leg(&self, leg: u8) -> &Leg {
        self.legs[leg as usize].as_ref().expect("requests name a leg that was added")
    }

    fn add_file(&mut self, leg: u8, file: Arc<DeviceFile>) -> io::Result<()> {
        assert!(self.legs[leg as usize].is_none(), "a leg is added under a free number");
        self.ring.submitter().register_files_update(u32::from(leg), &[file.fd()])?;
        let ignores_fua = file.facts.ignores_fua();
        let durable = match file.kind {
            WalKind::Device if !ignores_fua => Durable::Dsync,
            WalKind::File | WalKind::Device => Durable::LinkedSync,
        };
        self.legs[leg as usize] = Some(Leg { file, durable, probed: Duration::ZERO });
        // A probe would find FUA fast; and it waits: nothing of a running WAL may wait for a device that joins.
        if ignores_fua || self.runs {
            return Ok(());
        }
        let chosen = self.choose_durable(leg);
        if chosen.is_err() {
            self.remove_leg(leg);
        }
        chosen
    }

    /// What is known to be right for this kind, unless a short probe finds the other way twice as fast, or the only one.
    fn choose_durable(&mut self, leg: u8) -> io::Result<()> {
        let (expected, other) = match self.leg(leg).durable {
            Durable::LinkedSync => (Durable::LinkedSync, Durable::Dsync),
            Durable::Dsync => (Durable::Dsync, Durable::LinkedSync),
        };
        let (mut expected_takes, mut other_takes) = (self.probe(leg, expected), self.probe(leg, other));
        for _ in 1..PROBE_WRITES {
            // By turns, and the best of each: a busy moment must not decide.
            expected_takes = expected_takes.and_then(|best| Ok(best.min(self.probe(leg, expected)?)));
            other_takes = other_takes.and_then(|best| Ok(best.min(self.probe(leg, other)?)));
        }
        let (durable, probed) = match (expected_takes, other_takes) {
            (Ok(expected_takes), Ok(other_takes)) if other_takes * 2 < expected_takes => (other, other_takes),
            (Ok(expected_takes), _) => (expected, expected_takes),
            (Err(_), Ok(other_takes)) => (other, other_takes),
            (Err(error), Err(_)) => return Err(error),
        };
        self.set_flush(leg, durable);
        if let Some(leg) = &mut self.legs[leg as usize] {
            leg.probed = probed;
        }
        Ok(())
    }

    /// How long one durable write takes this way.
    fn probe(&mut self, leg: u8, durable: Durable) -> io::Result<Duration> {
        self.set_flush(leg, durable);
        let bytes = self.leg(leg).file.sector_bytes.max(4096) as usize;
        let buffer = Some(SharedBuf::new(bytes));
        let start = Instant::now();
        run(self, leg, Operation::Write { durable: true }, SCRATCH_OFFSET, buffer, bytes).1?;
        Ok(start.elapsed())
    }

    fn in_kernel(&self) -> usize {
        self.slots.len() - self.free_slots.len()
    }

    fn start(&mut self, request: Request) -> io::Result<()> {
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(Slot {
            request,
            step: 0,
            progress: 0,
            in_parts: false,
            retries: 0,
            linked: false,
            written: None,
            mishap: None,
        });
        self.push_step(slot)
    }

    /// Gives the kernel what is left of a slot's request.
    fn push_step(&mut self, index: usize) -> io::Result<()> {
        let slot = self.slots[index].as_mut().expect("the slot is in use");
        let leg = self.legs[slot.request.leg as usize].as_ref().expect("requests name a leg that was added");
        let fd = types::Fixed(u32::from(slot.request.leg));
        slot.linked =
            slot.request.operation == Operation::Write { durable: true } && leg.durable == Durable::LinkedSync;
        slot.written = None;
        self.steps += 1;
        slot.step = self.steps;
        let request = &slot.request;
        let offset = request.offset + slot.progress as u64;
        let bytes = (request.bytes - slot.progress).min(STEP_BYTES_MAX);
        let data = (slot.step << STEP_SHIFT) | (index as u64) << 1;
        let sync = || opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build().user_data(data | PART_FINAL);
        let at = |buffer: &SharedBuf| buffer.as_ptr().wrapping_add(slot.progress);
        let dsync = request.operation == Operation::Write { durable: true } && !slot.linked;
        let allowed = leg.file.mishaps.ask(match request.operation {
            Operation::Flush => Asked::Flush,
            Operation::Read => Asked::Read { offset, bytes },
            Operation::Write { .. } => Asked::Write { offset, bytes, durable: dsync },
        });
        let sync_is_next = slot.linked && matches!(allowed, Allowed::All | Allowed::PartAndFlush(_));
        let sync_allowed = if sync_is_next { leg.file.mishaps.ask(Asked::Flush) } else { Allowed::All };
        slot.mishap = Mishap::of(slot.linked, allowed, sync_allowed);
        let bytes = match allowed {
            Allowed::Part(part) | Allowed::PartAndFlush(part) => part,
            Allowed::All | Allowed::Error(_) | Allowed::Hangs(_) => bytes,
        } as u32;
        let (first, second) = match (request.operation, &request.buffer) {
            (Operation::Flush, _) => (sync(), None),
            (Operation::Read, Some(buffer)) => {
                // Nobody else holds it: checked in `submit`.
                let read = opcode::Read::new(fd, at(buffer), bytes).offset(offset).build();
                (read.user_data(data | PART_FINAL), None)
            }
            (Operation::Write { .. }, Some(buffer)) => {
                let flags = if dsync { libc::RWF_DSYNC } else { 0 };
                let write = match buffer.registered() {
                    Some(registered) if self.buffers_registered => {
                        let write = opcode::WriteFixed::new(fd, at(buffer), bytes, registered);
                        write.offset(offset).rw_flags(flags).build()
                    }
                    _ => opcode::Write::new(fd, at(buffer), bytes).offset(offset).rw_flags(flags).build(),
                };
                if slot.linked && slot.mishap.is_none() {
                    let write = write.flags(squeue::Flags::IO_LINK).user_data(data | PART_WRITE);
                    (write, Some(sync()))
                } else {
                    (write.user_data(data | PART_FINAL), None)
                }
            }
            (_, None) => unreachable!("reads and writes carry a buffer"),
        };
        let first = match (allowed, sync_allowed) {
            (Allowed::Error(_), _) => opcode::Nop::new().build().user_data(data | PART_FINAL),
            (Allowed::Hangs(until), _) | (_, Allowed::Hangs(until)) => {
                opcode::PollAdd::new(types::Fd(until), libc::POLLIN as u32).build().user_data(data | PART_FINAL)
            }
            _ => first,
        };
        self.push(first, second)
    }

    /// Both entries or none: a link must not be torn by a submission between its parts.
    fn push(&mut self, first: squeue::Entry, second: Option<squeue::Entry>) -> io::Result<()> {
        let entries = 1 + usize::from(second.is_some());
        loop {
            let mut queue = self.ring.submission();
            if queue.capacity() - queue.len() >= entries {
                // SAFETY: what the entries point to (a slot's buffer, `wake_count`) is owned by `self` until the completion
                // is reaped; `drop` reaps all, or leaks what it cannot; the descriptors stay open as long.
                let pushed = unsafe {
                    queue.push(&first).and_then(|()| second.as_ref().map_or(Ok(()), |second| queue.push(second)))
                };
                pushed.expect("room was checked");
                return Ok(());
            }
            drop(queue);
            self.ring.submit()?;
        }
    }

    fn arm_wake(&mut self) -> io::Result<()> {
        if self.wake_armed {
            return Ok(());
        }
        self.wake_armed = true;
        let count = std::ptr::from_mut(&mut *self.wake_count).cast();
        let read = opcode::Read::new(types::Fd(self.wake.0.as_raw_fd()), count, 8).build().user_data(WAKE);
        self.push(read, None)
    }

    /// Submits, and waits for one completion unless `wait` says no.
    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let entered = match wait {
            Wait::No if self.ring.submission().is_empty() && !self.is_ready() => return Ok(()),
            Wait::No => self.ring.submit(),
            Wait::Forever => self.ring.submit_and_wait(1),
            Wait::For(time) => {
                let time = types::Timespec::from(time);
                self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&time))
            }
        };
        match entered {
            Ok(_) => Ok(()),
            // The time is over, a signal came, or completions must be reaped before more is taken.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Takes all completions; returns whether there was any but that of a write whose linked sync is to come.
    fn reap(&mut self, done: &mut Vec<Done>) -> io::Result<bool> {
        let mut any = false;
        loop {
            let Some(entry) = self.ring.completion().next() else { break };
            if entry.user_data() == WAKE {
                self.wake_armed = false;
                any = true;
                continue;
            }
            any |= entry.user_data() & 1 == PART_FINAL;
            self.part_done(entry.user_data(), entry.result(), done)?;
        }
        Ok(any)
    }

    fn part_done(&mut self, user_data: u64, result: i32, done: &mut Vec<Done>) -> io::Result<()> {
        let index = (user_data & ((1 << STEP_SHIFT) - 1)) as usize >> 1;
        let part = user_data & 1;
        let Some(slot) = self.slots[index].as_mut().filter(|slot| slot.step == user_data >> STEP_SHIFT) else {
            return Ok(());
        };
        let result = match slot.mishap {
            None => result,
            Some(Mishap::Error(number)) => {
                slot.written = Some(result);
                -number
            }
            Some(Mishap::LinkBroken(written)) => {
                slot.written = Some(written.unwrap_or(result));
                -libc::ECANCELED
            }
        };
        if part == PART_WRITE {
            slot.written = Some(result);
            return Ok(());
        }
        let step = (slot.request.bytes - slot.progress).min(STEP_BYTES_MAX) as i32;
        let linked = slot.linked;
        // What this step did: bytes, or an error.
        let outcome = match slot.written {
            _ if !linked => result,
            None => -libc::EIO,
            // The write failed or was cut short, and broke its link.
            Some(written) if written < step && result == -libc::ECANCELED => written,
            Some(_) if result < 0 => result,
            // That the sync happened does not say that the write was whole: Linux 6.18 may keep the link of a write that it cut
            // at the limit of a file's size.
            Some(written) => written,
        };
        let leg = self.legs[slot.request.leg as usize].as_ref().expect("requests name a leg that was added");
        let may_retry = slot.retries < RETRIES_MAX && leg.file.mishaps.may_retry();
        // The kernel was interrupted or had no room. A write that is tried again is flushed again, and a flush that failed
        // is told by another error: so any step may be tried again, but not for ever.
        let interrupted = matches!(-outcome, libc::EINTR | libc::EAGAIN);
        let finished = match outcome {
            _ if interrupted && may_retry => {
                slot.retries += 1;
                None
            }
            error if error < 0 => Some(Err(io::Error::from_raw_os_error(-error))),
            _ if slot.request.operation == Operation::Flush => Some(Ok(())),
            0 if slot.request.operation == Operation::Read => Some(Err(io::ErrorKind::UnexpectedEof.into())),
            0 => Some(Err(io::ErrorKind::WriteZero.into())),
            bytes => {
                slot.progress += bytes as usize;
                assert!(slot.progress <= slot.request.bytes, "the kernel does no more than it was asked");
                slot.in_parts |= bytes < step && slot.request.operation == Operation::Write { durable: true };
                match slot.progress == slot.request.bytes {
                    false if !leg.file.mishaps.may_retry() => Some(Ok(())),
                    false => None,
                    true if !slot.in_parts => Some(Ok(())),
                    // Its parts are written, so that what cut it short would have been told. Only a whole one counts.
                    true if may_retry => {
                        (slot.progress, slot.in_parts) = (0, false);
                        slot.retries += 1;
                        None
                    }
                    true => Some(Err(stays_short())),
                }
            }
        };
        let Some(result) = finished else { return self.push_step(index) };
        let Slot { request, .. } = self.slots[index].take().expect("the slot is in use");
        self.free_slots.push(index);
        let Request { tag, leg, operation, buffer, .. } = request;
        self.lanes[leg as usize].is_done(operation);
        done.push(Done { tag, leg, operation, buffer, result });
        Ok(())
    }
}

impl BlockDevice for UringDevice {
    fn submit(&mut self, mut request: Request) {
        if request.operation == Operation::Read {
            assert!(request.buffer.as_mut().is_some_and(SharedBuf::is_exclusive), "a read has its buffer to itself");
        }
        self.lanes[request.leg as usize].push(request);
    }

    fn wait(&mut self, wait: Wait, done: &mut Vec<Done>) -> io::Result<()> {
        for leg in 0..LEGS_MAX {
            while let Some(request) = self.lanes[leg].pop() {
                self.start(request)?;
            }
        }
        self.arm_wake()?;
        let any = self.reap(done)?;
        // What is done already ends the wait, but what was pushed must reach the kernel.
        self.enter(if any { Wait::No } else { wait })?;
        while !self.reap(done)? && !any && wait == Wait::Forever {
            self.enter(wait)?;
        }
        Ok(())
    }

    fn is_ready(&mut self) -> bool {
        // The kernel says by the flag that it has completions which it writes when it is entered.
        !self.ring.completion().is_empty() || self.ring.submission().taskrun()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.wake.clone()
    }

    fn adopt_frame_buffers(&mut self, buffers: &mut [SharedBuf]) {
        self.runs = true;
        let parts: Vec<libc::iovec> = buffers
            .iter()
            .map(|buffer| libc::iovec { iov_base: buffer.as_ptr().cast(), iov_len: buffer.len() })
            .collect();
        let bytes: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        // SAFETY: the addresses are valid now. The kernel pins the pages, so that a buffer freed early leaves them intact,
        // and a write names a registered buffer only while its slot owns it.
        match unsafe { self.ring.submitter().register_buffers(&parts) } {
            Ok(()) => {
                self.buffers_registered = true;
                for (i, buffer) in (0..).zip(buffers) {
                    buffer.set_registered(i);
                }
            }
            Err(error) => tracing::info!(%error, bytes, "WAL buffers are not registered (memlock)"),
        }
    }

    fn add_leg(&mut self, leg: u8, medium: Medium) -> io::Result<()> {
        match medium {
            Medium::File(file) => self.add_file(leg, file),
            Medium::Simulated(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "a simulated disk has no file")),
        }
    }

    fn remove_leg(&mut self, leg: u8) {
        if let Err(error) = self.ring.submitter().register_files_update(u32::from(leg), &[-1]) {
            tracing::warn!(%error, leg, "the kernel keeps the file of a leg that was dropped");
        }
        self.legs[leg as usize] = None;
    }

    fn writes_in_flight_max(&self) -> usize {
        // Through the page cache a failed flush is told to one caller only: with one frame in flight it is the right one.
        if self.legs.iter().flatten().all(|leg| leg.file.direct) { usize::MAX } else { 1 }
    }

    fn facts(&self, leg: u8) -> DeviceFacts {
        self.leg(leg).file.facts.clone()
    }

    fn set_flush(&mut self, leg: u8, how: Durable) {
        if let Some(leg) = &mut self.legs[leg as usize] {
            leg.durable = how;
        }
    }

    fn durability(&self, leg: u8) -> String {
        let Leg { file, durable, probed } = self.leg(leg);
        format!("io_uring, {durable} ({} us), {}", probed.as_micros(), file.facts)
    }
}

impl Drop for UringDevice {
    fn drop(&mut self) {
        self.lanes.iter_mut().for_each(Lane::clear);
        self.wake.wake();
        let mut done = Vec::new();
        let mut last_done = Instant::now();
        while self.in_kernel() > 0 || self.wake_armed {
            let driven = self.enter(Wait::For(Duration::from_millis(100))).and_then(|()| self.reap(&mut done));
            if matches!(driven, Ok(true)) {
                done.clear();
                last_done = Instant::now();
            }
            let hangs = last_done.elapsed() > DROP_WAIT;
            if hangs {
                tracing::error!(requests = self.in_kernel(), "a device hangs: what it was given is left to the kernel");
            }
            if driven.is_err() || hangs {
                // The kernel may still use these: leaked, they stay what they are. It keeps the files and their locks too.
                std::mem::forget(std::mem::take(&mut self.slots));
                std::mem::forget(std::mem::take(&mut self.wake_count));
                return;
            }
        }
        // The kernel takes a ring apart later, and would keep the file (and its lock) open until then.
        let _ = self.ring.submitter().unregister_files();
        let _ = self.ring.submitter().unregister_buffers();
    }
}

/// The cheapest ring that this kernel has.
fn build_ring() -> io::Result<IoUring> {
    let deferred = IoUring::builder()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_defer_taskrun()
        .build(ENTRIES);
    match deferred {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::builder().build(ENTRIES),
        built => built,
    }
}

struct EventFd(OwnedFd);

impl EventFd {
    fn new() -> io::Result<Self> {
        // SAFETY: plain system call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and owned by nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

impl Wake for EventFd {
    fn wake(&self) {
        let one = 1u64;
        // SAFETY: writes 8 bytes from a local. It can only fail when the count would overflow: then a wake-up is pending.
        let _ = unsafe { libc::write(self.0.as_raw_fd(), std::ptr::from_ref(&one).cast(), 8) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::PipeWriter;

    use super::super::file::Access;
    use super::*;

    /// In use, with a file as leg 0 and a device that hangs, until the writer is dropped, as leg 1. `None`: this machine
    /// refuses io_uring.
    fn with_a_leg_that_hangs() -> Option<(UringDevice, PipeWriter)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device");
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
        let file = Arc::new(DeviceFile::open(&path, Access::Own).unwrap());
        let mut device = match UringDevice::new(file) {
            Ok(device) => device,
            Err(error) => {
                println!("left out: io_uring is refused here: {error}");
                return None;
            }
        };
        device.adopt_frame_buffers(&mut [SharedBuf::new(8192)]);
        let (reader, writer) = std::io::pipe().unwrap();
        let hangs = DeviceFile::over(std::fs::File::from(OwnedFd::from(reader)));
        device.add_leg(1, Medium::File(Arc::new(hangs))).expect("nothing waits for a device that joins");
        Some((device, writer))
    }

    fn read(leg: u8) -> Request {
        let buffer = Some(SharedBuf::new(4096));
        Request { tag: 0, leg, operation: Operation::Read, offset: 0, buffer, bytes: 4096 }
    }

    fn wait_for(device: &mut UringDevice, count: usize) -> Vec<Done> {
        let (start, mut done) = (Instant::now(), Vec::new());
        while done.len() < count {
            assert!(start.elapsed() < Duration::from_secs(20), "{} of {count} are done", done.len());
            device.wait(Wait::For(Duration::from_millis(100)), &mut done).unwrap();
        }
        done
    }

    #[test]
    fn a_leg_that_hangs_takes_nothing_from_the_other() {
        let Some((mut device, writer)) = with_a_leg_that_hangs() else { return };
        (0..200).for_each(|_| device.submit(read(1)));
        device.wait(Wait::No, &mut Vec::new()).unwrap();
        (0..200).for_each(|_| device.submit(read(0)));
        let write = Operation::Write { durable: true };
        device.submit(Request { operation: write, ..read(0) });
        let done = wait_for(&mut device, 201);
        assert!(done.iter().all(|done| done.leg == 0 && done.result.is_ok()));
        drop(writer);
        assert!(wait_for(&mut device, 200).iter().all(|done| done.leg == 1 && done.result.is_err()));
    }

    #[test]
    fn a_device_that_hangs_is_dropped_even_so() {
        let Some((mut device, _writer)) = with_a_leg_that_hangs() else { return };
        device.submit(read(1));
        device.wait(Wait::No, &mut Vec::new()).unwrap();
        let start = Instant::now();
        drop(device);
        assert!(start.elapsed() >= DROP_WAIT && start.elapsed() < DROP_WAIT * 20, "{:?}", start.elapsed());
    }
}
