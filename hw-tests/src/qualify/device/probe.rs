//! The order of the probes, and the names under which their findings are judged.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use seawall_wal_device::device::WriteCache;

use super::super::progress::Progress;
use super::super::{Findings, Stop};
use super::addresses::misplaced;
use super::curves::{Shape, curve};
use super::stream::{Load, Running};
use super::target::Target;

const DEPTHS: [usize; 3] = [1, 4, 16];
/// A flush of a volatile cache that costs less than so much of the write itself is not believed.
const FLUSH_COST_MIN_PERCENT: f64 = 10.0;

/// How long each part takes.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub curve: Duration,
    pub sustain: Duration,
    pub acks: Duration,
    pub mixed: Duration,
    pub slice: Duration,
}

impl Plan {
    pub fn new(sustain: Duration, slice: Option<Duration>) -> Self {
        let seconds = Duration::from_secs;
        let slice = slice.unwrap_or(seconds(60).min(sustain / 5));
        Self { curve: seconds(5), acks: seconds(30), mixed: seconds(30), sustain, slice }
    }

    pub fn short() -> Self {
        let (curve, second) = (Duration::from_millis(300), Duration::from_secs(1));
        Self { curve, acks: 2 * second, mixed: 2 * second, sustain: 6 * second, slice: second }
    }

    pub fn total(&self) -> Duration {
        self.curve * 2 * DEPTHS.len() as u32 + self.sustain + self.acks + self.mixed
    }

    /// Of the sustained write.
    pub fn slices(&self) -> u64 {
        (self.sustain.as_secs_f64() / self.slice.as_secs_f64()).ceil() as u64
    }

    fn slice_of(&self, time: Duration) -> Duration {
        self.slice.min(time / 2).max(Duration::from_millis(1))
    }
}

/// One run of all probes: when it is to stop, and who is told how far it is.
pub struct Run<'a> {
    pub stop: &'a Stop,
    progress: Progress,
    begun: Instant,
}

impl<'a> Run<'a> {
    pub fn new(stop: &'a Stop, progress: Progress) -> Self {
        Self { stop, progress, begun: Instant::now() }
    }

    fn stage(&self, what: &str) {
        self.progress.doing(what);
        self.tick();
    }

    pub fn tick(&self) {
        self.progress.at(self.begun.elapsed());
    }
}

/// Writes to the target. What stands in its way (an I/O error, a hang) is the error; how good it is, the findings say.
pub fn qualify(target: &dyn Target, plan: &Plan, run: &Run<'_>, findings: &mut Findings) -> Result<()> {
    // Before the first byte.
    run.stop.check()?;
    run.stage("format");
    target.format().context("format")?;
    curves(target, plan, run, findings)?;
    run.stage("places");
    let misplaced = misplaced(target.raw()?.as_mut(), target.ring(), target.block_bytes(), run.stop)?;
    findings.fact("keeps_every_place", misplaced.is_none());
    if let Some(at) = misplaced {
        findings.note(format!("what was written at byte {at} is not there: it has less room than it says"));
    }
    // The probes have written where the log goes.
    target.format().context("format")?;
    wal(target, plan, run, findings)
}

/// `write_d4_...` without, `durable_d4_...` with durability.
pub fn curves(target: &dyn Target, plan: &Plan, run: &Run<'_>, findings: &mut Findings) -> Result<()> {
    let mut device = target.raw()?;
    findings.fact("durable_by", device.durability(0));
    let mut at_depth_1 = Vec::new();
    for durable in [false, true] {
        for depth in DEPTHS {
            run.stage(&format!("{} at depth {depth}", if durable { "durable writes" } else { "writes" }));
            let block_bytes = target.block_bytes();
            let depth_now = depth.min(device.writes_in_flight_max());
            let shape = Shape { ring: target.ring(), block_bytes, depth: depth_now, durable, time: plan.curve };
            let latencies = curve(device.as_mut(), shape, run.stop)?;
            findings.latencies(&format!("{}_d{depth}", if durable { "durable" } else { "write" }), &latencies);
            if depth == 1 {
                at_depth_1.push(latencies);
            }
        }
    }
    if let [plain, durable] = &at_depth_1[..] {
        findings.fact("flush", flush(target.write_cache(), plain, durable));
    }
    Ok(())
}

