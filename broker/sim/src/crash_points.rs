//! A short story of a broker, ended at each of its steps by turns, with the next life ended as well, and then a last one that shows
//! that nothing acked is lost, that nothing referenced is deleted, and that what nothing refers to goes.
//!
//! The story is the same each time up to where it ends: topics, batches, uploads, commits, trims, both compactions, DeleteRecords,
//! retention, a topic's deletion, and the deletion of objects. Every other story has joins within the store, and backups of metadata.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use seawall::compaction_plan::PlanLimits;
use seawall::faults::inject_here;
use seawall_metadata::{Command, State, TopicId};
use seawall_wal_device::device::simulated::SimRandom;
use uuid::Uuid;

use crate::clock::SimClock;
use crate::life::Life;
use crate::scenario::{Failure, Fault, begin, check_backups, in_process, show_everything};
use crate::stats::Stats;
use crate::steps::{Moment, Step};
use crate::workload::{self, Weather};
use crate::world::{BackupSizes, Sizes, World};
use crate::{checks, panics};

/// Where a story ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashPoint {
    /// Its seed: what is in the batches, how the disk works.
    pub story: u64,
    pub at: At,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// At this step of `steps.rs`.
    Step { number: usize, moment: Moment, power: Power },
    /// The power goes at this step of the disk.
    Disk(u64),
    /// It is told to its end.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// The process is killed: the disk keeps what it took.
    Stays,
    /// What the disk has not flushed is kept or lost.
    Goes,
}

/// `story:step:41:before:kill`, `story:step:41:after:cut`, `story:disk:17`.
impl fmt::Display for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            At::Step { number, moment, power } => {
                let moment = if moment == Moment::Before { "before" } else { "after" };
                let power = if power == Power::Stays { "kill" } else { "cut" };
                write!(f, "{}:step:{number}:{moment}:{power}", self.story)
            }
            At::Disk(step) => write!(f, "{}:disk:{step}", self.story),
            At::End => write!(f, "{}:end", self.story),
        }
    }
}

impl FromStr for CrashPoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
        let (story, at) = match parts[..] {
            [story, "end"] => (story, At::End),
            [story, "disk", step] => (story, At::Disk(number(step)?)),
            [story, "step", step, moment @ ("before" | "after"), power @ ("kill" | "cut")] => {
                let moment = if moment == "before" { Moment::Before } else { Moment::After };
                let power = if power == "kill" { Power::Stays } else { Power::Goes };
                (story, At::Step { number: number(step)? as usize, moment, power })
            }
            _ => return Err(format!("{text} is no crash point")),
        };
        Ok(Self { story: number(story)?, at })
    }
}

/// Every point of a story, and its steps by name.
pub fn points(story: u64) -> Result<(Vec<CrashPoint>, Vec<Step>), Box<Failure>> {
    let told = tell(CrashPoint { story, at: At::End }, None)?;
    let mut points = Vec::new();
    for (number, step) in told.steps.iter().enumerate() {
        let moments = [Moment::Before, Moment::After];
        for moment in &moments[..if step.has_effect { 2 } else { 1 }] {
            for power in [Power::Stays, Power::Goes] {
                points.push(At::Step { number, moment: *moment, power });
            }
        }
    }
    points.extend((0..told.disk_steps).map(At::Disk));
    Ok((points.into_iter().map(|at| CrashPoint { story, at }).collect(), told.steps))
}

/// Ends the story there, and sees what is left.
pub fn crash(point: CrashPoint, fault: Option<Fault>) -> Result<Stats, Box<Failure>> {
    tell(point, fault).map(|told| told.stats)
}

struct Told {
    steps: Vec<Step>,
    disk_steps: u64,
    stats: Stats,
}

fn tell(point: CrashPoint, fault: Option<Fault>) -> Result<Told, Box<Failure>> {
    panics::watch();
    inject_here(fault.and_then(Fault::of_broker));
    let mut world = World::new(point.story, fault);
    // By turns batches are read back from the WAL, and from memory.
    let log_cache_bytes = [3_000, 1 << 20, 0][point.story as usize % 3];
    world.sizes = Sizes { log_cache_bytes, ..SIZES };
    if point.story.is_multiple_of(2) {
        // Small streams share objects, and are not joined.
        world.sizes.backup = None;
        world.sizes.compaction.stream_object_bytes = 20_000;
    }
    world.has_wal = true;
    world.store.set_joins_wrong(0);
    let trace = world.trace.clone();
    let told = catch_unwind(AssertUnwindSafe(|| lives(&mut world, point)));
    let told = told.unwrap_or_else(|_| Err(format!("panic: {}", panics::seen().unwrap_or_default())));
    inject_here(None);
    panics::unwatch();
    told.map_err(|what| {
        let replay = format!("cargo xtask sim --crash {point}");
        Box::new(Failure { seed: point.story, what, events: trace.tail(), replay })
    })
}

