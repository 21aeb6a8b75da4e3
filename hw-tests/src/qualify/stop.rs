//! Ctrl-C, SIGTERM and a lost terminal ask a probe to stop; it then removes what it wrote and ends. A second one ends it at once.

use std::io;
use std::process;
use std::thread;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// As shells report an end by SIGINT.
pub const EXIT_STOPPED: u8 = 130;

#[derive(Debug, thiserror::Error)]
#[error("stopped")]
pub struct Stopped;

#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Takes the signals over, once in a process.
    pub fn on_signals() -> io::Result<Self> {
        let (asked, stop) = watch::channel(false);
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let mut signals = {
            let _inside = runtime.enter();
            [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?]
        };
        thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(async {
                loop {
                    let [interrupt, terminate, hangup] = &mut signals;
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        _ = hangup.recv() => {}
                    }
                    if asked.send_replace(true) {
                        process::exit(i32::from(EXIT_STOPPED));
                    }
                    eprintln!("stopping; once more to leave at once");
                }
            });
        })?;
        Ok(Self(stop))
    }

    #[cfg(test)]
    pub fn already() -> Self {
        Self(watch::channel(true).1)
    }

    /// For tests, and where nobody can ask.
    pub fn never() -> Self {
        Self(watch::channel(false).1)
    }

    pub fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    /// `Err` once it is asked: for loops.
    pub fn check(&self) -> Result<(), Stopped> {
        if self.is_asked() { Err(Stopped) } else { Ok(()) }
    }

    /// Resolves when it is asked.
    pub async fn asked(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|asked| *asked).await.is_err() {
            // Nobody is left who could ask.
            std::future::pending::<()>().await;
        }
    }
}
