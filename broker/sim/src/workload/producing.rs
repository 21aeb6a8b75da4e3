//! Clients that append: plain ones, and idempotent ones that repeat what they have no answer for.

use std::sync::Arc;

use bytes::Bytes;
use seawall::partition::{AppendError, Origin, Partition};
use seawall_protocol::records::{BatchBuilder, BatchHeader, Compression};
use seawall_wal_device::SpaceClass;
use seawall_wal_device::device::simulated::SimRandom;

use super::some_partition;
use crate::ledger::{Sent, SentState};
use crate::life::{Life, needs_commit};
use crate::world::{World, pick};

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
    let (stream, end) = (partition.stream(), base + i64::from(header.last_offset_delta) + 1);
    let needs_commit = needs_commit(partition);
    let incarnation = world.ledger().incarnation();
    if needs_commit {
        world.ledger().promises_commits(stream);
    }
    tokio::spawn(async move {
        let answer = pending.durable().await;
        let leased = storage.lease_valid();
        let mut ledger = ledger.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if ledger.incarnation() != incarnation {
            // From a broker of before a restore.
            if answer.is_ok() && needs_commit {
                ledger.acked_before_restore(batch, base);
            }
            return;
        }
        trace.note(format!("batch {batch} at {base}: {answer:?}"));
        if answer.is_ok() {
            if !leased {
                ledger.violation(format!("batch {batch} was acked without a lease"));
            }
            let next = storage.metadata.read(|state| state.stream(stream).map(|stream| stream.next.0));
            if needs_commit && next.is_some_and(|next| next < end) {
                ledger
                    .violation(format!("batch {batch} at {base} of stream {stream} was acked, committed is {next:?}"));
            }
            ledger.stats.acked_after_commit += u64::from(needs_commit);
            ledger.acked(batch, base);
        }
        if let Some(producer) = producer {
            ledger.answered(producer, batch, answer.is_ok());
        }
    });
    let sequence = if producer.is_some() { format!("#{}", header.base_sequence) } else { String::new() };
    format!("{batch}{sequence} at {base}{}", if after > before { "" } else { " again" })
}
