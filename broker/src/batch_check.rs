//! Judges what a client wants to append, before any lock is taken and any offset is assigned.
//!
//! Promises: what passes is exactly one whole v2 batch whose CRC was checked once, whose counts agree with its
//! offsets, and that keeps to the rules of its topic. Record bytes are parsed only where a rule needs them: a compacted
//! topic (keys), a lower bound on timestamps, another codec than the producer's, `produce.batch.validation = "strict"`.
//! Leaves to others: sequence numbers (`producer_state.rs`), offsets and leader epoch (`partition.rs`).

use bytes::{Bytes, BytesMut};
use seawall_protocol::records::{self, BatchBuilder, BatchHeader, Compression, Header, RecordsError};

use crate::topic_config::{TopicCompression, TopicConfig};

/// Last Produce version that must not carry zstd.
const PRODUCE_VERSION_BEFORE_ZSTD: i16 = 6;
/// A record without a timestamp.
const NO_TIMESTAMP: i64 = -1;
/// Limit on what one batch may decompress to, where records must be looked at.
const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;
/// Records of one batch that an answer names.
const RECORD_ERRORS_MAX: usize = 100;

/// The rules of one topic for one produce request, resolved before the check.
#[derive(Debug, Clone)]
pub struct BatchRules {
    /// Version of the Produce request; `None` for appends of our own.
    pub produce_version: Option<i16>,
    pub max_message_bytes: usize,
    /// `compression.type`; `None` keeps what the producer chose.
    pub compression: Option<Compression>,
    /// The level of that codec.
    pub compression_level: Option<i32>,
    /// `message.timestamp.type = LogAppendTime`.
    pub log_append_time: bool,
    /// How far a record's timestamp may lie behind and ahead of `now_ms`.
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
    /// `cleanup.policy` contains `compact`: every record needs a key.
    pub compacted: bool,
    /// Parse every record even where no other rule asks for it.
    pub strict: bool,
    /// Wall time of the broker.
    pub now_ms: i64,
    /// Limit on what one batch may decompress to.
    pub decompressed_bytes_max: usize,
}

/// A batch that may be appended.
#[derive(Debug, Clone)]
pub struct CheckedBatch {
    pub header: BatchHeader,
    pub bytes: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub enum InvalidBatch {
    #[error("a partition in a produce request must hold at least one record batch")]
    Missing,
    #[error("a partition in a produce request must hold exactly one record batch")]
    SeveralBatches,
    #[error("record batch has magic {0}, only 2 is supported")]
    Magic(i8),
    #[error("compression codec {0} is unknown")]
    Codec(i16),
    #[error("corrupt record batch: {0}")]
    Corrupt(RecordsError),
    #[error("a batch of {bytes} bytes exceeds max.message.bytes = {bytes_max}")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("produce requests before version 7 must not use zstd")]
    ZstdBeforeVersion7,
    #[error("clients must not write control batches")]
    Control,
    #[error("the batch counts {records} records but its last offset delta is {last_offset_delta}")]
    Counts { records: i32, last_offset_delta: i32 },
    #[error("sequence number {0} in a batch with a producer id")]
    Sequence(i32),
    #[error("transactional batch without a transaction that this broker knows of")]
    Transactional,
    /// The first of them.
    #[error("a compacted topic takes no record without a key: records {records:?}")]
    NullKeys { records: Vec<i32> },
    #[error("timestamp {timestamp_ms} of record {record} is outside [{earliest_ms}, {latest_ms}]")]
    Timestamp { record: i32, timestamp_ms: i64, earliest_ms: i64, latest_ms: i64 },
    #[error("record {record}: {error}")]
    Record { record: i32, error: RecordsError },
}

impl InvalidBatch {
    /// Indexes of the records that are at fault, where it is single records.
    pub fn record_indexes(&self) -> &[i32] {
        match self {
            Self::NullKeys { records } => records,
            Self::Timestamp { record, .. } | Self::Record { record, .. } => std::slice::from_ref(record),
            _ => &[],
        }
    }
}

/// Checks the records of one partition of a produce request. See the file header for what passing means.
pub fn check(records: Option<Bytes>, rules: &BatchRules) -> Result<CheckedBatch, InvalidBatch> {
    let bytes = records.filter(|bytes| !bytes.is_empty()).ok_or(InvalidBatch::Missing)?;
    let header = one_batch(&bytes)?;
    if rules.produce_version.is_some_and(|version| version <= PRODUCE_VERSION_BEFORE_ZSTD)
        && header.compression() == Compression::Zstd
    {
        return Err(InvalidBatch::ZstdBeforeVersion7);
    }
    let batch = CheckedBatch { header, bytes };
    batch.check_size(rules)?;
    if !crate::faults::skips_crc() {
        records::verify_crc(&batch.bytes).map_err(InvalidBatch::Corrupt)?;
    }
    batch.check_header()?;
    batch.check_newest_timestamp(rules)?;
    if rules.needs_records(&batch.header) {
        batch.check_records(rules)?;
    }
    let batch = batch.recompressed(rules)?;
    Ok(batch.stamped(rules))
}

/// The header of the only batch in `bytes`.
fn one_batch(bytes: &Bytes) -> Result<BatchHeader, InvalidBatch> {
    let header = BatchHeader::parse(bytes).map_err(|error| match error {
        RecordsError::Magic { magic } => InvalidBatch::Magic(magic),
        RecordsError::UnknownCompression { code } => InvalidBatch::Codec(code),
        error => InvalidBatch::Corrupt(error),
    })?;
    match header.total_bytes() {
        whole if whole == bytes.len() => Ok(header),
        whole if whole < bytes.len() => Err(InvalidBatch::SeveralBatches),
        wanted => Err(InvalidBatch::Corrupt(RecordsError::Truncated { wanted, available: bytes.len() })),
    }
}

impl BatchRules {
    fn needs_records(&self, header: &BatchHeader) -> bool {
        self.strict
            || self.compacted
            || (!self.log_append_time && self.timestamp_before_max_ms != i64::MAX && !header.is_control())
    }

