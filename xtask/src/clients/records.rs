//! The records of a run, known before they are sent, and the comparison with what came back.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};

/// Distinct keys of a run.
const KEYS: usize = 1_000;

/// Key and value of record `number`. The value begins with the number and is different for each record.
pub fn record(number: usize) -> (String, String) {
    let key = format!("key-{:03}", number.wrapping_mul(7_919) % KEYS);
    let mixed = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (
        key,
        format!(
            "{number:07} {mixed:016x} what a codec can shorten: abcabcabcabcabcabcabc {:016x}",
            mixed.rotate_left(29)
        ),
    )
}

/// Lines of `key TAB value`, as the console producers read them.
pub fn lines(count: usize) -> Vec<u8> {
    let mut lines = String::with_capacity(count * 110);
    for number in 0..count {
        let (key, value) = record(number);
        lines += &format!("{key}\t{value}\n");
    }
    lines.into_bytes()
}

/// A consumed record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub partition: i32,
    pub offset: i64,
    pub key: String,
    pub value: String,
}

impl Seen {
    /// From `partition TAB offset TAB key TAB value`; kafka-console-consumer writes words before the first two.
    pub fn parse(line: &str) -> anyhow::Result<Self> {
        let mut parts = line.splitn(4, '\t');
        let mut next = || parts.next().with_context(|| format!("not a record: {line:?}"));
        let partition = next()?.trim_start_matches("Partition:").parse()?;
        let offset = next()?.trim_start_matches("Offset:").parse()?;
        Ok(Self { partition, offset, key: next()?.to_owned(), value: next()?.to_owned() })
    }

    pub fn parse_all(output: &str) -> anyhow::Result<Vec<Self>> {
        output.lines().map(Self::parse).collect()
    }
}

/// All of `0..count` came back: once each, with their keys and values, in the order sent within each partition, at
/// offsets without holes, a key always in the same partition.
pub fn compare(seen: &[Seen], count: usize) -> anyhow::Result<String> {
    let mut found = vec![false; count];
    let mut partition_of_key: BTreeMap<&str, i32> = BTreeMap::new();
    let mut partitions: BTreeMap<i32, (i64, usize)> = BTreeMap::new();
    for record in seen {
        let number: usize =
            record.value.get(..7).and_then(|number| number.parse().ok()).context("a value without number")?;
        ensure!(number < count, "record {number} was never sent");
        let (key, value) = self::record(number);
        ensure!(record.key == key && record.value == value, "record {number} came back as {record:?}");
        ensure!(!found[number], "record {number} came back twice");
        found[number] = true;
        let home = *partition_of_key.entry(record.key.as_str()).or_insert(record.partition);
        ensure!(home == record.partition, "key {} is in partitions {home} and {}", record.key, record.partition);
        match partitions.get_mut(&record.partition) {
            None => {
                ensure!(record.offset == 0, "partition {} begins at offset {}", record.partition, record.offset);
                partitions.insert(record.partition, (0, number));
            }
            Some((offset, last)) => {
                ensure!(
                    record.offset == *offset + 1,
                    "offset {} of partition {} follows {offset}",
                    record.offset,
                    record.partition
                );
                ensure!(number > *last, "record {number} came after {last} in partition {}", record.partition);
                (*offset, *last) = (record.offset, number);
            }
        }
    }
    let missing = found.iter().filter(|found| !**found).count();
    ensure!(
        missing == 0,
        "{missing} of {count} records are missing, the first is {:?}",
        found.iter().position(|found| !found)
    );
    Ok(format!("{count} records equal, in order, {} partitions", partitions.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(count: usize) -> Vec<Seen> {
        let mut ends = [0; 3];
        (0..count)
            .map(|number| {
                let (key, value) = record(number);
                let partition = key.bytes().map(usize::from).sum::<usize>() % 3;
                ends[partition] += 1;
                Seen { partition: partition as i32, offset: ends[partition] - 1, key, value }
            })
            .collect()
    }

    #[test]
    fn what_was_sent_compares_equal_in_any_order_of_partitions() {
        let mut seen = sent(5_000);
        seen.sort_by_key(|record| (record.partition, record.offset));
        assert!(compare(&seen, 5_000).unwrap().contains("3 partitions"));
    }

    #[test]
    fn each_kind_of_loss_is_noticed() {
        type Damage = fn(&mut Vec<Seen>);
        let damages: [(&str, Damage); 8] = [
            ("missing", |seen| {
                let last = seen.len() - 1;
                seen.remove(last);
            }),
            ("hole", |seen| {
                seen.remove(100);
            }),
            ("twice", |seen| seen.push(seen[7].clone())),
            ("swapped values", |seen| {
                let value = seen[10].value.clone();
                seen[10].value = std::mem::replace(&mut seen[11].value, value);
            }),
            ("damaged", |seen| seen[50].value.push('x')),
            ("wrong key", |seen| seen[50].key = "key-1000".into()),
            ("order", |seen| seen.reverse()),
            ("foreign", |seen| seen[3].value = record(9_999_999).1),
        ];
        for (name, damage) in damages {
            let mut seen = sent(1_000);
            damage(&mut seen);
            assert!(compare(&seen, 1_000).is_err(), "{name} was not noticed");
        }
    }

    #[test]
    fn lines_of_both_consumers_are_read() {
        let expected = Seen { partition: 2, offset: 17, key: "k".into(), value: "v with\ttab".into() };
        assert_eq!(Seen::parse("Partition:2\tOffset:17\tk\tv with\ttab").unwrap(), expected);
        assert_eq!(Seen::parse("2\t17\tk\tv with\ttab").unwrap(), expected);
        assert!(Seen::parse("Processed a total of 3 messages").is_err());
    }
}
