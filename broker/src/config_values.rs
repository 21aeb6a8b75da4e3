//! The value of a config and where it comes from: what is set on a topic or group itself, a broker's dynamic config, the
//! dynamic default of all brokers, the configuration file, the built-in default; the first that is set counts.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use seawall_metadata::{MetadataHandle, NodeId, State, TopicId, command::ConfigResource};
use tokio_util::sync::CancellationToken;

use crate::{
    broker_settings::{KafkaSettings, find, scaled},
    config_def::ConfigDef,
    topic_config::{SharedTopicConfig, TopicConfig},
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
    DynamicBrokerLogger = 6,
    ClientMetrics = 7,
    Group = 8,
}

/// A value under the name it was set by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced {
    pub name: &'static str,
    pub value: String,
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

    /// What the broker's configs come to.
    pub fn settings(&self) -> KafkaSettings {
        let dynamic = [self.all_brokers, self.broker].into_iter().flatten();
        dynamic.fold(self.file.clone(), KafkaSettings::under)
    }

    /// Every place where a broker config or one of its synonyms is set, strongest first; the built-in default is last. As
    /// in Kafka the list begins with the config's own name, and is empty where that is set nowhere.
    pub fn broker_sources(&self, config: &'static ConfigDef) -> Vec<Sourced> {
        let own = [(config.name, 1)];
        let names = if config.synonyms.is_empty() { &own[..] } else { config.synonyms };
        self.sources(names).into_iter().skip_while(|sourced| sourced.name != config.name).collect()
    }

    /// The same for a config of a topic or a group, under the name of the broker config that gives it its default.
    pub fn inherited_sources(&self, config: &ConfigDef) -> Vec<Sourced> {
        let Some((first, _)) = config.synonyms.first() else { return Vec::new() };
        self.sources(config.synonyms).into_iter().skip_while(|sourced| sourced.name != *first).collect()
    }

    fn sources(&self, names: &[(&'static str, i64)]) -> Vec<Sourced> {
        let layer = |values: Option<&'a BTreeMap<String, String>>, source: Source| {
            names.iter().filter_map(move |(name, _)| {
                let value = values?.get(*name)?.clone();
                Some(Sourced { name, value, source })
            })
        };
        let file = names.iter().filter_map(|(name, _)| {
            let value = self.file.explicit(name)?.to_owned();
            Some(Sourced { name, value, source: Source::StaticBroker })
        });
        let defaults = names.iter().filter_map(|(name, _)| {
            let value = find(name)?.default?.to_owned();
            Some(Sourced { name, value, source: Source::Default })
        });
        layer(self.broker, Source::DynamicBroker)
            .chain(layer(self.all_brokers, Source::DynamicDefaultBroker))
            .chain(file)
            .chain(defaults)
            .collect()
    }

    /// What a broker config comes to.
    pub fn broker_value(&self, config: &'static ConfigDef) -> Option<String> {
        let own = self.broker_sources(config).into_iter().find(|sourced| sourced.name == config.name);
        own.map(|sourced| sourced.value)
    }

    /// What a config of a topic or a group comes to where that does not set it, in its own unit.
    pub fn inherited_value(&self, config: &ConfigDef) -> String {
        let set = self.sources(config.synonyms).into_iter().find(|sourced| sourced.source != Source::Default);
        set.map_or_else(
            || config.default.unwrap_or_default().to_owned(),
            |sourced| {
                let factor = config.synonyms.iter().find(|(name, _)| *name == sourced.name).map_or(1, |(_, f)| *f);
                scaled(&sourced.value, factor)
            },
        )
    }

    /// What a topic's configs come to.
    pub fn resolve_topic(&self, overrides: &BTreeMap<String, String>) -> TopicConfig {
        TopicConfig::resolve(|config| {
            overrides.get(config.name).cloned().unwrap_or_else(|| self.inherited_value(config))
        })
    }
}

/// The resolved configs of this broker and its topics, shared with whoever works by them and kept in step with metadata.
#[derive(Clone)]
pub struct TopicConfigs {
    shared: Arc<Shared>,
}

struct Shared {
    settings: ArcSwap<KafkaSettings>,
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
        let settings = ArcSwap::from_pointee(file.clone());
        let configs = Self { shared: Arc::new(Shared { settings, file, node, metadata, topics: Mutex::default() }) };
        configs.refresh();
        configs
    }

    /// The broker's own configs as they are now.
    pub fn settings(&self) -> Arc<KafkaSettings> {
        self.shared.settings.load_full()
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
            let settings = Layers::new(state, self.shared.node, &self.shared.file).settings();
            if **self.shared.settings.load() != settings {
                self.shared.settings.store(Arc::new(settings));
            }
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
        sourced.iter().map(|s| (s.name, s.value.as_str(), s.source)).collect()
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn dynamic_of_the_broker_comes_before_dynamic_of_all_before_the_file_before_the_default() {
        let mut file = KafkaSettings::default();
        file.set("message.max.bytes", "3").unwrap();
        let (one, all) = (map(&[("message.max.bytes", "1")]), map(&[("message.max.bytes", "2")]));
        let layers = Layers { broker: Some(&one), all_brokers: Some(&all), file: &file };
        let name = "message.max.bytes";
        let sources = [
            (name, "1", Source::DynamicBroker),
            (name, "2", Source::DynamicDefaultBroker),
            (name, "3", Source::StaticBroker),
            (name, "1048588", Source::Default),
        ];
        assert_eq!(values(&layers.broker_sources(find(name).unwrap())), sources);
        assert_eq!(values(&layers.inherited_sources(topic_config::find("max.message.bytes").unwrap())), sources);
        assert_eq!(layers.settings().int(name), 1);
        assert_eq!(layers.resolve_topic(&BTreeMap::new()).max_message_bytes, 1);
        assert_eq!(layers.resolve_topic(&map(&[("max.message.bytes", "9")])).max_message_bytes, 9);
    }

    #[test]
    fn a_weaker_synonym_counts_and_is_listed_after_the_strongest_as_in_kafka() {
        let mut file = KafkaSettings::default();
        file.set("log.retention.hours", "2").unwrap();
        let state = State::default();
        let layers = Layers::new(&state, NodeId(1), &file);
        let retention = topic_config::find("retention.ms").unwrap();
        assert_eq!(values(&layers.inherited_sources(retention)), [], "log.retention.ms itself is set nowhere");
        assert_eq!(layers.resolve_topic(&BTreeMap::new()).retention_ms, Some(7_200_000));
        assert_eq!(
            values(&layers.broker_sources(find("log.retention.hours").unwrap())),
            [("log.retention.hours", "2", Source::StaticBroker), ("log.retention.hours", "168", Source::Default)]
        );
        file.set("log.retention.ms", "5").unwrap();
        let layers = Layers::new(&state, NodeId(1), &file);
        assert_eq!(
            values(&layers.inherited_sources(retention)),
            [
                ("log.retention.ms", "5", Source::StaticBroker),
                ("log.retention.hours", "2", Source::StaticBroker),
                ("log.retention.hours", "168", Source::Default)
            ]
        );
        assert_eq!(layers.resolve_topic(&BTreeMap::new()).retention_ms, Some(5));
    }

    #[test]
    fn a_config_without_a_broker_synonym_is_set_nowhere_and_has_its_own_default() {
        let (state, file) = (State::default(), KafkaSettings::default());
        let config = topic_config::find("remote.storage.enable").unwrap();
        let layers = Layers::new(&state, NodeId(1), &file);
        assert_eq!(values(&layers.inherited_sources(config)), []);
        assert_eq!(layers.inherited_value(config), "false");
    }
}
