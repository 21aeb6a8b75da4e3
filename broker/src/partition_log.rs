//! The offsets of one partition and who waits for them: the part of a partition that lives under its lock. No I/O.
//!
//! Offsets only grow, in this order: `log_start <= durable_end`, `committed_end <= durable_end <= log_end`. A batch is
//! admitted at the log end, becomes durable in the order of admission, and is committed to objects later.
//! Promises (asserted): offsets are dense and never reused; the high watermark never moves back and never passes
//! what its ack class vouches for (`ack_class.rs`); a waiter is answered once, after the high watermark has passed the last
//! offset it waits for, or with an error.
//! Leaves to others: fencing and the WAL (`partition.rs`), the order of completions and the lease (`completion.rs`).

use std::collections::VecDeque;

use seawall_wal_device::RecordPosition;
use tokio::sync::oneshot;

use crate::ack_class::{AckClass, AckLine};
use crate::log_cache::{BatchBytes, BatchEntry, StreamTail};
use crate::partition::AppendError;
use crate::producer_state::{ProducerState, Sequence};

/// How far a log may run ahead of the stream's next offset in metadata: a successor that lacks the tail opens beyond it.
pub const UNCOMMITTED_OFFSETS_MAX: i64 = (1 << 32) - 1;
/// Fewer waiters are not worth a look at who has gone.
const WAITERS_SWEPT_FROM: usize = 1024;

pub type Answer = Result<(), AppendError>;

/// An answer that is due, to be sent after the lock is released.
pub type DueAnswer = (oneshot::Sender<Answer>, Answer);

#[derive(Debug)]
pub struct PartitionLog {
    pub tail: StreamTail,
    pub producers: ProducerState,
    pub epochs: EpochStarts,
    leader_epoch: i32,
    log_start: i64,
    /// Everything below is where it waits for its upload (durable, if that is a WAL), or committed.
    durable_end: i64,
    /// Up to where it is acked.
    acks: AckLine,
    /// Bytes that became durable since somebody asked.
    placed_bytes: u64,
    /// Batches handed over and not yet durable, in order: (base, last).
    in_flight: VecDeque<(i64, i64)>,
    /// Who waits for which last offset, in offset order.
    /// Those whose caller has gone are among them, until there are `waiters_swept_at`.
    waiters: VecDeque<(i64, oneshot::Sender<Answer>)>,
    waiters_swept_at: usize,
    /// Why nothing is appended or answered any more.
    ended: Option<AppendError>,
}

/// The first offset of each leader epoch, oldest first: epochs and offsets grow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EpochStarts(Vec<(i32, i64)>);

impl PartitionLog {
    /// A log whose offsets below `tail.log_end()` are all durable.
    pub fn new(
        class: AckClass,
        tail: StreamTail,
        producers: ProducerState,
        mut epochs: EpochStarts,
        leader_epoch: i32,
        log_start: i64,
    ) -> Self {
        let durable_end = tail.log_end();
        assert!(log_start <= durable_end, "log start {log_start} beyond the log end {durable_end}");
        epochs.begin(leader_epoch, durable_end);
        let acks = AckLine::new(class, tail.committed_end(), durable_end);
        Self {
            tail,
            producers,
            epochs,
            leader_epoch,
            log_start,
            durable_end,
            acks,
            placed_bytes: 0,
            in_flight: VecDeque::new(),
            waiters: VecDeque::new(),
            waiters_swept_at: WAITERS_SWEPT_FROM,
            ended: None,
        }
    }

    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    pub fn log_start(&self) -> i64 {
        self.log_start
    }

    pub fn log_end(&self) -> i64 {
        self.tail.log_end()
    }

    pub fn durable_end(&self) -> i64 {
        self.durable_end
    }

    pub fn high_watermark(&self) -> i64 {
        self.acks.watermark()
    }

    pub fn ack_class(&self) -> AckClass {
        self.acks.class()
    }

    /// Something is durable and is acked only when it is committed.
    pub fn waits_for_commit(&self) -> bool {
        self.high_watermark() < self.durable_end
    }

