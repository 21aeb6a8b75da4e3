//! What the handles and the WAL thread share: the queue, the space accounts, waiting reads, and the completions.
//!
//! Two locks, each held for a few instructions. The WAL thread swaps the queue with its own empty one, so nobody waits for
//! packing or I/O. It says how much must be queued before it wants to be woken, so that a busy thread costs no wake-ups.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::aligned_buf::SharedBuf;
use crate::config::WalConfig;
use crate::device::{BlockDevice, Clock, Medium, Wake};
use crate::error::{IoError, WalError, WalFull};
use crate::format::Salt;
use crate::format::frame::record_bytes;
use crate::format::superblock::Superblock;
use crate::space::Space;
use crate::stats::Stats;
use crate::status::{Distrust, JoinError, LegState, LegStatus, WalStatus};
use crate::types::{DurableRecord, LegId, Lsn, RecordHeader, Segments, SpaceClass, WalUsage};

/// A record that waits for its frame.
pub struct Entry {
    pub header: RecordHeader,
    pub payload: Segments,
    pub payload_bytes: u32,
    /// Ring space charged until it lies in a frame.
    pub cost: u64,
    pub token: u64,
}

/// A read-back that waits for the WAL thread.
pub struct ReadRequest {
    pub device_offset: u64,
    pub buffer: SharedBuf,
    /// 0 asks the first leg, 1 the next one.
    pub attempt: u8,
    pub reader: Reader,
}

/// Who waits for a read.
pub struct Reader {
    /// `None`: there are not so many legs.
    pub reply: oneshot::Sender<Option<io::Result<SharedBuf>>>,
    /// The buffer's part of [`WalConfig::read_bytes_max`], held as long as the device may have the buffer: even if whoever
    /// asked has gone.
    pub _room: OwnedSemaphorePermit,
}

/// What the WAL thread is asked to do about a leg.
pub enum Control {
    Drop {
        leg: LegId,
        set_epoch: u64,
    },
    Distrust {
        leg: LegId,
        why: Distrust,
    },
    /// It has not answered for so long.
    Hangs {
        leg: LegId,
        for_us: u64,
    },
    /// What a leg that joins is formatted like.
    Template {
        reply: oneshot::Sender<Superblock>,
    },
    Join {
        leg: LegId,
        medium: Medium,
        reply: oneshot::Sender<Result<(), JoinError>>,
    },
    /// A leg that joins is to get every frame from here on: answers from which LSN on. `None`: it has gone.
    CatchUp {
        leg: LegId,
        reply: oneshot::Sender<Option<Lsn>>,
    },
    /// Writes to a leg that joins; without a buffer flushes it.
    Copy {
        leg: LegId,
        offset: u64,
        buffer: Option<SharedBuf>,
        bytes: usize,
        reply: oneshot::Sender<io::Result<()>>,
    },
    /// Everything is copied. Answers whether the leg is there.
    Joined {
        leg: LegId,
        reply: oneshot::Sender<bool>,
    },
    FinishJoin {
        leg: LegId,
        set_epoch: u64,
    },
    AbortJoin {
        leg: LegId,
    },
}

#[derive(Debug, Clone)]
pub enum Phase {
    Open,
    /// For reading only.
    Sealed,
    /// `close` was called: what is queued is still written.
    Closing,
    /// No handle is left: stop without a clean mark.
    Abandoned,
    Closed,
    Failed(WalError),
}

pub struct Inner {
    pub space: Space,
    pub queue: VecDeque<Entry>,
    /// Record bytes (with headers) in `queue`.
    pub queue_record_bytes: u64,
    /// Payload bytes reserved or queued, not yet in a frame.
    pub queued_bytes: u64,
    /// Records reserved, queued, in flight or not yet taken from the completions.
    pub records_outstanding: u64,
    pub reads: VecDeque<ReadRequest>,
    pub controls: VecDeque<Control>,
    pub phase: Phase,
    /// Nobody serves reads any more.
    pub engine_gone: bool,
    /// Wake the WAL thread when `queue_record_bytes` reaches this; `u64::MAX`: it is awake or cannot take more.
    pub wake_at: u64,
    /// The WAL thread waits and wants to hear of reads and of phase changes.
    pub sleeping: bool,
}

#[derive(Default)]
pub struct CompletionQueue {
    pub records: Vec<DurableRecord>,
    pub durable: Lsn,
    pub failed: Option<WalError>,
    pub ended: bool,
    /// The largest batch so far taken; the next vector starts with that much room.
    pub taken_max: usize,
}

