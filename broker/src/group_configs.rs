//! The check of the configs of one group (resource type 32), within the bounds that the broker sets.

use std::collections::BTreeMap;

use seawall_metadata::{NodeId, State, command::ConfigResource};

use crate::{
    broker_settings::{self, KafkaSettings},
    config_def::{self, ConfigDef},
    config_values::Layers,
    kafka_configs::GROUP_CONFIGS,
};

pub fn find(name: &str) -> Option<&'static ConfigDef> {
    config_def::find(GROUP_CONFIGS, name)
}

/// What a config of a group comes to.
pub fn value(name: &str, overrides: &BTreeMap<String, String>, layers: Layers<'_>) -> Option<String> {
    let config = find(name)?;
    Some(overrides.get(name).cloned().unwrap_or_else(|| layers.inherited_value(config)))
}

/// What is set for a group while the broker runs: its own configs, and for the others the broker's dynamic ones.
pub fn set(state: &State, node: NodeId, group: &str) -> BTreeMap<String, String> {
    let own = state.configs(&ConfigResource::Group { name: group.to_owned() });
    let dynamic = [ConfigResource::Broker { node }, ConfigResource::BrokerDefault].map(|layer| state.configs(&layer));
    let inherited = GROUP_CONFIGS.iter().filter_map(|config| {
        let (synonym, _) = config.synonyms.first()?;
        let value = dynamic.iter().flatten().find_map(|layer| layer.get(*synonym))?;
        Some((config.name.to_owned(), value.clone()))
    });
    let mut set: BTreeMap<String, String> = inherited.collect();
    set.extend(own.cloned().unwrap_or_default());
    set
}

/// A config, the broker configs that bound it from below and above, and whether it is checked only where it is set.
const BOUNDS: [(&str, Option<&str>, &str, bool); 13] = [
    within(
        "consumer.heartbeat.interval.ms",
        "group.consumer.min.heartbeat.interval.ms",
        "group.consumer.max.heartbeat.interval.ms",
    ),
    within(
        "consumer.session.timeout.ms",
        "group.consumer.min.session.timeout.ms",
        "group.consumer.max.session.timeout.ms",
    ),
    if_set(
        "consumer.assignment.interval.ms",
        "group.consumer.min.assignment.interval.ms",
        "group.consumer.max.assignment.interval.ms",
    ),
    within(
        "share.heartbeat.interval.ms",
        "group.share.min.heartbeat.interval.ms",
        "group.share.max.heartbeat.interval.ms",
    ),
    within("share.session.timeout.ms", "group.share.min.session.timeout.ms", "group.share.max.session.timeout.ms"),
    within(
        "share.record.lock.duration.ms",
        "group.share.min.record.lock.duration.ms",
        "group.share.max.record.lock.duration.ms",
    ),
    within(
        "share.delivery.count.limit",
        "group.share.min.delivery.count.limit",
        "group.share.max.delivery.count.limit",
    ),
    within(
        "share.partition.max.record.locks",
        "group.share.min.partition.max.record.locks",
        "group.share.max.partition.max.record.locks",
    ),
    if_set(
        "share.assignment.interval.ms",
        "group.share.min.assignment.interval.ms",
        "group.share.max.assignment.interval.ms",
    ),
    within(
        "streams.heartbeat.interval.ms",
        "group.streams.min.heartbeat.interval.ms",
        "group.streams.max.heartbeat.interval.ms",
    ),
    within(
        "streams.session.timeout.ms",
        "group.streams.min.session.timeout.ms",
        "group.streams.max.session.timeout.ms",
    ),
    ("streams.num.standby.replicas", None, "group.streams.max.standby.replicas", false),
    if_set(
        "streams.assignment.interval.ms",
        "group.streams.min.assignment.interval.ms",
        "group.streams.max.assignment.interval.ms",
    ),
];

const fn within(
    name: &'static str,
    min: &'static str,
    max: &'static str,
) -> (&'static str, Option<&'static str>, &'static str, bool) {
    (name, Some(min), max, false)
}

