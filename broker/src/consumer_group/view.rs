//! What groups need to know of metadata: the topics that there are, as of one version.

use std::collections::BTreeMap;

use uuid::Uuid;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterView {
    version: u64,
    topics: BTreeMap<String, Topic>,
    names: BTreeMap<Uuid, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topic {
    pub id: Uuid,
    pub partitions: i32,
}

impl ClusterView {
    /// `version` differs from that of every other set of topics.
    pub fn new(version: u64, topics: impl IntoIterator<Item = (String, Topic)>) -> Self {
        let topics: BTreeMap<String, Topic> = topics.into_iter().collect();
        let names = topics.iter().map(|(name, topic)| (topic.id, name.clone())).collect();
        Self { version, topics, names }
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn topic(&self, name: &str) -> Option<Topic> {
        self.topics.get(name).copied()
    }

    pub fn name_of(&self, id: Uuid) -> Option<&str> {
        self.names.get(&id).map(String::as_str)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.topics.keys().map(String::as_str)
    }
}
