//! The cluster's identity, finalized features, and brokers with their epochs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::State;
use crate::command::{FeatureRange, Listener, METADATA_VERSION, Rejection, Response};
use crate::ids::*;

/// A broker that has registered at least once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BrokerState {
    pub node: NodeId,
    pub boot: BootId,
    /// What the broker must name in whatever it asks for; of a fenced one, an epoch that nobody holds.
    pub epoch: BrokerEpoch,
    pub fenced: bool,
    pub listeners: Vec<Listener>,
    pub rack: Option<String>,
    pub wals: Vec<WalId>,
    pub features: BTreeMap<String, FeatureRange>,
}

crate::wire::wire_struct!(BrokerState { node, boot, epoch, fenced, listeners, rack, wals, features });

impl State {
    /// Passes only a registered broker at its current epoch.
    pub(super) fn active(&self, by: Registration) -> Result<(), Rejection> {
        let broker = self.brokers.get(&by.node).ok_or(Rejection::UnknownBroker(by.node))?;
        if by.epoch != broker.epoch {
            return Err(Rejection::StaleBrokerEpoch { node: by.node, current: broker.epoch });
        }
        if broker.fenced { Err(Rejection::BrokerFenced(by.node)) } else { Ok(()) }
    }

    pub(super) fn can_own(&self, node: NodeId) -> Result<(), Rejection> {
        match self.brokers.get(&node) {
            None => Err(Rejection::UnknownBroker(node)),
            Some(broker) if broker.fenced => Err(Rejection::BrokerFenced(node)),
            Some(_) => Ok(()),
        }
    }

    pub(super) fn init_cluster(
        &mut self,
        cluster: ClusterId,
        incarnation: Incarnation,
        metadata_level: u16,
    ) -> Result<Response, Rejection> {
        if let Some((cluster_now, incarnation_now)) = self.cluster {
            if (cluster, incarnation) == (cluster_now, incarnation_now) {
                return Ok(Response::Done);
            }
            return Err(Rejection::OtherCluster { cluster: cluster_now, incarnation: incarnation_now });
        }
        if metadata_level == 0 {
            return Err(Rejection::Malformed("metadata level 0"));
        }
        self.cluster = Some((cluster, incarnation));
        self.features.insert(METADATA_VERSION.to_owned(), metadata_level);
        Ok(Response::Done)
    }

    pub(super) fn advance_time(&mut self, now_ms: u64) -> Result<Response, Rejection> {
        self.now_ms = self.now_ms.max(now_ms);
        self.expire_reservations();
        Ok(Response::Done)
    }

    pub(super) fn finalize_features(&mut self, features: BTreeMap<String, u16>) -> Result<Response, Rejection> {
        for (name, level) in &features {
            let refuse = |why| Err(Rejection::Feature { name: name.clone(), level: *level, why });
            if *level < self.features.get(name).copied().unwrap_or(0) {
                return refuse("finalized levels are not lowered");
            }
            if self.brokers.values().any(|broker| !broker.fenced && !supports(&broker.features, name, *level)) {
                return refuse("an active broker does not support it");
            }
        }
        self.features.extend(features);
        Ok(Response::Done)
    }

    pub(super) fn register_broker(
        &mut self,
        node: NodeId,
        boot: BootId,
        listeners: Vec<Listener>,
        rack: Option<String>,
        wals: Vec<WalId>,
        features: BTreeMap<String, FeatureRange>,
    ) -> Result<Response, Rejection> {
        for (name, level) in &self.features {
            if !supports(&features, name, *level) {
                let why = "the broker does not support the finalized level";
                return Err(Rejection::Feature { name: name.clone(), level: *level, why });
            }
        }
        let epoch = self.next_epoch()?;
        self.expire_reservations_of(node);
        let broker = BrokerState { node, boot, epoch, fenced: false, listeners, rack, wals, features };
        self.brokers.insert(node, broker);
        Ok(Response::BrokerEpoch(epoch))
    }

    pub(super) fn fence_broker(&mut self, node: NodeId, epoch: BrokerEpoch) -> Result<Response, Rejection> {
        self.active(Registration { node, epoch })?;
        let epoch = self.next_epoch()?;
        self.expire_reservations_of(node);
        if let Some(broker) = self.brokers.get_mut(&node) {
            broker.epoch = epoch;
            broker.fenced = true;
        }
        Ok(Response::BrokerEpoch(epoch))
    }

    fn next_epoch(&mut self) -> Result<BrokerEpoch, Rejection> {
        let epoch = self.next_broker_epoch;
        self.next_broker_epoch = BrokerEpoch(epoch.0.checked_add(1).ok_or(Rejection::Exhausted("broker epochs"))?);
        Ok(epoch)
    }
}

fn supports(features: &BTreeMap<String, FeatureRange>, name: &str, level: u16) -> bool {
    level == 0 || features.get(name).is_some_and(|range| (range.min..=range.max).contains(&level))
}
