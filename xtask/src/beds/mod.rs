//! `cargo xtask stores`: real object stores on this machine, started, checked and ended again. Over each of them runs the conformance
//! suite, through `seawall backend check`, and the crash test of the broker.

mod ceph;
mod daemon;
mod folders;
mod minio;
mod signed;
mod table;
mod tls;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::process;
use crate::tools::{self, Tool};
use daemon::Daemon;
use signed::{Client, Keys};
use table::Column;

const BUCKET: &str = "testbed";
const REGION: &str = "us-east-1";
/// A file in the folder of each bed.
const MARK: &str = "seawall-test-bed";
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
    /// The crash test with 50 kills instead of 4.
    #[arg(long)]
    long: bool,
    /// Write the table to docs/backends/conformance.md: all stores only.
    #[arg(long, conflicts_with = "store")]
    write: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Store {
    /// Folders on ext4 and on tmpfs.
    Fs,
    /// Ceph's object gateway.
    Rgw,
    Minio,
}

impl Store {
    fn name(self) -> &'static str {
        match self {
            Self::Fs => "fs",
            Self::Rgw => "rgw",
            Self::Minio => "minio",
        }
    }

    fn tools(self) -> &'static [Tool] {
        match self {
            Self::Fs => &[Tool::MakeExt4, Tool::Mount, Tool::Losetup],
            Self::Rgw => &ceph::TOOLS,
            Self::Minio => &[Tool::Go, Tool::Curl, Tool::Openssl],
        }
    }
}

pub fn run(args: &Args) -> Result<bool> {
    if let Some(folder) = &args.stop {
        println!("{} processes ended", daemon::stop_all(folder)?);
        return Ok(true);
    }
    let stores = if args.store.is_empty() { vec![Store::Fs, Store::Rgw, Store::Minio] } else { args.store.clone() };
    let needs: Vec<Tool> = stores.iter().flat_map(|store| store.tools()).copied().collect();
    if tools::is_ci() {
        tools::install(&needs)?;
    }
    for tool in needs {
        ensure!(tool.find().is_some(), "{} is missing: {}", tool.program(), tool.hint());
    }
    let mut columns = Vec::new();
    for store in stores {
        columns.extend(one(store, args).with_context(|| format!("store {}", store.name()))?);
    }
    println!("\n{}", table::render(&columns));
    if args.write {
        let page = crate::root().join("docs/backends/conformance.md");
        fs::write(&page, table::page(&columns)).with_context(|| format!("write {}", page.display()))?;
    }
    Ok(columns.iter().all(Column::passed))
}

fn one(store: Store, args: &Args) -> Result<Vec<Column>> {
    let started = Instant::now();
    println!("\n== {}", store.name());
    let folder = Folder::new(store.name())?;
    let mut bed = match store {
        Store::Fs => folders::start(folder)?,
        Store::Rgw => ceph::start(folder)?,
        Store::Minio => minio::start(folder)?,
    };
    println!("{} {} is up after {:.1} s", bed.kind, bed.version, started.elapsed().as_secs_f64());
    let kills = if args.long { KILLS_LONG } else { KILLS };
    let checked = bed.forms.iter().map(|form| check_form(&bed, form, kills)).collect::<Result<Vec<_>>>();
    if args.keep && store != Store::Fs {
        bed.keep();
    }
    println!("{}: {:.0} s", store.name(), started.elapsed().as_secs_f64());
    checked
}

fn check_form(bed: &Bed, form: &Form, kills: u64) -> Result<Column> {
    let started = Instant::now();
    let suite = suite(&form.config)?;
    let suite_s = started.elapsed().as_secs_f64();
    println!("{} {}: {} in {suite_s:.1} s", bed.kind, form.name, suite.verdict());
    let crash = match form.crash {
        true => Some(crash(&form.config, kills)?),
        false => None,
    };
    Ok(Column { kind: bed.kind, version: bed.version.clone(), form: form.name, suite, kills, crash })
}

