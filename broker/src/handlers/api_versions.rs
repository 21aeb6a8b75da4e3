//! The ApiVersions API: what this broker speaks.

use std::sync::Arc;

use seawall_protocol::{
    ApiKey, ErrorCode,
    api_versions::KAFKA_4_3,
    messages::{ApiVersionsRequest, ApiVersionsResponse, api_versions_response::ApiVersion},
};

use crate::{
    broker::Broker,
    dispatch::{RequestContext, advertised},
    kafka_features,
};

/// Whether a version of ApiVersions itself can be decoded.
pub fn is_known(version: i16) -> bool {
    own_range().is_some_and(|(_, first, last)| (first..=last).contains(&version))
}

/// The answer to a too new version, in the form of version 0: the client steps down to what it names.
pub fn unsupported_version() -> ApiVersionsResponse {
    ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion.code(),
        api_keys: own_range().into_iter().map(api_version).collect(),
        ..Default::default()
    }
}

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: ApiVersionsRequest,
    version: i16,
) -> ApiVersionsResponse {
    let named = version < 3
        || (is_software_name(&request.client_software_name) && is_software_name(&request.client_software_version));
    if !named {
        return ApiVersionsResponse { error_code: ErrorCode::InvalidRequest.code(), ..Default::default() };
    }
    // An index that moves with what is finalized, and more often.
    let (index, level) = broker.metadata.read(|state| (state.topology_index(), state.metadata_level()));
    ApiVersionsResponse {
        api_keys: advertised().map(api_version).collect(),
        supported_features: kafka_features::supported(version),
        finalized_features_epoch: i64::try_from(index).unwrap_or(i64::MAX),
        finalized_features: kafka_features::finalized(level),
        ..Default::default()
    }
}

fn own_range() -> Option<(ApiKey, i16, i16)> {
    KAFKA_4_3.iter().copied().find(|(api, _, _)| *api == ApiKey::ApiVersions)
}

fn api_version((api, min_version, max_version): (ApiKey, i16, i16)) -> ApiVersion {
    ApiVersion { api_key: api as i16, min_version, max_version, ..Default::default() }
}

/// Letters, digits, dots and dashes, with a letter or digit at both ends.
fn is_software_name(name: &str) -> bool {
    let alphanumeric = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    alphanumeric(name.chars().next())
        && alphanumeric(name.chars().next_back())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names_follow_kafkas_pattern() {
        for name in ["apache-kafka-java", "4.3.1", "a"] {
            assert!(is_software_name(name), "{name}");
        }
        for name in ["", "-a", "a-", "a b", "a_b"] {
            assert!(!is_software_name(name), "{name}");
        }
    }
}
