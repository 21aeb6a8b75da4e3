//! Builds an object out of batches in (stream, offset) order, as a list of segments: record bytes are shared, not copied.

use std::collections::BTreeMap;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use seawall_metadata::{Incarnation, ObjectId, StreamId};

use super::aborted::{AbortedTransaction, encode_aborted};
use super::footer::{Footer, Section, SectionKind};
use super::index::{BlockEntry, ObjectIndex};
use super::producers::{StreamProducers, encode_producers};
use super::{BLOCK_BYTES_TARGET, FORMAT_VERSION, crc32c};
use crate::log_cache::{BatchBytes, BatchEntry};
use crate::producer_state::{Appended, ProducerSnapshot, REMEMBERED_BATCHES};

/// Takes batches in order and lays them out.
#[derive(Debug)]
pub struct ObjectBuilder {
    object: ObjectId,
    incarnation: Incarnation,
    segments: Vec<Bytes>,
    blocks: Vec<BlockEntry>,
    ranges: Vec<StreamRange>,
    open: Option<OpenBlock>,
    data_bytes: u64,
    /// Deltas of the batches added, and full states that were given.
    producers: BTreeMap<StreamId, StreamProducers>,
    aborted: Vec<AbortedTransaction>,
}

/// A contiguous part of one stream in the object, as metadata commits it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRange {
    pub stream: StreamId,
    pub base: i64,
    /// Exclusive.
    pub end: i64,
    pub bytes: u64,
    pub records: u64,
    pub max_timestamp: i64,
    /// The leader epochs of its batches, each with the first offset here; the first one's is `base`.
    pub epochs: Vec<(i32, i64)>,
}

#[derive(Debug, Clone)]
pub struct EncodedObject {
    pub object: ObjectId,
    /// The object's bytes in order.
    pub segments: Vec<Bytes>,
    pub bytes: u64,
    pub index: ObjectIndex,
    pub ranges: Vec<StreamRange>,
}

#[derive(Debug)]
struct OpenBlock {
    entry: BlockEntry,
    digest: Digest,
}

impl ObjectBuilder {
    pub fn new(object: ObjectId, incarnation: Incarnation) -> ObjectBuilder {
        ObjectBuilder {
            object,
            incarnation,
            segments: Vec::new(),
            blocks: Vec::new(),
            ranges: Vec::new(),
            open: None,
            data_bytes: 0,
            producers: BTreeMap::new(),
            aborted: Vec::new(),
        }
    }

    /// Adds the next batch. Batches come sorted by stream; within a stream each begins where the one before it ends.
    pub fn add_batch(&mut self, stream: StreamId, entry: &BatchEntry, bytes: &BatchBytes) {
        if let Some(range) = self.ranges.last().filter(|range| range.stream == stream) {
            assert_eq!(range.end, entry.base, "gap or overlap in stream {stream}");
        }
        self.add_batch_after_gap(stream, entry, bytes);
    }

    /// The same, but offsets may be left out before it: compaction has taken them.
    pub fn add_batch_after_gap(&mut self, stream: StreamId, entry: &BatchEntry, bytes: &BatchBytes) {
        assert_eq!(bytes.len(), entry.bytes as usize, "batch length differs from its entry");
        self.extend_range(stream, entry);
        self.add_to_block(stream, entry, bytes);
        self.add_producer(stream, entry);
    }

    /// Adds a verified block of another object, as [`Self::add_batch`] adds a batch. What it says of producers is left to
    /// [`Self::set_producers`].
    pub fn add_block(&mut self, block: &BlockEntry, bytes: Bytes) {
        self.add_batch(block.stream, &entry_of(block), &bytes.into());
    }

    /// Adds a block that is stored already and is copied by others: what [`Self::finish`] gives then is only what follows all
    /// such blocks, which come in this order. Offsets may be left out before it.
    pub fn add_stored_block(&mut self, block: &BlockEntry) {
        assert!(self.segments.is_empty() && self.open.is_none(), "an object is copied or written");
        self.extend_range(block.stream, &entry_of(block));
        self.blocks.push(BlockEntry { position: self.data_bytes, ..*block });
        self.data_bytes += u64::from(block.bytes);
    }

    /// Puts the stream's full producer state, as of the end of its range here, in the place of the delta.
    pub fn full_producers(&mut self, stream: StreamId, producers: Vec<ProducerSnapshot>) {
        let delta = self.producers.get_mut(&stream).expect("the stream has batches in this object");
        delta.full = true;
        delta.producers = producers;
    }

    /// Puts what is known of the stream's producers in the place of what its batches here say.
    pub fn set_producers(&mut self, producers: StreamProducers) {
        self.producers.insert(producers.stream, producers);
    }

    /// Adds a transaction that was aborted in a range of this object.
    pub fn add_aborted(&mut self, transaction: AbortedTransaction) {
        self.aborted.push(transaction);
    }

