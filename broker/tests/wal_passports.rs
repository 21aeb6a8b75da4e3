//! A broker on raw block devices of this machine's kernel, and the passports that were signed of them: one that counts, and each way
//! in which one does not. Needs root, loop devices and FUSE.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::child::{ChildBroker, binary, run_to_end};
use common::http_get;
use seawall_qualify::fault_disk::{FaultDisk, possible};
use seawall_wal_device::passport::{FORMAT, Passport, Sighting, SiteKey};
use serde_json::{Value, json};
use tempfile::TempDir;

const DISK_BYTES: u64 = 64 << 20;
/// RFC 8032, tests 1 and 2.
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
const OTHER_KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIEzNCJso/5banbbDRuwRTg9bijGfNaumJNqM9u1PuKb7\n-----END PRIVATE KEY-----\n";

/// Some devices, and a site that qualifies.
struct Site {
    disks: Vec<FaultDisk>,
    folder: TempDir,
}

impl Site {
    /// The first one holds a WAL, or the first two do as a mirror.
    fn new(disks: usize, mirrored: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = |number| FaultDisk::create(&folder.path().join(format!("disk{number}")), DISK_BYTES).unwrap();
        let site = Self { disks: (0..disks).map(disk).collect(), folder };
        std::fs::create_dir(site.path("passports")).unwrap();
        std::fs::write(site.path("site.pub"), PUBLIC_KEY).unwrap();
        let config = site.config(false, mirrored);
        let mut format = vec!["format", site.device(0)];
        if mirrored {
            format.extend(["--mirror", site.device(1)]);
        }
        format.extend(["--config", config.to_str().unwrap(), "--yes"]);
        let (code, error) = wal(&format);
        assert_eq!(code, 0, "{error}");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn device(&self, number: usize) -> &str {
        self.disks[number].device().to_str().unwrap()
    }

    fn config(&self, required: bool, mirrored: bool) -> PathBuf {
        let wal = match mirrored {
            true => format!("kind = \"mirror\"\ndevices = {:?}", [self.device(0), self.device(1)]),
            false => format!("kind = \"device\"\ndevice = {:?}", self.device(0)),
        };
        let text = format!(
            "[node]\ndata_dir = {:?}\n[listeners]\nkafka = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n[[wal]]\n{wal}\n\
             [passport]\ndir = {:?}\npublic_key_file = {:?}\nrequired = {required}\n",
            self.path("data"),
            self.path("passports"),
            self.path("site.pub")
        );
        let file = self.path("seawall.toml");
        std::fs::write(&file, text).unwrap();
        file
    }

    /// What a qualification would say of the device as it is now.
    fn passport(&self, number: usize) -> Passport {
        let now = Sighting::of(self.disks[number].device()).unwrap();
        Passport {
            format: FORMAT,
            device: self.device(number).to_owned(),
            write_cache: now.write_cache_text(),
            drives: now.drives,
            date: "2026-01-02T00:00:00Z".into(),
            host: "h1".into(),
            made_by: "a test".into(),
            qualified: true,
            verdict: "qualified for 350 MiB/s".into(),
            thresholds: json!({}),
            measured: json!({}),
        }
    }

    fn issue(&self, number: usize, passport: &Passport, key: &str) {
        let text = passport.sign(&SiteKey::from_pem(key.as_bytes()).unwrap());
        std::fs::write(self.path("passports").join(format!("{number}.json")), text).unwrap();
    }

    /// A start that is to be refused.
    fn refused(&self, mirrored: bool) -> String {
        let mut command = Command::new(binary());
        command.arg("start").arg("--config").arg(self.config(true, mirrored));
        let (code, error) = run_to_end(command);
        assert_eq!(code, 12, "{error}");
        assert!(error.contains("put its passport into") && error.contains("set passport.required = false"), "{error}");
        error
    }
}

fn wal(args: &[&str]) -> (i32, String) {
    let output = Command::new(binary()).arg("wal").args(args).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// What `/state` says of the legs, and the metric of these devices.
async fn told(broker: &ChildBroker, devices: &[&str]) -> (Vec<Value>, String) {
    let (_, text) = http_get(broker.admin_address, "/state").await;
    let state: Value = serde_json::from_str(&text).unwrap();
    let (_, metrics) = http_get(broker.admin_address, "/metrics").await;
    let of = |device: &&str| {
        let label = format!("device=\"{device}\"");
        let line =
            metrics.lines().find(|line| line.starts_with("seawall_wal_passport_valid{") && line.contains(&label));
        line.and_then(|line| line.split(' ').next_back()).unwrap_or("-").to_owned()
    };
    let valid: Vec<String> = devices.iter().map(of).collect();
    (state["wals"][0]["legs"].as_array().unwrap().clone(), valid.join(" "))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_used_as_its_passport_says() {
    if !possible() {
        return;
    }
    let site = Site::new(1, false);
    assert!(site.refused(false).contains("no passport names"));
    let good = site.passport(0);

    site.issue(0, &good, OTHER_KEY);
    assert!(site.refused(false).contains("was not signed with the site's key, or was changed since"));
    let file = site.path("passports/0.json");
    site.issue(0, &Passport { qualified: false, ..good.clone() }, KEY);
    assert!(site.refused(false).contains("it did not pass on 2026-01-02"));
    let changed = std::fs::read_to_string(&file).unwrap().replace("\"qualified\":false", "\"qualified\":true");
    assert!(changed.contains("\"qualified\":true"));
    std::fs::write(&file, changed).unwrap();
    assert!(site.refused(false).contains("was not signed with the site's key, or was changed since"));
    site.issue(0, &Passport { date: "9999-01-01T00:00:00Z".into(), ..good.clone() }, KEY);
    assert!(site.refused(false).contains("its newest passport is of 9999-01-01T00:00:00Z, and here it is 2"));
    let mut other = good.clone();
    other.drives[0].serial = "another".into();
    site.issue(0, &other, KEY);
    assert!(site.refused(false).contains("no passport names"));
    std::fs::rename(site.path("site.pub"), site.path("site.gone")).unwrap();
    assert!(site.refused(false).contains("site.pub"));
    std::fs::rename(site.path("site.gone"), site.path("site.pub")).unwrap();

    let mut older = good.clone();
    older.drives[0].firmware = "F1".into();
    site.issue(0, &older, KEY);
    assert!(site.refused(false).contains("was qualified with firmware F1, it has"));
    let broker = ChildBroker::start(&site.config(false, false));
    let (legs, valid) = told(&broker, &[site.device(0)]).await;
    assert!(legs[0]["passport"].as_str().unwrap().contains("firmware F1"), "{legs:?}");
    assert_eq!(valid, "0", "not required: it is told of and used");
    broker.kill();

    site.issue(0, &good, KEY);
    let broker = ChildBroker::start(&site.config(true, false));
    let (legs, valid) = told(&broker, &[site.device(0)]).await;
    assert_eq!((legs[0]["passport"].as_str(), valid.as_str()), (Some("valid"), "1"));
    broker.kill();
    let _turned = TurnedCache::of(site.disks[0].device());
    let said = site.refused(false);
    assert!(said.contains("its write cache was ") && said.contains("when it was qualified and is "), "{said}");
}

/// As `nvme set-feature` or a controller may do to a drive. The kernel keeps it for the next user of the loop device: it is turned
/// back when this is dropped.
struct TurnedCache {
    file: String,
    before: String,
}

impl TurnedCache {
    fn of(device: &Path) -> Self {
        let name = device.file_name().unwrap().to_str().unwrap();
        let file = format!("/sys/block/{name}/queue/write_cache");
        let before = std::fs::read_to_string(&file).unwrap().trim().to_owned();
        std::fs::write(&file, if before == "write back" { "write through" } else { "write back" }).unwrap();
        Self { file, before }
    }
}

impl Drop for TurnedCache {
    fn drop(&mut self) {
        std::fs::write(&self.file, &self.before).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_devices_of_a_mirror_and_one_that_comes_are_used_as_its_passport_says() {
    if !possible() {
        return;
    }
    let site = Site::new(3, true);
    site.issue(0, &site.passport(0), KEY);
    let said = site.refused(true);
    assert!(said.contains(site.device(1)) && !said.contains(&format!("{}:", site.device(0))), "{said}");
    site.issue(1, &site.passport(1), KEY);
    let config = site.config(true, true);
    let broker = ChildBroker::start(&config);
    let devices = [site.device(0), site.device(1), site.device(2)];
    let (legs, valid) = told(&broker, &devices).await;
    assert_eq!(valid, "1 1 -");

    let ids: Vec<&str> = legs.iter().map(|leg| leg["id"].as_str().unwrap()).collect();
    let replace =
        || wal(&["replace", "--config", config.to_str().unwrap(), "--with", devices[2], "--leg", ids[1], "--yes"]);
    let (code, error) = replace();
    assert!(code == 1 && error.contains("no passport names") && error.contains("put its passport into"), "{error}");
    let (_, valid) = told(&broker, &devices).await;
    assert_eq!(valid, "1 1 -", "nothing was changed");
    site.issue(2, &site.passport(2), KEY);
    let (code, error) = replace();
    assert_eq!(code, 0, "{error}");
    let (legs, valid) = told(&broker, &devices).await;
    assert_eq!(valid, "1 - 1");
    assert!(legs.iter().all(|leg| leg["passport"] == "valid"), "{legs:?}");
    broker.kill();
}
