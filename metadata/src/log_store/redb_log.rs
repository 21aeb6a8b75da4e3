//! The log store in one redb file: one ACID transaction, with one flush, per write.
//!
//! Tables: `log` (index -> CRC, entry), `snapshot` (chunk number -> CRC, up to 1 MiB), `meta` (name -> CRC, value).
//! The file is locked by redb: a second process is refused. A file that a power cut caught in its making cannot be told from
//! a damaged one, so it has another name until its first transaction is durable.

use std::fs::{File, create_dir_all, rename};
use std::io;
use std::path::{Path, PathBuf};

use protobuf::Message;
use raft::eraftpb::{ConfState, Entry, HardState};
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    WriteTransaction,
};

use super::{LOG_FORMAT, LogError, LogIdentity, LogWrite, RaftStorage, StoredLog, StoredSnapshot};
use crate::snapshot::crc32c;
use crate::wire::{Input, Wire, WireError, wire_struct};

const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const SNAPSHOT: TableDefinition<u64, &[u8]> = TableDefinition::new("snapshot");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

const FORMAT: &str = "format";
const IDENTITY: &str = "identity";
const HARD_STATE: &str = "hard state";
const SNAPSHOT_HEAD: &str = "snapshot";

const FILE: &str = "raft.redb";
const FILE_IN_MAKING: &str = "raft.redb.new";

const CHUNK_BYTES: usize = 1 << 20;
/// redb keeps pages in memory up to this; the log is read once, at start.
const CACHE_BYTES: usize = 4 << 20;

/// A Raft log in `raft.redb`.
#[derive(Debug)]
pub struct RedbLog {
    database: Database,
    /// Index of the newest entry or, without any, of the snapshot.
    last: u64,
    /// Where a file in the making belongs.
    unnamed_in: Option<PathBuf>,
}

/// The snapshot but for its data.
struct SnapshotHead {
    index: u64,
    term: u64,
    conf_state: Vec<u8>,
    bytes: u64,
}

wire_struct!(SnapshotHead { index, term, conf_state, bytes });
wire_struct!(LogIdentity { node, raft_id, store });

impl RedbLog {
    /// Opens or makes the store in `dir`.
    pub fn open(dir: &Path) -> Result<Self, LogError> {
        create_dir_all(dir)?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        let path = dir.join(FILE);
        if path.try_exists()? {
            return Ok(Self { database: open_file(&path)?, last: 0, unnamed_in: None });
        }
        let path = dir.join(FILE_IN_MAKING);
        let database = match open_file(&path) {
            Err(LogError::Damaged(_)) => {
                std::fs::remove_file(&path)?;
                open_file(&path)?
            }
            database => database?,
        };
        Ok(Self { database, last: 0, unnamed_in: Some(dir.to_owned()) })
    }

    /// Opens or makes the store on storage of the caller's, as a crash test wants.
    pub fn with_backend(backend: impl StorageBackend) -> Result<Self, LogError> {
        let database = Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(backend)?;
        Ok(Self { database, last: 0, unnamed_in: None })
    }

    fn put_all(&mut self, write: LogWrite<'_>, transaction: &WriteTransaction) -> Result<u64, LogError> {
        let mut last = self.last;
        let mut log = transaction.open_table(LOG)?;
        let mut meta = transaction.open_table(META)?;
        if let Some(snapshot) = write.snapshot {
            put_snapshot(snapshot, transaction)?;
            let conf_state = encode(&snapshot.conf_state)?;
            let (index, term, bytes) = (snapshot.index, snapshot.term, snapshot.data.len() as u64);
            let head = to_bytes(&SnapshotHead { index, term, conf_state, bytes });
            meta.insert(SNAPSHOT_HEAD, sealed(SNAPSHOT_HEAD.as_bytes(), &head).as_slice())?;
            if write.replaces_log {
                log.retain(|_, _| false)?;
                last = index;
            } else {
                log.retain_in(..=index, |_, _| false)?;
                last = last.max(index);
            }
        }
        if let Some(first) = write.entries.first() {
            if first.index <= last {
                log.retain_in(first.index.., |_, _| false)?;
            }
            for entry in write.entries {
                let bytes = encode(entry)?;
                log.insert(entry.index, sealed(&entry.index.to_le_bytes(), &bytes).as_slice())?;
                last = entry.index;
            }
        }
        if let Some(hard_state) = write.hard_state {
            meta.insert(HARD_STATE, sealed(HARD_STATE.as_bytes(), &encode(hard_state)?).as_slice())?;
        }
        Ok(last)
    }
}

impl RaftStorage for RedbLog {
    fn load(&mut self) -> Result<Option<StoredLog>, LogError> {
        let transaction = self.database.begin_read()?;
        let meta = match transaction.open_table(META) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            meta => meta?,
        };
        let get = |name: &str| -> Result<Vec<u8>, LogError> {
            let value = meta.get(name)?.ok_or_else(|| LogError::Damaged(format!("no {name}")))?;
            Ok(unsealed(name.as_bytes(), value.value(), name)?.to_vec())
        };
        let format: u16 = from_bytes(&get(FORMAT)?, FORMAT)?;
        if format > LOG_FORMAT {
            return Err(LogError::NewerFormat { found: format });
        }
        let identity: LogIdentity = from_bytes(&get(IDENTITY)?, IDENTITY)?;
        let hard_state: HardState = decode(&get(HARD_STATE)?, HARD_STATE)?;
        let head: SnapshotHead = from_bytes(&get(SNAPSHOT_HEAD)?, SNAPSHOT_HEAD)?;

