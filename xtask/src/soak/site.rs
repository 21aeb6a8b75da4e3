//! The forms of the soak: how much, how small the broker's limits are, and when what happens.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Event;
use crate::beds::{Bed, CephSize};

pub const TOPIC: &str = "soak";
pub const COMPACTED: &str = "soak-keys";
pub const PARTITIONS: u32 = 6;

/// In MiB where nothing else is said.
pub struct Form {
    pub mib: u64,
    pub mib_per_s: f64,
    wal: u64,
    /// Of all partitions together.
    retention: u64,
    /// Log cache, block cache and index cache.
    caches: [u64; 3],
    upload: u64,
    /// Also the most that one compaction holds.
    object: u64,
    requests: u64,
    answers: u64,
    cleaner_map: u64,
    stops: u32,
    kills: u32,
    pub store_away: Duration,
    delete_grace: Duration,
    pub store: CephSize,
    /// Objects in the store are counted so often.
    pub count_every: Duration,
}

/// For what the allocator holds and has not given back, indexes of the log, and the clients of store and metadata.
const OTHER_MIB: u64 = 96;
const UPLOADS: u64 = 2;

impl Form {
    pub fn long(gib: f64, mib_per_s: f64) -> Self {
        Self {
            mib: (gib * 1024.0) as u64,
            mib_per_s,
            wal: 4_096,
            retention: 4_096,
            caches: [288, 192, 32],
            upload: 32,
            object: 64,
            requests: 64,
            answers: 64,
            cleaner_map: 32,
            stops: 2,
            kills: 5,
            store_away: Duration::from_secs(60),
            // With the garbage of two minutes and what is to be rewritten, all of it fits the disk.
            delete_grace: Duration::from_secs(10),
            store: CephSize { disk_bytes: (10 << 30) + (512 << 20), garbage_s: 60 },
            count_every: Duration::from_secs(20),
        }
    }

    pub fn short() -> Self {
        Self {
            mib: 512,
            mib_per_s: 32.0,
            wal: 512,
            retention: 128,
            caches: [32, 24, 8],
            upload: 4,
            object: 16,
            requests: 16,
            answers: 32,
            cleaner_map: 8,
            stops: 1,
            kills: 1,
            store_away: Duration::from_secs(10),
            delete_grace: Duration::from_secs(2),
            store: CephSize { disk_bytes: 6 << 30, garbage_s: 5 },
            count_every: Duration::from_secs(2),
        }
    }

    /// Enough for a checker to see a fault, with nothing else going wrong.
    pub fn faulty() -> Self {
        Self { mib: 48, retention: 1_024, stops: 0, kills: 0, ..Self::short() }
    }

    pub fn describe(&self) -> String {
        format!(
            "{} MiB at {} MiB/s, WAL {}, caches {}, retention {}, store stopped {} x {:?}, broker killed {} x",
            self.mib,
            self.mib_per_s,
            self.wal,
            self.caches.iter().sum::<u64>(),
            self.retention,
            self.stops,
            self.store_away,
            self.kills
        )
    }

    pub fn disk_gib(&self) -> f64 {
        self.wal as f64 / 1024.0 + self.store.disk_bytes as f64 / (1u64 << 30) as f64
    }

    /// What resident memory may be above that of a broker that has just started, in MiB.
    pub fn memory_mib(&self) -> u64 {
        self.caches.iter().sum::<u64>()
            + self.requests
            + self.answers
            + UPLOADS * self.upload
            // Of a compaction and of a round of log compaction, each with what it reads and what it makes.
            + 4 * self.object
            + self.cleaner_map
            + OTHER_MIB
    }

    /// In normal operation less waits for the store.
    pub fn under_way_bytes(&self) -> u64 {
        (2 * UPLOADS * self.upload) << 20
    }

    pub fn replay_mib_per_s(&self) -> f64 {
        self.mib_per_s * 1.5
    }

    pub fn retention_of_partition(&self) -> u64 {
        (self.retention << 20) / u64::from(PARTITIONS)
    }

    pub fn cleanup(&self) -> String {
        "min.cleanable.dirty.ratio=0.3".into()
    }

    pub fn stopped_s(&self) -> Duration {
        self.store_away * self.stops
    }

    /// By the share of all bytes that is acked, in their order.
    pub fn events(&self) -> Vec<(f64, Event)> {
        let spread = |count: u32, from: f64| (0..count).map(move |n| from + 0.8 * f64::from(n) / f64::from(count));
        let mut events: Vec<(f64, Event)> = spread(self.stops, 0.25).map(|at| (at, Event::Stop)).collect();
        events.extend(spread(self.kills, 0.15).map(|at| (at, Event::Kill)));
        events.sort_by(|left, right| left.0.total_cmp(&right.0));
        events
    }

    /// What of the broker's configuration is not as shipped, and the prefix of its objects.
    pub fn settings(&self, bed: &Bed) -> Result<(String, String)> {
        let form = bed.forms.iter().find(|form| form.endpoint.is_some()).context("a store without http")?;
        let config = fs::read_to_string(&form.config)?;
        let (_, backend) = config.split_once("[backend]").context("a bed's configuration")?;
        let prefix = format!("soak-{}", self.mib);
        let [log, block, index] = self.caches;
        let retention_check_ms = self.delete_grace.as_millis() / 4;
        // What a kept backup names is not deleted: as short as the grace, so that the count of objects says something.
        let snapshot_seconds = self.delete_grace.as_secs();
        let settings = format!(
            "limits.fetch_response_bytes = \"{}MiB\"\n[backend]\nprefix = \"{prefix}\"{backend}\n\
             [[wal]]\nkind = \"file\"\nsize = \"{}MiB\"\n\
             [upload]\nbytes = \"{}MiB\"\nin_flight = {UPLOADS}\n\
             [objects]\ndelete_grace = \"{}s\"\n\
             [backup]\ninterval = \"1s\"\nsnapshot_interval = \"{snapshot_seconds}s\"\n\
             [compaction]\nobject_bytes = \"{}MiB\"\nobjects_min = 8\n\
             [cache]\nlog_bytes = \"{log}MiB\"\nblock_bytes = \"{block}MiB\"\nindex_bytes = \"{index}MiB\"\n\
             [kafka]\n\"queued.max.request.bytes\" = {}\n\"socket.request.max.bytes\" = {}\n\
             \"log.retention.check.interval.ms\" = {retention_check_ms}\n\"log.cleaner.backoff.ms\" = 2000\n\
             \"log.cleaner.dedupe.buffer.size\" = {}\n\"log.segment.bytes\" = 16777216\n",
            self.answers,
            self.wal,
            self.upload,
            self.delete_grace.as_secs(),
            self.object,
            self.requests << 20,
            (self.requests << 20) / 2,
            self.cleaner_map << 20,
        );
        Ok((settings, prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_to_happen_happens_before_the_last_byte() {
        let long = Form::long(30.0, 15.0);
        let events = long.events();
        let count = |event| events.iter().filter(|(_, one)| *one == event).count();
        assert_eq!((count(Event::Stop), count(Event::Kill)), (2, 5));
        assert!(events.iter().all(|(at, _)| (0.1..0.9).contains(at)), "{events:?}");
        assert!(events.windows(2).all(|pair| pair[0].0 < pair[1].0), "{events:?}");
        assert!(long.disk_gib() < 16.0 && long.mib == 30 << 10);
        assert_eq!(Form::faulty().events(), []);
    }
}
