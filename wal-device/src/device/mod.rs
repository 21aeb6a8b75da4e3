//! `BlockDevice`: the little that the WAL asks of what lies under it, so that the engine and recovery run the same over
//! io_uring, plain system calls and a simulated disk.

pub mod file;
pub mod pwrite;
pub mod simulated;
pub mod uring;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::aligned_buf::AlignedBuf;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Read,
    /// With `durable` it is done only when the bytes survive a power cut.
    Write {
        durable: bool,
    },
    /// Makes everything durable whose write was done before the flush was submitted.
    Flush,
}

/// One I/O. The device owns the buffer until it hands it back in [`Done`].
pub struct Request {
    /// Comes back in [`Done`].
    pub tag: u64,
    pub operation: Operation,
    /// A multiple of the block.
    pub offset: u64,
    /// `None` for a flush.
    pub buffer: Option<AlignedBuf>,
    /// How much of the buffer: a multiple of the block.
    pub bytes: usize,
}

pub struct Done {
    pub tag: u64,
    pub operation: Operation,
    pub buffer: Option<AlignedBuf>,
    /// `Ok`: all of it happened. `Err`: any part of it may have.
    pub result: io::Result<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    No,
    Forever,
    For(Duration),
}

/// A device that does several things at once.
///
/// Requests may finish in any order; none orders another: who needs order waits for the first before submitting the
/// second. A short read or write is continued by the device. After a failed write or flush the caller stops writing.
/// Dropping a device waits for what is in flight.
pub trait BlockDevice: Send {
    /// Takes a request; it may be started only at the next `wait`.
    fn submit(&mut self, request: Request);

    /// Waits until at least one request is done, or the waker was used, or the time is over; appends what is done.
    /// `Err`: the device cannot be driven any more, nothing is known of what is in flight.
    fn wait(&mut self, wait: Wait, done: &mut Vec<Done>) -> io::Result<()>;

    /// Ends a `wait` from another thread.
    fn waker(&self) -> Arc<dyn Wake>;

    /// Buffers for frames; the device may make them known to the kernel. Called once, before the first request.
    fn frame_buffers(&mut self, count: usize, bytes: usize) -> Vec<AlignedBuf> {
        (0..count).map(|_| AlignedBuf::new(bytes)).collect()
    }

    /// Writes that may be in flight at once without putting the error report of a flush in doubt.
    fn writes_in_flight_max(&self) -> usize {
        usize::MAX
    }

    /// How writes become durable, for people.
    fn durability(&self) -> String;
}

pub trait Wake: Send + Sync {
    fn wake(&self);
}

/// One request, waited for. For recovery and opening, when nothing else is in flight.
pub(crate) fn run(
    device: &mut dyn BlockDevice,
    operation: Operation,
    offset: u64,
    buffer: Option<AlignedBuf>,
    bytes: usize,
) -> (Option<AlignedBuf>, io::Result<()>) {
    device.submit(Request { tag: 0, operation, offset, buffer, bytes });
    let mut done = Vec::with_capacity(1);
    while done.is_empty() {
        if let Err(error) = device.wait(Wait::Forever, &mut done) {
            return (None, Err(error));
        }
    }
    let done = done.pop().expect("not empty");
    (done.buffer, done.result)
}

pub(crate) fn flush(device: &mut dyn BlockDevice) -> io::Result<()> {
    run(device, Operation::Flush, 0, None, 0).1
}
