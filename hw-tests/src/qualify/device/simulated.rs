//! A part in memory whose habits are known: what it costs to write and to flush, when it gets slow, how much room it really
//! has. Its times are real ones, and far apart, so that a busy machine changes no verdict.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use seawall_wal_device::device::{
    BlockDevice, DeviceFacts, Done, Durable, Medium, Operation, Request, Wait, Wake, WriteCache,
};
use seawall_wal_device::format::RING_OFFSET;
use seawall_wal_device::{Expectation, ScanFrom, Scanned, WalConfig, format_on, scan_on};

use super::claim::format_config;
use super::target::Target;

pub const BLOCK_BYTES: usize = 4096;
pub const PART_BYTES: u64 = 96 << 20;
/// Only the sustained write has such frames.
const LARGE_BYTES: usize = 300 << 10;

#[derive(Debug, Clone)]
pub struct Habits {
    pub write: Duration,
    /// Of a durable one, and of a flush.
    pub durable: Duration,
    /// After so many bytes of large writes each further MiB takes so long.
    pub cache: Option<(u64, Duration)>,
    /// What each write takes at least from then on.
    pub behind_cache: Duration,
    /// Once, at so many small writes in a row behind a large one, it stands still for so long.
    pub stall: Option<(u64, Duration)>,
    /// What it has, whatever it says: places beyond lie over the first ones.
    pub room_bytes: u64,
    /// Writes after which each ends in an I/O error.
    pub writes_left: u64,
    pub write_cache: WriteCache,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            write: Duration::from_micros(50),
            durable: Duration::from_micros(50),
            cache: None,
            behind_cache: Duration::ZERO,
            stall: None,
            room_bytes: PART_BYTES,
            writes_left: u64::MAX,
            write_cache: WriteCache::WriteThrough,
        }
    }
}

/// The same part each time that it is opened.
#[derive(Clone)]
pub struct Part(Arc<Mutex<Media>>);

struct Media {
    habits: Habits,
    bytes: Vec<u8>,
    written_bytes: u64,
    small_writes: u64,
    busy_until: Instant,
}

impl Part {
    pub fn new(habits: Habits) -> Self {
        let bytes = vec![0; PART_BYTES as usize];
        let media = Media { habits, bytes, written_bytes: 0, small_writes: 0, busy_until: Instant::now() };
        Self(Arc::new(Mutex::new(media)))
    }

    pub fn is_blank(&self) -> bool {
        self.lock().bytes.iter().all(|byte| *byte == 0)
    }

    fn open(&self) -> Box<dyn BlockDevice> {
        Box::new(Opened { part: self.clone(), queue: Vec::new(), waker: Arc::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Media> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target for Part {
    fn format(&self) -> Result<()> {
        // As the real one leaves it: zeros where others look for signatures.
        self.lock().bytes[..1 << 20].fill(0);
        let config = format_config("".into(), Some(self.ring().1), BLOCK_BYTES as u32);
        format_on(self.open().as_mut(), PART_BYTES, &config)?;
        Ok(())
    }

    fn ring(&self) -> (u64, u64) {
        (RING_OFFSET, PART_BYTES - RING_OFFSET)
    }

    fn block_bytes(&self) -> usize {
        BLOCK_BYTES
    }

    fn raw(&self) -> Result<Box<dyn BlockDevice>> {
        Ok(self.open())
    }

    fn scan(&self, config: &WalConfig, from: ScanFrom) -> Result<Scanned> {
        Ok(scan_on(self.open(), PART_BYTES, config, &Expectation::default(), from)?)
    }

    fn write_cache(&self) -> Option<WriteCache> {
        Some(self.lock().habits.write_cache)
    }
}

impl Media {
    /// When the request is done, and how it ends.
    fn execute(&mut self, request: &mut Request) -> (Instant, io::Result<()>) {
        let now = Instant::now();
        let bytes = request.bytes;
        let at = (request.offset % self.habits.room_bytes) as usize;
        match (request.operation, &mut request.buffer) {
            (Operation::Flush, _) => (now + self.habits.durable, Ok(())),
            (Operation::Read, Some(buffer)) => {
                buffer.exclusive()[..bytes].copy_from_slice(&self.bytes[at..at + bytes]);
                (now, Ok(()))
            }
            (Operation::Write { durable }, Some(buffer)) => {
                let Some(left) = self.habits.writes_left.checked_sub(1) else {
                    return (now, Err(io::Error::from_raw_os_error(libc::EIO)));
                };
                self.habits.writes_left = left;
                let end = (at + bytes).min(self.bytes.len());
                self.bytes[at..end].copy_from_slice(&buffer[..end - at]);
                if bytes >= LARGE_BYTES {
                    self.written_bytes += bytes as u64;
                    self.small_writes = 0;
                } else if self.written_bytes > 0 {
                    self.small_writes += 1;
                }
                let mut done = now + if durable { self.habits.durable } else { self.habits.write };
                if let Some((_, per_mib)) = self.habits.cache.filter(|(bytes, _)| self.written_bytes > *bytes) {
                    self.busy_until = self.busy_until.max(now) + per_mib.mul_f64(bytes as f64 / f64::from(1 << 20));
                    done = done.max(now + self.habits.behind_cache);
                }
                if let Some((_, pause)) = self.habits.stall.take_if(|(at, _)| *at == self.small_writes) {
                    self.busy_until = now + pause;
                }
                (done.max(self.busy_until), Ok(()))
            }
            (_, None) => (now, Err(io::Error::other("no buffer"))),
        }
    }
}

struct Opened {
    part: Part,
    queue: Vec<(Instant, Done)>,
    waker: Arc<Waker>,
}

#[derive(Default)]
struct Waker {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Waker {
    fn wake(&self) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }
}

impl BlockDevice for Opened {
    fn submit(&mut self, mut request: Request) {
        let (at, result) = self.part.lock().execute(&mut request);
        let Request { tag, leg, operation, buffer, .. } = request;
        self.queue.push((at, Done { tag, leg, operation, buffer, result }));
    }

    fn wait(&mut self, wait: Wait, done: &mut Vec<Done>) -> io::Result<()> {
        let deadline = match wait {
            Wait::No => Some(Instant::now()),
            Wait::For(time) => Some(Instant::now() + time),
            Wait::Forever => None,
        };
        let mut woken = self.waker.woken.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            let mut n = 0;
            let before = done.len();
            while n < self.queue.len() {
                if self.queue[n].0 <= now { done.push(self.queue.remove(n).1) } else { n += 1 }
            }
            if done.len() > before || std::mem::take(&mut *woken) || deadline.is_some_and(|deadline| now >= deadline) {
                return Ok(());
            }
            let next = self.queue.iter().map(|(at, _)| *at).chain(deadline).min();
            let time = next.map_or(Duration::from_secs(1), |next| next.saturating_duration_since(now));
            let waited = self.waker.changed.wait_timeout(woken, time);
            woken = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    fn add_leg(&mut self, _leg: u8, _medium: Medium) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove_leg(&mut self, _leg: u8) {}

    fn facts(&self, _leg: u8) -> DeviceFacts {
        let write_cache = Some(self.part.lock().habits.write_cache);
        let bytes = BLOCK_BYTES as u32;
        DeviceFacts { logical_bytes: bytes, physical_bytes: bytes, write_cache, direct: true, ..DeviceFacts::default() }
    }

    fn set_flush(&mut self, _leg: u8, _how: Durable) {}

    fn durability(&self, _leg: u8) -> String {
        "simulated".into()
    }
}
