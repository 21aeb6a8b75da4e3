//! Runs of the example `wal_append`, which formats what it is given, appends, and checks what recovery finds.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Cell;
use super::media::Medium;
use crate::{builds, process};

const TIME_MAX: Duration = Duration::from_secs(120);

pub struct Ours {
    program: PathBuf,
}

/// The fields are explained where they are measured.
#[derive(Debug, Clone, Deserialize)]
pub struct Measured {
    pub durability: String,
    pub appends: u64,
    pub seconds: f64,
    pub p99_us: u64,
    pub cpu_us_per_append: f64,
    pub busy_us_per_append: f64,
    pub copy_crc_us: f64,
    pub allocations_per_append: f64,
    pub device_writes: u64,
    pub device_bytes: u64,
    pub depth: f64,
    pub device_p99_us: u64,
    pub rss_bytes: u64,
}

impl Measured {
    pub fn mib_per_s(&self) -> f64 {
        self.device_bytes as f64 / self.seconds / f64::from(1 << 20)
    }

    pub fn writes_per_s(&self) -> f64 {
        self.device_writes as f64 / self.seconds
    }
}

#[derive(Debug, Deserialize)]
pub struct Recovered {
    pub scanned_bytes: u64,
    pub records: usize,
    pub seconds: f64,
}

impl Ours {
    pub fn build(program: Option<PathBuf>, as_released: bool) -> Result<Self> {
        if let Some(program) = program {
            return Ok(Self { program: program.canonicalize()? });
        }
        Ok(Self { program: builds::example("seawall-wal-device", "wal_append", as_released)? })
    }

    pub fn run(&self, cell: Cell, medium: &Medium, seconds: f64) -> Result<Measured> {
        let warmup = (seconds / 4.0).min(1.0);
        let measured: Measured = self.json(&[
            ("--path", medium.path().display().to_string()),
            ("--ring-bytes", medium.ring_bytes.to_string()),
            ("--form", "slots".into()),
            ("--appenders", cell.appenders.to_string()),
            ("--bytes", cell.bytes.to_string()),
            ("--seconds", seconds.to_string()),
            ("--warmup", warmup.to_string()),
        ])?;
        let record_bytes = measured.appends * u64::from(cell.bytes);
        ensure!(measured.appends > 0, "nothing was appended");
        // What was on its way at both ends may count on one side only.
        let at_ends = 2 * u64::from(cell.appenders * cell.bytes) + (4 << 20);
        ensure!(measured.device_bytes + at_ends >= record_bytes, "less was written than appended: {measured:?}");
        Ok(measured)
    }

    pub fn recovery(&self, medium: &Medium, record_bytes: u32) -> Result<Recovered> {
        self.json(&[
            ("--path", medium.path().display().to_string()),
            ("--ring-bytes", medium.ring_bytes.to_string()),
            ("--form", "scan".into()),
            ("--bytes", record_bytes.to_string()),
        ])
    }

    fn json<T: DeserializeOwned>(&self, arguments: &[(&str, String)]) -> Result<T> {
        let mut command = Command::new(&self.program);
        for (name, value) in arguments {
            command.arg(name).arg(value);
        }
        let text = process::capture(&mut command, Vec::new(), TIME_MAX)?.stdout_if_success("wal_append")?;
        serde_json::from_str(text.trim()).with_context(|| text.clone())
    }
}
