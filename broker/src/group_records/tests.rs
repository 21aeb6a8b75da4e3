//! Golden bytes were written by Kafka 4.3.1's own classes (`kafka-group-coordinator`).

use super::*;

#[rustfmt::skip]
mod golden {
    pub(super) const OFFSET_KEY: &str = "0001000a6f72646572732d61707000066f726465727300000007";
    pub(super) const OFFSET_VALUE_V4: &str = "00040000011f71fb04cb00000005046ec3a90000018bcfe568000100100102030405060708090a0b0c0d0e0f10";
    pub(super) const OFFSET_VALUE_V4_NO_TOPIC_ID: &str = "00040000011f71fb04cb00000005046ec3a90000018bcfe5680000";
    pub(super) const OFFSET_VALUE_V3: &str = "00030000011f71fb04cb0000000500036ec3a90000018bcfe56800";
    pub(super) const OFFSET_VALUE_V2: &str = "0002000000000000002a00016d0000018bcfe56800";
    pub(super) const OFFSET_VALUE_V1: &str = "0001000000000000002a00016d0000018bcfe568000000018bcfe6b980";
    pub(super) const OFFSET_VALUE_V0: &str = "0000000000000000002a00016d0000018bcfe56800";
    pub(super) const GROUP_VALUE_V0: &str = "00000008636f6e73756d657200000003000572616e676500036d2d310000000200036d2d31000163000a2f3132372e302e302e310000afc80000000300010200000002030400036d2d32000163000a2f3132372e302e302e31000027100000000000000000";
    pub(super) const GROUP_VALUE_V1: &str = "00010008636f6e73756d657200000003000572616e676500036d2d310000000200036d2d31000163000a2f3132372e302e302e31000493e00000afc80000000300010200000002030400036d2d32000163000a2f3132372e302e302e310000ea60000027100000000000000000";
    pub(super) const GROUP_VALUE_V2: &str = "00020008636f6e73756d657200000003000572616e676500036d2d310000018bcfe5687b0000000200036d2d31000163000a2f3132372e302e302e31000493e00000afc80000000300010200000002030400036d2d32000163000a2f3132372e302e302e310000ea60000027100000000000000000";
    pub(super) const GROUP_VALUE_V3: &str = "00030008636f6e73756d657200000003000572616e676500036d2d310000018bcfe5687b0000000200036d2d310003692d31000163000a2f3132372e302e302e31000493e00000afc80000000300010200000002030400036d2d32ffff000163000a2f3132372e302e302e310000ea60000027100000000000000000";
    pub(super) const GROUP_VALUE_V4: &str = "000409636f6e73756d6572000000030672616e6765046d2d310000018bcfe5687b03046d2d3104692d3102630b2f3132372e302e302e31000493e00000afc80400010203030400046d2d320002630b2f3132372e302e302e310000ea600000271001010000";
    pub(super) const GROUP_VALUE_EMPTY: &str = "0003000000000000ffffffffffffffffffffffff00000000";
    pub(super) const GROUP_KEY: &str = "0002000a6f72646572732d617070";
}

fn bytes(hex: &str) -> Bytes {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap()).collect()
}

fn offset_key() -> OffsetKey {
    OffsetKey { group: "orders-app".into(), topic: "orders".into(), partition: 7 }
}

fn offset_value() -> OffsetValue {
    OffsetValue {
        offset: 1_234_567_890_123,
        leader_epoch: 5,
        metadata: "n\u{e9}".into(),
        commit_timestamp_ms: 1_700_000_000_000,
        expire_timestamp_ms: None,
        topic_id: Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
    }
}

fn old_offset_value(expire_timestamp_ms: Option<i64>) -> OffsetValue {
    OffsetValue {
        offset: 42,
        leader_epoch: -1,
        metadata: "m".into(),
        commit_timestamp_ms: 1_700_000_000_000,
        expire_timestamp_ms,
        topic_id: Uuid::nil(),
    }
}

/// The group of the golden bytes, as much of it as version `version` can say.
fn group_value(version: i16) -> GroupValue {
    let member =
        |id: &str, instance: Option<&str>, rebalance, session, subscription: &[u8], assignment: &[u8]| MemberValue {
            member_id: id.into(),
            group_instance_id: instance.filter(|_| version >= 3).map(Into::into),
            client_id: "c".into(),
            client_host: "/127.0.0.1".into(),
            rebalance_timeout_ms: if version >= 1 { rebalance } else { session },
            session_timeout_ms: session,
            subscription: Bytes::copy_from_slice(subscription),
            assignment: Bytes::copy_from_slice(assignment),
        };
    GroupValue {
        protocol_type: "consumer".into(),
        generation: 3,
        protocol: Some("range".into()),
        leader: Some("m-1".into()),
        state_timestamp_ms: (version >= 2).then_some(1_700_000_000_123),
        members: vec![
            member("m-1", Some("i-1"), 300_000, 45_000, &[0, 1, 2], &[3, 4]),
            member("m-2", None, 60_000, 10_000, &[], &[]),
        ],
    }
}

