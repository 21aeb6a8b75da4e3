//! Outages of a real store under producers. This takes the store away and brings it back when the test `outages` of the broker asks for
//! it; the test does the rest, and says what it saw.

mod page;
mod proxy;
mod switch;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::bed::{Bed, write_config};
use super::signed::Client;
use super::{broker_test, own_keys_only};
use crate::process;
pub use page::{Row, page, render};
use proxy::{Mode, Proxy};

/// From a restart, or from the moment when there is room again, until the store takes objects.
const BACK_MAX: Duration = Duration::from_secs(120);
const FULL_MAX: Duration = Duration::from_secs(30);
const TEST: &str = "an_outage_of_the_store_costs_nothing_that_was_acked";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// SIGSTOP, and SIGCONT at the end.
    Stopped,
    /// SIGKILL, and a new start at the end.
    Killed,
    Refused,
    BlackHole,
    SlowDown,
    /// No room on the store's disk.
    Full,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Stopped => "SIGSTOP",
            Self::Killed => "SIGKILL",
            Self::Refused => "refused",
            Self::BlackHole => "black hole",
            Self::SlowDown => "503 SlowDown",
            Self::Full => "disk full",
        }
    }

    /// What a proxy before the store does; the others are done to the store itself.
    fn mode(self) -> Option<Mode> {
        match self {
            Self::Refused => Some(Mode::Refuse),
            Self::BlackHole => Some(Mode::Swallow),
            Self::SlowDown => Some(Mode::SlowDown),
            Self::Stopped | Self::Killed | Self::Full => None,
        }
    }
}

/// How much of it is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length<'a> {
    /// In CI: two kinds for each store, with a small WAL.
    Short,
    /// These kinds, all if none is named.
    Long(&'a [Kind]),
}

impl<'a> Length<'a> {
    fn kinds(self, bed: &Bed) -> &'a [Kind] {
        match (self, bed.kind) {
            (Self::Long([]), _) => Kind::value_variants(),
            (Self::Long(kinds), _) => kinds,
            (Self::Short, "minio") => &[Kind::Killed, Kind::Full],
            (Self::Short, _) => &[Kind::Stopped, Kind::SlowDown],
        }
    }

    fn wal_mib(self) -> u64 {
        match self {
            Self::Short => 32,
            Self::Long(_) => 64,
        }
    }

    /// How long the outage goes on when the WAL is full.
    fn hold_s(self, kind: Kind) -> u64 {
        match (self, kind) {
            (Self::Short, _) => 1,
            (Self::Long(_), Kind::SlowDown) => 120,
            (Self::Long(_), _) => 20,
        }
    }
}

/// All outages of this length over the store, which is reached without TLS.
pub fn run(bed: &mut Bed, length: Length<'_>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for kind in length.kinds(bed) {
        if *kind == Kind::Full && !bed.room.can_be_filled() {
            println!("{} {}: left out, its disk is not its own: that needs root, and no --keep", bed.kind, kind.name());
            continue;
        }
        let began = Instant::now();
        let row = one(bed, *kind, length).with_context(|| format!("{} {}", bed.kind, kind.name()))?;
        println!("{} {}: {} in {:.0} s", bed.kind, kind.name(), row.verdict(), began.elapsed().as_secs_f64());
        rows.push(row);
    }
    Ok(rows)
}

