//! A seed's story: a few lives of a broker, each ended in another way, then a last one in fair weather that shows everything.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use seawall::faults::{Fault as BrokerFault, inject_here};
use seawall::log_cleaner::Pass;
use seawall::storage_engine::close_wals;
use seawall_backends::faulty::Faults as StoreFaults;
use seawall_backends::{Backend, Purpose, Segments};
use seawall_wal_device::device::simulated::SimRandom;
use seawall_wal_device::format::RING_OFFSET;

use crate::clock::SimClock;
use crate::life::{self, Life, StartError};
use crate::stats::Stats;
use crate::workload::{self, Weather};
use crate::world::World;
use crate::{backups, checks, panics, restores, scrubs};

/// A promise that is broken on purpose, to see that it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    AckEarly,
    /// Under ack class `backend`, before the commit.
    AckBeforeCommit,
    /// The same on a broker without a WAL.
    AckFromMemory,
    ReuseOffset,
    DropRecord,
    DropLiveKey,
    IgnoreHorizon,
    IndexUncommitted,
    SkipFlush,
    SkipCrc,
    CommitBeforePut,
    TrimEarly,
    /// The WAL takes a slot again that was not trimmed.
    ReuseSlot,
    StaleIndex,
    /// What a store has joined is believed, and it joins something else.
    JoinUnseen,
    DeleteReferenced,
    KeepOrphans,
    /// Now and then a piece of metadata's backup is left out.
    BackupGap,
    /// What a snapshot that is kept still names is deleted.
    DeleteInWindow,
    /// A scrub that is to delete orphans leaves them.
    ScrubSpares,
    /// A restore gives offsets out again.
    NoOffsetJump,
    /// A broker whose incarnation was ended commits what it has put.
    CommitAfterEnd,
    /// Retention and compaction go by a wall clock that jumps.
    TrustWallClock,
}

impl Fault {
    /// Those that are in the broker's own code.
    pub fn of_broker(self) -> Option<BrokerFault> {
        Some(match self {
            Fault::AckEarly => BrokerFault::AckEarly,
            Fault::AckBeforeCommit | Fault::AckFromMemory => BrokerFault::AckBeforeCommit,
            Fault::JoinUnseen => BrokerFault::JoinUnseen,
            Fault::ReuseOffset => BrokerFault::ReuseOffset,
            Fault::DropRecord => BrokerFault::DropRecord,
            Fault::DropLiveKey => BrokerFault::DropLiveKey,
            Fault::IgnoreHorizon => BrokerFault::IgnoreHorizon,
            Fault::IndexUncommitted => BrokerFault::IndexUncommitted,
            Fault::SkipCrc => BrokerFault::SkipCrc,
            Fault::CommitBeforePut => BrokerFault::CommitBeforePut,
            Fault::TrimEarly => BrokerFault::TrimEarly,
            Fault::StaleIndex => BrokerFault::StaleIndex,
            Fault::DeleteReferenced => BrokerFault::DeleteReferenced,
            Fault::KeepOrphans => BrokerFault::KeepOrphans,
            Fault::BackupGap => BrokerFault::BackupGap,
            Fault::SkipFlush
            | Fault::ReuseSlot
            | Fault::DeleteInWindow
            | Fault::ScrubSpares
            | Fault::NoOffsetJump
            | Fault::CommitAfterEnd
            | Fault::TrustWallClock => return None,
        })
    }

    /// Those of backups and restores.
    pub fn needs_backup(self) -> bool {
        matches!(self, Fault::BackupGap | Fault::DeleteInWindow | Fault::NoOffsetJump | Fault::CommitAfterEnd)
    }

    /// Those of the WAL, and of what is acked because of it.
    pub fn needs_wal(self) -> bool {
        matches!(
            self,
            Fault::AckEarly
                | Fault::AckBeforeCommit
                | Fault::ReuseOffset
                | Fault::SkipFlush
                | Fault::SkipCrc
                | Fault::TrimEarly
                | Fault::ReuseSlot
        )
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub stats: Stats,
    /// Over the log of events.
    pub hash: (u64, u64),
}

/// A broken promise.
#[derive(Debug)]
pub struct Failure {
    pub seed: u64,
    pub what: String,
    pub events: Vec<String>,
    /// The command that shows it again.
    pub replay: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for event in &self.events {
            writeln!(f, "  {event}")?;
        }
        writeln!(f, "seed {}: {}", self.seed, self.what)?;
        write!(f, "replay: {}", self.replay)
    }
}

