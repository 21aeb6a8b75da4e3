//! What clients, operators and the world do to a running broker, one step at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use seawall::log_cleaner::Pass;
use seawall::partition::{AppendError, Origin, Partition};
use seawall::partitions::PartitionError;
use seawall::read_path::{Isolation, ReadError};
use seawall::retention::{self, RetentionLimits};
use seawall::time_lookup;
use seawall_backends::faulty::Faults as StoreFaults;
use seawall_metadata::{Command, ProposeError, StreamId, TopicId};
use seawall_protocol::records::{BatchBuilder, BatchHeader, Compression};
use seawall_wal_device::SpaceClass;
use seawall_wal_device::device::simulated::SimRandom;
use uuid::Uuid;

use crate::ledger::{Sent, SentState};
use crate::life::Life;
use crate::scenario::Fault;
use crate::world::{EPOCH_MS, NODE, World, pick};

const TOPICS_MAX: usize = 4;
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

// ---- producing ----

pub fn append(world: &World, life: &Life, random: &mut SimRandom) -> String {
    let Some(partition) = some_partition(life, random) else { return "no partition".to_owned() };
    let batches = 1 + random.below(3);
    append_to(world, life, &partition, batches, random)
}

pub fn append_to(
    world: &World,
    life: &Life,
    partition: &Arc<Partition>,
    batches: u64,
    random: &mut SimRandom,
) -> String {
    let stream = partition.stream();
    let mut done = Vec::new();
    for _ in 0..batches {
        if random.chance(1, 3) {
            let records = 1 + random.below(4) as i64;
            let bytes = batch(life, random, records, None, partition.config().cleanup_compact);
            let batch = world.ledger().new_batch(stream, bytes, records, false);
            done.push(send(world, life, partition, batch, None));
        } else {
            done.extend(produce_idempotent(world, life, partition, random));
        }
    }
    format!("append to {stream}: {}", done.join(", "))
}

fn produce_idempotent(world: &World, life: &Life, partition: &Arc<Partition>, random: &mut SimRandom) -> Vec<String> {
    let stream = partition.stream();
    let id = {
        let mut ledger = world.ledger();
        let known = ledger.producers_of(stream);
        if known.is_empty() || (known.len() < 3 && random.chance(1, 20)) {
            let first = if random.chance(1, 4) { i32::MAX - 6 } else { 0 };
            let at = ledger.add_producer(stream, first);
            let _ = at;
        }
        let known = ledger.producers_of(stream);
        known[random.below(known.len() as u64) as usize]
    };
    let (repeats, may_send) = {
        let mut ledger = world.ledger();
        let producer = ledger.producer(id).expect("chosen above");
        let in_flight = producer.queue.iter().any(|sent| sent.state == SentState::InFlight);
        let failed = producer.queue.iter().any(|sent| sent.state == SentState::Repeat);
        let repeats: Vec<usize> = match failed && !in_flight {
            true => producer.queue.iter().filter(|s| s.state == SentState::Repeat).map(|s| s.batch).collect(),
            false => Vec::new(),
        };
        (repeats, !failed && producer.queue.len() < 5)
    };
    let mut done = Vec::new();
    for batch in repeats {
        set_state(world, id, batch, SentState::InFlight);
        let outcome = send(world, life, partition, batch, Some(id));
        let refused = outcome.starts_with("refused");
        done.push(format!("repeat {outcome}"));
        if refused {
            break;
        }
    }
    if may_send {
        let records = 1 + random.below(4) as i64;
        let sequence = {
            let mut ledger = world.ledger();
            let producer = ledger.producer(id).expect("chosen above");
            let sequence = producer.next_sequence;
            let next = (i64::from(sequence) + records) % (1 << 31);
            producer.next_sequence = next as i32;
            sequence
        };
        let bytes = batch(life, random, records, Some((id, sequence)), partition.config().cleanup_compact);
        let batch = {
            let mut ledger = world.ledger();
            let batch = ledger.new_batch(stream, bytes, records, true);
            let producer = ledger.producer(id).expect("chosen above");
            producer.queue.push(Sent { batch, state: SentState::InFlight });
            batch
        };
        done.push(send(world, life, partition, batch, Some(id)));
    }
    done
}

fn set_state(world: &World, producer: i64, batch: usize, state: SentState) {
    let mut ledger = world.ledger();
    if let Some(sent) = ledger.producer(producer).and_then(|p| p.queue.iter_mut().find(|sent| sent.batch == batch)) {
        sent.state = state;
    }
}

fn batch(life: &Life, random: &mut SimRandom, records: i64, producer: Option<(i64, i32)>, keyed: bool) -> Bytes {
    let codec = pick(random, &[Compression::None, Compression::None, Compression::None, Compression::Lz4]);
    let mut builder = BatchBuilder::new(codec);
    if let Some((id, sequence)) = producer {
        builder = builder.producer(id, 0, sequence);
    }
    let now_ms = life.clock.now_ms();
    for _ in 0..records {
        let timestamp = now_ms - random.below(40) as i64;
        let bytes = match random.below(12) {
            0 => random.below(3_000),
            1..=3 => random.below(1_500),
            _ => random.below(120),
        };
        let mut value = vec![0; bytes as usize];
        value.iter_mut().for_each(|byte| *byte = random.next_u64() as u8);
        let key = if keyed { random.below(6) } else { random.next_u64() }.to_be_bytes();
        let value = (!keyed || random.chance(7, 8)).then_some(&value[..]);
        builder.add(Some(&key), value, timestamp, &[]);
    }
    builder.build()
}

