//! `cargo xtask stores`: real object stores on this machine, started, checked and ended again. Over each of them runs the conformance
//! suite, through `seawall backend check`, and the crash test of the broker.

mod bed;
mod ceph;
mod cubefs;
mod daemon;
mod folders;
mod habits;
mod hostile;
mod minio;
mod outages;
mod room;
mod signed;
mod starts;
mod table;
mod tls;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::tools::{self, Tool};
use crate::{builds, process};
pub use bed::Bed;
use bed::{Folder, Form, random_secret, write_config, write_keys};
pub use ceph::Size as CephSize;
pub use minio::client as minio_client;
pub use signed::{Client, Keys};
use table::Column;

pub const BUCKET: &str = "testbed";
const REGION: &str = "us-east-1";
/// A file in the folder of each bed.
const MARK: &str = "seawall-test-bed";
const BUILD_MAX: Duration = Duration::from_secs(1_800);
const SUITE_MAX: Duration = Duration::from_secs(600);
const MERGE_MAX: Duration = Duration::from_secs(300);
/// In the short form.
const KILLS: u64 = 4;
const KILLS_LONG: u64 = 50;

#[derive(clap::Args)]
pub struct Args {
    /// Only these; all if not given.
    #[arg(long, value_enum)]
    store: Vec<Store>,
    /// Leave the servers running and say where they are.
    #[arg(long)]
    keep: bool,
    /// End the store that was left running in this folder, and remove it.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["store", "keep"])]
    stop: Option<PathBuf>,
    /// The crash test with 50 kills instead of 4, objects joined within each store that copies, and all outages.
    #[arg(long)]
    long: bool,
    /// Only outages of RGW and MinIO, for minutes: of these kinds, or of all.
    #[arg(long, value_name = "KINDS", value_enum, num_args = 0.., require_equals = true, value_delimiter = ',')]
    #[arg(conflicts_with_all = ["long", "keep"])]
    outages: Option<Vec<outages::Kind>>,
    /// Write the table to docs/backends/conformance.md (all stores only), or that of the outages to docs/backends/outages.md.
    #[arg(long)]
    write: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Store {
    /// Folders on ext4 and on tmpfs.
    Fs,
    /// Ceph's object gateway.
    Rgw,
    Minio,
    /// An S3 server of our own with faults.
    Hostile,
    /// The one of SEAWALL_TEST_CUBEFS=ENDPOINT,BUCKET,ACCESS_KEY,SECRET_KEY.
    Cubefs,
}

impl Store {
    fn name(self) -> &'static str {
        match self {
            Self::Fs => "fs",
            Self::Rgw => "rgw",
            Self::Minio => "minio",
            Self::Hostile => "hostile",
            Self::Cubefs => "cubefs",
        }
    }

    pub fn tools(self) -> &'static [Tool] {
        match self {
            Self::Fs => &[Tool::MakeExt4, Tool::Mount, Tool::Losetup],
            Self::Rgw => &ceph::TOOLS,
            Self::Minio => &[Tool::Go, Tool::Curl, Tool::Openssl],
            Self::Hostile => &[Tool::Curl],
            Self::Cubefs => &[],
        }
    }
}

/// What all of it needs.
pub const TOOLS: &[Tool] = &[
    Tool::MakeExt4,
    Tool::Mount,
    Tool::Losetup,
    Tool::CephMon,
    Tool::CephMgr,
    Tool::CephOsd,
    Tool::CephCommon,
    Tool::RadosGateway,
    Tool::Go,
    Tool::Curl,
    Tool::Openssl,
];

pub fn run(args: &Args) -> Result<bool> {
    if let Some(folder) = &args.stop {
        println!("{} processes ended", daemon::stop_all(folder)?);
        return Ok(true);
    }
    ensure!(
        !args.write || args.outages.is_some() || args.store.is_empty(),
        "--write is for all stores, or for --outages"
    );
    let mut stores = args.store.clone();
    if args.outages.is_some() && stores.is_empty() {
        stores.extend([Store::Rgw, Store::Minio]);
    }
    if stores.is_empty() {
        stores.extend(Store::value_variants().iter().filter(|store| **store != Store::Cubefs || cubefs::is_given()));
    }
    let needs: Vec<Tool> = stores.iter().flat_map(|store| store.tools()).copied().collect();
    if tools::is_ci() {
        tools::install(&needs)?;
    }
    for tool in needs {
        ensure!(tool.find().is_some(), "{} is missing: {}", tool.program(), tool.hint());
    }
    build()?;
    let (mut columns, mut rows) = (Vec::new(), Vec::new());
    let mut failed = false;
    for store in stores {
        match one(store, args) {
            Ok((checked, outages)) => {
                columns.extend(checked);
                rows.extend(outages);
            }
            Err(error) => {
                println!("{}: {error:#}", store.name());
                failed = true;
            }
        }
    }
    if args.outages.is_none() {
        println!("\n{}", table::render(&columns));
    }
    println!("\n{}", outages::render(&rows));
    if args.write && !failed {
        let page = |name: &str| crate::root().join("docs/backends").join(name);
        let (page, text) = if args.outages.is_some() {
            let page = page("outages.md");
            // The first time there is none.
            let before = fs::read_to_string(&page).unwrap_or_default();
            (page, outages::page(&rows, &before))
        } else {
            (page("conformance.md"), table::page(&columns))
        };
        fs::write(&page, text).with_context(|| format!("write {}", page.display()))?;
    }
    Ok(!failed && columns.iter().all(Column::passed) && rows.iter().all(|row| row.kept))
}

