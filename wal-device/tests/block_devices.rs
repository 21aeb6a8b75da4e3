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