/// All of it happens within a few seconds.
const SIZES: Sizes = Sizes {
    log_cache_bytes: 3_000,
    block_cache_bytes: 256 << 20,
    upload_bytes: 1 << 20,
    upload_interval: Duration::from_secs(3600),
    stream_object_bytes: 20_000,
    ack_interval: Duration::from_millis(60),
    ack_bytes: 8 << 20,
    uploads_in_flight: 2,
    reservation_ttl: Duration::from_secs(20),
    metadata_log_bytes: 4 << 10,
    lease: Duration::from_secs(9),
    cleaner_map_bytes: 1 << 20,
    cleaner_group_bytes: 8_000,
    delete_grace: Duration::from_millis(500),
    compaction: PlanLimits { objects_min: 2, stream_object_bytes: 1_000, object_bytes: 50_000 },
    compaction_tick: Duration::from_millis(40),
    merge_bytes: 5_000,
    backup: Some(BackupSizes {
        interval: Duration::from_millis(150),
        snapshot_interval: Duration::from_millis(400),
        kept: 2,
    }),
};

fn lives(world: &mut World, point: CrashPoint) -> Result<Told, String> {
    let disk_steps_before = world.disk.steps();
    let (step, power) = match point.at {
        At::Step { number, moment, power } => (Some((number, moment)), power),
        At::Disk(steps) => {
            world.disk.cut_power_in(steps);
            (None, Power::Goes)
        }
        At::End => (None, Power::Stays),
    };
    world.steps.begin(step);
    one_life(world, power, async |world, life| {
        let mut random = SimRandom::new(point.story);
        story(world, life, &mut random).await
    })?;
    let (steps, disk_steps) = (world.steps.finish(), world.disk.steps() - disk_steps_before);
    let last = match steps.last() {
        Some(step) if matches!(point.at, At::Step { .. }) => format!("ended at: {}", step.name),
        _ => format!("ended at {point}"),
    };
    world.trace.note(last);
    world.disk.forget_planned_faults();
    check_backups(world)?;

    if point.at != At::End {
        // The one that recovers ends as well, somewhere.
        let mut random = SimRandom::new(hashed(point));
        let moment = if random.chance(1, 2) { Moment::Before } else { Moment::After };
        world.steps.begin(Some((random.below(120) as usize, moment)));
        let power = if random.chance(1, 2) { Power::Stays } else { Power::Goes };
        one_life(world, power, async |world, life| go_on(world, life, &mut random).await)?;
        let ended = world.steps.finish().last().map_or(String::new(), |step| step.name.clone());
        world.trace.note(format!("the next life ended at: {ended}"));
        check_backups(world)?;
    }
    one_life(world, Power::Stays, async |world, life| {
        append_everywhere(world, life, &mut SimRandom::new(point.story)).await?;
        show_everything(world, life).await
    })?;
    check_backups(world)?;
    let stats = world.ledger().stats.clone();
    Ok(Told { steps, disk_steps, stats })
}

