//! The device through plain system calls: in the caller's thread (recovery, opening, formatting), or by a small pool of
//! threads where io_uring is refused.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::file::DeviceFile;
use super::{BlockDevice, Done, Operation, Request, Wait, Wake};
use crate::types::WalKind;

pub struct PwriteDevice {
    file: Arc<DeviceFile>,
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
    waiting: VecDeque<Request>,
    done: VecDeque<Done>,
    woken: bool,
    stopping: bool,
}

impl PwriteDevice {
    /// Requests run in `submit`.
    pub fn inline(file: Arc<DeviceFile>) -> Self {
        Self { file, pool: Arc::default(), threads: Vec::new() }
    }

    pub fn with_threads(file: Arc<DeviceFile>, threads: usize) -> io::Result<Self> {
        let mut device = Self::inline(file);
        for i in 0..threads {
            let (file, pool) = (device.file.clone(), device.pool.clone());
            let thread = std::thread::Builder::new().name(format!("wal-io-{i}")).spawn(move || pool.work(&file))?;
            device.threads.push(thread);
        }
        Ok(device)
    }
}

impl BlockDevice for PwriteDevice {
    fn submit(&mut self, request: Request) {
        if self.threads.is_empty() {
            let done = execute(&self.file, request);
            self.pool.lock().done.push_back(done);
        } else {
            self.pool.lock().waiting.push_back(request);
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

    fn writes_in_flight_max(&self) -> usize {
        if self.file.direct { usize::MAX } else { 1 }
    }

    fn durability(&self) -> String {
        format!("pwritev2 with RWF_DSYNC, {}", self.file.facts())
    }
}

impl Drop for PwriteDevice {
    fn drop(&mut self) {
        self.pool.lock().stopping = true;
        self.pool.work.notify_all();
        for thread in self.threads.drain(..) {
            // A panic there was reported by the panic hook; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pool thread: runs requests until the device is dropped and none waits.
    fn work(&self, file: &DeviceFile) {
        let mut state = self.lock();
        loop {
            if let Some(request) = state.waiting.pop_front() {
                drop(state);
                let done = execute(file, request);
                state = self.lock();
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

fn execute(file: &DeviceFile, mut request: Request) -> Done {
    let result = match (request.operation, &mut request.buffer) {
        (Operation::Flush, _) => flush(file),
        (Operation::Read, Some(buffer)) => read(file.fd(), &mut buffer[..request.bytes], request.offset),
        (Operation::Write { durable }, Some(buffer)) => {
            write(file.fd(), &buffer[..request.bytes], request.offset, durable)
        }
        (_, None) => unreachable!("reads and writes carry a buffer"),
    };
    Done { tag: request.tag, operation: request.operation, buffer: request.buffer, result }
}

fn flush(file: &DeviceFile) -> io::Result<()> {
    match file.kind {
        WalKind::File => file.file().sync_data(),
        WalKind::Device => file.file().sync_all(),
    }
}

fn read(fd: RawFd, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: the kernel writes at most `bytes.len()` bytes to this exclusive slice before the call returns.
        let read = unsafe { libc::pread(fd, bytes.as_mut_ptr().cast(), bytes.len(), offset as libc::off_t) };
        match usize::try_from(read) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                bytes = &mut bytes[read..];
                offset += read as u64;
            }
            Err(_) => retry_if_interrupted()?,
        }
    }
    Ok(())
}

fn write(fd: RawFd, mut bytes: &[u8], mut offset: u64, durable: bool) -> io::Result<()> {
    let flags = if durable { libc::RWF_DSYNC } else { 0 };
    while !bytes.is_empty() {
        let part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        // SAFETY: the kernel only reads the slice, and only before the call returns.
        let written = unsafe { libc::pwritev2(fd, &part, 1, offset as libc::off_t, flags) };
        match usize::try_from(written) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(_) if durable => return Err(io::Error::last_os_error()),
            Err(_) => retry_if_interrupted()?,
        }
    }
    Ok(())
}

/// An interrupted call did nothing; any other error is told. (A durable write is not asked: its sync may have failed.)
fn retry_if_interrupted() -> io::Result<()> {
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}
