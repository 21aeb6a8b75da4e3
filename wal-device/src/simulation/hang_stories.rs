//! Stories of a leg that does not answer: on simulated disks, and on files through both real engines.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::mirror_stories::{Life, Mirror, at_of, format_joining, header, new_disk};
use crate::SpaceClass;
use crate::config::{Expectation, Faults, FormatConfig, LegSet, ScanFrom, WalConfig};
use crate::device::file::{Access, DeviceFile};
use crate::device::mishaps::Mishap;
use crate::device::pwrite::PwriteDevice;
use crate::device::uring::UringDevice;
use crate::device::{BlockDevice, Medium, Wait};
use crate::engine::Turn;
use crate::open::scan_legs_on;
use crate::status::{AlarmKind, LegState};
use crate::watchdog::StuckWatch;

/// A mirror that gives a leg so many steps.
fn impatient() -> Mirror {
    let mut mirror = Mirror::new(Faults::default());
    mirror.config.stuck_after = Duration::from_micros(300);
    mirror.config.stuck_drop_after = Some(Duration::from_micros(600));
    mirror
}

fn look(watch: &mut StuckWatch, life: &mut Life) {
    watch.look(life.wal.shared());
    life.steps(60);
}

fn failed(life: &Life) -> Vec<bool> {
    life.wal.status().legs.iter().map(|leg| matches!(leg.state, LegState::Failed(_))).collect()
}

#[test]
fn a_leg_that_hangs_is_dropped_like_a_failed_one_and_its_buffers_stay_its_own() {
    let (mirror, mut watch) = (impatient(), StuckWatch::default());
    let mut life = mirror.open();
    life.append_and_wait(5);
    mirror.disks[1].stick_next();
    life.append(2);
    life.steps(60);
    look(&mut watch, &mut life);
    assert_eq!(failed(&life), [false, false], "it is given its time");
    life.steps(600);
    look(&mut watch, &mut life);
    assert_eq!((failed(&life), life.records.len()), (vec![false, true], 5), "held until metadata has dropped it");
    assert!(matches!(life.wal.status().alarms[..], [ref alarm] if matches!(alarm.kind, AlarmKind::Hung { .. })));
    life.wal.drop_leg(mirror.legs[1], 2);
    life.append_and_wait(60);
    look(&mut watch, &mut life);
    assert_eq!(life.wal.status().stuck, None, "nobody waits for it any more");
    // What hung comes back late and writes what it was given.
    mirror.disks[1].release_stuck();
    life.append_and_wait(20);
    let there = |disk: usize| mirror.disks[disk].peek(at_of(&life, 5), 100);
    assert_eq!((there(0), there(1)), (vec![5; 100], vec![5; 100]));
}

