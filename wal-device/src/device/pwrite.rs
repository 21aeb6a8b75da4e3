//! The device through plain system calls: in the caller's thread (recovery, opening, formatting), or by a small pool of
//! threads where io_uring is refused.
//!
//! A durable write is one call with `RWF_DSYNC`, or, once a device is distrusted, a write and an fdatasync.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::file::DeviceFile;
use super::mishaps::{Allowed, Asked};
use super::{
    BlockDevice, DROP_WAIT, DeviceFacts, Done, Durable, LEGS_MAX, Medium, Operation, RETRIES_MAX, Request, Wait, Wake,
    stays_short,
};
use crate::types::WalKind;

pub struct PwriteDevice {
    pool: Arc<Pool>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Pool {
    state: Mutex<PoolState>,
    work: Condvar,
    progress: Condvar,
}

#[derive(Default)]
struct PoolState {
    legs: [Option<Leg>; LEGS_MAX],
    threads: usize,
    /// Threads at work on each leg.
    busy: [usize; LEGS_MAX],
    /// Writes and flushes: no reader delays an acknowledgement.
    writes: VecDeque<Request>,
    reads: VecDeque<Request>,
    done: VecDeque<Done>,
    woken: bool,
    stopping: bool,
}

#[derive(Clone)]
struct Leg {
    file: Arc<DeviceFile>,
    durable: Durable,
}

impl Leg {
    fn new(file: Arc<DeviceFile>) -> Self {
        let durable = if file.facts.ignores_fua() { Durable::LinkedSync } else { Durable::Dsync };
        Self { file, durable }
    }
}

impl PwriteDevice {
    /// Requests run in `submit`.
    pub fn inline(file: Arc<DeviceFile>) -> Self {
        let device = Self { pool: Arc::default(), threads: Vec::new() };
        device.pool.lock().legs[0] = Some(Leg::new(file));
        device
    }

    pub fn with_threads(file: Arc<DeviceFile>, threads: usize) -> io::Result<Self> {
        let mut device = Self::inline(file);
        device.pool.lock().threads = threads;
        for i in 0..threads {
            let pool = device.pool.clone();
            let thread = std::thread::Builder::new().name(format!("wal-io-{i}")).spawn(move || pool.work())?;
            device.threads.push(thread);
        }
        Ok(device)
    }
}

impl BlockDevice for PwriteDevice {
    fn submit(&mut self, request: Request) {
        if self.threads.is_empty() {
            let leg = self.pool.lock().leg(request.leg);
            let done = execute(&leg, request);
            self.pool.lock().done.push_back(done);
        } else {
            self.pool.lock().push(request);
            self.pool.work.notify_one();
        }
    }

    fn wait(&mut self, wait: Wait, done: &mut Vec<Done>) -> io::Result<()> {
        let deadline = match wait {
            Wait::For(time) => Some(Instant::now() + time),
            Wait::No | Wait::Forever => None,
        };
        let mut state = self.pool.lock();
        while state.done.is_empty() && !state.woken && wait != Wait::No {
            state = match deadline {
                None => self.pool.progress.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    self.pool.progress.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        state.woken = false;
        done.extend(state.done.drain(..));
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.pool.clone()
    }

    fn add_leg(&mut self, leg: u8, medium: Medium) -> io::Result<()> {
        let Medium::File(file) = medium else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "a simulated disk has no file"));
        };
        let before = self.pool.lock().legs[leg as usize].replace(Leg::new(file));
        assert!(before.is_none(), "a leg is added under a free number");
        Ok(())
    }

    fn remove_leg(&mut self, leg: u8) {
        self.pool.lock().legs[leg as usize] = None;
    }

    fn writes_in_flight_max(&self) -> usize {
        if self.pool.lock().legs.iter().flatten().all(|leg| leg.file.direct) { usize::MAX } else { 1 }
    }

    fn facts(&self, leg: u8) -> DeviceFacts {
        self.pool.lock().leg(leg).file.facts.clone()
    }

    fn set_flush(&mut self, leg: u8, how: Durable) {
        if let Some(leg) = &mut self.pool.lock().legs[leg as usize] {
            leg.durable = how;
        }
    }

    fn durability(&self, leg: u8) -> String {
        let Leg { file, durable } = self.pool.lock().leg(leg);
        let how = match durable {
            Durable::Dsync => "pwritev2 with RWF_DSYNC",
            Durable::LinkedSync => "pwritev2 and fdatasync",
        };
        format!("{how}, {}", file.facts)
    }
}

