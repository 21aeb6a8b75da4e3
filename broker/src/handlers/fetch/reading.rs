//! Reads the partitions of one fetch, within its byte limits and the memory for answers.
//!
//! They are read in waves of a few, in the order in which they are served; those of a wave are read at the same time, and what they want from
//! objects is gathered first, so that a fetch of many partitions costs few reads of the store. Promises: the answer has at most
//! `max_bytes` of records, but for one first batch that alone is larger (KIP-74); a partition has at most its own limit; who waits
//! for room holds none, or no longer than [`ROOM_WAIT_MIN`]. The store is waited for no longer than [`STORE_PATIENCE`] over all
//! partitions, waits for room apart: as in Kafka a slow partition holds the answer of the others up, but not beyond that. Once there
//! are records and the client's patience is over, no further wave begins.

use std::sync::Arc;
use std::time::Duration;

use seawall_protocol::messages::fetch_response::{EpochEndOffset, PartitionData};
use seawall_protocol::{ErrorCode, Records};
use tokio::time::Instant;

use super::{
    Answers, Asked, FIRST_VERSION_WITH_LEADERS, FetchError, Leaders, Limits, failed, name_leader, set_offsets,
};
use crate::answer_memory::{self, AnswerMemory, AnswerRoom};
use crate::broker::Broker;
use crate::concurrently;
use crate::gather::Want;
use crate::read_path::{Isolation, ReadError, Reading, STORE_PATIENCE};

/// Partitions of one fetch that are read at a time.
const WAVE_PARTITIONS: usize = 16;
/// A fetch that waits less than this still reads for so long.
const READ_TIME_MIN: Duration = Duration::from_millis(500);
/// How long a fetch waits for room even when the client's own wait is over.
const ROOM_WAIT_MIN: Duration = Duration::from_secs(1);

