//! Against the crate `kafka-protocol` (messages of Kafka 4.1), which reads the same definitions with other code: both
//! must see the same values in the same frame, and write the same bytes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use common::{Definitions, Shape, Source};
use kafka_protocol::messages as theirs;
use kafka_protocol::protocol::{Decodable, Encodable};
use seawall_protocol::messages as ours;
use seawall_protocol::{Decoder, Encoder, Message};

macro_rules! compare_all {
    ($definitions:ident, $compared:ident: $($message:ident)*) => {
        $($compared += compare::<ours::$message, theirs::$message>(&$definitions);)*
    };
}

#[test]
fn kafka_protocol_sees_the_same_values_and_writes_the_same_bytes() {
    let (definitions, mut compared) = (Definitions::load(), 0);
    compare_all!(definitions, compared:
        AddOffsetsToTxnRequest
        AddOffsetsToTxnResponse
        AddPartitionsToTxnRequest
        AddPartitionsToTxnResponse
        AddRaftVoterRequest
        AddRaftVoterResponse
        AlterClientQuotasRequest
        AlterClientQuotasResponse
        AlterConfigsRequest
        AlterConfigsResponse
        AlterPartitionReassignmentsRequest
        AlterPartitionReassignmentsResponse
        AlterReplicaLogDirsRequest
        AlterReplicaLogDirsResponse
        AlterShareGroupOffsetsRequest
        AlterShareGroupOffsetsResponse
        AlterUserScramCredentialsRequest
        AlterUserScramCredentialsResponse
        ApiVersionsRequest
        ApiVersionsResponse
        ConsumerGroupDescribeRequest
        ConsumerGroupDescribeResponse
        ConsumerGroupHeartbeatRequest
        ConsumerGroupHeartbeatResponse
        ConsumerProtocolAssignment
        ConsumerProtocolSubscription
        CreateAclsRequest
        CreateAclsResponse
        CreateDelegationTokenRequest
        CreateDelegationTokenResponse
        CreatePartitionsRequest
        CreatePartitionsResponse
        CreateTopicsRequest
        CreateTopicsResponse
        DeleteAclsRequest
        DeleteAclsResponse
        DeleteGroupsRequest
        DeleteGroupsResponse
        DeleteRecordsRequest
        DeleteRecordsResponse
        DeleteShareGroupOffsetsRequest
        DeleteShareGroupOffsetsResponse
        DeleteShareGroupStateRequest
        DeleteShareGroupStateResponse
        DeleteTopicsRequest
        DeleteTopicsResponse
        DescribeAclsRequest
        DescribeAclsResponse
        DescribeClientQuotasRequest
        DescribeClientQuotasResponse
        DescribeClusterRequest
        DescribeClusterResponse
        DescribeConfigsRequest
        DescribeConfigsResponse
        DescribeDelegationTokenRequest
        DescribeDelegationTokenResponse
        DescribeGroupsRequest
        DescribeGroupsResponse
        DescribeLogDirsRequest
        DescribeLogDirsResponse
        DescribeProducersRequest
        DescribeProducersResponse
        DescribeQuorumRequest
        DescribeQuorumResponse
        DescribeShareGroupOffsetsRequest
        DescribeShareGroupOffsetsResponse
        DescribeTopicPartitionsRequest
        DescribeTopicPartitionsResponse
        DescribeTransactionsRequest
        DescribeTransactionsResponse
        DescribeUserScramCredentialsRequest
        DescribeUserScramCredentialsResponse
        ElectLeadersRequest
        ElectLeadersResponse
        EndTxnRequest
        EndTxnResponse
        ExpireDelegationTokenRequest
        ExpireDelegationTokenResponse
        FetchRequest
        FetchResponse
        FindCoordinatorRequest
        FindCoordinatorResponse
        GetTelemetrySubscriptionsRequest
        GetTelemetrySubscriptionsResponse
        HeartbeatRequest
        HeartbeatResponse
        IncrementalAlterConfigsRequest
        IncrementalAlterConfigsResponse
        InitProducerIdRequest
        InitProducerIdResponse
        InitializeShareGroupStateRequest
        InitializeShareGroupStateResponse
        JoinGroupRequest
        JoinGroupResponse
        LeaveGroupRequest
        LeaveGroupResponse
        ListConfigResourcesRequest
        ListConfigResourcesResponse
        ListGroupsRequest
        ListGroupsResponse
        ListOffsetsRequest
        ListOffsetsResponse
        ListPartitionReassignmentsRequest
        ListPartitionReassignmentsResponse
        ListTransactionsRequest
        ListTransactionsResponse
        MetadataRequest
        MetadataResponse
        OffsetCommitRequest
        OffsetCommitResponse
        OffsetDeleteRequest
        OffsetDeleteResponse
        OffsetFetchRequest
        OffsetFetchResponse
        OffsetForLeaderEpochRequest
        OffsetForLeaderEpochResponse
        ProduceRequest
        ProduceResponse
        PushTelemetryRequest
        PushTelemetryResponse
        ReadShareGroupStateRequest
        ReadShareGroupStateResponse
        ReadShareGroupStateSummaryRequest
        ReadShareGroupStateSummaryResponse
        RemoveRaftVoterRequest
        RemoveRaftVoterResponse
        RenewDelegationTokenRequest
        RenewDelegationTokenResponse
        ResponseHeader
        SaslAuthenticateRequest
        SaslAuthenticateResponse
        SaslHandshakeRequest
        SaslHandshakeResponse
        ShareAcknowledgeRequest
        ShareAcknowledgeResponse
        ShareFetchRequest
        ShareFetchResponse
        ShareGroupDescribeRequest
        ShareGroupDescribeResponse
        ShareGroupHeartbeatRequest
        ShareGroupHeartbeatResponse
        SyncGroupRequest
        SyncGroupResponse
        TxnOffsetCommitRequest
        TxnOffsetCommitResponse
        UnregisterBrokerRequest
        UnregisterBrokerResponse
        UpdateFeaturesRequest
        UpdateFeaturesResponse
        WriteShareGroupStateRequest
        WriteShareGroupStateResponse
        WriteTxnMarkersRequest
        WriteTxnMarkersResponse
    );
    assert!(compared > 5_000, "only {compared} frames were compared");
}

