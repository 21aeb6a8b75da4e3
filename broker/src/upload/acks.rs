//! Cuts for acks: streams of ack class `backend` that wait are uploaded by themselves, soon.
//!
//! At once when the last such cut is `ack_interval` old, so that a lone record does not wait for others, and before that
//! when `ack_bytes` wait. Other streams are left to the large cuts: taken along, they would end in as many small objects.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::time::Duration;

use seawall_metadata::StreamId;
use seawall_wal_device::Lsn;
use tokio::time::Instant;
use tracing::debug;

use super::{UploadStream, UploadTask};
use crate::commit_waits::CommitWaits;
use crate::upload_plan::Lane;

/// Such cuts under way at a time. More than large ones: they are small, and a store of 500 ms takes one every 125 ms.
pub(crate) const IN_FLIGHT_MAX: usize = 4;
/// To trim the WAL all partitions are asked what they need: not with every small commit.
const TRIM_EVERY: Duration = Duration::from_secs(1);

pub(super) struct AckCuts {
    pub waits: Arc<CommitWaits>,
    /// Not before, unless enough waits.
    next: Option<Instant>,
    next_trim: Option<Instant>,
    /// The last time there was nothing to take: before `next` there will be nothing, whoever is in a hurry.
    came_to_nothing: bool,
    /// The last stream that was taken: the next cut begins behind it, so that a large backlog of one holds up no other's acks.
    last: Option<StreamId>,
    /// Taken since the last large cut.
    bytes_taken: u64,
}

impl AckCuts {
    pub fn new(waits: Arc<CommitWaits>) -> AckCuts {
        AckCuts { waits, next: None, next_trim: None, came_to_nothing: false, last: None, bytes_taken: 0 }
    }

    /// About how many of the WAL's bytes that are in no large cut are no concern of the next one.
    pub fn bytes_beside_bulk(&self) -> u64 {
        self.bytes_taken + self.waits.backlog().bytes
    }

    pub fn bulk_was_cut(&mut self) {
        self.bytes_taken = 0;
    }
}

impl UploadTask {
    /// When the next cut for acks may be due by time; `None` while nothing waits, or something else must happen first.
    pub(super) fn next_ack_cut(&self) -> Option<Instant> {
        let free = self.cuts_in_flight(Lane::Acks) < IN_FLIGHT_MAX && self.acks.waits.backlog().streams > 0;
        free.then(|| self.acks.next.max(self.pause_until).unwrap_or_else(Instant::now))
    }

    pub(super) fn cut_for_acks(&mut self) {
        loop {
            let now = Instant::now();
            let backlog = self.acks.waits.backlog();
            let paused = self.pause_until.is_some_and(|until| now < until);
            if backlog.streams == 0 || paused || self.cuts_in_flight(Lane::Acks) >= IN_FLIGHT_MAX {
                return;
            }
            let early = backlog.bytes >= self.parts.settings.ack_bytes || !self.flushes.is_empty();
            let in_time = self.acks.next.is_none_or(|next| now >= next);
            if !in_time && (!early || self.acks.came_to_nothing) {
                return;
            }
            self.acks.next = Some(now + self.parts.settings.ack_interval);
            let job = self.make_ack_cut();
            self.acks.came_to_nothing = job.is_none();
            let Some(job) = job else { return };
            debug!(cut = job.cut, objects = job.objects.len(), bytes = job.bytes, "cut for acks made");
            self.acks.bytes_taken += job.bytes;
            self.shared.note_ack_cut();
            self.put(job);
        }
    }

    /// Takes the streams that wait, up to about `upload.bytes` of them.
    fn make_ack_cut(&mut self) -> Option<super::put::CutJob> {
        let source = self.parts.source.clone();
        let ids = self.acks.waits.take();
        let ids = behind(&ids, self.acks.last);
        let streams: Vec<Arc<dyn UploadStream>> = ids.filter_map(|id| source.stream(id)).collect();
        let mut room = self.parts.settings.bytes;
        let mut batches = Vec::new();
        for stream in &streams {
            // Committed while there was no lease: it may be shown by now.
            stream.committed(stream.committed_end());
            if room > 0
                && let Some(taken) = self.take(stream.as_ref(), Lsn(u64::MAX), room)
            {
                room = room.saturating_sub(taken.bytes());
                self.acks.last = Some(taken.stream);
                batches.push(taken);
            }
        }
        let job = self.plan_cut(Lane::Acks, &streams, batches);
        self.wait_again(streams.iter());
        job
    }

    /// Streams whose acks wait for what is in no cut. What is damaged is never cut again, and never acked.
    pub(super) fn wait_again<'a>(&self, streams: impl Iterator<Item = &'a Arc<dyn UploadStream>>) {
        for stream in streams.filter(|stream| stream.waits_for_commit()) {
            let left = self.planned_end(stream.as_ref()) < stream.durable_end();
            if left && !self.shared.is_damaged(stream.stream()) {
                self.acks.waits.add(stream.stream(), 0);
            }
        }
    }

    /// Whether the next commit is to carry trims.
    pub(super) fn is_trim_due(&mut self, lane: Lane) -> bool {
        let now = Instant::now();
        let full = || self.parts.source.wals().iter().any(|wal| wal.wal.soft_limit_reached());
        let due = lane == Lane::Bulk || self.acks.next_trim.is_none_or(|next| now >= next) || full();
        if due {
            self.acks.next_trim = Some(now + TRIM_EVERY);
        }
        due
    }
}

/// All of them, from the one behind `last` on and round.
fn behind(ids: &BTreeSet<StreamId>, last: Option<StreamId>) -> impl Iterator<Item = StreamId> + '_ {
    let last = last.unwrap_or(StreamId(0));
    ids.range((Excluded(last), Unbounded)).chain(ids.range(..=last)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_begins_behind_the_last_stream_that_was_taken() {
        let ids = BTreeSet::from([0, 3, 5, 8].map(StreamId));
        let order = |last: Option<u64>| behind(&ids, last.map(StreamId)).map(|id| id.0).collect::<Vec<_>>();
        assert_eq!(order(None), [3, 5, 8, 0]);
        assert_eq!(order(Some(3)), [5, 8, 0, 3]);
        assert_eq!(order(Some(6)), [8, 0, 3, 5]);
        assert_eq!(order(Some(9)), [0, 3, 5, 8]);
    }
}