/// Reads the partitions. The first that has anything gives at least one batch.
pub(super) async fn read(
    broker: &Arc<Broker>,
    asked: &[Asked<'_>],
    limits: &Limits,
    version: i16,
) -> (Answers, Option<AnswerRoom>) {
    let began = Instant::now();
    let enough_at = limits.deadline.max(began + READ_TIME_MIN);
    let mut budget = Budget::begin(&broker.fetches.memory, asked).await;
    let mut answers = Answers { partitions: Vec::with_capacity(asked.len()), leaders: Leaders::default() };
    let mut left = limits.bytes_max;
    let mut until = Instant::now() + STORE_PATIENCE;
    while answers.partitions.len() < asked.len() {
        let planned_at = Instant::now();
        if budget.has_records && planned_at >= enough_at {
            budget.refused = true;
        }
        let wave = wave(&asked[answers.partitions.len()..], limits, left, &mut budget).await;
        until += planned_at.elapsed();
        for (asked, answer) in read_wave(broker, limits, wave, until).await {
            if !budget.has_records && answer.as_ref().is_ok_and(|answer| answer.held_small) {
                // All before it turned out to have nothing, so now it is the one that gives at least one batch. That may need more room:
                // it and those behind it are read anew, without what this wave holds.
                break;
            }
            let answer = match answer {
                Ok(answer) => answer.kept(&mut budget, &mut left),
                Err(error) => {
                    let mut answer = failed(asked.wanted.index, ErrorCode::from(&error));
                    if version >= FIRST_VERSION_WITH_LEADERS {
                        name_leader(broker, asked.wanted, &mut answer, &mut answers.leaders);
                    }
                    answer
                }
            };
            answers.partitions.push(answer);
        }
    }
    (answers, budget.held)
}

/// What one partition may read, with the room for it. None: its offsets are answered, without records.
type Planned = Option<(Share, AnswerRoom)>;

#[derive(Clone, Copy)]
struct Share {
    bytes_max: usize,
    at_least_one: bool,
    missed: Option<i64>,
}

/// The next partitions, with what each may read. Together they stay within `left`.
async fn wave<'a, 'b>(
    asked: &'b [Asked<'a>],
    limits: &Limits,
    mut left: usize,
    budget: &mut Budget<'_>,
) -> Vec<(&'b Asked<'a>, Planned)> {
    let mut wave: Vec<(&Asked<'_>, Planned)> = Vec::new();
    let mut reading = 0;
    for asked in asked {
        let first = reading == 0 && !budget.has_records;
        let bytes_max = asked.bytes_max().min(left);
        let mut planned = None;
        if asked.wants_records(limits) && !budget.refused {
            if reading == WAVE_PARTITIONS || reading > 0 && bytes_max < asked.bytes_max() {
                // What those before it leave is known after them.
                break;
            }
            if bytes_max > 0 || first {
                let room = if reading == 0 {
                    budget.room(bytes_max, limits.deadline).await
                } else {
                    match budget.memory.try_room(bytes_max) {
                        Some(room) => Some(room),
                        None => break,
                    }
                };
                planned = room.map(|room| (Share { bytes_max, at_least_one: first, missed: None }, room));
                reading += usize::from(planned.is_some());
                left -= bytes_max;
            }
        }
        wave.push((asked, planned));
    }
    wave
}

/// Reads them all, in their order.
async fn read_wave<'a, 'b>(
    broker: &Arc<Broker>,
    limits: &Limits,
    mut wave: Vec<(&'b Asked<'a>, Planned)>,
    until: Instant,
) -> Vec<(&'b Asked<'a>, Result<Answer, FetchError>)> {
    let mut wants = Vec::new();
    let mut shares = Vec::new();
    for (asked, planned) in &mut wave {
        if let (Some((share, _)), Ok(partition)) = (planned, &asked.partition)
            && asked.lies_in_objects(limits)
        {
            let (from, bytes) = (asked.wanted.fetch_offset, share.bytes_max as u64);
            wants.push(Want { stream: partition.stream(), from, bytes: bytes.max(1) });
            shares.push(share);
        }
    }
    let gathered = if wants.is_empty() { None } else { Some(broker.reads.gather(&wants).await) };
    if let Some(gathered) = &gathered {
        shares.into_iter().zip(&gathered.missed).for_each(|(share, missed)| share.missed = *missed);
    }
    // Those without a share are answered from memory, at once.
    let (mut reads, mut others) = (Vec::new(), Vec::new());
    for (at, (asked, planned)) in wave.into_iter().enumerate() {
        if planned.is_some() {
            reads.push(async move { (at, asked, read_partition(broker, asked, limits, planned, until).await) });
        } else {
            others.push((at, asked, read_partition(broker, asked, limits, None, until).await));
        }
    }
    let reads = concurrently::all(reads);
    let mut read = match gathered {
        Some(gathered) => concurrently::with_aside(gathered.load(), reads).await,
        None => reads.await,
    };
    read.extend(others);
    read.sort_unstable_by_key(|(at, ..)| *at);
    read.into_iter().map(|(_, asked, answer)| (asked, answer)).collect()
}

/// What one partition answers, and the room that its records have.
struct Answer {
    data: PartitionData,
    room: Option<AnswerRoom>,
    /// It has a batch, which alone is larger than its share, and was read as if those before it would give something.
    held_small: bool,
}

impl Answer {
    fn bytes(&self) -> usize {
        self.data.records.as_ref().map_or(0, Records::total_len)
    }

    /// Its records go out if they fit beside those before it; a first batch that was larger than everything leaves room for no
    /// other.
    fn kept(mut self, budget: &mut Budget<'_>, left: &mut usize) -> PartitionData {
        let bytes = self.bytes();
        if budget.has_records && bytes > *left {
            self.data.records = Some(Records::default());
            return self.data;
        }
        *left = left.saturating_sub(bytes);
        if let Some(room) = self.room {
            budget.keep(room, bytes);
        }
        self.data
    }
}

async fn read_partition(
    broker: &Broker,
    asked: &Asked<'_>,
    limits: &Limits,
    planned: Planned,
    until: Instant,
) -> Result<Answer, FetchError> {
    let partition = match &asked.partition {
        Ok(partition) => partition,
        Err(error) => return Err(FetchError::Leader(error.clone())),
    };
    partition.check_leader_epoch(asked.wanted.current_leader_epoch)?;
    let mut data = PartitionData {
        partition_index: asked.wanted.index,
        aborted_transactions: match limits.isolation {
            Isolation::ReadCommitted => Some(Vec::new()),
            Isolation::ReadUncommitted => None,
        },
        records: Some(Records::default()),
        ..Default::default()
    };
    if let Some((epoch, end_offset)) = asked.diverging(partition) {
        if epoch < 0 {
            let offsets = partition.offsets();
            let offset = asked.wanted.fetch_offset;
            let (log_start, log_end) = (offsets.log_start, offsets.log_end);
            return Err(ReadError::OffsetOutOfRange { offset, log_start, log_end }.into());
        }
        data.diverging_epoch = EpochEndOffset { epoch, end_offset, ..Default::default() };
        set_offsets(&mut data, partition);
        return Ok(Answer { data, room: None, held_small: false });
    }
    // Without room the offset is still checked, and the watermark answered.
    let (share, room) = match planned {
        Some((share, room)) => (share, Some(room)),
        None => (Share { bytes_max: 0, at_least_one: false, missed: None }, None),
    };
    let Share { bytes_max: max_bytes, at_least_one, missed } = share;
    let from = asked.wanted.fetch_offset;
    let reading = Reading { from, max_bytes, isolation: limits.isolation, at_least_one, until, missed };
    let fetched = broker.reads.read_as(partition, reading).await?;
    let below = match limits.isolation {
        Isolation::ReadUncommitted => fetched.high_watermark,
        Isolation::ReadCommitted => fetched.last_stable_offset,
    };
    let held_small = room.is_some() && !at_least_one && fetched.records.is_empty() && fetched.next_offset < below;
    data.high_watermark = fetched.high_watermark;
    data.last_stable_offset = fetched.last_stable_offset;
    data.log_start_offset = fetched.log_start_offset;
    data.records = Some(fetched.records);
    Ok(Answer { data, room, held_small })
}

impl Asked<'_> {
    /// Whether there may be something to read, as far as is known without reading.
    fn wants_records(&self, limits: &Limits) -> bool {
        let Ok(partition) = &self.partition else { return false };
        let offsets = partition.offsets();
        let from = self.wanted.fetch_offset;
        from >= offsets.log_start && from < limits.below(&offsets)
    }

    fn lies_in_objects(&self, limits: &Limits) -> bool {
        let Ok(partition) = &self.partition else { return false };
        let below = limits.below(&partition.offsets());
        partition.with_tail(|tail, _| tail.bytes_between(self.wanted.fetch_offset, below, 1)).is_none()
    }
}

