//! One member of a group: what it offered, what it was assigned, and which of its requests are parked.

use bytes::Bytes;

use super::{Now, Protocol, RequestId};
use crate::group_records::MemberValue;

#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub member_id: String,
    pub group_instance_id: Option<String>,
    pub client_id: String,
    /// As Kafka prints it: `/127.0.0.1`.
    pub client_host: String,
    pub rebalance_timeout_ms: u64,
    pub session_timeout_ms: u64,
    pub protocol_type: String,
    /// In the member's order of preference.
    pub protocols: Vec<Protocol>,
    pub assignment: Bytes,
    /// A parked JoinGroup.
    pub(super) awaiting_join: Option<RequestId>,
    /// A parked SyncGroup.
    pub(super) awaiting_sync: Option<RequestId>,
    /// Has not finished its first rebalance: it cannot heartbeat yet, so its parked JoinGroup does not keep it alive.
    pub(super) is_new: bool,
    /// None: nothing to expire until a parked request is answered.
    pub(super) session_deadline_ms: Option<u64>,
}

impl Member {
    pub(super) fn from_record(value: MemberValue, protocol_type: &str, protocol: &str) -> Self {
        Self {
            member_id: value.member_id,
            group_instance_id: value.group_instance_id,
            client_id: value.client_id,
            client_host: value.client_host,
            rebalance_timeout_ms: milliseconds(value.rebalance_timeout_ms),
            session_timeout_ms: milliseconds(value.session_timeout_ms),
            protocol_type: protocol_type.to_owned(),
            protocols: vec![Protocol { name: protocol.to_owned(), metadata: value.subscription }],
            assignment: value.assignment,
            awaiting_join: None,
            awaiting_sync: None,
            is_new: false,
            session_deadline_ms: None,
        }
    }

    pub(super) fn to_record(&self, protocol: &str) -> MemberValue {
        MemberValue {
            member_id: self.member_id.clone(),
            group_instance_id: self.group_instance_id.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            rebalance_timeout_ms: self.rebalance_timeout_ms as i32,
            session_timeout_ms: self.session_timeout_ms as i32,
            subscription: self.metadata(protocol),
            assignment: self.assignment.clone(),
        }
    }

    /// What the member sent for `protocol`.
    pub fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|offer| offer.name == protocol)
            .map(|offer| offer.metadata.clone())
            .unwrap_or_default()
    }

    pub(super) fn extend_session(&mut self, now: Now) {
        self.session_deadline_ms = Some(now.monotonic_ms.saturating_add(self.session_timeout_ms));
    }

    /// A parked request shows that the member is there, except for a new one, whose client may be long gone.
    pub(super) fn shows_life(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }

    pub(super) fn bytes(&self) -> usize {
        let instance = self.group_instance_id.as_ref().map_or(0, String::len);
        let text = 2 * self.member_id.len() + 2 * instance + self.client_id.len() + self.client_host.len();
        let offers: usize = self.protocols.iter().map(Protocol::bytes).sum();
        384 + text + offers + self.assignment.len()
    }
}

/// Timeouts come as i32 from the wire; negative ones mean nothing and count as zero.
pub fn milliseconds(timeout_ms: i32) -> u64 {
    timeout_ms.max(0) as u64
}
