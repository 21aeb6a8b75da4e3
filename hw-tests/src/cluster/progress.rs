//! A line every few seconds on standard error, so that a long run is seen to go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;

use super::run::Shared;

const EVERY: Duration = Duration::from_secs(5);

pub struct Progress {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    pub fn start(shared: &Arc<Shared>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().name("progress".into()).spawn({
            let (shared, stop) = (Arc::clone(shared), Arc::clone(&stop));
            move || {
                loop {
                    thread::park_timeout(EVERY);
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    eprintln!("{}", shared.progress_line());
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
