//! The command line: `dev`, `start`, `config check`, `config example`, `config devices`, `wal ...`, `backend ...`, `object ...`, `scrub`, `restore`, `version`; and the exit codes.

use std::{io, path::PathBuf, process::ExitCode, sync::Arc};

use clap::{Args, CommandFactory, Parser, Subcommand};
use seawall_backends::OpenError as StoreOpenError;
use seawall_metadata::OpenError;
use seawall_wal_device::{OpenError as WalOpenError, ScanError};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use crate::{
    backend_cli::{self, BackendCommand},
    banner,
    broker::Broker,
    config::{Config, ConfigError, EXAMPLE_TOML, WalConfig, WalKind},
    data_dir::DataDirError,
    logging,
    node::{Node, NodeError},
    object_cli::{self, ObjectCommand},
    recovery::RecoveryError,
    restore_cli, scrub_cli,
    service_manager::ServiceManager,
    storage_engine::StorageStartError,
    store_probe::StoreProbeError,
    task::Task,
    wal_cli::{self, WalCommand},
    wal_opening::WalOpeningError,
};

#[derive(Debug, Parser)]
#[command(name = "seawall", about = "A Kafka-compatible broker whose durable store is your object store", after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything in one process, with its data under one folder
    Dev(DevArgs),
    /// Run a node by its configuration file
    Start {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check or show configurations
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make write-ahead logs, look at them, and end them
    #[command(subcommand)]
    Wal(WalCommand),
    /// Check an object store, and look into it
    #[command(subcommand)]
    Backend(BackendCommand),
    /// Look at one object, and check every byte of it
    #[command(subcommand)]
    Object(ObjectCommand),
    /// Let a running broker look at all its objects: missing, damaged, left over
    Scrub(scrub_cli::Args),
    /// Make a cluster anew from its object store, into an empty data folder
    Restore(restore_cli::Args),
    /// Print the version
    Version,
}

#[derive(Debug, Args)]
struct DevArgs {
    /// Folder for metadata, write-ahead log and objects
    #[arg(long, value_name = "DIR", default_value = "./seawall-data")]
    data: PathBuf,
    /// Address for Kafka clients; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    listen: String,
    /// No write-ahead log: an ack waits until the record is in the object store
    #[arg(long)]
    no_wal: bool,
    /// Address of metrics, health and state; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9644")]
    admin: String,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Read a configuration file and say what is wrong with it
    Check { file: PathBuf },
    /// Print a configuration file with every key and its default
    Example,
    /// Print the block devices that a configuration names for write-ahead logs, one a line
    Devices { file: PathBuf },
}

const EXIT_CODES: &str = "Exit codes:
  0  stopped when asked to
  1  failed while running
  2  wrong arguments
  3  bad configuration
  4  an address to listen on is taken or not ours
  5  the data folder cannot be used (not writable, not a folder)
  6  the data folder belongs to another node, or the data folder or the object store to another cluster
  7  the data folder, a WAL or an object was written by a newer version
  8  the data folder is in use by another process
  9  the disk is full
 10  the data folder, a WAL or an object is damaged
 11  the object store cannot be used
 12  the write-ahead log cannot be used
 13  nothing was done: it must be asked for with --yes
 14  the object store lacks what a broker cannot do without
 15  a scrub found something, and no damage";

/// The command line itself, for what is written about it.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Dev(args) => run_node(Ok(dev_config(args))),
        Command::Start { config } => run_node(Config::load(&config)),
        Command::Config(ConfigCommand::Check { file }) => match Config::load(&file) {
            Ok(_) => {
                println!("{} is valid", file.display());
                ExitCode::SUCCESS
            }
            Err(error) => fail(3, &error),
        },
        Command::Config(ConfigCommand::Example) => {
            print!("{EXAMPLE_TOML}");
            ExitCode::SUCCESS
        }
        Command::Config(ConfigCommand::Devices { file }) => match Config::load(&file) {
            Ok(config) => {
                for device in config.wals().iter().filter(|wal| wal.kind != WalKind::File).flat_map(WalConfig::paths) {
                    println!("{}", device.display());
                }
                ExitCode::SUCCESS
            }
            Err(error) => fail(3, &error),
        },
        Command::Wal(command) => wal_cli::run(command),
        Command::Backend(command) => backend_cli::run(command),
        Command::Object(command) => object_cli::run(command),
        Command::Scrub(args) => scrub_cli::run(&args),
        Command::Restore(args) => restore_cli::run(&args),
        Command::Version => {
            println!("seawall {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}

fn dev_config(args: DevArgs) -> Config {
    let mut config = Config::default();
    config.node.data_dir = args.data;
    config.listeners.kafka = args.listen;
    config.listeners.admin = args.admin;
    if args.no_wal {
        config.wal = vec![WalConfig::new(WalKind::None)];
    }
    config
}

fn run_node(config: Result<Config, ConfigError>) -> ExitCode {
    let config = match config.and_then(|config| config.validate().map(|()| config)) {
        Ok(config) => config,
        Err(error) => return fail(3, &error),
    };
    logging::start();
    crate::server::raise_descriptor_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &error),
    };
    let ended = runtime.block_on(run_until_stopped(config));
    // Nothing that is left may keep the process: every task that matters was waited for.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(exit_code(&error), &error),
    }
}

