//! All appenders as slots of one thread: what is measured is the WAL, not the wake-ups of a runtime.

use std::time::{Duration, Instant};

use bytes::Bytes;
use seawall_wal_device::Lsn;

use super::histogram::Histogram;
use super::meter::Meter;
use super::{Measured, Opened, Options, Payloads, append, copy};

pub fn measure(options: &Options, appenders: usize, source: &Bytes) -> Measured {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(run(options, appenders, source))
}

async fn run(options: &Options, appenders: usize, source: &Bytes) -> Measured {
    let Opened { wal, mut completions, observer, config } = Opened::new(options);
    let mut payloads = Payloads::new(source, 0);
    let mut latencies = Histogram::default();
    let durability = wal.durability().to_owned();
    let ring_bytes = wal.usage().ring_bytes;
    let begun = Instant::now();
    let mut appended = vec![begun; appenders];
    for slot in 0..appenders {
        append(&wal, slot, payloads.next(options.bytes));
    }
    let (mut trim, mut since_trim) = (Lsn(0), 0);
    let (mut meter, mut stretch, mut in_flight) = (None, None, appenders);
    while in_flight > 0 {
        let durable = completions.next().await.unwrap();
        assert!(durable.failed.is_none(), "{:?}", durable.failed);
        since_trim += durable.records.len();
        // Before it is appended again, so that what is in flight always fits.
        if durable.durable.0 - trim.0 > ring_bytes / 2 {
            (trim, since_trim) = (durable.durable, 0);
            wal.trim(trim);
        }
        let now = Instant::now();
        if meter.is_none() && now - begun >= options.warmup {
            latencies.clear();
            observer.lock().clear();
            meter = Some((now, Meter::start()));
        }
        if stretch.is_none() && meter.as_ref().is_some_and(|(since, _)| now - *since >= options.time) {
            let (_, meter) = meter.take().unwrap();
            stretch = Some(meter.stop().measured(appenders, options.bytes, &latencies, &observer.lock()));
        }
        for record in &durable.records {
            let slot = record.token as usize;
            latencies.add((now - appended[slot]).as_micros() as u64);
            if stretch.is_none() {
                appended[slot] = now;
                append(&wal, slot, payloads.next(options.bytes));
            } else {
                in_flight -= 1;
            }
        }
        completions.recycle(durable);
    }
    let copy_crc_us = copy::us_per_piece(source, options.bytes, (options.time / 20).max(Duration::from_millis(5)));
    wal.close().await.unwrap();
    let recovered_records = Opened::recovered_records(&config, trim);
    assert_eq!(recovered_records, since_trim);
    Measured { durability, copy_crc_us, recovered_records, ..stretch.unwrap() }
}
