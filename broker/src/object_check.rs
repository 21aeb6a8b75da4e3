//! Looks at one object as it lies in a store or in a file: what it says of itself, and whether its bytes are what was written.
//!
//! Promises: reads past every cache; holds the sections and a few blocks in memory, never a whole object; goes on behind a
//! damaged part as far as what is whole leads; what cannot be read is an error, what reads wrong is [`Damage`].
//! Left to others: whether metadata agrees (`scrub/judge.rs`), and reading once more what arrived wrong ([`look_twice`] does).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use seawall_backends::{Backend, BackendError, ObjectKey, Purpose};
use seawall_metadata::{Incarnation, ObjectId};
use seawall_protocol::records;
use serde::Serialize;

use crate::object_format::{
    AbortedTransaction, BlockEntry, FORMAT_VERSION, Footer, FormatError, ObjectIndex, SectionKind, StreamProducers,
    crc32c, decode_aborted, decode_producers, read_any_footer, read_footer,
};

/// The first read of an object's end; see `object_reader.rs`.
const TAIL_READ_BYTES: u64 = 64 << 10;
/// Blocks read at a time, unless one is longer.
const READ_BYTES: u64 = 8 << 20;
/// No object that we write has so much behind its blocks.
const SECTIONS_BYTES_MAX: u64 = 1 << 30;
/// Damaged parts that are told one by one.
const DAMAGE_MAX: usize = 100;
/// A batch without records has no timestamp.
const NO_TIMESTAMP: i64 = -1;

/// Where an object is.
pub enum Source<'a> {
    Store { backend: &'a dyn Backend, key: &'a ObjectKey, purpose: Purpose },
    File(&'a File),
}

/// How much of it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// All but the data blocks.
    Sections,
    Everything,
}

/// Told before each read: how many bytes it is for.
pub trait Pacing: Send {
    fn before_read(&mut self, bytes: u64) -> impl Future<Output = ()> + Send;
}

/// Why nothing can be said of an object.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    #[error(transparent)]
    Store(#[from] BackendError),
    #[error(transparent)]
    File(#[from] io::Error),
    #[error("written in object format {found}; this version reads up to {FORMAT_VERSION}")]
    NewerFormat { found: u16 },
}

/// A part that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    pub part: &'static str,
    /// Where it begins in the object.
    pub position: u64,
    pub why: String,
}

/// What was seen. A part that is damaged is `None`.
#[derive(Debug, Default)]
pub struct Look {
    pub object_bytes: u64,
    pub footer: Option<Footer>,
    pub index: Option<ObjectIndex>,
    pub producers: Option<Vec<StreamProducers>>,
    pub aborted: Option<Vec<AbortedTransaction>>,
    /// Of the blocks that were read and are whole.
    pub blocks: u64,
    pub batches: u64,
    pub records: u64,
    pub read_bytes: u64,
    /// The first of them.
    pub damage: Vec<Damage>,
    pub damaged_parts: usize,
}

/// As [`look`], and once more if anything is wrong: it may have arisen on the way.
pub async fn look_twice(
    source: &Source<'_>,
    object_bytes: u64,
    expected: Option<(ObjectId, Incarnation)>,
    depth: Depth,
    pacing: &mut impl Pacing,
) -> Result<Look, LookError> {
    let first = look(source, object_bytes, expected, depth, pacing).await?;
    if first.damaged_parts == 0 {
        return Ok(first);
    }
    let mut second = look(source, object_bytes, expected, depth, pacing).await?;
    second.read_bytes += first.read_bytes;
    Ok(second)
}

/// Reads an object that is `object_bytes` long. Without `expected` any object will do.
pub async fn look(
    source: &Source<'_>,
    object_bytes: u64,
    expected: Option<(ObjectId, Incarnation)>,
    depth: Depth,
    pacing: &mut impl Pacing,
) -> Result<Look, LookError> {
    let mut look = Look { object_bytes, ..Look::default() };
    let tail_start = object_bytes.saturating_sub(TAIL_READ_BYTES);
    let Some(tail) = look.read(source, "footer", tail_start..object_bytes, pacing).await? else { return Ok(look) };
    let read = match expected {
        Some((object, incarnation)) => read_footer(&tail, object, incarnation, object_bytes),
        None => read_any_footer(&tail, object_bytes),
    };
    let footer = match read {
        Ok(footer) => footer,
        Err(FormatError::NewerFormat { found }) => return Err(LookError::NewerFormat { found }),
        Err(error) => {
            look.damaged("footer", object_bytes, error.to_string());
            return Ok(look);
        }
    };
    look.footer = Some(footer.clone());
    let start = footer.sections_start();
    if object_bytes - start > SECTIONS_BYTES_MAX {
        look.damaged("footer", start, "more bytes behind the data than any object has".to_owned());
        return Ok(look);
    }
    let mut sections = Vec::new();
    if start < tail_start {
        let Some(before) = look.read(source, "index", start..tail_start, pacing).await? else { return Ok(look) };
        sections.extend_from_slice(&before);
    }
    sections.extend_from_slice(&tail[start.saturating_sub(tail_start) as usize..]);
    look.take_sections(&footer, &sections.into());
    if depth == Depth::Everything
        && let Some(index) = look.index.take()
    {
        look.take_blocks(source, &index, pacing).await?;
        look.index = Some(index);
    }
    Ok(look)
}

