//! The DescribeClientQuotas API: the entities that match a filter, with the quotas set on them.

use std::{collections::BTreeMap, sync::Arc};

use seawall_metadata::command::{QuotaEntity, QuotaName, QuotaValue};
use seawall_protocol::{
    ErrorCode,
    messages::{
        DescribeClientQuotasRequest, DescribeClientQuotasResponse,
        describe_client_quotas_request::ComponentData,
        describe_client_quotas_response::{EntityData, EntryData, ValueData},
    },
};

use crate::{broker::Broker, dispatch::RequestContext, error_code::ApiError};

pub const USER: &str = "user";
pub const CLIENT_ID: &str = "client-id";
pub const IP: &str = "ip";

const EXACT: i8 = 0;
const DEFAULT: i8 = 1;
const SPECIFIED: i8 = 2;

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: DescribeClientQuotasRequest,
    _version: i16,
) -> DescribeClientQuotasResponse {
    let filter = match Filter::of(&request) {
        Ok(filter) => filter,
        Err(error) => {
            return DescribeClientQuotasResponse {
                error_code: error.code.code(),
                error_message: error.message,
                entries: None,
                ..Default::default()
            };
        }
    };
    let entries = broker.metadata.read(|state| {
        let matching = state.quotas().iter().filter(|(entity, _)| filter.matches(entity));
        matching.map(|(entity, quotas)| entry(entity, quotas)).collect()
    });
    DescribeClientQuotasResponse { error_message: None, entries: Some(entries), ..Default::default() }
}

/// What each part of an entity must be; a part that is not named may be anything, or with `strict` must be absent.
struct Filter {
    parts: BTreeMap<String, Wanted>,
    strict: bool,
}

enum Wanted {
    Exactly(QuotaName),
    Any,
}

impl Filter {
    fn of(request: &DescribeClientQuotasRequest) -> Result<Self, ApiError> {
        let mut parts = BTreeMap::new();
        for component in &request.components {
            let kind = &component.entity_type;
            if kind.is_empty() {
                return invalid("Invalid empty entity type.".into());
            }
            if parts.contains_key(kind) {
                return invalid(format!("Entity type {kind} cannot appear more than once in the filter."));
            }
            if ![USER, CLIENT_ID, IP].contains(&kind.as_str()) {
                let message = format!("Unsupported entity type {kind}");
                return Err(ApiError::new(ErrorCode::UnsupportedVersion, message));
            }
            parts.insert(kind.clone(), wanted(component)?);
        }
        if parts.contains_key(IP) && parts.len() > 1 {
            let message = "Invalid entity filter component combination. IP filter component should not be used with \
                           user or clientId filter component.";
            return invalid(message.into());
        }
        Ok(Self { parts, strict: request.strict })
    }

    fn matches(&self, entity: &QuotaEntity) -> bool {
        let matches = |(kind, name): &(&str, &Option<QuotaName>)| match (self.parts.get(*kind), name) {
            (Some(Wanted::Exactly(wanted)), Some(name)) => wanted == name,
            (Some(Wanted::Any), Some(_)) => true,
            (Some(_), None) => false,
            (None, Some(_)) => !self.strict,
            (None, None) => true,
        };
        parts_of(entity).iter().all(matches)
    }
}

fn wanted(component: &ComponentData) -> Result<Wanted, ApiError> {
    match (component.match_type, &component.r#match) {
        (EXACT, Some(name)) => Ok(Wanted::Exactly(QuotaName::Named { name: name.clone() })),
        (EXACT, None) => invalid("Request specified MATCH_TYPE_EXACT, but set match string to null.".into()),
        (DEFAULT, None) => Ok(Wanted::Exactly(QuotaName::Default)),
        (DEFAULT, Some(_)) => {
            invalid("Request specified MATCH_TYPE_DEFAULT, but also specified a match string.".into())
        }
        (SPECIFIED, None) => Ok(Wanted::Any),
        (SPECIFIED, Some(_)) => {
            invalid("Request specified MATCH_TYPE_SPECIFIED, but also specified a match string.".into())
        }
        (other, _) => invalid(format!("Unknown match type {other}")),
    }
}

fn invalid<T>(message: String) -> Result<T, ApiError> {
    Err(ApiError::new(ErrorCode::InvalidRequest, message))
}

/// The parts of an entity with their names on the wire.
fn parts_of(entity: &QuotaEntity) -> [(&'static str, &Option<QuotaName>); 3] {
    [(USER, &entity.user), (CLIENT_ID, &entity.client_id), (IP, &entity.ip)]
}

fn entry(entity: &QuotaEntity, quotas: &BTreeMap<String, QuotaValue>) -> EntryData {
    let part = |(kind, name): (&str, &Option<QuotaName>)| {
        let entity_name = match name.as_ref()? {
            QuotaName::Default => None,
            QuotaName::Named { name } => Some(name.clone()),
        };
        Some(EntityData { entity_type: kind.to_owned(), entity_name, ..Default::default() })
    };
    let value =
        |(key, value): (&String, &QuotaValue)| ValueData { key: key.clone(), value: value.get(), ..Default::default() };
    EntryData {
        entity: parts_of(entity).into_iter().filter_map(part).collect(),
        values: quotas.iter().map(value).collect(),
        ..Default::default()
    }
}
