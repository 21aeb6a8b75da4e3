//! A member of a group under the consumer protocol, one heartbeat at a time. It owns what it was last assigned.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use seawall_protocol::ErrorCode;
use seawall_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, OffsetCommitRequest, OffsetCommitResponse,
    consumer_group_heartbeat_request::TopicPartitions,
};
use uuid::Uuid;

use super::group::{code, commit_of, find_coordinator, retried};
use super::{Client, PATIENCE, TestBroker};

pub struct ConsumerMember {
    pub client: Client,
    pub group: String,
    pub member_id: String,
    pub instance: Option<String>,
    pub names: Option<Vec<String>>,
    pub regex: Option<String>,
    pub assignor: Option<String>,
    pub epoch: i32,
    pub owned: BTreeMap<Uuid, BTreeSet<i32>>,
}

impl ConsumerMember {
    pub async fn new(broker: &TestBroker, group: &str, member_id: &str) -> Self {
        let mut client = broker.client().await;
        assert_eq!(find_coordinator(&mut client, group).await.error_code, 0);
        Self {
            client,
            group: group.into(),
            member_id: member_id.into(),
            instance: None,
            names: Some(vec!["orders".into()]),
            regex: None,
            assignor: None,
            epoch: 0,
            owned: BTreeMap::new(),
        }
    }

    pub async fn reconnect(&mut self, broker: &TestBroker) {
        self.client = broker.client().await;
        assert_eq!(find_coordinator(&mut self.client, &self.group).await.error_code, 0);
    }

    pub fn request(&self) -> ConsumerGroupHeartbeatRequest {
        let joins = self.epoch == 0;
        let owned = self.owned.iter().map(|(topic_id, partitions)| TopicPartitions {
            topic_id: *topic_id,
            partitions: partitions.iter().copied().collect(),
            ..Default::default()
        });
        ConsumerGroupHeartbeatRequest {
            group_id: self.group.clone(),
            member_id: self.member_id.clone(),
            member_epoch: self.epoch,
            instance_id: self.instance.clone(),
            rebalance_timeout_ms: if joins { 10_000 } else { -1 },
            subscribed_topic_names: self.names.clone().filter(|_| joins),
            subscribed_topic_regex: self.regex.clone().filter(|_| joins),
            server_assignor: self.assignor.clone(),
            topic_partitions: Some(if joins { Vec::new() } else { owned.collect() }),
            ..Default::default()
        }
    }

    /// One heartbeat, whatever comes of it.
    pub async fn try_beat(&mut self) -> ConsumerGroupHeartbeatResponse {
        let request = self.request();
        let beaten = retried(async |client: &mut Client| {
            let response: ConsumerGroupHeartbeatResponse = client.call(1, &request).await;
            (response.error_code, response)
        });
        beaten.run(&mut self.client).await
    }

    /// A heartbeat that succeeds: the member does at once what it is told.
    pub async fn beat(&mut self) {
        let response = self.try_beat().await;
        assert_eq!(code(response.error_code), ErrorCode::None, "{:?}", response.error_message);
        self.epoch = response.member_epoch;
        if let Some(assignment) = response.assignment {
            let topics = assignment.topic_partitions.into_iter();
            self.owned = topics.map(|topic| (topic.topic_id, topic.partitions.into_iter().collect())).collect();
        }
    }

    pub async fn leave(&mut self, epoch: i32) -> ErrorCode {
        self.epoch = epoch;
        let error = code(self.try_beat().await.error_code);
        self.epoch = 0;
        self.owned.clear();
        error
    }

    pub fn partitions(&self) -> usize {
        self.owned.values().map(BTreeSet::len).sum()
    }

    /// Version 9; of the first partition.
    pub async fn commit(&mut self, topic: &str, partition: i32, offset: i64, epoch: i32) -> ErrorCode {
        let request = OffsetCommitRequest {
            group_id: self.group.clone(),
            generation_id_or_member_epoch: epoch,
            member_id: self.member_id.clone(),
            topics: vec![commit_of(topic, partition, offset, "")],
            ..Default::default()
        };
        let response: OffsetCommitResponse = self.client.call(9, &request).await;
        code(response.topics[0].partitions[0].error_code)
    }
}

/// Heartbeats of all members in turn until they share all partitions as evenly as `partitions` says.
pub async fn settle(members: &mut [&mut ConsumerMember], partitions: &[usize]) {
    let give_up = tokio::time::Instant::now() + PATIENCE;
    loop {
        for at in 0..members.len() {
            members[at].beat().await;
            check_owners(members);
        }
        let shares: Vec<usize> = members.iter().map(|member| member.partitions()).collect();
        let epochs: BTreeSet<i32> = members.iter().map(|member| member.epoch).collect();
        if shares == partitions && epochs.len() == 1 {
            return;
        }
        assert!(tokio::time::Instant::now() < give_up, "{shares:?} in epochs {epochs:?} after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// At no moment do two members own one partition.
fn check_owners(members: &[&mut ConsumerMember]) {
    let mut seen = BTreeSet::new();
    for member in members {
        for (topic, partitions) in &member.owned {
            for partition in partitions {
                assert!(seen.insert((*topic, *partition)), "{topic}-{partition} has two owners");
            }
        }
    }
}
