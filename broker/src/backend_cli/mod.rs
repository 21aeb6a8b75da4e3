//! `seawall backend`: asks the object store of a configuration, without a broker or beside one. `check` writes below a folder of
//! its own and removes it; the others only read.
//!
//! Results go to standard output, for people or as JSON; progress goes to standard error.

mod browse;
mod check;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Subcommand;
use seawall_backends::{Backend, BackendError, BackendKind, InvalidKey, OpenError};

use crate::cli::fail;
use crate::config::{Config, ConfigError};
use crate::store::Store;

#[derive(Debug, Subcommand)]
pub enum BackendCommand {
    /// Find out whether the store keeps what a broker needs of it, and how fast it is
    Check(check::Args),
    /// List the objects of one folder
    Ls(browse::LsArgs),
    /// Show whether an object is there, and its length
    Stat(browse::StatArgs),
    /// Write an object, or a range of it, to standard output
    Cat(browse::CatArgs),
}

#[derive(Debug, thiserror::Error)]
pub enum BackendCliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error(transparent)]
    Key(#[from] InvalidKey),
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error("a range is FIRST-END, both counted from 0, the end excluded, not \"{0}\"")]
    Range(String),
    #[error("{operation}: {error}")]
    Io { operation: &'static str, error: io::Error },
    /// What it lacks was printed.
    #[error("the store lacks what a broker cannot do without")]
    Lacks,
    #[error("stopped before the end; what was written is removed")]
    Stopped,
}

pub fn run(command: BackendCommand) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &error),
    };
    let done = runtime.block_on(async {
        match command {
            BackendCommand::Check(args) => check::run(&args).await,
            BackendCommand::Ls(args) => browse::ls(&args).await,
            BackendCommand::Stat(args) => browse::stat(&args).await,
            BackendCommand::Cat(args) => browse::cat(&args).await,
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads the output has seen enough, as `head` does.
        Err(BackendCliError::Io { error, .. }) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(error.exit_code(), &error),
    }
}

impl BackendCliError {
    fn output(error: io::Error) -> Self {
        Self::Io { operation: "write the output", error }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Io { .. } | Self::Stopped | Self::Backend(BackendError::NotFound) => 1,
            Self::Key(_) | Self::Range(_) => 2,
            Self::Config(_) | Self::Store(OpenError::Config(_)) => 3,
            Self::Store(_) | Self::Backend(_) => 11,
            Self::Lacks => 14,
        }
    }
}

/// The store of a configuration file, with the layers that a broker puts around it; and the prefix of its keys.
struct Opened {
    backend: Arc<dyn Backend>,
    prefix: String,
    kind: BackendKind,
}

#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The broker's configuration
    #[arg(long = "config", value_name = "FILE")]
    path: PathBuf,
}

impl ConfigFile {
    async fn open(&self) -> Result<Opened, BackendCliError> {
        let config = load(&self.path)?;
        let store = Store::open(&config).await?;
        Ok(Opened { backend: store.backend, prefix: config.backend.prefix, kind: config.backend.kind })
    }
}

pub(crate) fn load(path: &Path) -> Result<Config, BackendCliError> {
    let config = Config::load(path)?;
    config.validate()?;
    Ok(config)
}

fn print(text: &str) -> Result<(), BackendCliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(BackendCliError::output)
}