    /// Bytes that became durable since the last call.
    pub fn take_placed_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.placed_bytes)
    }

    /// Transactions will hold it back to the first open one.
    pub fn last_stable_offset(&self) -> i64 {
        self.high_watermark()
    }

    pub fn ended(&self) -> Option<&AppendError> {
        self.ended.as_ref()
    }

    /// Nothing is appended or in flight, and all of it is committed.
    pub fn is_settled(&self) -> bool {
        self.in_flight.is_empty() && self.tail.committed_end() == self.log_end()
    }

    /// The offset that the next batch gets.
    pub fn next_base(&self, records: i64) -> Result<i64, AppendError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        let base = self.log_end();
        if base + records - self.tail.committed_end() > UNCOMMITTED_OFFSETS_MAX {
            return Err(AppendError::TooFarAhead);
        }
        Ok(base)
    }

    /// What is appended from now on is acked under `class`. Answers what that releases.
    pub fn change_ack_class(&mut self, class: AckClass) -> Vec<DueAnswer> {
        self.acks.change(class, self.log_end());
        self.release()
    }

    /// Takes a batch in at the log end; `entry.base` is what `next_base` said. Its ack is awaited by the receiver.
    pub fn admit(
        &mut self,
        entry: BatchEntry,
        bytes: BatchBytes,
        sequence: Option<&Sequence>,
        now_ms: i64,
    ) -> oneshot::Receiver<Answer> {
        assert!(self.ended.is_none(), "append to a partition that has ended");
        assert_eq!(entry.base, self.log_end(), "offsets are dense");
        assert_eq!(entry.leader_epoch, self.leader_epoch, "batch of another leader epoch");
        self.tail.push(entry, bytes);
        if let Some(sequence) = sequence {
            self.producers.record(sequence, entry.base, entry.last, entry.max_timestamp, now_ms);
        }
        self.in_flight.push_back((entry.base, entry.last));
        self.wait_for(entry.last)
    }

    /// Resolves when `last` is acked: for the original of a duplicate as for a new batch.
    pub fn wait_for(&mut self, last: i64) -> oneshot::Receiver<Answer> {
        let (sender, receiver) = oneshot::channel();
        if last < self.high_watermark() {
            _ = sender.send(Ok(()));
        } else if let Some(error) = &self.ended {
            _ = sender.send(Err(error.clone()));
        } else {
            // A batch that is sent again and again while its ack waits for the store would fill memory.
            if self.waiters.len() >= self.waiters_swept_at {
                self.waiters.retain(|(_, sender)| !sender.is_closed());
                self.waiters_swept_at = WAITERS_SWEPT_FROM.max(2 * self.waiters.len());
            }
            let at = self.waiters.partition_point(|(waited, _)| *waited <= last);
            self.waiters.insert(at, (last, sender));
        }
        receiver
    }

    /// The oldest batch in flight is durable at `position`. Moves no watermark yet.
    pub fn placed(&mut self, position: RecordPosition) {
        let (base, _) = self.in_flight.front().copied().expect("a completion for a batch that was never handed over");
        self.tail.placed(base, position);
        self.placed_bytes += u64::from(position.bytes);
        self.in_flight.pop_front();
    }

    /// The same for a batch that lies in memory alone.
    pub fn placed_in_memory(&mut self, position: RecordPosition) {
        let (base, _) = self.in_flight.pop_front().expect("it was admitted");
        self.tail.placed_in_memory(base, position);
        self.placed_bytes += u64::from(position.bytes);
    }

    /// Takes everything placed for durable and moves the high watermark as its class allows. Answers what it releases.
    pub fn advance(&mut self) -> Vec<DueAnswer> {
        let to = self.in_flight.front().map_or(self.log_end(), |(base, _)| *base);
        assert!(self.durable_end <= to, "durable end moved back from {} to {to}", self.durable_end);
        assert!(to <= self.log_end(), "durable end {to} beyond log end {}", self.log_end());
        self.durable_end = to;
        self.release()
    }

    /// Moves the high watermark as far as it may. Not after the end of the log, but for a WAL that failed: what it held is
    /// uploaded all the same.
    pub fn release(&mut self) -> Vec<DueAnswer> {
        if self.ended.as_ref().is_some_and(|error| !matches!(error, AppendError::WalFailed(_))) {
            return Vec::new();
        }
        self.acks.advance(self.tail.committed_end(), self.durable_end);
        let to = crate::faults::acked_to(self.high_watermark(), self.durable_end);
        let released = self.waiters.partition_point(|(last, _)| *last < to);
        self.waiters.drain(..released).map(|(_, sender)| (sender, Ok(()))).collect()
    }

    /// Everything below `to` is committed in metadata. Moves no watermark.
    pub fn committed(&mut self, to: i64) {
        assert!(to <= self.durable_end, "committed end {to} beyond the durable end {}", self.durable_end);
        self.tail.committed(to);
        self.tail.truncate_below(self.log_start);
        self.epochs.forget_below(self.log_start);
    }

    /// Metadata says that the log starts at `start`. Lower than before changes nothing.
    pub fn started_at(&mut self, start: i64) {
        assert!(start <= self.durable_end, "log start {start} beyond the high watermark {}", self.durable_end);
        if start > self.log_start {
            self.log_start = start;
            self.tail.truncate_below(start);
            self.epochs.forget_below(start);
        }
    }

    /// Ends the log for good: whoever waits gets `error`, and so does every later append. What is durable stays readable.
    pub fn end(&mut self, error: AppendError) -> Vec<DueAnswer> {
        if self.ended.is_none() {
            self.ended = Some(error.clone());
        }
        self.waiters.drain(..).map(|(_, sender)| (sender, Err(error.clone()))).collect()
    }
}

