//! `seawall-qualify network` over a good link and over bad ones, each between two network namespaces. Needs root and iproute2.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use seawall_qualify::qualify::output::parse;
use seawall_qualify::qualify::{Fact, Level, Report};

const PROGRAM: &str = env!("CARGO_BIN_EXE_seawall-qualify");

/// Two namespaces and a pair of interfaces between them; gone when dropped.
struct Link {
    here: String,
    there: String,
}

impl Link {
    fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("swq{}x{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let link = Self { here: format!("{name}a"), there: format!("{name}b") };
        ip(&["netns", "add", &link.here]);
        ip(&["netns", "add", &link.there]);
        ip(&["link", "add", "eth0", "netns", &link.here, "type", "veth", "peer", "name", "eth0", "netns", &link.there]);
        for (space, address) in [(&link.here, "10.99.0.1/24"), (&link.there, "10.99.0.2/24")] {
            ip(&["-n", space, "address", "add", address, "dev", "eth0"]);
            ip(&["-n", space, "link", "set", "eth0", "up"]);
            ip(&["-n", space, "link", "set", "lo", "up"]);
        }
        link
    }

    /// 10 Mbit/s behind a queue that is so short that it drops.
    fn throttled(self) -> Self {
        let tbf = ["root", "tbf", "rate", "10mbit", "burst", "16kb", "limit", "20kb"];
        let mut tc = Command::new("ip");
        tc.args(["netns", "exec", &self.here, "tc", "qdisc", "add", "dev", "eth0"]).args(tbf);
        assert!(tc.status().unwrap().success(), "{tc:?}");
        self
    }

    /// The other side drops what this side believes may pass, and tells nobody.
    fn with_a_hole(self) -> Self {
        ip(&["-n", &self.here, "link", "set", "eth0", "mtu", "9000"]);
        self
    }

    fn probe(&self) -> Report {
        let mut serve = Command::new("ip");
        serve.args(["netns", "exec", &self.there, PROGRAM, "network", "serve", "--listen", "10.99.0.2:9399"]);
        let mut server = Server(serve.stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(server.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "listening on 10.99.0.2:9399");
        let mut probe = Command::new("ip");
        probe.args(["netns", "exec", &self.here, PROGRAM, "network", "probe", "10.99.0.2", "--seconds", "4", "--json"]);
        // A busy machine of CI is slow by itself: what differs below differs by far more than that.
        let thresholds = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(thresholds.path(), patient_thresholds()).unwrap();
        let output = probe.arg("--thresholds").arg(thresholds.path()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let report =
            parse(String::from_utf8_lossy(&output.stdout).trim()).unwrap_or_else(|e| panic!("{e:#}: {stderr}"));
        let qualified = report.level < Level::Fail;
        assert_eq!(output.status.code(), Some(i32::from(!qualified)), "{stderr}");
        eprintln!("{}", report.table());
        report
    }
}

fn patient_thresholds() -> String {
    let text = seawall_qualify::qualify::Thresholds::default_text();
    let mut patient = String::new();
    for line in text.lines() {
        let (from, to) = match line.split_once(' ').map(|(name, _)| name) {
            Some("round_trip_p50_ms") => ("fail_above = 5", "fail_above = 500"),
            Some("round_trip_p99_ms") => ("fail_above = 20", "fail_above = 2000"),
            Some("bandwidth_mib_per_s") => ("fail_below = 100", "fail_below = 2"),
            _ => ("\0", ""),
        };
        patient += &line.replace(from, to);
        patient.push('\n');
    }
    patient
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for space in [&self.here, &self.there] {
            let _ = Command::new("ip").args(["netns", "delete", space]).status();
        }
    }
}

fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().expect("ip, of iproute2");
    assert!(output.status.success(), "ip {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_good_link_is_qualified_and_one_that_drops_packets_or_swallows_large_ones_is_not() {
    let good = Link::new().probe();
    assert!(good.level < Level::Fail, "{}", good.table());
    assert_eq!(good.findings[0].measures["path_mtu_bytes"], 1500.0);
    assert_eq!(good.findings[0].facts["mtu_agrees"], Fact::Is(true));

    let throttled = Link::new().throttled().probe();
    assert_eq!(throttled.level, Level::Fail);
    let summary = &throttled.verdicts[0].summary;
    assert!(summary.contains("bandwidth") && summary.contains("retransmits"), "{summary}");

    let hole = Link::new().with_a_hole().probe();
    assert_eq!(hole.level, Level::Fail);
    assert!(hole.verdicts[0].summary.contains("MTU as configured"), "{}", hole.verdicts[0].summary);
}

#[test]
fn of_a_rack_each_pair_is_probed_both_ways() {
    let link = Link::new();
    let folder = tempfile::tempdir().unwrap();
    let (ssh, inventory) = (folder.path().join("ssh"), folder.path().join("rack.toml"));
    // What stands for ssh: its last two arguments are the host and the script.
    let text =
        "#!/bin/sh\nfor word; do host=$script; script=$word; done\nexec ip netns exec \"$host\" sh -c \"$script\"\n";
    std::fs::write(&ssh, text).unwrap();
    std::fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let Link { here, there } = &link;
    let hosts = format!(
        "[hosts]\nr1 = {{ ssh = \"{here}\", address = \"10.99.0.1\" }}\nr2 = {{ ssh = \"{there}\", address = \"10.99.0.2\" }}\n"
    );
    std::fs::write(&inventory, hosts).unwrap();
    let mut all = Command::new(PROGRAM);
    all.args(["all", "--json", "--probes", "network", "--seconds", "0.4", "--program", PROGRAM]);
    let output = all.arg("--inventory").arg(inventory).arg("--ssh").arg(ssh).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report = parse(String::from_utf8_lossy(&output.stdout).trim()).unwrap_or_else(|e| panic!("{e:#}: {stderr}"));
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    let ways: Vec<_> = report.findings.iter().map(|findings| findings.subject.as_str()).collect();
    assert_eq!(ways, ["r1 -> r2", "r2 -> r1"]);
}

#[test]
fn a_peer_that_does_not_serve_is_an_error_that_says_what_to_do() {
    let words = ["network", "probe", "127.0.0.1:1", "--seconds", "1"];
    let output = Command::new(PROGRAM).args(words).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("network serve"), "{output:?}");
}