/// Plays one seed.
pub fn run(seed: u64, fault: Option<Fault>) -> Result<Report, Box<Failure>> {
    panics::watch();
    inject_here(fault.and_then(Fault::of_broker));
    let mut world = World::new(seed, fault);
    let trace = world.trace.clone();
    let story = catch_unwind(AssertUnwindSafe(|| story(&mut world)));
    let told = match story {
        Ok(told) => told,
        Err(_) => Err(format!("panic: {}", panics::seen().unwrap_or_default())),
    };
    inject_here(None);
    panics::unwatch();
    match told {
        Ok(()) => Ok(Report { stats: world.ledger().stats.clone(), hash: trace.hash() }),
        Err(what) => {
            let replay = format!("cargo xtask sim --seed {seed}");
            Err(Box::new(Failure { seed, what, events: trace.tail(), replay }))
        }
    }
}

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Kill,
    PowerCut,
    CleanStop,
    /// The disk did it: power was cut at some step.
    Dark,
    /// Nothing is to come.
    Story,
}

fn story(world: &mut World) -> Result<(), String> {
    let lives = 2 + world.random.below(4);
    for number in 0..=lives {
        let last = number == lives;
        let rot = last && world.random.chance(1, 2);
        one_life(world, last)?;
        check_backups(world)?;
        let often = if world.fault.is_some_and(Fault::needs_backup) { 2 } else { 10 };
        if !last && restores::can_restore(world) && world.random.chance(1, often) {
            restores::disaster(world)?;
            check_backups(world)?;
        }
        if rot {
            damage(world)?;
        }
    }
    Ok(())
}

pub(crate) fn check_backups(world: &mut World) -> Result<(), String> {
    in_process(world, async |world, _| backups::check(world).await)
}

/// A runtime is a process: dropped, everything in it stops where it is.
fn one_life(world: &mut World, last: bool) -> Result<(), String> {
    world.ledger().stats.lives_without_wal += u64::from(!world.has_wal);
    let end = in_process(world, async |world, clock| {
        let end = match last {
            true => last_life(world, clock).await,
            false => stormy_life(world, clock).await,
        };
        // What is in flight then is cut off where it is, or finished.
        match end {
            Ok(End::PowerCut) => world.disk.cut_power(),
            Ok(End::Kill) if world.random.chance(1, 2) => world.disk.kill_process(),
            _ => {}
        }
        end
    })?;
    world.trace.note(format!("the life ends: {end:?}"));
    {
        let mut ledger = world.ledger();
        ledger.broker_died();
        ledger.stats.lives += 1;
        match end {
            End::Kill => ledger.stats.kills += 1,
            End::PowerCut | End::Dark => ledger.stats.power_cuts += 1,
            End::CleanStop => ledger.stats.clean_stops += 1,
            End::Story => {}
        }
    }
    world.disk.kill_process();
    world.disk.release_stuck();
    world.disk.forget_planned_faults();
    Ok(())
}

pub(crate) fn in_process<R>(world: &mut World, life: impl AsyncFnOnce(&mut World, Arc<SimClock>) -> R) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O needs nothing");
    let (ended, elapsed) = runtime.block_on(async {
        let clock = Arc::new(SimClock::new(world.elapsed));
        let ended = life(world, clock.clone()).await;
        (ended, clock.elapsed())
    });
    world.elapsed = elapsed;
    ended
}

/// Starts a broker and checks what it recovered. `None`: it died, or the disk did, before it served.
pub(crate) async fn begin(world: &mut World, clock: Arc<SimClock>, storm: bool) -> Result<Option<Life>, String> {
    if storm && world.random.chance(1, 6) {
        let steps = world.random.below(60);
        world.disk.cut_power_in(steps);
    }
    let dies = storm && world.random.chance(1, 10);
    let patience = if dies { world.random.below(60) } else { 3_600_000 };
    let started = tokio::time::timeout(Duration::from_millis(patience), life::start(world, clock)).await;
    if let Some(panic) = panics::seen() {
        return Err(format!("panic: {panic}"));
    }
    let life = match started {
        Err(_) if dies => {
            world.ledger().stats.crashes_in_start += 1;
            return Ok(None);
        }
        Err(_) => return Err("the broker does not start".to_owned()),
        Ok(Err(StartError::Disk(_))) if storm => {
            world.ledger().stats.crashes_in_start += 1;
            return Ok(None);
        }
        Ok(Err(StartError::Damaged(why))) => return Err(format!("damage without a cause: {why}")),
        Ok(Err(error)) => return Err(format!("the broker does not start: {error:?}")),
        Ok(Ok(life)) => life,
    };
    note_recovery(world, &life)?;
    Ok(Some(life))
}

