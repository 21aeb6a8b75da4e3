//! The AlterClientQuotas API: sets and removes quotas. Entities that are refused leave the others be.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use seawall_metadata::{
    Command,
    command::{QuotaChange, QuotaEntity, QuotaName, QuotaValue},
};
use seawall_protocol::{
    ErrorCode,
    messages::{
        AlterClientQuotasRequest, AlterClientQuotasResponse, alter_client_quotas_request,
        alter_client_quotas_response::{EntityData, EntryData},
    },
};

use crate::{
    broker::Broker,
    dispatch::RequestContext,
    error_code::ApiError,
    handlers::describe_client_quotas::{CLIENT_ID, IP, USER},
    quota_table::{CONNECTION_RATE, KINDS, QuotaKind},
};

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: AlterClientQuotasRequest,
    _version: i16,
) -> AlterClientQuotasResponse {
    let mut seen = BTreeSet::new();
    let mut changes = Vec::new();
    let mut answers: Vec<(alter_client_quotas_request::EntryData, Result<(), ApiError>)> = Vec::new();
    for asked in request.entries {
        let checked = change(&asked).and_then(|change| {
            let first = seen.insert(change.entity.clone());
            if first { Ok(change) } else { invalid("Ignoring duplicate entity".into()) }
        });
        let answer = checked.map(|change| changes.push(change));
        answers.push((asked, answer));
    }
    if !request.validate_only && !changes.is_empty() {
        match broker.metadata.propose(Command::AlterClientQuotas { changes }).await {
            // Whoever reads the answer finds them in force.
            Ok(_) => broker.quotas.refresh(),
            Err(error) => {
                let error = ApiError::from(error);
                answers
                    .iter_mut()
                    .filter(|(_, answer)| answer.is_ok())
                    .for_each(|(_, answer)| *answer = Err(error.clone()));
            }
        }
    }
    AlterClientQuotasResponse {
        entries: answers.into_iter().map(|(asked, answer)| result(asked, answer)).collect(),
        ..Default::default()
    }
}

fn change(asked: &alter_client_quotas_request::EntryData) -> Result<QuotaChange, ApiError> {
    let mut values = BTreeMap::new();
    for op in &asked.ops {
        if values.contains_key(&op.key) {
            return invalid(format!("Duplicate quota key {} not updating quota for this entity", op.key));
        }
        values.insert(op.key.clone(), (!op.remove).then_some(op.value));
    }
    let entity = entity(&asked.entity)?;
    let values = values.into_iter().map(|(key, value)| {
        let value = value.map(|value| check(&entity, &key, value)).transpose()?;
        Ok((key, value))
    });
    Ok(QuotaChange { values: values.collect::<Result<_, ApiError>>()?, entity })
}

fn entity(asked: &[alter_client_quotas_request::EntityData]) -> Result<QuotaEntity, ApiError> {
    let mut entity = QuotaEntity::default();
    for part in asked {
        let place = match part.entity_type.as_str() {
            USER => &mut entity.user,
            CLIENT_ID => &mut entity.client_id,
            IP => &mut entity.ip,
            other => return invalid(format!("Unhandled client quota entity type: {other}")),
        };
        if place.is_some() {
            return invalid(format!("Invalid client quota entity, duplicate entity entry {}", part.entity_type));
        }
        *place = Some(match &part.entity_name {
            None => QuotaName::Default,
            Some(name) if name.is_empty() => return invalid(format!("Empty {} not supported", part.entity_type)),
            Some(name) => QuotaName::Named { name: name.clone() },
        });
    }
    if asked.is_empty() {
        return invalid("Invalid empty client quota entity".into());
    }
    if !entity.is_possible() {
        let message = "Invalid quota entity combination, IP entity should not be combined with User or ClientId";
        return invalid(message.into());
    }
    if let Some(QuotaName::Named { name }) = &entity.ip
        && name.parse::<IpAddr>().is_err()
    {
        return invalid(format!("{name} is not a valid IP or resolvable host."));
    }
    Ok(entity)
}

/// The keys, types and bounds of Kafka.
fn check(entity: &QuotaEntity, key: &str, value: f64) -> Result<QuotaValue, ApiError> {
    let whole_max = if entity.ip.is_some() {
        (key == CONNECTION_RATE).then_some(Some((f64::from(i32::MAX), "an INT")))
    } else {
        let kind = KINDS.into_iter().find(|kind| kind.key() == key);
        kind.map(|kind| match kind {
            QuotaKind::Produce | QuotaKind::Fetch => Some((i64::MAX as f64, "a LONG")),
            QuotaKind::Request | QuotaKind::ControllerMutation => None,
        })
    };
    let Some(whole_max) = whole_max else { return invalid(format!("Invalid configuration key {key}")) };
    let quota = QuotaValue::new(value);
    let Some(quota) = quota else { return invalid(format!("Quota {key} must be greater than 0")) };
    if let Some((max, kind)) = whole_max {
        if value > max {
            return invalid(format!("Proposed value for {key} is too large for {kind}."));
        }
        if value.fract() > 1e-6 {
            return invalid(format!("{key} cannot be a fractional value."));
        }
    }
    Ok(quota)
}

fn invalid<T>(message: String) -> Result<T, ApiError> {
    Err(ApiError::new(ErrorCode::InvalidRequest, message))
}

fn result(asked: alter_client_quotas_request::EntryData, answer: Result<(), ApiError>) -> EntryData {
    let error = answer.err();
    let part = |part: alter_client_quotas_request::EntityData| EntityData {
        entity_type: part.entity_type,
        entity_name: part.entity_name,
        ..Default::default()
    };
    EntryData {
        error_code: error.as_ref().map_or(0, |error| error.code.code()),
        error_message: error.and_then(|error| error.message),
        entity: asked.entity.into_iter().map(part).collect(),
        ..Default::default()
    }
}
