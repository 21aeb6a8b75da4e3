//! The event log of a seed: a hash of all of it, and its end for people.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

const KEPT: usize = 60;

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Trace {
    shared: Arc<Mutex<Events>>,
}

struct Events {
    hash: u64,
    count: u64,
    last: VecDeque<String>,
    all: bool,
}

impl Default for Events {
    fn default() -> Self {
        let all = std::env::var("SIM_TRACE").is_ok();
        Self { hash: 0xcbf2_9ce4_8422_2325, count: 0, last: VecDeque::new(), all }
    }
}

impl Trace {
    pub fn note(&self, event: String) {
        let mut events = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if events.all {
            println!("{event}");
        }
        for byte in event.bytes() {
            events.hash = (events.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        events.count += 1;
        if events.last.len() == KEPT {
            events.last.pop_front();
        }
        events.last.push_back(event);
    }

    /// FNV-1a over every event.
    pub fn hash(&self) -> (u64, u64) {
        let events = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        (events.hash, events.count)
    }

    pub fn tail(&self) -> Vec<String> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).last.iter().cloned().collect()
    }
}