const fn if_set(
    name: &'static str,
    min: &'static str,
    max: &'static str,
) -> (&'static str, Option<&'static str>, &'static str, bool) {
    (name, Some(min), max, true)
}

/// Their values are held against each other: each session timeout against the heartbeat interval.
pub const CHECKED_TOGETHER: [&str; 6] = [
    "consumer.session.timeout.ms",
    "consumer.heartbeat.interval.ms",
    "share.session.timeout.ms",
    "share.heartbeat.interval.ms",
    "streams.session.timeout.ms",
    "streams.heartbeat.interval.ms",
];

/// Checks what a group would hold; the error is a sentence for the client.
pub fn validate(overrides: &BTreeMap<String, String>, layers: Layers<'_>) -> Result<(), String> {
    for name in overrides.keys() {
        find(name).ok_or_else(|| format!("Unknown group config name: {name}"))?;
    }
    for (name, value) in overrides {
        find(name).map_or(Ok(()), |config| config.validate(value))?;
    }
    let number = |text: Option<String>| text.and_then(|text| text.trim().parse::<i64>().ok());
    let of_group = |name: &str| number(value(name, overrides, layers));
    let of_broker = |name: &str| number(layers.broker_value(broker_settings::find(name)?));
    for (name, min, max, only_if_set) in BOUNDS {
        if only_if_set && !overrides.contains_key(name) {
            continue;
        }
        let Some(n) = of_group(name) else { continue };
        if let Some(min) = min
            && of_broker(min).is_some_and(|bound| n < bound)
        {
            return Err(format!("{name} must be greater than or equal to {min}"));
        }
        if of_broker(max).is_some_and(|bound| n > bound) {
            return Err(format!("{name} must be less than or equal to {max}"));
        }
    }
    for pair in CHECKED_TOGETHER.chunks(2) {
        let (session, heartbeat) = (pair[0], pair[1]);
        if of_group(session) <= of_group(heartbeat) {
            return Err(format!("{session} must be greater than {heartbeat}"));
        }
    }
    Ok(())
}

