//! `Wal`, the handle that callers hold, and `Completions`, the one stream on which they learn what is durable.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::watch;

use crate::config::Fault;
use crate::device::{LEGS_MAX, Medium};
use crate::error::{WalError, WalFull};
use crate::format::frame::{decode_record, record_bytes};
use crate::format::superblock::Superblock;
use crate::shared::{Control, Entry, Phase, Shared};
use crate::status::{Distrust, JoinError, WalStats, WalStatus};
use crate::types::{DurableRecord, LegId, Lsn, RecordHeader, RecordPosition, Segments, SpaceClass, WalUsage};

/// An open WAL. Cheap to clone. When the last clone is dropped without `close`, the WAL thread stops without a clean mark.
#[derive(Clone)]
pub struct Wal {
    owner: Arc<Owner>,
}

struct Owner {
    shared: Arc<Shared>,
    /// `None` when a simulation steps the engine.
    thread: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Wal {
    pub(crate) fn new(shared: Arc<Shared>, thread: Option<JoinHandle<()>>) -> (Self, Completions) {
        let completions = Completions { shared: shared.clone(), over: false, spare: Vec::new() };
        let owner = Owner { shared, thread: std::sync::Mutex::new(thread) };
        (Self { owner: Arc::new(owner) }, completions)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.owner.shared
    }

    /// Makes sure that a record of up to `payload_bytes` will fit. Counts headers and padding at their worst. Never waits.
    pub fn reserve(&self, payload_bytes: u64, class: SpaceClass) -> Result<Reservation, WalFull> {
        let cost = self.shared().reserve(payload_bytes, class)?;
        Ok(Reservation { shared: self.shared().clone(), cost, payload_bytes })
    }

    /// Queues a record. Never fails and never blocks; the order of calls is the order in the WAL, so callers hold the lock
    /// that gives them their order. `token` comes back with the completion. If the WAL fails or closes first it never
    /// does, and the completions end.
    ///
    /// The payload must not be longer than what was reserved.
    pub fn append(&self, reservation: Reservation, header: RecordHeader, payload: impl Into<Segments>, token: u64) {
        let payload = payload.into();
        let payload_bytes = payload.total_bytes();
        assert!(payload_bytes as u64 <= reservation.payload_bytes, "a payload longer than its reservation");
        assert!(Arc::ptr_eq(&reservation.shared, self.shared()), "a reservation of another WAL");
        let (cost, reserved_bytes) = reservation.spend();
        let entry = Entry { header, payload, payload_bytes: payload_bytes as u32, cost, token };
        self.shared().append(entry, reserved_bytes);
    }

    /// The payload of a durable record, checked against its CRC and against `expect`. What a leg does not have right at a
    /// second read either is asked of the next one; what no leg has is `Corrupt`, never data.
    pub async fn read(&self, position: RecordPosition, expect: RecordHeader) -> Result<Bytes, WalError> {
        let _pin = self.pin_durable(position)?;
        let mut first_error = None;
        // Twice: a leg that fails in between changes the order of the others.
        for attempt in (0..LEGS_MAX as u8).chain(0..LEGS_MAX as u8) {
            let read = match self.read_once(position, expect, attempt).await {
                Err(WalError::Corrupt { .. }) => self.read_once(position, expect, attempt).await,
                other => other,
            };
            match read {
                Ok(Some(bytes)) => {
                    if first_error.is_some() {
                        self.shared().stats.read_from_other_leg();
                    }
                    return Ok(bytes);
                }
                Ok(None) => {}
                Err(error @ (WalError::Corrupt { .. } | WalError::Read(_))) => {
                    first_error = first_error.or(Some(error))
                }
                Err(error) => return Err(error),
            }
        }
        let error = first_error.unwrap_or(WalError::Closed);
        tracing::error!(%error, "a WAL record cannot be read back");
        Err(error)
    }

    /// `None`: there are not so many legs.
    async fn read_once(
        &self,
        position: RecordPosition,
        expect: RecordHeader,
        attempt: u8,
    ) -> Result<Option<Bytes>, WalError> {
        let shared = self.shared();
        let ring = *shared.lock().space.ring();
        let start = position.lsn.0 - position.lsn.0 % ring.block;
        let skip = (position.lsn.0 - start) as usize;
        let bytes = ring.round_up((skip + record_bytes(position.bytes as usize)) as u64);
        let corrupt = |why| WalError::Corrupt { lsn: position.lsn, why };
        if bytes > ring.bytes_to_end(Lsn(start)) {
            return Err(corrupt("record would wrap"));
        }
        let Some(buffer) = shared.read(ring.device_offset(Lsn(start)), bytes, attempt).await? else { return Ok(None) };
        let check_crc = !shared.config.faults.has(Fault::SkipCrc);
        let record = decode_record(&buffer[skip..], position.lsn, shared.salt, check_crc).map_err(corrupt)?;
        if record.header != expect || record.payload_bytes != position.bytes {
            return Err(corrupt("another record lies here"));
        }
        let payload_at = skip + crate::format::frame::RECORD_HEADER_BYTES;
        Ok(Some(Bytes::from_owner(buffer).slice(payload_at..payload_at + position.bytes as usize)))
    }

    fn pin_durable(&self, position: RecordPosition) -> Result<Pin, WalError> {
        let mut inner = self.shared().lock();
        let durable = inner.space.durable();
        if position.lsn >= durable {
            return Err(WalError::NotDurable { lsn: position.lsn, durable });
        }
        if !inner.space.pin(position.frame()) {
            return Err(WalError::Trimmed { lsn: position.lsn, trim: inner.space.trimmed() });
        }
        drop(inner);
        Ok(Pin { shared: self.shared().clone(), lsn: position.frame() })
    }

    /// Keeps everything from `lsn` (a frame's start) on readable, whatever is trimmed, until the pin is dropped.
    /// `None`: it is trimmed already. Reads from the pin on work even if the trim has passed them. A pin held for long fills
    /// the ring.
    pub fn pin(&self, lsn: Lsn) -> Option<Pin> {
        Pin::new(self.shared(), lsn)
    }

    /// Gives everything below `to` free for reuse. The caller vouches that metadata has committed this trim LSN.
    /// `to` is a frame's start ([`RecordPosition::frame`]) or the durable LSN; a lower one than before changes nothing.
    pub fn trim(&self, to: Lsn) {
        let moved = self.shared().lock().space.trim(to);
        if moved {
            self.shared().space_freed.notify_waiters();
        }
    }

    pub fn usage(&self) -> WalUsage {
        self.shared().usage()
    }

    /// From so many bytes of batches waiting to be written `SpaceClass::Normal` is refused.
    pub fn queue_bytes_max(&self) -> u64 {
        self.shared().queue_bytes_max()
    }

    /// Whether it is time to upload before the interval is over.
    pub fn soft_limit_reached(&self) -> bool {
        let usage = self.usage();
        usage.taken_bytes() >= usage.soft_bytes
    }

    /// Resolves when space may have become free. Create it, try `reserve`, then await it: no wake-up is lost then.
    pub fn space_freed(&self) -> impl Future<Output = ()> + '_ {
        self.shared().space_freed.notified()
    }