/// Appends a batch; its answer goes into the ledger when it comes.
fn send(world: &World, life: &Life, partition: &Arc<Partition>, batch: usize, producer: Option<i64>) -> String {
    let bytes = world.ledger().bytes(batch);
    let header = BatchHeader::parse(&bytes).expect("built above");
    let before = partition.offsets().log_end;
    let appended = partition
        .reserve(bytes.len(), SpaceClass::Normal)
        .and_then(|reservation| partition.append_reserved(bytes, header, Origin::Client, reservation));
    let pending = match appended {
        Ok(pending) => pending,
        Err(error) => {
            let mut ledger = world.ledger();
            match &error {
                AppendError::WalFull => ledger.stats.wal_full += 1,
                AppendError::NotLeader | AppendError::Deleted | AppendError::WalFailed(_) => {}
                AppendError::Sequence(_) if producer.is_some_and(|producer| ledger.give_up(producer)) => {}
                other => ledger.violation(format!("batch {batch} of producer {producer:?} was refused: {other}")),
            }
            if let Some(producer) = producer {
                ledger.answered(producer, batch, false);
            }
            return format!("refused {batch}: {error}");
        }
    };
    let (base, after) = (pending.base_offset, partition.offsets().log_end);
    {
        let mut ledger = world.ledger();
        if after > before {
            if base != before || after != base + header.last_offset() - header.base_offset + 1 {
                ledger.violation(format!("offsets {before}..{after} for a batch at {base}: not dense"));
            }
            ledger.appended(batch, base, partition.leader_epoch());
            if let Some(producer) = producer.and_then(|id| ledger.producer(id)) {
                producer.end = after;
            }
        } else {
            ledger.repeated(batch, base);
        }
    }
    let (ledger, storage, trace) = (world.ledger.clone(), life.storage.clone(), world.trace.clone());
    tokio::spawn(async move {
        let answer = pending.durable().await;
        let leased = storage.lease_valid();
        let mut ledger = ledger.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        trace.note(format!("batch {batch} at {base}: {answer:?}"));
        if answer.is_ok() {
            if !leased {
                ledger.violation(format!("batch {batch} was acked without a lease"));
            }
            ledger.acked(batch, base);
        }
        if let Some(producer) = producer {
            ledger.answered(producer, batch, answer.is_ok());
        }
    });
    let sequence = if producer.is_some() { format!("#{}", header.base_sequence) } else { String::new() };
    format!("{batch}{sequence} at {base}{}", if after > before { "" } else { " again" })
}

// ---- reading ----

async fn read(world: &World, life: &Life, random: &mut SimRandom, weather: Weather) -> Result<String, String> {
    let Some(partition) = some_partition(life, random) else { return Ok("no partition".to_owned()) };
    let offsets = partition.offsets();
    let span = (offsets.log_end - offsets.log_start + 1) as u64;
    let from = match random.below(4) {
        0 => offsets.log_start,
        1 => offsets.high_watermark.saturating_sub(random.below(8) as i64).max(offsets.log_start),
        _ => offsets.log_start + random.below(span) as i64,
    };
    let max_bytes = pick(random, &[1, 500, 5_000, 100_000]);
    let read = read_from(world, life, &partition, from, max_bytes, weather).await?;
    Ok(format!("read {} from {from}: {read:?}", partition.stream()))
}

/// Reads once and compares. Answers where the next read goes on, or why nothing was read.
async fn read_from(
    world: &World,
    life: &Life,
    partition: &Arc<Partition>,
    from: i64,
    max_bytes: usize,
    weather: Weather,
) -> Result<Result<i64, &'static str>, String> {
    let stream = partition.stream();
    let reading = life.read_path.read(partition, from, max_bytes, Isolation::ReadUncommitted, true);
    let Ok(read) = tokio::time::timeout(Duration::from_secs(600), reading).await else {
        return Err(format!("a read of stream {stream} from {from} does not end"));
    };
    let fetched = match read {
        Ok(fetched) => fetched,
        Err(error) => return excused(world, life, partition, from, error, weather).map(Err),
    };
    // Whatever compaction has seen is below.
    world.ledger().high_watermark(stream, partition.offsets().high_watermark);
    let mut bytes = BytesMut::new();
    fetched.records.0.iter().for_each(|segment| bytes.extend_from_slice(segment));
    let (mut at, mut next) = (0, from);
    let mut ledger = world.ledger();
    while at < bytes.len() {
        let length = bytes.get(at..).and_then(|rest| BatchHeader::parse(rest).ok()).map(|header| header.total_bytes());
        let Some(length) = length.filter(|length| at + length <= bytes.len()) else {
            return Err(format!("stream {stream} from {from}: not whole batches"));
        };
        let whole = &bytes[at..at + length];
        let base = BatchHeader::parse(whole).map_or(-1, |header| header.base_offset);
        let compacted = partition.config().cleanup_compact;
        if compacted && base > next {
            ledger.saw_nothing(stream, next, base);
        }
        if (base > next && !compacted) || (base < next && at > 0) {
            return Err(format!("stream {stream} from {from}: a batch at {base}, expected at {next}"));
        }
        let seen = if compacted { ledger.saw_compacted(stream, whole) } else { ledger.saw(stream, whole) };
        let Some(end) = seen else { return Ok(Err("wrong bytes")) };
        if end <= next {
            return Err(format!("stream {stream} from {from}: a batch {base}..{end}, expected at {next}"));
        }
        next = end;
        at += length;
    }
    if next > fetched.high_watermark.max(from) {
        return Err(format!("stream {stream}: read to {next}, the high watermark was {}", fetched.high_watermark));
    }
    if next != fetched.next_offset || (next == from && from < fetched.high_watermark) {
        return Err(format!("stream {stream} from {from}: read to {next}, said {fetched:?}"));
    }
    Ok(Ok(next))
}

