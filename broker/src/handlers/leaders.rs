//! KIP-951: the answer of a broker that does not lead a partition says who does, and where it listens.

use seawall_metadata::TopicId;
use seawall_protocol::messages::{fetch_response, produce_response};

use crate::broker::Broker;
use crate::partitions::Leader;

/// The leaders that one answer names.
#[derive(Default)]
pub(super) struct Leaders(Vec<Leader>);

impl Leaders {
    /// Who leads the partition of a topic, by id or, where that is nil, by name.
    pub fn name<L: for<'a> From<&'a Leader>>(
        &mut self,
        broker: &Broker,
        topic: &str,
        id: TopicId,
        index: i32,
    ) -> Option<L> {
        let leader = broker.partitions.leader_of(topic, id, index)?;
        let named = L::from(&leader);
        if !self.0.iter().any(|known| known.node == leader.node) {
            self.0.push(leader);
        }
        Some(named)
    }

    /// Where they listen, each node once.
    pub fn endpoints<E: From<Leader>>(self) -> Vec<E> {
        self.0.into_iter().map(E::from).collect()
    }
}

/// Each API has messages of its own for the same.
macro_rules! told_by {
    ($response:ident) => {
        impl From<&Leader> for $response::LeaderIdAndEpoch {
            fn from(leader: &Leader) -> Self {
                Self { leader_id: leader.node.0, leader_epoch: leader.leader_epoch.0, ..Default::default() }
            }
        }

        impl From<Leader> for $response::NodeEndpoint {
            fn from(Leader { node, host, port, rack, .. }: Leader) -> Self {
                Self { node_id: node.0, host, port: i32::from(port), rack, ..Default::default() }
            }
        }
    };
}

told_by!(fetch_response);
told_by!(produce_response);
