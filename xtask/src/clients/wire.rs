//! What the broker itself says, asked for over a plain socket with no client in between: the codecs of the batches that it
//! serves, how many records a partition has, of which protocol its groups are.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

const ANSWER_MAX: Duration = Duration::from_secs(20);
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Of a partition's log, from its start, that is looked at.
const LOOK_BYTES: i32 = 1 << 20;

/// A partition as a fetch from offset 0 shows it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Look {
    pub high_watermark: i64,
    /// Bytes of batches by the codec that their attributes name.
    pub codecs: BTreeMap<&'static str, u64>,
}

/// The first batches of a partition.
pub fn look(bootstrap: &str, topic: &str, partition: i32) -> anyhow::Result<Look> {
    let mut body = Vec::new();
    body.extend((-1i32).to_be_bytes()); // replica id
    body.extend(500i32.to_be_bytes()); // longest wait, ms
    body.extend(1i32.to_be_bytes()); // least bytes
    body.extend(LOOK_BYTES.to_be_bytes());
    body.push(0); // isolation: read uncommitted
    body.extend(1i32.to_be_bytes());
    body.extend(string(topic)?);
    body.extend(1i32.to_be_bytes());
    body.extend(partition.to_be_bytes());
    body.extend(0i64.to_be_bytes());
    body.extend(LOOK_BYTES.to_be_bytes());
    let answer = ask(bootstrap, 1, 4, &body)?;
    fetched(&mut Bytes(&answer)).with_context(|| format!("fetch {topic} {partition}"))
}

fn fetched(answer: &mut Bytes<'_>) -> anyhow::Result<Look> {
    answer.i32()?; // throttle time
    ensure!(answer.i32()? == 1, "answers for one topic");
    let name_bytes = usize::try_from(answer.i16()?)?;
    answer.take(name_bytes)?;
    ensure!(answer.i32()? == 1, "answers for one partition");
    answer.i32()?; // partition
    let error = answer.i16()?;
    ensure!(error == 0, "error {error}");
    let high_watermark = answer.i64()?;
    answer.i64()?; // last stable offset
    for _ in 0..answer.i32()? {
        answer.take(16)?; // an aborted transaction
    }
    let bytes = usize::try_from(answer.i32()?).unwrap_or(0);
    Ok(Look { high_watermark, codecs: codecs(answer.take(bytes)?)? })
}

/// Bytes of batches by codec; the last batch may be cut off.
fn codecs(records: &[u8]) -> anyhow::Result<BTreeMap<&'static str, u64>> {
    const BEFORE_LENGTH: usize = 8;
    const BEFORE_ATTRIBUTES: usize = 21;
    let mut found = BTreeMap::new();
    let mut rest = records;
    while rest.len() >= BEFORE_ATTRIBUTES + 2 {
        let mut batch = Bytes(rest);
        batch.take(BEFORE_LENGTH)?;
        let length = usize::try_from(batch.i32()?)? + BEFORE_LENGTH + 4;
        batch.take(BEFORE_ATTRIBUTES - BEFORE_LENGTH - 4)?;
        let codec = match batch.i16()? & 7 {
            0 => "none",
            1 => "gzip",
            2 => "snappy",
            3 => "lz4",
            4 => "zstd",
            other => bail!("codec {other}"),
        };
        *found.entry(codec).or_default() += length as u64;
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(found)
}

/// Most bytes that each of the first `partitions` partitions serves are of this codec, and none of another one. A client may
/// leave a batch alone that does not get smaller.
pub fn expect_codec(bootstrap: &str, topic: &str, partitions: i32, codec: &str) -> anyhow::Result<()> {
    for partition in 0..partitions {
        let look = look(bootstrap, topic, partition)?;
        judge(&look.codecs, codec).with_context(|| format!("{topic} {partition}"))?;
    }
    Ok(())
}

fn judge(codecs: &BTreeMap<&'static str, u64>, expected: &str) -> anyhow::Result<()> {
    let all: u64 = codecs.values().sum();
    let right = codecs.get(expected).copied().unwrap_or(0);
    let foreign = codecs.keys().any(|codec| *codec != expected && *codec != "none");
    ensure!(right * 2 > all && !foreign, "batches in {expected} expected, bytes served by codec: {codecs:?}");
    Ok(())
}

/// Group and its protocol, `classic` or `consumer`.
pub fn groups(bootstrap: &str) -> anyhow::Result<Vec<(String, String)>> {
    // Tagged fields of the header; no filter by state, none by type; tagged fields.
    let answer = ask(bootstrap, 16, 5, &[0, 1, 1, 0])?;
    listed(&mut Bytes(&answer)).context("list groups")
}

