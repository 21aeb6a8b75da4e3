//! The value of a config and where it comes from: a topic's override, a broker's dynamic config, the dynamic default of
//! all brokers, the configuration file, the built-in default; the first that is set counts.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use seawall_metadata::{MetadataHandle, NodeId, State, TopicId, command::ConfigResource};
use tokio_util::sync::CancellationToken;

use crate::{
    broker_settings::{BrokerConfigDef, KafkaSettings, find, scaled},
    topic_config::{SharedTopicConfig, TopicConfig, TopicConfigDef},
};

/// Where a value comes from. The numbers are those of DescribeConfigs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum Source {
    Topic = 1,
    DynamicBroker = 2,
    DynamicDefaultBroker = 3,
    StaticBroker = 4,
    Default = 5,
}

/// A value under the name it was set by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced {
    pub name: &'static str,
    pub value: Option<String>,
    pub source: Source,
}

/// Everything that a broker's and its topics' configs are looked up in, at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Layers<'a> {
    broker: Option<&'a BTreeMap<String, String>>,
    all_brokers: Option<&'a BTreeMap<String, String>>,
    file: &'a KafkaSettings,
}

impl<'a> Layers<'a> {
    pub fn new(state: &'a State, node: NodeId, file: &'a KafkaSettings) -> Self {
        Self {
            broker: state.configs(&ConfigResource::Broker { node }),
            all_brokers: state.configs(&ConfigResource::BrokerDefault),
            file,
        }
    }

    /// Every place where the broker config `name` is set, strongest first; the built-in default is last.
    pub fn broker_config(&self, config: &BrokerConfigDef) -> Vec<Sourced> {
        let name = config.def.name;
        let set = |layer: Option<&BTreeMap<String, String>>| layer.and_then(|values| values.get(name)).cloned();
        let layers = [
            (set(self.broker), Source::DynamicBroker),
            (set(self.all_brokers), Source::DynamicDefaultBroker),
            (self.file.explicit(name).map(str::to_owned), Source::StaticBroker),
            (config.def.default.map(str::to_owned), Source::Default),
        ];
        layers
            .into_iter()
            .filter_map(|(value, source)| value.map(|value| Sourced { name, value: Some(value), source }))
            .collect()
    }

    /// Every place where a topic config is set, strongest first; the built-in default is last. Values of broker configs
    /// are in those configs' own units, as Kafka lists them.
    pub fn topic_config(&self, overrides: &BTreeMap<String, String>, config: &TopicConfigDef) -> Vec<Sourced> {
        let name = config.def.name;
        let set = overrides.get(name).map(|value| Sourced { name, value: Some(value.clone()), source: Source::Topic });
        let brokers = config.broker_synonyms.iter().filter_map(|(synonym, _)| find(synonym));
        let mut found: Vec<Sourced> =
            set.into_iter().chain(brokers.flat_map(|config| self.broker_config(config))).collect();
        found.sort_by_key(|sourced| sourced.source as i8);
        found
    }

    /// What a topic config comes to, in its own unit.
    pub fn topic_value(&self, overrides: &BTreeMap<String, String>, config: &TopicConfigDef) -> String {
        if let Some(value) = overrides.get(config.def.name) {
            return value.clone();
        }
        let by_brokers = |take_default: bool| {
            config.broker_synonyms.iter().find_map(|(synonym, factor)| {
                let strongest = self.broker_config(find(synonym)?).into_iter().next()?;
                let fits = take_default || strongest.source != Source::Default;
                strongest.value.filter(|_| fits).map(|value| scaled(&value, *factor))
            })
        };
        // A weaker synonym that is set comes before a stronger one's built-in default.
        by_brokers(false)
            .or_else(|| by_brokers(true))
            .unwrap_or_else(|| config.def.default.unwrap_or_default().to_owned())
    }

    pub fn resolve_topic(&self, overrides: &BTreeMap<String, String>) -> TopicConfig {
        TopicConfig::resolve(|config| self.topic_value(overrides, config))
    }
}

