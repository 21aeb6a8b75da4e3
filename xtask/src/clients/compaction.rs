//! A compacted topic: what log compaction leaves, at which offsets, in every codec, and what it refuses.
//!
//! Every partition is written in a codec of its own: many values of few keys, deletions among them, then, after a while, one
//! record that closes what Kafka calls the active segment. What must be left is computed here; both brokers have to leave just that.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::codecs::{KCAT_FORMAT, console_consumer};
use super::records::Seen;
use super::session::{Session, wait_until};

const TOPIC: &str = "compacted";
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
/// Of each partition.
const RECORDS: usize = 4_000;
const KEYS: usize = 300;
/// The active segment is closed by a record that comes later than this.
const SEGMENT_MS: u64 = 1_000;
const CLEANED_WITHIN: Duration = Duration::from_secs(60);

pub fn run(session: &mut Session<'_>) {
    let expected: Vec<Seen> = (0..CODECS.len()).flat_map(|partition| left(partition as i32)).collect();
    session.check("kafka-topics", "creates a compacted topic", create);
    session.check("kcat", format!("{RECORDS} records of {KEYS} keys in each codec"), produce);
    session.check("kcat", "a record without a key is refused", refused_without_key);
    if session.broker().can_restart() {
        // What was just written may come out of memory.
        session.check("(broker)", "ends on SIGTERM and starts again on its data", |s| {
            s.broker_mut().restart()?;
            Ok("port open again".to_owned())
        });
    }
    session.check("kcat", "reads the newest of each key, at its offset", |s| {
        let mut last = None;
        let cleaned = wait_until("the log is compacted", CLEANED_WITHIN, || {
            last = Some(consume(s));
            matches!(&last, Some(Ok(seen)) if *seen == expected).then_some(())
        });
        let seen = last.context("nothing was read")??;
        cleaned.with_context(|| difference(&seen, &expected))?;
        Ok(format!("{} of {} records are left", expected.len(), CODECS.len() * (RECORDS + 1)))
    });
    session.check("kafka-console-consumer", "reads the same", |s| {
        let mut seen = console_consumer(s, TOPIC, expected.len(), &["--from-beginning"])?;
        seen.iter_mut().filter(|record| record.value == "null").for_each(|record| record.value = "NULL".to_owned());
        seen.sort_by_key(|record| (record.partition, record.offset));
        ensure!(seen == expected, "{}", difference(&seen, &expected));
        Ok(format!("{} records", seen.len()))
    });
}

/// Key and value of a record; no value deletes the key.
fn record(partition: i32, number: usize) -> (String, Option<String>) {
    let mixed = (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(partition.unsigned_abs());
    let key = format!("key-{}", mixed as usize % KEYS);
    (key, (!mixed.is_multiple_of(7)).then(|| format!("{number} {mixed:x} abcabcabcabcabcabc")))
}

/// What is left of a partition.
fn left(partition: i32) -> Vec<Seen> {
    let mut newest = BTreeMap::new();
    for number in 0..RECORDS {
        let (key, value) = record(partition, number);
        newest.insert(key, (number as i64, value));
    }
    newest.insert("end".to_owned(), (RECORDS as i64, Some("end".to_owned())));
    let seen = |(key, (offset, value)): (String, (i64, Option<String>))| Seen {
        partition,
        offset,
        key,
        value: value.unwrap_or_else(|| "NULL".to_owned()),
    };
    let mut left: Vec<Seen> = newest.into_iter().map(seen).collect();
    left.sort_by_key(|record| record.offset);
    left
}

fn create(s: &mut Session<'_>) -> anyhow::Result<String> {
    let partitions = CODECS.len().to_string();
    let mut arguments = vec!["--create", "--topic", TOPIC, "--partitions", &partitions];
    let segment = format!("segment.ms={SEGMENT_MS}");
    for config in ["cleanup.policy=compact", "min.cleanable.dirty.ratio=0.01", &segment] {
        arguments.extend(["--config", config]);
    }
    s.java("org.apache.kafka.tools.TopicCommand", &arguments)
}

fn produce(s: &mut Session<'_>) -> anyhow::Result<String> {
    let send = |partition: usize, codec: &str, lines: String| {
        let partition = partition.to_string();
        let arguments = ["-P", "-t", TOPIC, "-p", &partition, "-z", codec, "-K", "\t", "-Z"];
        s.kcat_with_input(&[&arguments[..], &["-X", "enable.idempotence=true"]].concat(), lines.into_bytes())
    };
    for (partition, codec) in CODECS.into_iter().enumerate() {
        let line = |number| {
            let (key, value) = record(partition as i32, number);
            format!("{key}\t{}\n", value.unwrap_or_default())
        };
        send(partition, codec, (0..RECORDS).map(line).collect())?;
    }
    std::thread::sleep(Duration::from_millis(SEGMENT_MS + 100));
    for (partition, codec) in CODECS.into_iter().enumerate() {
        send(partition, codec, "end\tend\n".to_owned())?;
    }
    Ok("acks=all, idempotent".to_owned())
}

fn refused_without_key(s: &mut Session<'_>) -> anyhow::Result<String> {
    let sent = s.kcat_with_input(&["-P", "-t", TOPIC, "-p", "0"], b"no key\n".to_vec());
    let error = format!("{:#}", sent.err().context("it was taken")?);
    ensure!(error.contains("failed to validate record"), "{error}");
    Ok("INVALID_RECORD".to_owned())
}

fn consume(s: &Session<'_>) -> anyhow::Result<Vec<Seen>> {
    let output = s.kcat(&["-C", "-t", TOPIC, "-e", "-q", "-Z", "-o", "beginning", "-f", KCAT_FORMAT])?;
    let mut seen = Seen::parse_all(&output)?;
    seen.sort_by_key(|record| (record.partition, record.offset));
    Ok(seen)
}

fn difference(seen: &[Seen], expected: &[Seen]) -> String {
    let extra = seen.iter().find(|record| !expected.contains(record));
    let missing = expected.iter().find(|record| !seen.contains(record));
    format!("{} records and not {}: not expected {extra:?}, missing {missing:?}", seen.len(), expected.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deletions_are_among_what_is_left_and_the_last_record_too() {
        let left = left(3);
        assert!(left.is_sorted_by_key(|record| record.offset));
        assert_eq!(left.last().map(|record| (record.offset, record.key.as_str())), Some((RECORDS as i64, "end")));
        let deleted = left.iter().filter(|record| record.value == "NULL").count();
        assert!(left.len() == KEYS + 1 && (10..KEYS / 2).contains(&deleted), "{} left, {deleted} deleted", left.len());
    }
}
