//! Passports against devices that are still the same, and against those that are not.

use serde_json::json;

use super::*;

fn drive(serial: &str, firmware: &str) -> PassportDrive {
    PassportDrive { model: "Good SSD".into(), serial: serial.into(), firmware: firmware.into(), bytes: 1 << 40 }
}

fn sighting(serial: &str, firmware: &str, cache: WriteCache) -> Sighting {
    Sighting { drives: vec![drive(serial, firmware)], write_cache: Some(cache), volatile_cache: Some(cache) }
}

fn passport(serial: &str, date: &str, qualified: bool) -> Passport {
    Passport {
        format: FORMAT,
        device: "/dev/disk/by-id/x".into(),
        drives: vec![drive(serial, "F1")],
        write_cache: Some("write through".into()),
        date: date.into(),
        host: "h".into(),
        made_by: "seawall-qualify".into(),
        qualified,
        verdict: "limit: flush latency".into(),
        thresholds: json!({"p99_us": 400}),
        measured: json!({"curves": [1, 2, 3.5]}),
    }
}

/// 2026-07-01T00:00:00Z.
const TODAY_S: u64 = 1_782_864_000;

struct Site {
    folder: tempfile::TempDir,
    key: SiteKey,
}

impl Site {
    fn with(passports: &[Passport]) -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap(), key: SiteKey::generate() };
        for (n, passport) in passports.iter().enumerate() {
            site.put(&format!("{n}.json"), &passport.sign(&site.key));
        }
        site
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn judge(&self, now: &Sighting) -> Result<String, Objection> {
        let passports = Passports::read(self.folder.path(), &self.key.public_key()).unwrap();
        passports.judge(now, TODAY_S).map(|passport| passport.date.clone())
    }
}

use WriteCache::{WriteBack, WriteThrough};

#[test]
fn the_same_drive_is_taken_and_any_change_is_named() {
    let site = Site::with(&[passport("S1", "2026-01-01T00:00:00Z", true)]);
    assert_eq!(site.judge(&sighting("S1", "F1", WriteThrough)).unwrap(), "2026-01-01T00:00:00Z");
    let said = |now: &Sighting| site.judge(now).unwrap_err().to_string();
    assert!(said(&sighting("S1", "F2", WriteThrough)).contains("firmware F1, it has F2 now"));
    let cache = said(&sighting("S1", "F1", WriteBack));
    assert!(cache.contains("was \"write through\" when it was qualified and is \"write back\" now"), "{cache}");
    assert_eq!(said(&sighting("S2", "F1", WriteThrough)), "no passport names Good SSD S2");
    assert!(said(&sighting("", "F1", WriteThrough)).contains("no serial number"));
    let mut smaller = sighting("S1", "F1", WriteThrough);
    smaller.drives[0].bytes = 1 << 30;
    assert!(matches!(site.judge(&smaller), Err(Objection::OtherDrive { .. })));
}

#[test]
fn the_newest_passport_of_a_drive_decides() {
    let dates = ["2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z"];
    let site = Site::with(&[passport("S1", dates[0], true), passport("S1", dates[1], false)]);
    let said = site.judge(&sighting("S1", "F1", WriteThrough)).unwrap_err().to_string();
    assert_eq!(said, "it did not pass on 2026-06-01T00:00:00Z: limit: flush latency");
}

#[test]
fn a_passport_from_the_future_does_not_count_before_a_later_one() {
    let ahead = "2031-01-01T00:00:00Z";
    let site = Site::with(&[passport("S1", ahead, true), passport("S1", "2026-06-01T00:00:00Z", false)]);
    let said = site.judge(&sighting("S1", "F1", WriteThrough)).unwrap_err();
    let (date, now) = (ahead.to_owned(), "2026-07-01T00:00:00Z".to_owned());
    assert_eq!(said, Objection::FromTheFuture { date, now });
    // Hosts in step to a day.
    let site = Site::with(&[passport("S1", "2026-07-02T00:00:00Z", true)]);
    site.judge(&sighting("S1", "F1", WriteThrough)).unwrap();
    let site = Site::with(&[passport("S1", "2026-07-02T00:00:01Z", true)]);
    site.judge(&sighting("S1", "F1", WriteThrough)).unwrap_err();
}

#[test]
fn a_passport_that_was_changed_or_signed_by_another_is_none() {
    let site = Site::with(&[]);
    let honest = passport("S1", "2026-01-01T00:00:00Z", false).sign(&site.key);
    site.put("changed.json", &honest.replace("\"qualified\":false", "\"qualified\":true"));
    site.put("other.json", &passport("S1", "2026-01-01T00:00:00Z", true).sign(&SiteKey::generate()));
    site.put("garbage.json", "[]");
    site.put("notes.txt", "not looked at");
    let said = site.judge(&sighting("S1", "F1", WriteThrough)).unwrap_err().to_string();
    assert!(said.starts_with("no passport names Good SSD S1 (not counted: ") && said.matches(".json").count() == 3);
    assert_eq!(said.matches("was not signed with the site's key, or was changed since").count(), 2, "{said}");
}

#[test]
fn fractions_do_not_break_the_signature() {
    let measured = (1..20_000u32).map(|n| f64::from(n) / 7919.0 * 1.1e-3).collect::<Vec<_>>();
    let measured = serde_json::to_value(measured).unwrap();
    let site = Site::with(&[Passport { measured, ..passport("S1", "2026-01-01T00:00:00Z", true) }]);
    site.judge(&sighting("S1", "F1", WriteThrough)).unwrap();
}

#[test]
fn a_newer_format_is_not_guessed_at() {
    let site = Site::with(&[Passport { format: FORMAT + 1, ..passport("S1", "2026-01-01T00:00:00Z", true) }]);
    let said = site.judge(&sighting("S1", "F1", WriteThrough)).unwrap_err().to_string();
    assert!(said.contains("has passport format 2, this build knows 1"), "{said}");
}

#[test]
fn a_volatile_cache_that_only_root_sees_is_told_and_is_no_other_device() {
    let facts = DeviceFacts { write_cache: Some(WriteThrough), ..DeviceFacts::default() };
    let seen = |drive| Sighting::from_facts(&facts, &LegFacts { drive_cache: drive, ..LegFacts::default() });
    let (root, broker) = (seen(Some(WriteBack)), seen(None));
    assert_eq!((root.volatile_cache, broker.volatile_cache), (Some(WriteBack), Some(WriteThrough)));
    assert_eq!((root.write_cache, broker.write_cache), (Some(WriteThrough), Some(WriteThrough)));
    assert_eq!(Sighting::from_facts(&DeviceFacts::default(), &LegFacts::default()).volatile_cache, None);
}
