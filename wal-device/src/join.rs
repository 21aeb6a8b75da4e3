//! A device becomes a leg while appends go on.
//!
//! What is durable, down to the trim LSN, is copied here, frame by frame checked, from whichever leg has it right. What is
//! appended meanwhile is copied in a next round, as long as rounds get shorter; nobody waits for the leg. When little is
//! missing the engine writes every new frame to it from one LSN on, each acknowledgement waits for it, and the rest is
//! copied. A pin walks along, so that nothing is reused before it was copied; what is trimmed meanwhile is skipped. When all
//! is flushed the leg holds everything that a recovery may need, and only then may metadata take it into the set.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::accept::Rules;
use crate::aligned_buf::SharedBuf;
use crate::config::Fault;
use crate::device::file::{Access, DeviceFile};
use crate::device::{LEGS_MAX, Medium};
use crate::error::{IoError, WalError};
use crate::format::superblock::Superblock;
use crate::format_device::format_leg;
use crate::handle::Pin;
use crate::ring::Ring;
use crate::shared::{Control, Shared};
use crate::status::JoinError;
use crate::types::{LegId, Lsn};

const STEP_BYTES: u64 = 1 << 20;
/// So little may be copied while acknowledgements wait for the leg, of a small ring a sixteenth.
const LITTLE_BYTES: u64 = 4 << 20;

pub async fn join_path(
    shared: &Arc<Shared>,
    path: &Path,
    overwrite: bool,
    progress: impl FnMut(u64, u64),
) -> Result<LegId, JoinError> {
    let like = template(shared).await?;
    let path = path.to_owned();
    // A file is written once in full: on a thread of its own.
    let (tell, hear) = oneshot::channel();
    let format = move || {
        let formatted = format_leg(&path, &like, overwrite).map_err(JoinError::from);
        let opened = formatted.and_then(|superblock| Ok((superblock.leg, DeviceFile::open(&path, Access::Own)?)));
        // Whoever asked may have gone: the device stays formatted, and nobody knows its leg.
        let _ = tell.send(opened);
    };
    let thread = std::thread::Builder::new().name("wal-format".into()).spawn(format);
    thread.map_err(|error| JoinError::Io(IoError::new("start a thread", error)))?;
    let (leg, file) = hear.await.map_err(|_| JoinError::Gone)??;
    join(shared, leg, Medium::File(Arc::new(file)), progress).await?;
    Ok(leg)
}

pub async fn template(shared: &Arc<Shared>) -> Result<Superblock, WalError> {
    let (reply, answer) = oneshot::channel();
    shared.control(Control::Template { reply });
    answer.await.map_err(|_| shared.why_gone())
}

pub async fn join(
    shared: &Arc<Shared>,
    leg: LegId,
    medium: Medium,
    mut progress: impl FnMut(u64, u64),
) -> Result<(), JoinError> {
    let superblock = template(shared).await?;
    let unfinished = Unfinished { shared, leg };
    let (reply, answer) = oneshot::channel();
    shared.control(Control::Join { leg, medium, reply });
    answer.await.map_err(|_| shared.why_gone())??;
    let mut copier = Copier::new(shared, leg, &superblock, &mut progress);
    copier.come_close().await?;
    let (reply, answer) = oneshot::channel();
    shared.control(Control::CatchUp { leg, reply });
    let from = answer.await.map_err(|_| shared.why_gone())?.ok_or(JoinError::Gone)?;
    wait_until_durable(shared, from).await?;
    copier.copy_up_to(from).await?;
    let (reply, answer) = oneshot::channel();
    shared.control(Control::Joined { leg, reply });
    if !answer.await.map_err(|_| shared.why_gone())? {
        return Err(JoinError::Gone);
    }
    std::mem::forget(unfinished);
    Ok(())
}

/// Ends the join when it is given up in the middle.
struct Unfinished<'a> {
    shared: &'a Shared,
    leg: LegId,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.shared.control(Control::AbortJoin { leg: self.leg });
    }
}

/// What was in flight when the leg came was written without it.
async fn wait_until_durable(shared: &Shared, lsn: Lsn) -> Result<(), JoinError> {
    let mut changes = shared.durable.subscribe();
    loop {
        {
            let inner = shared.lock();
            if inner.space.durable() >= lsn {
                return Ok(());
            }
            if let crate::shared::Phase::Failed(error) = &inner.phase {
                return Err(error.clone().into());
            }
            if inner.engine_gone {
                return Err(WalError::Closed.into());
            }
        }
        // The sender lives as long as `shared`.
        let _ = changes.changed().await;
    }
}

struct Copier<'a, P> {
    shared: &'a Arc<Shared>,
    leg: LegId,
    ring: Ring,
    rules: Rules,
    progress: P,
    /// The copy began here, once it has.
    first: Option<Lsn>,
    /// All below is copied and flushed, or trimmed.
    copied: Lsn,
}

/// A part of the log in memory, whole frames.
struct Part {
    buffer: SharedBuf,
    /// To be written: of a pad only its header.
    bytes: usize,
    next: Lsn,
}

impl<'a, P: FnMut(u64, u64)> Copier<'a, P> {
    fn new(shared: &'a Arc<Shared>, leg: LegId, superblock: &Superblock, progress: P) -> Self {
        let ring = Ring::of(superblock);
        let (wal_id, salt, faults) = (superblock.wal_id, superblock.salt, shared.config.faults);
        // Which owner wrote what is older than this opening need not be known: at each LSN recovery had one frame.
        let opens = vec![(superblock.owner_epoch, superblock.open_start)];
        let rules = Rules { ring, wal_id, salt, frame_bytes_max: 0, opens, faults };
        Self { shared, leg, ring, rules, progress, first: None, copied: Lsn(0) }
    }