fn listed(answer: &mut Bytes<'_>) -> anyhow::Result<Vec<(String, String)>> {
    answer.tags()?; // of the header
    answer.i32()?; // throttle time
    let error = answer.i16()?;
    ensure!(error == 0, "error {error}");
    let mut groups = Vec::new();
    for _ in 1..answer.uvarint()? {
        let name = answer.compact_string()?;
        answer.compact_string()?; // of the members' embedded protocol
        answer.compact_string()?; // state
        groups.push((name, answer.compact_string()?.to_lowercase()));
        answer.tags()?;
    }
    Ok(groups)
}

/// Sends one request and gives what follows the correlation id of the answer.
fn ask(bootstrap: &str, key: i16, version: i16, body: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut request = Vec::new();
    request.extend(key.to_be_bytes());
    request.extend(version.to_be_bytes());
    request.extend(1i32.to_be_bytes());
    request.extend((-1i16).to_be_bytes()); // no client id
    request.extend(body);
    let mut stream = TcpStream::connect(bootstrap)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.write_all(&i32::try_from(request.len())?.to_be_bytes())?;
    stream.write_all(&request)?;
    let mut head = [0; 8];
    stream.read_exact(&mut head)?;
    let length = usize::try_from(Bytes(&head).i32()?)?;
    ensure!((4..ANSWER_BYTES_MAX).contains(&length), "an answer of {length} bytes");
    let mut answer = vec![0; length - 4];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn string(text: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = i16::try_from(text.len())?.to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    Ok(bytes)
}

/// What is left to read of an answer.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> anyhow::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).context("the answer is too short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn i16(&mut self) -> anyhow::Result<i16> {
        Ok(i16::from_be_bytes(self.take(2)?.try_into()?))
    }

    fn i32(&mut self) -> anyhow::Result<i32> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into()?))
    }

    fn i64(&mut self) -> anyhow::Result<i64> {
        Ok(i64::from_be_bytes(self.take(8)?.try_into()?))
    }

    fn uvarint(&mut self) -> anyhow::Result<usize> {
        let mut value = 0;
        for shift in (0..32).step_by(7) {
            let byte = self.take(1)?[0];
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        bail!("a length without end")
    }

    fn compact_string(&mut self) -> anyhow::Result<String> {
        let length = self.uvarint()?.saturating_sub(1);
        Ok(String::from_utf8(self.take(length)?.to_vec())?)
    }

    fn tags(&mut self) -> anyhow::Result<()> {
        for _ in 0..self.uvarint()? {
            self.uvarint()?;
            let length = self.uvarint()?;
            self.take(length)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch as far as it is looked at: `length` bytes after the length field.
    fn batch(attributes: i16, length: usize) -> Vec<u8> {
        let mut batch = vec![0; 8 + 4 + length];
        batch[8..12].copy_from_slice(&(length as i32).to_be_bytes());
        batch[21..23].copy_from_slice(&attributes.to_be_bytes());
        batch
    }

    #[test]
    fn bytes_are_counted_by_the_codec_of_their_batch_up_to_one_that_is_cut_off() {
        let mut records = [batch(1, 100), batch(0x10 | 1, 88), batch(0, 61)].concat();
        records.extend(&batch(4, 500)[..40]);
        let expected = BTreeMap::from([("gzip", 212), ("none", 73), ("zstd", 512)]);
        assert_eq!(codecs(&records).unwrap(), expected);
        assert!(codecs(&batch(7, 50)).is_err());
    }

    #[test]
    fn batches_in_another_codec_or_in_none_are_noticed() {
        assert!(judge(&BTreeMap::from([("gzip", 1_000), ("none", 100)]), "gzip").is_ok());
        assert!(judge(&BTreeMap::from([("none", 1_000)]), "none").is_ok());
        for wrong in [&[("none", 1_000)][..], &[("gzip", 100), ("none", 1_000)], &[("gzip", 900), ("lz4", 1)], &[]] {
            assert!(judge(&wrong.iter().copied().collect(), "gzip").is_err(), "{wrong:?}");
        }
        assert!(judge(&BTreeMap::from([("gzip", 1_000)]), "none").is_err());
    }

    #[test]
    fn a_fetched_partition_and_listed_groups_are_read() {
        let mut answer = vec![0; 4];
        answer.extend([0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        answer.extend(17i64.to_be_bytes());
        answer.extend(17i64.to_be_bytes());
        answer.extend((-1i32).to_be_bytes());
        let records = batch(2, 88);
        answer.extend((records.len() as i32).to_be_bytes());
        answer.extend(&records);
        let look = fetched(&mut Bytes(&answer)).unwrap();
        assert_eq!(look, Look { high_watermark: 17, codecs: BTreeMap::from([("snappy", 100)]) });
        assert!(fetched(&mut Bytes(&answer[..20])).is_err());

        let answer = b"\0\0\0\0\0\0\0\x02\x02g\x09consumer\x06Empty\x09Consumer\0\0";
        assert_eq!(listed(&mut Bytes(answer)).unwrap(), [("g".to_owned(), "consumer".to_owned())]);
    }
}