        let mut data = Vec::new();
        for (number, item) in transaction.open_table(SNAPSHOT)?.iter()?.enumerate() {
            let (key, chunk) = item?;
            let key = key.value();
            if key != number as u64 {
                return Err(LogError::Damaged(format!("snapshot chunk {number} is missing")));
            }
            data.extend_from_slice(unsealed(&key.to_le_bytes(), chunk.value(), "snapshot chunk")?);
        }
        if data.len() as u64 != head.bytes {
            return Err(LogError::Damaged(format!("snapshot of {} bytes, expected {}", data.len(), head.bytes)));
        }
        let conf_state: ConfState = decode(&head.conf_state, SNAPSHOT_HEAD)?;
        let snapshot = StoredSnapshot { index: head.index, term: head.term, conf_state, data };

        let mut entries = Vec::new();
        for item in transaction.open_table(LOG)?.iter()? {
            let (key, value) = item?;
            let bytes = unsealed(&key.value().to_le_bytes(), value.value(), "entry")?;
            let entry: Entry = decode(bytes, "entry")?;
            if entry.index != key.value() {
                return Err(LogError::Damaged(format!("entry {} at {}", entry.index, key.value())));
            }
            entries.push(entry);
        }
        let stored = StoredLog { identity, hard_state, snapshot, entries };
        stored.check()?;
        self.last = stored.entries.last().map_or(stored.snapshot.index, |entry| entry.index);
        Ok(Some(stored))
    }

    fn create(
        &mut self,
        identity: LogIdentity,
        snapshot: &StoredSnapshot,
        hard_state: &HardState,
    ) -> Result<(), LogError> {
        let transaction = self.database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert(FORMAT, sealed(FORMAT.as_bytes(), &to_bytes(&LOG_FORMAT)).as_slice())?;
            meta.insert(IDENTITY, sealed(IDENTITY.as_bytes(), &to_bytes(&identity)).as_slice())?;
        }
        let write = LogWrite { snapshot: Some(snapshot), hard_state: Some(hard_state), ..LogWrite::default() };
        self.last = self.put_all(write, &transaction)?;
        transaction.commit()?;
        if let Some(dir) = self.unnamed_in.take() {
            rename(dir.join(FILE_IN_MAKING), dir.join(FILE))?;
            // The file's name must survive a power cut as its content does.
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    }

    fn write(&mut self, write: LogWrite<'_>) -> Result<(), LogError> {
        let transaction = self.database.begin_write()?;
        self.last = self.put_all(write, &transaction)?;
        transaction.commit()?;
        Ok(())
    }
}

fn open_file(path: &Path) -> Result<Database, LogError> {
    Ok(Builder::new().set_cache_size(CACHE_BYTES).create(path)?)
}

fn put_snapshot(snapshot: &StoredSnapshot, transaction: &WriteTransaction) -> Result<(), LogError> {
    let mut table = transaction.open_table(SNAPSHOT)?;
    table.retain(|_, _| false)?;
    for (number, chunk) in snapshot.data.chunks(CHUNK_BYTES).enumerate() {
        let number = number as u64;
        table.insert(number, sealed(&number.to_le_bytes(), chunk).as_slice())?;
    }
    Ok(())
}

/// A value behind its CRC32C, which covers its key too: a value in another's place is damage.
fn sealed(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + value.len());
    out.extend_from_slice(&crc_of(key, value).to_le_bytes());
    out.extend_from_slice(value);
    out
}

fn unsealed<'a>(key: &[u8], sealed: &'a [u8], what: &str) -> Result<&'a [u8], LogError> {
    match sealed.split_first_chunk::<4>() {
        Some((crc, value)) if u32::from_le_bytes(*crc) == crc_of(key, value) => Ok(value),
        _ => Err(LogError::Damaged(format!("checksum of {what} {key:02x?}"))),
    }
}

fn crc_of(key: &[u8], value: &[u8]) -> u32 {
    let mut both = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    both.update(&crc32c(key).to_le_bytes());
    both.update(value);
    both.finalize() as u32
}

fn to_bytes(value: &impl Wire) -> Vec<u8> {
    let mut out = Vec::new();
    value.put(&mut out);
    out
}

fn from_bytes<T: Wire>(bytes: &[u8], what: &str) -> Result<T, LogError> {
    let mut input = Input::new(bytes);
    let value = T::take(&mut input).and_then(|value| input.finish().map(|()| value));
    value.map_err(|error: WireError| LogError::Damaged(format!("{what}: {error}")))
}

fn encode(message: &impl Message) -> Result<Vec<u8>, LogError> {
    message.write_to_bytes().map_err(|error| LogError::Io(io::Error::other(error)))
}

fn decode<M: Message>(bytes: &[u8], what: &str) -> Result<M, LogError> {
    M::parse_from_bytes(bytes).map_err(|error| LogError::Damaged(format!("{what}: {error}")))
}

impl From<DatabaseError> for LogError {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen => Self::InUse,
            error => redb::Error::from(error).into(),
        }
    }
}

impl From<redb::Error> for LogError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => Self::Damaged(error.to_string()),
            redb::Error::Io(error) => Self::Io(error),
            redb::Error::DatabaseAlreadyOpen => Self::InUse,
            redb::Error::Corrupted(why) => Self::Damaged(why),
            redb::Error::UpgradeRequired(version) => Self::Damaged(format!("redb file format {version}")),
            error => Self::Io(io::Error::other(error)),
        }
    }
}

macro_rules! from_redb {
    ($($error:ident),+) => {$(
        impl From<redb::$error> for LogError {
            fn from(error: redb::$error) -> Self {
                redb::Error::from(error).into()
            }
        }
    )+};
}

from_redb!(StorageError, TableError, TransactionError, CommitError);
