//! `cargo xtask package test`: the life of the package on a fresh Debian host. Installed, held without a configuration, started, hung,
//! upgraded, installed again, removed, purged, installed once more over what was kept; with a real client's records compared at each stage.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::site::Site;
use super::unpacked::Unpacked;
use super::{FAST, Package, Profile, TEST_TOOLS, finish};
use crate::bench::machine::Scratch;
use crate::lab;
use crate::tools;

/// Of `systemd-analyze security`, in tenths: 0 is locked up, 100 is open.
const EXPOSURE_MAX: u32 = 20;
/// `WatchdogSec` of the host's unit, the abort, the pause, a start; each with room.
const RESTART_MAX: Duration = Duration::from_secs(60);

pub fn run(profile: Profile, package: Option<&Path>) -> Result<bool> {
    lab::require_tools()?;
    tools::require(TEST_TOOLS)?;
    let package = match package {
        Some(package) => package.to_owned(),
        None => Package { profile, version: None, fast: true }.build()?,
    };
    let scratch = Scratch::new("package")?;
    let mut journey = Journey { site: Site::up()?, passed: 0, begun: Instant::now() };
    // What looks at the WAL when the host has it no more.
    let programs = scratch.path().join("programs");
    finish(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&programs))?;
    let program = programs.join("usr/bin/seawall");
    let outcome = journey.go(&package, &program, scratch.path());
    if outcome.is_err() {
        println!("{}", journey.site.journal().unwrap_or_default());
    }
    let (verdict, failed) = if outcome.is_ok() { ("ok", 0) } else { ("FAILED", 1) };
    if let Err(error) = outcome {
        println!("{error:#}");
    }
    println!("test result: {verdict}. {} passed; {failed} failed; 0 ignored", journey.passed);
    Ok(failed == 0)
}

struct Journey {
    site: Site,
    passed: u32,
    begun: Instant,
}

impl Journey {
    fn go(&mut self, package: &Path, program: &Path, scratch: &Path) -> Result<()> {
        self.stage("installed: user, folders, nothing started", |site| installed(site, package))?;
        self.stage("man pages, completions, licences", documented)?;
        self.stage("no start without a configuration", no_start_without_configuration)?;
        self.stage("no start with the example", no_start_with_the_example)?;
        self.stage("serves, as its own user and within its bounds", serves)?;
        self.stage("a broker that hangs is started again", hangs)?;
        let newer = newer(package, scratch)?;
        self.stage("an upgrade leaves the broker alone", |site| upgraded(site, &newer))?;
        self.stage("an upgrade that does not is noticed", |site| restarted_by_upgrade(site, package, scratch))?;
        self.stage("removed: stopped in order, all kept", |site| removed(site, program))?;
        self.stage("purged: data, keys and the WAL as they were", purged)?;
        self.stage("a purge that takes data is noticed", |site| greedy_purge(site, package, scratch))?;
        self.stage("installed again, it serves what was kept", |site| installed_again(site, package))
    }

    fn stage(&mut self, name: &str, run: impl FnOnce(&Site) -> Result<()>) -> Result<()> {
        run(&self.site).with_context(|| name.to_owned())?;
        self.passed += 1;
        println!("{name:<60} {:>6.1} s", self.begun.elapsed().as_secs_f64());
        Ok(())
    }
}

fn installed(site: &Site, package: &Path) -> Result<()> {
    let said = site.install(package, "")?;
    ensure!(said.contains("write /etc/seawall/seawall.toml"), "it does not say what comes next: {said}");
    same(&site.sh("stat --format '%U:%G %a' /etc/seawall /var/lib/seawall")?, "root:seawall 750\nseawall:seawall 750")?;
    let user = site.sh("getent passwd seawall")?;
    ensure!(user.ends_with(":/var/lib/seawall:/usr/sbin/nologin"), "the user is {user}");
    same(&site.shows("ActiveState")?, "inactive")?;
    same(&site.shows("UnitFileState")?, "disabled")?;
    same(&site.sh("dpkg --verify seawall; dpkg --audit")?, "")
}