/// A volatile cache takes a write in microseconds; to move it to the medium takes much longer. One whose flush costs nothing
/// is backed by capacitors, or lies.
fn flush(cache: Option<WriteCache>, plain: &Histogram<u64>, durable: &Histogram<u64>) -> String {
    let (plain, durable) = (plain.value_at_quantile(0.5) as f64, durable.value_at_quantile(0.5) as f64);
    match cache {
        Some(WriteCache::WriteThrough) => "not needed: no volatile cache".into(),
        None => "not known: the kernel says nothing of its cache".into(),
        Some(WriteCache::WriteBack) if (durable - plain) * 100.0 < plain * FLUSH_COST_MIN_PERCENT => {
            "costs nothing, though the cache is volatile".into()
        }
        Some(WriteCache::WriteBack) => "costs time, as it should".into(),
    }
}

fn wal(target: &dyn Target, plan: &Plan, run: &Run<'_>, findings: &mut Findings) -> Result<()> {
    let mut running = Running::open(target)?;
    findings.fact("wal_durable_by", running.durability());

    // Before all latencies that are judged: those of a fast cache that is still empty are not those of the years after.
    run.stage("sustained write");
    let load = Load { appenders: 4, record_bytes: 512 << 10, time: plan.sustain, slice: plan.slice, reads: false };
    let ran = running.run(&load, run)?;
    findings.measure("written_gib", ran.acks.bytes() as f64 / f64::from(1 << 30));
    ran.acks.finish(ran.elapsed, "write", findings);
    sag(findings);

    run.stage("acks");
    let slice = plan.slice_of(plan.acks);
    let load = Load { appenders: 4, record_bytes: 4 << 10, time: plan.acks, slice, reads: false };
    let ran = running.run(&load, run)?;
    ran.acks.finish(ran.elapsed, "ack", findings);

    run.stage("acks beside reads");
    let slice = plan.slice_of(plan.mixed);
    let load = Load { appenders: 4, record_bytes: 64 << 10, time: plan.mixed, slice, reads: true };
    let ran = running.run(&load, run)?;
    ran.acks.finish(ran.elapsed, "mixed_ack", findings);
    findings.latencies("mixed_read", &ran.reads);

    run.stage("recovery");
    let wrong = running.recovers(target)?;
    findings.fact("log_is_whole", wrong.is_none());
    if let Some(wrong) = wrong {
        findings.note(format!("the log cannot be read back: {wrong}"));
    }
    Ok(())
}

/// How much of its best slice the worst one keeps.
fn sag(findings: &mut Findings) {
    let Some(series) = findings.series.get("write_mib_per_s") else { return };
    let values = || series.seen().map(|(_, value)| value);
    let (Some(best), Some(worst)) = (values().reduce(f64::max), values().reduce(f64::min)) else { return };
    findings.measure("kept_of_best_slice_percent", worst / best * 100.0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qualify::histogram_us;

    #[test]
    fn a_flush_that_costs_nothing_is_not_believed_of_a_volatile_cache() {
        let of = |us: u64| {
            let mut histogram = histogram_us();
            histogram.saturating_record(us);
            histogram
        };
        let said = |cache, durable| flush(cache, &of(20), &of(durable));
        assert!(said(Some(WriteCache::WriteBack), 21).starts_with("costs nothing"));
        assert!(said(Some(WriteCache::WriteBack), 400).starts_with("costs time"));
        assert!(said(Some(WriteCache::WriteThrough), 20).starts_with("not needed"));
        assert!(said(None, 20).starts_with("not known"));
    }
}