    /// Oldest and newest timestamp a record may have, ms.
    fn timestamp_bounds(&self) -> (i64, i64) {
        (
            self.now_ms.saturating_sub(self.timestamp_before_max_ms),
            self.now_ms.saturating_add(self.timestamp_after_max_ms),
        )
    }

    fn check_timestamp(&self, record: i32, timestamp_ms: i64) -> Result<(), InvalidBatch> {
        let (earliest_ms, latest_ms) = self.timestamp_bounds();
        let unset = timestamp_ms == NO_TIMESTAMP;
        if self.log_append_time || unset || (earliest_ms..=latest_ms).contains(&timestamp_ms) {
            Ok(())
        } else {
            Err(InvalidBatch::Timestamp { record, timestamp_ms, earliest_ms, latest_ms })
        }
    }
}

impl CheckedBatch {
    fn check_size(&self, rules: &BatchRules) -> Result<(), InvalidBatch> {
        let (bytes, bytes_max) = (self.bytes.len(), rules.max_message_bytes);
        if bytes > bytes_max { Err(InvalidBatch::TooLarge { bytes, bytes_max }) } else { Ok(()) }
    }

    fn check_header(&self) -> Result<(), InvalidBatch> {
        let header = &self.header;
        let (records, last_offset_delta) = (header.record_count, header.last_offset_delta);
        if records <= 0 || last_offset_delta < 0 || records - 1 != last_offset_delta {
            return Err(InvalidBatch::Counts { records, last_offset_delta });
        }
        if header.is_control() {
            return Err(InvalidBatch::Control);
        }
        if header.producer_id >= 0 && header.base_sequence < 0 {
            return Err(InvalidBatch::Sequence(header.base_sequence));
        }
        if header.is_transactional() {
            return Err(InvalidBatch::Transactional);
        }
        Ok(())
    }

    /// The upper bound needs no parsing: the header holds the newest timestamp.
    fn check_newest_timestamp(&self, rules: &BatchRules) -> Result<(), InvalidBatch> {
        let newest_ms = self.header.max_timestamp;
        let latest_ms = rules.timestamp_bounds().1;
        if newest_ms > latest_ms { rules.check_timestamp(self.header.last_offset_delta, newest_ms) } else { Ok(()) }
    }

