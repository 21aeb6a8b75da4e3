//! What committed objects remember of a stream's producers, for recovery: the newest full state and the deltas after it.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use seawall_backends::Purpose;
use seawall_metadata::{MetadataHandle, ObjectId, Offset, StreamId};
use tracing::{error, warn};

use crate::object_format::StreamProducers;
use crate::object_reader::{ObjectError, ObjectReader, ObjectRef};
use crate::producer_state::ProducerSnapshot;
use crate::recovery::ProducerSource;

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Reads producer states, each object once. Drop it when recovery is over.
pub struct ObjectProducers {
    metadata: MetadataHandle,
    reader: Arc<ObjectReader>,
    read: Mutex<HashMap<ObjectId, Arc<HashMap<StreamId, StreamProducers>>>>,
}

impl ObjectProducers {
    pub fn new(metadata: MetadataHandle, reader: Arc<ObjectReader>) -> ObjectProducers {
        ObjectProducers { metadata, reader, read: Mutex::default() }
    }

    /// Snapshots in offset order: later ones go over earlier ones.
    async fn of_stream(&self, stream: StreamId) -> Vec<ProducerSnapshot> {
        // An object that is gone may have been replaced since it was looked up.
        for again in [true, false] {
            let objects: Vec<ObjectRef> = self.metadata.read(|state| {
                let start = state.stream(stream).map_or(Offset(0), |stream| stream.start);
                state.ranges(stream, start).filter_map(|range| ObjectRef::of(state, range.object)).collect()
            });
            if let Some(states) = self.of_objects(stream, objects, again).await {
                return states;
            }
        }
        unreachable!("the last time what is gone is passed over")
    }

    /// `None` if an object is gone and that is to be told.
    async fn of_objects(
        &self,
        stream: StreamId,
        objects: Vec<ObjectRef>,
        tell_gone: bool,
    ) -> Option<Vec<ProducerSnapshot>> {
        let mut newest_first: Vec<Vec<ProducerSnapshot>> = Vec::new();
        for object in objects.into_iter().rev() {
            let states = self.of_object(object, tell_gone).await?;
            let Some(of_stream) = states.get(&stream) else { continue };
            newest_first.push(of_stream.producers.clone());
            if of_stream.full {
                break;
            }
        }
        Some(newest_first.into_iter().rev().flatten().collect())
    }

    async fn of_object(&self, object: ObjectRef, tell_gone: bool) -> Option<Arc<HashMap<StreamId, StreamProducers>>> {
        let known = self.read.lock().unwrap_or_else(PoisonError::into_inner).get(&object.object).cloned();
        if let Some(known) = known {
            return Some(known);
        }
        let mut pause = PAUSE_MIN;
        let states = loop {
            match self.reader.producers(&object, Purpose::TailRead).await {
                Ok(states) => break states,
                Err(error @ ObjectError::Unavailable { .. }) => {
                    // Without them a producer's repeat could be appended twice.
                    warn!(%error, "waiting for the store: producer states are needed to start");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(ObjectError::NotFound(_)) if tell_gone => return None,
                Err(error @ (ObjectError::Corrupt { .. } | ObjectError::NotFound(_))) => {
                    error!(%error, "producer states are lost: repeats of batches in this object are not recognised");
                    break Vec::new();
                }
            }
        };
        let states = Arc::new(states.into_iter().map(|state| (state.stream, state)).collect::<HashMap<_, _>>());
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(object.object, states.clone());
        Some(states)
    }
}

impl ProducerSource for ObjectProducers {
    fn producer_state(
        &self,
        stream: StreamId,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<ProducerSnapshot>, String>> + Send + '_>> {
        Box::pin(async move { Ok(self.of_stream(stream).await) })
    }
}
