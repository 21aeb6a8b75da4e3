//! Operators and the broker's own clocks: retention, log compaction, DeleteRecords, topics.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use seawall::log_cleaner::Pass;
use seawall::partition::Partition;
use seawall::partitions::PartitionError;
use seawall::retention::{self, RetentionLimits};
use seawall_metadata::{Command, ProposeError, StreamId, TopicId};
use seawall_wal_device::device::simulated::SimRandom;
use uuid::Uuid;

use super::{partitions, some_partition};
use crate::life::Life;
use crate::scenario::Fault;
use crate::world::{EPOCH_MS, NODE, World, pick};

const TOPICS_MAX: usize = 4;

/// What retention and compaction take for the time.
fn paced_ms(world: &World, life: &Life) -> i64 {
    if world.fault == Some(Fault::TrustWallClock) { life.clock.now_ms() } else { life.paced_clock.now_ms() }
}

/// One look at all logs, by their limits. No clock may make them expire sooner than time has passed.
pub async fn retain(world: &World, life: &Life) {
    let true_ms = EPOCH_MS + life.sim_clock.elapsed().as_millis() as i64;
    for partition in partitions(life) {
        let limits = RetentionLimits::of(&partition.config());
        world.ledger().may_expire(partition.stream(), limits.age_ms.map(|age_ms| true_ms - age_ms), limits.bytes);
    }
    retention::pass(&life.partitions, paced_ms(world, life)).await;
}

/// One pass of log compaction.
pub fn clean(world: &World, life: &Life) -> impl Future<Output = Pass> + Send + 'static {
    clean_at(world, life, paced_ms(world, life))
}

pub fn clean_at(world: &World, life: &Life, now_ms: i64) -> impl Future<Output = Pass> + Send + 'static {
    let (cleaner, ledger) = (life.log_cleaner.clone(), world.ledger.clone());
    let number = world.ledger().pass_begins(now_ms);
    async move {
        let pass = cleaner.pass(now_ms).await;
        ledger.lock().unwrap_or_else(PoisonError::into_inner).pass_ends(number);
        pass
    }
}

pub(super) async fn delete_records(world: &World, life: &Life, random: &mut SimRandom) -> Result<String, String> {
    let Some(partition) = some_partition(life, random) else { return Ok("no partition".to_owned()) };
    let offsets = partition.offsets();
    let near = world.ledger().some_offset(partition.stream(), random.next_u64());
    let target = match random.below(3) {
        0 => -1,
        _ if near.is_some() => near.unwrap_or(0).clamp(offsets.log_start, offsets.high_watermark),
        _ => offsets.log_start + random.below((offsets.high_watermark - offsets.log_start + 1) as u64) as i64,
    };
    delete_records_of(world, life, &partition, target).await
}

pub async fn delete_records_of(
    world: &World,
    life: &Life,
    partition: &Arc<Partition>,
    target: i64,
) -> Result<String, String> {
    let stream = partition.stream();
    let to = if target == -1 { partition.offsets().high_watermark } else { target };
    world.ledger().may_delete(stream, to);
    let answer = retention::delete_records(&life.storage, partition, target).await;
    if let Ok(start) = &answer {
        if *start < to {
            return Err(format!("records of stream {stream} deleted to {to}, answered {start}"));
        }
        world.ledger().deleted_to(stream, to);
    }
    Ok(format!("delete records of {stream} to {to}: {answer:?}"))
}

pub async fn create_topic(world: &World, life: &Life, random: &mut SimRandom) -> Result<String, String> {
    let kind = pick(random, &["plain", "plain", "small", "short", "keyed", "keyed", "both"]);
    // An ack means the commit.
    let kind = if random.chance(1, 4) { format!("safe-{kind}") } else { kind.to_owned() };
    let names: Vec<String> =
        life.metadata.read(|state| state.topics_by_name("").map(|topic| topic.name.clone()).collect());
    if names.len() >= TOPICS_MAX {
        return Ok("enough topics".to_owned());
    }
    let name = (0..).map(|n| format!("{kind}-{n}")).find(|name| !names.contains(name)).expect("numbers do not end");
    let topic = TopicId(Uuid::from_u128(u128::from(random.next_u64())));
    create_named(world, life, &name, topic, 1 + random.below(3) as usize).await
}

pub async fn create_named(
    world: &World,
    life: &Life,
    name: &str,
    topic: TopicId,
    partitions: usize,
) -> Result<String, String> {
    let command = Command::CreateDistinctTopic {
        name: name.to_owned(),
        topic,
        internal: false,
        replication_factor: 1,
        owners: vec![NODE; partitions],
        configs: BTreeMap::new(),
    };
    let answer = propose(life, command).await?;
    world.ledger().stats.topics += 1;
    Ok(format!("create {name}: {answer}"))
}

pub(super) async fn delete_topic(world: &World, life: &Life, random: &mut SimRandom) -> Result<String, String> {
    let Some(partition) = some_partition(life, random) else { return Ok("no partition".to_owned()) };
    delete_topic_of(world, life, partition.id().topic).await
}

pub async fn delete_topic_of(world: &World, life: &Life, topic: TopicId) -> Result<String, String> {
    let streams: Vec<StreamId> =
        life.metadata.read(|state| state.partitions_of(topic).map(|partition| partition.stream).collect());
    streams.iter().for_each(|stream| world.ledger().may_vanish(*stream));
    let answer = propose(life, Command::DeleteTopic { topic }).await?;
    if answer == "done" {
        streams.iter().for_each(|stream| world.ledger().topic_deleted(*stream));
    }
    match life.partitions.get(topic, 0) {
        Err(PartitionError::UnknownTopicId) => {}
        Ok(partition) if partition.check_leads().is_err() => {}
        other => {
            if answer == "done" && other.is_err() {
                return Err(format!("a deleted topic answers {:?}", other.err()));
            }
        }
    }
    Ok(format!("delete topic of {streams:?}: {answer}"))
}

async fn propose(life: &Life, command: Command) -> Result<&'static str, String> {
    let name = command.name();
    match life.metadata.propose(command).await {
        Ok(_) => Ok("done"),
        Err(ProposeError::Rejected(why)) => Err(format!("{name} was rejected: {why}")),
        Err(_) => Ok("no answer"),
    }
}