pub struct Shared {
    inner: Mutex<Inner>,
    /// `queue_record_bytes`, and whether anything else waits: for a WAL thread that looks without the lock.
    queued_record_bytes: AtomicU64,
    asked: AtomicBool,
    completions: Mutex<CompletionQueue>,
    /// One permit for the consumer of the completions.
    pub completed: Notify,
    /// Everyone who waits for space.
    pub space_freed: Notify,
    /// Whoever waits for the end of the WAL thread.
    pub ended: Notify,
    pub read_blocks: Arc<Semaphore>,
    pub waker: Arc<dyn Wake>,
    pub clock: Clock,
    pub stats: Stats,
    pub config: WalConfig,
    pub salt: Salt,
    pub durability: String,
    pub status: watch::Sender<WalStatus>,
    pub durable: watch::Sender<Lsn>,
}

impl Shared {
    /// `legs` are the device's legs from 0 on.
    pub fn new(config: WalConfig, space: Space, device: &dyn BlockDevice, legs: &[LegId], salt: Salt) -> Self {
        let durable = space.durable();
        let legs: Vec<LegStatus> = (0..)
            .zip(legs)
            .map(|(number, &id)| LegStatus {
                id,
                number,
                state: LegState::InSet,
                durability: device.durability(number),
                device: device.facts(number).device,
            })
            .collect();
        let durability = legs.iter().map(|leg| leg.durability.as_str()).collect::<Vec<_>>().join("; ");
        let read_blocks = (u64::from(config.read_bytes_max) / space.ring().block).max(1) as usize;
        Self {
            inner: Mutex::new(Inner {
                space,
                queue: VecDeque::new(),
                queue_record_bytes: 0,
                queued_bytes: 0,
                records_outstanding: 0,
                reads: VecDeque::new(),
                controls: VecDeque::new(),
                phase: Phase::Open,
                engine_gone: false,
                wake_at: u64::MAX,
                sleeping: false,
            }),
            queued_record_bytes: AtomicU64::new(0),
            asked: AtomicBool::new(false),
            completions: Mutex::new(CompletionQueue { durable, ..CompletionQueue::default() }),
            completed: Notify::new(),
            space_freed: Notify::new(),
            ended: Notify::new(),
            read_blocks: Arc::new(Semaphore::new(read_blocks)),
            waker: device.waker(),
            clock: device.clock(),
            stats: Stats::new(config.exact_latencies),
            config,
            salt,
            durability,
            status: watch::Sender::new(WalStatus { legs, ..WalStatus::default() }),
            durable: watch::Sender::new(durable),
        }
    }

    /// Never poisoned in a way that matters: a panic under the lock ends the WAL, and the phase says so.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn completions(&self) -> MutexGuard<'_, CompletionQueue> {
        self.completions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Charges ring space, queue bytes and one outstanding record; returns the ring cost.
    pub fn reserve(&self, payload_bytes: u64, class: SpaceClass) -> Result<u64, WalFull> {
        let bytes_max = u64::from(self.config.record_bytes_max);
        if payload_bytes > bytes_max {
            return Err(WalFull::RecordTooLarge { bytes: payload_bytes, bytes_max });
        }
        let mut inner = self.lock();
        match &inner.phase {
            Phase::Open => {}
            Phase::Failed(error) => return Err(WalFull::Unusable(error.clone())),
            Phase::Sealed => return Err(WalFull::Unusable(WalError::Sealed)),
            Phase::Closing | Phase::Abandoned | Phase::Closed => return Err(WalFull::Unusable(WalError::Closed)),
        }
        // An empty queue takes any record, so that a limit below the largest record cannot stall.
        let bytes_fit =
            inner.queued_bytes == 0 || inner.queued_bytes + payload_bytes <= share(self.config.queue_bytes_max, class);
        if !bytes_fit || inner.records_outstanding >= share(self.config.records_outstanding_max, class) {
            return Err(WalFull::Queue { queued_bytes: inner.queued_bytes, records: inner.records_outstanding });
        }
        let cost = inner.space.cost(payload_bytes);
        if !inner.space.try_reserve(cost, class) {
            let (ring_bytes, used_bytes) = (inner.space.ring().bytes, inner.space.used());
            return Err(WalFull::Ring { ring_bytes, used_bytes, reserved_bytes: inner.space.reserved() });
        }
        inner.queued_bytes += payload_bytes;
        inner.records_outstanding += 1;
        Ok(cost)
    }

    pub fn give_back(&self, cost: u64, payload_bytes: u64) {
        let mut inner = self.lock();
        inner.space.give_back(cost);
        inner.queued_bytes -= payload_bytes;
        inner.records_outstanding -= 1;
        drop(inner);
        self.space_freed.notify_waiters();
    }

    /// Queues a record whose space is reserved. A WAL that has failed, or closes, drops it: its completions have ended or
    /// will, and behind the clean mark lies nothing. `reserved_bytes` is the payload that was reserved; the record may be
    /// shorter.
    pub fn append(&self, entry: Entry, reserved_bytes: u64) {
        let mut inner = self.lock();
        if !matches!(inner.phase, Phase::Open) {
            drop(inner);
            self.give_back(entry.cost, reserved_bytes);
            return;
        }
        inner.queued_bytes -= reserved_bytes - u64::from(entry.payload_bytes);
        inner.queue_record_bytes += record_bytes(entry.payload_bytes as usize) as u64;
        self.queued_record_bytes.store(inner.queue_record_bytes, Relaxed);
        inner.queue.push_back(entry);
        let wake = inner.queue_record_bytes >= inner.wake_at;
        if wake {
            inner.wake_at = u64::MAX;
        }
        drop(inner);
        if wake {
            self.waker.wake();
        }
    }

