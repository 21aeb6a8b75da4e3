//! The WAL thread: drives the engine until it ends.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::device::Wait;
use crate::engine::{Engine, Turn};
use crate::error::{IoError, WalError};
use crate::open::StartError;
use crate::shared::{Phase, Shared};

/// Makes the engine on its thread and runs it there: an io_uring may have a single issuer. Waits until it is made.
pub fn start(
    make: impl FnOnce() -> Result<(Engine, Arc<Shared>), StartError> + Send + 'static,
) -> Result<(Arc<Shared>, JoinHandle<()>), StartError> {
    let (tell, hear) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("wal".into()).spawn(move || match make() {
        Ok((engine, shared)) => {
            // If the opener has gone, the phase says so to the engine's first turn.
            let _ = tell.send(Ok(shared.clone()));
            run(engine, shared);
        }
        Err(error) => {
            let _ = tell.send(Err(error));
        }
    });
    let failed = |error| StartError::Ours(IoError::new("start the WAL thread", error));
    let thread = thread.map_err(failed)?;
    match hear.recv() {
        Ok(Ok(shared)) => Ok((shared, thread)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(failed(std::io::Error::other("it panicked"))),
    }
}

fn run(mut engine: Engine, shared: Arc<Shared>) {
    let _told = TellOfPanic(shared.clone());
    // One for an idle device, one while it writes: who comes back quickly differs.
    let mut patience = [Patience::default(); 2];
    while engine.turn() == Turn::Continue {
        let patience = &mut patience[usize::from(engine.is_writing())];
        if patience.spins() {
            // What was submitted must reach the device first.
            if engine.wait(Wait::No) == Turn::Finished {
                return;
            }
            if patience.spin(|| engine.has_work()) {
                gather(|| shared.queued_record_bytes());
                continue;
            }
        }
        let wait = engine.prepare_wait();
        let begun = Instant::now();
        if engine.wait(wait) == Turn::Finished {
            return;
        }
        if wait != Wait::No {
            patience.slept(begun.elapsed());
        }
    }
}

/// Waits while the queue still grows from one glance to the next: records that come together share a frame, as they do when
/// a wake-up gives them time.
fn gather(queued: impl Fn() -> u64) {
    const GLANCE: Duration = Duration::from_nanos(1_500);
    const GATHER_MAX: Duration = Duration::from_micros(30);
    let begun = Instant::now();
    let mut before = queued();
    while begun.elapsed() < GATHER_MAX {
        let glanced = Instant::now();
        while glanced.elapsed() < GLANCE {
            std::hint::spin_loop();
        }
        let now = queued();
        if now == before {
            return;
        }
        before = now;
    }
}

/// Whether to look for work for a moment before sleeping: a wake-up costs more than the moment, if work comes by then. It
/// goes by what the last waits took.
#[derive(Debug, Default, Clone, Copy)]
struct Patience {
    /// Short waits lately, minus long ones.
    credit: u8,
}

/// A sleep and its wake-up take some tens of microseconds.
const SPIN_MAX: Duration = Duration::from_micros(50);
/// Longer than a yield takes when nobody else wants the core.
const YIELD_MAX: Duration = Duration::from_micros(10);
const CREDIT_TO_SPIN: u8 = 4;
const CREDIT_MAX: u8 = 8;

impl Patience {
    fn spins(self) -> bool {
        self.credit >= CREDIT_TO_SPIN
    }

    /// Looks until there is work; false when the time is over.
    fn spin(&mut self, mut has_work: impl FnMut() -> bool) -> bool {
        let begun = Instant::now();
        loop {
            for _ in 0..16 {
                if has_work() {
                    self.credit = (self.credit + 1).min(CREDIT_MAX);
                    return true;
                }
                std::hint::spin_loop();
            }
            if begun.elapsed() >= SPIN_MAX {
                self.credit = self.credit.saturating_sub(2);
                return false;
            }
            // Others may need this core to come up with work: where they do, the WAL does not look.
            let yielded = Instant::now();
            std::thread::yield_now();
            if yielded.elapsed() >= YIELD_MAX {
                self.credit = 0;
                return false;
            }
        }
    }

    fn slept(&mut self, time: Duration) {
        match time <= SPIN_MAX {
            true => self.credit = (self.credit + 1).min(CREDIT_MAX),
            false => self.credit = self.credit.saturating_sub(1),
        }
    }
}

/// An assertion that fails in the WAL thread fails the WAL: nobody must wait for it for ever.
struct TellOfPanic(Arc<Shared>);

impl Drop for TellOfPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = WalError::Failed(IoError::new("run the WAL thread", std::io::Error::other("it panicked")));
            self.0.lock().phase = Phase::Failed(error.clone());
            self.0.status.send_modify(|status| status.failed = Some(error.clone()));
            self.0.end_completions(Some(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::config::{Expectation, FormatConfig, ScanFrom, WalConfig};
    use crate::device::simulated::{SimDevice, SimDisk, SimDiskConfig};
    use crate::device::{BlockDevice, Clock, DeviceFacts, Done, Durable, Medium, Operation, Request, Wake};
    use crate::format::RING_OFFSET;
    use crate::format_device::format_on;
    use crate::open::scan_on;
    use crate::types::{RecordHeader, SpaceClass};

    #[test]
    fn a_thread_looks_for_work_only_while_waits_are_short() {
        let mut patience = Patience::default();
        assert!(!patience.spins(), "it begins by sleeping");
        for _ in 0..CREDIT_TO_SPIN {
            patience.slept(Duration::from_micros(20));
        }
        assert!(patience.spins());
        assert!(patience.spin(|| true) && patience.spins());
        while patience.spins() {
            assert!(!patience.spin(|| false), "what looks in vain ends");
        }
        for _ in 0..100 {
            patience.slept(Duration::from_millis(1));
        }
        assert_eq!(patience.credit, 0);
    }

    #[test]
    fn what_comes_together_is_gathered_and_nothing_waits_for_long() {
        let still = Instant::now();
        gather(|| 7);
        assert!(still.elapsed() < Duration::from_millis(50));
        let (growing, grows) = (Instant::now(), std::cell::Cell::new(0));
        gather(|| grows.replace(grows.get() + 1));
        assert!(grows.get() >= 2 && growing.elapsed() < Duration::from_millis(50));
    }

    /// A bug of ours: frames behind the first one make it panic.
    struct Panics {
        device: SimDevice,
        frames: u32,
    }

    impl BlockDevice for Panics {
        fn submit(&mut self, request: Request) {
            let frame = request.operation != Operation::Read && request.offset >= RING_OFFSET;
            self.frames += u32::from(frame);
            assert!(self.frames < 2, "on purpose, for a test");
            self.device.submit(request);
        }

        fn wait(&mut self, wait: Wait, done: &mut Vec<Done>) -> io::Result<()> {
            self.device.wait(wait, done)
        }

        fn waker(&self) -> Arc<dyn Wake> {
            self.device.waker()
        }

        fn add_leg(&mut self, leg: u8, medium: Medium) -> io::Result<()> {
            self.device.add_leg(leg, medium)
        }

        fn remove_leg(&mut self, leg: u8) {
            self.device.remove_leg(leg);
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

    #[tokio::test]
    async fn a_thread_that_panics_fails_the_wal_and_tells_everyone_who_waits() {
        let bytes = RING_OFFSET + (1 << 20);
        let disk = SimDisk::new(1, SimDiskConfig { bytes, sector_bytes: 4096, fua: true, lies_per_mille: 0 });
        format_on(&mut disk.device(), bytes, &FormatConfig::new("simulated", 1 << 20, 1)).unwrap();
        let config = WalConfig { record_bytes_max: 50_000, ..WalConfig::new("simulated") };
        let device = Box::new(Panics { device: disk.device(), frames: 0 });
        let scanned = scan_on(device, bytes, &config, &Expectation::default(), ScanFrom::default()).unwrap();
        let (wal, mut completions) = scanned.open(1, Default::default()).unwrap();
        let header = RecordHeader { stream: 1, leader_epoch: 1, base_offset: 0, last_offset: 0 };
        let append = || {
            if let Ok(reservation) = wal.reserve(10, SpaceClass::Normal) {
                wal.append(reservation, header, bytes::Bytes::from_static(b"0123456789"), 0);
            }
        };
        append();
        let first = completions.next().await.unwrap();
        assert!(first.records.len() == 1 && first.failed.is_none());
        append();
        assert!(completions.next().await.unwrap().failed.is_some());
        assert!(wal.status().failed.is_some());
        assert!(wal.read(first.records[0].position, header).await.is_err());
        assert!(wal.close().await.is_err());
    }
}
