//! The device under the WAL, watched from outside: every write with its bytes and its latency, from `submit` until its
//! completion was handed over. So that what is compared with another load on the same device does not rest on the WAL's own
//! figures.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use seawall_wal_device::SharedBuf;
use seawall_wal_device::device::file::DeviceFile;
use seawall_wal_device::device::pwrite::PwriteDevice;
use seawall_wal_device::device::uring::UringDevice;
use seawall_wal_device::device::{
    BlockDevice, Clock, DeviceFacts, Done, Durable, Medium, Operation, Request, Wait, Wake,
};

use super::histogram::Histogram;

/// Of the durable writes since the last `clear`.
#[derive(Default)]
pub struct Writes {
    pub bytes: u64,
    /// The integral of writes in flight over time: divided by the time it is the depth.
    pub sum_us: u64,
    pub latency: Histogram,
}

impl Writes {
    pub fn clear(&mut self) {
        (self.bytes, self.sum_us) = (0, 0);
        self.latency.clear();
    }
}

#[derive(Clone, Default)]
pub struct Observer(Arc<Mutex<Writes>>);

impl Observer {
    pub fn lock(&self) -> MutexGuard<'_, Writes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Plain system calls while recovery reads. The first durable write comes from the WAL's own thread: from there on it is
/// io_uring, whose rings belong to the thread that made them.
pub struct Observed {
    file: Arc<DeviceFile>,
    device: Box<dyn BlockDevice>,
    opened: bool,
    with_uring: bool,
    threads: usize,
    observer: Observer,
    in_flight: Vec<(u64, Instant, usize)>,
}

impl Observed {
    pub fn new(file: Arc<DeviceFile>, with_uring: bool, threads: usize, observer: Observer) -> Self {
        let device = Box::new(PwriteDevice::inline(file.clone()));
        Self { file, device, opened: false, with_uring, threads, observer, in_flight: Vec::with_capacity(64) }
    }

    fn open(&mut self) -> io::Result<()> {
        self.opened = true;
        self.device = if self.with_uring {
            Box::new(UringDevice::new(self.file.clone())?)
        } else {
            Box::new(PwriteDevice::with_threads(self.file.clone(), self.threads)?)
        };
        Ok(())
    }
}

impl BlockDevice for Observed {
    fn submit(&mut self, request: Request) {
        if request.operation == (Operation::Write { durable: true }) {
            if !self.opened {
                self.open().expect("this machine has io_uring and threads");
            }
            self.in_flight.push((request.tag, Instant::now(), request.bytes));
        }
        self.device.submit(request);
    }

    fn wait(&mut self, wait: Wait, done: &mut Vec<Done>) -> io::Result<()> {
        let before = done.len();
        let waited = self.device.wait(wait, done);
        if done.len() > before && !self.in_flight.is_empty() {
            let now = Instant::now();
            let mut writes = self.observer.lock();
            for done in &done[before..] {
                let Some(at) = self.in_flight.iter().position(|(tag, ..)| *tag == done.tag) else { continue };
                let (_, begun, bytes) = self.in_flight.swap_remove(at);
                let us = now.duration_since(begun).as_micros() as u64;
                writes.bytes += bytes as u64;
                writes.sum_us += us;
                writes.latency.add(us);
            }
        }
        waited
    }

    fn is_ready(&mut self) -> bool {
        self.device.is_ready()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.device.waker()
    }

    fn adopt_frame_buffers(&mut self, buffers: &mut [SharedBuf]) {
        self.device.adopt_frame_buffers(buffers);
    }

    fn add_leg(&mut self, leg: u8, medium: Medium) -> io::Result<()> {
        self.device.add_leg(leg, medium)
    }

    fn remove_leg(&mut self, leg: u8) {
        self.device.remove_leg(leg);
    }

    fn writes_in_flight_max(&self) -> usize {
        self.device.writes_in_flight_max()
    }

    fn facts(&self, leg: u8) -> DeviceFacts {
        self.device.facts(leg)
    }

    fn set_flush(&mut self, leg: u8, how: Durable) {
        self.device.set_flush(leg, how);
    }

    fn durability(&self, leg: u8) -> String {
        self.device.durability(leg)
    }

    fn clock(&self) -> Clock {
        self.device.clock()
    }
}
