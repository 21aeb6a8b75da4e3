//! Names, creation and placement of topics.

use std::collections::BTreeMap;

use seawall_metadata::{
    Command, NodeId, ProposeError, Rejection, Response, State, TopicId, command::COMMAND_BYTES_MAX,
};
use seawall_protocol::ErrorCode;
use uuid::Uuid;

use crate::{broker::Broker, config_values::Layers, error_code::ApiError, topic_config};

pub const GROUP_METADATA_TOPIC: &str = "__consumer_offsets";
pub const TRANSACTION_STATE_TOPIC: &str = "__transaction_state";

const NAME_CHARS_MAX: usize = 249;
/// The most partitions that one request may create, as in Kafka.
pub const PARTITIONS_PER_REQUEST_MAX: i64 = 10_000;

/// A topic to be created; everything is resolved.
#[derive(Debug, Clone)]
pub struct NewTopic {
    pub name: String,
    /// Who leads each partition.
    pub owners: Vec<NodeId>,
    pub replication_factor: i16,
    pub configs: BTreeMap<String, String>,
}

/// Refuses a name that Kafka does not allow.
pub fn check_name(name: &str) -> Result<(), ApiError> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let why = if name.is_empty() {
        "the empty string is not allowed".to_owned()
    } else if name == "." || name == ".." {
        format!("'{name}' is not allowed")
    } else if name.len() > NAME_CHARS_MAX {
        format!("the length of '{name}' is longer than the max allowed length {NAME_CHARS_MAX}")
    } else if !name.chars().all(valid) {
        format!("'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'")
    } else {
        return Ok(());
    };
    Err(ApiError::new(ErrorCode::InvalidTopicException, format!("Topic name is invalid: {why}")))
}

/// Refuses a name that is taken, or that differs from a taken one only in '.' and '_', which metric names do not tell
/// apart.
pub fn check_free(state: &State, name: &str) -> Result<(), ApiError> {
    if state.topic_by_name(name).is_some() {
        return Err(ApiError::new(ErrorCode::TopicAlreadyExists, format!("Topic '{name}' already exists.")));
    }
    state.colliding_topic(name).map_or(Ok(()), |topic| Err(collides(name, &topic.name)))
}

fn collides(name: &str, with: &str) -> ApiError {
    ApiError::new(ErrorCode::InvalidTopicException, format!("Topic '{name}' collides with existing topic: {with}"))
}

/// Refuses configs that Kafka does not know or values it does not allow.
pub fn check_configs(configs: &BTreeMap<String, String>, layers: Layers<'_>) -> Result<(), ApiError> {
    topic_config::validate(configs, |config| layers.inherited_value(config))
        .map_err(|why| ApiError::new(ErrorCode::InvalidConfig, why))
}

pub fn is_internal(name: &str) -> bool {
    name == GROUP_METADATA_TOPIC || name == TRANSACTION_STATE_TOPIC
}

/// Owners for `partitions` new partitions from index `first` on: every broker that is up, in turn.
pub fn owners(state: &State, first: i32, partitions: i32) -> Vec<NodeId> {
    let brokers: Vec<NodeId> = state.brokers().filter(|broker| !broker.fenced).map(|broker| broker.node).collect();
    if brokers.is_empty() {
        return Vec::new();
    }
    (first..first.saturating_add(partitions)).map(|index| brokers[index as usize % brokers.len()]).collect()
}

/// Creates a topic whose name and configs were checked, and whose name may have been taken since; returns when this broker knows it.
pub async fn create(broker: &Broker, topic: NewTopic) -> Result<TopicId, ApiError> {
    let id = TopicId(Uuid::new_v4());
    let command = Command::CreateDistinctTopic {
        internal: is_internal(&topic.name),
        name: topic.name,
        topic: id,
        replication_factor: topic.replication_factor,
        owners: topic.owners,
        configs: topic.configs,
    };
    match broker.metadata.propose(command).await {
        Ok((_, Response::Topic { topic, .. })) => Ok(topic),
        Ok((_, other)) => panic!("CreateDistinctTopic answered {other:?}"),
        Err(ProposeError::Rejected(Rejection::TopicCollides { name, with })) => Err(collides(&name, &with)),
        Err(ProposeError::TooLarge { .. }) => Err(ApiError::new(
            ErrorCode::PolicyViolation,
            format!("The topic's name, partitions and configs take more than {COMMAND_BYTES_MAX} bytes."),
        )),
        Err(error) => Err(error.into()),
    }
}

