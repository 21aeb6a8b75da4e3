//! The CreateTopics API.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use seawall_metadata::{NodeId, State, TopicId};
use seawall_protocol::{
    ErrorCode,
    messages::{
        CreateTopicsRequest, CreateTopicsResponse,
        create_topics_request::{CreatableReplicaAssignment, CreatableTopic},
        create_topics_response::{CreatableTopicConfigs, CreatableTopicResult},
    },
};

use crate::{
    broker::Broker,
    config_def::ConfigDef,
    config_values::{Layers, Source},
    dispatch::RequestContext,
    error_code::ApiError,
    kafka_configs::TOPIC_CONFIGS,
    quotas::Mutations,
    topics::{self, NewTopic, PARTITIONS_PER_REQUEST_MAX},
};

/// From this version on clients know THROTTLING_QUOTA_EXCEEDED.
const FIRST_VERSION_WITH_QUOTA_ERRORS: i16 = 6;
/// Kafka's own metadata log; clients may not make a topic of that name.
const CLUSTER_METADATA_TOPIC: &str = "__cluster_metadata";

pub async fn handle(
    broker: &Arc<Broker>,
    ctx: &RequestContext,
    request: CreateTopicsRequest,
    version: i16,
) -> CreateTopicsResponse {
    let mut seen = BTreeSet::new();
    let repeated: BTreeSet<String> =
        request.topics.iter().filter(|topic| !seen.insert(&topic.name)).map(|topic| topic.name.clone()).collect();
    let total: i64 = request.topics.iter().map(|topic| partitions_asked(broker, topic)).sum();
    let mut mutations = broker.quotas.mutations(ctx, version >= FIRST_VERSION_WITH_QUOTA_ERRORS);
    let mut results = Vec::new();
    for name in &repeated {
        results.push(failed(name, ApiError::new(ErrorCode::InvalidRequest, "Duplicate topic name.")));
    }
    for topic in request.topics.iter().filter(|topic| !repeated.contains(&topic.name)) {
        let created = if total > PARTITIONS_PER_REQUEST_MAX {
            Err(ApiError::new(ErrorCode::PolicyViolation, "Excessively large number of partitions per request."))
        } else {
            create(broker, topic, request.validate_only, &mut mutations).await
        };
        results.push(match created {
            Ok((id, new)) => succeeded(broker, id, new, version),
            Err(error) => failed(&topic.name, error),
        });
    }
    CreateTopicsResponse { throttle_time_ms: mutations.throttle_time_ms(), topics: results, ..Default::default() }
}

/// The topic's id (none when only validated) and what it was created with.
async fn create(
    broker: &Broker,
    asked: &CreatableTopic,
    validate_only: bool,
    mutations: &mut Mutations<'_>,
) -> Result<(Option<TopicId>, NewTopic), ApiError> {
    let new = broker.metadata.read(|state| resolve(broker, state, asked))?;
    mutations.record(new.owners.len())?;
    let id = if validate_only { None } else { Some(topics::create(broker, new.clone()).await?) };
    Ok((id, new))
}

/// Checks what was asked for and fills in the defaults, in the order and with the words of Kafka.
fn resolve(broker: &Broker, state: &State, asked: &CreatableTopic) -> Result<NewTopic, ApiError> {
    topics::check_name(&asked.name)?;
    if asked.name == CLUSTER_METADATA_TOPIC {
        let message = format!("Creation of internal topic {CLUSTER_METADATA_TOPIC} is prohibited.");
        return Err(ApiError::new(ErrorCode::InvalidRequest, message));
    }
    topics::check_free(state, &asked.name)?;
    let configs = configs_of(asked)?;
    topics::check_configs(&configs, Layers::new(state, broker.registration.node, &broker.config.kafka))?;
    let (owners, replication_factor) = if asked.assignments.is_empty() {
        let (partitions, replication_factor) = sizes(broker, asked)?;
        (topics::owners(state, 0, partitions), replication_factor)
    } else {
        assigned(state, asked)?
    };
    Ok(NewTopic { name: asked.name.clone(), owners, replication_factor, configs })
}

