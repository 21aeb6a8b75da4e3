//! What stands in a record: who sent it as which number, and when it was due.

/// Bytes of the stamp at the start of each record; the shortest record.
pub const STAMP_BYTES: usize = 32;

const MAGIC: u32 = u32::from_be_bytes(*b"SWQ1");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Tells the records of this run from those of others in the same topic.
    pub run: u64,
    /// Which connection sent it.
    pub connection: u32,
    /// Counted from 0 for each connection and partition.
    pub sequence: u64,
    /// When it was due, in nanoseconds since the run began.
    pub due_ns: u64,
}

impl Stamp {
    pub fn write(&self, record: &mut [u8]) {
        record[0..4].copy_from_slice(&MAGIC.to_be_bytes());
        record[4..8].copy_from_slice(&self.connection.to_be_bytes());
        record[8..16].copy_from_slice(&self.run.to_be_bytes());
        record[16..24].copy_from_slice(&self.sequence.to_be_bytes());
        record[24..32].copy_from_slice(&self.due_ns.to_be_bytes());
    }

    /// None for a record that is not one of ours.
    pub fn read(record: &[u8]) -> Option<Self> {
        let stamp: &[u8; STAMP_BYTES] = record.get(..STAMP_BYTES)?.try_into().ok()?;
        let u32_at = |at: usize| Some(u32::from_be_bytes(stamp[at..at + 4].try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_be_bytes(stamp[at..at + 8].try_into().ok()?));
        if u32_at(0)? != MAGIC {
            return None;
        }
        Some(Self { connection: u32_at(4)?, run: u64_at(8)?, sequence: u64_at(16)?, due_ns: u64_at(24)? })
    }
}

/// A record to be stamped: text of 64 symbols, which a codec can make about a quarter smaller.
pub fn template(bytes: usize, seed: u64) -> Vec<u8> {
    const SYMBOLS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut state = seed | 1;
    (0..bytes.max(STAMP_BYTES))
        .map(|_| {
            // xorshift
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            SYMBOLS[(state % 64) as usize]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_comes_back_and_foreign_records_are_known() {
        let mut record = template(100, 3);
        assert_eq!(Stamp::read(&record), None);
        let stamp = Stamp { run: 7, connection: 3, sequence: u64::MAX, due_ns: 12 };
        stamp.write(&mut record);
        assert_eq!(Stamp::read(&record), Some(stamp));
        assert_eq!(Stamp::read(&record[..31]), None);
    }
}