fn one(store: Store, args: &Args) -> Result<(Vec<Column>, Vec<outages::Row>)> {
    let started = Instant::now();
    println!("\n== {}", store.name());
    // What is kept must need nothing to be unmounted.
    let mut bed = start_on(store, !args.keep)?;
    println!("{} {} is up after {:.1} s", bed.kind, bed.version, started.elapsed().as_secs_f64());
    let mut checked = Ok(Vec::new());
    if args.outages.is_none() {
        let forms = bed.forms.iter().filter(|form| args.long || args.write || !form.is_long);
        checked = forms.map(|form| check_form(&bed, form, args.long)).collect();
    }
    if let Some((address, keys)) = &bed.watched
        && let Err(error) = hostile::check(address, keys)
    {
        checked = checked.and(Err(error));
    }
    let mut rows = Vec::new();
    if matches!(store, Store::Rgw | Store::Minio) {
        let length = match &args.outages {
            Some(kinds) => outages::Length::Long(kinds),
            None if args.long => outages::Length::Long(&[]),
            None => outages::Length::Short,
        };
        match outages::run(&mut bed, length) {
            Ok(outages) => rows = outages,
            Err(error) => checked = checked.and(Err(error)),
        }
    }
    if args.keep && store != Store::Fs {
        bed.keep();
    }
    println!("{}: {:.0} s", store.name(), started.elapsed().as_secs_f64());
    Ok((checked?, rows))
}

/// Gone when dropped.
pub fn start(store: Store) -> Result<Bed> {
    start_on(store, false)
}

/// Ceph's gateway with a disk of this size. Gone when dropped.
pub fn start_rgw(size: CephSize) -> Result<Bed> {
    ceph::start(Folder::new(Store::Rgw.name())?, size)
}

fn start_on(store: Store, own_disk: bool) -> Result<Bed> {
    let folder = Folder::new(store.name())?;
    match store {
        Store::Fs => folders::start(folder),
        Store::Rgw => ceph::start(folder, CephSize::USUAL),
        Store::Minio => minio::start(folder, own_disk),
        Store::Hostile => hostile::start(folder),
        Store::Cubefs => cubefs::start(folder),
    }
}

fn check_form(bed: &Bed, form: &Form, long: bool) -> Result<Column> {
    let kills = if long { KILLS_LONG } else { KILLS };
    let started = Instant::now();
    let suite = suite(&form.config)?;
    let suite_s = started.elapsed().as_secs_f64();
    println!("{} {}: {} in {suite_s:.1} s", bed.kind, form.name, suite.verdict());
    let crash = form.crash.as_ref().map(|config| crash(config, kills)).transpose()?;
    if let (Some(true), Some(endpoint), Some(keys)) = (crash, &form.endpoint, &bed.keys) {
        let stored = Client { endpoint, ca: "/dev/null".as_ref(), keys }.count("seawall/crash-")?;
        println!("{stored} objects of the crash test lie in the store");
        ensure!(stored > 0, "the crash test ran over another store");
    }
    if let (true, Some(config), Some(_)) = (long, &form.crash, &bed.keys) {
        ensure!(merge(config)?, "objects were not joined within the store");
    }
    let starts = match (&form.starts, &bed.keys) {
        (Some((endpoint, ca)), Some(keys)) => starts::check(&form.config, &Client { endpoint, ca, keys })?,
        _ => Vec::new(),
    };
    let (version, habits) = (bed.version.clone(), form.habits.clone());
    Ok(Column { kind: bed.kind, version, form: form.name, suite, kills, crash, habits, starts })
}

/// The broker's program comes with them: no second build for the suite.
fn build() -> Result<()> {
    let mut cargo = broker_test("crash");
    cargo.args(["--test", "outages", "--no-run"]);
    ensure!(process::show(&mut cargo, BUILD_MAX)?.success, "the crash test and the outages do not build");
    Ok(())
}

fn broker_test(name: &str) -> Command {
    let mut cargo = builds::tests();
    cargo.args(["--test", name]);
    cargo
}

/// The conformance suite, by the broker's own program.
fn suite(config: &Path) -> Result<table::Suite> {
    let mut check = Command::new(tools::target_folder().join("debug/seawall"));
    own_keys_only(&mut check).args(["backend", "check", "--json", "--seconds", "0", "--config"]).arg(config);
    let finished = process::capture(&mut check, Vec::new(), SUITE_MAX)?;
    // A store that lacks something is an exit code of its own, with the same document.
    serde_json::from_str(&finished.stdout).map_err(|_| anyhow::anyhow!("seawall backend check: {}", finished.tail()))
}

/// Those of the person who runs this are for other stores.
fn own_keys_only(command: &mut Command) -> &mut Command {
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").env_remove("AWS_SESSION_TOKEN")
}

/// Compaction by copies within the store, which no bytes leave; true when consumers read the same from what came of it.
fn merge(config: &Path) -> Result<bool> {
    let mut cargo = broker_test("uploads");
    own_keys_only(&mut cargo)
        .args(["objects_are_joined_within_a_real_store", "--", "--exact", "--ignored", "--nocapture"])
        .env("MERGE_STORE", config);
    Ok(process::show(&mut cargo, MERGE_MAX)?.success)
}

/// SIGKILL of a broker over this store while producers run; true when every acked record was there, once and in order.
fn crash(config: &Path, kills: u64) -> Result<bool> {
    let mut cargo = broker_test("crash");
    own_keys_only(&mut cargo)
        .args(["every_acked_record_survives_sigkill_once_in_order_at_its_acked_offset", "--", "--exact", "--nocapture"])
        .env("CRASH_STORE", config)
        .env("CRASH_KILLS", kills.to_string());
    let finished = process::show(&mut cargo, Duration::from_secs(300 + 30 * kills))?;
    Ok(finished.success)
}
