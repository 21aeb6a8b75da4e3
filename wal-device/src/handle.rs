//! `Wal`, the handle that callers hold, and `Completions`, the one stream on which they learn what is durable.

use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::aligned_buf::AlignedBuf;
use crate::config::Fault;
use crate::error::{IoError, WalError, WalFull};
use crate::format::frame::{decode_record, record_bytes};
use crate::shared::{Entry, Phase, ReadRequest, Shared};
use crate::types::{DurableRecord, Lsn, RecordHeader, RecordPosition, Segments, SpaceClass, WalUsage};

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

    fn shared(&self) -> &Arc<Shared> {
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

    /// The payload of a durable record, checked against its CRC and against `expect`. What does not match at a second
    /// read either is `Corrupt`, never data.
    pub async fn read(&self, position: RecordPosition, expect: RecordHeader) -> Result<Bytes, WalError> {
        let _pin = self.pin_durable(position)?;
        let corrupt = match self.read_once(position, expect).await {
            Err(WalError::Corrupt { .. }) => self.read_once(position, expect).await,
            other => return other,
        };
        if let Err(error) = &corrupt {
            tracing::error!(%error, "a WAL record cannot be read back");
        }
        corrupt
    }

    async fn read_once(&self, position: RecordPosition, expect: RecordHeader) -> Result<Bytes, WalError> {
        let shared = self.shared();
        let ring = *shared.lock().space.ring();
        let start = position.lsn.0 - position.lsn.0 % ring.block;
        let skip = (position.lsn.0 - start) as usize;
        let bytes = ring.round_up((skip + record_bytes(position.bytes as usize)) as u64);
        if bytes > ring.bytes_to_end(Lsn(start)) {
            return Err(WalError::Corrupt { lsn: position.lsn, why: "record would wrap" });
        }
        // A record larger than the whole budget takes all of it.
        let blocks = (bytes / ring.block).min(u64::from(shared.config.read_bytes_max) / ring.block).max(1);
        let permit = shared.read_blocks.acquire_many(blocks as u32).await.map_err(|_| WalError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let buffer = AlignedBuf::new(bytes as usize);
        {
            let mut inner = shared.lock();
            if inner.engine_gone {
                return Err(WalError::Closed);
            }
            inner.reads.push_back(ReadRequest { device_offset: ring.device_offset(Lsn(start)), buffer, reply });
        }
        shared.wake_if_sleeping();
        let read = answer.await.map_err(|_| WalError::Closed)?;
        drop(permit);
        let buffer = read.map_err(|error| WalError::Read(IoError::new("read", error)))?;
        let check_crc = !shared.config.faults.has(Fault::SkipCrc);
        let corrupt = |why| WalError::Corrupt { lsn: position.lsn, why };
        let record = decode_record(&buffer[skip..], position.lsn, check_crc).map_err(corrupt)?;
        if record.header != expect || record.payload_bytes != position.bytes {
            return Err(corrupt("another record lies here"));
        }
        let payload_at = skip + crate::format::frame::RECORD_HEADER_BYTES;
        Ok(Bytes::from_owner(buffer).slice(payload_at..payload_at + position.bytes as usize))
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
        let pinned = self.shared().lock().space.pin(lsn);
        pinned.then(|| Pin { shared: self.shared().clone(), lsn })
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

    /// Whether it is time to upload before the interval is over.
    pub fn soft_limit_reached(&self) -> bool {
        let usage = self.usage();
        let limit = usage.ring_bytes / 100 * u64::from(self.shared().config.soft_limit_percent);
        usage.used_bytes + usage.reserved_bytes >= limit
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
            if matches!(inner.phase, Phase::Open) {
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
