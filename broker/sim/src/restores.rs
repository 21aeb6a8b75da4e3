//! The node is lost, with its folder and its WAL, and the cluster is made anew of the store alone: in several attempts that break
//! off, over a store that fails, and while the broker that was thought lost runs on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use seawall::clock::Clock;
use seawall::restore::{Anew, Options, RestoreError, Restored, Step, restore_bucket};
use seawall_backends::faulty::{Faults as StoreFaults, Faulty};
use seawall_metadata::{Incarnation, State, snapshot};
use seawall_wal_device::device::simulated::SimRandom;
use uuid::Uuid;

use crate::backups::bucket;
use crate::clock::SimClock;
use crate::ledger::{CommittedStream, RestoredStream};
use crate::life::Life;
use crate::scenario::{Fault, begin, has_failed, in_process, storm_on};
use crate::workload::Weather;
use crate::world::{EPOCH_MS, NODE, World};

/// Whether there is something to restore from.
pub fn can_restore(world: &World) -> bool {
    world.backed_up_to > 0
}

/// Plays it: at the end of this life a broker of the new incarnation is killed.
pub fn disaster(world: &mut World) -> Result<(), String> {
    in_process(world, async |world, clock| {
        let runs_on = world.fault == Some(Fault::CommitAfterEnd) || world.random.chance(1, 2);
        let old = match runs_on {
            true => begin(world, clock.clone(), false).await?,
            false => None,
        };
        let mut using = old.as_ref().map(|old| Used { life: old, weather: Weather::default(), ended: false });
        if let Some(old) = &mut using {
            let steps = 5 + world.random.below(40);
            old.use_it(world, steps).await?;
        }
        let mut restoring = std::pin::pin!(restored(world, &clock));
        let made = loop {
            let alive = using.as_mut().filter(|old| !old.ended);
            tokio::select! {
                biased;
                made = &mut restoring => break made?,
                used = async { alive.expect("asked for").use_it(world, 3).await }, if alive.is_some() => used?,
            }
        };
        world.trace.note(format!("restored {} as {:?}", made.first.cluster, made.incarnation));
        // From here on nobody speaks to the old one. What it does by itself it goes on doing.
        world.ledger().broker_died();
        move_in(world, made)?;
        let Some(life) = begin(world, clock, false).await? else { return Err("no life after a restore".to_owned()) };
        let steps = 20 + world.random.below(80);
        Used { life: &life, weather: Weather::default(), ended: false }.use_it(world, steps).await?;
        drop(old);
        Ok(())
    })?;
    world.disk.kill_process();
    world.disk.release_stuck();
    world.disk.forget_planned_faults();
    let mut ledger = world.ledger();
    ledger.broker_died();
    ledger.stats.restores += 1;
    Ok(())
}

/// Of a store that does a fifth of all puts late.
const ATTEMPTS_MAX: usize = 60;

struct Made {
    incarnation: Incarnation,
    first: Restored,
    /// The entry that the broker's backup went to at least: attempts that broke off may have added one each.
    backup: u64,
}

/// Attempts until one comes to its end; each may break off after any step.
fn restored(world: &mut World, clock: &Arc<SimClock>) -> impl Future<Output = Result<Made, String>> + use<> {
    let mut random = SimRandom::new(world.random.next_u64());
    let bucket = bucket(world);
    let faulty = Arc::new(Faulty::new(bucket.backend.clone(), StoreFaults::default(), random.next_u64()));
    let bucket = seawall::restore::Bucket { backend: faulty.clone(), ..bucket };
    let clock = Clock::simulated(EPOCH_MS + clock.elapsed().as_millis() as i64);
    let offset_jump = if world.fault == Some(Fault::NoOffsetJump) { 0 } else { Options::default().offset_jump };
    let trace = world.trace.clone();
    async move {
        for attempt in 0..ATTEMPTS_MAX {
            tokio::time::sleep(Duration::from_millis(random.below(200))).await;
            let breaks_off = attempt < 2 && random.chance(1, 2);
            let step = Step::ALL[random.below(Step::ALL.len() as u64 - 1) as usize];
            let error_before = if attempt < 2 && random.chance(1, 3) { 1 } else { 0 };
            faulty.set_faults(StoreFaults {
                error_before,
                slow: if random.chance(1, 2) { 100 } else { 0 },
                delay_max: Duration::from_millis(50),
                ..StoreFaults::default()
            });
            let options = Options {
                yes: true,
                no_wait: true,
                stop_after: breaks_off.then_some(step),
                offset_jump,
                ..Options::default()
            };
            let incarnation = Incarnation(Uuid::from_u128(u128::from(random.next_u64())));
            let anew = Anew { incarnation, node: NODE };
            match restore_bucket(&bucket, anew, &clock, &options, &|_| {}).await {
                Ok((report, Some(first))) => {
                    let backup = report.backup_index.saturating_sub(attempt as u64);
                    return Ok(Made { incarnation, first, backup });
                }
                Ok((_, None)) => return Err("a restore was a dry run".to_owned()),
                Err(RestoreError::Stopped(step)) => trace.note(format!("a restore breaks off after {step:?}")),
                // Puts may have come to nothing, or come late, whatever is asked of the layer above.
                Err(error @ RestoreError::Store(_)) => trace.note(format!("a restore breaks off: {error}")),
                Err(error) if error_before > 0 => trace.note(format!("a restore breaks off: {error}")),
                Err(error) => return Err(format!("a restore: {error}")),
            }
        }
        Err("no restore came to its end".to_owned())
    }
}

/// A broker that clients speak to, until it ends.
struct Used<'a> {
    life: &'a Life,
    weather: Weather,
    ended: bool,
}

impl Used<'_> {
    async fn use_it(&mut self, world: &mut World, steps: u64) -> Result<(), String> {
        let used = tokio::select! {
            biased;
            () = self.life.switches.dark.notified() => {
                self.ended = true;
                return Ok(());
            }
            used = storm_on(world, self.life, &mut self.weather, steps) => used,
        };
        // It may know of the restore.
        match has_failed(self.life) {
            Some(why) if why.contains("restored from its store") => {
                world.trace.note(why);
                self.ended = true;
                Ok(())
            }
            _ => used,
        }
    }
}

/// What survives is the store: everything else is new.
fn move_in(world: &mut World, made: Made) -> Result<(), String> {
    let Made { incarnation, first, backup } = made;
    let decode = |data: &[u8]| snapshot::decode(data).map_err(|error| error.to_string());
    let (before, after) = (decode(&world.log.replay(world.log.last())?)?, decode(&first.data)?);
    let committed = before.streams().map(|stream| {
        let (start, next) = (stream.start.0, stream.next.0);
        (stream.id, CommittedStream { start, next })
    });
    let committed: BTreeMap<_, _> = committed.collect();
    world.ledger().restored(&restored_streams(&after), &committed, backup);
    if let Some(wrong) = world.ledger().violations.first() {
        return Err(wrong.clone());
    }
    world.begin_anew(incarnation, first.at, first.data)
}

fn restored_streams(state: &State) -> BTreeMap<seawall_metadata::StreamId, RestoredStream> {
    let of = |stream: &seawall_metadata::state::StreamState| {
        let end = stream.jumps.iter().rev().fold(stream.next, |end, jump| if jump.to == end { jump.from } else { end });
        let epochs = stream.epochs.iter().map(|epoch| (epoch.start.0, epoch.epoch.0)).collect();
        RestoredStream { start: stream.start.0, end: end.0, next: stream.next.0, epochs }
    };
    state.streams().map(|stream| (stream.id, of(stream))).collect()
}
