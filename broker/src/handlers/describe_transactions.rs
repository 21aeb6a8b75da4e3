//! The DescribeTransactions API: there are no transactions yet, and none is found.

use std::sync::Arc;

use seawall_protocol::{
    ErrorCode,
    messages::{
        DescribeTransactionsRequest, DescribeTransactionsResponse, describe_transactions_response::TransactionState,
    },
};

use crate::{broker::Broker, dispatch::RequestContext};

pub async fn handle(
    _broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: DescribeTransactionsRequest,
    _version: i16,
) -> DescribeTransactionsResponse {
    let answer = |transactional_id: String| {
        let error =
            if transactional_id.is_empty() { ErrorCode::InvalidRequest } else { ErrorCode::TransactionalIdNotFound };
        TransactionState { error_code: error.code(), transactional_id, ..Default::default() }
    };
    DescribeTransactionsResponse {
        transaction_states: request.transactional_ids.into_iter().map(answer).collect(),
        ..Default::default()
    }
}