fn configs_of(asked: &CreatableTopic) -> Result<BTreeMap<String, String>, ApiError> {
    let nulls: Vec<&str> =
        asked.configs.iter().filter(|config| config.value.is_none()).map(|config| config.name.as_str()).collect();
    if !nulls.is_empty() {
        let message = format!("Null value not supported for topic configs: {}", nulls.join(","));
        return Err(ApiError::new(ErrorCode::InvalidConfig, message));
    }
    Ok(asked.configs.iter().map(|config| (config.name.clone(), config.value.clone().unwrap_or_default())).collect())
}

/// Any replication factor is taken: the object store makes the copies.
fn sizes(broker: &Broker, asked: &CreatableTopic) -> Result<(i32, i16), ApiError> {
    if asked.replication_factor == 0 || asked.replication_factor < -1 {
        let message = "Replication factor must be larger than 0, or -1 to use the default value.";
        return Err(ApiError::new(ErrorCode::InvalidReplicationFactor, message));
    }
    if asked.num_partitions == 0 || asked.num_partitions < -1 {
        let message = "Number of partitions was set to an invalid non-positive value.";
        return Err(ApiError::new(ErrorCode::InvalidPartitions, message));
    }
    let partitions =
        if asked.num_partitions == -1 { broker.config.kafka.int("num.partitions") } else { asked.num_partitions };
    let replication_factor = if asked.replication_factor == -1 {
        topics::default_replication_factor(broker)
    } else {
        asked.replication_factor
    };
    Ok((partitions, replication_factor))
}

/// A manual assignment names brokers of the cluster; each partition is led by the first one named.
fn assigned(state: &State, asked: &CreatableTopic) -> Result<(Vec<NodeId>, i16), ApiError> {
    let invalid = |message: String| Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, message));
    let refuse = |what| {
        let message = format!("A manual partition assignment was specified, but {what} was not set to -1.");
        Err(ApiError::new(ErrorCode::InvalidRequest, message))
    };
    if asked.replication_factor != -1 {
        return refuse("replication factor");
    }
    if asked.num_partitions != -1 {
        return refuse("numPartitions");
    }
    let by_index: BTreeMap<i32, &CreatableReplicaAssignment> =
        asked.assignments.iter().map(|assignment| (assignment.partition_index, assignment)).collect();
    if by_index.len() != asked.assignments.len() {
        return invalid("Found multiple manual partition assignments for one partition.".into());
    }
    if by_index.keys().enumerate().any(|(n, index)| n as i64 != i64::from(*index)) {
        return invalid("partitions should be a consecutive 0-based integer sequence".into());
    }
    let replicas = asked.assignments.first().map_or(0, |assignment| assignment.broker_ids.len());
    for assignment in by_index.values() {
        check_assignment(state, &assignment.broker_ids)?;
        if assignment.broker_ids.len() != replicas {
            return invalid(format!(
                "The manual partition assignment includes a partition with {} replica(s), but this is not consistent \
                 with previous partitions, which have {replicas} replica(s).",
                assignment.broker_ids.len()
            ));
        }
    }
    let owners = by_index.values().filter_map(|assignment| assignment.broker_ids.first()).map(|id| NodeId(*id));
    Ok((owners.collect(), i16::try_from(replicas).unwrap_or(i16::MAX)))
}

/// Refuses an assignment that names no broker, an unknown one, or one twice.
pub fn check_assignment(state: &State, brokers: &[i32]) -> Result<(), ApiError> {
    let invalid = |message: String| Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, message));
    if brokers.is_empty() {
        return invalid("The manual partition assignment includes an empty replica list.".into());
    }
    let mut seen = BTreeSet::new();
    for id in brokers {
        if !seen.insert(id) {
            return invalid(format!("The manual partition assignment includes the broker {id} more than once."));
        }
        if state.broker(NodeId(*id)).is_none() {
            return invalid(format!(
                "The manual partition assignment includes broker {id}, but no such broker is registered."
            ));
        }
    }
    Ok(())
}

