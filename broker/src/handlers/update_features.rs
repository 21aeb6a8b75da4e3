//! The UpdateFeatures API. Clients see the features of Kafka at fixed levels (`kafka_features.rs`): asking for the level
//! that is there succeeds, anything else is refused in Kafka's words. `seawall.version` is ours and can be raised.

use std::collections::BTreeMap;
use std::sync::Arc;

use seawall_metadata::command::METADATA_VERSION;
use seawall_metadata::{Command, State};
use seawall_protocol::{
    ErrorCode,
    messages::{
        UpdateFeaturesRequest, UpdateFeaturesResponse, update_features_request::FeatureUpdateKey,
        update_features_response::UpdatableFeatureResult,
    },
};

use crate::{
    broker::Broker,
    dispatch::RequestContext,
    error_code::ApiError,
    kafka_features::{self, KafkaFeature, SEAWALL_VERSION},
};

const UPGRADE: i8 = 1;
const UNSAFE_DOWNGRADE: i8 = 3;
/// From this version on one failure fails all, and there are no results per feature.
const FIRST_VERSION_WITH_ONE_ERROR: i16 = 2;

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: UpdateFeaturesRequest,
    version: i16,
) -> UpdateFeaturesResponse {
    let level = broker.metadata.read(State::metadata_level);
    let checked: Result<Vec<Option<u16>>, ApiError> =
        request.feature_updates.iter().map(|asked| update(asked, version, level)).collect();
    let done = match checked.map(|raised| raised.into_iter().flatten().max()) {
        Ok(Some(level)) if !request.validate_only => finalize(broker, level).await,
        checked => checked.map(|_| ()),
    };
    let (error_code, error_message) = match done {
        Err(error) => (error.code.code(), error.message),
        Ok(()) => (0, None),
    };
    let results = if error_code != 0 || version >= FIRST_VERSION_WITH_ONE_ERROR {
        Vec::new()
    } else {
        let done = |asked: FeatureUpdateKey| UpdatableFeatureResult {
            feature: asked.feature,
            error_message: None,
            ..Default::default()
        };
        request.feature_updates.into_iter().map(done).collect()
    };
    UpdateFeaturesResponse { error_code, error_message, results, ..Default::default() }
}

/// Raises the level of our own feature. It cannot be lowered again.
async fn finalize(broker: &Broker, level: u16) -> Result<(), ApiError> {
    let features = BTreeMap::from([(METADATA_VERSION.to_owned(), level)]);
    match broker.metadata.propose(Command::FinalizeFeatures { features }).await {
        Ok(_) => {
            tracing::info!(level, "{SEAWALL_VERSION} finalized");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Checks one update; a level if our own feature rises to it.
fn update(asked: &FeatureUpdateKey, version: i16, metadata_level: u16) -> Result<Option<u16>, ApiError> {
    let (name, level) = (&asked.feature, asked.max_version_level);
    let invalid = |why: String| {
        let message = format!("Invalid update version {level} for feature {name}. {why}");
        Err(ApiError::new(ErrorCode::InvalidUpdateVersion, message))
    };
    let kind = if version == 0 && asked.allow_downgrade { 2 } else { asked.upgrade_type };
    if !(UPGRADE..=UNSAFE_DOWNGRADE).contains(&kind) {
        return invalid("The controller does not support the given upgrade type.".into());
    }
    if level < 0 {
        return invalid("A feature version cannot be less than 0.".into());
    }
    let Some(KafkaFeature { min, max, finalized, .. }) = kafka_features::by_name(name, metadata_level) else {
        return if level == 0 { Ok(None) } else { invalid("Local controller does not support this feature.".into()) };
    };
    if level != 0 && !(min..=max).contains(&level) {
        return invalid(format!("Local controller only supports versions {min}-{max}"));
    }
    match level.cmp(&finalized) {
        std::cmp::Ordering::Equal => Ok(None),
        std::cmp::Ordering::Less if kind == UPGRADE => {
            let why = "Can't downgrade the version of this feature without setting the upgrade type to either safe or \
                       unsafe downgrade.";
            invalid(why.into())
        }
        std::cmp::Ordering::Greater if kind != UPGRADE => invalid("Can't downgrade to a newer version.".into()),
        std::cmp::Ordering::Greater if name == SEAWALL_VERSION => Ok(u16::try_from(level).ok()),
        _ => invalid("The level of this feature is fixed.".into()),
    }
}
