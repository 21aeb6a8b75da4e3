//! The features of Kafka that clients ask for by name, and the levels at which this broker works. They follow from the
//! build: an operator does not change them. What gates our own formats is the finalized features in metadata.

use seawall_protocol::messages::api_versions_response::{FinalizedFeatureKey, SupportedFeatureKey};

/// A feature and its levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KafkaFeature {
    pub name: &'static str,
    pub min: i16,
    pub max: i16,
    /// Zero is the same as not finalized.
    pub finalized: i16,
}

const FEATURES: &[KafkaFeature] = &[
    // Clients use the consumer protocol only where it is finalized.
    KafkaFeature { name: "group.version", min: 0, max: 1, finalized: 1 },
    // Kafka 3.3 to 4.3: what tools and clients infer from it holds here.
    KafkaFeature { name: "metadata.version", min: 7, max: 30, finalized: 30 },
];

pub fn by_name(name: &str) -> Option<KafkaFeature> {
    FEATURES.iter().copied().find(|feature| feature.name == name)
}

/// Before version 4 of ApiVersions a minimum of 0 cannot be told, and such features are left out, as in Kafka.
pub fn supported(version: i16) -> Vec<SupportedFeatureKey> {
    let key = |feature: &KafkaFeature| SupportedFeatureKey {
        name: feature.name.to_owned(),
        min_version: feature.min,
        max_version: feature.max,
        ..Default::default()
    };
    FEATURES.iter().filter(|feature| version >= 4 || feature.min > 0).map(key).collect()
}

pub fn finalized() -> Vec<FinalizedFeatureKey> {
    let key = |feature: &KafkaFeature| FinalizedFeatureKey {
        name: feature.name.to_owned(),
        max_version_level: feature.finalized,
        min_version_level: feature.finalized,
        ..Default::default()
    };
    FEATURES.iter().filter(|feature| feature.finalized > 0).map(key).collect()
}