fn hashed(point: CrashPoint) -> u64 {
    point.to_string().bytes().fold(7, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Plays `what` in a broker of its own, until it is told or the broker ends.
fn one_life(
    world: &mut World,
    power: Power,
    what: impl AsyncFnOnce(&mut World, &Life) -> Result<(), String>,
) -> Result<(), String> {
    in_process(world, async |world, clock| {
        let steps = world.steps.clone();
        let played = tokio::select! {
            biased;
            () = steps.ended() => Ok(()),
            played = played(world, clock, what) => played,
        };
        match power {
            Power::Stays => world.disk.kill_process(),
            Power::Goes => world.disk.cut_power(),
        }
        // What a process that has ended makes of it does not count.
        if steps.is_dead() { Ok(()) } else { played }
    })?;
    let mut ledger = world.ledger();
    ledger.broker_died();
    ledger.stats.lives += 1;
    match ledger.violations.first() {
        Some(first) => Err(first.clone()),
        None => Ok(()),
    }
}

async fn played(
    world: &mut World,
    clock: Arc<SimClock>,
    what: impl AsyncFnOnce(&mut World, &Life) -> Result<(), String>,
) -> Result<(), String> {
    let crashes = world.disk.crashes();
    let began = begin(world, clock, false).await;
    // The power may have gone meanwhile.
    let is_dark = world.disk.crashes() > crashes;
    let life = match began {
        _ if is_dark => return Ok(()),
        began => began?.ok_or("no life")?,
    };
    let switches = life.switches.clone();
    tokio::select! {
        biased;
        () = switches.dark.notified() => Ok(()),
        told = what(world, &life) => told,
    }
}

async fn story(world: &mut World, life: &Life, random: &mut SimRandom) -> Result<(), String> {
    let topic = |n: u128| TopicId(Uuid::from_u128(n));
    for (n, name, partitions) in [(1, "plain-0", 2), (2, "keyed-0", 1), (3, "small-0", 1), (4, "safe-plain-0", 2)] {
        workload::create_named(world, life, name, topic(n), partitions).await?;
    }
    for _ in 0..3 {
        append_everywhere(world, life, random).await?;
        flush(world, life).await?;
    }
    clean(world, life, 0).await?;
    append_everywhere(world, life, random).await?;
    let partition = workload::partitions(life).into_iter().next().ok_or("no partition")?;
    workload::delete_records_of(world, life, &partition, partition.offsets().high_watermark / 2).await?;
    workload::retain(world, life).await;
    flush(world, life).await?;
    workload::delete_topic_of(world, life, topic(4)).await?;
    checks::step(world, life)?;
    // Its objects go, and those that were rewritten.
    grace_ends(world, life).await?;
    append_everywhere(world, life, random).await?;
    flush(world, life).await?;
    // Tombstones go.
    clean(world, life, 60_000).await?;
    grace_ends(world, life).await?;
    read_everything(world, life).await
}

/// What a broker does that has just recovered.
async fn go_on(world: &mut World, life: &Life, random: &mut SimRandom) -> Result<(), String> {
    read_everything(world, life).await?;
    append_everywhere(world, life, random).await?;
    flush(world, life).await?;
    clean(world, life, 0).await?;
    grace_ends(world, life).await?;
    read_everything(world, life).await
}

async fn grace_ends(world: &mut World, life: &Life) -> Result<(), String> {
    let now_ms = life.metadata.read(State::now_ms) + SIZES.delete_grace.as_millis() as u64 + 1;
    // Without an answer it comes later.
    let _ = life.metadata.propose(Command::AdvanceTime { now_ms }).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    if life.backup.is_some() {
        // Backups that still name them go first.
        tokio::time::sleep(SIZES.delete_grace * 2).await;
    }
    checks::step(world, life)
}

async fn append_everywhere(world: &mut World, life: &Life, random: &mut SimRandom) -> Result<(), String> {
    for partition in workload::partitions(life) {
        let done = workload::append_to(world, life, &partition, 2, random);
        world.trace.note(done);
    }
    for _ in 0..1_000 {
        if life.partitions.all().iter().all(|partition| {
            let offsets = partition.offsets();
            offsets.high_watermark == offsets.log_end
        }) {
            return checks::step(world, life);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err("batches are not answered".to_owned())
}

async fn flush(world: &mut World, life: &Life) -> Result<(), String> {
    let flushed = tokio::time::timeout(Duration::from_secs(60), life.uploader.flush()).await;
    if flushed != Ok(true) {
        return Err(format!("a flush: {flushed:?}"));
    }
    world.trace.note("flushed".to_owned());
    // Compaction comes round.
    tokio::time::sleep(SIZES.compaction_tick * 3).await;
    checks::step(world, life)
}

async fn clean(world: &mut World, life: &Life, ahead_ms: i64) -> Result<(), String> {
    let pass = workload::clean_at(world, life, life.clock.now_ms() + ahead_ms).await;
    world.trace.note(format!("log compaction: {pass:?}"));
    checks::step(world, life)
}

async fn read_everything(world: &mut World, life: &Life) -> Result<(), String> {
    life.reader.clear_caches();
    for partition in workload::partitions(life) {
        let end = partition.offsets().high_watermark;
        let read = workload::read_partition(world, life, &partition, Weather::default()).await?;
        if read != Ok(end) {
            return Err(format!("stream {} was read to {read:?} of {end}", partition.stream()));
        }
    }
    checks::step(world, life)
}
