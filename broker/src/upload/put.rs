//! Turns a cut into stored objects: reads back what memory has let go, reserves ids, encodes, puts until it succeeds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use seawall_backends::pace::Pace;
use seawall_backends::{Backend, BackendError, Purpose, Segments};
use seawall_metadata::{
    Command, Incarnation, LeaderEpoch, MetadataHandle, ObjectId, Registration, Response, StreamId, WalId,
};
use seawall_wal_device::{Wal, WalError};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::status::Shared;
use super::{UploadParts, UploadSource, UploadStopped, wait_after};
use crate::incarnation_watch::restored_elsewhere;
use crate::log_cache::{BatchBytes, PendingBatch};
use crate::object_format::{EncodedObject, ObjectBuilder, StreamRange};
use crate::object_key::ObjectKeys;
use crate::producer_state::ProducerSnapshot;
use crate::store_marker::StoreMarker;
use crate::upload_plan::{Lane, PlannedObject, StreamBatches};
use crate::wal_read_back::read_back;

/// A cut on its way to the store.
#[derive(Debug)]
pub(super) struct CutJob {
    pub cut: u64,
    pub lane: Lane,
    pub objects: Vec<PlannedObject>,
    pub bytes: u64,
    pub full_producers: BTreeMap<StreamId, Vec<ProducerSnapshot>>,
    pub wal_of: BTreeMap<StreamId, WalId>,
}

/// A cut whose objects are in the store.
#[derive(Debug)]
pub(super) struct PreparedCut {
    pub cut: u64,
    pub objects: Vec<StoredObject>,
    /// The streams that were planned into it. Not all need have got in: see `Putter::read_back`.
    pub streams: Vec<StreamId>,
}

#[derive(Debug)]
pub(super) struct StoredObject {
    pub id: ObjectId,
    pub bytes: u64,
    pub ranges: Vec<StreamRange>,
    pub leader_epochs: BTreeMap<StreamId, LeaderEpoch>,
    lane: Lane,
    /// What it was made of, in case it must be stored under another id.
    content: Content,
}

/// The batches of one object with their bytes in memory.
#[derive(Debug)]
struct Content {
    streams: Vec<(StreamId, Vec<(PendingBatch, BatchBytes)>)>,
    full_producers: BTreeMap<StreamId, Vec<ProducerSnapshot>>,
}

/// Object ids reserved ahead, so that a cut does not wait for metadata.
#[derive(Debug)]
pub struct IdPool {
    metadata: MetadataHandleDebug,
    registration: Registration,
    ttl: Duration,
    ids: Mutex<VecDeque<ReservedId>>,
}

#[derive(Debug, Clone, Copy)]
struct ReservedId {
    id: ObjectId,
    /// Until when it is used for a put; its commit follows well within the reservation.
    good_until: Instant,
}

/// Ids asked for at a time.
const IDS_AHEAD: u32 = 16;
/// Bytes of which checksums are made before others on this thread have their turn; a batch costs as much as so many besides.
const ENCODED_AT_ONCE: usize = 1 << 20;
const BATCH_COST_BYTES: usize = 4 << 10;
/// Batches asked back from the WAL in one go.
const READ_AT_ONCE: usize = 1024;
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A store that stays away is named in the log this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

/// Puts cuts. Shared by those in flight.
pub(super) struct Putter {
    backend: Arc<dyn Backend>,
    keys: ObjectKeys,
    incarnation: Incarnation,
    source: Arc<dyn UploadSource>,
    ids: IdPool,
    marker: Option<StoreMarker>,
    shared: Arc<Shared>,
    pace: Arc<Pace>,
}

impl PreparedCut {
    pub(super) fn empty() -> PreparedCut {
        PreparedCut { cut: 0, objects: Vec::new(), streams: Vec::new() }
    }

    /// Exclusive end offset of each range that was stored.
    pub(super) fn ends(&self) -> BTreeMap<StreamId, i64> {
        self.objects.iter().flat_map(|object| &object.ranges).map(|range| (range.stream, range.end)).collect()
    }
}

impl Putter {
    pub(super) fn new(parts: &UploadParts, shared: Arc<Shared>, pace: Arc<Pace>) -> Putter {
        Putter {
            backend: parts.backend.clone(),
            keys: parts.keys.clone(),
            incarnation: parts.incarnation,
            source: parts.source.clone(),
            marker: parts.marker.clone(),
            ids: IdPool {
                metadata: MetadataHandleDebug(parts.metadata.clone()),
                registration: parts.registration,
                ttl: parts.settings.reservation_ttl,
                ids: Mutex::default(),
            },
            shared,
            pace,
        }
    }

