//! What becomes of each record that can still be read: settled long ago, uploaded, or saved to a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use seawall_metadata::{MetadataHandle, StreamId};
use seawall_wal_device::look::{Dumped, Look};
use seawall_wal_device::{RecordHeader, Salvage, ScanFrom, ScannedRecord};
use tokio::sync::mpsc;

use super::store::ObjectWriter;
use crate::recovery::{StreamFact, entry_of, fact_of};
use crate::wal_cli::WalCliError;

/// Records read ahead of what is put.
const READ_AHEAD: usize = 64;

/// What was done with the records of one stream; offsets are half-open ranges.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct StreamRescue {
    pub uploaded: Vec<(i64, i64)>,
    pub saved: Vec<(i64, i64)>,
    /// Between records that could be read. What is missing at the end nobody can tell.
    pub missing: Vec<(i64, i64)>,
    pub file: Option<PathBuf>,
}

#[derive(Debug, Default)]
pub struct Rescued {
    pub uploaded_records: u64,
    pub saved_records: u64,
    pub streams: BTreeMap<u64, StreamRescue>,
}

pub struct Rescue {
    metadata: MetadataHandle,
    store: ObjectWriter,
    folder: PathBuf,
    files: BTreeMap<u64, File>,
    sorter: Sorter,
    rescued: Rescued,
}

impl Rescue {
    pub fn new(metadata: MetadataHandle, store: ObjectWriter, folder: &Path) -> Result<Self, WalCliError> {
        fs::create_dir_all(folder).map_err(|error| failed("make", folder, error))?;
        let (files, sorter, rescued) = Default::default();
        Ok(Self { metadata, store, folder: folder.to_owned(), files, sorter, rescued })
    }

