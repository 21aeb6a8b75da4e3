//! Configs as they were set, and producer-id blocks. What a key means is left to the broker.

use super::State;
use crate::command::{ConfigOp, ConfigResource, Rejection, Response};
use crate::ids::*;

impl State {
    pub(super) fn alter_configs(
        &mut self,
        resource: ConfigResource,
        ops: Vec<ConfigOp>,
        replace_all: bool,
    ) -> Result<Response, Rejection> {
        if let ConfigResource::Topic { name } = &resource
            && !self.topic_names.contains_key(name)
        {
            return Err(Rejection::UnknownTopicName(name.clone()));
        }
        let unlike = |op: &&ConfigOp| match op {
            ConfigOp::Expect { key, value } => {
                self.configs.get(&resource).and_then(|configs| configs.get(key)) != value.as_ref()
            }
            ConfigOp::Set { .. } | ConfigOp::Delete { .. } => false,
        };
        if let Some(ConfigOp::Expect { key, .. }) = ops.iter().find(unlike) {
            return Err(Rejection::ConfigChanged { key: key.clone() });
        }
        let mut configs = self.configs.remove(&resource).unwrap_or_default();
        if replace_all {
            configs.clear();
        }
        for op in ops {
            match op {
                ConfigOp::Set { key, value } => _ = configs.insert(key, value),
                ConfigOp::Delete { key } => _ = configs.remove(&key),
                ConfigOp::Expect { .. } => {}
            }
        }
        if !configs.is_empty() {
            self.configs.insert(resource, configs);
        }
        Ok(Response::Done)
    }

    pub(super) fn allocate_producer_ids(&mut self, by: Registration, count: u32) -> Result<Response, Rejection> {
        self.active(by)?;
        if count == 0 {
            return Err(Rejection::Malformed("no producer ids asked for"));
        }
        let first = self.next_producer_id;
        let next = first.0.checked_add(i64::from(count)).ok_or(Rejection::Exhausted("producer ids"))?;
        self.next_producer_id = ProducerId(next);
        Ok(Response::ProducerIds { first, count })
    }
}