    /// The engine is about to go: queued records and reads are dropped, so that their owners hear of it.
    pub fn engine_goes(&self) {
        let dropped = {
            let mut inner = self.lock();
            inner.engine_gone = true;
            (std::mem::take(&mut inner.queue), std::mem::take(&mut inner.reads), std::mem::take(&mut inner.controls))
        };
        drop(dropped);
        self.durable.send_modify(|_| ());
    }

    /// The last word to everyone who waits: for completions, for space, for the end.
    pub fn end_completions(&self, failed: Option<WalError>) {
        {
            let mut completions = self.completions();
            completions.failed = failed;
            completions.ended = true;
        }
        self.completed.notify_one();
        self.space_freed.notify_waiters();
        self.ended.notify_waiters();
    }

    pub fn wake_if_sleeping(&self) {
        let mut inner = self.lock();
        self.asked.store(true, Relaxed);
        let wake = std::mem::take(&mut inner.sleeping);
        drop(inner);
        if wake {
            self.waker.wake();
        }
    }

    /// The WAL thread takes the queue and all that it was asked, under the lock.
    pub fn taken(&self) {
        self.queued_record_bytes.store(0, Relaxed);
        self.asked.store(false, Relaxed);
    }

    /// A glance without the lock: whether so many record bytes wait, or anything else does. It may be late by a moment.
    pub fn glance(&self, record_bytes: u64) -> bool {
        self.queued_record_bytes.load(Relaxed) >= record_bytes || self.asked.load(Relaxed)
    }

    /// As of a moment ago.
    pub fn queued_record_bytes(&self) -> u64 {
        self.queued_record_bytes.load(Relaxed)
    }

    /// A WAL whose thread has gone drops it, so that who waits for an answer hears of it.
    pub fn control(&self, control: Control) {
        {
            let mut inner = self.lock();
            if inner.engine_gone {
                return;
            }
            inner.controls.push_back(control);
        }
        self.wake_if_sleeping();
    }

    /// Reads a part of the ring. `None`: there are not so many legs.
    pub async fn read(&self, device_offset: u64, bytes: u64, attempt: u8) -> Result<Option<SharedBuf>, WalError> {
        let block = self.lock().space.ring().block;
        // A read larger than the whole budget takes all of it.
        let blocks = (bytes / block).min(u64::from(self.config.read_bytes_max) / block).max(1);
        let room = self.read_blocks.clone().acquire_many_owned(blocks as u32).await;
        let room = room.map_err(|_| WalError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let buffer = SharedBuf::new(bytes as usize);
        {
            let mut inner = self.lock();
            if inner.engine_gone {
                drop(inner);
                return Err(self.why_gone());
            }
            inner.reads.push_back(ReadRequest {
                device_offset,
                buffer,
                attempt,
                reader: Reader { reply, _room: room },
            });
        }
        self.wake_if_sleeping();
        let read = answer.await.map_err(|_| self.why_gone())?;
        read.transpose().map_err(|error| WalError::Read(IoError::new("read", error)))
    }

    /// Why nobody serves reads.
    pub fn why_gone(&self) -> WalError {
        match &self.lock().phase {
            Phase::Failed(error) => error.clone(),
            _ => WalError::Closed,
        }
    }

    /// The leg with this number in the device.
    pub fn leg_at(&self, number: u8) -> Option<LegId> {
        self.status.borrow().legs.iter().find(|leg| leg.number == number).map(|leg| leg.id)
    }

    pub fn queue_bytes_max(&self) -> u64 {
        share(self.config.queue_bytes_max, SpaceClass::Normal)
    }

    pub fn usage(&self) -> WalUsage {
        let inner = self.lock();
        let ring_bytes = inner.space.ring().bytes;
        WalUsage {
            ring_bytes,
            used_bytes: inner.space.used(),
            reserved_bytes: inner.space.reserved(),
            queued_bytes: inner.queued_bytes,
            soft_bytes: ring_bytes / 100 * u64::from(self.config.soft_limit_percent),
            normal_bytes_max: inner.space.bytes_max(SpaceClass::Normal),
            trim: inner.space.trimmed(),
            durable: inner.space.durable(),
            next: inner.space.next(),
        }
    }
}

/// The last twentieth of every limit is kept for internal topics.
fn share(limit: u64, class: SpaceClass) -> u64 {
    match class {
        SpaceClass::Normal => limit - limit / 20,
        SpaceClass::Internal => limit,
    }
}
