//! What only the running kernel can tell.

use std::hint::black_box;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use io_uring::IoUring;

use super::super::findings::{Fact, Findings};
use super::super::progress::Progress;
use super::super::stop::{Stop, Stopped};

/// Larger than any cache that counts, and small beside a broker's memory.
const COPY_BYTES: usize = 32 << 20;
const THREADS_MAX: usize = 16;

/// A ring as the WAL engine makes it; a seccomp profile or a cgroup may forbid what the sysctl allows. What the sysctl
/// restricts stays restricted: root gets a ring all the same, and the broker's user does not.
pub fn io_uring(findings: &mut Findings) {
    if findings.facts.get("io_uring").is_some_and(|fact| *fact != Fact::from("allowed")) {
        return;
    }
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

/// The kernel counts no further: nobody has told it the time for hours, or ever.
const CLOCK_ERROR_MAX_US: libc::c_long = 16_000_000;

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
    clock_of(&state, findings);
}

/// By the error that there may be at most: who keeps the clock sets it, and the kernel adds 500 us with each second. The flag
/// for an unsynchronized clock is no measure: chrony leaves it set without `rtcsync`, however right the clock is.
fn clock_of(state: &libc::timex, findings: &mut Findings) {
    let flag = |flag: libc::c_int| state.status & flag != 0;
    let synchronized = state.maxerror < CLOCK_ERROR_MAX_US && !flag(libc::STA_CLOCKERR);
    findings.fact("clock_synchronized", synchronized);
    if !synchronized {
        return;
    }
    findings.measure("clock_error_max_ms", state.maxerror as f64 / 1e3);
    // Chrony steers the clock by itself: then the kernel's loop is off, and its offset is always 0.
    if flag(libc::STA_PLL) {
        let unit = if flag(libc::STA_NANO) { 1e6 } else { 1e3 };
        findings.measure("clock_offset_ms", (state.offset as f64 / unit).abs());
    }
    if flag(libc::STA_UNSYNC) {
        findings.note("the clock is kept, but not the hardware's: chrony.conf lacks rtcsync");
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

#[cfg(test)]
mod tests {
    use super::super::super::findings::Role;
    use super::super::super::thresholds::Thresholds;
    use super::super::super::verdict::{Level, judge};
    use super::*;

    /// Offset in the unit that the status names, maximum error in microseconds.
    fn clock(status: libc::c_int, offset: libc::c_long, maxerror: libc::c_long) -> Findings {
        // SAFETY: all fields are numbers, for which zero is a value.
        let mut state: libc::timex = unsafe { std::mem::zeroed() };
        (state.status, state.offset, state.maxerror) = (status, offset, maxerror);
        let mut findings = Findings::new(Role::Host, "h", "h", 0);
        clock_of(&state, &mut findings);
        findings
    }

    /// The worst of the rules on the clock.
    fn level(findings: &Findings) -> Level {
        let verdict = judge(findings, &Thresholds::load(None).unwrap());
        let clock = verdict.checks.iter().filter(|check| check.name.starts_with("clock_"));
        clock.map(|check| check.level).max().unwrap()
    }

    #[test]
    fn a_clock_that_chrony_keeps_is_right_and_its_offset_not_known() {
        let kept = clock(0, 0, 20_000);
        assert_eq!(level(&kept), Level::Pass);
        assert!(!kept.measures.contains_key("clock_offset_ms"), "{:?}", kept.measures);
        // Until it looks again, every 1024 s at the rarest, of a server that is far away.
        assert_eq!(level(&clock(0, 0, 800_000)), Level::Pass);
        let without_rtcsync = clock(libc::STA_UNSYNC, 0, 20_000);
        assert_eq!(level(&without_rtcsync), Level::Pass);
        assert!(without_rtcsync.notes[0].contains("rtcsync"), "{:?}", without_rtcsync.notes);
    }

    #[test]
    fn a_clock_that_ntpd_keeps_says_how_far_off_it_is() {
        let kept = clock(libc::STA_PLL | libc::STA_NANO, -2_000_000, 20_000);
        assert_eq!((level(&kept), kept.measures["clock_offset_ms"]), (Level::Pass, 2.0));
        assert_eq!(level(&clock(libc::STA_PLL, 900_000, 20_000)), Level::Fail);
    }

    #[test]
    fn a_clock_that_nobody_has_kept_for_hours_is_not_qualified() {
        assert_eq!(level(&clock(0, 0, 7_000_000)), Level::Fail);
        assert_eq!(level(&clock(libc::STA_UNSYNC, 0, CLOCK_ERROR_MAX_US)), Level::Fail);
        assert_eq!(level(&clock(libc::STA_CLOCKERR, 0, 20_000)), Level::Fail);
    }

    #[test]
    fn what_the_sysctl_forbids_stays_forbidden_whoever_asks() {
        let mut findings = Findings::new(Role::Host, "h", "h", 0);
        findings.fact("io_uring", "for a group only: kernel.io_uring_disabled=1");
        io_uring(&mut findings);
        assert_eq!(findings.facts["io_uring"].to_string(), "for a group only: kernel.io_uring_disabled=1");
    }
}