fn note_recovery(world: &World, life: &Life) -> Result<(), String> {
    let mut ledger = world.ledger();
    let mut opened = Vec::new();
    for partition in life.partitions.all() {
        let offsets = partition.offsets();
        ledger.recovered(partition.stream(), offsets.log_start, offsets.log_end);
        opened.push((partition.stream(), offsets.log_start, offsets.log_end));
    }
    opened.sort();
    world.trace.note(format!("recovered {opened:?}"));
    for stream in ledger.streams() {
        if !opened.iter().any(|(known, ..)| *known == stream) && !ledger.vanished(stream) {
            return Err(format!("stream {stream} is gone after a restart"));
        }
    }
    match ledger.violations.first() {
        Some(first) => Err(first.clone()),
        None => Ok(()),
    }
}

async fn stormy_life(world: &mut World, clock: Arc<SimClock>) -> Result<End, String> {
    let Some(life) = begin(world, clock, true).await? else { return Ok(End::Dark) };
    let end = tokio::select! {
        biased;
        // A power cut stops everything where it is.
        () = life.switches.dark.notified() => return Ok(End::Dark),
        end = storm(world, &life) => end?,
    };
    if end == End::CleanStop { stop(world, &life).await } else { Ok(end) }
}

async fn storm(world: &mut World, life: &Life) -> Result<End, String> {
    let steps = 20 + world.random.below(200);
    storm_on(world, life, &mut Weather::default(), steps).await?;
    if life.wal_has_failed() {
        return Ok(End::Kill);
    }
    checks::replay(world, life)?;
    note_joins(world, life);
    Ok(match world.random.below(5) {
        0 | 1 => End::Kill,
        2 | 3 => End::PowerCut,
        _ => End::CleanStop,
    })
}

fn note_joins(world: &World, life: &Life) {
    world.ledger().stats.joins += life.joins.status().merges;
}

/// So many steps, or until the broker ends itself for a reason that it may have.
pub(crate) async fn storm_on(world: &mut World, life: &Life, weather: &mut Weather, steps: u64) -> Result<(), String> {
    if life.partitions.all().is_empty() {
        let mut random = SimRandom::new(world.random.next_u64());
        workload::create_topic(world, life, &mut random).await?;
    }
    let mut after_failure = 0;
    for _ in 0..steps {
        workload::step(world, life, weather).await?;
        checks::step(world, life)?;
        if life.wal_has_failed() {
            // What was acked is uploaded and read for a while longer.
            if after_failure == 0 {
                world.ledger().stats.wal_failures += 1;
            }
            after_failure += 1;
            if after_failure > 20 {
                return Ok(());
            }
        } else if let Some(why) = has_failed(life) {
            return Err(format!("the broker stops: {why}"));
        }
    }
    Ok(())
}

pub(crate) fn has_failed(life: &Life) -> Option<String> {
    use std::future::Future;
    use std::task::{Context, Poll, Waker};
    let mut failed = std::pin::pin!(life.tasks.failed());
    match failed.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(why) => Some(why),
        Poll::Pending => None,
    }
}

/// As the node stops.
async fn stop(world: &mut World, life: &Life) -> Result<End, String> {
    world.disk.forget_planned_faults();
    if world.random.chance(1, 2) {
        let flush = life.uploader.flush();
        let _ = tokio::time::timeout(Duration::from_secs(5), flush).await;
    }
    life.tasks.begin_stop();
    close_wals(&life.partitions).await;
    if !life.tasks.stopped(Duration::from_secs(60)).await {
        return Err("the tasks do not stop".to_owned());
    }
    checks::step(world, life)?;
    Ok(End::CleanStop)
}

/// Fair weather: everything is uploaded, and everything is read from every tier.
async fn last_life(world: &mut World, clock: Arc<SimClock>) -> Result<End, String> {
    world.store.set_late(0);
    world.store.deliver().await;
    let Some(life) = begin(world, clock, false).await? else { return Err("no last life".to_owned()) };
    life.store.set_faults(StoreFaults::default());
    show_everything(world, &life).await?;
    Ok(End::Story)
}

/// In fair weather: all that there is can be read, uploaded, compacted, cleaned, and what nothing refers to goes.
pub(crate) async fn show_everything(world: &mut World, life: &Life) -> Result<(), String> {
    let fair = Weather::default();
    for round in 0..2 {
        life.reader.clear_caches();
        for partition in life.partitions.all() {
            let (stream, offsets) = (partition.stream(), partition.offsets());
            if partition.config().cleanup_compact {
                world.ledger().view_begins(stream);
            }
            let (end, read) = (offsets.high_watermark, workload::read_partition(world, life, &partition, fair).await?);
            if read != Ok(end) {
                return Err(format!("stream {stream} was read to {read:?} of {end}"));
            }
            world.ledger().view_ends(stream, offsets.log_start, end);
        }
        checks::step(world, life)?;
        if round == 0 {
            let flushed = tokio::time::timeout(Duration::from_secs(600), life.uploader.flush()).await;
            if flushed != Ok(true) {
                return Err(format!("a flush in fair weather: {flushed:?}, {:?}", life.uploader.status()));
            }
            for partition in life.partitions.all() {
                let offsets = partition.offsets();
                if offsets.committed_end != offsets.log_end {
                    return Err(format!("stream {} is not committed: {offsets:?}", partition.stream()));
                }
            }
            clean_logs(world, life).await?;
        }
    }
    checks::objects(world, life).await?;
    checks::replay(world, life)?;
    // The WAL covers its last records when it is idle.
    tokio::time::sleep(Duration::from_millis(500)).await;
    checks::step(world, life)?;
    checks::orphans(world, life).await?;
    checks::step(world, life)?;
    scrubs::find_all(world, life).await?;
    note_joins(world, life);
    checks::objects(world, life).await?;
    Ok(())
}

