//! Quotas of clients as they were set. What a key means, and which keys there are, is left to the broker.

use super::State;
use crate::command::{QuotaChange, Rejection, Response};

impl State {
    pub(super) fn alter_client_quotas(&mut self, changes: Vec<QuotaChange>) -> Result<Response, Rejection> {
        if !changes.iter().all(|change| change.entity.is_possible()) {
            return Err(Rejection::Malformed("a quota belongs to a user, a client id, both, or an IP address"));
        }
        for QuotaChange { entity, values } in changes {
            let mut quotas = self.quotas.remove(&entity).unwrap_or_default();
            for (key, value) in values {
                match value {
                    Some(value) => quotas.insert(key, value),
                    None => quotas.remove(&key),
                };
            }
            if !quotas.is_empty() {
                self.quotas.insert(entity, quotas);
            }
        }
        Ok(Response::Done)
    }
}
