//! `seawall wal`: makes WALs, looks at them, and ends them. Runs beside a broker or without one; what changes a device asks
//! for `--yes` and says before what would be lost.
//!
//! Results go to standard output, for people or as JSON; progress goes to standard error, a line a second.

mod dump;
mod format;
mod give_up;
mod inspect;
pub(crate) mod print;
mod replace;
mod verify;

use std::{io, path::PathBuf, process::ExitCode};

use clap::Subcommand;
use seawall_wal_device::{FormatError, OpenError, ScanError};

use crate::cli::{exit_code, fail, open_code, scan_code};
use crate::config::ConfigError;
use crate::node::NodeError;
use give_up::GiveUpError;

#[derive(Debug, Subcommand)]
pub enum WalCommand {
    /// Make an empty WAL on a block device, a partition, a volume or a file
    Format(format::Args),
    /// Show what a WAL says of itself, and what is known of its device
    Inspect(inspect::Args),
    /// Read the whole ring and check every CRC; changes nothing
    Verify(verify::Args),
    /// Show frames and records; changes nothing
    Dump(dump::Args),
    /// Give a WAL of a running broker another device, in the place of one or beside the only one
    Replace(replace::Args),
    /// Save what can be read of a WAL that is damaged or lost, record the rest, and let its partitions go on
    GiveUp(give_up::Args),
}

#[derive(Debug, thiserror::Error)]
pub enum WalCliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    GiveUp(#[from] give_up::GiveUpError),
    #[error("{operation}: {error}")]
    Io { operation: String, error: io::Error },
    #[error(
        "{socket} is too long for a socket: name the data folder by a shorter path, start the broker again, and give this \
         command again; nothing was done"
    )]
    PathTooLong { socket: PathBuf },
    #[error(
        "{socket} lets only the broker's own user and root ask: give this command as one of them; nothing was done"
    )]
    NotItsUser { socket: PathBuf },
    #[error(
        "no broker answers at {socket} ({error}); nothing was done. What must be copied, and which devices hold the WAL from \
         then on, only the broker knows that has it open:\n\
         1. start it: seawall start --config {config}; a mirror starts with one device, though the other one is broken or away\n\
         2. give this command again: producers need not wait for its end\n\
         If it does not start because the only device of the WAL fails:\n\
         - it can be read: dd if=OLD of=NEW bs=1M conv=fsync, name NEW in [[wal]] of {config}, take OLD away, start\n\
         - it cannot be read: seawall wal give-up --config {config} --wal ID --save DIR (if it is gone: --device-lost) says what \
         would be lost, and with --yes goes on without that\n\
         docs/wal.md tells more"
    )]
    NoBroker { socket: PathBuf, config: PathBuf, error: io::Error },
    /// It goes on as before.
    #[error("the broker refuses: {0}")]
    Broker(String),
    #[error("nothing was done: this needs --yes")]
    NeedsYes,
    /// What is damaged was printed.
    #[error("the WAL is damaged")]
    Damaged,
}

pub fn run(command: WalCommand) -> ExitCode {
    let done = match command {
        WalCommand::Format(args) => format::run(&args),
        WalCommand::Inspect(args) => inspect::run(&args),
        WalCommand::Verify(args) => verify::run(&args),
        WalCommand::Dump(args) => dump::run(&args),
        WalCommand::Replace(args) => replace::run(&args),
        WalCommand::GiveUp(args) => give_up::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads the output has seen enough, as `head` does.
        Err(WalCliError::Io { error, .. }) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(error.exit_code(), &error),
    }
}

impl WalCliError {
    fn output(error: io::Error) -> Self {
        Self::Io { operation: "write the output".to_owned(), error }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Io { .. } | Self::Broker(_) => 1,
            Self::NoBroker { .. } | Self::NotItsUser { .. } | Self::PathTooLong { .. } => 1,
            Self::Config(_) => 3,
            Self::Format(FormatError::Held { .. }) => 8,
            Self::Format(FormatError::NoSpace { .. }) => 9,
            Self::Format(FormatError::BadSize { .. }) => 2,
            Self::Format(FormatError::InUse { .. } | FormatError::HoldsOther { .. }) => 12,
            Self::Format(FormatError::NoDevice(_) | FormatError::Io { .. }) => 12,
            Self::Node(error) => exit_code(error),
            Self::GiveUp(GiveUpError::Store(_)) => 11,
            Self::GiveUp(GiveUpError::OtherNode { .. }) => 6,
            Self::GiveUp(GiveUpError::NoNode(_)) => 5,
            Self::GiveUp(GiveUpError::Refused(_)) => 1,
            Self::GiveUp(_) => 12,
            Self::Open(error) => open_code(error),
            Self::Scan(error) => scan_code(error),
            Self::Damaged => 10,
            Self::NeedsYes => 13,
        }
    }
}