fn documented(site: &Site) -> Result<()> {
    site.sh(
        "cd /usr/share\n\
         for words in 'seawall.1 Exit codes' 'seawall-wal-format.1 overwrite' 'seawall-qualify-backend.1 store' 'seawall-qualify-device.1 WAL'; do\n\
           zcat man/man1/${words%% *}.gz | grep --quiet \"${words#* }\" || { echo \"no $words\"; exit 1; }\n\
         done\n\
         for program in seawall seawall-qualify; do\n\
           bash -n bash-completion/completions/$program\n\
           test -s zsh/vendor-completions/_$program\n\
           test -s fish/vendor_completions.d/$program.fish\n\
         done\n\
         zcat doc/seawall/third-party.txt.gz | grep --quiet '^rdkafka-sys'\n\
         zcat doc/seawall/changelog.Debian.gz | head -1 | grep --quiet \"$(dpkg-query --show --showformat '${Version}' seawall)\"\n\
         grep --quiet Apache-2.0 doc/seawall/copyright\n\
         seawall config check doc/seawall/examples/broker.example.toml",
    )?;
    Ok(())
}

fn no_start_without_configuration(site: &Site) -> Result<()> {
    held(site, "there is no configuration, so no broker was started")
}

fn no_start_with_the_example(site: &Site) -> Result<()> {
    site.sh("seawall config example >/etc/seawall/seawall.toml; chown root:seawall /etc/seawall/seawall.toml")?;
    held(site, "sets nothing but the defaults of the example")?;
    // Comments make no choice.
    site.sh("echo '# mine' >/etc/seawall/seawall.toml")?;
    held(site, "sets nothing but the defaults of the example")
}

/// It says why, and systemd does not try again.
fn held(site: &Site, why: &str) -> Result<()> {
    site.sh_fails("systemctl start seawall")?;
    let state = site.sh("systemctl show seawall --property=ActiveState,NRestarts,ExecMainStatus | sort")?;
    same(&state, "ActiveState=failed\nExecMainStatus=3\nNRestarts=0")?;
    let status = site.sh("systemctl status seawall --no-pager --full || true")?;
    ensure!(status.contains(why), "`systemctl status` does not say \"{why}\": {status}");
    Ok(())
}

fn serves(site: &Site) -> Result<()> {
    site.configure()?;
    site.sh("systemctl enable --now --quiet seawall")?;
    let pid = site.pid()?;
    let status = site.sh(&format!(
        "ps -o user= -p {pid}; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/{pid}/status | tr '\\t' ' '"
    ))?;
    same(&status, "seawall\nCapEff: 0000000000000000\nCapBnd: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2")?;
    let groups = site.sh(&format!("stat --format %G {} {}", site.wal.device, site.other.device))?;
    same(&groups, "seawall\ndisk")?;
    let allowed = site.shows("DeviceAllow")?;
    let has = |device: &str| allowed.lines().any(|line| line == format!("{device} rw"));
    ensure!(has(&site.wal.device) && !has(&site.other.device), "DeviceAllow is {allowed}");
    let journal = site.journal()?;
    ensure!(journal.contains("io_uring"), "it writes without io_uring: {journal}");
    site.sh(&format!("systemd-analyze security --no-pager --threshold={EXPOSURE_MAX} seawall.service"))?;
    same(&site.shows("TimeoutStopUSec")?, "5min")?;
    site.produce(0, 1_000)?;
    site.consume(1_000)
}

fn hangs(site: &Site) -> Result<()> {
    let pid = site.pid()?;
    site.sh("systemctl kill --signal=STOP seawall")?;
    site.wait_for_another(&pid, RESTART_MAX)?;
    same(&site.shows("NRestarts")?, "1")?;
    site.consume(1_000)
}

/// The next version, which ships another environment.
fn newer(package: &Path, scratch: &Path) -> Result<PathBuf> {
    let newer = Unpacked::new(package, scratch.join("newer"))?;
    newer.version("+1")?;
    newer.append("etc/default/seawall", "#SEAWALL_NEW=1")?;
    pack(newer, scratch)
}

fn pack(package: Unpacked, scratch: &Path) -> Result<PathBuf> {
    let path = scratch.join("packed.deb");
    package.pack(&path, FAST, "0")?;
    Ok(path)
}

