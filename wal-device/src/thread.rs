//! The WAL thread: drives the engine until it ends.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use crate::engine::{Engine, Turn};
use crate::error::{IoError, WalError};
use crate::shared::{Phase, Shared};

/// Makes the engine on its thread and runs it there: an io_uring may have a single issuer. Waits until it is made.
pub fn start(
    make: impl FnOnce() -> Result<(Engine, Arc<Shared>), IoError> + Send + 'static,
) -> Result<(Arc<Shared>, JoinHandle<()>), IoError> {
    let (tell, hear) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("wal".into()).spawn(move || match make() {
        Ok((engine, shared)) => {
            // If the opener has gone, the phase says so to the engine's first turn.
            let _ = tell.send(Ok(shared.clone()));
            run(engine, shared);
        }
        Err(error) => {
            let _ = tell.send(Err(error));
        }
    });
    let thread = thread.map_err(|error| IoError::new("start the WAL thread", error))?;
    match hear.recv() {
        Ok(Ok(shared)) => Ok((shared, thread)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(IoError::new("start the WAL thread", std::io::Error::other("it panicked"))),
    }
}

fn run(mut engine: Engine, shared: Arc<Shared>) {
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
