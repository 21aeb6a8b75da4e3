//! The features that clients ask for by name, and the levels at which this broker works. Those of Kafka follow from the
//! build: an operator does not change them. One is our own and gates our formats: [`SEAWALL_VERSION`].

use seawall_metadata::command::METADATA_LEVEL;
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

/// What metadata calls `metadata.version`: Kafka's feature of that name has levels of its own, and tools know them.
pub const SEAWALL_VERSION: &str = "seawall.version";

const KAFKA_FEATURES: &[KafkaFeature] = &[
    // Clients use the consumer protocol only where it is finalized.
    KafkaFeature { name: "group.version", min: 0, max: 1, finalized: 1 },
    // Kafka 3.3 to 4.3: what tools and clients infer from it holds here.
    KafkaFeature { name: "metadata.version", min: 7, max: 30, finalized: 30 },
];

/// All of them. `metadata_level` is the finalized one of [`SEAWALL_VERSION`].
fn all(metadata_level: u16) -> impl Iterator<Item = KafkaFeature> {
    let level = |level| i16::try_from(level).unwrap_or(i16::MAX);
    let (max, finalized) = (level(METADATA_LEVEL), level(metadata_level));
    let ours = KafkaFeature { name: SEAWALL_VERSION, min: 1, max, finalized };
    KAFKA_FEATURES.iter().copied().chain([ours])
}

pub fn by_name(name: &str, metadata_level: u16) -> Option<KafkaFeature> {
    all(metadata_level).find(|feature| feature.name == name)
}

/// Before version 4 of ApiVersions a minimum of 0 cannot be told, and such features are left out, as in Kafka.
pub fn supported(version: i16) -> Vec<SupportedFeatureKey> {
    let key = |feature: KafkaFeature| SupportedFeatureKey {
        name: feature.name.to_owned(),
        min_version: feature.min,
        max_version: feature.max,
        ..Default::default()
    };
    all(0).filter(|feature| version >= 4 || feature.min > 0).map(key).collect()
}

pub fn finalized(metadata_level: u16) -> Vec<FinalizedFeatureKey> {
    let key = |feature: KafkaFeature| FinalizedFeatureKey {
        name: feature.name.to_owned(),
        max_version_level: feature.finalized,
        min_version_level: feature.finalized,
        ..Default::default()
    };
    all(metadata_level).filter(|feature| feature.finalized > 0).map(key).collect()
}