fn one(bed: &mut Bed, kind: Kind, length: Length<'_>) -> Result<Row> {
    let (endpoint, config) = (bed.forms.iter())
        .find_map(|form| Some((form.endpoint.clone()?, form.config.clone())))
        .context("no endpoint without TLS")?;
    let upstream = endpoint.strip_prefix("http://").context("an endpoint without TLS")?;
    let proxy = kind.mode().map(|_| Proxy::start(upstream)).transpose()?;
    let store = match &proxy {
        Some(proxy) => through(bed, proxy, upstream, &config)?,
        None => config,
    };
    let version = bed.version.clone();
    let (name, store_kind) = (kind.name(), bed.kind);
    let mut outage = Outage { bed, kind, proxy, endpoint, away: false };
    let switch = switch::Switch::start()?;
    let mut cargo = broker_test("outages");
    own_keys_only(&mut cargo)
        .args([TEST, "--", "--exact", "--ignored", "--nocapture"])
        .env("OUTAGE_STORE", &store)
        .env("OUTAGE_SWITCH", switch.address()?)
        .env("OUTAGE_KIND", name)
        .env("OUTAGE_WAL_MIB", length.wal_mib().to_string())
        .env("OUTAGE_HOLD_S", length.hold_s(kind).to_string())
        .current_dir(crate::root());
    let time_max = Duration::from_secs(600);
    let finished = switch.serve_while(|line| outage.answer(line), || process::show(&mut cargo, time_max))?;
    outage.end()?;
    let report = finished.stdout.lines().find_map(|line| line.strip_prefix("outage "));
    let observed = report.with_context(|| format!("no report: {}", finished.tail()))?;
    let observed = serde_json::from_str(observed).context("the report of the outage")?;
    Ok(Row { store: store_kind, version, name, kept: finished.success, observed })
}

/// The configuration with the proxy's address in the place of the store's.
fn through(bed: &Bed, proxy: &Proxy, upstream: &str, config: &PathBuf) -> Result<PathBuf> {
    let text = fs::read_to_string(config)?;
    let (_, section) = text.split_once("[backend]\n").context("no [backend]")?;
    ensure!(section.contains(upstream), "another endpoint in {}", config.display());
    write_config(bed.folder.path(), "outage", &section.replace(upstream, &proxy.address()))
}

struct Outage<'a> {
    bed: &'a mut Bed,
    kind: Kind,
    proxy: Option<Proxy>,
    endpoint: String,
    away: bool,
}

impl Outage<'_> {
    fn answer(&mut self, line: &str) -> Result<String> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("begin", _) => self.begin().map(|()| String::new()),
            ("end", _) => self.end().map(|()| String::new()),
            ("objects", prefix) => Ok(self.client()?.objects(&format!("{prefix}/"))?.to_string()),
            _ => anyhow::bail!("not understood: {line}"),
        }
    }

    fn begin(&mut self) -> Result<()> {
        self.away = true;
        if let (Some(mode), Some(proxy)) = (self.kind.mode(), &self.proxy) {
            return proxy.set(mode);
        }
        match self.kind {
            Kind::Stopped => self.bed.serving(|daemon| daemon.signal("STOP")),
            Kind::Killed => self.bed.serving(|daemon| daemon.kill()),
            Kind::Full => self.fill(),
            Kind::Refused | Kind::BlackHole | Kind::SlowDown => Ok(()),
        }
    }

    /// A store that looks at its disk now and then is waited for.
    fn fill(&self) -> Result<()> {
        self.bed.room.fill()?;
        let end = Instant::now() + FULL_MAX;
        while self.bed.room.is_file_system() && self.client()?.check().is_ok() {
            ensure!(Instant::now() < end, "the store takes objects although its disk is full");
        }
        Ok(())
    }

    /// Also when the test has ended in between.
    fn end(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.away) {
            return Ok(());
        }
        if let Some(proxy) = &self.proxy {
            return proxy.set(Mode::Pass);
        }
        match self.kind {
            Kind::Stopped => self.bed.serving(|daemon| daemon.signal("CONT"))?,
            Kind::Killed => self.bed.start_serving()?,
            Kind::Full => self.bed.room.free()?,
            Kind::Refused | Kind::BlackHole | Kind::SlowDown => {}
        }
        self.wait_until_it_serves()
    }

    fn wait_until_it_serves(&self) -> Result<()> {
        let end = Instant::now() + BACK_MAX;
        loop {
            match self.client()?.check() {
                Ok(()) => return Ok(()),
                Err(error) => ensure!(Instant::now() < end, "the store does not come back: {error:#}"),
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn client(&self) -> Result<Client<'_>> {
        let keys = self.bed.keys.as_ref().context("a store with keys")?;
        Ok(Client { endpoint: &self.endpoint, ca: "/dev/null".as_ref(), keys })
    }
}