    /// Reads once more, with the payloads this time.
    pub async fn run(&mut self, mut look: Look, from: &ScanFrom, salvage: &Salvage) -> Result<(), WalCliError> {
        let wanted: BTreeSet<u64> = salvage.records.iter().map(|record| record.position.lsn.0).collect();
        let trim = from.trim;
        let (tell, mut hear) = mpsc::channel::<(ScannedRecord, Bytes)>(READ_AHEAD);
        let reading = tokio::task::spawn_blocking(move || {
            look.dump(trim, &mut |dumped| match dumped {
                Dumped::Record { record, payload } if wanted.contains(&record.position.lsn.0) => {
                    match tell.blocking_send((record, Bytes::copy_from_slice(payload))) {
                        Ok(()) => ControlFlow::Continue(()),
                        Err(_) => ControlFlow::Break(()),
                    }
                }
                _ => ControlFlow::Continue(()),
            })
        });
        while let Some((record, payload)) = hear.recv().await {
            self.record(&record, payload).await?;
        }
        match reading.await {
            Ok(read) => Ok(read?),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// All is in the store and on the disk.
    pub async fn finish(mut self) -> Result<Rescued, WalCliError> {
        self.store.flush().await?;
        for (stream, file) in &self.files {
            file.sync_all().map_err(|error| failed("flush", &self.file_of(*stream), error))?;
        }
        Ok(self.rescued)
    }

    async fn record(&mut self, record: &ScannedRecord, payload: Bytes) -> Result<(), WalCliError> {
        let header = record.header;
        let fact = self.metadata.read(|state| fact_of(state, self.store.node(), header.stream));
        let entry = entry_of(&header, record.position.bytes, &payload).ok();
        let fate = self.sorter.fate(&fact, &header, entry.is_some());
        let span = (header.base_offset, header.last_offset + 1);
        let before = self.sorter.seen.insert(header.stream, span.1);
        let of = match fate {
            Fate::Settled => return Ok(()),
            Fate::Upload { .. } | Fate::Save => self.rescued.streams.entry(header.stream).or_default(),
        };
        if let Some(before) = before
            && span.0 > before
        {
            of.missing.push((before, span.0));
        }
        match (fate, entry) {
            (Fate::Upload { leader_epoch }, Some(entry)) => {
                extend(&mut of.uploaded, span);
                self.rescued.uploaded_records += 1;
                self.store.add(StreamId(header.stream), leader_epoch, entry, payload).await
            }
            _ => {
                extend(&mut of.saved, span);
                self.rescued.saved_records += 1;
                self.save(header.stream, &payload)
            }
        }
    }

    fn save(&mut self, stream: u64, payload: &[u8]) -> Result<(), WalCliError> {
        let path = self.file_of(stream);
        let file = match self.files.entry(stream) {
            std::collections::btree_map::Entry::Occupied(file) => file.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                let file = File::create(&path).map_err(|error| failed("make", &path, error))?;
                self.rescued.streams.entry(stream).or_default().file = Some(path.clone());
                place.insert(file)
            }
        };
        file.write_all(payload).map_err(|error| failed("write", &path, error))
    }

    fn file_of(&self, stream: u64) -> PathBuf {
        self.folder.join(format!("stream-{stream}.records"))
    }
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> WalCliError {
    WalCliError::Io { operation: format!("{what} {}", path.display()), error }
}

/// Neighbours become one range.
fn extend(ranges: &mut Vec<(i64, i64)>, (base, end): (i64, i64)) {
    match ranges.last_mut() {
        Some(last) if last.1 == base => last.1 = end,
        _ => ranges.push((base, end)),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Deleted, or committed before.
    Settled,
    /// It continues its partition, which is at this leader epoch.
    Upload { leader_epoch: i32 },
    /// Behind a gap, or of a partition that this broker does not lead.
    Save,
}

/// Decides for each record in LSN order.
#[derive(Debug, Default)]
struct Sorter {
    /// Where each stream goes on; none behind a gap.
    next: BTreeMap<u64, Option<i64>>,
    /// The end of the last record of each stream.
    seen: BTreeMap<u64, i64>,
}

impl Sorter {
    fn fate(&mut self, fact: &StreamFact, header: &RecordHeader, is_a_batch: bool) -> Fate {
        let (next, leader_epoch) = match fact {
            StreamFact::Deleted => return Fate::Settled,
            StreamFact::Unknown => return Fate::Save,
            StreamFact::LedElsewhere { next } if header.last_offset < *next => return Fate::Settled,
            StreamFact::LedElsewhere { .. } => return Fate::Save,
            StreamFact::Led { next, leader_epoch } => (*next, *leader_epoch),
        };
        if header.last_offset < next {
            return Fate::Settled;
        }
        let expected = self.next.entry(header.stream).or_insert(Some(next));
        let continues = *expected == Some(header.base_offset)
            && header.last_offset >= header.base_offset
            && header.leader_epoch <= leader_epoch
            && is_a_batch;
        *expected = continues.then_some(header.last_offset + 1);
        if continues { Fate::Upload { leader_epoch } } else { Fate::Save }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(base_offset: i64, last_offset: i64) -> RecordHeader {
        RecordHeader { stream: 1, leader_epoch: 3, base_offset, last_offset }
    }

    #[test]
    fn what_continues_a_partition_is_uploaded_and_what_lies_behind_a_gap_is_saved() {
        let led = StreamFact::Led { next: 10, leader_epoch: 4 };
        let mut sorter = Sorter::default();
        assert_eq!(sorter.fate(&led, &header(8, 9), true), Fate::Settled);
        assert_eq!(sorter.fate(&led, &header(10, 11), true), Fate::Upload { leader_epoch: 4 });
        assert_eq!(sorter.fate(&led, &header(12, 12), true), Fate::Upload { leader_epoch: 4 });
        assert_eq!(sorter.fate(&led, &header(14, 15), true), Fate::Save);
        assert_eq!(sorter.fate(&led, &header(16, 16), true), Fate::Save);
    }

    #[test]
    fn a_record_that_is_no_batch_ends_what_can_be_uploaded() {
        let led = StreamFact::Led { next: 10, leader_epoch: 4 };
        let mut sorter = Sorter::default();
        assert_eq!(sorter.fate(&led, &header(10, 11), false), Fate::Save);
        assert_eq!(sorter.fate(&led, &header(12, 12), true), Fate::Save);
    }

    #[test]
    fn records_of_others_are_saved_unless_they_are_settled() {
        let elsewhere = StreamFact::LedElsewhere { next: 10 };
        let mut sorter = Sorter::default();
        assert_eq!(sorter.fate(&elsewhere, &header(8, 9), true), Fate::Settled);
        assert_eq!(sorter.fate(&elsewhere, &header(10, 10), true), Fate::Save);
        assert_eq!(sorter.fate(&StreamFact::Unknown, &header(0, 0), true), Fate::Save);
        assert_eq!(sorter.fate(&StreamFact::Deleted, &header(0, 0), true), Fate::Settled);
    }
}
