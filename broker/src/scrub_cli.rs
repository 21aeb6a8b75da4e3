//! `seawall scrub`: asks a running broker to look at every object beside its metadata.
//!
//! Findings go to standard output as they are made, then the summary: as lines and a table for people, or as lines of JSON. Progress
//! goes to standard error, a line a second. Ending this command ends the scrub; the next one goes on where it stood.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use crate::cli::fail;
use crate::config::{Config, ConfigError};
use crate::control::{Answer, Request, socket_path};
use crate::scrub::judge::Kind;
use crate::scrub::{Finding, Progress, ScrubRequest, Summary};
use crate::units::ByteSize;
use crate::wal_cli::print::bytes;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration of the broker, which must be running; without it that of `seawall dev`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read the data blocks too, and check every CRC in them
    #[arg(long)]
    deep: bool,
    /// Delete objects that nothing can ever refer to again, and abort what was begun in parts more than a day ago
    #[arg(long)]
    repair: bool,
    /// Bytes per second; a request counts as 64 KiB, a listing as 1 MiB
    #[arg(long, value_name = "SIZE", default_value = "50MiB")]
    rate: ByteSize,
    /// "start", or a place that a scrub has printed; otherwise where the last one was stopped
    #[arg(long, value_name = "PLACE")]
    from: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ScrubCliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "no broker answers at {socket} ({error}). What each object is for only a running broker's metadata says: start it, then \
         give this command again, as the broker's own user or root"
    )]
    NoBroker { socket: PathBuf, error: io::Error },
    #[error("the broker at {socket} has gone: {error}; the same command goes on where it stood")]
    Lost { socket: PathBuf, error: io::Error },
    #[error("{0}")]
    Broker(String),
    #[error("write the output: {0}")]
    Output(io::Error),
    /// What was found was printed.
    #[error("objects are damaged or missing")]
    Damage,
    #[error("nothing is damaged, but not all is as it should be")]
    Found,
}

pub fn run(args: &Args) -> ExitCode {
    match scrub(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(ScrubCliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(error.exit_code(), &error),
    }
}

impl ScrubCliError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::NoBroker { .. } | Self::Lost { .. } | Self::Broker(_) | Self::Output(_) => 1,
            Self::Config(_) => 3,
            Self::Damage => 10,
            Self::Found => 15,
        }
    }
}

fn scrub(args: &Args) -> Result<(), ScrubCliError> {
    let config = args.config.as_deref().map_or_else(|| Ok(Config::default()), Config::load)?;
    let socket = socket_path(&config.node.data_dir);
    let stream =
        UnixStream::connect(&socket).map_err(|error| ScrubCliError::NoBroker { socket: socket.clone(), error })?;
    let lost = |error| ScrubCliError::Lost { socket: socket.clone(), error };
    let ScrubRequest { deep, repair, rate, from } = args.request();
    let request = Request::Scrub(ScrubRequest { deep, repair, rate, from });
    writeln!(&stream, "{}", json!(request)).map_err(lost)?;
    for answer in BufReader::new(&stream).lines() {
        let answer: Answer = serde_json::from_str(&answer.map_err(lost)?).map_err(|error| lost(error.into()))?;
        match answer {
            Answer::Scrubbing(progress) => tell(&progress),
            Answer::Found(finding) if args.json => print(&format!("{}\n", json!({"found": finding})))?,
            Answer::Found(finding) => print(&in_words(&finding))?,
            Answer::Scrubbed(summary) => {
                let text = if args.json { format!("{}\n", json!({"scrubbed": summary})) } else { table(&summary) };
                print(&text)?;
                return verdict(&summary);
            }
            Answer::Error { what } => return Err(ScrubCliError::Broker(what)),
            Answer::Progress { .. } | Answer::Replaced { .. } | Answer::Declared { .. } => {}
        }
    }
    Err(lost(io::ErrorKind::UnexpectedEof.into()))
}

impl Args {
    fn request(&self) -> ScrubRequest {
        let Self { deep, repair, rate, from, .. } = self;
        ScrubRequest { deep: *deep, repair: *repair, rate: rate.bytes(), from: from.clone() }
    }
}

fn tell(progress: &Progress) {
    let Progress { cursor, folders_done, folders, totals } = progress;
    if *folders == 0 {
        return;
    }
    let found: u64 = totals.findings.values().sum();
    let percent = f64::from(*folders_done) * 100.0 / f64::from(*folders);
    eprintln!(
        "scrub: {percent:.0} %, {} objects, {} listed, {} read, {found} found; at {cursor}",
        totals.objects,
        totals.listed,
        bytes(totals.read_bytes)
    );
}

fn in_words(finding: &Finding) -> String {
    let Finding { kind, key, what, look, done, .. } = finding;
    let mut text = format!("{:<18} {key}\n{:<18} {what}\n", kind.name().to_uppercase(), "");
    if let Some(done) = done {
        text += &format!("{:<18} {done}\n", "");
    }
    if let Some(look) = look {
        text += &format!("{:<18} look closer: {look} --config FILE\n", "");
    }
    text
}

fn table(summary: &Summary) -> String {
    let Summary { deep, resumed, totals } = summary;
    let mut text = String::new();
    let mut row = |name: &str, value: String| text += &format!("{name:<18} {value}\n");
    row("depth", if *deep { "every byte" } else { "all but data blocks; --deep reads those too" }.to_owned());
    if *resumed {
        row("resumed", "what was found before the stop is counted".to_owned());
    }
    row("objects", format!("{} in use, {} read", totals.objects, bytes(totals.read_bytes)));
    row("listed", format!("{} keys, {} wait for their deletion", totals.listed, totals.waiting));
    if totals.ghosts + totals.cut_listings > 0 {
        let (ghosts, cut) = (totals.ghosts, totals.cut_listings);
        row("listings", format!("{ghosts} keys were listed and are not there, {cut} listings were out of order"));
    }
    for kind in Kind::ALL {
        if totals.of(kind) > 0 {
            row(kind.name(), totals.of(kind).to_string());
        }
    }
    if totals.repaired > 0 {
        row("repaired", totals.repaired.to_string());
    }
    let result = match verdict(summary) {
        Ok(()) => "clean".to_owned(),
        Err(error) => error.to_string(),
    };
    row("result", result);
    text
}

fn verdict(summary: &Summary) -> Result<(), ScrubCliError> {
    let found = |damage: bool| Kind::ALL.iter().any(|kind| kind.is_damage() == damage && summary.totals.of(*kind) > 0);
    match (found(true), found(false)) {
        (true, _) => Err(ScrubCliError::Damage),
        (false, true) => Err(ScrubCliError::Found),
        (false, false) => Ok(()),
    }
}

fn print(text: &str) -> Result<(), ScrubCliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(ScrubCliError::Output)
}