/// The room that one fetch holds.
struct Budget<'a> {
    memory: &'a AnswerMemory,
    held: Option<AnswerRoom>,
    /// Some of it is for records.
    has_records: bool,
    /// There was none, or no time; the rest of the fetch does without.
    refused: bool,
}

impl<'a> Budget<'a> {
    /// Waits until there is room for an answer without records, if that is not small.
    async fn begin(memory: &'a AnswerMemory, asked: &[Asked<'_>]) -> Budget<'a> {
        let bytes = asked.iter().map(|asked| size_of::<PartitionData>() + asked.name_bytes()).sum();
        let held = if bytes > answer_memory::SMALL_BYTES { Some(memory.room(bytes).await) } else { None };
        Budget { memory, held, has_records: false, refused: false }
    }

    /// Nothing is being read for this fetch, and all that it holds is what its answer takes without records.
    async fn room(&mut self, bytes: usize, deadline: Instant) -> Option<AnswerRoom> {
        if self.refused {
            return None;
        }
        let room = if self.has_records {
            self.memory.try_room(bytes)
        } else {
            let soon = Instant::now() + ROOM_WAIT_MIN;
            let until = if self.held.is_some() { soon } else { deadline.max(soon) };
            let rest = self.memory.usage().budget_bytes - self.held.as_ref().map_or(0, AnswerRoom::bytes);
            let bytes = bytes.min(rest);
            tokio::time::timeout_at(until, self.memory.room(bytes)).await.ok()
        };
        self.refused = room.is_none();
        room
    }

    fn keep(&mut self, mut room: AnswerRoom, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.has_records = true;
        room.shrink_to(bytes);
        match &mut self.held {
            Some(held) => held.add(room),
            None => self.held = Some(room),
        }
    }
}
