//! A report as a passport: see `seawall_wal_device::passport`.

use std::path::Path;

use anyhow::{Context, Result};
use seawall_wal_device::format::{BLOCK_BYTES_MAX, RING_OFFSET};
use seawall_wal_device::passport::{FORMAT, Passport, Sighting, SiteKey, utc};

use super::super::{Level, Report, Verdict};
use super::claim::Identity;
use super::identity::host_name;

/// A fast cache takes all that it writes.
const SHORT_FORM: &str = "--short writes too little to qualify a device";
/// Slices of a sustained write at most, whose curves a broker still reads: a day of two seconds each.
pub const SLICES_MAX: u64 = 50_000;

/// How much of a device is written, over and over.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    pub ring_bytes: u64,
    pub device_bytes: u64,
}

impl Extent {
    /// Superblocks and the rest of a block aside. A fast cache holds a part of a device.
    fn is_whole(self) -> bool {
        self.device_bytes.saturating_sub(self.ring_bytes) <= RING_OFFSET + u64::from(BLOCK_BYTES_MAX)
    }
}

pub fn read_key(path: &Path) -> Result<SiteKey> {
    let pem = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    SiteKey::from_pem(&pem).with_context(|| path.display().to_string())
}

/// Looks at the device once more: the passport is of what lies there now, which must be what was claimed. `sustain_s` is nothing
/// for the short form.
pub fn make(
    device: &Path,
    claimed: &Identity,
    report: &Report,
    extent: Extent,
    sustain_s: Option<u64>,
) -> Result<Passport> {
    claimed.check(device).context("no passport")?;
    passport_of(Sighting::of(device)?, device, report, extent, sustain_s)
}

fn passport_of(
    sighting: Sighting,
    device: &Path,
    report: &Report,
    extent: Extent,
    sustain_s: Option<u64>,
) -> Result<Passport> {
    let verdicts = report.verdicts.iter().map(|verdict| verdict.summary.clone());
    let failures = report.failures.iter().map(|failure| failure.error.clone());
    let found: Vec<String> = verdicts.chain(failures).collect();
    let found = found.join("; ");
    // With each value the bound that it was held against.
    let checks: Vec<_> = report.verdicts.iter().map(|Verdict { checks, .. }| checks).collect();
    let device_gib = gib(extent.device_bytes as f64 / f64::from(1 << 30));
    let sustained = |seconds| {
        let written = report.findings.first().and_then(|findings| findings.measures.get("written_gib"));
        let written = written.map_or("not to its end".into(), |written| gib(*written));
        format!("sustained write of {seconds} s: {written}, on a device of {device_gib}")
    };
    Ok(Passport {
        format: FORMAT,
        device: device.display().to_string(),
        write_cache: sighting.write_cache_text(),
        drives: sighting.drives,
        date: utc(report.made_unix_s),
        host: host_name(),
        made_by: format!("seawall-qualify {}", env!("CARGO_PKG_VERSION")),
        qualified: report.level < Level::Fail && sustain_s.is_some() && extent.is_whole(),
        verdict: match sustain_s {
            None => format!("{SHORT_FORM}; measured: {found}"),
            Some(seconds) if extent.is_whole() => format!("{found}; {}", sustained(seconds)),
            Some(seconds) => {
                let span = gib(extent.ring_bytes as f64 / f64::from(1 << 30));
                let part = format!("--span wrote to {span} of {device_gib}, which a fast cache may hold");
                format!("{part}; measured: {found}; {}", sustained(seconds))
            }
        },
        thresholds: serde_json::to_value(checks)?,
        measured: serde_json::to_value(&report.findings)?,
    })
}

fn gib(gib: f64) -> String {
    format!("{gib:.1} GiB")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use seawall_wal_device::passport::{PassportDrive, Passports};

    use super::super::super::{Findings, Role, Thresholds};
    use super::*;

    /// RFC 8032, test 1.
    const KEY: &[u8] = b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
    const WHOLE: Extent = Extent { ring_bytes: (400 << 30) - RING_OFFSET, device_bytes: 400 << 30 };

    fn findings() -> Findings {
        let mut findings = Findings::new(Role::WalDevice, "h", "d", 0);
        findings.measure("written_gib", 215.26);
        findings
    }

    /// What a broker says of the passport of a device that measured well enough.
    fn judged(findings: Findings, extent: Extent, sustain_s: Option<u64>) -> Result<String, String> {
        let drive = PassportDrive { model: "M".into(), serial: "S1".into(), firmware: "F".into(), bytes: 1 << 40 };
        let sighting = Sighting { drives: vec![drive], write_cache: None, volatile_cache: None };
        let mut report = Report::new(vec![findings], Vec::new(), &Thresholds::load(None).unwrap(), 0);
        report.level = Level::Pass;
        let passport = passport_of(sighting.clone(), Path::new("/dev/x"), &report, extent, sustain_s).unwrap();
        let (folder, key) = (tempfile::tempdir().unwrap(), SiteKey::from_pem(KEY).unwrap());
        std::fs::write(folder.path().join("x.json"), passport.sign(&key)).unwrap();
        let passports = Passports::read(folder.path(), &key.public_key()).unwrap();
        let judged = passports.judge(&sighting, 0);
        judged.map(|passport| passport.verdict.clone()).map_err(|objection| objection.to_string())
    }

    #[test]
    fn the_short_form_qualifies_nothing_and_another_one_says_how_much_it_wrote() {
        let said = judged(findings(), WHOLE, None).unwrap_err();
        assert!(said.starts_with("it did not pass on 1970-01-01T00:00:00Z: --short writes too little"), "{said}");
        let said = judged(findings(), WHOLE, Some(10)).unwrap();
        assert!(said.ends_with("; sustained write of 10 s: 215.3 GiB, on a device of 400.0 GiB"), "{said}");
    }

    #[test]
    fn a_part_of_a_device_qualifies_nothing() {
        let said = judged(findings(), Extent { ring_bytes: 96 << 20, ..WHOLE }, Some(600)).unwrap_err();
        let part = "it did not pass on 1970-01-01T00:00:00Z: --span wrote to 0.1 GiB of 400.0 GiB, which a fast cache";
        assert!(said.starts_with(part), "{said}");
        let nearly = Extent { ring_bytes: WHOLE.ring_bytes - 512, ..WHOLE };
        judged(findings(), nearly, Some(600)).expect("a block that is not whole is left over");
    }

    #[test]
    fn a_broker_reads_the_longest_curves_that_are_made() {
        let mut findings = findings();
        for (name, scale) in [("write_mib_per_s", 1000.0), ("write_p99_ms", 1.0), ("another", 1e-3)] {
            let values = (1..=SLICES_MAX).map(|n| Some(n as f64 / 7919.0 * scale)).collect();
            findings.series(name, Duration::from_secs(1), values);
        }
        judged(findings, WHOLE, Some(86_400)).unwrap();
    }
}
