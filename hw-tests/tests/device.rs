//! `seawall-qualify device` and `power-cut` on real block devices of this kernel: what holds data is not touched, what is
//! qualified is left blank, Ctrl-C included, and a drive that lies about flushes is found by a power cut. Needs root.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use seawall_qualify::fault_disk::{FaultDisk, possible};
use seawall_qualify::power_cut::{Client, Server, format_for, load, verify};
use seawall_qualify::qualify::unix_s;
use seawall_qualify::wal_ledger::{Known, Writers, config, recover};
use seawall_wal_device::passport::{Passports, PublicKey, Sighting, SiteKey};
use seawall_wal_device::{FormatConfig, format};
use tempfile::TempDir;

const DISK_BYTES: u64 = 128 << 20;
/// RFC 8032, test 1.
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";

fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory } else { Path::new("/var/tmp") };
    tempfile::Builder::new().prefix("seawall-device-").tempdir_in(base).unwrap()
}

struct Bed {
    disk: FaultDisk,
    folder: TempDir,
}

impl Bed {
    fn new() -> Self {
        let folder = folder();
        Self { disk: FaultDisk::create(&folder.path().join("disk"), DISK_BYTES).unwrap(), folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the command names the device by.
    fn serial(&self) -> String {
        Sighting::of(self.disk.device()).unwrap().drives.remove(0).serial
    }

    fn first_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        File::open(self.disk.device()).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn is_blank(&self) -> bool {
        self.first_bytes().iter().all(|byte| *byte == 0)
    }
}

fn qualify(device: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall-qualify"));
    command.arg("device").arg(device).arg("--short").args(more).stdin(Stdio::null());
    command
}

fn refused(output: &Output, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains(why), "{:?}: {said}", output.status);
}

#[test]
fn a_device_with_data_is_not_touched_unless_told_twice_and_one_in_use_never() {
    if !possible() {
        return;
    }
    let mut bed = Bed::new();
    bed.disk.make_ext4().unwrap();
    let (before, serial) = (bed.first_bytes(), bed.serial());
    let device = bed.disk.device().to_owned();
    let run = |more: &[&str]| qualify(&device, more).output().unwrap();
    refused(&run(&[]), "holds an ext file system: nothing was written");
    refused(&run(&["--overwrite"]), "--confirm");
    refused(&run(&["--overwrite", "--confirm", "another"]), "not another: nothing was written");
    assert!(before == bed.first_bytes());
    let mount_point = bed.path("mnt");
    bed.disk.mount(&mount_point).unwrap();
    refused(&run(&["--overwrite", "--confirm", &serial]), &format!("is mounted at {}", mount_point.display()));
    assert_eq!(bed.first_bytes()[1080..1082], [0x53, 0xef], "there is no ext4 any more");
}

#[test]
fn the_wal_of_a_broker_is_not_touched() {
    if !possible() {
        return;
    }
    let bed = Bed::new();
    format(&FormatConfig { ring_bytes: None, ..FormatConfig::new(bed.disk.device(), 0, 1) }).unwrap();
    let before = bed.first_bytes();
    refused(&qualify(bed.disk.device(), &[]).output().unwrap(), "holds WAL ");
    assert!(before == bed.first_bytes());
}

#[test]
fn a_device_gets_a_passport_which_the_short_form_does_not_qualify_and_is_left_blank() {
    if !possible() {
        return;
    }
    let bed = Bed::new();
    let (key, passports) = (bed.path("site.key"), bed.path("passports"));
    std::fs::create_dir(&passports).unwrap();
    std::fs::write(&key, KEY).unwrap();
    let passport = passports.join("disk.json");
    let more = ["--json", "--passport", passport.to_str().unwrap(), "--key", key.to_str().unwrap()];
    let output = qualify(bed.disk.device(), &more).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    // How fast this machine is decides the verdict, so it is not looked at here.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{told}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = &report["findings"][0];
    assert_eq!(findings["facts"]["keeps_every_place"], true, "{told}");
    assert_eq!(findings["facts"]["log_is_whole"], true, "{told}");
    assert!(findings["measures"]["durable_d16_p9999_ms"].is_number() && bed.is_blank(), "{told}");

    let public: PublicKey = SiteKey::from_pem(KEY.as_bytes()).unwrap().public_key();
    let now = Sighting::of(bed.disk.device()).unwrap();
    // Signature, drive, firmware and write cache are asked before that.
    let said = Passports::read(&passports, &public).unwrap().judge(&now, unix_s()).unwrap_err().to_string();
    assert!(said.starts_with("it did not pass on ") && said.contains("--short writes too little"), "{said}");
    assert!(told.contains("which says that the device is not qualified"), "{told}");
}

#[test]
fn what_a_killed_run_left_is_nothing_until_somebody_puts_something_there() {
    if !possible() {
        return;
    }
    let bed = Bed::new();
    let mut child = qualify(bed.disk.device(), &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Into its sustained write: each copy of the superblock was written for itself.
    std::thread::sleep(Duration::from_secs(8));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!bed.is_blank(), "it had not begun, or was over");
    let put = |bytes: &[u8]| {
        let mut block = bed.first_bytes()[..4096].to_vec();
        block[512..520].copy_from_slice(bytes);
        File::options().write(true).open(bed.disk.device()).unwrap().write_all_at(&block, 0).unwrap();
    };
    put(b"EFI PART");
    let before = bed.first_bytes();
    refused(&qualify(bed.disk.device(), &[]).output().unwrap(), "holds a GPT partition table beside WAL ");
    assert!(before == bed.first_bytes());
    put(&[0; 8]);
    let output = qualify(bed.disk.device(), &[]).output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(bed.is_blank());
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    if !possible() {
        return;
    }
    let bed = Bed::new();
    let mut child = qualify(bed.disk.device(), &[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while bed.is_blank() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!bed.is_blank(), "it does not write");
    interrupt(&child);
    let status = child.wait().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(status.code() == Some(130), "{status:?}: {said}");
    assert!(bed.is_blank());
}

fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// What was known outside when the power went, and what the cut left.
fn cut(bed: &Bed, seed: u64) -> (Known, PathBuf) {
    let file = bed.path("ledger");
    let server = Server::listen("127.0.0.1:0", &file).unwrap();
    let mut client = Client::connect(&server.address().to_string(), "disk").unwrap();
    let tell = Box::new(move |known: &Known| client.tell(known).unwrap());
    format_for(bed.disk.device()).unwrap();
    let known = Known::default();
    let found = recover(&config(bed.disk.device()), &known).unwrap();
    let writers = Writers::start(found, &known, tell).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while writers.ledger().known.acked < 500 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let image = bed.path("image");
    let standstill = writers.ledger();
    bed.disk.power_cut(seed, &image).unwrap();
    let (_, known) = load(&file).unwrap().unwrap();
    assert_eq!(known.as_ref().map(|known| known.acked), Some(standstill.known.acked));
    drop(standstill);
    writers.stop();
    (known.unwrap(), image)
}

#[test]
fn an_honest_drive_keeps_all_that_the_ledger_holds_and_one_that_lies_about_flushes_does_not() {
    if !possible() {
        return;
    }
    for seed in 1..=3 {
        let bed = Bed::new();
        let (known, image) = cut(&bed, seed);
        let kept = verify(&image, "disk", &known).unwrap();
        assert!(kept.lost.is_none() && kept.damaged.is_empty() && kept.acked >= 500, "seed {seed}: {kept:?}");
    }
    let bed = Bed::new();
    bed.disk.lie_about_flushes();
    let (known, image) = cut(&bed, 4);
    let kept = verify(&image, "disk", &known).unwrap();
    assert!(kept.lost.is_some(), "{kept:?}");
}

#[test]
fn the_commands_find_what_was_cut_off_and_go_on() {
    if !possible() {
        return;
    }
    let bed = Bed::new();
    let file = bed.path("ledger");
    let server = Server::listen("127.0.0.1:0", &file).unwrap();
    let address = server.address().to_string();
    let device = bed.disk.device().to_owned();
    let power_cut = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seawall-qualify"));
        command.args(["power-cut", arguments[0]]).arg(&device).args(&arguments[1..]).stdin(Stdio::null());
        command.output().unwrap()
    };
    for _ in 0..2 {
        let written = power_cut(&["write", "--ledger", &address, "--seconds", "1", "--json"]);
        assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    }
    let file = file.to_str().unwrap();
    let kept = power_cut(&["verify", "--ledger-file", file, "--json", "--erase"]);
    let said: serde_json::Value = serde_json::from_slice(&kept.stdout).unwrap();
    assert!(kept.status.success() && said["lost"].is_null() && said["acked"].as_u64() > Some(0), "{said}");
    assert!(bed.is_blank());
    let lost = power_cut(&["verify", "--ledger-file", file, "--json"]);
    assert_eq!(lost.status.code(), Some(1), "there is no log any more");
}
