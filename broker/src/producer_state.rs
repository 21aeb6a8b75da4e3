//! What one partition remembers of its idempotent producers: epochs and sequence numbers, pure.
//!
//! Promises: a batch is accepted at most once while its producer is remembered; a repeat of one of the last
//! [`REMEMBERED_BATCHES`] batches is recognised and answered with the offsets of the original; a gap in the
//! sequence is refused. A producer that is not remembered (new, expired, evicted) may start at any sequence, as in Kafka.
//! Leaves to others: when a duplicate may be answered (`partition.rs` waits for the original's durability), and
//! transactions, which will add a coordinator epoch and the first offset of an open transaction to [`Producer`].

use std::collections::BTreeMap;

/// As many batches as a producer may have in flight with idempotence on.
pub const REMEMBERED_BATCHES: usize = 5;

/// Producers remembered per partition. Beyond it the longest idle are forgotten, an eighth at a time.
pub const PRODUCERS_MAX: usize = 10_000;

const NO_SEQUENCE: i32 = -1;

/// The producer fields of one batch: ids, and the inclusive range of its sequence numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base: i32,
    pub last: i32,
}

impl Sequence {
    /// The sequence range of a batch with `last_offset_delta + 1` records; wraps at `i32::MAX` to 0.
    pub fn of(producer_id: i64, producer_epoch: i16, base: i32, last_offset_delta: i32) -> Self {
        Self { producer_id, producer_epoch, base, last: advance(base, last_offset_delta) }
    }
}

/// A batch that was appended, as far as duplicates of it must be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Appended {
    pub base_sequence: i32,
    pub last_sequence: i32,
    pub base_offset: i64,
    pub last_offset: i64,
    /// Max timestamp of the batch, ms; for `LogAppendTime` the time that the original was answered with.
    pub timestamp_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// In sequence: append it, then call [`ProducerState::record`].
    Append,
    /// Already appended: answer with these offsets once they are durable.
    Duplicate(Appended),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    #[error("producer {producer_id} has epoch {current}, the batch has the older epoch {given}")]
    StaleEpoch { producer_id: i64, current: i16, given: i16 },
    #[error("producer {producer_id} last appended sequence {last}, the batch starts at {given}")]
    OutOfOrder { producer_id: i64, last: i32, given: i32 },
}

/// One producer, as stored in objects and handed back to [`ProducerState::restore`]. Oldest batch first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerSnapshot {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub batches: Vec<Appended>,
}

#[derive(Debug, Clone)]
struct Producer {
    epoch: i16,
    /// Ring of the last batches of this epoch: `batches[..len]`, oldest first.
    batches: [Appended; REMEMBERED_BATCHES],
    len: u8,
    last_active_ms: i64,
}

impl Producer {
    fn new(epoch: i16) -> Self {
        Self { epoch, batches: Default::default(), len: 0, last_active_ms: i64::MIN }
    }

    fn remembered(&self) -> &[Appended] {
        &self.batches[..usize::from(self.len)]
    }

    fn push(&mut self, batch: Appended) {
        if usize::from(self.len) == REMEMBERED_BATCHES {
            self.batches.rotate_left(1);
            self.batches[REMEMBERED_BATCHES - 1] = batch;
        } else {
            self.batches[usize::from(self.len)] = batch;
            self.len += 1;
        }
    }

    fn last_sequence(&self) -> i32 {
        self.remembered().last().map_or(NO_SEQUENCE, |batch| batch.last_sequence)
    }
}

/// All producers of one partition.
#[derive(Debug, Clone, Default)]
pub struct ProducerState {
    producers: BTreeMap<i64, Producer>,
}

