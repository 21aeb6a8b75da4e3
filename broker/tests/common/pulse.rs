//! What the machine does by itself: a few bytes that are written to a disk and flushed, again and again, by a thread that does nothing
//! else. Times in which it stands still are not the broker's doing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const BLOCK: [u8; 4096] = [7; 4096];
const EVERY: Duration = Duration::from_millis(20);
/// A longer pause is one.
const PAUSE_MIN: Duration = Duration::from_millis(100);

pub struct Pulse {
    beats: Arc<Mutex<Vec<Instant>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Pulse {
    /// On the disk of that folder, until it is dropped.
    pub fn start(folder: &Path) -> Self {
        let file = File::create(folder.join("pulse")).unwrap();
        let (beats, over) = (Arc::new(Mutex::new(vec![Instant::now()])), Arc::new(AtomicBool::new(false)));
        let thread = thread::spawn({
            let (beats, over) = (beats.clone(), over.clone());
            move || {
                while !over.load(Ordering::Relaxed) {
                    file.write_all_at(&BLOCK, 0)?;
                    file.sync_data()?;
                    beats.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                    thread::sleep(EVERY);
                }
                Ok(())
            }
        });
        Self { beats, over, thread: Some(thread) }
    }

    /// When each was through. One that has ended would excuse every pause since.
    pub fn beats(&self) -> Vec<Instant> {
        assert!(self.thread.as_ref().is_some_and(|thread| !thread.is_finished()), "the pulse has stopped");
        self.beats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long something took that began then, without the pauses of the machine.
    pub fn took(&self, began: Instant) -> Duration {
        let mut beats = self.beats();
        let now = Instant::now();
        beats.push(now);
        let since = beats.windows(2).rev().take_while(|pair| pair[1] > began);
        let pauses = since.filter(|pair| pair[1] - pair[0] >= PAUSE_MIN).map(|pair| pair[1] - pair[0].max(began));
        (now - began).saturating_sub(pauses.sum())
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
