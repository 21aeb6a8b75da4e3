//! Whether a device takes discards, which keep its garbage collection away from a log that was trimmed, and how fast.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::time::Instant;

use anyhow::Result;

use super::super::{Findings, Stop};
use super::target::{Device, Target};

nix::ioctl_write_ptr_bad!(discard, 0x1277, [u64; 2]);

const PIECE_BYTES: u64 = 64 << 20;
const BYTES_MAX: u64 = 1 << 30;

/// Discards a part of the ring, whose content nobody needs any more.
pub fn look(target: &Device, stop: &Stop, findings: &mut Findings) -> Result<()> {
    if target.is_file() {
        return Ok(());
    }
    target.check()?;
    let (offset, bytes) = target.ring();
    let device = OpenOptions::new().write(true).open(&target.path)?;
    let (begun, mut at) = (Instant::now(), 0);
    while at < bytes.min(BYTES_MAX) {
        stop.check()?;
        let piece = PIECE_BYTES.min(bytes - at);
        // SAFETY: BLKDISCARD reads two u64, offset and length, from an array of them; the device is open.
        let discarded = unsafe { discard(device.as_raw_fd(), &[offset + at, piece]) };
        if let Err(error) = discarded {
            findings.fact("discard", false);
            findings.note(format!("discard: {error}"));
            return Ok(());
        }
        at += piece;
    }
    findings.fact("discard", true);
    let gib = at as f64 / f64::from(1 << 30);
    findings.measure("discard_gib_per_s", gib / begun.elapsed().as_secs_f64());
    Ok(())
}