impl Drop for PwriteDevice {
    fn drop(&mut self) {
        if self.pool.stop() {
            for thread in self.threads.drain(..) {
                // A panic there was reported by the panic hook; there is nobody left to tell.
                let _ = thread.join();
            }
        }
        // A waker may outlive the device; the files (and their locks) must not, but with a thread that hangs.
        self.pool.lock().legs = Default::default();
    }
}

impl PoolState {
    fn push(&mut self, request: Request) {
        let queue = if request.operation == Operation::Read { &mut self.reads } else { &mut self.writes };
        queue.push_back(request);
    }

    /// What a thread does next. A leg that hangs leaves half of the threads to the others.
    fn pop(&mut self) -> Option<Request> {
        let several = self.legs.iter().flatten().count() > 1;
        let share = if several { self.threads.div_ceil(2) } else { self.threads };
        let fits = |request: &Request| self.busy[request.leg as usize] < share;
        let next = match self.writes.iter().position(fits) {
            Some(write) => self.writes.remove(write)?,
            None => self.reads.remove(self.reads.iter().position(fits)?)?,
        };
        self.busy[next.leg as usize] += 1;
        Some(next)
    }

    fn leg(&self, leg: u8) -> Leg {
        self.legs[leg as usize].clone().expect("requests name a leg that was added")
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what waits and ends the threads once they have done what they are at. False if one of them hangs.
    fn stop(&self) -> bool {
        let mut state = self.lock();
        state.stopping = true;
        state.writes.clear();
        state.reads.clear();
        self.work.notify_all();
        let mut last_done = Instant::now();
        let at_work = |state: &PoolState| state.busy.iter().sum::<usize>();
        while at_work(&state) > 0 {
            if last_done.elapsed() > DROP_WAIT {
                tracing::error!(requests = at_work(&state), "a device hangs: its threads are left to it");
                return false;
            }
            let before = at_work(&state);
            let waited = self.progress.wait_timeout(state, Duration::from_millis(100));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if at_work(&state) < before {
                last_done = Instant::now();
            }
        }
        true
    }

    /// A pool thread: runs requests until the device is dropped.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(request) = state.pop() {
                let leg = state.leg(request.leg);
                drop(state);
                let done = execute(&leg, request);
                state = self.lock();
                state.busy[done.leg as usize] -= 1;
                state.done.push_back(done);
                self.progress.notify_one();
            } else if state.stopping {
                return;
            } else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Wake for Pool {
    fn wake(&self) {
        self.lock().woken = true;
        self.progress.notify_one();
    }
}

fn execute(leg: &Leg, mut request: Request) -> Done {
    let file = &*leg.file;
    let result = match (request.operation, &mut request.buffer) {
        (Operation::Flush, _) => flush(file),
        (Operation::Read, Some(buffer)) => read(file, &mut buffer.exclusive()[..request.bytes], request.offset),
        (Operation::Write { durable }, Some(buffer)) => {
            let dsync = durable && leg.durable == Durable::Dsync;
            let bytes = &buffer[..request.bytes];
            let written = match durable {
                true => write_whole(file, bytes, request.offset, dsync),
                false => write(file, bytes, request.offset, false, &mut 0).map(drop),
            };
            if durable && !dsync { written.and_then(|()| flush(file)) } else { written }
        }
        (_, None) => unreachable!("reads and writes carry a buffer"),
    };
    let Request { tag, leg, operation, buffer, .. } = request;
    Done { tag, leg, operation, buffer, result }
}

fn flush(file: &DeviceFile) -> io::Result<()> {
    let mut retries = 0;
    loop {
        // SAFETY: plain system calls on a descriptor that `file` keeps open.
        let flushed = call(file, Asked::Flush, 0, |_| unsafe {
            match file.kind {
                WalKind::File => libc::fdatasync(file.fd()) as libc::ssize_t,
                WalKind::Device => libc::fsync(file.fd()) as libc::ssize_t,
            }
        });
        match flushed {
            Ok(_) => return Ok(()),
            Err(error) => retry_if_interrupted(file, error, &mut retries)?,
        }
    }
}

fn read(file: &DeviceFile, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    let mut retries = 0;
    while !bytes.is_empty() {
        let asked = Asked::Read { offset, bytes: bytes.len() };
        // SAFETY: the kernel writes at most `length` bytes to this exclusive slice, which is no shorter, before the call
        // returns.
        let read = call(file, asked, bytes.len(), |length| unsafe {
            libc::pread(file.fd(), bytes.as_mut_ptr().cast(), length, offset as libc::off_t)
        });
        match read {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                bytes = &mut bytes[read..];
                offset += read as u64;
            }
            Err(error) => retry_if_interrupted(file, error, &mut retries)?,
        }
        if !file.mishaps.may_retry() {
            break;
        }
    }
    Ok(())
}