fn upgraded(site: &Site, newer: &Path) -> Result<()> {
    let pid = site.pid()?;
    site.sh("echo SEAWALL_LOG_FORMAT=json >>/etc/default/seawall; cp /etc/default/seawall /root/as-the-admin-has-it")?;
    let said = site.install(newer, "")?;
    ensure!(
        said.contains("the broker goes on as the version"),
        "it does not say that the broker is an old one: {said}"
    );
    left_alone(site, &pid)?;
    site.sh(
        "cmp /etc/default/seawall /root/as-the-admin-has-it; grep --quiet SEAWALL_NEW /etc/default/seawall.dpkg-dist",
    )?;
    site.produce(1_000, 2_000)?;
    site.install(newer, "--reinstall")?;
    left_alone(site, &pid)?;
    site.consume(2_000)?;
    site.sh("systemctl restart seawall")?;
    let now = site.wait_for_another(&pid, RESTART_MAX)?;
    same(&site.sh(&format!("readlink /proc/{now}/exe"))?, "/usr/bin/seawall")?;
    same(&site.sh("systemctl is-enabled seawall")?, "enabled")?;
    ensure!(site.journal()?.contains("\"level\":"), "the admin's environment is not that of the broker");
    site.consume(2_000)
}

/// The same process, of a program that is gone.
fn left_alone(site: &Site, pid: &str) -> Result<()> {
    let now = site.pid()?;
    ensure!(now == pid, "the broker was process {pid} and is {now}");
    same(&site.sh(&format!("readlink /proc/{pid}/exe"))?, "/usr/bin/seawall (deleted)")
}

fn restarted_by_upgrade(site: &Site, package: &Path, scratch: &Path) -> Result<()> {
    let faulty = Unpacked::new(package, scratch.join("restarting"))?;
    faulty.version("+2")?;
    faulty.begin("DEBIAN/postinst", "systemctl restart seawall")?;
    let pid = site.pid()?;
    site.install(&pack(faulty, scratch)?, "")?;
    if left_alone(site, &pid).is_ok() {
        bail!("a package that restarts the broker passed");
    }
    Ok(())
}

fn removed(site: &Site, program: &Path) -> Result<()> {
    site.sh("DEBIAN_FRONTEND=noninteractive apt-get remove --yes --quiet seawall 2>&1")?;
    same(
        &site.sh(
            "pgrep --exact seawall || true; ls /etc/systemd/system/multi-user.target.wants | grep seawall || true",
        )?,
        "",
    )?;
    let last = site.sh("journalctl --unit=seawall --lines=6 --output=cat --no-pager")?;
    ensure!(last.contains("seawall.service: Deactivated successfully"), "the broker was not stopped in order: {last}");
    ensure!(site.wal_is_clean(program)?, "the WAL was not closed");
    site.sh("test -s /etc/seawall/seawall.toml; test -s /etc/seawall/secret_key; test -s /etc/default/seawall; test -d /var/lib/seawall/metadata")?;
    Ok(())
}

fn purged(site: &Site) -> Result<()> {
    let before = kept(site)?;
    let said = purge(site)?;
    ensure!(said.contains("/var/lib/seawall is kept"), "it does not say what it keeps: {said}");
    same(
        &site.sh(
            "ls /etc/default/seawall* /usr/lib/seawall /usr/lib/systemd/system/seawall.service 2>/dev/null || true",
        )?,
        "",
    )?;
    site.sh("getent passwd seawall")?;
    same(&kept(site)?, &before)
}

fn purge(site: &Site) -> Result<String> {
    site.sh("DEBIAN_FRONTEND=noninteractive apt-get purge --yes --quiet seawall 2>&1")
}

/// Data and devices.
fn kept(site: &Site) -> Result<String> {
    Ok(format!("{}\n{}", site.data_checksum()?, site.wal_checksum()?))
}

fn greedy_purge(site: &Site, package: &Path, scratch: &Path) -> Result<()> {
    let faulty = Unpacked::new(package, scratch.join("greedy"))?;
    faulty.begin("DEBIAN/postrm", "[ \"$1\" != purge ] || rm -f /var/lib/seawall/of-the-test")?;
    site.sh("touch /var/lib/seawall/of-the-test")?;
    let before = kept(site)?;
    site.install(&pack(faulty, scratch)?, "")?;
    purge(site)?;
    ensure!(kept(site)? != before, "a package that takes data passed");
    Ok(())
}

fn installed_again(site: &Site, package: &Path) -> Result<()> {
    site.install(package, "")?;
    same(&site.shows("ActiveState")?, "inactive")?;
    site.sh("systemctl start seawall")?;
    site.consume(2_000)?;
    site.produce(2_000, 3_000)?;
    site.consume(3_000)
}

fn same(is: &str, should: &str) -> Result<()> {
    ensure!(is == should, "it is\n{is}\nand not\n{should}");
    Ok(())
}