#[test]
fn a_read_from_a_leg_that_hangs_is_answered_by_the_other_one() {
    let (mirror, mut watch) = (impatient(), StuckWatch::default());
    let mut life = mirror.open();
    life.append_and_wait(6);
    mirror.disks[0].stick_next();
    let (wal, record) = (life.wal.clone(), life.records[3]);
    let mut reading = pin!(wal.read(record.position, header(record.token)));
    assert!(reading.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    life.append(1);
    life.steps(1500);
    look(&mut watch, &mut life);
    assert_eq!(failed(&life), [true, false]);
    assert_eq!(life.until(reading).unwrap(), vec![3; 1000]);
    life.wal.drop_leg(mirror.legs[0], 2);
    life.append_and_wait(20);
    assert_eq!(life.read(12).unwrap(), vec![12; 1000]);
}

#[test]
fn a_leg_is_not_given_up_for_one_that_is_dead() {
    for hangs in [true, false] {
        let (mirror, mut watch) = (impatient(), StuckWatch::default());
        let mut life = mirror.open();
        life.append_and_wait(5);
        // Nobody knows: nothing is written.
        mirror.disks[0].die_in(0);
        let (wal, record) = (life.wal.clone(), life.records[3]);
        let mut reading = pin!(wal.read(record.position, header(record.token)));
        if hangs {
            mirror.disks[1].stick_all();
            for _ in 0..1500 {
                assert!(reading.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                life.steps(1);
            }
            watch.look(life.wal.shared());
        } else {
            mirror.disks[1].fail_write_in(0);
            life.append(1);
        }
        for _ in 0..200 {
            life.steps(1);
            assert!(!failed(&life).contains(&true) || life.wal.failed().is_some(), "one would be dropped");
        }
        assert_eq!(failed(&life), [true, true]);
        // Both are in the set still: the next start goes on with the one that lives.
        mirror.disks[1].cut_power();
        drop(life);
        mirror.disks[1].release_stuck();
        let set = LegSet { epoch: 2, legs: vec![mirror.legs[1]] };
        let from = ScanFrom { opened_at: vec![(1, crate::Lsn(0))], legs: Some(set), ..ScanFrom::default() };
        let (device, bytes) = (Box::new(mirror.disks[1].device()), [mirror.disks[1].bytes()]);
        let scanned = scan_legs_on(device, &bytes, &mirror.config, &Expectation::default(), from).unwrap();
        assert_eq!((scanned.records.len() >= 5, scanned.damage), (true, None));
    }
}

#[test]
fn a_leg_that_hung_and_came_back_answers_what_the_other_one_cannot() {
    let (mirror, mut watch) = (impatient(), StuckWatch::default());
    let mut life = mirror.open();
    life.append_and_wait(6);
    let unreadable = |life: &Life, i: usize| mirror.disks[0].make_unreadable(at_of(life, i));
    unreadable(&life, 3);
    mirror.disks[1].stick_all();
    life.append(1);
    life.steps(1500);
    look(&mut watch, &mut life);
    assert_eq!(failed(&life), [false, true]);
    assert!(life.read(3).is_err(), "nobody waits for what hangs");
    mirror.disks[1].release_stuck();
    life.steps(100);
    assert_eq!(life.read(3).unwrap(), vec![3; 1000]);
    // It hangs again, with a reader.
    unreadable(&life, 4);
    mirror.disks[1].stick_all();
    let (wal, record) = (life.wal.clone(), life.records[4]);
    let mut reading = pin!(wal.read(record.position, header(record.token)));
    for _ in 0..1500 {
        assert!(reading.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        life.read(5).unwrap();
    }
    look(&mut watch, &mut life);
    assert!(life.until(reading).is_err());
    assert_eq!(life.wal.status().alarms.len(), 1);
    mirror.disks[1].release_stuck();
    life.steps(100);
    assert_eq!(life.read(4).unwrap(), vec![4; 1000]);
    life.wal.drop_leg(mirror.legs[1], 2);
    life.append_and_wait(20);
}

#[test]
fn when_both_legs_hang_none_is_dropped() {
    let (mirror, mut watch) = (impatient(), StuckWatch::default());
    let mut life = mirror.open();
    life.append_and_wait(5);
    mirror.disks.iter().for_each(|disk| disk.stick_next());
    life.append(1);
    life.steps(3000);
    look(&mut watch, &mut life);
    assert_eq!((failed(&life), life.records.len()), (vec![false, false], 5));
    assert!(life.wal.status().stuck.is_some());
    mirror.disks.iter().for_each(|disk| disk.release_stuck());
    life.append_and_wait(5);
}

/// A mirror that waits for its own legs for ever.
fn patient() -> Mirror {
    let mut mirror = Mirror::new(Faults::default());
    mirror.config.stuck_after = Duration::from_micros(300);
    mirror
}

#[test]
fn a_device_that_hangs_while_it_is_copied_to_holds_no_acknowledgement() {
    let (mirror, mut watch) = (patient(), StuckWatch::default());
    let mut life = mirror.open();
    life.append_and_wait(60);
    let third = new_disk(3);
    let wal = life.wal.clone();
    let like = life.until(wal.template()).unwrap();
    let leg = format_joining(&third, &like);
    third.stick_all();
    let mut joining = pin!(wal.join_medium(leg, Medium::Simulated(third.clone()), |_, _| ()));
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..100 {
        assert!(joining.as_mut().poll(&mut context).is_pending(), "it hangs");
        life.append_and_wait(1);
    }
    life.steps(3000);
    look(&mut watch, &mut life);
    let error = life.until(joining).unwrap_err().to_string();
    assert!(error.contains("it has not answered for"), "{error}");
    assert_eq!((life.wal.status().legs.len(), life.wal.status().alarms.len()), (2, 0));
    third.release_stuck();
    life.append_and_wait(20);
}

/// Under appends, at each step: in the end, when the acknowledgements wait for it, they do no longer than an I/O may take.
#[test]
fn wherever_a_device_hangs_while_it_joins_it_is_let_go_and_acknowledgements_go_on() {
    let mut hung = 0;
    for after in 0.. {
        let (mirror, mut watch) = (patient(), StuckWatch::default());
        let mut life = mirror.open();
        life.append_and_wait(60);
        let third = new_disk(3);
        let wal = life.wal.clone();
        let like = life.until(wal.template()).unwrap();
        let leg = format_joining(&third, &like);
        let mut joining = pin!(wal.join_medium(leg, Medium::Simulated(third.clone()), |_, _| ()));
        let mut context = Context::from_waker(Waker::noop());
        for step in 0..after {
            if step % 4 == 0 {
                life.append(1);
            }
            assert!(joining.as_mut().poll(&mut context).is_pending());
            life.steps(1);
        }
        third.stick_all();
        life.append(1);
        let mut joined = None;
        for _ in 0..1200 {
            if joined.is_none()
                && let Poll::Ready(result) = joining.as_mut().poll(&mut context)
            {
                joined = Some(result);
            }
            life.steps(1);
        }
        if matches!(joined, Some(Ok(()))) {
            // Nothing was left to do: it waits for metadata.
            break;
        }
        hung += 1;
        look(&mut watch, &mut life);
        assert!(joined.is_none() && life.until(joining).is_err(), "after {after} steps");
        life.append_and_wait(5);
        assert_eq!(life.wal.status().legs.len(), 2);
        third.release_stuck();
        life.append_and_wait(5);
    }
    assert!(hung > 10, "{hung}");
}

/// Two files, which can be told to hang, under a device of one of the engines.
struct OnFiles {
    files: [Arc<DeviceFile>; 2],
    device: Box<dyn BlockDevice>,
    _folder: tempfile::TempDir,
}

/// `None`: this machine refuses io_uring.
fn on_files(uring: bool) -> Option<OnFiles> {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| folder.path().join(name));
    let format = FormatConfig { mirror: Some(paths[1].clone()), ..FormatConfig::new(&paths[0], 4 << 20, 1) };
    crate::format(&format).unwrap();
    let files = paths.map(|path| Arc::new(DeviceFile::open(&path, Access::Own).unwrap()));
    let mut device: Box<dyn BlockDevice> = match uring {
        true => Box::new(UringDevice::new(files[0].clone()).ok()?),
        false => Box::new(PwriteDevice::with_threads(files[0].clone(), 4).unwrap()),
    };
    device.add_leg(1, Medium::File(files[1].clone())).unwrap();
    Some(OnFiles { files, device, _folder: folder })
}

#[test]
fn a_wal_on_files_goes_on_without_one_that_hangs_and_closes() {
    for uring in [true, false] {
        let Some(OnFiles { files, device, _folder }) = on_files(uring) else { continue };
        let config = WalConfig {
            record_bytes_max: 50_000,
            stuck_after: Duration::from_millis(20),
            stuck_drop_after: Some(Duration::from_millis(40)),
            ..WalConfig::new(&files[0].path)
        };
        let bytes = [files[0].bytes, files[1].bytes];
        let scanned = scan_legs_on(device, &bytes, &config, &Expectation::default(), ScanFrom::default()).unwrap();
        let legs: Vec<_> = scanned.legs.iter().map(|leg| leg.leg).collect();
        let (wal, completions, engine) = scanned.open_stepped(1, (Uuid::nil(), Uuid::nil())).unwrap();
        let mut life = Life { wal, completions, engine, records: Vec::new(), next: 0 };
        let until = Instant::now() + Duration::from_secs(30);
        let run = |life: &mut Life, count: usize| {
            while life.records.len() < count && Instant::now() < until {
                if life.next < count as u64 {
                    life.append(1);
                }
                life.steps(1);
            }
        };
        run(&mut life, 20);
        files[1].mishaps.plan(&[Mishap::Hangs]);
        life.append(3);
        let mut watch = StuckWatch::default();
        while failed(&life) != [false, true] && Instant::now() < until {
            life.steps(1);
            watch.look(life.wal.shared());
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!((failed(&life), life.records.len()), (vec![false, true], 20), "io_uring {uring}");
        life.wal.drop_leg(legs[1], 2);
        run(&mut life, 400);
        assert_eq!(life.records.len(), 400, "io_uring {uring}");
        assert!(life.wal.reserve(1, SpaceClass::Normal).is_ok());
        life.wal.start_close();
        while life.engine.turn() == Turn::Continue && Instant::now() < until {
            life.engine.wait(Wait::For(Duration::from_millis(1)));
        }
        // Nothing waits for ever for what hangs.
        drop(life);
        assert!(Instant::now() < until, "io_uring {uring}");
        let set = LegSet { epoch: 2, legs: vec![legs[0]] };
        let from = ScanFrom { opened_at: vec![(1, crate::Lsn(0))], legs: Some(set), ..ScanFrom::default() };
        let device = Box::new(PwriteDevice::inline(files[0].clone()));
        let scanned = scan_legs_on(device, &bytes[..1], &config, &Expectation::default(), from).unwrap();
        assert_eq!((scanned.records.len(), scanned.clean_shutdown), (400, true));
        files[1].mishaps.release();
    }
}