    fn check_records(&self, rules: &BatchRules) -> Result<(), InvalidBatch> {
        let mut seen = 0;
        let mut without_key = Vec::new();
        for record in records::records(&self.header, &self.bytes, rules.decompressed_bytes_max)
            .map_err(|error| InvalidBatch::Record { record: 0, error })?
        {
            let record = record.map_err(|error| InvalidBatch::Record { record: seen, error })?;
            if record.offset != self.header.base_offset + i64::from(seen) {
                return Err(InvalidBatch::Record {
                    record: seen,
                    error: RecordsError::Record("offsets do not rise by one"),
                });
            }
            if rules.compacted && record.key.is_none() && without_key.len() < RECORD_ERRORS_MAX {
                without_key.push(seen);
            }
            rules.check_timestamp(seen, record.timestamp)?;
            seen += 1;
        }
        if !without_key.is_empty() {
            return Err(InvalidBatch::NullKeys { records: without_key });
        }
        if seen == self.header.record_count {
            Ok(())
        } else {
            Err(InvalidBatch::Counts { records: seen, last_offset_delta: self.header.last_offset_delta })
        }
    }

    /// The same records under the topic's own codec, where `compression.type` names one. The only place that rewrites records.
    fn recompressed(self, rules: &BatchRules) -> Result<Self, InvalidBatch> {
        let Some(codec) = rules.compression.filter(|codec| self.header.compression() != *codec) else {
            return Ok(self);
        };
        let header = &self.header;
        let mut builder = BatchBuilder::new(codec).level(rules.compression_level).producer(
            header.producer_id,
            header.producer_epoch,
            header.base_sequence,
        );
        let mut seen = 0;
        for record in records::records(header, &self.bytes, rules.decompressed_bytes_max)
            .map_err(|error| InvalidBatch::Record { record: 0, error })?
        {
            let record = record.map_err(|error| InvalidBatch::Record { record: seen, error })?;
            let headers: Vec<Header> = record.headers.iter().collect();
            builder.add(record.key.as_deref(), record.value.as_deref(), record.timestamp, &headers);
            seen += 1;
        }
        if seen != header.record_count {
            return Err(InvalidBatch::Counts { records: seen, last_offset_delta: header.last_offset_delta });
        }
        let bytes = builder.build();
        let header = BatchHeader::parse(&bytes).map_err(InvalidBatch::Corrupt)?;
        let batch = Self { header, bytes };
        batch.check_size(rules)?;
        Ok(batch)
    }

