//! What clients, operators and the world do to a running broker, one step at a time.

mod operators;
mod producing;
mod reading;

use std::sync::Arc;
use std::time::Duration;

use seawall::partition::Partition;
use seawall::read_path::Isolation;
use seawall_backends::faulty::Faults as StoreFaults;
use seawall_wal_device::device::simulated::SimRandom;

pub use operators::{clean, clean_at, create_named, create_topic, delete_records_of, delete_topic_of, retain};
use operators::{delete_records, delete_topic};
pub use producing::{append, append_to};
pub use reading::read_partition;
use reading::{look_up_time, read, read_all};

use crate::life::Life;
use crate::scrubs;
use crate::world::{World, pick};

const YEAR_MS: i64 = 365 * 24 * 3_600_000;

/// The weather of a life: which faults are about.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// The store fails now and then, or lies about what it reads.
    pub store_fails: bool,
    pub store_lies: bool,
    /// The disk was damaged on purpose.
    pub rot: bool,
}

/// One step. The name of what was done goes into the trace.
pub async fn step(world: &mut World, life: &Life, weather: &mut Weather) -> Result<(), String> {
    let mut random = SimRandom::new(world.random.next_u64());
    let now_ms = life.sim_clock.elapsed().as_millis();
    let what = match random.below(100) {
        0..=44 => append(world, life, &mut random),
        45..=48 => look_up_time(world, life, &mut random, *weather).await?,
        49..=61 => read(world, life, &mut random, *weather).await?,
        62..=64 => read_all(world, life, &mut random, *weather).await?,
        65..=67 => {
            tokio::spawn(clean(world, life));
            "log compaction".to_owned()
        }
        68 if random.chance(1, 4) => scrubs::in_the_background(world, life, &mut random),
        68..=76 => {
            tokio::time::sleep(Duration::from_millis(random.below(30))).await;
            "sleep".to_owned()
        }
        77..=78 => {
            tokio::time::sleep(Duration::from_millis(random.below(1_500))).await;
            "sleep long".to_owned()
        }
        79..=81 => {
            let uploader = life.uploader.clone();
            tokio::spawn(async move { uploader.flush().await });
            "flush".to_owned()
        }
        82..=84 => delete_records(world, life, &mut random).await?,
        85..=86 => {
            retain(world, life).await;
            "retention".to_owned()
        }
        87..=88 => create_topic(world, life, &mut random).await?,
        89 => delete_topic(world, life, &mut random).await?,
        90..=91 => lose_lease(world, life, &mut random).await?,
        92..=94 => change_store(world, life, &mut random, weather),
        95 => {
            // What is appended waits; everything else goes on.
            let span = Duration::from_millis(20 + random.below(1_500));
            let disk = world.disk.clone();
            disk.stick_all();
            tokio::spawn(async move {
                tokio::time::sleep(span).await;
                disk.release_stuck();
            });
            format!("the disk does nothing for {} ms", span.as_millis())
        }
        96 => {
            life.reader.clear_caches();
            "cold cache".to_owned()
        }
        97 => {
            let span_ms = pick(&mut random, &[20_000, 3_600_000, YEAR_MS]);
            let by_ms = if random.chance(1, 2) { span_ms } else { -span_ms };
            life.clock.jump_wall_clock(by_ms);
            format!("wall clock jumps by {by_ms}")
        }
        98 => {
            world.store.deliver().await;
            "late puts arrive".to_owned()
        }
        _ => {
            let steps = random.below(300);
            if random.chance(1, 3) {
                world.disk.fail_write_in(steps);
            } else {
                world.disk.cut_power_in(steps);
            }
            format!("disk trouble in {steps}")
        }
    };
    world.trace.note(format!("{now_ms}: {what}"));
    Ok(())
}

/// Open partitions, in the order of their streams.
pub fn partitions(life: &Life) -> Vec<Arc<Partition>> {
    let mut all = life.partitions.all();
    all.sort_by_key(|partition| partition.stream());
    all
}

fn some_partition(life: &Life, random: &mut SimRandom) -> Option<Arc<Partition>> {
    let all = partitions(life);
    (!all.is_empty()).then(|| all[random.below(all.len() as u64) as usize].clone())
}

/// The host sleeps, and metadata does not answer for a while: nothing may move until the lease is back.
async fn lose_lease(world: &World, life: &Life, random: &mut SimRandom) -> Result<String, String> {
    let outage = Duration::from_millis(20 + random.below(600));
    life.switches.pause_node(life.sim_clock.elapsed() + outage);
    life.sim_clock.host_sleeps(world.sizes.lease * 2);
    if life.storage.lease_valid() {
        return Err("a lease outlives twice its span".to_owned());
    }
    world.ledger().stats.lease_losses += 1;
    let all = partitions(life);
    let before: Vec<i64> = all.iter().map(|partition| partition.offsets().high_watermark).collect();
    tokio::time::sleep(outage / 2).await;
    if life.storage.lease_valid() {
        return Err("a lease was renewed by nobody".to_owned());
    }
    for (partition, before) in all.iter().zip(before) {
        if partition.offsets().high_watermark != before {
            return Err(format!("the high watermark of stream {} moved without a lease", partition.stream()));
        }
        let read = life.read_path.read(partition, before, 100, Isolation::ReadUncommitted, true).await;
        if read.is_ok() && !life.storage.lease_valid() {
            return Err(format!("stream {} was read without a lease", partition.stream()));
        }
    }
    Ok(format!("lease lost for {} ms", outage.as_millis()))
}

fn change_store(world: &World, life: &Life, random: &mut SimRandom, weather: &mut Weather) -> String {
    let mut faults = StoreFaults { delay_max: Duration::from_millis(400), ..StoreFaults::default() };
    let mut late = 0;
    let what = match random.below(5) {
        0 => {
            faults.error_before = 1_000;
            "away"
        }
        1 => {
            faults.truncated = 100;
            faults.corrupted = 100;
            faults.stale_listing = 300;
            faults.listing_begins_again = 100;
            "lies"
        }
        2 => "well",
        _ => {
            faults.error_before = random.below(300) as u32;
            faults.error_after = random.below(300) as u32;
            faults.late_success = random.below(200) as u32;
            faults.slow = random.below(500) as u32;
            late = random.below(200) as u32;
            "flaky"
        }
    };
    weather.store_fails = what == "away" || what == "flaky";
    weather.store_lies = what == "lies";
    life.store.set_faults(faults);
    world.store.set_late(late);
    format!("the store is {what}")
}