impl ProducerState {
    /// Judges a batch before it is appended. Changes nothing.
    pub fn check(&self, batch: &Sequence) -> Result<Verdict, SequenceError> {
        let Some(producer) = self.producers.get(&batch.producer_id) else { return Ok(Verdict::Append) };
        let producer_id = batch.producer_id;
        if batch.producer_epoch < producer.epoch {
            return Err(SequenceError::StaleEpoch {
                producer_id,
                current: producer.epoch,
                given: batch.producer_epoch,
            });
        }
        if batch.producer_epoch > producer.epoch {
            return match batch.base {
                0 => Ok(Verdict::Append),
                given => Err(SequenceError::OutOfOrder { producer_id, last: NO_SEQUENCE, given }),
            };
        }
        let repeated = |known: &&Appended| known.base_sequence == batch.base && known.last_sequence == batch.last;
        if let Some(original) = producer.remembered().iter().find(repeated) {
            return Ok(Verdict::Duplicate(*original));
        }
        let last = producer.last_sequence();
        if batch.base == advance(last, 1) {
            Ok(Verdict::Append)
        } else {
            Err(SequenceError::OutOfOrder { producer_id, last, given: batch.base })
        }
    }

    /// Remembers a batch that was appended at `base_offset`. `now_ms` is the wall time, for expiry only.
    pub fn record(&mut self, batch: &Sequence, base_offset: i64, last_offset: i64, timestamp_ms: i64, now_ms: i64) {
        let producer = self.producers.entry(batch.producer_id).or_insert_with(|| Producer::new(batch.producer_epoch));
        if producer.epoch != batch.producer_epoch {
            assert!(
                producer.epoch < batch.producer_epoch,
                "producer {} went back from epoch {} to {}",
                batch.producer_id,
                producer.epoch,
                batch.producer_epoch
            );
            *producer = Producer { last_active_ms: producer.last_active_ms, ..Producer::new(batch.producer_epoch) };
        }
        if let Some(previous) = producer.remembered().last() {
            assert!(
                previous.last_offset < base_offset,
                "producer {} appended at {base_offset}, not after {}",
                batch.producer_id,
                previous.last_offset
            );
        }
        producer.push(Appended {
            base_sequence: batch.base,
            last_sequence: batch.last,
            base_offset,
            last_offset,
            timestamp_ms,
        });
        producer.last_active_ms = producer.last_active_ms.max(now_ms);
        if self.producers.len() > PRODUCERS_MAX {
            self.evict_longest_idle();
        }
    }

    /// Takes over what objects remember of a producer. Call in offset order, before the WAL's batches are replayed.
    /// Stored bytes are not trusted: what goes backwards (an older epoch, an offset already passed) is skipped.
    /// Its batches count as active at `now_ms`: record timestamps are the producer's and say nothing about when it was here.
    pub fn restore(&mut self, snapshot: &ProducerSnapshot, now_ms: i64) {
        let known =
            self.producers.entry(snapshot.producer_id).or_insert_with(|| Producer::new(snapshot.producer_epoch));
        if snapshot.producer_epoch < known.epoch {
            return;
        }
        if snapshot.producer_epoch > known.epoch {
            *known = Producer::new(snapshot.producer_epoch);
        }
        for batch in &snapshot.batches {
            if known.remembered().last().is_none_or(|last| last.last_offset < batch.base_offset) {
                known.push(*batch);
                known.last_active_ms = known.last_active_ms.max(now_ms);
            }
        }
        if self.producers.len() > PRODUCERS_MAX {
            self.evict_longest_idle();
        }
    }

    /// Takes a batch over that recovery found in the WAL; in offset order. One that objects told of already is skipped.
    pub fn replay(&mut self, batch: &Sequence, base_offset: i64, last_offset: i64, timestamp_ms: i64, now_ms: i64) {
        let batches = vec![Appended {
            base_sequence: batch.base,
            last_sequence: batch.last,
            base_offset,
            last_offset,
            timestamp_ms,
        }];
        let (producer_id, producer_epoch) = (batch.producer_id, batch.producer_epoch);
        self.restore(&ProducerSnapshot { producer_id, producer_epoch, batches }, now_ms);
    }

