//! What has threads of its own in production, and is turned by tasks here: the metadata node and the WAL engine.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use seawall::recovery::ScannedWal;
use seawall::storage::{BrokerWal, BrokerWalParts};
use seawall::wal_opening::{WalOpeningError, WalOwner, commit_opening, scan_from};
use seawall_metadata::{MetadataConfig, MetadataHandle, ProposeError, SteppedNode, WalId};
use seawall_wal_device::device::Wait;
use seawall_wal_device::device::simulated::SimRandom;
use seawall_wal_device::engine::{Engine, Turn};
use seawall_wal_device::{Completions, Expectation, scan_on};

use super::{StartError, Switches};
use crate::clock::SimClock;
use crate::meta_log::SharedLog;
use crate::steps::Steps;
use crate::world::{CLUSTER, NODE, World};

pub(super) fn start_metadata(
    world: &World,
    clock: &Arc<SimClock>,
    switches: &Arc<Switches>,
    random: &mut SimRandom,
) -> Result<MetadataHandle, StartError> {
    let config = MetadataConfig {
        lease: world.sizes.lease,
        heartbeat: world.sizes.lease / 5,
        log_bytes_max: world.sizes.metadata_log_bytes,
        clock: clock.clone(),
        ..MetadataConfig::new("simulated", NODE)
    };
    let (metadata, node) = MetadataHandle::stepped(config, world.log.clone())
        .map_err(|error| StartError::Bug(format!("metadata does not start: {error}")))?;
    let (steps, random) = (world.steps.clone(), SimRandom::new(random.next_u64()));
    tokio::spawn(turn_node(node, clock.clone(), switches.clone(), steps, random));
    Ok(metadata)
}

async fn turn_node(
    mut node: SteppedNode<SharedLog>,
    clock: Arc<SimClock>,
    switches: Arc<Switches>,
    steps: Steps,
    mut random: SimRandom,
) {
    loop {
        let now_ms = clock.elapsed().as_millis() as u64;
        if now_ms >= switches.node_pauses_until.load(Ordering::Relaxed) {
            match node.step() {
                Ok(true) => {}
                Ok(false) => return,
                // Of a process that has ended nobody hears anything.
                Err(_) if steps.is_dead() => std::future::pending().await,
                Err(error) => {
                    let mut told = switches.node_error.lock().unwrap_or_else(PoisonError::into_inner);
                    told.get_or_insert_with(|| error.to_string());
                    return;
                }
            }
        }
        pause(&mut random).await;
    }
}

pub(super) async fn turn_wal(mut engine: Box<Engine>, switches: Arc<Switches>, mut random: SimRandom) {
    let mut turns_without_news = 0;
    loop {
        if engine.turn() == Turn::Finished || engine.wait(Wait::No) == Turn::Finished {
            break;
        }
        turns_without_news += 1;
        if turns_without_news > 20 && random.chance(1, 20) {
            engine.fell_idle();
            turns_without_news = 0;
        }
        pause(&mut random).await;
    }
    switches.wal_ended.store(true, Ordering::Relaxed);
    switches.dark.notify_one();
}

/// Lets others run, for no time or for a little.
async fn pause(random: &mut SimRandom) {
    match random.below(4) {
        0 => tokio::task::yield_now().await,
        few => tokio::time::sleep(Duration::from_millis(few)).await,
    }
}

pub(super) type OpenedWal = (ScannedWal, Completions, Box<Engine>);

pub(super) async fn open_wal(
    world: &World,
    metadata: &MetadataHandle,
    owner: WalOwner,
) -> Result<OpenedWal, StartError> {
    let wal_id = WalId(world.wal_id.0);
    let expect = Expectation {
        cluster_id: Some(CLUSTER.0),
        incarnation: Some(world.incarnation.0),
        node_id: Some(NODE.0),
        wal_id: Some(world.wal_id),
        ..Expectation::default()
    };
    let device = Box::new(world.disk.device());
    let mut scanned = scan_on(device, world.disk.bytes(), &world.wal, &expect, scan_from(metadata, wal_id))
        .map_err(|error| StartError::Disk(format!("scan: {error}")))?;
    let start = scanned.end;
    let epoch = commit_opening(metadata, owner, &scanned, "simulated".as_ref()).await.map_err(|error| match error {
        WalOpeningError::Damaged { damage, .. } => StartError::Damaged(damage.to_string()),
        WalOpeningError::Metadata(ProposeError::Rejected(why)) => StartError::Bug(format!("OpenWal: {why}")),
        other => StartError::Bug(other.to_string()),
    })?;
    let (records, heads) = (std::mem::take(&mut scanned.records), std::mem::take(&mut scanned.heads));
    let (wal, completions, engine) = scanned
        .open_stepped(epoch.0, (CLUSTER.0, world.incarnation.0))
        .map_err(|error| StartError::Disk(format!("open: {error}")))?;
    let wal = BrokerWal::new(BrokerWalParts {
        id: wal_id,
        owner_epoch: epoch,
        wal,
        start,
        devices: 1,
        legs: Vec::new(),
        scan_index_bytes: 0,
    });
    Ok((ScannedWal { wal, records, heads }, completions, Box::new(engine)))
}