/// Checks the broker's own values of these, which its configuration file sets; the error is a sentence for a person.
pub fn validate_broker(settings: &KafkaSettings) -> Result<(), String> {
    // A config of groups has the broker's as its synonym.
    let named = |name: &'static str| {
        let name = find(name).and_then(|config| config.synonyms.first()).map_or(name, |(synonym, _)| *synonym);
        (name, settings.long(name))
    };
    let at_least = |(name, n): (&str, i64), (bound_name, bound): (&str, i64)| {
        (n >= bound).then_some(()).ok_or_else(|| format!("{name} = {n} must be {bound_name} = {bound} or more"))
    };
    for (name, min, max, _) in BOUNDS {
        if let Some(min) = min {
            at_least(named(max), named(min))?;
            at_least(named(name), named(min))?;
        }
        at_least(named(max), named(name))?;
    }
    for pair in CHECKED_TOGETHER.chunks(2) {
        let ((session, session_ms), (heartbeat, heartbeat_ms)) = (named(pair[0]), named(pair[1]));
        if session_ms <= heartbeat_ms {
            return Err(format!("{session} = {session_ms} must be more than {heartbeat} = {heartbeat_ms}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_within_the_bounds_of_the_broker() {
        let (state, file) = (State::default(), KafkaSettings::default());
        let check = |name: &str, value: &str| {
            validate(&BTreeMap::from([(name.to_owned(), value.to_owned())]), Layers::new(&state, NodeId(1), &file))
        };
        assert_eq!(check("consumer.session.timeout.ms", "46000"), Ok(()));
        assert_eq!(
            check("consumer.session.timeout.ms", "44000"),
            Err("consumer.session.timeout.ms must be greater than or equal to group.consumer.min.session.timeout.ms"
                .into())
        );
        assert_eq!(
            check("consumer.heartbeat.interval.ms", "99000"),
            Err(
                "consumer.heartbeat.interval.ms must be less than or equal to group.consumer.max.heartbeat.interval.ms"
                    .into()
            )
        );
        assert_eq!(check("no.such", "1"), Err("Unknown group config name: no.such".into()));
        assert_eq!(
            check("consumer.session.timeout.ms", "x"),
            Err("Invalid value x for configuration consumer.session.timeout.ms: Not a number of type INT".into())
        );
        for (name, min, max, _) in BOUNDS {
            assert!(find(name).is_some_and(|config| !config.synonyms.is_empty()), "{name}");
            assert!(min.into_iter().chain([max]).all(|bound| broker_settings::find(bound).is_some()), "{name}");
        }
    }

    #[test]
    fn the_brokers_own_values_keep_within_the_bounds_that_it_sets_for_groups() {
        let check = |values: &[(&str, &str)]| {
            let mut settings = KafkaSettings::default();
            values.iter().for_each(|(name, value)| settings.set(name, value).unwrap());
            validate_broker(&settings).err().unwrap_or_default()
        };
        assert_eq!(check(&[]), "");
        let (session, least) = ("group.consumer.session.timeout.ms", "group.consumer.min.session.timeout.ms");
        assert_eq!(check(&[(session, "6000"), (least, "6000")]), "");
        assert_eq!(
            check(&[(session, "6000")]),
            "group.consumer.session.timeout.ms = 6000 must be group.consumer.min.session.timeout.ms = 45000 or more"
        );
        assert_eq!(
            check(&[("group.consumer.heartbeat.interval.ms", "16000")]),
            "group.consumer.max.heartbeat.interval.ms = 15000 must be group.consumer.heartbeat.interval.ms = 16000 or more"
        );
        assert_eq!(
            check(&[(least, "61000"), (session, "61000")]),
            "group.consumer.max.session.timeout.ms = 60000 must be group.consumer.min.session.timeout.ms = 61000 or more"
        );
        assert_eq!(
            check(&[(session, "5000"), (least, "5000")]),
            "group.consumer.session.timeout.ms = 5000 must be more than group.consumer.heartbeat.interval.ms = 5000"
        );
        assert_ne!(check(&[("group.streams.num.standby.replicas", "3")]), "");
    }

    #[test]
    fn a_dynamic_value_of_the_broker_counts_for_groups_without_their_own() {
        use seawall_metadata::{ClusterId, Command, Incarnation, command::ConfigOp};
        let mut state = State::default();
        let init = Command::InitCluster {
            cluster: ClusterId(uuid::Uuid::from_u128(1)),
            incarnation: Incarnation(uuid::Uuid::from_u128(2)),
            metadata_level: 1,
        };
        state.apply(1, init).unwrap();
        let mut index = 1;
        let mut alter = |resource: ConfigResource, key: &str, value: &str| {
            index += 1;
            let ops = vec![ConfigOp::Set { key: key.into(), value: value.into() }];
            state.apply(index, Command::AlterConfigs { resource, ops, replace_all: false }).unwrap();
        };
        alter(ConfigResource::BrokerDefault, "group.consumer.assignment.interval.ms", "7");
        alter(ConfigResource::Group { name: "own".into() }, "consumer.assignment.interval.ms", "9");
        let interval = |group: &str| set(&state, NodeId(1), group)["consumer.assignment.interval.ms"].clone();
        assert_eq!((interval("own"), interval("other")), ("9".to_owned(), "7".to_owned()));
    }

    #[test]
    fn what_a_group_does_not_set_comes_from_the_broker() {
        let mut file = KafkaSettings::default();
        file.set("group.consumer.session.timeout.ms", "50000").unwrap();
        let state = State::default();
        let layers = Layers::new(&state, NodeId(1), &file);
        assert_eq!(value("consumer.session.timeout.ms", &BTreeMap::new(), layers).as_deref(), Some("50000"));
        assert_eq!(value("share.isolation.level", &BTreeMap::new(), layers).as_deref(), Some("read_uncommitted"));
    }
}
