//! fio on the same device or file: io_uring, direct, registered file and buffers, the same durability mode.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::media::Medium;
use super::ours;
use crate::process;
use crate::tools;

pub struct Fio {
    program: PathBuf,
    pub version: String,
}

/// What resulted from our run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    pub block_bytes: u64,
    pub depth: u32,
    pub sync: Sync,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Each write with O_DSYNC.
    Dsync,
    /// An fdatasync after each write, which waits for it as ours does: fio's own does so at a depth of one only, so a depth
    /// is so many jobs.
    Fdatasync,
}

#[derive(Debug, Clone, Copy)]
pub struct Measured {
    pub shape: Shape,
    pub mib_per_s: f64,
    pub writes_per_s: f64,
    /// Of a write until it is durable: with fdatasync the p99 of both, added.
    pub p99_us: f64,
}

const BLOCK_BYTES: u64 = 4096;
const MIB: u64 = 1 << 20;

impl Shape {
    pub fn of(ours: &ours::Measured) -> Self {
        let block = ours.device_bytes as f64 / ours.device_writes.max(1) as f64;
        let blocks = (block / BLOCK_BYTES as f64).round().max(1.0) as u64;
        let sync = if ours.durability.contains("DSYNC") { Sync::Dsync } else { Sync::Fdatasync };
        Self { block_bytes: blocks * BLOCK_BYTES, depth: ours.depth.round().max(1.0) as u32, sync }
    }
}

impl Fio {
    pub fn new(program: PathBuf) -> Result<Self> {
        let version = tools::first_line(Command::new(&program).arg("--version"))?;
        Ok(Self { program, version })
    }

    pub fn write(&self, medium: &Medium, shape: Shape, seconds: f64) -> Result<Measured> {
        let mut arguments = vec![
            "--rw=write".to_owned(),
            "--overwrite=1".into(),
            "--scramble_buffers=0".into(),
            format!("--bs={}", shape.block_bytes),
        ];
        match shape.sync {
            Sync::Dsync => arguments.extend([format!("--iodepth={}", shape.depth), "--sync=dsync".into()]),
            Sync::Fdatasync => {
                let (jobs, share) = (shape.depth, medium.ring_bytes / u64::from(shape.depth) / MIB * MIB);
                arguments.extend([format!("--numjobs={jobs}"), "--group_reporting".into(), "--fdatasync=1".into()]);
                arguments.extend([format!("--size={share}"), format!("--offset_increment={share}")]);
            }
        }
        let mut job = self.run(medium, &arguments, seconds)?;
        if job["write"]["bw_bytes"] == 0 {
            // Seen once among many cells, without a reason given.
            println!("fio says that it wrote nothing: {job}; once more");
            job = self.run(medium, &arguments, seconds)?;
        }
        let write = &job["write"];
        let figure = |value: &Value| value.as_f64().context("fio gave no figure");
        let us = |value: &Value| value.as_f64().map_or(0.0, |ns| ns / 1e3);
        let latency = |percentile: &str| {
            let sync = match shape.sync {
                Sync::Dsync => 0.0,
                Sync::Fdatasync => us(&job["sync"]["lat_ns"]["percentile"][percentile]),
            };
            us(&write["clat_ns"]["percentile"][percentile]) + sync
        };
        let measured = Measured {
            shape,
            mib_per_s: figure(&write["bw_bytes"])? / MIB as f64,
            writes_per_s: figure(&write["iops"])?,
            p99_us: latency("99.000000"),
        };
        ensure!(measured.mib_per_s > 0.0, "fio wrote nothing: {job}");
        Ok(measured)
    }

    /// Sequential reads, as recovery does them, in MiB/s.
    pub fn read(&self, medium: &Medium, seconds: f64) -> Result<f64> {
        let job = self.run(medium, &["--rw=read".into(), "--bs=2M".into(), "--iodepth=4".into()], seconds)?;
        let bytes = job["read"]["bw_bytes"].as_f64().context("fio gave no figure")?;
        Ok(bytes / MIB as f64)
    }

    fn run(&self, medium: &Medium, arguments: &[String], seconds: f64) -> Result<Value> {
        let mut command = Command::new(&self.program);
        command
            .args(["--name=wal", "--ioengine=io_uring", "--direct=1", "--fixedbufs=1", "--registerfiles=1"])
            .args(["--time_based", "--fallocate=none", "--allow_file_create=0", "--output-format=json"])
            // Without it fio asks for shared memory that is not there in every container.
            .arg("--thread")
            .arg(format!("--filename={}", medium.path().display()))
            // What follows may take a part of it.
            .arg(format!("--size={}", medium.ring_bytes))
            .arg(format!("--ramp_time={:.0}ms", (seconds * 250.0).min(1_000.0)))
            .arg(format!("--runtime={:.0}ms", (seconds * 1e3).max(200.0)))
            .args(arguments);
        let text = process::capture(&mut command, Vec::new(), Duration::from_secs(60))?.stdout_if_success("fio")?;
        // Warnings may stand before it.
        let json = text.find('{').map_or("", |at| &text[at..]);
        let report: Value = serde_json::from_str(json).with_context(|| text.clone())?;
        let job = &report["jobs"][0];
        ensure!(job["error"].as_i64() == Some(0), "fio: {job}");
        Ok(job.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_what_the_device_was_given() {
        let json = r#"{"durability":"io_uring, write with RWF_DSYNC","appends":10,"seconds":1,"p50_us":1,"p99_us":1,
            "cpu_us_per_append":1,"busy_us_per_append":1,"copy_crc_us":1,"allocations_per_append":0,"device_writes":10,
            "device_bytes":102400,"depth":2.6,"device_p50_us":1,"device_p99_us":1,"rss_bytes":1}"#;
        let ours: ours::Measured = serde_json::from_str(json).unwrap();
        assert_eq!(Shape::of(&ours), Shape { block_bytes: 12288, depth: 3, sync: Sync::Dsync });
    }
}