/// For a durable write: only one that the kernel did in one piece counts. What cut another one short is found out by going
/// on with its rest.
fn write_whole(file: &DeviceFile, bytes: &[u8], offset: u64, dsync: bool) -> io::Result<()> {
    let mut retries = 0;
    while !write(file, bytes, offset, dsync, &mut retries)? {
        retries += 1;
        if retries > RETRIES_MAX {
            return Err(stays_short());
        }
    }
    Ok(())
}

/// Writes all; answers whether in one piece.
fn write(file: &DeviceFile, bytes: &[u8], offset: u64, dsync: bool, retries: &mut u32) -> io::Result<bool> {
    let flags = if dsync { libc::RWF_DSYNC } else { 0 };
    let (mut done, mut calls) = (0, 0);
    while done < bytes.len() {
        let (rest, offset) = (&bytes[done..], offset + done as u64);
        let asked = Asked::Write { offset, bytes: rest.len(), durable: dsync };
        let written = call(file, asked, rest.len(), |length| {
            let part = libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: length };
            // SAFETY: the kernel only reads the slice, which is no shorter than `length`, and only before the call returns.
            unsafe { libc::pwritev2(file.fd(), &part, 1, offset as libc::off_t, flags) }
        });
        match written {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                done += written;
                calls += 1;
            }
            Err(error) => retry_if_interrupted(file, error, retries)?,
        }
        if !file.mishaps.may_retry() {
            return Ok(true);
        }
    }
    Ok(calls <= 1)
}

/// One system call, which gets the length: or what a test lets happen instead.
fn call(
    file: &DeviceFile,
    asked: Asked,
    length: usize,
    call: impl FnOnce(usize) -> libc::ssize_t,
) -> io::Result<usize> {
    let length = match file.mishaps.ask(asked) {
        Allowed::All => length,
        Allowed::Part(part) | Allowed::PartAndFlush(part) => part,
        Allowed::Error(number) => return Err(io::Error::from_raw_os_error(number)),
        Allowed::Hangs(until) => {
            let mut poll = libc::pollfd { fd: until, events: libc::POLLIN, revents: 0 };
            // SAFETY: the kernel writes to this one structure before the call returns.
            unsafe { libc::poll(&mut poll, 1, -1) };
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
    };
    usize::try_from(call(length)).map_err(|_| io::Error::last_os_error())
}

/// The kernel was interrupted or had no room: tried again, but not for ever. A flush that failed is told by another error.
/// Any other error is told.
fn retry_if_interrupted(file: &DeviceFile, error: io::Error, retries: &mut u32) -> io::Result<()> {
    *retries += 1;
    let again = matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) && *retries <= RETRIES_MAX;
    if again && file.mishaps.may_retry() { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::super::file::Access;
    use super::*;

    fn device(threads: usize) -> PwriteDevice {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device");
        std::fs::write(&path, vec![0; 8192]).unwrap();
        let file = Arc::new(DeviceFile::open(&path, Access::Own).unwrap());
        let device = PwriteDevice::inline(file.clone());
        let mut state = device.pool.lock();
        state.threads = threads;
        state.legs[1] = Some(Leg::new(file));
        drop(state);
        device
    }

    #[test]
    fn a_leg_that_hangs_leaves_threads_to_the_other_and_reads_let_writes_pass() {
        let device = device(6);
        let mut state = device.pool.lock();
        let request = |leg, operation| Request { tag: 0, leg, operation, offset: 0, buffer: None, bytes: 0 };
        (0..20).for_each(|_| state.push(request(0, Operation::Read)));
        (0..20).for_each(|_| state.push(request(1, Operation::Read)));
        state.push(request(1, Operation::Flush));
        let taken: Vec<(u8, Operation)> =
            std::iter::from_fn(|| state.pop()).map(|next| (next.leg, next.operation)).collect();
        let (read, flush) = (Operation::Read, Operation::Flush);
        assert_eq!(taken, [(1, flush), (0, read), (0, read), (0, read), (1, read), (1, read)]);
        state.busy = [0; LEGS_MAX];
    }

    #[test]
    fn a_device_that_hangs_is_dropped_even_so() {
        let device = device(1);
        device.pool.lock().busy[0] = 1;
        let start = Instant::now();
        drop(device);
        assert!(start.elapsed() >= DROP_WAIT && start.elapsed() < DROP_WAIT * 20, "{:?}", start.elapsed());
    }
}