async fn run_until_stopped(config: Config) -> Result<(), NodeError> {
    let failed = |error: io::Error| NodeError::Failed(format!("cannot wait for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let node = tokio::select! {
        node = Node::start(config) => node?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    banner::print(&node);
    let manager = Arc::new(ServiceManager::of_this_process());
    start_watchdog(&manager, &node.broker);
    manager.ready();
    let failure = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        failure = node.failed() => Some(failure),
    };
    info!("stopping");
    manager.stopping();
    tokio::select! {
        () = node.stop() => {}
        // Who asks twice does not want to wait.
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    failure.map_or(Ok(()), Err)
}

/// A broker whose locks can all be taken and whose runtime takes up tasks is not stuck.
fn start_watchdog(manager: &Arc<ServiceManager>, broker: &Arc<Broker>) {
    let watched = broker.clone();
    let progress = move || {
        for partition in watched.partitions.all() {
            partition.offsets();
        }
        watched.metadata.read(|_| ());
    };
    broker.tasks.spawn(Task::Watchdog, manager.clone().watch(progress, broker.tasks.stopping().clone()));
}

pub(crate) fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    eprint!("seawall: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprint!(": {cause}");
        source = cause.source();
    }
    eprintln!();
    ExitCode::from(code)
}

pub(crate) fn exit_code(error: &NodeError) -> u8 {
    match error {
        NodeError::Failed(_) | NodeError::Propose(_) => 1,
        NodeError::Listen { .. } => 4,
        NodeError::DataDir(error) => data_dir_code(error),
        NodeError::Metadata(error) => match error {
            OpenError::OtherCluster { .. } | OpenError::OtherNode { .. } => 6,
            OpenError::NewerFormat { .. } => 7,
            OpenError::InUse { .. } => 8,
            OpenError::Damaged { .. } => 10,
            OpenError::Io { source, .. } => io_code(source, 5),
            OpenError::Stopped { .. } => 1,
        },
        NodeError::Store(StoreOpenError::Config(_)) | NodeError::Prefix(_) => 3,
        NodeError::StoreProbe(StoreProbeError::OtherCluster { .. } | StoreProbeError::OtherIncarnation { .. }) => 6,
        NodeError::StoreProbe(StoreProbeError::Lacks { .. }) => 14,
        NodeError::Store(_) | NodeError::StoreProbe(_) => 11,
        NodeError::Storage(error) if error.is_disk_full() => 9,
        NodeError::Storage(error) => match error {
            StorageStartError::SameWal(_) => 3,
            StorageStartError::Folder { .. } => 5,
            StorageStartError::Wal(error) => wal_code(error),
            StorageStartError::NotQualified(_) => 12,
            StorageStartError::Recovery(RecoveryError::Metadata(_)) => 1,
            StorageStartError::Recovery(_) => 10,
        },
    }
}

pub(crate) fn data_dir_code(error: &DataDirError) -> u8 {
    match error {
        DataDirError::Unusable { error, .. } => io_code(error, 5),
        DataDirError::OtherOwner { .. } => 5,
        DataDirError::OtherNode { .. } => 6,
        DataDirError::NewerFormat { .. } => 7,
        DataDirError::InUse { .. } => 8,
        DataDirError::Damaged { .. } | DataDirError::Unfinished { .. } => 10,
    }
}

fn wal_code(error: &WalOpeningError) -> u8 {
    match error {
        WalOpeningError::Damaged { .. } => 10,
        WalOpeningError::TwoWals { .. } => 3,
        WalOpeningError::NoLegOfSet { .. } => 12,
        WalOpeningError::Metadata(_) => 1,
        WalOpeningError::Format(_) => 12,
        WalOpeningError::Open(error) => open_code(error),
        WalOpeningError::Scan(error) => scan_code(error),
        WalOpeningError::NoOther { error, .. } => wal_code(error),
    }
}

pub(crate) fn open_code(error: &WalOpenError) -> u8 {
    match error {
        WalOpenError::Locked(_) | WalOpenError::InUse { .. } => 8,
        WalOpenError::NewerFormat { .. } => 7,
        WalOpenError::Damaged(_) => 10,
        _ => 12,
    }
}

pub(crate) fn scan_code(error: &ScanError) -> u8 {
    match error {
        ScanError::Open(error) => open_code(error),
        ScanError::OtherCluster { .. }
        | ScanError::OtherIncarnation { .. }
        | ScanError::OtherNode { .. }
        | ScanError::EpochAhead { .. } => 6,
        _ => 12,
    }
}

fn io_code(error: &io::Error, otherwise: u8) -> u8 {
    if error.kind() == io::ErrorKind::StorageFull { 9 } else { otherwise }
}
