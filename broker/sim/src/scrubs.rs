//! Scrubs beside everything else: what anything refers to is never deleted, whatever listings say, and in the end what nobody
//! refers to is found and goes.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use seawall::scrub::judge::Kind;
use seawall::scrub::{Finding, Progress, ScrubRequest};
use seawall_backends::{Backend, ObjectKey, Purpose, Segments};
use seawall_metadata::{ObjectId, State};
use seawall_wal_device::device::simulated::SimRandom;
use tokio::sync::{mpsc, watch};

use crate::checks;
use crate::life::Life;
use crate::scenario::Fault;
use crate::world::World;

/// Longer than parts are left alone.
const LONG_MS: i64 = 25 * 3_600_000;

fn request(deep: bool, repair: bool, from: Option<String>) -> ScrubRequest {
    ScrubRequest { deep, repair, rate: 1 << 50, from }
}

/// One that runs until it ends, or the broker does.
pub fn in_the_background(world: &World, life: &Life, random: &mut SimRandom) -> String {
    let request = request(random.chance(1, 2), true, Some("start".to_owned()));
    let deep = request.deep;
    let (scrub, trace) = (life.scrub.clone(), world.trace.clone());
    tokio::spawn(async move {
        let (found, mut told) = mpsc::channel(16);
        let listen = async {
            let mut findings = 0;
            while told.recv().await.is_some() {
                findings += 1;
            }
            findings
        };
        let scrubbing = scrub.run(&request, found, watch::Sender::new(Progress::default()));
        let (ended, findings) = tokio::join!(scrubbing, listen);
        trace.note(format!("a scrub ended: {:?}, {findings} findings", ended.is_ok()));
    });
    format!("scrub, deep: {deep}")
}

/// In fair weather: what was planted and what came late is found and deleted, nothing else is said, and then the store holds what
/// metadata refers to and nothing else.
pub async fn find_all(world: &mut World, life: &Life) -> Result<(), String> {
    let planted = plant(world, life).await;
    let folder = world.keys().incarnation_folder(world.incarnation);
    let begun = world.store.begun_below(&folder);
    life.clock.jump_wall_clock(LONG_MS);
    let mut random = SimRandom::new(world.random.next_u64());
    let repair = world.fault != Some(Fault::ScrubSpares);
    let mut from = "start".to_owned();
    let mut deleted = BTreeSet::new();
    let mut stops = random.below(4);
    loop {
        let patience = if stops > 0 { random.below(40) } else { 3_600_000 };
        let progress = watch::Sender::new(Progress::default());
        let stands = progress.subscribe();
        let request = request(true, repair, Some(from.clone()));
        let (found, mut told) = mpsc::channel(1_000);
        let run = life.scrub.run(&request, found, progress);
        let ended = tokio::time::timeout(Duration::from_millis(patience), run).await;
        while let Ok(finding) = told.try_recv() {
            judge(&finding)?;
            deleted.extend(finding.done.is_some().then_some(finding.key));
        }
        match ended {
            Ok(Ok(_)) => break,
            Ok(Err(error)) => return Err(format!("a scrub in fair weather: {error}")),
            Err(_) => {
                stops -= 1;
                let cursor = stands.borrow().cursor.clone();
                from = if cursor.is_empty() { "start".to_owned() } else { cursor };
            }
        }
    }
    checks::step(world, life)?;
    // One that was stopped between a deletion and its word.
    let stored: BTreeSet<ObjectKey> = world.store.memory.contents().into_iter().map(|(key, _)| key).collect();
    if let Some(key) = planted.iter().find(|key| stored.contains(*key)) {
        return Err(format!("a scrub has left the orphan {key}"));
    }
    if let Some(key) = begun.intersection(&world.store.begun_below(&folder)).next() {
        return Err(format!("a scrub has left the begun {key:?}"));
    }
    world.ledger().stats.scrubbed += deleted.len() as u64;
    world.trace.note(format!("scrubbed: {} orphans were deleted", deleted.len()));
    checks::nothing_else_is_stored(world, life, false)
}

fn judge(finding: &Finding) -> Result<(), String> {
    match finding.kind {
        Kind::Orphan | Kind::LeftParts | Kind::OtherIncarnation => Ok(()),
        kind => Err(format!("a scrub in fair weather found {kind:?}: {}: {}", finding.key, finding.what)),
    }
}

/// Objects under ids that metadata has forgotten.
async fn plant(world: &mut World, life: &Life) -> Vec<ObjectKey> {
    let forgotten = |state: &State| {
        let ids = (1..2_000).map(ObjectId);
        let nobodys = ids
            .filter(|id| state.was_handed_out(*id) && state.object(*id).is_none() && state.reservation(*id).is_none());
        nobodys.take(3).collect::<Vec<_>>()
    };
    let keys = world.keys();
    let ids = life.metadata.read(forgotten);
    let mut planted = Vec::new();
    for id in ids {
        let key = keys.key(world.incarnation, id);
        let body = Segments::from(Bytes::from_static(b"an upload that came to nothing"));
        // A store in memory takes everything.
        let _ = world.store.memory.put(&key, body, Purpose::Scrub).await;
        planted.push(key);
    }
    planted
}
