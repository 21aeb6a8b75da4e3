//! What every `BlockDevice` promises, shown on each: io_uring, pwritev2 inline and by threads, the simulated disk.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use seawall_wal_device::SharedBuf;
use seawall_wal_device::device::file::{Access, DeviceFile};
use seawall_wal_device::device::pwrite::PwriteDevice;
use seawall_wal_device::device::simulated::{SimDisk, SimDiskConfig};
use seawall_wal_device::device::uring::UringDevice;
use seawall_wal_device::device::{BlockDevice, Done, Operation, Request, Wait};

const BLOCK: usize = 4096;
const BLOCKS: usize = 256;

fn on_every_device(test: impl Fn(&mut dyn BlockDevice)) {
    let file = || {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device");
        std::fs::write(&path, vec![0; BLOCK * BLOCKS]).unwrap();
        let file = Arc::new(DeviceFile::open(&path, Access::Own).unwrap());
        (folder, file)
    };
    let (_folder, opened) = file();
    match UringDevice::new(opened) {
        Ok(mut device) => test(&mut device),
        Err(error) => println!("left out: io_uring is refused here: {error}"),
    }
    let (_folder, opened) = file();
    test(&mut PwriteDevice::inline(opened));
    let (_folder, opened) = file();
    test(&mut PwriteDevice::with_threads(opened, 3).unwrap());
    let bytes = (BLOCK * BLOCKS) as u64;
    let disk = SimDisk::new(1, SimDiskConfig { bytes, sector_bytes: 512, fua: false, lies_per_mille: 0 });
    test(&mut disk.device());
}

fn request(tag: u64, operation: Operation, block: usize, buffer: Option<SharedBuf>) -> Request {
    let bytes = buffer.as_ref().map_or(0, |buffer| buffer.len());
    Request { tag, leg: 0, operation, offset: (block * BLOCK) as u64, buffer, bytes }
}

fn filled(byte: u8, blocks: usize) -> SharedBuf {
    let mut buffer = SharedBuf::new(blocks * BLOCK);
    buffer.exclusive().fill(byte);
    buffer
}

fn wait_for(device: &mut dyn BlockDevice, count: usize) -> Vec<Done> {
    let mut done = Vec::new();
    while done.len() < count {
        device.wait(Wait::Forever, &mut done).unwrap();
    }
    done
}

#[test]
fn many_requests_at_once_all_finish_and_what_was_written_is_read() {
    on_every_device(|device| {
        let mut buffers: Vec<SharedBuf> = (0..4).map(|_| SharedBuf::new(2 * BLOCK)).collect();
        device.adopt_frame_buffers(&mut buffers);
        for i in 0..100 {
            let buffer = match buffers.pop() {
                Some(mut registered) => {
                    registered.exclusive().fill(i as u8);
                    registered
                }
                None => filled(i as u8, 2),
            };
            let operation = Operation::Write { durable: i % 2 == 0 };
            device.submit(request(i as u64, operation, 2 * i, Some(buffer)));
        }
        let mut tags: Vec<u64> =
            wait_for(device, 100).into_iter().map(|done| done.result.map(|()| done.tag).unwrap()).collect();
        tags.sort_unstable();
        assert_eq!(tags, (0..100).collect::<Vec<_>>());
        device.submit(request(0, Operation::Flush, 0, None));
        wait_for(device, 1).pop().unwrap().result.unwrap();
        for i in 0..100 {
            device.submit(request(i as u64, Operation::Read, 2 * i, Some(SharedBuf::new(2 * BLOCK))));
        }
        for done in wait_for(device, 100) {
            done.result.unwrap();
            assert!(done.buffer.unwrap().iter().all(|&byte| byte == done.tag as u8));
        }
    });
}

#[test]
fn a_read_beyond_the_end_is_an_error_and_gives_the_buffer_back() {
    on_every_device(|device| {
        // The simulated disk has no such case: its bounds are asserted.
        if device.durability(0).contains("simulated") {
            return;
        }
        device.submit(request(7, Operation::Read, BLOCKS - 1, Some(SharedBuf::new(2 * BLOCK))));
        let done = wait_for(device, 1).pop().unwrap();
        assert!(done.tag == 7 && done.result.is_err() && done.buffer.is_some());
    });
}