/// The conformance suite, by the broker's own program.
fn suite(config: &Path) -> Result<table::Suite> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["run", "--quiet", "-p", "seawall", "--features", "fault-injection", "--"])
        .args(["backend", "check", "--json", "--seconds", "0", "--config"])
        .arg(config)
        .current_dir(crate::root());
    // It may have to be built.
    let finished = process::capture(&mut cargo, Vec::new(), Duration::from_secs(1_800))?;
    // A store that lacks something is an exit code of its own, with the same document.
    serde_json::from_str(&finished.stdout).map_err(|_| anyhow::anyhow!("seawall backend check: {}", finished.tail()))
}

/// SIGKILL of a broker over this store while producers run; true when every acked record was there, once and in order.
fn crash(config: &Path, kills: u64) -> Result<bool> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["test", "--quiet", "-p", "seawall", "--features", "fault-injection", "--test", "crash"])
        .args(["every_acked_record_survives_sigkill_once_in_order_at_its_acked_offset", "--", "--exact", "--nocapture"])
        .env("CRASH_STORE", config)
        .env("CRASH_KILLS", kills.to_string())
        .current_dir(crate::root());
    let finished = process::show(&mut cargo, Duration::from_secs(1_800 + 30 * kills))?;
    Ok(finished.success)
}

/// A store that runs, and how it is reached.
struct Bed {
    /// As `backend.kind` spells it.
    kind: &'static str,
    version: String,
    forms: Vec<Form>,
    /// First to last to end.
    daemons: Vec<Daemon>,
    /// Held for their drop.
    _mounts: Vec<folders::Mount>,
    folder: Folder,
}

/// One way to reach a store.
struct Form {
    name: &'static str,
    /// A broker's configuration.
    config: PathBuf,
    /// Whether the crash test runs over it.
    crash: bool,
}

impl Bed {
    /// A store that speaks S3: `endpoints` are those without and with TLS.
    fn new(
        kind: &'static str,
        version: String,
        endpoints: Vec<String>,
        ca: PathBuf,
        keys: Keys,
        daemons: Vec<Daemon>,
        folder: Folder,
    ) -> Result<Self> {
        let [access_file, secret_file] = ["access_key", "secret_key"].map(|name| folder.path().join(name));
        fs::write(&access_file, &keys.access)?;
        fs::write(&secret_file, &keys.secret)?;
        let mut forms = Vec::new();
        for endpoint in &endpoints {
            Client { endpoint, ca: &ca, keys: &keys }.check()?;
            let tls = endpoint.starts_with("https");
            let name = if tls { "https" } else { "http" };
            let mut section = format!(
                "kind = \"{kind}\"\nendpoint = \"{endpoint}\"\nbucket = \"{BUCKET}\"\nregion = \"{REGION}\"\n\
                 access_key_file = {access_file:?}\nsecret_key_file = {secret_file:?}\n"
            );
            if tls {
                section += &format!("tls_ca_file = {ca:?}\n");
            }
            forms.push(Form { name, config: write_config(folder.path(), name, &section)?, crash: !tls });
        }
        Ok(Self { kind, version, forms, daemons, _mounts: Vec::new(), folder })
    }

    /// Leaves everything running.
    fn keep(&mut self) {
        self.folder.keep = true;
        self.daemons.iter_mut().for_each(Daemon::let_go);
        println!("\n{} {} goes on in {}", self.kind, self.version, self.folder.path().display());
        for form in &self.forms {
            println!("  {:<8} seawall backend check --config {}", form.name, form.config.display());
        }
        println!("  end it:  cargo xtask stores --stop {}", self.folder.path().display());
    }
}

/// A complete configuration, of which a broker could start too.
fn write_config(folder: &Path, name: &str, section: &str) -> Result<PathBuf> {
    let config = folder.join(format!("{name}.toml"));
    let data = folder.join(format!("broker-{name}"));
    let text = format!(
        "[node]\ndata_dir = {data:?}\n\n[listeners]\nkafka = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\n[backend]\n{section}"
    );
    fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
    Ok(config)
}

fn random_secret() -> Result<String> {
    let mut bytes = [0; 20];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Of a bed: on a disk, with a short name, because sockets lie in it. Gone when dropped, unless kept.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn new(name: &str) -> Result<Self> {
        let path = PathBuf::from(format!("/var/tmp/seawall-{name}-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        fs::write(path.join(MARK), "")?;
        Ok(Self { path, keep: false })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