    pub fn failed(&self) -> Option<WalError> {
        match &self.shared().lock().phase {
            Phase::Failed(error) => Some(error.clone()),
            _ => None,
        }
    }

    pub fn status(&self) -> WalStatus {
        self.shared().status.borrow().clone()
    }

    /// Hears of each change of the status.
    pub fn watch(&self) -> watch::Receiver<WalStatus> {
        self.shared().status.subscribe()
    }

    /// Hears of the durable LSN, of the newest one if it moves faster than it is read.
    pub fn durable_watch(&self) -> watch::Receiver<Lsn> {
        let shared = self.shared();
        let receiver = shared.durable.subscribe();
        // It is told only while somebody listens.
        let durable = shared.lock().space.durable();
        shared.durable.send_if_modified(|told| {
            let newer = durable > *told;
            *told = durable.max(*told);
            newer
        });
        receiver
    }

    pub fn stats(&self) -> WalStats {
        self.shared().stats.snapshot((self.shared().clock)())
    }

    /// How many writes took how many microseconds, the last one all that took longer. `None` unless the configuration asks
    /// for it.
    pub fn exact_write_latencies(&self) -> Option<Vec<u32>> {
        self.shared().stats.exact_write_latencies()
    }

    /// Acknowledgements wait for this leg no longer. Call it after metadata has committed, with this `set_epoch`, that the
    /// leg is no part of this WAL any more: a later start must refuse it.
    pub fn drop_leg(&self, leg: LegId, set_epoch: u64) {
        self.shared().control(Control::Drop { leg, set_epoch });
    }

    /// A leg's word that a write is durable does not count any more.
    pub fn distrust(&self, leg: LegId, why: Distrust) {
        self.shared().control(Control::Distrust { leg, why });
    }

    /// Makes a device the copy of this WAL, while appends go on: formats it, copies what is not trimmed, calls `progress` with
    /// the bytes done and to do; what there is to do grows with what is appended. When it returns, every acknowledgement waits for the leg: commit it in metadata, then call
    /// `finish_join`; or `drop_leg` it. Dropped before its end, the join ends.
    pub async fn join_leg(
        &self,
        path: &Path,
        overwrite: bool,
        progress: impl FnMut(u64, u64),
    ) -> Result<LegId, JoinError> {
        crate::join::join_path(self.shared(), path, overwrite, progress).await
    }

    /// As `join_leg`, with a leg that the caller has formatted: on a simulated disk.
    pub async fn join_medium(
        &self,
        leg: LegId,
        medium: Medium,
        progress: impl FnMut(u64, u64),
    ) -> Result<(), JoinError> {
        crate::join::join(self.shared(), leg, medium, progress).await
    }