/// The resolved configs of topics, shared with whoever works by them and kept in step with metadata.
#[derive(Clone)]
pub struct TopicConfigs {
    shared: Arc<Shared>,
}

struct Shared {
    file: KafkaSettings,
    node: NodeId,
    metadata: MetadataHandle,
    topics: Mutex<Topics>,
}

#[derive(Debug, Default)]
struct Topics {
    by_id: HashMap<TopicId, SharedTopicConfig>,
    topology: u64,
}

impl TopicConfigs {
    pub fn new(file: KafkaSettings, node: NodeId, metadata: MetadataHandle) -> Self {
        Self { shared: Arc::new(Shared { file, node, metadata, topics: Mutex::default() }) }
    }

    /// The configs of a topic; they change in place as metadata does. Those of an unknown topic are the defaults.
    pub fn of(&self, topic: TopicId) -> SharedTopicConfig {
        let mut topics = self.lock();
        if let Some(config) = topics.by_id.get(&topic) {
            return config.clone();
        }
        let (known, config) =
            self.shared.metadata.read(|state| (state.topic(topic).is_some(), self.resolve(state, topic)));
        let config = SharedTopicConfig::new(config);
        if known {
            topics.by_id.insert(topic, config.clone());
        }
        config
    }

    /// Follows metadata until `stopping`.
    pub async fn follow(self, stopping: CancellationToken) {
        let mut applied = self.shared.metadata.watch();
        loop {
            self.refresh();
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { return },
                () = stopping.cancelled() => return,
            }
        }
    }

    /// Takes over what metadata holds now.
    pub fn refresh(&self) {
        let mut topics = self.lock();
        self.shared.metadata.read(|state| {
            if topics.topology == state.topology_index() {
                return;
            }
            topics.topology = state.topology_index();
            topics.by_id.retain(|id, config| {
                let exists = state.topic(*id).is_some();
                if exists {
                    config.replace(self.resolve(state, *id));
                }
                exists
            });
        });
    }

    fn resolve(&self, state: &State, topic: TopicId) -> TopicConfig {
        let name = state.topic(topic).map(|topic| topic.name.clone()).unwrap_or_default();
        let none = BTreeMap::new();
        let overrides = state.configs(&ConfigResource::Topic { name }).unwrap_or(&none);
        Layers::new(state, self.shared.node, &self.shared.file).resolve_topic(overrides)
    }

    fn lock(&self) -> MutexGuard<'_, Topics> {
        self.shared.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic_config;

    fn values(sourced: &[Sourced]) -> Vec<(&str, &str, Source)> {
        sourced.iter().map(|s| (s.name, s.value.as_deref().unwrap(), s.source)).collect()
    }

    #[test]
    fn the_strongest_layer_counts_and_synonyms_are_shown_in_order() {
        let mut file = KafkaSettings::default();
        file.set("log.retention.hours", "2").unwrap();
        let state = State::default();
        let layers = Layers::new(&state, NodeId(1), &file);
        let retention = topic_config::find("retention.ms").unwrap();
        let overrides = BTreeMap::from([("retention.ms".to_owned(), "5".to_owned())]);
        assert_eq!(
            values(&layers.topic_config(&overrides, retention)),
            [
                ("retention.ms", "5", Source::Topic),
                ("log.retention.hours", "2", Source::StaticBroker),
                ("log.retention.hours", "168", Source::Default),
            ]
        );
        assert_eq!(layers.resolve_topic(&BTreeMap::new()).retention_ms, Some(7_200_000));
    }

    #[test]
    fn a_config_without_a_broker_synonym_is_set_nowhere_and_has_its_own_default() {
        let (state, file) = (State::default(), KafkaSettings::default());
        let config = topic_config::find("remote.storage.enable").unwrap();
        let layers = Layers::new(&state, NodeId(1), &file);
        assert_eq!(values(&layers.topic_config(&BTreeMap::new(), config)), []);
        assert_eq!(layers.topic_value(&BTreeMap::new(), config), "false");
    }
}