/// In fair weather every log can be cleaned to its end.
async fn clean_logs(world: &World, life: &Life) -> Result<(), String> {
    const ROUNDS_MAX: usize = 2_000;
    // Compaction of objects may have come before a round's end: then it begins again.
    const FAILURES_MAX: usize = 50;
    let mut failures = 0;
    let mut again = false;
    for _ in 0..ROUNDS_MAX {
        match workload::clean(world, life).await {
            Pass::Cleaned(_) => {}
            Pass::NothingToDo if again => again = false,
            Pass::NothingToDo => {
                let uncleanable = life.log_cleaner.status().metrics().uncleanable;
                if uncleanable > 0 {
                    return Err(format!("{uncleanable} logs cannot be cleaned in fair weather"));
                }
                world.ledger().stats.log_rounds += life.log_cleaner.status().metrics().rounds;
                return Ok(());
            }
            Pass::Failed(_) if failures < FAILURES_MAX => (failures, again) = (failures + 1, true),
            Pass::Failed(stream) => {
                return Err(format!("the log of stream {stream} cannot be cleaned in fair weather"));
            }
        }
    }
    Err("log compaction does not end".to_owned())
}

/// Bits flip on the disk and in the store: an error that says so is right, other bytes never are.
fn damage(world: &mut World) -> Result<(), String> {
    let durable = in_process(world, async |world, clock| {
        let Some(life) = begin(world, clock, false).await? else { return Err("no life to damage".to_owned()) };
        // Something that is in the WAL only.
        let mut random = SimRandom::new(world.random.next_u64());
        life.store.set_faults(StoreFaults { error_before: 1_000, ..StoreFaults::default() });
        for _ in 0..12 {
            workload::append(world, &life, &mut random);
            tokio::time::sleep(Duration::from_millis(random.below(20))).await;
        }
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        checks::step(world, &life)?;
        Ok(life.wal.as_ref().map_or(0, |wal| wal.handle().usage().durable.0))
    })?;
    world.ledger().broker_died();
    world.disk.kill_process();
    let ring_bytes = world.disk.bytes() - RING_OFFSET;
    for _ in 0..1 + world.random.below(40) {
        let (at, bit) = (world.random.below(ring_bytes), world.random.below(8) as u8);
        // The last frame says that those before it were there. With it a tail can go, and nothing is left to say so.
        if (durable.saturating_sub(LAST_FRAME_BYTES)..durable).any(|lsn| lsn % ring_bytes == at) {
            continue;
        }
        world.disk.rot(RING_OFFSET + at, bit);
    }
    in_process(world, async |world, clock| {
        rot_object(world).await;
        let life = match life::start(world, clock).await {
            Ok(life) => life,
            Err(StartError::Damaged(why)) => {
                world.ledger().stats.damages += 1;
                world.trace.note(format!("damaged: {why}"));
                return Ok(());
            }
            Err(error) => return Err(format!("a broker with a damaged disk: {error:?}")),
        };
        note_recovery(world, &life)?;
        let rotten = Weather { rot: true, ..Weather::default() };
        for partition in life.partitions.all() {
            let read = workload::read_partition(world, &life, &partition, rotten).await?;
            if let Err(why) = read {
                world.ledger().stats.damages += 1;
                world.trace.note(format!("stream {}: {why}", partition.stream()));
            }
        }
        let wrong = world.ledger().violations.first().cloned();
        wrong.map_or(Ok(()), Err)
    })
}

/// What an idle WAL writes last.
const LAST_FRAME_BYTES: u64 = 4096;

async fn rot_object(world: &mut World) {
    let contents = world.store.memory.contents();
    if contents.is_empty() {
        return;
    }
    let (key, body) = &contents[world.random.below(contents.len() as u64) as usize];
    let mut body = body.to_vec();
    let bit = world.random.below(body.len() as u64 * 8);
    body[(bit / 8) as usize] ^= 1 << (bit % 8);
    // Behind everyone's back.
    let _ = world.store.memory.put(key, Segments::from(bytes::Bytes::from(body)), Purpose::Scrub).await;
}
