//! How fast recovery reads a ring that is full.

use std::time::Instant;

use bytes::Bytes;
use seawall_wal_device::{Expectation, ScanFrom, Segments, SpaceClass};

use super::{Opened, Options, Payloads, header};

#[derive(Debug)]
pub struct Recovered {
    pub bytes: usize,
    pub scanned_bytes: u64,
    pub records: usize,
    pub seconds: f64,
}

impl Recovered {
    pub fn json(&self) -> String {
        let Self { bytes, scanned_bytes, records, seconds, .. } = self;
        format!(r#"{{"bytes":{bytes},"scanned_bytes":{scanned_bytes},"records":{records},"seconds":{seconds:.6}}}"#)
    }
}

pub fn measure(options: &Options, source: &Bytes) -> Recovered {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (config, appended) = runtime.block_on(async {
        let Opened { wal, mut completions, config, .. } = Opened::new(options);
        let mut payloads = Payloads::new(source, 0);
        let (mut appended, mut durable) = (0, 0);
        loop {
            while appended - durable < 64
                && let Ok(reservation) = wal.reserve(options.bytes as u64, SpaceClass::Normal)
            {
                wal.append(reservation, header(0), Segments::from(payloads.next(options.bytes)), 0);
                appended += 1;
            }
            if appended == durable {
                break;
            }
            let done = completions.next().await.unwrap();
            durable += done.records.len();
            completions.recycle(done);
        }
        wal.close().await.unwrap();
        (config, appended)
    });
    let begun = Instant::now();
    let scanned = seawall_wal_device::scan(&config, &Expectation::default(), ScanFrom::default()).unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!((scanned.records.len(), scanned.damage), (appended, None));
    Recovered { bytes: options.bytes, scanned_bytes: scanned.end.0, records: appended, seconds }
}