    /// Under `LogAppendTime` the batch carries the broker's time.
    fn stamped(self, rules: &BatchRules) -> Self {
        if !rules.log_append_time {
            return self;
        }
        // Under a topic with this setting the record bytes are copied once, unless the request holds nothing else.
        let mut bytes = self.bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        records::set_log_append_time(&mut bytes, rules.now_ms);
        let header = BatchHeader::parse(&bytes).expect("only timestamps and checksum were changed");
        Self { header, bytes: bytes.freeze() }
    }
}

impl BatchRules {
    /// The rules of a topic for a produce request of `version`.
    pub fn of_topic(config: &TopicConfig, version: i16, now_ms: i64, strict: bool) -> Self {
        Self {
            produce_version: Some(version),
            max_message_bytes: config.max_message_bytes,
            compression: match config.compression {
                TopicCompression::Producer => None,
                TopicCompression::Uncompressed => Some(Compression::None),
                TopicCompression::Gzip => Some(Compression::Gzip),
                TopicCompression::Snappy => Some(Compression::Snappy),
                TopicCompression::Lz4 => Some(Compression::Lz4),
                TopicCompression::Zstd => Some(Compression::Zstd),
            },
            compression_level: match config.compression {
                TopicCompression::Gzip => Some(config.gzip_level),
                TopicCompression::Lz4 => Some(config.lz4_level),
                TopicCompression::Zstd => Some(config.zstd_level),
                TopicCompression::Producer | TopicCompression::Uncompressed | TopicCompression::Snappy => None,
            },
            log_append_time: config.log_append_time,
            timestamp_before_max_ms: config.message_timestamp_before_max_ms,
            timestamp_after_max_ms: config.message_timestamp_after_max_ms,
            compacted: config.cleanup_compact,
            strict,
            now_ms,
            decompressed_bytes_max: DECOMPRESSED_BYTES_MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn rules() -> BatchRules {
        BatchRules::of_topic(&TopicConfig::default(), 13, NOW_MS, false)
    }

    fn builder(codec: Compression) -> BatchBuilder {
        let mut builder = BatchBuilder::new(codec);
        builder.add(Some(b"k1"), Some(b"v1"), NOW_MS - 5, &[]).add(Some(b"k2"), None, NOW_MS, &[]);
        builder
    }

    fn batch() -> Bytes {
        builder(Compression::None).build()
    }

    /// The batch with one byte changed and a checksum that fits again.
    fn forged(at: usize, value: &[u8]) -> Bytes {
        let mut batch = batch().to_vec();
        batch[at..at + value.len()].copy_from_slice(value);
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &batch[21..]) as u32;
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        batch.into()
    }

    fn refused(records: impl Into<Option<Bytes>>, rules: &BatchRules) -> InvalidBatch {
        check(records.into(), rules).expect_err("the batch breaks a rule")
    }

    #[test]
    fn a_good_batch_passes_as_the_same_bytes() {
        let batch = batch();
        let checked = check(Some(batch.clone()), &rules()).unwrap();
        assert_eq!(checked.bytes.as_ptr(), batch.as_ptr(), "not copied");
        assert_eq!((checked.header.record_count, checked.header.last_offset_delta), (2, 1));
    }

    #[test]
    fn trap_19_a_produce_request_holds_exactly_one_whole_batch_of_format_2() {
        assert!(matches!(refused(None, &rules()), InvalidBatch::Missing));
        assert!(matches!(refused(Bytes::new(), &rules()), InvalidBatch::Missing));
        let two = Bytes::from([batch(), batch()].concat());
        assert!(matches!(refused(two, &rules()), InvalidBatch::SeveralBatches));
        let cut = batch().slice(..batch().len() - 1);
        assert!(matches!(refused(cut, &rules()), InvalidBatch::Corrupt(RecordsError::Truncated { .. })));
        assert!(matches!(refused(batch().slice(..20), &rules()), InvalidBatch::Corrupt(_)));
        assert!(matches!(refused(forged(16, &[1]), &rules()), InvalidBatch::Magic(1)));
    }

    #[test]
    fn trap_19_a_wrong_checksum_or_count_is_refused() {
        let mut flipped = batch().to_vec();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(matches!(refused(Bytes::from(flipped), &rules()), InvalidBatch::Corrupt(RecordsError::Crc { .. })));
        assert!(matches!(refused(forged(57, &3i32.to_be_bytes()), &rules()), InvalidBatch::Counts { records: 3, .. }));
        assert!(matches!(refused(forged(57, &0i32.to_be_bytes()), &rules()), InvalidBatch::Counts { records: 0, .. }));
        let strict = BatchRules { strict: true, ..rules() };
        let mut more = forged(57, &3i32.to_be_bytes()).to_vec();
        more[23..27].copy_from_slice(&2i32.to_be_bytes());
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &more[21..]) as u32;
        more[17..21].copy_from_slice(&crc.to_be_bytes());
        assert!(check(Some(more.clone().into()), &rules()).is_ok(), "the header agrees with itself");
        let strictly = refused(Bytes::from(more), &strict);
        assert!(matches!(strictly, InvalidBatch::Record { .. } | InvalidBatch::Counts { .. }), "{strictly}");
    }

    #[test]
    fn trap_19_too_large_a_batch_is_refused() {
        let bytes_max = batch().len() - 1;
        let rules = BatchRules { max_message_bytes: bytes_max, ..rules() };
        assert!(matches!(refused(batch(), &rules), InvalidBatch::TooLarge { .. }));
    }

    #[test]
    fn trap_19_a_record_without_a_key_is_refused_in_a_compacted_topic() {
        let mut builder = BatchBuilder::new(Compression::Lz4);
        builder.add(Some(b"k"), Some(b"v"), NOW_MS, &[]).add(None, Some(b"v"), NOW_MS, &[]);
        let batch = builder.build();
        let compacted = BatchRules { compacted: true, ..rules() };
        let error = refused(batch.clone(), &compacted);
        assert_eq!(error.record_indexes(), [1], "{error}");
        assert!(check(Some(batch), &rules()).is_ok());
    }

    #[test]
    fn offsets_that_do_not_rise_are_refused_where_records_are_read() {
        let twice = forged(75, &[0]);
        for rules in [BatchRules { compacted: true, ..rules() }, BatchRules { strict: true, ..rules() }] {
            assert!(check(Some(batch()), &rules).is_ok());
            let error = refused(twice.clone(), &rules);
            assert!(matches!(error, InvalidBatch::Record { record: 1, .. }), "{error}");
        }
    }

