//! `seawall restore`: makes a cluster anew from its bucket, or says what that would give; and declares the restored one the only one.
//!
//! Results go to standard output, for people or as JSON; progress goes to standard error.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use uuid::Uuid;

use crate::cli::fail;
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::control::{Answer, Request, socket_path};
use crate::data_dir::DataDirError;
use crate::restore::{Options, RestoreError, restore};
use crate::store::Store;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration of the broker that is to be: its data folder must be empty
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The cluster, if the store holds several or does not list them
    #[arg(long, value_name = "ID")]
    cluster: Option<Uuid>,
    /// The incarnation to begin the search from, if the store does not list it
    #[arg(long, value_name = "ID")]
    incarnation: Option<Uuid>,
    /// Do it; without this, only say what would be restored and what is lost
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// DANGEROUS while a broker of the old incarnation may run: do not wait until it has noticed. What it acks from its write-ahead log
    /// meanwhile is lost
    #[arg(long)]
    no_wait: bool,
    /// Go on although objects are gone that partitions are made of
    #[arg(long)]
    without_missing: bool,
    /// Go on although objects that were stored after the backup cannot be read: what is in them is lost
    #[arg(long)]
    without_unreadable: bool,
    /// Say to the running, restored broker that no other incarnation of the cluster will ever be wanted: what belongs to them may be deleted
    #[arg(long, conflicts_with_all = ["cluster", "incarnation", "no_wait", "without_missing", "without_unreadable"])]
    declare_only: bool,
}

#[derive(Debug, thiserror::Error)]
enum RestoreCliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Open(#[from] seawall_backends::OpenError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error("nothing was done: it must be asked for with --yes")]
    NeedsYes,
    #[error("cannot talk to the broker at {}: {error}", socket.display())]
    Broker { socket: PathBuf, error: io::Error },
    #[error("{0}")]
    Refused(String),
    #[error("cannot write the output: {0}")]
    Output(io::Error),
}

pub fn run(args: &Args) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &error),
    };
    let done = if args.declare_only { declare_only(args) } else { runtime.block_on(restore_by(args)) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.exit_code(), &error),
    }
}

async fn restore_by(args: &Args) -> Result<(), RestoreCliError> {
    let config = Config::load(&args.config)?;
    let store = Store::open(&config).await?;
    let options = Options {
        cluster: args.cluster,
        incarnation: args.incarnation,
        yes: args.yes,
        no_wait: args.no_wait,
        without_missing: args.without_missing,
        without_unreadable: args.without_unreadable,
        ..Options::default()
    };
    let progress = |text: String| eprintln!("restore: {text}");
    if args.yes && args.no_wait {
        progress(
            "NOT WAITING for brokers of the old incarnation: if one runs, what it acks from now on is lost".to_owned(),
        );
    }
    let report = restore(&config, &store, &Clock::system(), &options, &progress).await?;
    print(&if args.json { format!("{:#}\n", json!(report)) } else { report.text() })?;
    if args.yes {
        progress(
            "start the broker now; when no other incarnation is wanted any more: seawall restore --declare-only"
                .to_owned(),
        );
        return Ok(());
    }
    Err(RestoreCliError::NeedsYes)
}

fn declare_only(args: &Args) -> Result<(), RestoreCliError> {
    let config = Config::load(&args.config)?;
    if !args.yes {
        eprintln!(
            "restore: what older incarnations have in the store can be deleted from then on, and not be restored any more"
        );
        return Err(RestoreCliError::NeedsYes);
    }
    let socket = socket_path(&config.node.data_dir);
    let broken = |error| RestoreCliError::Broker { socket: socket.clone(), error };
    let stream = UnixStream::connect(&socket).map_err(broken)?;
    writeln!(&stream, "{}", json!(Request::DeclareOnly {})).map_err(broken)?;
    let answer = BufReader::new(&stream).lines().next().unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()));
    let answer: Answer = serde_json::from_str(&answer.map_err(broken)?).map_err(|error| broken(error.into()))?;
    match answer {
        Answer::Declared { earlier } if args.json => print(&format!("{}\n", json!({"earlier": earlier}))),
        Answer::Declared { earlier } => {
            print(&format!("declared: {} earlier incarnations are kept no longer\n", earlier.len()))
        }
        Answer::Error { what } => Err(RestoreCliError::Refused(what)),
        other => Err(RestoreCliError::Refused(format!("the broker answers {other:?}"))),
    }
}

fn print(text: &str) -> Result<(), RestoreCliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(RestoreCliError::Output)
}

impl RestoreCliError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Output(_) | Self::Broker { .. } | Self::Refused(_) => 1,
            Self::Config(_) | Self::Open(seawall_backends::OpenError::Config(_)) => 3,
            Self::Open(_) => 11,
            Self::NeedsYes => 13,
            Self::Restore(error) => match error {
                RestoreError::Stopped(_) | RestoreError::Another { .. } => 1,
                RestoreError::SeveralClusters { .. } | RestoreError::SeveralIncarnations { .. } => 2,
                RestoreError::Prefix(_) => 3,
                RestoreError::NotEmpty { .. } | RestoreError::DataDir(DataDirError::Unusable { .. }) => 5,
                RestoreError::Newer(_) => 7,
                RestoreError::DataDir(DataDirError::InUse { .. }) => 8,
                RestoreError::DataDir(_) | RestoreError::Log { .. } => 5,
                RestoreError::Damaged { .. }
                | RestoreError::Missing { .. }
                | RestoreError::Unreadable { .. }
                | RestoreError::State(_)
                | RestoreError::Backup(_) => 10,
                RestoreError::Store(_)
                | RestoreError::NoCluster { .. }
                | RestoreError::NoBackup { .. }
                | RestoreError::Object { .. } => 11,
            },
        }
    }
}
