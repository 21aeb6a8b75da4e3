//! What only the running kernel can tell.

use std::hint::black_box;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use io_uring::IoUring;

use super::super::findings::Findings;
use super::super::progress::Progress;
use super::super::stop::{Stop, Stopped};

/// Larger than any cache that counts, and small beside a broker's memory.
const COPY_BYTES: usize = 32 << 20;
const THREADS_MAX: usize = 16;

/// A ring as the WAL engine makes it; a seccomp profile or a cgroup may forbid what the sysctl allows.
pub fn io_uring(findings: &mut Findings) {
    let ring: io::Result<IoUring> =
        IoUring::builder().setup_single_issuer().setup_coop_taskrun().setup_defer_taskrun().build(8);
    match ring {
        Ok(_) => findings.fact("io_uring", "allowed"),
        Err(error) => {
            let text = match error.raw_os_error() {
                Some(libc::ENOSYS) => "not in this kernel, or a seccomp profile hides it".to_owned(),
                Some(libc::EPERM) => "forbidden: kernel.io_uring_disabled, or a security module".to_owned(),
                Some(libc::EINVAL) => "too old: no ring of one issuer with deferred task work".to_owned(),
                _ => format!("refused: {error}"),
            };
            findings.fact("io_uring", text);
        }
    }
}

/// The kernel's own opinion of its clock, which chrony and ntpd keep up.
pub fn clock(findings: &mut Findings) {
    // SAFETY: all fields are numbers, for which zero is a value; modes 0 asks and changes nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes into a struct that we own.
    let answer = unsafe { libc::adjtimex(&raw mut state) };
    if answer < 0 {
        findings.note(format!("the clock could not be asked: {}", io::Error::last_os_error()));
        return;
    }
    let synchronized = answer != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0;
    findings.fact("clock_synchronized", synchronized);
    let unit = if state.status & libc::STA_NANO == 0 { 1e3 } else { 1e6 };
    if synchronized {
        findings.measure("clock_offset_ms", (state.offset as f64 / unit).abs());
        findings.measure("clock_error_max_ms", state.maxerror as f64 / 1e3);
    }
}

/// Copies on all CPUs at once, up to 16.
pub fn memory(findings: &mut Findings, length: Duration, stop: &Stop, progress: &Progress) -> Result<(), Stopped> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let started = Instant::now();
    let rates: Vec<f64> = thread::scope(|scope| {
        let copies: Vec<_> =
            (0..threads).map(|at| scope.spawn(move || copy(length, stop, (at == 0).then_some(progress)))).collect();
        copies.into_iter().filter_map(|copy| copy.join().ok()).collect()
    });
    stop.check()?;
    findings.measure("memory_copy_gib_per_s", rates.iter().sum());
    findings.fact("memory_copy_threads", threads as i64);
    findings.measure("memory_copy_s", started.elapsed().as_secs_f64());
    Ok(())
}

/// GiB each second, read and written once.
fn copy(length: Duration, stop: &Stop, progress: Option<&Progress>) -> f64 {
    let from = vec![0x5Au8; COPY_BYTES];
    let mut to = vec![0xA5u8; COPY_BYTES];
    let started = Instant::now();
    let mut copied = 0usize;
    while started.elapsed() < length && !stop.is_asked() {
        to.copy_from_slice(black_box(&from));
        black_box(&to);
        copied += COPY_BYTES;
        if let Some(progress) = progress {
            progress.at(started.elapsed());
        }
    }
    copied as f64 / started.elapsed().as_secs_f64() / f64::from(1 << 30)
}