#[test]
fn a_wait_ends_when_its_time_is_over_or_the_waker_is_used() {
    on_every_device(|device| {
        let mut done = Vec::new();
        let start = Instant::now();
        device.wait(Wait::For(Duration::from_millis(20)), &mut done).unwrap();
        assert!(done.is_empty() && start.elapsed() >= Duration::from_millis(15), "{:?}", start.elapsed());
        let waker = device.waker();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            waker.wake();
        });
        device.wait(Wait::Forever, &mut done).unwrap();
        thread.join().unwrap();
        // A wake-up that comes first is not lost.
        device.waker().wake();
        device.wait(Wait::Forever, &mut done).unwrap();
        assert!(done.is_empty());
    });
}

#[test]
fn dropping_a_device_waits_for_what_is_in_flight() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("device");
    std::fs::write(&path, vec![0; BLOCK * BLOCKS]).unwrap();
    for (i, threads) in [(1u8, None), (2, Some(2))] {
        let file = Arc::new(DeviceFile::open(&path, Access::Own).unwrap());
        let mut device: Box<dyn BlockDevice> = match threads {
            Some(threads) => Box::new(PwriteDevice::with_threads(file, threads).unwrap()),
            None => match UringDevice::new(file) {
                Ok(device) => Box::new(device),
                Err(_) => continue,
            },
        };
        for block in 0..BLOCKS {
            device.submit(request(0, Operation::Write { durable: false }, block, Some(filled(i, 1))));
        }
        let mut done = Vec::new();
        device.wait(Wait::No, &mut done).unwrap();
        drop(device);
        // Open again at once: the lock is free and nothing is written any more.
        let _file = DeviceFile::open(&path, Access::Own).unwrap();
        let before = std::fs::read(&path).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(before, std::fs::read(&path).unwrap());
    }
}

/// What the kernel may answer instead of doing all that it was asked, on each engine and for both ways to durability.
#[cfg(feature = "fault-injection")]
mod mishaps {
    use seawall_wal_device::device::Durable;
    use seawall_wal_device::device::mishaps::{Act, Mishap};

    use super::*;

    const FIRST: usize = 8;
    const BYTES: usize = 4 * BLOCK;
    const OFFSET: u64 = (FIRST * BLOCK) as u64;
    const WRITE: Operation = Operation::Write { durable: true };
    const RETRIES_MAX: usize = 64;

    /// What each kind of request meets.
    const CASES: [(Operation, &[Mishap]); 17] = [
        (WRITE, &[Mishap::Interrupted]),
        (WRITE, &[Mishap::NoRoom]),
        (WRITE, &[Mishap::Short]),
        (WRITE, &[Mishap::Short, Mishap::Short]),
        (WRITE, &[Mishap::ShortAndFlushed]),
        (WRITE, &[Mishap::ShortAndFlushed, Mishap::Short]),
        (WRITE, &[Mishap::ShortAndFlushed, Mishap::FlushInterrupted]),
        (WRITE, &[Mishap::Interrupted, Mishap::Short, Mishap::NoRoom]),
        (WRITE, &[Mishap::FlushInterrupted]),
        (WRITE, &[Mishap::Short, Mishap::FlushInterrupted]),
        (Operation::Write { durable: false }, &[Mishap::Interrupted]),
        (Operation::Write { durable: false }, &[Mishap::NoRoom, Mishap::Short]),
        (Operation::Read, &[Mishap::Interrupted]),
        (Operation::Read, &[Mishap::Short]),
        (Operation::Read, &[Mishap::NoRoom, Mishap::Short]),
        (Operation::Flush, &[Mishap::Interrupted]),
        (Operation::Flush, &[Mishap::NoRoom]),
    ];

    /// An engine on a new file, with the way by which its writes become durable.
    struct Bed {
        device: Box<dyn BlockDevice>,
        file: Arc<DeviceFile>,
        how: Durable,
        _folder: tempfile::TempDir,
    }

    fn on_every_engine(test: impl Fn(&mut Bed)) {
        for how in [Durable::Dsync, Durable::LinkedSync] {
            for engine in 0..3 {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("device");
                std::fs::write(&path, vec![0; BLOCK * BLOCKS]).unwrap();
                let file = Arc::new(DeviceFile::open(&path, Access::Own).unwrap());
                let mut device: Box<dyn BlockDevice> = match engine {
                    0 => match UringDevice::new(file.clone()) {
                        Ok(device) => Box::new(device),
                        Err(error) => {
                            println!("left out: io_uring is refused here: {error}");
                            continue;
                        }
                    },
                    1 => Box::new(PwriteDevice::inline(file.clone())),
                    _ => Box::new(PwriteDevice::with_threads(file.clone(), 2).unwrap()),
                };
                device.set_flush(0, how);
                test(&mut Bed { device, file, how, _folder: folder });
            }
        }
    }