/// In words why nothing was read, if it may be so.
fn excused(
    world: &World,
    life: &Life,
    partition: &Partition,
    from: i64,
    error: ReadError,
    weather: Weather,
) -> Result<&'static str, String> {
    world.ledger().stats.read_errors += 1;
    let wal_gone = life.wal.handle().failed().is_some() || wal_ended(life);
    let (excused, why) = match &error {
        // The lease may be back by now; nobody else can have taken it.
        ReadError::NotLeader(_) => (true, "not leader"),
        ReadError::OffsetOutOfRange { log_start, .. } => (from < *log_start, "out of range"),
        ReadError::Corrupt(_) => (weather.store_lies || weather.rot, "corrupt"),
        ReadError::Unavailable(_) => {
            (weather.store_fails || weather.store_lies || weather.rot || wal_gone, "unavailable")
        }
    };
    match excused {
        true => Ok(why),
        false => Err(format!("stream {} cannot be read from {from}: {error}", partition.stream())),
    }
}

/// The first record at or after a time.
async fn look_up_time(world: &World, life: &Life, random: &mut SimRandom, weather: Weather) -> Result<String, String> {
    let Some(partition) = some_partition(life, random) else { return Ok("no partition".to_owned()) };
    let (stream, offsets) = (partition.stream(), partition.offsets());
    let written = world.ledger().some_timestamp(stream, random.next_u64());
    let timestamp_ms = written.unwrap_or(EPOCH_MS) + random.below(3) as i64 - 1;
    let looking = time_lookup::first_at_or_after(&life.read_path, &partition, timestamp_ms, offsets.high_watermark);
    let Ok(found) = tokio::time::timeout(Duration::from_secs(600), looking).await else {
        return Err(format!("a look-up in stream {stream} for {timestamp_ms} does not end"));
    };
    let mut said = format!("{found:?}");
    match found {
        Ok(found) => {
            let found = found.map(|found| (found.offset, found.timestamp_ms));
            let mut ledger = world.ledger();
            ledger.high_watermark(stream, offsets.high_watermark);
            ledger.stats.time_lookups += 1;
            let log_start = partition.offsets().log_start;
            ledger.found_by_time(stream, timestamp_ms, log_start..offsets.high_watermark, found);
        }
        // Where it was is not known.
        Err(error) => said = excused(world, life, &partition, i64::MIN, error, weather)?.to_owned(),
    }
    Ok(format!("look up {timestamp_ms} in {stream}: {said}"))
}

fn wal_ended(life: &Life) -> bool {
    life.switches.wal_ended.load(std::sync::atomic::Ordering::Relaxed)
}

/// One partition from its start to its high watermark.
async fn read_all(world: &World, life: &Life, random: &mut SimRandom, weather: Weather) -> Result<String, String> {
    let Some(partition) = some_partition(life, random) else { return Ok("no partition".to_owned()) };
    let read = read_partition(world, life, &partition, weather).await?;
    Ok(format!("read all of {}: {read:?}", partition.stream()))
}

/// Answers the end, or why it was not reached.
pub async fn read_partition(
    world: &World,
    life: &Life,
    partition: &Arc<Partition>,
    weather: Weather,
) -> Result<Result<i64, &'static str>, String> {
    let mut next = partition.offsets().log_start;
    let end = partition.offsets().high_watermark;
    while next < end {
        match read_from(world, life, partition, next, 20_000, weather).await? {
            Ok(to) => next = to,
            Err(why) => return Ok(Err(why)),
        }
    }
    Ok(Ok(next))
}

// ---- operators ----

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

async fn delete_records(world: &World, life: &Life, random: &mut SimRandom) -> Result<String, String> {
    let Some(partition) = some_partition(life, random) else { return Ok("no partition".to_owned()) };
    let offsets = partition.offsets();
    let target = match random.below(3) {
        0 => -1,
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

async fn delete_topic(world: &World, life: &Life, random: &mut SimRandom) -> Result<String, String> {
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