    pub fn finish(mut self) -> EncodedObject {
        self.close_block();
        self.aborted.sort_by_key(|transaction| (transaction.stream, transaction.first_offset));
        let index = ObjectIndex::new(self.blocks);
        let streams: Vec<StreamProducers> =
            self.producers.into_values().filter(|stream| stream.full || !stream.producers.is_empty()).collect();
        let mut position = self.data_bytes;
        let mut sections = Vec::new();
        for (kind, section) in [
            (SectionKind::Index, index.encode()),
            (SectionKind::ProducerState, encode_producers(&streams)),
            (SectionKind::AbortedTransactions, encode_aborted(&self.aborted)),
        ] {
            let bytes = section.len() as u64;
            sections.push(Section { kind, position, bytes, crc: crc32c(&section) });
            position += bytes;
            self.segments.push(Bytes::from(section));
        }
        let mut footer = Footer {
            format_version: FORMAT_VERSION,
            object: self.object,
            incarnation: self.incarnation,
            data_bytes: self.data_bytes,
            object_bytes: 0,
            sections,
        };
        footer.object_bytes = position + footer.encode().len() as u64;
        self.segments.push(Bytes::from(footer.encode()));
        self.segments.retain(|segment| !segment.is_empty());
        EncodedObject {
            object: self.object,
            segments: self.segments,
            bytes: footer.object_bytes,
            index,
            ranges: self.ranges,
        }
    }

    fn extend_range(&mut self, stream: StreamId, entry: &BatchEntry) {
        match self.ranges.last_mut() {
            Some(range) if range.stream == stream => {
                assert!(range.end <= entry.base, "overlap in stream {stream}");
                range.end = entry.last + 1;
                range.bytes += u64::from(entry.bytes);
                range.records += u64::from(entry.record_count);
                range.max_timestamp = range.max_timestamp.max(entry.max_timestamp);
                let epoch = range.epochs.last().map(|(epoch, _)| *epoch);
                assert!(epoch <= Some(entry.leader_epoch), "leader epoch of stream {stream} went back");
                if epoch != Some(entry.leader_epoch) {
                    range.epochs.push((entry.leader_epoch, entry.base));
                }
            }
            last => {
                assert!(last.is_none_or(|range| range.stream < stream), "streams out of order");
                self.ranges.push(StreamRange {
                    stream,
                    base: entry.base,
                    end: entry.last + 1,
                    bytes: u64::from(entry.bytes),
                    records: u64::from(entry.record_count),
                    max_timestamp: entry.max_timestamp,
                    epochs: vec![(entry.leader_epoch, entry.base)],
                });
            }
        }
    }

    fn add_to_block(&mut self, stream: StreamId, batch: &BatchEntry, bytes: &BatchBytes) {
        let fits = self.open.as_ref().is_some_and(|OpenBlock { entry, .. }| {
            entry.stream == stream
                && entry.leader_epoch == batch.leader_epoch
                && entry.bytes as usize + bytes.len() <= BLOCK_BYTES_TARGET
        });
        if !fits {
            self.close_block();
        }
        let open = self.open.get_or_insert_with(|| OpenBlock {
            entry: BlockEntry {
                stream,
                base: batch.base,
                end: batch.base,
                max_timestamp: i64::MIN,
                leader_epoch: batch.leader_epoch,
                record_count: 0,
                position: self.data_bytes,
                bytes: 0,
                crc: 0,
            },
            digest: Digest::new(CrcAlgorithm::Crc32Iscsi),
        });
        open.entry.end = batch.last + 1;
        open.entry.max_timestamp = open.entry.max_timestamp.max(batch.max_timestamp);
        open.entry.record_count += batch.record_count;
        open.entry.bytes += batch.bytes;
        for segment in bytes.segments() {
            open.digest.update(&segment);
            self.segments.push(segment);
        }
        self.data_bytes += bytes.len() as u64;
    }

    fn close_block(&mut self) {
        if let Some(OpenBlock { mut entry, digest }) = self.open.take() {
            entry.crc = digest.finalize() as u32;
            self.blocks.push(entry);
        }
    }

    fn add_producer(&mut self, stream: StreamId, entry: &BatchEntry) {
        let end = entry.last + 1;
        let delta = self.producers.entry(stream).or_insert_with(|| StreamProducers {
            stream,
            end,
            full: false,
            producers: Vec::new(),
        });
        delta.end = end;
        let Some(batch) = entry.producer else { return };
        let at = match delta.producers.binary_search_by_key(&batch.producer_id, |known| known.producer_id) {
            Ok(at) => at,
            Err(at) => {
                let fresh = ProducerSnapshot {
                    producer_id: batch.producer_id,
                    producer_epoch: batch.producer_epoch,
                    batches: Vec::with_capacity(1),
                };
                delta.producers.insert(at, fresh);
                at
            }
        };
        let producer = &mut delta.producers[at];
        if producer.producer_epoch != batch.producer_epoch {
            producer.producer_epoch = batch.producer_epoch;
            producer.batches.clear();
        }
        if producer.batches.len() == REMEMBERED_BATCHES {
            producer.batches.remove(0);
        }
        producer.batches.push(Appended {
            base_sequence: batch.base_sequence,
            last_sequence: batch.last_sequence,
            base_offset: entry.base,
            last_offset: entry.last,
            timestamp_ms: entry.max_timestamp,
        });
    }
}

/// A block as one batch, without what its batches say of producers.
fn entry_of(block: &BlockEntry) -> BatchEntry {
    BatchEntry {
        base: block.base,
        last: block.end - 1,
        leader_epoch: block.leader_epoch,
        max_timestamp: block.max_timestamp,
        record_count: block.record_count,
        bytes: block.bytes,
        producer: None,
    }
}
