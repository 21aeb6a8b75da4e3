//! The ListTransactions API: there are no transactions yet, and the list is empty.

use std::sync::Arc;

use seawall_protocol::messages::{ListTransactionsRequest, ListTransactionsResponse};

use crate::{broker::Broker, dispatch::RequestContext};

/// The states that a transaction can be in, as Kafka names them.
const STATES: [&str; 8] = [
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "PrepareEpochFence",
    "Dead",
];

pub async fn handle(
    _broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: ListTransactionsRequest,
    _version: i16,
) -> ListTransactionsResponse {
    let mut unknown_state_filters = request.state_filters;
    unknown_state_filters.retain(|state| !STATES.contains(&state.as_str()));
    ListTransactionsResponse { unknown_state_filters, ..Default::default() }
}
