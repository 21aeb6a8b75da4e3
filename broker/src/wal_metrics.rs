//! The metrics of WALs, read at each scrape.

use std::fmt;

use prometheus_client::encoding::{EncodeMetric, NoLabelSet};
use prometheus_client::metrics::{MetricType, gauge::ConstGauge};
use prometheus_client::registry::Unit;
use seawall_metadata::LegId;
use seawall_wal_device::{WalStats, WalStatus, WalUsage};

use crate::broker::Broker;
use crate::storage::BrokerWal;
use crate::storage_metrics::Out;
use crate::upload::Budget;
use crate::wal_alarms::{WalAlarmKind, alarms, legs_in_set};
use crate::wal_passports::Judged;

type Label = [(&'static str, String); 1];

struct One {
    label: Label,
    usage: WalUsage,
    status: WalStatus,
    stats: WalStats,
    budget: Budget,
    passports: Vec<Judged>,
    failed: bool,
    devices: usize,
    scan_index_bytes: u64,
}

pub(crate) fn encode(broker: &Broker, out: &mut Out<'_>) -> fmt::Result {
    let uploads = broker.uploads.status();
    let look = |wal: &BrokerWal| {
        let status = wal.handle().status();
        One {
            label: [("wal", wal.id.to_string())],
            usage: wal.handle().usage(),
            stats: wal.handle().stats(),
            budget: uploads.budgets.get(&wal.id).copied().unwrap_or_default(),
            passports: status.legs.iter().filter_map(|leg| broker.passports.of(LegId(leg.id.0))).collect(),
            status,
            failed: wal.has_failed(),
            devices: wal.devices,
            scan_index_bytes: wal.scan_index_bytes,
        }
    };
    let wals: Vec<One> = broker.partitions.wals().iter().map(|wal| look(wal)).collect();
    space(&wals, out)?;
    budget(&wals, out)?;
    device(&wals, out)?;
    latency(&wals, out)?;
    legs_and_alarms(&wals, out)?;
    passports(&wals, out)
}

fn space(wals: &[One], out: &mut Out<'_>) -> fmt::Result {
    let mut gauges = |name, help, unit, value: fn(&One) -> u64| {
        let values = wals.iter().map(|one| (one.label.clone(), value(one)));
        out.labelled(name, help, unit, MetricType::Gauge, values)
    };
    let bytes = || Some(Unit::Bytes);
    gauges("wal_ring", "Size of the WAL's ring", bytes(), |one| one.usage.ring_bytes)?;
    gauges("wal_used", "Bytes from the trim LSN to the next LSN", bytes(), |one| one.usage.used_bytes)?;
    gauges("wal_reserved", "Bytes promised to batches that are not written yet", bytes(), |one| {
        one.usage.reserved_bytes
    })?;
    gauges("wal_queued", "Bytes of batches that wait to be written", bytes(), |one| one.usage.queued_bytes)?;
    gauges("wal_trim_lag", "Durable bytes that are not forgotten yet", bytes(), |one| {
        one.usage.durable.0.saturating_sub(one.usage.trim.0)
    })?;
    gauges("wal_durable_lsn", "Everything below is durable", None, |one| one.usage.durable.0)?;
    gauges("wal_trim_lsn", "Everything below is forgotten", None, |one| one.usage.trim.0)?;
    gauges("wal_scan_index", "Memory that the index of recovered records took at the start", bytes(), |one| {
        one.scan_index_bytes
    })?;
    gauges("wal_failed", "1 after a write or flush error, which is final", None, |one| u64::from(one.failed))
}

fn budget(wals: &[One], out: &mut Out<'_>) -> fmt::Result {
    let bytes = wals.iter().map(|one| (one.label.clone(), one.budget.bytes));
    let help = "What producers may append before they are refused, if nothing is uploaded";
    out.labelled("wal_left", help, Some(Unit::Bytes), MetricType::Gauge, bytes)?;
    let mut seconds = |name, help, value: fn(&Budget) -> Option<f64>| {
        let mut encoder = out.encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for one in wals {
            ConstGauge::new(value(&one.budget).unwrap_or(-1.0)).encode(encoder.encode_family(&one.label)?)?;
        }
        Ok(())
    };
    let help =
        "How long the WAL takes producers at the present rate if nothing is uploaded; -1 while nothing is appended";
    seconds("wal_left", help, |budget| budget.seconds)?;
    let help = "How long until producers are throttled, reckoned likewise";
    seconds("wal_throttle_left", help, |budget| budget.throttle_seconds)
}

fn device(wals: &[One], out: &mut Out<'_>) -> fmt::Result {
    let mut counters = |name, help, unit, value: fn(&One) -> u64| {
        let values = wals.iter().map(|one| (one.label.clone(), value(one)));
        out.labelled(name, help, unit, MetricType::Counter, values)
    };
    counters("wal_frames", "Frames written", None, |one| one.stats.frames)?;
    counters("wal_device_written", "Bytes written to all devices", Some(Unit::Bytes), |one| one.stats.device_bytes)?;
    counters("wal_payload", "Bytes of batches in them", Some(Unit::Bytes), |one| one.stats.payload_bytes)?;
    counters("wal_write_spikes", "Writes that took longer than wal.spike_threshold", None, |one| one.stats.spikes)?;
    counters("wal_other_leg_reads", "Reads that the other device of a mirror had to answer", None, |one| {
        one.stats.reads_from_other_leg
    })
}

/// The device counts by powers of the square root of two; the sum is the time that writes were in flight.
fn latency(wals: &[One], out: &mut Out<'_>) -> fmt::Result {
    let help = "Time that writes of frames took";
    let mut encoder =
        out.encoder.encode_descriptor("wal_write_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for one in wals {
        let counts = &one.stats.write_latency_us;
        let last = counts.len() - 1;
        let bound = |n: usize| if n == last { f64::MAX } else { 8.0 * 2f64.powf((n + 1) as f64 / 2.0) / 1e6 };
        let buckets: Vec<(f64, u64)> = counts.iter().enumerate().map(|(n, count)| (bound(n), *count)).collect();
        let seconds = one.stats.depth_us as f64 / 1e6;
        let encoder = encoder.encode_family(&one.label)?;
        { encoder }.encode_histogram::<NoLabelSet>(seconds, counts.iter().sum(), &buckets, None)?;
    }
    Ok(())
}

fn legs_and_alarms(wals: &[One], out: &mut Out<'_>) -> fmt::Result {
    let mut gauges = |name, help, value: fn(&One) -> u64| {
        let values = wals.iter().map(|one| (one.label.clone(), value(one)));
        out.labelled(name, help, None, MetricType::Gauge, values)
    };
    gauges("wal_legs", "Devices that every ack waits for", |one| legs_in_set(&one.status) as u64)?;
    gauges("wal_legs_missing", "Configured devices that acks do not wait for", |one| {
        one.devices.saturating_sub(legs_in_set(&one.status)) as u64
    })?;
    gauges("wal_stuck_milliseconds", "How long the oldest I/O has been hanging; 0 if none does", |one| {
        one.status.stuck.map_or(0, |stuck| stuck.for_us.max(one.stats.oldest_in_flight_us) / 1_000)
    })?;
    let on = wals.iter().flat_map(|one| {
        let alarms = alarms(&one.status, one.devices);
        WalAlarmKind::ALL.into_iter().map(move |kind| {
            let [wal] = one.label.clone();
            let on = alarms.iter().any(|alarm| alarm.kind == kind);
            ([wal, ("kind", kind.name().to_owned())], u64::from(on))
        })
    });
    out.labelled("wal_alarm", "1 while a person must look at the WAL, by kind", None, MetricType::Gauge, on)
}

fn passports(wals: &[One], out: &mut Out<'_>) -> fmt::Result {
    let valid = wals.iter().flat_map(|one| {
        one.passports.iter().map(move |judged| {
            let [wal] = one.label.clone();
            ([wal, ("device", judged.device.display().to_string())], u64::from(judged.objection.is_none()))
        })
    });
    let help = "1 if a passport shows that the device was qualified as it is now, 0 if none does; only where the configuration names passports";
    out.labelled("wal_passport_valid", help, None, MetricType::Gauge, valid)
}