impl Look {
    fn damaged(&mut self, part: &'static str, position: u64, why: String) {
        self.damaged_parts += 1;
        if self.damage.len() < DAMAGE_MAX {
            self.damage.push(Damage { part, position, why });
        }
    }

    /// `None` if the store gave something else than these bytes.
    async fn read(
        &mut self,
        source: &Source<'_>,
        part: &'static str,
        range: Range<u64>,
        pacing: &mut impl Pacing,
    ) -> Result<Option<Bytes>, LookError> {
        let (start, wanted) = (range.start, range.end - range.start);
        pacing.before_read(wanted).await;
        let read = match source {
            Source::Store { backend, key, purpose } => match backend.get_range(key, range, *purpose).await {
                Ok(bytes) => Ok(bytes.into_bytes()),
                Err(BackendError::Corrupt(why)) => Err(why),
                Err(error) => return Err(error.into()),
            },
            Source::File(file) => {
                let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(usize::MAX)];
                file.read_exact_at(&mut bytes, start)?;
                Ok(bytes.into())
            }
        };
        self.read_bytes += wanted;
        match read {
            Ok(bytes) if bytes.len() as u64 == wanted => return Ok(Some(bytes)),
            Ok(bytes) => self.damaged(part, start, format!("{} bytes came for {wanted}", bytes.len())),
            Err(why) => self.damaged(part, start, why),
        }
        Ok(None)
    }

    /// `sections` is everything behind the data.
    fn take_sections(&mut self, footer: &Footer, sections: &Bytes) {
        for section in &footer.sections {
            let from = (section.position - footer.data_bytes) as usize;
            let bytes = sections.slice(from..from + section.bytes as usize);
            let name = section.kind.name();
            if crc32c(&bytes) != section.crc {
                self.damaged(name, section.position, FormatError::Checksum("section").to_string());
                continue;
            }
            let taken = match section.kind {
                SectionKind::Index => {
                    ObjectIndex::decode(&bytes, footer.data_bytes).map(|index| self.index = Some(index))
                }
                SectionKind::ProducerState => {
                    decode_producers(&bytes).map(|producers| self.producers = Some(producers))
                }
                SectionKind::AbortedTransactions => decode_aborted(&bytes).map(|aborted| self.aborted = Some(aborted)),
                SectionKind::Other(_) => Ok(()),
            };
            if let Err(error) = taken {
                self.damaged(name, section.position, error.to_string());
            }
        }
    }

    async fn take_blocks(
        &mut self,
        source: &Source<'_>,
        index: &ObjectIndex,
        pacing: &mut impl Pacing,
    ) -> Result<(), LookError> {
        let mut rest = index.blocks();
        while let Some(first) = rest.first() {
            let start = first.position;
            let fitting = rest.partition_point(|block| block.span().end - start <= READ_BYTES).max(1);
            let (run, behind) = rest.split_at(fitting);
            rest = behind;
            let end = run[fitting - 1].span().end;
            let Some(bytes) = self.read(source, "data blocks", start..end, pacing).await? else { continue };
            for block in run {
                let span = block.span();
                let bytes = bytes.slice((span.start - start) as usize..(span.end - start) as usize);
                match check_block(block, bytes) {
                    Ok(batches) => {
                        self.blocks += 1;
                        self.batches += batches;
                        self.records += u64::from(block.record_count);
                    }
                    Err(why) => self.damaged("data block", block.position, of_block(block, &why)),
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

fn of_block(block: &BlockEntry, why: &str) -> String {
    format!("stream {} offsets {} to {}: {why}", block.stream, block.base, block.end)
}

/// Whether a block is what was written, and holds the batches that its index entry says. Returns how many there are.
fn check_block(entry: &BlockEntry, block: Bytes) -> Result<u64, String> {
    entry.verify(&block).map_err(|error| error.to_string())?;
    let batches = records::split_batches(block).map_err(|error| format!("not whole batches: {error}"))?;
    let (mut next, mut records, mut max_timestamp) = (entry.base, 0u64, NO_TIMESTAMP);
    for (header, batch) in &batches {
        let base = header.base_offset;
        records::verify_crc(batch).map_err(|error| format!("batch at offset {base}: {error}"))?;
        if header.partition_leader_epoch != entry.leader_epoch {
            let (found, said) = (header.partition_leader_epoch, entry.leader_epoch);
            return Err(format!("batch at offset {base} is of leader epoch {found}, the index says {said}"));
        }
        if base < next {
            return Err(format!("batch at offset {base} comes where {next} or more is due"));
        }
        next = header.last_offset() + 1;
        records += u64::from(header.record_count.max(0).unsigned_abs());
        if header.record_count > 0 {
            max_timestamp = max_timestamp.max(header.max_timestamp);
        }
    }
    let first = batches.first().map(|(header, _)| header.base_offset);
    if (first, next) != (Some(entry.base), entry.end) {
        return Err(format!("its batches hold offsets {} to {next}", first.unwrap_or(next)));
    }
    if (records, max_timestamp) != (u64::from(entry.record_count), entry.max_timestamp) {
        let (said, newest) = (entry.record_count, entry.max_timestamp);
        return Err(format!(
            "its batches hold {records} records up to timestamp {max_timestamp}, the index says {said} and {newest}"
        ));
    }
    Ok(batches.len() as u64)
}

#[cfg(test)]
mod tests;