/// Creates a topic with the broker's defaults, as Metadata does on demand. Somebody else may be faster: that is no error.
pub async fn create_automatically(broker: &Broker, name: &str) -> Result<(), ApiError> {
    check_name(name)?;
    if let Err(error) = broker.metadata.read(|state| check_free(state, name)) {
        return if error.code == ErrorCode::TopicAlreadyExists { Ok(()) } else { Err(error) };
    }
    let topic = if name == GROUP_METADATA_TOPIC {
        group_metadata_topic(broker)
    } else {
        NewTopic {
            name: name.to_owned(),
            owners: automatic_owners(broker, name),
            replication_factor: default_replication_factor(broker),
            configs: BTreeMap::new(),
        }
    };
    match create(broker, topic).await {
        Err(error) if error.code != ErrorCode::TopicAlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// How many partitions a topic gets that is made on demand.
pub fn automatic_partitions(broker: &Broker, name: &str) -> i32 {
    let config = if name == GROUP_METADATA_TOPIC { "offsets.topic.num.partitions" } else { "num.partitions" };
    broker.config.kafka.int(config)
}

fn automatic_owners(broker: &Broker, name: &str) -> Vec<NodeId> {
    let partitions = automatic_partitions(broker, name);
    broker.metadata.read(|state| owners(state, 0, partitions))
}

/// `__consumer_offsets` as the configuration wants it.
pub fn group_metadata_topic(broker: &Broker) -> NewTopic {
    let settings = &broker.config.kafka;
    let configs = [
        ("cleanup.policy", "compact".to_owned()),
        ("compression.type", "producer".to_owned()),
        // Not the default of the other topics: commits of groups should not wait for the object store.
        ("seawall.ack", if broker.partitions.wals().is_empty() { "backend" } else { "wal" }.to_owned()),
        ("segment.bytes", settings.long("offsets.topic.segment.bytes").max(1 << 20).to_string()),
    ];
    NewTopic {
        name: GROUP_METADATA_TOPIC.to_owned(),
        owners: automatic_owners(broker, GROUP_METADATA_TOPIC),
        replication_factor: i16::try_from(settings.long("offsets.topic.replication.factor")).unwrap_or(1),
        configs: configs.map(|(name, value)| (name.to_owned(), value)).into(),
    }
}

pub fn default_replication_factor(broker: &Broker) -> i16 {
    i16::try_from(broker.config.kafka.long("default.replication.factor")).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use seawall_metadata::{BootId, ClusterId, Incarnation};

    fn state_with(names: &[&str]) -> State {
        let mut state = State::default();
        let init = Command::InitCluster {
            cluster: ClusterId(Uuid::from_u128(1)),
            incarnation: Incarnation(Uuid::from_u128(2)),
            metadata_level: 1,
        };
        let register = Command::RegisterBroker {
            node: NodeId(1),
            boot: BootId(Uuid::from_u128(3)),
            listeners: vec![],
            rack: None,
            wals: vec![],
            features: seawall_metadata::command::supported_features(),
        };
        let topics = names.iter().enumerate().map(|(n, name)| Command::CreateTopic {
            name: (*name).to_owned(),
            topic: TopicId(Uuid::from_u128(n as u128 + 10)),
            internal: false,
            replication_factor: 1,
            owners: vec![NodeId(1)],
            configs: BTreeMap::new(),
        });
        for (n, command) in [init, register].into_iter().chain(topics).enumerate() {
            state.apply(n as u64 + 1, command).unwrap();
        }
        state
    }

    #[test]
    fn names_follow_kafkas_rules() {
        for name in ["a", "a.b_c-d", "...", &"x".repeat(249)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", ".", "..", "a b", "ü", "a/b", &"x".repeat(250)] {
            assert_eq!(check_name(name).unwrap_err().code, ErrorCode::InvalidTopicException, "{name}");
        }
    }

    #[test]
    fn dots_and_underscores_collide() {
        let state = state_with(&["a.b_c", "plain", "_x"]);
        assert_eq!(check_free(&state, "a.b_c").unwrap_err().code, ErrorCode::TopicAlreadyExists);
        for name in ["a_b_c", "a.b.c", "a_b.c", ".x"] {
            assert_eq!(check_free(&state, name).unwrap_err().code, ErrorCode::InvalidTopicException, "{name}");
        }
        for name in ["a.b", "a.b_cd", "b.b_c", "plainer"] {
            assert_eq!(check_free(&state, name), Ok(()), "{name}");
        }
        let message = check_free(&state, "a_b_c").unwrap_err().message;
        assert_eq!(message.as_deref(), Some("Topic 'a_b_c' collides with existing topic: a.b_c"));
    }

    #[test]
    fn new_partitions_go_to_the_brokers_that_are_up() {
        let state = state_with(&[]);
        assert_eq!(owners(&state, 2, 3), vec![NodeId(1); 3]);
        assert_eq!(owners(&State::default(), 0, 3), vec![]);
    }
}
