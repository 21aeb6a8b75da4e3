//! A report as a passport: see `seawall_wal_device::passport`.

use std::path::Path;

use anyhow::{Context, Result};
use seawall_wal_device::passport::{FORMAT, Passport, Sighting, SiteKey};

use super::super::{Level, Report, Verdict};
use super::identity::host_name;

pub fn read_key(path: &Path) -> Result<SiteKey> {
    let pem = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    SiteKey::from_pem(&pem).with_context(|| path.display().to_string())
}

/// Looks at the device once more: the passport is of what lies there now.
pub fn make(device: &Path, report: &Report, short: bool) -> Result<Passport> {
    let sighting = Sighting::of(device)?;
    let verdicts: Vec<&str> = report.verdicts.iter().map(|verdict| verdict.summary.as_str()).collect();
    // With each value the bound that it was held against.
    let checks: Vec<_> = report.verdicts.iter().map(|Verdict { checks, .. }| checks).collect();
    let failures = report.failures.iter().map(|failure| failure.error.as_str());
    let form = short.then_some("the short form, which is no proof");
    Ok(Passport {
        format: FORMAT,
        device: device.display().to_string(),
        write_cache: sighting.write_cache_text(),
        drives: sighting.drives,
        date: utc(report.made_unix_s),
        host: host_name(),
        made_by: format!("seawall-qualify {}", env!("CARGO_PKG_VERSION")),
        qualified: report.level < Level::Fail,
        verdict: verdicts.into_iter().chain(failures).chain(form).collect::<Vec<_>>().join("; "),
        thresholds: serde_json::to_value(checks)?,
        measured: serde_json::to_value(&report.findings)?,
    })
}

/// RFC 3339. Days to a date as in the civil calendar.
fn utc(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    // From 1 March of the year 0 on: leap days are the last of their year.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year_of_era + era * 400 + next;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_795_305_599), "2026-11-21T23:59:59Z");
    }
}
