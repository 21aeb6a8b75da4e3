//! `seawall wal replace`: asks a running broker to copy a WAL to another device while appends go on.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use seawall_wal_device::verify::Progress;
use serde_json::json;
use uuid::Uuid;

use super::WalCliError;
use super::format::what_would_be_lost;
use super::print::{self, ProgressLine, Rows};
use crate::config::Config;
use crate::control::{Answer, Request, socket_path};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration of the broker, which must be running
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The WAL, by its id; not needed if the broker has one
    #[arg(long, value_name = "ID")]
    wal: Option<Uuid>,
    /// The device that goes, by its id in `/state` or `inspect`; not needed beside an only one
    #[arg(long, value_name = "LEG")]
    leg: Option<Uuid>,
    /// The device that comes
    #[arg(long, value_name = "DEVICE")]
    with: PathBuf,
    /// Use the device although something is there
    #[arg(long)]
    overwrite: bool,
    /// Do it; without this, only say what would be lost
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<(), WalCliError> {
    let config = Config::load(&args.config)?;
    if !args.yes {
        eprintln!("{}", what_would_be_lost(&args.with));
        return Err(WalCliError::NeedsYes);
    }
    // The broker has another working folder.
    let device = std::path::absolute(&args.with)
        .map_err(|error| WalCliError::Io { operation: args.with.display().to_string(), error })?;
    let socket = socket_path(&config.node.data_dir);
    let stream = UnixStream::connect(&socket).map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => WalCliError::NotItsUser { socket: socket.clone() },
        std::io::ErrorKind::InvalidInput => WalCliError::PathTooLong { socket: socket.clone() },
        _ => WalCliError::NoBroker { socket: socket.clone(), config: args.config.clone(), error },
    })?;
    let lost = |error| WalCliError::Io { operation: format!("talk to the broker at {}", socket.display()), error };
    let request = Request::ReplaceLeg { wal: args.wal, leg: args.leg, device, overwrite: args.overwrite };
    writeln!(&stream, "{}", json!(request)).map_err(lost)?;
    let mut line = ProgressLine::new("replace");
    for answer in BufReader::new(&stream).lines() {
        let answer: Answer = serde_json::from_str(&answer.map_err(lost)?).map_err(|error| lost(error.into()))?;
        match answer {
            Answer::Progress { done_bytes, total_bytes } => line.tell(Progress { done_bytes, total_bytes }),
            // Nobody has asked for these here.
            Answer::Scrubbing(_) | Answer::Found(_) | Answer::Scrubbed(_) | Answer::Declared { .. } => {}
            Answer::Error { what } => return Err(WalCliError::Broker(what)),
            Answer::Replaced { wal, leg, set_epoch } if args.json => {
                return print::json_document(&json!({"wal": wal, "leg": leg, "set_epoch": set_epoch}));
            }
            Answer::Replaced { wal, leg, set_epoch } => {
                let mut rows = Rows::default();
                rows.row("WAL", wal).row("device", format_args!("{leg} at {}", args.with.display()));
                rows.row("set", set_epoch).row("next", "name the devices of the set in [[wal]] before the next start");
                return rows.print();
            }
        }
    }
    Err(lost(std::io::ErrorKind::UnexpectedEof.into()))
}
