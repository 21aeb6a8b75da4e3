//! `BlockDevice`: the little that the WAL asks of what lies under it, so that the engine and recovery run the same over
//! io_uring, plain system calls and a simulated disk.
//!
//! A device drives one or several files or disks, its legs: a mirror is one device with two. Each request names its leg.

mod facts;
pub mod file;
pub mod health;
mod lane;
pub mod mishaps;
pub mod pwrite;
pub mod simulated;
mod stack;
pub mod uring;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::aligned_buf::SharedBuf;
pub use facts::{DeviceFacts, Drive, WriteCache};
use file::DeviceFile;
use simulated::SimDisk;

/// The two legs of a mirror, and one that joins.
pub const LEGS_MAX: usize = 3;
/// So often is a request tried again that the kernel interrupted, had no room for or cut short.
const RETRIES_MAX: u32 = 64;

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
    pub leg: u8,
    pub operation: Operation,
    /// A multiple of the block.
    pub offset: u64,
    /// `None` for a flush. A read needs it to itself, writes may share it.
    pub buffer: Option<SharedBuf>,
    /// How much of the buffer: a multiple of the block.
    pub bytes: usize,
}

pub struct Done {
    pub tag: u64,
    pub leg: u8,
    pub operation: Operation,
    pub buffer: Option<SharedBuf>,
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
/// second. What the kernel interrupts, has no room for or cuts short is tried again by the device, so often and no more.
/// A durable write counts only when the kernel did it in one piece: after a short one it is repeated whole. After a failed
/// write or flush the caller stops writing. Dropping a device waits for what is in flight, but not for ever for what hangs.
pub trait BlockDevice: Send {
    /// Takes a request; it may be started only at the next `wait`.
    fn submit(&mut self, request: Request);

    /// Waits until at least one request is done, or the waker was used, or the time is over; appends what is done.
    /// `Err`: the device cannot be driven any more, nothing is known of what is in flight.
    fn wait(&mut self, wait: Wait, done: &mut Vec<Done>) -> io::Result<()>;

    /// Whether a `wait` would hand over something at once: cheap, for a thread that looks often. False when not known.
    fn is_ready(&mut self) -> bool {
        false
    }

    /// Ends a `wait` from another thread.
    fn waker(&self) -> Arc<dyn Wake>;

    /// Buffers that will be written often: the device may make them known to the kernel. Called once, before the first
    /// request that carries one. From then on the device is in use.
    fn adopt_frame_buffers(&mut self, _buffers: &mut [SharedBuf]) {}

    /// Takes another leg under a number that is free. A mirror opens with two; one that joins comes later, when the device
    /// is in use: then this waits for no I/O.
    fn add_leg(&mut self, leg: u8, medium: Medium) -> io::Result<()>;

    /// Lets a leg go. Call it after the last request to it is done.
    fn remove_leg(&mut self, leg: u8);

    /// Writes that may be in flight at once without putting the error report of a flush in doubt.
    fn writes_in_flight_max(&self) -> usize {
        usize::MAX
    }

    /// What is known of a leg.
    fn facts(&self, leg: u8) -> DeviceFacts;

    /// From now on writes to this leg become durable this way.
    fn set_flush(&mut self, leg: u8, how: Durable);

    /// How writes to this leg become durable, for people.
    fn durability(&self, leg: u8) -> String;

    /// Time as this device has it, in microseconds since some start: a simulated disk's goes with its steps.
    fn clock(&self) -> Clock {
        let start = Instant::now();
        Arc::new(move || start.elapsed().as_micros() as u64)
    }
}

pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What a leg is made of.
pub enum Medium {
    File(Arc<DeviceFile>),
    Simulated(SimDisk),
}

/// How a write becomes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durable {
    /// A write, and linked to it an fdatasync.
    LinkedSync,
    /// One write with `RWF_DSYNC`.
    Dsync,
}

impl std::fmt::Display for Durable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::LinkedSync => "write linked to fdatasync",
            Self::Dsync => "write with RWF_DSYNC",
        })
    }
}

pub trait Wake: Send + Sync {
    fn wake(&self);
}

/// How long a device that is dropped waits for the next thing to be done. Whatever hangs then keeps its buffers and its file,
/// and the lock on it.
#[cfg(not(test))]
const DROP_WAIT: Duration = Duration::from_secs(10);
#[cfg(test)]
const DROP_WAIT: Duration = Duration::from_millis(300);

/// One request, waited for. For recovery and opening, when nothing else is in flight.
pub(crate) fn run(
    device: &mut dyn BlockDevice,
    leg: u8,
    operation: Operation,
    offset: u64,
    buffer: Option<SharedBuf>,
    bytes: usize,
) -> (Option<SharedBuf>, io::Result<()>) {
    device.submit(Request { tag: 0, leg, operation, offset, buffer, bytes });
    let mut done = Vec::with_capacity(1);
    while done.is_empty() {
        if let Err(error) = device.wait(Wait::Forever, &mut done) {
            return (None, Err(error));
        }
    }
    let done = done.pop().expect("not empty");
    (done.buffer, done.result)
}

/// Of a durable write that the kernel never does in one piece.
fn stays_short() -> io::Error {
    io::Error::new(io::ErrorKind::WriteZero, "the kernel does not write it in one piece")
}

pub(crate) fn flush(device: &mut dyn BlockDevice, leg: u8) -> io::Result<()> {
    run(device, leg, Operation::Flush, 0, None, 0).1
}
