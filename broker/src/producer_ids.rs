//! Producer ids, handed out from blocks that metadata reserves. What is left of a block at a stop is never used.

use std::ops::Range;

use seawall_metadata::{Command, MetadataHandle, ProposeError, Registration, Response};
use tokio::sync::Mutex;

/// Ids per command.
const BLOCK: u32 = 1000;

pub struct ProducerIds {
    metadata: MetadataHandle,
    by: Registration,
    left: Mutex<Range<i64>>,
}

impl ProducerIds {
    pub fn new(metadata: MetadataHandle, by: Registration) -> Self {
        Self { metadata, by, left: Mutex::default() }
    }

    /// An id that no producer of this cluster ever had.
    pub async fn next(&self) -> Result<i64, ProposeError> {
        let mut left = self.left.lock().await;
        if left.is_empty() {
            let (_, response) =
                self.metadata.propose(Command::AllocateProducerIds { by: self.by, count: BLOCK }).await?;
            let Response::ProducerIds { first, count } = response else {
                panic!("AllocateProducerIds answered {response:?}");
            };
            *left = first.0..first.0 + i64::from(count);
        }
        let id = left.start;
        left.start += 1;
        Ok(id)
    }
}