impl EpochStarts {
    pub fn new(starts: impl IntoIterator<Item = (i32, i64)>) -> Self {
        let mut epochs = Self::default();
        starts.into_iter().for_each(|(epoch, start)| epochs.begin(epoch, start));
        epochs
    }

    /// `epoch` begins at `start`. An epoch before it that wrote nothing disappears; an older or repeated epoch changes nothing.
    pub fn begin(&mut self, epoch: i32, start: i64) {
        if self.0.last().is_some_and(|(newest, _)| *newest >= epoch) {
            return;
        }
        while self.0.last().is_some_and(|(_, begun)| *begun >= start) {
            self.0.pop();
        }
        self.0.push((epoch, start));
    }

    /// Drops epochs that end at or below the log start; the one that holds it begins there.
    pub fn forget_below(&mut self, log_start: i64) {
        let ended = self.0.partition_point(|(_, start)| *start <= log_start).saturating_sub(1);
        self.0.drain(..ended);
        if let Some((_, start)) = self.0.first_mut() {
            *start = (*start).max(log_start);
        }
    }

    /// Epoch and end offset for a client that last read in `epoch`: the largest epoch known that is not above it, and where
    /// the next one begins. `None` where it is undefined. `log_end` ends the newest epoch.
    pub fn end_of(&self, epoch: i32, log_end: i64) -> Option<(i32, i64)> {
        let (newest, _) = self.0.last()?;
        if epoch == *newest {
            return Some((epoch, log_end));
        }
        let higher = self.0.partition_point(|(known, _)| *known <= epoch);
        let (_, end) = self.0.get(higher)?;
        let floor = higher.checked_sub(1).map_or(epoch, |floor| self.0[floor].0);
        Some((floor, *end))
    }

    /// The epoch that `offset` was written in.
    pub fn of(&self, offset: i64) -> Option<i32> {
        let after = self.0.partition_point(|(_, start)| *start <= offset);
        after.checked_sub(1).map(|holding| self.0[holding].0)
    }

    pub fn iter(&self) -> impl Iterator<Item = (i32, i64)> + '_ {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_cache::LogCache;

    #[tokio::test]
    async fn repeats_whose_callers_have_gone_leave_no_waiters() {
        let tail = LogCache::new(1 << 20).new_tail(0);
        let mut log =
            PartitionLog::new(AckClass::Backend, tail, ProducerState::default(), EpochStarts::default(), 0, 0);
        let kept = log.wait_for(7);
        for _ in 0..100_000 {
            drop(log.wait_for(7));
        }
        assert!(log.waiters.len() <= WAITERS_SWEPT_FROM, "{} waiters", log.waiters.len());
        for (sender, answer) in log.end(AppendError::NotLeader) {
            _ = sender.send(answer);
        }
        assert!(kept.await.is_ok_and(|answer| answer.is_err()), "who still waits is answered");
    }

    #[test]
    fn trap_15_the_end_of_an_epoch_is_the_start_of_the_next() {
        let epochs = EpochStarts::new([(2, 0), (4, 10), (7, 25)]);
        let cases = [
            (1, Some((1, 0)), "before all known: ends where the first begins"),
            (2, Some((2, 10)), "known"),
            (3, Some((2, 10)), "a gap: the largest one below"),
            (4, Some((4, 25)), "known"),
            (6, Some((4, 25)), "a gap"),
            (7, Some((7, 40)), "the newest ends at the log end"),
            (8, None, "not known yet"),
        ];
        for (epoch, expected, why) in cases {
            assert_eq!(epochs.end_of(epoch, 40), expected, "epoch {epoch}: {why}");
        }
        assert_eq!(EpochStarts::default().end_of(0, 5), None);
    }

    #[test]
    fn an_epoch_that_wrote_nothing_leaves_no_trace() {
        assert_eq!(EpochStarts::new([(0, 0), (1, 5), (2, 5), (3, 9)]), EpochStarts::new([(0, 0), (2, 5), (3, 9)]));
        assert_eq!(EpochStarts::new([(3, 0), (3, 5), (2, 7)]), EpochStarts::new([(3, 0)]));
    }

    #[test]
    fn the_epoch_at_the_log_start_begins_there() {
        let mut epochs = EpochStarts::new([(0, 0), (1, 5), (2, 9)]);
        epochs.forget_below(7);
        assert_eq!(epochs, EpochStarts::new([(1, 7), (2, 9)]));
        assert_eq!((epochs.of(6), epochs.of(7), epochs.of(100)), (None, Some(1), Some(2)));
        epochs.forget_below(9);
        assert_eq!(epochs, EpochStarts::new([(2, 9)]));
    }
}