    /// What a leg that joins must be formatted like: see [`crate::format_leg`].
    pub async fn template(&self) -> Result<Superblock, WalError> {
        crate::join::template(self.shared()).await
    }

    /// Call it after metadata has committed, with this `set_epoch`, that the leg is a part of the WAL.
    pub fn finish_join(&self, leg: LegId, set_epoch: u64) {
        self.shared().control(Control::FinishJoin { leg, set_epoch });
    }

    /// The largest payload that [`Wal::reserve`] takes.
    pub fn record_bytes_max(&self) -> u64 {
        u64::from(self.shared().config.record_bytes_max)
    }

    /// How writes become durable here, for the banner: "io_uring, write linked to fdatasync, direct I/O, ...".
    pub fn durability(&self) -> &str {
        &self.shared().durability
    }

    /// Writes what is queued, marks the WAL as cleanly closed and ends the WAL thread. Records appended from now on are
    /// dropped. The completions end once they were all taken.
    pub async fn close(self) -> Result<(), WalError> {
        let shared = self.shared().clone();
        self.start_close();
        loop {
            let ended = shared.ended.notified();
            if matches!(shared.lock().phase, Phase::Closed) || shared.completions().ended {
                break;
            }
            ended.await;
        }
        let failed = self.failed();
        let thread = self.owner.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // The thread has announced its end: this waits for its last instructions. A failed WAL's thread goes on serving
            // reads and ends with the last handle.
            if failed.is_none() && thread.join().is_err() {
                return Err(WalError::Closed);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    pub(crate) fn start_close(&self) {
        {
            let mut inner = self.shared().lock();
            if matches!(inner.phase, Phase::Open | Phase::Sealed) {
                inner.phase = Phase::Closing;
            }
        }
        self.shared().wake_if_sleeping();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        {
            let mut inner = self.shared.lock();
            if !matches!(inner.phase, Phase::Closed) {
                inner.phase = Phase::Abandoned;
            }
        }
        self.shared.wake_if_sleeping();
        if let Some(thread) = self.thread.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            // So that the device is free when the last handle is gone. A panic there was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// Space for one record. Dropping it gives the space back.
pub struct Reservation {
    shared: Arc<Shared>,
    cost: u64,
    payload_bytes: u64,
}

impl Reservation {
    fn spend(mut self) -> (u64, u64) {
        // A cost of zero marks it as spent; a real one is at least two blocks.
        (std::mem::take(&mut self.cost), self.payload_bytes)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.cost > 0 {
            self.shared.give_back(self.cost, self.payload_bytes);
        }
    }
}

/// Keeps a part of the ring from being reused.
pub struct Pin {
    shared: Arc<Shared>,
    lsn: Lsn,
}

impl Pin {
    pub(crate) fn new(shared: &Arc<Shared>, lsn: Lsn) -> Option<Self> {
        let pinned = shared.lock().space.pin(lsn);
        pinned.then(|| Self { shared: shared.clone(), lsn })
    }

    pub(crate) fn lsn(&self) -> Lsn {
        self.lsn
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.shared.lock().space.unpin(self.lsn);
        self.shared.space_freed.notify_waiters();
    }
}

/// What became durable since the last time, in LSN order.
#[derive(Debug)]
pub struct Durable {
    pub records: Vec<DurableRecord>,
    /// Everything below is durable.
    pub durable: Lsn,
    /// Set on the last one of a WAL that failed.
    pub failed: Option<WalError>,
}

/// The single consumer of completions. Not taking them fills the queue, and then `reserve` refuses.
pub struct Completions {
    shared: Arc<Shared>,
    over: bool,
    spare: Vec<DurableRecord>,
}

impl Completions {
    /// The next batch; `None` after the end. Safe to drop while waiting.
    pub async fn next(&mut self) -> Option<Durable> {
        loop {
            if self.over {
                return None;
            }
            if let Some(durable) = self.try_next() {
                return Some(durable);
            }
            if !self.over {
                self.shared.completed.notified().await;
            }
        }
    }

    /// As `next`, without waiting: `None` also when there is nothing new.
    pub fn try_next(&mut self) -> Option<Durable> {
        if self.over {
            return None;
        }
        let mut queue = self.shared.completions();
        let failed = queue.failed.clone();
        if queue.ended {
            self.over = true;
        }
        if queue.records.is_empty() && failed.is_none() {
            return None;
        }
        queue.taken_max = queue.taken_max.max(queue.records.len());
        let mut next = std::mem::take(&mut self.spare);
        next.reserve(queue.taken_max);
        let records = std::mem::replace(&mut queue.records, next);
        let durable = queue.durable;
        drop(queue);
        let taken = records.len() as u64;
        self.shared.lock().records_outstanding -= taken;
        self.shared.space_freed.notify_waiters();
        Some(Durable { records, durable, failed })
    }

    /// Gives a vector back for reuse.
    pub fn recycle(&mut self, durable: Durable) {
        self.spare = durable.records;
        self.spare.clear();
    }
}
