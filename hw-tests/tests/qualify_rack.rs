//! `seawall-qualify all` over hosts that are shells on this machine: what stands for ssh gives its last argument to a shell.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use seawall_qualify::qualify::output::parse;
use seawall_qualify::qualify::{Level, Report};

const PROGRAM: &str = env!("CARGO_BIN_EXE_seawall-qualify");

/// `gone` cannot be reached; the others are this machine.
const SSH: &str = r#"#!/bin/sh
for word; do before=$host; host=$script; script=$word; done
case $host in *gone) echo "ssh: connect to host gone: No route to host" >&2; exit 255;; esac
exec sh -c "$script"
"#;

fn script(folder: &Path, name: &str, text: &str) -> String {
    let file = folder.join(name);
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    file.display().to_string()
}

fn all(folder: &Path, inventory: &str) -> Command {
    let file = folder.join("rack.toml");
    fs::write(&file, inventory).unwrap();
    let mut all = Command::new(PROGRAM);
    all.args(["all", "--json", "--inventory"]).arg(file).arg("--ssh").arg(script(folder, "ssh", SSH));
    all.env("TMPDIR", folder);
    all
}

fn report(all: &mut Command) -> Report {
    let output = all.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    parse(String::from_utf8_lossy(&output.stdout).trim()).unwrap_or_else(|error| panic!("{error:#}: {stderr}"))
}

#[test]
fn a_host_that_does_not_answer_is_named_and_the_others_are_probed() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = all(folder.path(), "[hosts]\nr1 = {}\nr2 = { ssh = \"ops@gone\" }\nr3 = {}\n");
    let report = report(all.args(["--probes", "host", "--bring"]));
    let hosts: Vec<_> = report.findings.iter().map(|findings| findings.host.as_str()).collect();
    assert_eq!(hosts, ["r1", "r3"]);
    assert_eq!(report.level, Level::Fail);
    assert_eq!((report.failures[0].host.as_str(), report.failures.len()), ("r2", 1));
    assert!(report.failures[0].error.contains("No route to host"), "{:?}", report.failures);
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "the program that was brought is still there: {left:?}");
}

/// A host whose flush is six times as slow as the others' passes its thresholds, and is named.
#[test]
fn the_host_that_is_far_worse_than_the_rack_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut inventory = "[hosts]\n".to_owned();
    for (host, ms) in [("r1", 0.2), ("r2", 1.2), ("r3", 0.2), ("r4", 0.21)] {
        inventory += &format!("{host} = {{ ssh = \"{host}\", devices = [\"{ms}\"] }}\n");
    }
    let device = r#"#!/bin/sh
echo '{"schema":1,"version":"0","made_unix_s":0,"level":"pass","verdicts":[],"findings":[{"role":"wal_device","host":"x",
"subject":"nvme","begun_unix_s":0,"seconds":1,"measures":{"ack_p99_ms":'$2'}}]}'
"#;
    let program = script(folder.path(), "program", device);
    let mut all = all(folder.path(), &inventory);
    let report = report(all.args(["--probes", "device", "--program", &program]));
    let sentences: Vec<_> = report.outliers.iter().map(|outlier| outlier.sentence.as_str()).collect();
    assert_eq!(sentences.len(), 1, "{sentences:?}");
    assert!(sentences[0].starts_with("r2 (nvme)") && sentences[0].contains("x the rack's median"), "{sentences:?}");
}

/// A device that fails midway: what it measured and why it ended come along, though all that was measured may be good.
#[test]
fn the_error_of_a_device_comes_with_what_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    let device = r#"#!/bin/sh
echo '{"schema":1,"version":"0","made_unix_s":0,"level":"fail","verdicts":[],"findings":[{"role":"wal_device","host":"x",
"subject":"nvme","begun_unix_s":0,"seconds":1,"measures":{"ack_p99_ms":0.2}}],
"failures":[{"host":"x","probe":"device","error":"write: Input/output error"}]}'
exit 1
"#;
    let program = script(folder.path(), "program", device);
    let mut all = all(folder.path(), "[hosts]\nr1 = { devices = [\"nvme\"] }\n");
    let report = report(all.args(["--probes", "device", "--program", &program]));
    assert_eq!((report.level, report.findings.len()), (Level::Fail, 1));
    let failure = &report.failures[0];
    assert_eq!((failure.host.as_str(), failure.probe.as_str()), ("r1", "device nvme"));
    assert_eq!(failure.error, "write: Input/output error");
}

#[test]
fn what_sudo_complains_of_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let sudo = "#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n";
    script(folder.path(), "sudo", sudo);
    let mut all = all(folder.path(), "[hosts]\nr1 = {}\n");
    let path = std::env::var("PATH").unwrap();
    all.env("PATH", format!("{}:{path}", folder.path().display()));
    let report = report(all.args(["--probes", "host", "--sudo", "--program", PROGRAM]));
    assert_eq!(report.failures[0].error, "sudo: a password is required");
}

#[test]
fn after_ctrl_c_no_further_device_is_probed() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = all(folder.path(), "[hosts]\nr1 = { devices = [\"a\", \"b\", \"c\"] }\n");
    let counts = "#!/bin/sh\necho >>$0.calls\nfor word; do script=$word; done\nexec sh -c \"$script\"\n";
    let slow = "#!/bin/sh\ntrap 'exit 130' TERM\ntouch $0.runs\nwhile :; do sleep 0.1; done\n";
    script(folder.path(), "ssh", counts);
    let program = script(folder.path(), "program", slow);
    all.args(["--probes", "device", "--program", &program]);
    let mut child = all.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until(|| folder.path().join("program.runs").exists());
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(fs::read_to_string(folder.path().join("ssh.calls")).unwrap(), "\n");
}

#[test]
fn ctrl_c_ends_what_runs_on_the_hosts_and_leaves_nothing_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = all(folder.path(), "[hosts]\nr1 = {}\n");
    // The probe that the host would run for a long time.
    let slow = "#!/bin/sh\ntrap 'rm -f $0.runs; exit 130' TERM\ntouch $0.runs\nwhile :; do sleep 0.1; done\n";
    let program = script(folder.path(), "program", slow);
    let mut child = all
        .args(["--probes", "host", "--program", &program])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let runs = folder.path().join("program.runs");
    wait_until(|| runs.exists());
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    wait_until(|| !runs.exists());
}

fn wait_until(done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(30), "waited for too long");
        thread::sleep(Duration::from_millis(20));
    }
}