    /// Forgets producers that were idle for longer than `expiration_ms`. Returns how many.
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) -> usize {
        let before = self.producers.len();
        self.producers.retain(|_, producer| now_ms.saturating_sub(producer.last_active_ms) <= expiration_ms);
        before - self.producers.len()
    }

    pub fn len(&self) -> usize {
        self.producers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// Every remembered producer, by id.
    pub fn snapshot(&self) -> impl Iterator<Item = ProducerSnapshot> + '_ {
        self.producers.iter().map(|(id, producer)| ProducerSnapshot {
            producer_id: *id,
            producer_epoch: producer.epoch,
            batches: producer.remembered().to_vec(),
        })
    }

    fn evict_longest_idle(&mut self) {
        let last_offset = |producer: &Producer| producer.remembered().last().map_or(-1, |batch| batch.last_offset);
        let mut by_age: Vec<(i64, i64, i64)> =
            self.producers.iter().map(|(id, p)| (p.last_active_ms, last_offset(p), *id)).collect();
        by_age.sort_unstable();
        for (_, _, id) in by_age.into_iter().take(PRODUCERS_MAX / 8) {
            self.producers.remove(&id);
        }
    }
}

/// `sequence + by`, where sequence numbers run from 0 to `i32::MAX` and start again at 0. From "none" (-1) the first is 0.
fn advance(sequence: i32, by: i32) -> i32 {
    let next = i64::from(sequence) + i64::from(by);
    (next % (i64::from(i32::MAX) + 1)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn batch(producer_id: i64, producer_epoch: i16, base: i32, records: i32) -> Sequence {
        Sequence::of(producer_id, producer_epoch, base, records - 1)
    }

    /// Appends what `check` lets through, at dense offsets.
    #[derive(Default)]
    struct Log {
        state: ProducerState,
        end: i64,
    }

    impl Log {
        fn produce(&mut self, batch: Sequence, records: i64) -> Result<Verdict, SequenceError> {
            let verdict = self.state.check(&batch)?;
            if verdict == Verdict::Append {
                self.state.record(&batch, self.end, self.end + records - 1, self.end, self.end);
                self.end += records;
            }
            Ok(verdict)
        }
    }

    #[test]
    fn sequence_numbers_wrap_after_the_largest_i32() {
        assert_eq!(advance(NO_SEQUENCE, 1), 0);
        assert_eq!(advance(i32::MAX, 1), 0);
        assert_eq!(advance(i32::MAX - 1, 3), 1);
        assert_eq!(
            batch(1, 0, i32::MAX - 1, 4),
            Sequence { producer_id: 1, producer_epoch: 0, base: i32::MAX - 1, last: 1 }
        );
        let mut log = Log::default();
        assert_eq!(log.produce(batch(1, 0, i32::MAX - 1, 2), 2), Ok(Verdict::Append));
        assert_eq!(log.produce(batch(1, 0, 0, 1), 1), Ok(Verdict::Append));
        let mut log = Log::default();
        assert_eq!(log.produce(batch(1, 0, i32::MAX - 1, 4), 4), Ok(Verdict::Append));
        assert_eq!(log.produce(batch(1, 0, 2, 1), 1), Ok(Verdict::Append));
    }

    #[test]
    fn trap_20_a_repeat_of_one_of_the_last_five_batches_is_answered_with_the_original_offsets() {
        let mut log = Log::default();
        for base in 0..6 {
            assert_eq!(log.produce(batch(7, 0, base * 2, 2), 2), Ok(Verdict::Append));
        }
        for base in 1..6 {
            let Ok(Verdict::Duplicate(original)) = log.produce(batch(7, 0, base * 2, 2), 2) else {
                panic!("batch {base} is not a duplicate");
            };
            assert_eq!((original.base_offset, original.last_offset), (i64::from(base) * 2, i64::from(base) * 2 + 1));
        }
        let sixth_last = log.produce(batch(7, 0, 0, 2), 2);
        assert_eq!(sixth_last, Err(SequenceError::OutOfOrder { producer_id: 7, last: 11, given: 0 }));
        assert_eq!(log.end, 12, "no duplicate was appended");
    }

    #[test]
    fn a_repeat_with_another_length_is_not_a_duplicate() {
        let mut log = Log::default();
        log.produce(batch(7, 0, 0, 3), 3).unwrap();
        assert!(matches!(log.produce(batch(7, 0, 0, 2), 2), Err(SequenceError::OutOfOrder { .. })));
        assert!(matches!(log.produce(batch(7, 0, 1, 2), 2), Err(SequenceError::OutOfOrder { .. })));
    }

    #[test]
    fn a_gap_in_the_sequence_is_refused_and_changes_nothing() {
        let mut log = Log::default();
        log.produce(batch(7, 0, 0, 3), 3).unwrap();
        assert_eq!(
            log.produce(batch(7, 0, 4, 1), 1),
            Err(SequenceError::OutOfOrder { producer_id: 7, last: 2, given: 4 })
        );
        assert_eq!(log.produce(batch(7, 0, 3, 1), 1), Ok(Verdict::Append));
    }

    #[test]
    fn a_new_epoch_starts_at_sequence_zero_and_fences_the_old_one() {
        let mut log = Log::default();
        log.produce(batch(7, 3, 0, 3), 3).unwrap();
        assert!(matches!(log.produce(batch(7, 4, 3, 1), 1), Err(SequenceError::OutOfOrder { last: NO_SEQUENCE, .. })));
        assert_eq!(log.produce(batch(7, 4, 0, 3), 3), Ok(Verdict::Append), "same sequences, other epoch: no duplicate");
        assert_eq!(
            log.produce(batch(7, 3, 3, 1), 1),
            Err(SequenceError::StaleEpoch { producer_id: 7, current: 4, given: 3 })
        );
    }

    #[test]
    fn trap_20_an_unknown_or_expired_producer_may_start_at_any_sequence() {
        let mut log = Log::default();
        assert_eq!(log.produce(batch(7, 2, 100, 1), 1), Ok(Verdict::Append));
        assert_eq!(log.state.expire(500, 600), 0);
        assert_eq!(log.state.expire(601, 600), 1);
        assert_eq!(log.produce(batch(7, 2, 300, 1), 1), Ok(Verdict::Append));
    }

    #[test]
    fn a_producer_of_old_records_is_remembered_over_a_restart() {
        let mut rebuilt = ProducerState::default();
        let (old_ms, now_ms) = (1_000, 1_000_000_000);
        rebuilt.replay(&batch(7, 0, 0, 2), 0, 1, old_ms, now_ms);
        assert_eq!(rebuilt.expire(now_ms + 500, 600), 0);
        assert!(matches!(rebuilt.check(&batch(7, 0, 0, 2)), Ok(Verdict::Duplicate(_))));
    }

    #[test]
    fn memory_is_bounded_and_the_longest_idle_are_forgotten_first() {
        let mut log = Log::default();
        for id in 0..=PRODUCERS_MAX as i64 {
            log.produce(batch(id, 0, 0, 1), 1).unwrap();
        }
        assert!(log.state.len() <= PRODUCERS_MAX);
        assert!(matches!(log.state.check(&batch(PRODUCERS_MAX as i64, 0, 0, 1)), Ok(Verdict::Duplicate(_))));
        assert_eq!(log.state.check(&batch(0, 0, 5, 1)), Ok(Verdict::Append), "forgotten");
    }

    #[test]
    fn stored_state_that_goes_backwards_is_skipped() {
        let at = |base: i32, offset: i64| Appended {
            base_sequence: base,
            last_sequence: base,
            base_offset: offset,
            last_offset: offset,
            timestamp_ms: 0,
        };
        let snapshot = |epoch, batches| ProducerSnapshot { producer_id: 1, producer_epoch: epoch, batches };
        let mut state = ProducerState::default();
        state.restore(&snapshot(2, vec![at(0, 10), at(1, 11)]), 0);
        state.restore(&snapshot(1, vec![at(9, 20)]), 0);
        state.restore(&snapshot(2, vec![at(1, 11), at(2, 12)]), 0);
        assert_eq!(state.snapshot().collect::<Vec<_>>(), [snapshot(2, vec![at(0, 10), at(1, 11), at(2, 12)])]);
    }

    /// The rules said again, over the whole history of each producer and without any ring or map of our own.
    #[derive(Default)]
    struct Model {
        appended: Vec<(Sequence, i64)>,
    }

    impl Model {
        fn check(&self, batch: &Sequence) -> Result<Option<i64>, ()> {
            let of_producer: Vec<_> =
                self.appended.iter().filter(|(b, _)| b.producer_id == batch.producer_id).collect();
            let Some((newest, _)) = of_producer.last() else { return Ok(None) };
            if batch.producer_epoch < newest.producer_epoch {
                return Err(());
            }
            let same_epoch: Vec<_> =
                of_producer.iter().filter(|(b, _)| b.producer_epoch == batch.producer_epoch).collect();
            let Some((previous, _)) = same_epoch.last() else {
                return if batch.base == 0 { Ok(None) } else { Err(()) };
            };
            if let Some((_, offset)) = same_epoch.iter().rev().take(5).find(|(b, _)| b == batch) {
                return Ok(Some(*offset));
            }
            let next = if previous.last == i32::MAX { 0 } else { previous.last + 1 };
            if batch.base == next { Ok(None) } else { Err(()) }
        }
    }

    fn any_batch() -> impl Strategy<Value = (Sequence, i64)> {
        let base = prop_oneof![0..8i32, (i32::MAX - 6)..=i32::MAX];
        (0..3i64, 0..3i16, base, 1..4i32).prop_map(|(id, epoch, base, n)| (batch(id, epoch, base, n), i64::from(n)))
    }

    proptest! {
        #[test]
        fn agrees_with_a_model_that_keeps_the_whole_history(batches in prop::collection::vec(any_batch(), 1..200)) {
            let mut log = Log::default();
            let mut model = Model::default();
            for (batch, records) in batches {
                let expected = model.check(&batch);
                let base = log.end;
                match log.produce(batch, records) {
                    Ok(Verdict::Append) => {
                        prop_assert_eq!(expected, Ok(None));
                        model.appended.push((batch, base));
                    }
                    Ok(Verdict::Duplicate(original)) => prop_assert_eq!(expected, Ok(Some(original.base_offset))),
                    Err(_) => prop_assert_eq!(expected, Err(())),
                }
            }
        }

        /// However the log is cut into objects and a WAL tail, recovery answers as the broker that never stopped.
        #[test]
        fn state_rebuilt_from_snapshots_and_replay_judges_alike(
            batches in prop::collection::vec(any_batch(), 1..120), cut in 0usize..120, probe in any_batch(),
        ) {
            let mut log = Log::default();
            let mut rebuilt = ProducerState::default();
            for (i, (batch, records)) in batches.into_iter().enumerate() {
                if i == cut {
                    log.state.snapshot().for_each(|producer| rebuilt.restore(&producer, 0));
                }
                let base = log.end;
                if log.produce(batch, records) == Ok(Verdict::Append) && i >= cut {
                    rebuilt.replay(&batch, base, base + records - 1, base, base);
                }
            }
            if cut < 120 && !rebuilt.is_empty() {
                for id in 0..3 {
                    let probe = Sequence { producer_id: id, ..probe.0 };
                    if rebuilt.snapshot().any(|p| p.producer_id == id) {
                        prop_assert_eq!(rebuilt.check(&probe), log.state.check(&probe));
                    }
                }
            }
        }
    }
}