    /// Copies what is durable until little is missing, or a round has not left an eighth less than the one before.
    async fn come_close(&mut self) -> Result<(), JoinError> {
        let little = LITTLE_BYTES.min(self.ring.bytes / 16);
        let mut missing = u64::MAX;
        loop {
            let (durable, kept) = {
                let inner = self.shared.lock();
                (inner.space.durable(), inner.space.pinned_or_trimmed())
            };
            let before = std::mem::replace(&mut missing, durable.0 - self.copied.max(kept).0);
            if missing <= little || missing > before - before / 8 {
                return Ok(());
            }
            self.copy_up_to(durable).await?;
        }
    }

    async fn copy_up_to(&mut self, end: Lsn) -> Result<(), JoinError> {
        if self.rules.faults.has(Fault::JoinWithoutCopy) {
            return Ok(());
        }
        let mut pin = self.pin_from(self.copied);
        let first = self.first.get_or_insert(pin.lsn()).0;
        while pin.lsn() < end {
            let part = self.read(pin.lsn(), end).await?;
            let offset = self.ring.device_offset(pin.lsn());
            write(self.shared, self.leg, offset, Some(part.buffer), part.bytes).await?;
            pin = self.pin_from(part.next);
            (self.progress)(pin.lsn().0.min(end.0) - first, end.0 - first);
        }
        write(self.shared, self.leg, 0, None, 0).await?;
        self.copied = end;
        Ok(())
    }

    /// Keeps all from `lsn` on, or from the first that is not trimmed or still pinned by a reader.
    fn pin_from(&self, lsn: Lsn) -> Pin {
        let at = lsn.max(self.shared.lock().space.pinned_or_trimmed());
        // It may be trimmed further between the two steps; a later LSN is pinned then.
        Pin::new(self.shared, at).unwrap_or_else(|| self.pin_from(at))
    }

    /// Whole frames from `at` on, from the first leg that has them right.
    async fn read(&self, at: Lsn, end: Lsn) -> Result<Part, JoinError> {
        let bytes = STEP_BYTES.min(self.ring.bytes_to_end(at)).min(end.0 - at.0);
        let mut why = WalError::Closed;
        // Twice: a leg that fails in between changes the order of the others.
        for attempt in (0..LEGS_MAX as u8).chain(0..LEGS_MAX as u8) {
            match self.read_from(at, bytes, attempt).await {
                Ok(Some(part)) => return Ok(part),
                Ok(None) => {}
                Err(error @ (WalError::Read(_) | WalError::Corrupt { .. })) => why = error,
                Err(error) => return Err(error.into()),
            }
        }
        Err(why.into())
    }

    async fn read_from(&self, at: Lsn, bytes: u64, attempt: u8) -> Result<Option<Part>, WalError> {
        let offset = self.ring.device_offset(at);
        let Some(buffer) = self.shared.read(offset, bytes, attempt).await? else { return Ok(None) };
        match self.whole_frames(&buffer, at) {
            Ok((bytes, next)) => Ok(Some(Part { buffer, bytes, next })),
            Err(Cut::Wrong(why)) => Err(WalError::Corrupt { lsn: at, why }),
            // The first frame is longer than a step.
            Err(Cut::Short { needed }) => {
                let Some(buffer) = self.shared.read(offset, needed, attempt).await? else { return Ok(None) };
                match self.whole_frames(&buffer, at) {
                    Ok((bytes, next)) => Ok(Some(Part { buffer, bytes, next })),
                    Err(_) => Err(WalError::Corrupt { lsn: at, why: "frame payload does not match" }),
                }
            }
        }
    }

    /// The bytes of the frames that lie in `bytes` whole and right, and the LSN behind them.
    fn whole_frames(&self, bytes: &[u8], at: Lsn) -> Result<(usize, Lsn), Cut> {
        let (mut good, mut next) = (0, at);
        while good < bytes.len() && self.ring.device_offset(next) == self.ring.device_offset(at) + good as u64 {
            match self.frame(&bytes[good..], next) {
                Ok((written, length)) => {
                    good += written;
                    next.0 += length;
                }
                Err(cut) if good == 0 => return Err(cut),
                Err(_) => break,
            }
        }
        Ok((good, next))
    }

    /// What is written of the frame at the start of `bytes`, and its length.
    fn frame(&self, bytes: &[u8], lsn: Lsn) -> Result<(usize, u64), Cut> {
        let header = self.rules.header(bytes).map_err(Cut::Wrong)?;
        if header.lsn != lsn || !self.rules.length_is_possible(&header) {
            return Err(Cut::Wrong("another frame lies here"));
        }
        if header.owner_epoch < self.rules.epoch_floor(lsn, 0) {
            return Err(Cut::Wrong("frame of an older owner"));
        }
        let written = self.rules.written_bytes(&header);
        let frame = bytes.get(..written as usize).ok_or(Cut::Short { needed: written })?;
        self.rules.records(&header, frame, |_, _| ()).map_err(Cut::Wrong)?;
        Ok((written as usize, u64::from(header.length)))
    }
}

enum Cut {
    Wrong(&'static str),
    Short { needed: u64 },
}

async fn write(
    shared: &Shared,
    leg: LegId,
    offset: u64,
    buffer: Option<SharedBuf>,
    bytes: usize,
) -> Result<(), JoinError> {
    let (reply, answer) = oneshot::channel();
    shared.control(Control::Copy { leg, offset, buffer, bytes, reply });
    let written = answer.await.map_err(|_| shared.why_gone())?;
    written.map_err(|error| JoinError::Io(IoError::new("copy to it", error)))
}
