//! The WAL thread: drives the engine until it ends.

use std::sync::Arc;

use crate::engine::{Engine, Turn};
use crate::error::{IoError, WalError};
use crate::shared::{Phase, Shared};

pub fn run(mut engine: Engine, shared: Arc<Shared>) {
    let _told = TellOfPanic(shared);
    while engine.turn() == Turn::Continue {
        let wait = engine.prepare_wait();
        if engine.wait(wait) == Turn::Finished {
            return;
        }
    }
}

/// An assertion that fails in the WAL thread fails the WAL: nobody must wait for it for ever.
struct TellOfPanic(Arc<Shared>);

impl Drop for TellOfPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = WalError::Failed(IoError::new("run the WAL thread", std::io::Error::other("it panicked")));
            self.0.lock().phase = Phase::Failed(error.clone());
            self.0.end_completions(Some(error));
        }
    }
}
