//! Each appender is a task of a runtime with two threads, which costs a wake-up for each record: how a broker uses a WAL.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use seawall_wal_device::{Lsn, Segments, SpaceClass};
use tokio::sync::Notify;

use super::histogram::Histogram;
use super::meter::Meter;
use super::{Measured, Opened, Options, Payloads, copy, header};

pub fn measure(options: &Options, appenders: usize, source: &Bytes) -> Measured {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(options, appenders, source))
}

struct Appender {
    acknowledged: Notify,
}

async fn run(options: &Options, appenders: usize, source: &Bytes) -> Measured {
    let Opened { wal, mut completions, observer, config } = Opened::new(options);
    let durability = wal.durability().to_owned();
    let everyone: Arc<Vec<Appender>> =
        Arc::new((0..appenders).map(|_| Appender { acknowledged: Notify::new() }).collect());
    let stop = Arc::new(AtomicBool::new(false));
    let measuring = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for i in 0..appenders {
        let (wal, everyone, stop, measuring) = (wal.clone(), everyone.clone(), stop.clone(), measuring.clone());
        let (bytes, mut payloads) = (options.bytes, Payloads::new(source, i << 20));
        tasks.push(tokio::spawn(async move {
            let mut latencies = Histogram::default();
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                let payload = payloads.next(bytes);
                let reservation = loop {
                    let freed = wal.space_freed();
                    match wal.reserve(payload.len() as u64, SpaceClass::Normal) {
                        Ok(reservation) => break reservation,
                        Err(_) => freed.await,
                    }
                };
                wal.append(reservation, header(i), Segments::from(payload), i as u64);
                everyone[i].acknowledged.notified().await;
                if measuring.load(Ordering::Relaxed) {
                    latencies.add(start.elapsed().as_micros() as u64);
                }
            }
            latencies
        }));
    }
    let consumer = {
        let (wal, everyone) = (wal.clone(), everyone.clone());
        tokio::spawn(async move {
            let mut trim = Lsn(0);
            while let Some(durable) = completions.next().await {
                for record in &durable.records {
                    everyone[record.token as usize].acknowledged.notify_one();
                }
                if wal.usage().used_bytes > wal.usage().ring_bytes / 2 {
                    trim = wal.usage().durable;
                    wal.trim(trim);
                }
                completions.recycle(durable);
            }
            trim
        })
    };

    tokio::time::sleep(options.warmup).await;
    observer.lock().clear();
    let meter = Meter::start();
    measuring.store(true, Ordering::Relaxed);
    tokio::time::sleep(options.time).await;
    measuring.store(false, Ordering::Relaxed);
    let stretch = meter.stop();
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Histogram::default();
    for task in tasks {
        latencies.merge(&task.await.unwrap());
    }
    let measured = stretch.measured(appenders, options.bytes, &latencies, &observer.lock());
    wal.close().await.unwrap();
    let recovered_records = Opened::recovered_records(&config, consumer.await.unwrap());
    let copy_crc_us = copy::us_per_piece(source, options.bytes, options.time / 20);
    Measured { durability, copy_crc_us, recovered_records, ..measured }
}
