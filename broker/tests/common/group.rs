//! A member of a consumer group, one request at a time, and the questions that tools ask about groups.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use seawall_protocol::ErrorCode;
use seawall_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, FindCoordinatorRequest,
    FindCoordinatorResponse, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest, OffsetFetchResponse,
    SyncGroupRequest, SyncGroupResponse,
    join_group_request::JoinGroupRequestProtocol,
    leave_group_request::MemberIdentity,
    list_groups_response::ListedGroup,
    offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
    offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic},
    offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics},
    sync_group_request::SyncGroupRequestAssignment,
};

use super::{Client, PATIENCE, TestBroker};

/// Asks until the coordinator can be asked for something.
pub async fn find_coordinator(client: &mut Client, group: &str) -> FindCoordinatorResponse {
    let request = FindCoordinatorRequest { key: group.into(), key_type: 0, ..Default::default() };
    let found = retried(async |client: &mut Client| {
        let response: FindCoordinatorResponse = client.call(3, &request).await;
        (response.error_code, response)
    });
    found.run(client).await
}

/// Repeats a request while its answer is that the coordinator is on its way.
pub fn retried<F>(attempt: F) -> Retried<F> {
    Retried { attempt }
}

pub struct Retried<F> {
    attempt: F,
}

impl<F> Retried<F> {
    pub async fn run<R>(self, client: &mut Client) -> R
    where
        F: AsyncFn(&mut Client) -> (i16, R),
    {
        let give_up = tokio::time::Instant::now() + PATIENCE;
        loop {
            let (code, response) = (self.attempt)(client).await;
            if !is_coordinator_on_its_way(code) || tokio::time::Instant::now() > give_up {
                return response;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn is_coordinator_on_its_way(code: i16) -> bool {
    let codes = [ErrorCode::CoordinatorLoadInProgress, ErrorCode::CoordinatorNotAvailable, ErrorCode::NotCoordinator];
    codes.iter().any(|known| known.code() == code)
}

/// One consumer of a group; what it was last told.
pub struct Member {
    pub client: Client,
    pub group: String,
    pub instance: Option<String>,
    pub topics: Vec<String>,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    pub version: i16,
    pub member_id: String,
    pub generation: i32,
    pub leads: bool,
    /// Of all members, if this one leads.
    pub members: Vec<String>,
    pub assignment: Bytes,
}

impl Member {
    pub async fn new(broker: &TestBroker, group: &str) -> Self {
        let mut client = broker.client().await;
        assert_eq!(find_coordinator(&mut client, group).await.error_code, 0);
        Self {
            client,
            group: group.into(),
            instance: None,
            topics: vec!["orders".into()],
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 10_000,
            version: 9,
            member_id: String::new(),
            generation: -1,
            leads: false,
            members: Vec::new(),
            assignment: Bytes::new(),
        }
    }

    pub async fn with_instance(broker: &TestBroker, group: &str, instance: &str) -> Self {
        Self { instance: Some(instance.into()), ..Self::new(broker, group).await }
    }

    /// The same member after a restart of the broker, or of its own connection.
    pub async fn reconnect(&mut self, broker: &TestBroker) {
        self.client = broker.client().await;
        assert_eq!(find_coordinator(&mut self.client, &self.group).await.error_code, 0);
    }

    pub fn join_request(&self) -> JoinGroupRequest {
        let protocol = JoinGroupRequestProtocol {
            name: "range".into(),
            metadata: subscription(&self.topics),
            ..Default::default()
        };
        JoinGroupRequest {
            group_id: self.group.clone(),
            session_timeout_ms: self.session_timeout_ms,
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            member_id: self.member_id.clone(),
            group_instance_id: self.instance.clone(),
            protocol_type: "consumer".into(),
            protocols: vec![protocol],
            ..Default::default()
        }
    }

    /// One JoinGroup, whatever comes of it.
    pub async fn try_join(&mut self) -> JoinGroupResponse {
        let (request, version) = (self.join_request(), self.version);
        let joined = retried(async |client: &mut Client| {
            let response: JoinGroupResponse = client.call(version, &request).await;
            (response.error_code, response)
        });
        joined.run(&mut self.client).await
    }

    /// Joins as a client does, with the second round that MEMBER_ID_REQUIRED asks for.
    pub async fn join(&mut self) {
        let mut response = self.try_join().await;
        if response.error_code == ErrorCode::MemberIdRequired.code() {
            self.member_id = response.member_id;
            response = self.try_join().await;
        }
        assert_eq!(response.error_code, 0, "join");
        self.generation = response.generation_id;
        self.leads = response.leader == response.member_id;
        self.member_id = response.member_id;
        self.members = response.members.into_iter().map(|member| member.member_id).collect();
    }

    /// One SyncGroup, whatever comes of it. A leader gives every member an assignment that names it.
    pub async fn try_sync(&mut self) -> SyncGroupResponse {
        let assign = |id: &String| SyncGroupRequestAssignment {
            member_id: id.clone(),
            assignment: assignment_for(id, self.generation),
            ..Default::default()
        };
        let request = SyncGroupRequest {
            group_id: self.group.clone(),
            generation_id: self.generation,
            member_id: self.member_id.clone(),
            group_instance_id: self.instance.clone(),
            protocol_type: Some("consumer".into()),
            protocol_name: Some("range".into()),
            assignments: self.members.iter().map(assign).collect(),
            ..Default::default()
        };
        let synced = retried(async |client: &mut Client| {
            let response: SyncGroupResponse = client.call(5, &request).await;
            (response.error_code, response)
        });
        synced.run(&mut self.client).await
    }

    pub async fn sync(&mut self) {
        let response = self.try_sync().await;
        assert_eq!(response.error_code, 0, "sync");
        assert_eq!(response.protocol_name.as_deref(), Some("range"));
        self.assignment = response.assignment;
    }

    pub async fn heartbeat(&mut self) -> ErrorCode {
        let request = HeartbeatRequest {
            group_id: self.group.clone(),
            generation_id: self.generation,
            member_id: self.member_id.clone(),
            group_instance_id: self.instance.clone(),
            ..Default::default()
        };
        let response: HeartbeatResponse = self.client.call(4, &request).await;
        code(response.error_code)
    }

    /// Heartbeats until the group says that it is rebalancing.
    pub async fn heartbeat_until_rebalance(&mut self) {
        let give_up = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.heartbeat().await {
                ErrorCode::RebalanceInProgress => return,
                ErrorCode::None if tokio::time::Instant::now() < give_up => {}
                other => panic!("heartbeat: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn leave(&mut self) -> ErrorCode {
        let identity = MemberIdentity {
            member_id: self.member_id.clone(),
            group_instance_id: self.instance.clone(),
            ..Default::default()
        };
        let request = LeaveGroupRequest { group_id: self.group.clone(), members: vec![identity], ..Default::default() };
        let response: LeaveGroupResponse = self.client.call(5, &request).await;
        assert_eq!(response.error_code, 0);
        code(response.members[0].error_code)
    }

    /// Commits, again and again while the coordinator is on its way.
    pub async fn commit(&mut self, topic: &str, partition: i32, offset: i64, metadata: &str) -> ErrorCode {
        let request = self.commit_request(commit_of(topic, partition, offset, metadata));
        commit(&mut self.client, &request).await
    }

    pub async fn commit_once(&mut self, topic: &str, partition: i32, offset: i64) -> ErrorCode {
        let request = self.commit_request(commit_of(topic, partition, offset, ""));
        let response: OffsetCommitResponse = self.client.call(9, &request).await;
        code(response.topics[0].partitions[0].error_code)
    }

    fn commit_request(&self, topic: OffsetCommitRequestTopic) -> OffsetCommitRequest {
        OffsetCommitRequest {
            group_id: self.group.clone(),
            generation_id_or_member_epoch: self.generation,
            member_id: self.member_id.clone(),
            group_instance_id: self.instance.clone(),
            topics: vec![topic],
            ..Default::default()
        }
    }
}

/// Joins and synchronises members that are to share one generation.
pub async fn rebalance(members: &mut [&mut Member]) {
    let generation = {
        let mut joins = Vec::new();
        for member in members.iter_mut() {
            joins.push(member.join());
        }
        all(joins).await;
        members[0].generation
    };
    assert!(members.iter().all(|member| member.generation == generation), "one generation for all");
    assert_eq!(members.iter().filter(|member| member.leads).count(), 1, "one leader");
    let mut syncs = Vec::new();
    for member in members.iter_mut() {
        syncs.push(member.sync());
    }
    all(syncs).await;
    for member in members.iter() {
        assert_eq!(member.assignment, assignment_for(&member.member_id, generation), "the leader's very bytes");
    }
}

/// Runs futures side by side on this task.
pub async fn all<F: Future<Output = ()>>(futures: Vec<F>) {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

/// Bytes that are no valid text and no valid assignment either: the coordinator must not care.
pub fn assignment_for(member_id: &str, generation: i32) -> Bytes {
    let mut bytes = BytesMut::from(&[0xff, 0x00, 0xfe][..]);
    bytes.put_i32(generation);
    bytes.put_slice(member_id.as_bytes());
    bytes.freeze()
}

/// ConsumerProtocolSubscription version 0.
pub fn subscription(topics: &[String]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(0);
    out.put_i32(topics.len() as i32);
    for topic in topics {
        out.put_i16(topic.len() as i16);
        out.put_slice(topic.as_bytes());
    }
    out.put_i32(-1);
    out.freeze()
}

pub fn commit_of(topic: &str, partition: i32, offset: i64, metadata: &str) -> OffsetCommitRequestTopic {
    let partition = OffsetCommitRequestPartition {
        partition_index: partition,
        committed_offset: offset,
        committed_leader_epoch: 0,
        committed_metadata: Some(metadata.into()),
        ..Default::default()
    };
    OffsetCommitRequestTopic { name: topic.into(), partitions: vec![partition], ..Default::default() }
}

/// A commit of a client without group management.
pub async fn commit_without_group(client: &mut Client, group: &str, topic: &str, offset: i64) -> ErrorCode {
    let request = OffsetCommitRequest {
        group_id: group.into(),
        generation_id_or_member_epoch: -1,
        topics: vec![commit_of(topic, 0, offset, "")],
        ..Default::default()
    };
    commit(client, &request).await
}

/// Of the first partition.
pub async fn commit(client: &mut Client, request: &OffsetCommitRequest) -> ErrorCode {
    let committed = retried(async |client: &mut Client| {
        let response: OffsetCommitResponse = client.call(9, request).await;
        let error = response.topics[0].partitions[0].error_code;
        (error, error)
    });
    code(committed.run(client).await)
}

/// Offset and metadata as committed; -1 for none.
pub async fn committed(client: &mut Client, group: &str, topic: &str, partition: i32) -> (i64, String) {
    let topics =
        OffsetFetchRequestTopics { name: topic.into(), partition_indexes: vec![partition], ..Default::default() };
    let group = OffsetFetchRequestGroup { group_id: group.into(), topics: Some(vec![topics]), ..Default::default() };
    let request = OffsetFetchRequest { groups: vec![group], require_stable: true, ..Default::default() };
    let fetched = retried(async |client: &mut Client| {
        let response: OffsetFetchResponse = client.call(9, &request).await;
        (response.groups[0].error_code, response)
    });
    let response = fetched.run(client).await;
    assert_eq!(response.groups[0].error_code, 0);
    let partition = &response.groups[0].topics[0].partitions[0];
    assert_eq!(partition.error_code, 0);
    (partition.committed_offset, partition.metadata.clone().unwrap_or_default())
}

pub async fn describe_group(client: &mut Client, version: i16, group: &str) -> DescribeGroupsResponse {
    let request = DescribeGroupsRequest {
        groups: vec![group.into()],
        include_authorized_operations: version >= 3,
        ..Default::default()
    };
    client.call(version, &request).await
}

/// By their ids.
pub async fn list_groups(client: &mut Client, states: &[&str], types: &[&str]) -> Vec<ListedGroup> {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let request = ListGroupsRequest { states_filter: owned(states), types_filter: owned(types), ..Default::default() };
    let listed = retried(async |client: &mut Client| {
        let response: ListGroupsResponse = client.call(5, &request).await;
        (response.error_code, response)
    });
    let response = listed.run(client).await;
    assert_eq!(response.error_code, 0);
    let mut groups = response.groups;
    groups.sort_by(|a, b| a.group_id.cmp(&b.group_id));
    groups
}

/// As answered, by the ids of the groups.
pub async fn delete_groups(client: &mut Client, groups: &[&str]) -> Vec<(String, ErrorCode)> {
    let groups_names = groups.iter().map(|group| (*group).to_owned()).collect();
    let request = DeleteGroupsRequest { groups_names, ..Default::default() };
    let response: DeleteGroupsResponse = client.call(2, &request).await;
    response.results.into_iter().map(|result| (result.group_id, code(result.error_code))).collect()
}

/// Of the first partition of each topic.
pub async fn delete_offsets(client: &mut Client, group: &str, topics: &[&str]) -> Vec<ErrorCode> {
    let topic = |name: &&str| OffsetDeleteRequestTopic {
        name: (*name).into(),
        partitions: vec![OffsetDeleteRequestPartition { partition_index: 0 }],
    };
    let request = OffsetDeleteRequest { group_id: group.into(), topics: topics.iter().map(topic).collect() };
    let response: OffsetDeleteResponse = client.call(0, &request).await;
    assert_eq!(response.error_code, 0);
    response.topics.iter().map(|topic| code(topic.partitions[0].error_code)).collect()
}

pub fn code(code: i16) -> ErrorCode {
    ErrorCode::try_from(code).expect("a code of Kafka's")
}