    #[test]
    fn clients_write_neither_control_batches_nor_transactions_nor_bad_sequences() {
        assert!(matches!(refused(builder(Compression::None).control().build(), &rules()), InvalidBatch::Control));
        let transactional = builder(Compression::None).producer(1, 0, 0).transactional().build();
        assert!(matches!(refused(transactional, &rules()), InvalidBatch::Transactional));
        let unsequenced = builder(Compression::None).producer(1, 0, -1).build();
        assert!(matches!(refused(unsequenced, &rules()), InvalidBatch::Sequence(-1)));
    }

    #[test]
    fn zstd_needs_produce_version_7() {
        let zstd = builder(Compression::Zstd).build();
        let old = BatchRules { produce_version: Some(6), ..rules() };
        assert!(matches!(refused(zstd.clone(), &old), InvalidBatch::ZstdBeforeVersion7));
        assert!(check(Some(zstd), &BatchRules { produce_version: Some(7), ..rules() }).is_ok());
    }

    #[test]
    fn timestamps_outside_of_the_topics_bounds_are_refused() {
        let after = BatchRules { timestamp_after_max_ms: 10, now_ms: NOW_MS - 11, ..rules() };
        assert!(matches!(refused(batch(), &after), InvalidBatch::Timestamp { .. }));
        let before = BatchRules { timestamp_before_max_ms: 10, now_ms: NOW_MS + 6, ..rules() };
        assert_eq!(refused(batch(), &before).record_indexes(), [0], "the older one");
        let stamped = BatchRules { log_append_time: true, ..before };
        assert!(check(Some(batch()), &stamped).is_ok(), "the broker's time counts");
    }

    #[test]
    fn trap_18_log_append_time_sets_attribute_time_and_checksum() {
        let rules = BatchRules { log_append_time: true, now_ms: NOW_MS + 77, ..rules() };
        let checked = check(Some(batch()), &rules).unwrap();
        assert_eq!(checked.header.max_timestamp, NOW_MS + 77);
        assert_eq!(checked.header.timestamp_type(), records::TimestampType::LogAppendTime);
        records::verify_crc(&checked.bytes).unwrap();
    }

    #[test]
    fn compression_type_rewrites_the_records_and_keeps_what_they_say() {
        for codec in Compression::ALL {
            let batch = builder(Compression::Gzip).producer(9, 2, 40).build();
            let rules = BatchRules { compression: Some(codec), ..rules() };
            let checked = check(Some(batch.clone()), &rules).unwrap();
            assert_eq!(checked.header.compression(), codec);
            records::verify_crc(&checked.bytes).unwrap();
            let before = BatchHeader::parse(&batch).unwrap();
            let header = &checked.header;
            assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (9, 2, 40));
            assert_eq!((header.max_timestamp, header.record_count), (before.max_timestamp, 2));
            let read = |header, bytes| -> Vec<records::Record> {
                records::records(header, bytes, 1 << 20).unwrap().map(Result::unwrap).collect()
            };
            assert_eq!(read(header, &checked.bytes), read(&before, &batch));
        }
    }

    #[test]
    fn compression_levels_of_the_topic_are_those_of_its_codec() {
        let mut records = BatchBuilder::new(Compression::None);
        for n in 0..3_000u32 {
            records.add(None, Some(format!("order-{}", n * n % 997).as_bytes()), NOW_MS, &[]);
        }
        let batch = records.build();
        for (codec, low, high) in
            [(TopicCompression::Gzip, 1, 9), (TopicCompression::Lz4, 1, 12), (TopicCompression::Zstd, -7, 19)]
        {
            let bytes = |level: i32| {
                let config = TopicConfig {
                    compression: codec,
                    gzip_level: level,
                    lz4_level: level,
                    zstd_level: level,
                    ..TopicConfig::default()
                };
                check(Some(batch.clone()), &BatchRules::of_topic(&config, 13, NOW_MS, false)).unwrap().bytes.len()
            };
            assert!(bytes(high) < bytes(low), "{codec:?}");
        }
    }

    #[test]
    fn a_compression_bomb_is_refused_where_records_are_looked_at() {
        let mut builder = BatchBuilder::new(Compression::Zstd);
        builder.add(Some(b"k"), Some(&vec![0; 100_000]), NOW_MS, &[]);
        let rules = BatchRules { compacted: true, decompressed_bytes_max: 50_000, ..rules() };
        assert!(matches!(
            refused(builder.build(), &rules),
            InvalidBatch::Record { error: RecordsError::TooLarge { .. }, .. }
        ));
    }
}