fn compare<O: Message + Debug, T: kafka_protocol::protocol::Message + Decodable + Encodable + Debug>(
    definitions: &Definitions,
) -> usize {
    let mut compared = 0;
    for version in O::VALID_VERSIONS.filter(|version| (T::VERSIONS.min..=T::VERSIONS.max).contains(version)) {
        for seed in 0..10 {
            let at = format!("{} v{version} seed {seed}", O::NAME);
            let shape = if seed == 0 { Shape::Smallest } else { Shape::Random };
            let frame = Bytes::from(definitions.write(O::NAME, version, shape, &mut Source::new(seed)));
            let our_value = O::decode(&mut Decoder::new(frame.clone()), version).unwrap();
            let their_value = T::decode(&mut frame.clone(), version).unwrap_or_else(|error| panic!("{at}: {error}"));
            let (our_tree, their_tree) = (tree(&our_value), tree(&their_value));
            compare_trees(&our_tree, &their_tree, &at);

            let mut out = Encoder::new();
            our_value.encode(&mut out, version).unwrap();
            let mut their_bytes = BytesMut::new();
            their_value.encode(&mut their_bytes, version).unwrap_or_else(|error| panic!("{at}: {error}"));
            assert_eq!(out.into_bytes(), their_bytes, "{at}");
            compared += 1;
        }
    }
    compared
}

/// What `{:?}` says of a value, without the names of types.
#[derive(PartialEq, Debug)]
enum Tree {
    Atom(String),
    List(Vec<Tree>),
    Struct(BTreeMap<String, Tree>),
}

fn compare_trees(ours: &Tree, theirs: &Tree, at: &str) {
    match (ours, theirs) {
        (Tree::Struct(ours), Tree::Struct(theirs)) => {
            for (name, their_value) in theirs.iter().filter(|(name, _)| *name != "unknowntaggedfields") {
                // A field of ShareFetch v0 alone, which Kafka no longer has.
                if name == "partitionmaxbytes" && at.starts_with("ShareFetchRequest") {
                    continue;
                }
                let our_value = ours.get(name).unwrap_or_else(|| panic!("{at}: we have no {name}"));
                compare_trees(our_value, their_value, &format!("{at}.{name}"));
            }
        }
        (Tree::List(ours), Tree::List(theirs)) => {
            assert_eq!(ours.len(), theirs.len(), "{at}");
            ours.iter().zip(theirs).for_each(|(ours, theirs)| compare_trees(ours, theirs, at));
        }
        (ours, theirs) => assert_eq!(ours, theirs, "{at}"),
    }
}

fn tree(value: &impl Debug) -> Tree {
    let text = format!("{value:?}");
    let mut rest = text.as_str();
    let tree = parse(&mut rest);
    assert_eq!(rest, "", "{text}");
    tree
}

fn parse(rest: &mut &str) -> Tree {
    if rest.starts_with('[') {
        return Tree::List(parse_list(rest, ']'));
    }
    let atom = take_atom(rest);
    if rest.starts_with('(') {
        let mut inside = parse_list(rest, ')');
        return match (atom.as_str(), inside.pop()) {
            // One piece is the whole of it in the tests' frames.
            ("Records", Some(Tree::List(mut pieces))) => pieces.pop().unwrap_or(Tree::Atom("b\"\"".into())),
            ("Some", Some(value)) => Tree::List(vec![value]),
            (_, Some(value)) if inside.is_empty() => value,
            (_, last) => Tree::List(inside.into_iter().chain(last).collect()),
        };
    }
    let Some(fields) = rest.trim_start().strip_prefix('{') else { return Tree::Atom(atom) };
    *rest = fields.trim_start();
    let mut fields = BTreeMap::new();
    while !rest.starts_with('}') {
        let name = take_atom(rest);
        *rest = rest.strip_prefix(':').unwrap().trim_start();
        fields.insert(name.replace('_', ""), parse(rest));
        *rest = rest.trim_start_matches(',').trim_start();
    }
    *rest = &rest[1..];
    Tree::Struct(fields)
}

fn parse_list(rest: &mut &str, end: char) -> Vec<Tree> {
    *rest = &rest[1..];
    let mut elements = Vec::new();
    while !rest.starts_with(end) {
        elements.push(parse(rest));
        *rest = rest.trim_start_matches(',').trim_start();
    }
    *rest = &rest[1..];
    elements
}

/// A number, a name, or a quoted string with its quotes.
fn take_atom(rest: &mut &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let end = rest.char_indices().find(|(_, letter)| match letter {
        _ if escaped => {
            escaped = false;
            false
        }
        '\\' => {
            escaped = true;
            false
        }
        '"' => {
            quoted = !quoted;
            false
        }
        letter => !quoted && "()[]{},: ".contains(*letter),
    });
    let (atom, behind) = rest.split_at(end.map_or(rest.len(), |(at, _)| at));
    *rest = behind;
    atom.to_owned()
}