fn decode_offset(value: &str) -> OffsetValue {
    match decode(encode_offset_key(&offset_key()), Some(bytes(value))).unwrap() {
        GroupRecord::Offset { key, value: Some(value) } => {
            assert_eq!(key, offset_key());
            value
        }
        other => panic!("{other:?}"),
    }
}

fn decode_group(value: &str) -> GroupValue {
    match decode(encode_group_key("orders-app"), Some(bytes(value))).unwrap() {
        GroupRecord::Group { group, value: Some(value) } if group == "orders-app" => value,
        other => panic!("{other:?}"),
    }
}

#[test]
fn keys_and_values_are_written_as_kafka_writes_them() {
    assert_eq!(encode_offset_key(&offset_key()), bytes(golden::OFFSET_KEY));
    assert_eq!(encode_group_key("orders-app"), bytes(golden::GROUP_KEY));
    assert_eq!(encode_offset_value(&offset_value()), bytes(golden::OFFSET_VALUE_V4));
    let without_id = OffsetValue { topic_id: Uuid::nil(), ..offset_value() };
    assert_eq!(encode_offset_value(&without_id), bytes(golden::OFFSET_VALUE_V4_NO_TOPIC_ID));
    let with_expiry = old_offset_value(Some(1_700_000_086_400));
    assert_eq!(encode_offset_value(&with_expiry), bytes(golden::OFFSET_VALUE_V1));
    assert_eq!(encode_group_value(&group_value(3)), bytes(golden::GROUP_VALUE_V3));
}

#[test]
fn every_version_that_kafka_ever_wrote_is_read() {
    assert_eq!(decode_offset(golden::OFFSET_VALUE_V4), offset_value());
    let v3 = OffsetValue { topic_id: Uuid::nil(), ..offset_value() };
    assert_eq!(decode_offset(golden::OFFSET_VALUE_V4_NO_TOPIC_ID), v3);
    assert_eq!(decode_offset(golden::OFFSET_VALUE_V3), v3);
    assert_eq!(decode_offset(golden::OFFSET_VALUE_V2), old_offset_value(None));
    assert_eq!(decode_offset(golden::OFFSET_VALUE_V1), old_offset_value(Some(1_700_000_086_400)));
    assert_eq!(decode_offset(golden::OFFSET_VALUE_V0), old_offset_value(None));

    assert_eq!(decode_group(golden::GROUP_VALUE_V0), group_value(0));
    assert_eq!(decode_group(golden::GROUP_VALUE_V1), group_value(1));
    assert_eq!(decode_group(golden::GROUP_VALUE_V2), group_value(2));
    assert_eq!(decode_group(golden::GROUP_VALUE_V3), group_value(3));
    assert_eq!(decode_group(golden::GROUP_VALUE_V4), group_value(4));
    let empty = decode_group(golden::GROUP_VALUE_EMPTY);
    assert_eq!((empty.protocol, empty.leader, empty.state_timestamp_ms), (None, None, None));
}

#[test]
fn a_null_value_is_a_tombstone_and_an_old_offset_key_means_the_same() {
    let record = decode(encode_group_key("g"), None).unwrap();
    assert_eq!(record, GroupRecord::Group { group: "g".into(), value: None });
    let mut old_key = bytes(golden::OFFSET_KEY).to_vec();
    old_key[1] = 0;
    let record = decode(old_key.into(), None).unwrap();
    assert_eq!(record, GroupRecord::Offset { key: offset_key(), value: None });
}

#[test]
fn types_of_other_protocols_are_left_alone_and_unknown_versions_refused() {
    assert_eq!(decode(bytes("0009beef"), Some(bytes("0000"))), Ok(GroupRecord::Other(9)));
    let newer = decode(bytes(golden::GROUP_KEY), Some(bytes("0005")));
    assert_eq!(newer, Err(GroupRecordError::UnknownVersion { what: "the group value", version: 5 }));
    let newer = decode(bytes(golden::OFFSET_KEY), Some(bytes("0005")));
    assert_eq!(newer, Err(GroupRecordError::UnknownVersion { what: "the offset value", version: 5 }));
}

#[test]
fn a_damaged_record_is_an_error_and_never_a_panic() {
    for value in [golden::OFFSET_VALUE_V4, golden::OFFSET_VALUE_V1] {
        for length in 0..bytes(value).len() {
            decode(bytes(golden::OFFSET_KEY), Some(bytes(value).slice(..length))).unwrap_err();
        }
    }
    for value in [golden::GROUP_VALUE_V0, golden::GROUP_VALUE_V3, golden::GROUP_VALUE_V4] {
        let whole = bytes(value);
        for length in 0..whole.len() {
            decode(bytes(golden::GROUP_KEY), Some(whole.slice(..length))).unwrap_err();
        }
        for at in 0..whole.len() {
            let mut flipped = whole.to_vec();
            flipped[at] ^= 0xff;
            let _ = decode(bytes(golden::GROUP_KEY), Some(flipped.into()));
        }
    }
}
