//! The broker and its store as they are seen from outside: memory, metrics that go on over restarts, objects.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Progress;
use super::judge::{Checked, Objects, Observed};
use super::site::Form;
use crate::beds::{Bed, Client, Keys};
use crate::bench::answers;
use crate::bench::machine;

/// Totals since the start of a process, added up over its lives.
const COUNTERS: [&str; 9] = [
    "seawall_wal_payload_bytes_total",
    "seawall_upload_objects_bytes_total",
    "seawall_upload_put_failures_total",
    "seawall_compaction_read_bytes_total",
    "seawall_compaction_written_bytes_total",
    "seawall_log_cleaner_rounds_total",
    "seawall_log_cleaner_written_bytes_total",
    "seawall_object_corrupt_reads_total",
    "seawall_object_missing_reads_total",
];
const CALLS: &str = "seawall_store_calls_total";

pub struct Watch<'a> {
    form: &'a Form,
    endpoint: String,
    keys: Keys,
    prefix: String,
    began: Instant,
    rss_rest: f64,
    rss_max: f64,
    trim_lag_max: f64,
    wal_used_max: f64,
    /// Of this life of the process, and of those before it.
    now: BTreeMap<String, f64>,
    before: BTreeMap<String, f64>,
    objects: Vec<Objects>,
    counted: Option<Instant>,
    pub stops: u32,
    restarts_s: Vec<f64>,
}

impl<'a> Watch<'a> {
    pub fn begin(form: &'a Form, bed: &Bed, prefix: &str, pid: u32) -> Result<Self> {
        let endpoint = bed.forms.iter().find_map(|form| form.endpoint.clone()).context("no endpoint")?;
        Ok(Self {
            form,
            endpoint,
            keys: bed.keys.clone().context("no keys")?,
            prefix: prefix.to_owned(),
            began: Instant::now(),
            rss_rest: machine::rss_mib(pid)?,
            rss_max: 0.0,
            trim_lag_max: 0.0,
            wal_used_max: 0.0,
            now: BTreeMap::new(),
            before: BTreeMap::new(),
            objects: Vec::new(),
            counted: None,
            stops: 0,
            restarts_s: Vec::new(),
        })
    }

    /// Answers how many record bytes are not in the store.
    pub fn look(&mut self, admin: SocketAddr, pid: u32) -> Result<f64> {
        self.rss_max = self.rss_max.max(machine::rss_mib(pid)?);
        let text = answers::metrics(admin)?;
        let of = |name: &str| answers::sum(&text, name);
        for name in COUNTERS {
            self.now.insert(name.to_owned(), of(name));
        }
        for line in text.lines().filter(|line| line.starts_with(CALLS)) {
            if let Some((name, value)) = line.rsplit_once(' ') {
                self.now.insert(name.to_owned(), value.parse().unwrap_or(0.0));
            }
        }
        self.trim_lag_max = self.trim_lag_max.max(of("seawall_wal_trim_lag_bytes"));
        self.wal_used_max = self.wal_used_max.max(of("seawall_wal_used_bytes"));
        let missing = of("seawall_uncommitted_bytes") + of("seawall_upload_in_flight");
        if self.counted.is_none_or(|at| at.elapsed() >= self.form.count_every) {
            self.counted = Some(Instant::now());
            let waiting = answers::sum(&text, "seawall_objects{state=\"marked\"}");
            let known = of("seawall_metadata_objects");
            // While the store is stopped it does not answer, and there is nothing to learn.
            if let Ok(stored) = self.stored() {
                let at_s = self.began.elapsed().as_secs_f64();
                let behind = missing > self.form.under_way_bytes() as f64;
                self.objects.push(Objects { at_s, behind, known, waiting, stored: stored as f64 });
            }
        }
        Ok(missing)
    }

    /// The process that counts is another one.
    pub fn restarted(&mut self, started_in: Duration) {
        for (name, value) in std::mem::take(&mut self.now) {
            *self.before.entry(name).or_default() += value;
        }
        self.restarts_s.push(started_in.as_secs_f64());
    }

    pub fn line(&self, progress: &Progress) -> String {
        let mib = |bytes: u64| bytes >> 20;
        let objects = self.objects.last().copied().unwrap_or_default();
        format!(
            "{:>5.0} s: {} MiB acked, {} at the tail, {} from the start; RSS at most {:.0} MiB, {} objects, {} stored",
            self.began.elapsed().as_secs_f64(),
            mib(progress.acked),
            mib(progress.tail),
            mib(progress.replayed),
            self.rss_max,
            objects.known,
            objects.stored
        )
    }

    pub fn end(mut self, checked: Checked, uploaded: bool) -> Result<Observed> {
        for (name, value) in std::mem::take(&mut self.now) {
            *self.before.entry(name).or_default() += value;
        }
        let total = |name: &str| self.before.get(name).copied().unwrap_or(0.0);
        let calls = self.before.iter().filter_map(|(name, count)| Some((name.strip_prefix(CALLS)?.to_owned(), *count)));
        Ok(Observed {
            seconds: self.began.elapsed().as_secs_f64(),
            uploaded,
            stops: self.stops,
            kills: self.restarts_s.len() as u32,
            events_planned: self.form.events().len() as u32,
            restarts_s: self.restarts_s.clone(),
            rss_rest_mib: self.rss_rest,
            rss_max_mib: self.rss_max,
            rss_limit_mib: self.rss_rest + self.form.memory_mib() as f64,
            trim_lag_max_mib: self.trim_lag_max / f64::from(1 << 20),
            wal_used_max_mib: self.wal_used_max / f64::from(1 << 20),
            appended_bytes: total(COUNTERS[0]),
            uploaded_bytes: total(COUNTERS[1]),
            put_failures: total(COUNTERS[2]),
            compacted_record_bytes: total(COUNTERS[3]),
            compacted_object_bytes: total(COUNTERS[4]),
            cleaner_rounds: total(COUNTERS[5]),
            cleaner_bytes: total(COUNTERS[6]),
            corrupt_reads: total(COUNTERS[7]),
            missing_reads: total(COUNTERS[8]),
            calls: calls.collect(),
            objects: self.objects,
            checked,
        })
    }

    pub fn store_serves(&self) -> bool {
        self.client().check().is_ok()
    }

    fn client(&self) -> Client<'_> {
        Client { endpoint: &self.endpoint, ca: "/dev/null".as_ref(), keys: &self.keys }
    }

    /// Objects in the store.
    fn stored(&self) -> Result<usize> {
        self.client().objects(&format!("{}/", self.prefix))
    }
}