    /// Stores every object of the cut. Ends early only when this broker may not upload any more.
    pub(super) async fn put_cut(&self, mut job: CutJob) -> Result<PreparedCut, UploadStopped> {
        let mut streams = Vec::new();
        let mut objects = Vec::new();
        for planned in std::mem::take(&mut job.objects) {
            streams.extend(planned.streams.iter().map(|stream| stream.stream));
            let leader_epochs = planned.streams.iter().map(|stream| (stream.stream, stream.leader_epoch)).collect();
            let mut content = Content { streams: Vec::new(), full_producers: BTreeMap::new() };
            for stream in planned.streams {
                self.load(stream, &job, &mut content).await;
            }
            if !content.streams.is_empty() {
                objects.push(self.put_object(content, leader_epochs, job.lane).await?);
            }
        }
        self.still_current().await?;
        Ok(PreparedCut { cut: job.cut, objects, streams })
    }

    /// After the puts and before the commit: a restore that ends this incarnation later than this finds what was put, and one that has
    /// ended it before may not have.
    async fn still_current(&self) -> Result<(), UploadStopped> {
        let Some(marker) = &self.marker else { return Ok(()) };
        let mut backoff = BACKOFF_MIN;
        loop {
            match marker.ended_by(&*self.backend, Purpose::Upload).await {
                Ok(None) => return Ok(()),
                Ok(Some(by)) => return Err(UploadStopped::Fenced(restored_elsewhere(&by))),
                Err(_) => self.shared.note_put_failure(),
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Stores the same batches under new ids.
    pub(super) async fn put_again(&self, cut: PreparedCut) -> Result<PreparedCut, UploadStopped> {
        self.ids.forget_all().await;
        let mut objects = Vec::new();
        for object in cut.objects {
            objects.push(self.put_object(object.content, object.leader_epochs, object.lane).await?);
        }
        self.still_current().await?;
        Ok(PreparedCut { objects, ..cut })
    }

    /// Brings the stream's batches into memory. Those behind one that cannot be read are left out.
    async fn load(&self, stream: StreamBatches, job: &CutJob, content: &mut Content) {
        let id = stream.stream;
        let planned = stream.batches.len();
        let batches = match job.wal_of.get(&id) {
            Some(wal) => {
                let wal = self.source.wals().into_iter().find(|open| open.id == *wal);
                let Some(wal) = wal else { return };
                self.read_back(id, stream.batches, &wal.wal).await
            }
            None => in_memory(stream.batches),
        };
        if let Some(full) = job.full_producers.get(&id)
            && batches.len() == planned
        {
            content.full_producers.insert(id, full.clone());
        }
        if !batches.is_empty() {
            content.streams.push((id, batches));
        }
    }

    /// The batches up to the first that cannot be read: what lies behind it may not be committed without it.
    async fn read_back(
        &self,
        stream: StreamId,
        batches: Vec<PendingBatch>,
        wal: &Wal,
    ) -> Vec<(PendingBatch, BatchBytes)> {
        let mut loaded: Vec<Option<BatchBytes>> = batches.iter().map(|batch| batch.bytes.clone()).collect();
        let missing: Vec<usize> = (0..batches.len()).filter(|at| loaded[*at].is_none()).collect();
        self.shared.note_read_back(missing.len());
        let mut backoff = BACKOFF_MIN;
        'shares: for share in missing.chunks(READ_AT_ONCE) {
            let mut left = share.to_vec();
            while !left.is_empty() {
                let wanted = left.iter().map(|at| (batches[*at].entry, batches[*at].position)).collect();
                let mut again = Vec::new();
                for (at, read) in left.iter().zip(read_back(wal, stream, wanted).await) {
                    match read {
                        Ok(bytes) => loaded[*at] = Some(bytes.into()),
                        Err(WalError::Read(error)) => {
                            warn!(%error, "reading the WAL back failed, will try again");
                            again.push(*at);
                        }
                        // The broker stops; whoever stops it drops this future. Closed and failed is another thing: that
                        // WAL's thread has gone, and the other WALs are still uploaded.
                        Err(WalError::Closed) if wal.failed().is_none() => std::future::pending().await,
                        // Deleted meanwhile: the WAL was free to forget it.
                        Err(WalError::Trimmed { .. }) if !self.is_led(stream) => break 'shares,
                        Err(error) => {
                            let base = batches[*at].entry.base;
                            error!(%stream, base, %error, "a stream is not uploaded any more: its WAL cannot be read");
                            self.shared.note_damage(stream);
                            break 'shares;
                        }
                    }
                }
                if !again.is_empty() {
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
                left = again;
            }
        }
        batches.into_iter().zip(loaded).map_while(|(batch, bytes)| Some((batch, bytes?))).collect()
    }

    fn is_led(&self, stream: StreamId) -> bool {
        self.source.streams().iter().any(|led| led.stream() == stream)
    }

    async fn put_object(
        &self,
        content: Content,
        leader_epochs: BTreeMap<StreamId, LeaderEpoch>,
        lane: Lane,
    ) -> Result<StoredObject, UploadStopped> {
        let mut complained: Option<Instant> = None;
        loop {
            let reserved = self.ids.take(&self.shared).await?;
            let encoded = content.encode(reserved.id, self.incarnation).await;
            let key = self.keys.key(self.incarnation, reserved.id);
            let mut backoff = BACKOFF_MIN;
            while Instant::now() < reserved.good_until {
                let body = Segments::new(encoded.segments.clone());
                let body = match lane {
                    Lane::Bulk => body.paced(self.pace.clone()),
                    Lane::Acks => body,
                };
                let Err(error) = crate::faults::put(&self.backend, &key, body).await else {
                    if complained.is_some() {
                        info!(object = %reserved.id, "the store takes uploads again");
                    }
                    let EncodedObject { bytes, ranges, .. } = encoded;
                    return Ok(StoredObject { id: reserved.id, bytes, ranges, leader_epochs, lane, content });
                };
                self.shared.note_put_failure();
                if complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
                    complained = Some(Instant::now());
                    complain(&error, reserved.id);
                }
                tokio::time::sleep(pause(&error, backoff, reserved.id)).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

impl Content {
    async fn encode(&self, id: ObjectId, incarnation: Incarnation) -> EncodedObject {
        let mut builder = ObjectBuilder::new(id, incarnation);
        let mut left = ENCODED_AT_ONCE;
        for (stream, batches) in &self.streams {
            for (batch, bytes) in batches {
                builder.add_batch(*stream, &batch.entry, bytes);
                left = left.saturating_sub(bytes.len() + BATCH_COST_BYTES);
                if left == 0 {
                    left = ENCODED_AT_ONCE;
                    tokio::task::yield_now().await;
                }
            }
        }
        for (stream, full) in &self.full_producers {
            builder.full_producers(*stream, full.clone());
        }
        builder.finish()
    }
}

impl IdPool {
    async fn take(&self, shared: &Shared) -> Result<ReservedId, UploadStopped> {
        let mut ids = self.ids.lock().await;
        loop {
            while let Some(id) = ids.pop_front() {
                if Instant::now() < id.good_until {
                    return Ok(id);
                }
            }
            // Counted from before the proposal: metadata counts the TTL from when it applies it.
            let good_until = Instant::now() + self.ttl * 3 / 4;
            let ttl_ms = self.ttl.as_millis() as u64;
            let command = Command::ReserveObjects { by: self.registration, count: IDS_AHEAD, ttl_ms };
            match self.metadata.0.propose(command).await {
                Ok((_, Response::ObjectIds { first, count })) => {
                    let reserved =
                        (0..u64::from(count)).map(|at| ReservedId { id: ObjectId(first.0 + at), good_until });
                    ids.extend(reserved);
                }
                Ok((_, other)) => unreachable!("a reservation is not answered with {other:?}"),
                Err(error) => wait_after(error, shared).await?,
            }
        }
    }

    async fn forget_all(&self) {
        self.ids.lock().await.clear();
    }
}

/// The bytes of batches that are nowhere else.
fn in_memory(batches: Vec<PendingBatch>) -> Vec<(PendingBatch, BatchBytes)> {
    let with_bytes = |mut batch: PendingBatch| {
        let bytes = batch.bytes.take().expect("what lies in memory alone does not leave it");
        (batch, bytes)
    };
    batches.into_iter().map(with_bytes).collect()
}

fn complain(error: &BackendError, object: ObjectId) {
    if error.is_retriable() {
        warn!(%object, %error, "upload failed, will be repeated; data stays in the WAL");
    } else {
        error!(%object, %error, "the store refuses uploads; they are repeated and data stays in the WAL");
    }
}

/// Backoff with a spread that differs by object, so that uploads do not come back all at once.
fn pause(error: &BackendError, backoff: Duration, object: ObjectId) -> Duration {
    let asked = match error {
        BackendError::Throttled { retry_after } => retry_after.unwrap_or_default(),
        _ => Duration::ZERO,
    };
    let spread = backoff / 4 * (object.0 % 4) as u32 / 4;
    asked.max(backoff + spread)
}

/// A handle that does not print its state.
struct MetadataHandleDebug(MetadataHandle);

impl std::fmt::Debug for MetadataHandleDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MetadataHandle")
    }
}
