//! Reads partitions whole, from offset 0 to the high watermark, and trusts nothing: checksums, offsets and lengths are checked.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use seawall_protocol::records;

use super::ledger::ReadBack;
use super::wire::Wire;

/// Longest time without progress.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(20);
const DECOMPRESSED_BYTES_MAX: usize = 16 << 20;

/// Why a partition could not be read to its end; the text says where.
#[derive(Debug)]
pub enum ReadFailure {
    /// The broker's answer: a Kafka error code.
    Refused(String),
    /// Bytes that are no record batches, or not those that their checksum says.
    Corrupt(String),
    Other(String),
}

impl std::fmt::Display for ReadFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Refused(why) | Self::Corrupt(why) | Self::Other(why)) = self;
        f.write_str(why)
    }
}

pub fn read_topic(
    address: SocketAddr,
    topic: &str,
    partitions: i32,
) -> Result<HashMap<i32, Vec<ReadBack>>, ReadFailure> {
    (0..partitions).map(|partition| Ok((partition, read_partition(address, topic, partition)?))).collect()
}

pub fn read_partition(address: SocketAddr, topic: &str, partition: i32) -> Result<Vec<ReadBack>, ReadFailure> {
    let other = |error: std::io::Error| ReadFailure::Other(format!("partition {partition}: {error}"));
    let mut wire = Wire::connect(address).map_err(other)?;
    let end = wire.list_offset(topic, partition, -1).map_err(other)?;
    let mut read = Vec::new();
    let mut offset = 0;
    let mut progress = Instant::now();
    while offset < end {
        let bytes = match wire.fetch(topic, partition, offset).map_err(other)? {
            Ok(bytes) => bytes,
            Err(code) => {
                return Err(ReadFailure::Refused(format!("partition {partition} offset {offset}: error {code}")));
            }
        };
        let from = offset;
        let corrupt = |why: String| ReadFailure::Corrupt(format!("partition {partition} from {from}: {why}"));
        for (header, batch) in records::split_batches(bytes).map_err(|error| corrupt(error.to_string()))? {
            records::verify_crc(&batch).map_err(|error| corrupt(error.to_string()))?;
            for record in
                records::records(&header, &batch, DECOMPRESSED_BYTES_MAX).map_err(|e| corrupt(e.to_string()))?
            {
                let record = record.map_err(|error| corrupt(error.to_string()))?;
                if record.offset >= from {
                    read.push(ReadBack { offset: record.offset, value: record.value.unwrap_or_default().to_vec() });
                }
            }
            offset = offset.max(header.last_offset() + 1);
        }
        if offset > from {
            progress = Instant::now();
        } else if progress.elapsed() > PROGRESS_TIMEOUT {
            return Err(ReadFailure::Other(format!("partition {partition}: no batch at {offset}, the end is {end}")));
        }
    }
    Ok(read)
}