fn partitions_asked(broker: &Broker, topic: &CreatableTopic) -> i64 {
    if !topic.assignments.is_empty() {
        topic.assignments.len() as i64
    } else if topic.num_partitions == -1 {
        broker.config.kafka.long("num.partitions")
    } else {
        i64::from(topic.num_partitions.max(0))
    }
}

fn succeeded(broker: &Broker, id: Option<TopicId>, new: NewTopic, version: i16) -> CreatableTopicResult {
    let mut result = CreatableTopicResult {
        topic_id: id.map(|id| id.0).unwrap_or_default(),
        name: new.name,
        error_message: None,
        ..Default::default()
    };
    if version >= 5 {
        result.num_partitions = i32::try_from(new.owners.len()).unwrap_or(i32::MAX);
        result.replication_factor = new.replication_factor;
        result.configs = Some(broker.metadata.read(|state| described(broker, state, &new.configs)));
    }
    result
}

fn described(broker: &Broker, state: &State, overrides: &BTreeMap<String, String>) -> Vec<CreatableTopicConfigs> {
    let layers = Layers::new(state, broker.registration.node, &broker.config.kafka);
    let describe = |config: &'static ConfigDef| {
        let own = overrides.get(config.name);
        let inherited =
            || layers.inherited_sources(config).first().map_or(Source::Default, |strongest| strongest.source);
        CreatableTopicConfigs {
            name: config.name.to_owned(),
            value: Some(own.cloned().unwrap_or_else(|| layers.inherited_value(config))),
            config_source: own.map_or_else(inherited, |_| Source::Topic) as i8,
            ..Default::default()
        }
    };
    TOPIC_CONFIGS.iter().map(describe).collect()
}

fn failed(name: &str, error: ApiError) -> CreatableTopicResult {
    CreatableTopicResult {
        name: name.to_owned(),
        error_code: error.code.code(),
        error_message: error.message,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seawall_metadata::{BootId, ClusterId, Command, Incarnation, command::supported_features};
    use uuid::Uuid;

    fn two_brokers() -> State {
        let mut state = State::default();
        let init = Command::InitCluster {
            cluster: ClusterId(Uuid::from_u128(1)),
            incarnation: Incarnation(Uuid::from_u128(2)),
            metadata_level: 1,
        };
        let register = |node| Command::RegisterBroker {
            node: NodeId(node),
            boot: BootId(Uuid::from_u128(3)),
            listeners: vec![],
            rack: None,
            wals: vec![],
            features: supported_features(),
        };
        for (n, command) in [init, register(1), register(2)].into_iter().enumerate() {
            state.apply(n as u64 + 1, command).unwrap();
        }
        state
    }

    #[test]
    fn a_partition_goes_to_the_first_broker_that_its_assignment_names() {
        let assign = |assignments: &[(i32, &[i32])]| {
            let assignment = |(partition_index, brokers): &(i32, &[i32])| CreatableReplicaAssignment {
                partition_index: *partition_index,
                broker_ids: brokers.to_vec(),
                ..Default::default()
            };
            let asked = CreatableTopic {
                num_partitions: -1,
                replication_factor: -1,
                assignments: assignments.iter().map(assignment).collect(),
                ..Default::default()
            };
            assigned(&two_brokers(), &asked).map_err(|error| error.code)
        };
        assert_eq!(
            assign(&[(1, &[1, 2]), (0, &[2, 1]), (2, &[2, 1])]),
            Ok((vec![NodeId(2), NodeId(1), NodeId(2)], 2)),
            "in the order of the partitions"
        );
        for refused in [&[(0, &[3][..])][..], &[(0, &[1, 1])], &[(0, &[])], &[(1, &[1])], &[(0, &[1]), (1, &[1, 2])]] {
            assert_eq!(assign(refused), Err(ErrorCode::InvalidReplicaAssignment), "{refused:?}");
        }
    }
}
