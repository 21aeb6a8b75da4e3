//! Golden bytes were written by Kafka 4.3.1's own classes (`kafka-group-coordinator`).

use super::super::{GroupRecord, decode};
use super::*;

#[rustfmt::skip]
mod golden {
    pub(super) const EPOCH_KEY: &str = "00030003617070";
    pub(super) const EPOCH_VALUE: &str = "0000000000070100081122334455667788";
    pub(super) const EPOCH_VALUE_NO_HASH: &str = "00000000000700";
    pub(super) const MEMBER_KEY: &str = "0005000361707000036d2d31";
    pub(super) const MEMBER_VALUE: &str = "000004692d31027202630b2f3132372e302e302e31030261026204782e2a000075300672616e676500";
    pub(super) const MEMBER_VALUE_NULLS: &str = "0000000002630b2f3132372e302e302e310100ffffffff0000";
    pub(super) const MEMBER_VALUE_CLASSIC: &str = "000004692d31027202630b2f3132372e302e302e31030261026204782e2a000075300672616e6765010012010000afc8020672616e6765040102030000";
    pub(super) const TARGET_EPOCH_KEY: &str = "00060003617070";
    pub(super) const TARGET_EPOCH_VALUE: &str = "0000000000070100080000018bcfe56800";
    pub(super) const TARGET_KEY: &str = "0007000361707000036d2d31";
    pub(super) const TARGET_VALUE: &str = "0000030102030405060708090a0b0c0d0e0f10030000000000000005001112131415161718191a1b1c1d1e1f2002000000010000";
    pub(super) const CURRENT_KEY: &str = "0008000361707000036d2d31";
    pub(super) const CURRENT_VALUE: &str = "0000000000060000000501020102030405060708090a0b0c0d0e0f10030000000000000005010009030000000300000004021112131415161718191a1b1c1d1e1f200200000001010005020000000200";
    pub(super) const CURRENT_VALUE_OLD: &str = "0000000000060000000501020102030405060708090a0b0c0d0e0f1003000000000000000501000100021112131415161718191a1b1c1d1e1f2002000000010100010000";
    pub(super) const REGEX_KEY: &str = "001000036170700003782e2a";
    pub(super) const REGEX_VALUE: &str = "00000303786103786200000000000000630000018bcfe5680000";
}

fn bytes(hex: &str) -> Bytes {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap()).collect()
}

fn topic(first: u8) -> Uuid {
    Uuid::from_bytes(std::array::from_fn(|at| first + at as u8))
}

fn member(classic: Option<ClassicMetadata>) -> MemberMetadata {
    MemberMetadata {
        instance_id: Some("i-1".into()),
        rack_id: Some("r".into()),
        client_id: "c".into(),
        client_host: "/127.0.0.1".into(),
        topic_names: ["a".to_owned(), "b".to_owned()].into(),
        topic_regex: Some("x.*".into()),
        rebalance_timeout_ms: 30_000,
        server_assignor: Some("range".into()),
        classic,
    }
}

fn classic() -> ClassicMetadata {
    ClassicMetadata { session_timeout_ms: 45_000, protocols: vec![("range".into(), Bytes::from_static(&[1, 2, 3]))] }
}

fn current(epochs: [i32; 3]) -> CurrentAssignment {
    CurrentAssignment {
        epoch: 6,
        previous_epoch: 5,
        state: MemberState::UnrevokedPartitions,
        assigned: [(topic(0x01), [(0, epochs[0]), (5, epochs[1])].into())].into(),
        revoking: [(topic(0x11), [(1, epochs[2])].into())].into(),
    }
}

/// Record, and Kafka's key and value of it.
fn records() -> Vec<(ConsumerRecord, &'static str, &'static str)> {
    use golden::*;
    let nulls = MemberMetadata {
        client_id: "c".into(),
        client_host: "/127.0.0.1".into(),
        rebalance_timeout_ms: -1,
        ..MemberMetadata::default()
    };
    let target = [(topic(0x01), [0, 5].into()), (topic(0x11), [1].into())].into();
    let resolved = ResolvedRegex {
        topics: ["xa".to_owned(), "xb".to_owned()].into(),
        version: 99,
        timestamp_ms: 1_700_000_000_000,
    };
    let hashed = EpochValue { epoch: 7, metadata_hash: 0x1122_3344_5566_7788 };
    let m = || "m-1".to_owned();
    vec![
        (ConsumerRecord::Epoch(Some(hashed)), EPOCH_KEY, EPOCH_VALUE),
        (ConsumerRecord::Epoch(Some(EpochValue { epoch: 7, metadata_hash: 0 })), EPOCH_KEY, EPOCH_VALUE_NO_HASH),
        (ConsumerRecord::Member(m(), Some(member(None))), MEMBER_KEY, MEMBER_VALUE),
        (ConsumerRecord::Member(m(), Some(nulls)), MEMBER_KEY, MEMBER_VALUE_NULLS),
        (ConsumerRecord::Member(m(), Some(member(Some(classic())))), MEMBER_KEY, MEMBER_VALUE_CLASSIC),
        (
            ConsumerRecord::TargetEpoch(Some(TargetEpochValue { epoch: 7, timestamp_ms: 1_700_000_000_000 })),
            TARGET_EPOCH_KEY,
            TARGET_EPOCH_VALUE,
        ),
        (ConsumerRecord::Target(m(), Some(target)), TARGET_KEY, TARGET_VALUE),
        (ConsumerRecord::Current(m(), Some(current([3, 4, 2]))), CURRENT_KEY, CURRENT_VALUE),
        (ConsumerRecord::Regex("x.*".into(), Some(resolved)), REGEX_KEY, REGEX_VALUE),
    ]
}

#[test]
fn records_are_written_and_read_as_kafka_does() {
    for (record, key, value) in records() {
        assert_eq!(encode_key("app", &record), bytes(key), "{record:?}");
        assert_eq!(encode_value(&record), Some(bytes(value)), "{record:?}");
        let read = decode(bytes(key), Some(bytes(value)));
        assert_eq!(read, Ok(GroupRecord::Consumer { group: "app".into(), record }));
    }
}

#[test]
fn partitions_without_assignment_epochs_count_from_the_members_epoch() {
    let read = decode(bytes(golden::CURRENT_KEY), Some(bytes(golden::CURRENT_VALUE_OLD)));
    let record = ConsumerRecord::Current("m-1".into(), Some(current([6, 6, 6])));
    assert_eq!(read, Ok(GroupRecord::Consumer { group: "app".into(), record }));
}

#[test]
fn a_null_value_is_a_tombstone() {
    let read = decode(bytes(golden::MEMBER_KEY), None);
    let record = ConsumerRecord::Member("m-1".into(), None);
    assert_eq!(encode_value(&record), None);
    assert_eq!(read, Ok(GroupRecord::Consumer { group: "app".into(), record }));
}

#[test]
fn a_damaged_record_is_an_error_and_never_a_panic() {
    for (_, key, value) in records() {
        let (key, value) = (bytes(key), bytes(value));
        for length in 0..value.len() {
            decode(key.clone(), Some(value.slice(..length))).unwrap_err();
        }
        for at in 0..value.len() {
            for flip in [0xff, 0x80, 0x01] {
                let mut flipped = value.to_vec();
                flipped[at] ^= flip;
                let _ = decode(key.clone(), Some(flipped.into()));
            }
        }
        for length in 2..key.len() {
            decode(key.slice(..length), Some(value.clone())).unwrap_err();
        }
    }
}