    impl Bed {
        fn run(&mut self, operation: Operation, buffer: Option<SharedBuf>) -> Done {
            self.device.submit(request(1, operation, FIRST, buffer));
            wait_for(self.device.as_mut(), 1).pop().unwrap()
        }

        /// A case has sense here: no flush follows a write that is durable by itself.
        fn has(&self, operation: Operation, mishaps: &[Mishap]) -> bool {
            operation != WRITE || self.how == Durable::LinkedSync || !mishaps.contains(&Mishap::FlushInterrupted)
        }

        /// Runs a request that meets these. `Err`: what was promised and is not so.
        fn judge(&mut self, operation: Operation, mishaps: &[Mishap]) -> Result<(), String> {
            let byte = 1 + mishaps.len() as u8;
            self.file.mishaps.forget();
            if operation == Operation::Read {
                self.run(WRITE, Some(filled(byte, 4))).result.unwrap();
            }
            self.file.mishaps.plan(mishaps);
            let buffer = match operation {
                Operation::Read => Some(SharedBuf::new(BYTES)),
                Operation::Write { .. } => Some(filled(byte, 4)),
                Operation::Flush => None,
            };
            let done = self.run(operation, buffer);
            done.result.map_err(|error| error.to_string())?;
            if self.file.mishaps.left() > 0 {
                return Err("it was done before all of this had come".into());
            }
            let acts = self.file.mishaps.acts();
            let there = || std::fs::read(&self.file.path).unwrap()[FIRST * BLOCK..][..BYTES].to_vec();
            let (bytes, kept) = match operation {
                Operation::Read => (done.buffer.unwrap().to_vec(), true),
                // The last write was whole, and durable by itself or by the flush behind it.
                Operation::Write { durable: true } => (there(), acts.ends_with(&self.whole())),
                Operation::Write { durable: false } => (there(), true),
                Operation::Flush => (vec![byte; BYTES], acts.ends_with(&[Act::Flush])),
            };
            match (bytes == [byte; BYTES], kept) {
                (true, true) => Ok(()),
                (false, _) => Err(format!("other bytes, after {acts:?}")),
                (true, false) => Err(format!("not durable in one piece: {acts:?}")),
            }
        }

        fn whole(&self) -> Vec<Act> {
            let write = |durable| Act::Write { offset: OFFSET, bytes: BYTES, durable };
            match self.how {
                Durable::Dsync => vec![write(true)],
                Durable::LinkedSync => vec![write(false), Act::Flush],
            }
        }
    }

    #[test]
    fn what_the_kernel_interrupts_or_cuts_short_is_tried_again_and_a_durable_write_whole() {
        on_every_engine(|bed| {
            for (operation, mishaps) in CASES {
                if bed.has(operation, mishaps) {
                    bed.judge(operation, mishaps).unwrap_or_else(|why| {
                        panic!("{operation:?}, {mishaps:?}, {}: {why}", bed.device.durability(0))
                    });
                }
            }
        });
    }

    /// The suite can fail.
    #[test]
    fn an_engine_that_tries_nothing_again_is_caught_each_time() {
        on_every_engine(|bed| {
            bed.file.mishaps.without_retry();
            for (operation, mishaps) in CASES {
                if bed.has(operation, mishaps) {
                    let judged = bed.judge(operation, mishaps);
                    assert!(judged.is_err(), "{operation:?}, {mishaps:?}, {}", bed.device.durability(0));
                }
            }
        });
    }

    #[test]
    fn nothing_is_tried_again_for_ever() {
        on_every_engine(|bed| {
            for operation in [WRITE, Operation::Read, Operation::Flush] {
                bed.file.mishaps.plan(&[Mishap::Interrupted; 2 * RETRIES_MAX]);
                let buffer = (operation != Operation::Flush).then(|| filled(1, 4));
                let done = bed.run(operation, buffer);
                let error = done.result.unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EINTR), "{operation:?}");
                assert_eq!(bed.file.mishaps.left(), 2 * RETRIES_MAX - RETRIES_MAX - 1, "{operation:?}");
                bed.file.mishaps.forget();
            }
            bed.file.mishaps.plan(&[Mishap::Short; 8 * RETRIES_MAX]);
            let error = bed.run(WRITE, Some(filled(1, 4))).result.unwrap_err();
            assert!(bed.file.mishaps.left() > 0, "{error}");
        });
    }
}
