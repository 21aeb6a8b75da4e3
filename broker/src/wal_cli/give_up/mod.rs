//! `seawall wal give-up`: the last word about a WAL that cannot be read in full. The broker is stopped.
//!
//! What can be read and continues its partition goes to the object store and is served as if nothing had happened. What
//! lies behind a gap goes to a folder, batch by batch as clients sent it. What cannot be read is recorded there. Only then
//! metadata hears that the WAL is given up, which moves its trim past every frame found: its partitions go on with a jump of
//! their offsets, so that no consumer takes new records for lost ones. Each step can be repeated.

mod rescue;
mod store;

use std::path::{Path, PathBuf};

use seawall_metadata::state::{WalLegs, WalLife, WalState};
use seawall_metadata::{Command, LeaderEpoch, LegId, Lsn, MetadataHandle, PartitionId, Response, State, WalId};
use seawall_wal_device as device;
use seawall_wal_device::look::{Look, LookAccess};
use seawall_wal_device::{Salvage, ScanError, ScanFrom};
use serde_json::{Value, json};
use uuid::Uuid;

use super::WalCliError;
use super::print::{self, ProgressLine, Rows, span, span_json};
use crate::broker::Endpoint;
use crate::config::{Config, split_host_port};
use crate::data_dir::DataDir;
use crate::node::{self, NodeError};
use crate::recovery;
use crate::wal_opening::scan_from;
use rescue::{Rescue, Rescued};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration of the node that the WAL belongs to
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Which WAL
    #[arg(long, value_name = "ID")]
    wal: Uuid,
    /// A folder for what can be read and continues no partition, and for the record of what is lost
    #[arg(long, value_name = "DIR")]
    save: PathBuf,
    /// A device of it, or the only one, is gone for good: what it alone holds cannot be saved
    #[arg(long)]
    device_lost: bool,
    /// Do it; without this, only say what would be lost
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was saved, and what is lost.
const RECORD: &str = "given-up.json";

/// Why a WAL is not given up.
#[derive(Debug, thiserror::Error)]
pub enum GiveUpError {
    #[error("metadata does not know WAL {0}")]
    Unknown(WalId),
    #[error("WAL {wal} belongs to node {node}")]
    OtherNode { wal: WalId, node: i32 },
    #[error("WAL {wal} is {state}: there is nothing to give up")]
    State { wal: WalId, state: &'static str },
    #[error("no [[wal]] of {config} is WAL {wal}: with --device-lost it is given up unread")]
    NoDevice { wal: WalId, config: PathBuf },
    #[error(
        "{device} of WAL {wal} is not there or not named: it may hold what another has lost. If it is gone, say --device-lost"
    )]
    DeviceAway { wal: WalId, device: String },
    #[error("{0} is the record of another give-up: save to another folder")]
    Saved(PathBuf),
    #[error("{0} was never used by a node")]
    NoNode(PathBuf),
    #[error("the object store did not take what was read: {0}")]
    Store(#[from] seawall_backends::BackendError),
    #[error("metadata did not take {0}: nothing was given up, repeat the command")]
    Refused(String),
}

pub fn run(args: &Args) -> Result<(), WalCliError> {
    let config = Config::load(&args.config)?;
    config.validate()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| WalCliError::Io { operation: "start".to_owned(), error })?;
    runtime.block_on(give_up(args, &config))
}

async fn give_up(args: &Args, config: &Config) -> Result<(), WalCliError> {
    if !config.metadata_dir().exists() {
        return Err(GiveUpError::NoNode(config.node.data_dir.clone()).into());
    }
    // Locks it: a broker that runs keeps it.
    let data_dir = DataDir::open(&config.node.data_dir, config.node.id).map_err(NodeError::from)?;
    let metadata = node::open_metadata(config, &data_dir).await?;
    let done = with_metadata(args, config, &data_dir, &metadata).await;
    metadata.shutdown().await;
    done
}

async fn with_metadata(
    args: &Args,
    config: &Config,
    data_dir: &DataDir,
    metadata: &MetadataHandle,
) -> Result<(), WalCliError> {
    // Changes nothing; once it is applied, all that was committed before is.
    metadata.propose(Command::AdvanceTime { now_ms: 0 }).await.map_err(NodeError::from)?;
    let id = WalId(args.wal);
    let wal = metadata.read(|state| state.wal(id).cloned()).ok_or(GiveUpError::Unknown(id))?;
    check_state(&wal, config.node.id)?;
    let from = scan_from(metadata, id);
    let legs = metadata.read(|state| state.wal_legs(id).cloned());
    check_folder(&args.save, &wal)?;
    let devices = devices_of(config, id, legs.as_ref());
    if devices.is_empty() && !args.device_lost {
        return Err(GiveUpError::NoDevice { wal: id, config: args.config.clone() }.into());
    }
    let away = legs.iter().flat_map(|set| &set.legs).find(|leg| !devices.iter().any(|(_, found)| *found == leg.leg));
    if let Some(away) = away.filter(|_| !args.device_lost) {
        return Err(GiveUpError::DeviceAway { wal: id, device: away.device.clone() }.into());
    }
    let paths: Vec<PathBuf> = devices.iter().map(|(path, _)| path.clone()).collect();
    let mut found = Found::read(&paths, &from, &wal)?;
    if !args.yes {
        eprint!("{}", metadata.read(|state| what_would_be_lost(state, id, &found)));
        return Err(WalCliError::NeedsYes);
    }

    let (host, port) = split_host_port(&config.listeners.kafka).unwrap_or_default();
    let endpoint = Endpoint { host, port: port.max(1) };
    let wals = if devices.is_empty() { Vec::new() } else { vec![id] };
    // Whoever wrote to the WAL before is fenced by this.
    let registration = node::register(metadata, seawall_metadata::NodeId(config.node.id), &endpoint, wals).await?;
    recovery::take_partitions(metadata, registration).await.map_err(NodeError::from)?;
    let store = store::ObjectWriter::open(config, data_dir, metadata.clone(), registration).await?;
    let mut rescue = Rescue::new(metadata.clone(), store, &args.save)?;
    if let Some(look) = found.look.take() {
        rescue.run(look, &from, &found.salvage).await?;
    }
    let rescued = rescue.finish().await?;
    let record = metadata.read(|state| record(state, &wal, &found.salvage, &rescued));
    store::write_durably(&args.save.join(RECORD), format!("{record:#}\n").as_bytes())?;

    let command = Command::GiveUpWal { wal: id, past: Lsn(found.salvage.past.0) };
    let jumped = match metadata.propose(command).await.map_err(NodeError::from)? {
        (_, Response::LeaderEpochs(jumped)) => jumped,
        (_, other) => unreachable!("GiveUpWal answers with leader epochs, not {other:?}"),
    };
    metadata.read(|state| report(args, state, &found.salvage, &rescued, &jumped))
}

fn check_state(wal: &WalState, node: i32) -> Result<(), GiveUpError> {
    let id = wal.id;
    if wal.node.0 != node {
        return Err(GiveUpError::OtherNode { wal: id, node: wal.node.0 });
    }
    match wal.life {
        WalLife::Open { .. } | WalLife::Damaged { .. } | WalLife::Sealed { .. } => Ok(()),
        WalLife::GivenUp | WalLife::Recovered => Err(GiveUpError::State { wal: id, state: wal.life.name() }),
    }
}

/// Those of the configuration that are this WAL. A leg that was dropped from a mirror may lack what was acknowledged after, or
/// hold what never was: it does not count.
fn devices_of(config: &Config, id: WalId, set: Option<&WalLegs>) -> Vec<(PathBuf, LegId)> {
    let paths = config.wals().into_iter().flat_map(|wal| wal.paths().map(Path::to_owned).collect::<Vec<_>>());
    let leg = |path: PathBuf| {
        let superblock = device::inspect(&path).ok()?.superblock;
        let leg = LegId(superblock.leg.0);
        let counts = superblock.wal_id.0 == id.0 && set.is_none_or(|set| set.holds(leg));
        counts.then_some((path, leg))
    };
    paths.filter_map(leg).collect()
}

/// What an earlier give-up saved is nowhere else: only a repetition of the same one may write over it.
fn check_folder(save: &Path, wal: &WalState) -> Result<(), GiveUpError> {
    let path = save.join(RECORD);
    let Ok(bytes) = std::fs::read(&path) else { return Ok(()) };
    let earlier: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let is_same = earlier["wal"] == wal.id.to_string() && earlier["trim_before"] == wal.trim.0;
    if is_same { Ok(()) } else { Err(GiveUpError::Saved(path)) }
}

/// What the devices still hold.
struct Found {
    look: Option<Look>,
    salvage: Salvage,
}

impl Found {
    fn read(devices: &[PathBuf], from: &ScanFrom, wal: &WalState) -> Result<Self, WalCliError> {
        if devices.is_empty() {
            let newest_start = wal.openings.last().map_or(wal.trim, |opening| opening.start.max(wal.trim));
            let past = device::Lsn(newest_start.0);
            let (records, lost, unreadable) = Default::default();
            let salvage = Salvage { records, lost, unreadable, proven: past, past };
            return Ok(Self { look: None, salvage });
        }
        let paths: Vec<&Path> = devices.iter().map(|path| &**path).collect();
        let mut look = Look::open(&paths, LookAccess::Alone)?;
        let mut line = ProgressLine::new("read");
        let salvage = look.salvage(from, &mut |progress| line.tell(progress));
        let salvage = salvage.map_err(|error: ScanError| WalCliError::Scan(error))?;
        Ok(Self { look: Some(look), salvage })
    }
}

fn what_would_be_lost(state: &State, wal: WalId, found: &Found) -> String {
    let Salvage { records, lost, unreadable, past, .. } = &found.salvage;
    let mut text = format!("WAL {wal}: {} records can be read and would be saved\n", records.len());
    if found.look.is_none() {
        text = format!("WAL {wal}: nothing of it can be read\n");
    }
    for part in lost {
        text += &format!("lost for good: LSN {}\n", span(part));
    }
    for part in unreadable {
        text += &format!("cannot be read: LSN {}, whether it held anything or not\n", span(part));
    }
    if found.look.is_some() && lost.is_empty() && unreadable.is_empty() {
        text += "nothing of it is known to be lost: see first whether the broker starts\n";
    }
    text += &format!("the WAL would go on at LSN {past}\n");
    for partition in state.partitions().filter(|p| p.dirty.as_ref().is_some_and(|dirty| dirty.wals.contains(&wal))) {
        text += &format!("{} may have lost acknowledged records\n", name_of(state, partition.id));
    }
    text
}

fn name_of(state: &State, partition: PartitionId) -> String {
    let topic = state.topic(partition.topic).map_or_else(|| partition.topic.to_string(), |topic| topic.name.clone());
    format!("{topic}-{}", partition.index)
}

/// What stays for operators when the WAL is forgotten.
fn record(state: &State, wal: &WalState, salvage: &Salvage, rescued: &Rescued) -> Value {
    let named = |stream: u64| {
        let partition = state.stream(seawall_metadata::StreamId(stream)).map(|stream| stream.partition);
        partition.map(|partition| name_of(state, partition))
    };
    let streams = rescued.streams.iter().map(|(stream, of)| {
        let ranges = |ranges: &[(i64, i64)]| -> Vec<Value> {
            ranges.iter().map(|(base, end)| json!({"from": base, "to": end})).collect()
        };
        json!({
            "stream": stream,
            "partition": named(*stream),
            "uploaded_offsets": ranges(&of.uploaded),
            "saved_offsets": ranges(&of.saved),
            "missing_offsets": ranges(&of.missing),
            "saved_file": of.file,
        })
    });
    json!({
        "wal": wal.id.to_string(),
        "node": wal.node.0,
        "trim_before": wal.trim.0,
        "past": salvage.past.0,
        "lost": salvage.lost.iter().map(span_json).collect::<Vec<_>>(),
        "unreadable": salvage.unreadable.iter().map(span_json).collect::<Vec<_>>(),
        "records_read": salvage.records.len(),
        "records_uploaded": rescued.uploaded_records,
        "records_saved": rescued.saved_records,
        "streams": streams.collect::<Vec<_>>(),
    })
}

fn report(
    args: &Args,
    state: &State,
    salvage: &Salvage,
    rescued: &Rescued,
    jumped: &[(PartitionId, LeaderEpoch)],
) -> Result<(), WalCliError> {
    let jumped = jumped.iter().map(|(partition, _)| name_of(state, *partition));
    if args.json {
        return print::json_document(&json!({
            "wal": args.wal.to_string(),
            "past": salvage.past.0,
            "records_uploaded": rescued.uploaded_records,
            "records_saved": rescued.saved_records,
            "lost": salvage.lost.iter().map(span_json).collect::<Vec<_>>(),
            "jumped": jumped.collect::<Vec<_>>(),
            "record": args.save.join(RECORD),
        }));
    }
    let mut rows = Rows::default();
    rows.row("given up", format_args!("WAL {}, it goes on at LSN {}", args.wal, salvage.past))
        .row("uploaded", format_args!("{} records, served as before", rescued.uploaded_records))
        .row("saved", format_args!("{} records behind a gap, to {}", rescued.saved_records, args.save.display()));
    for part in &salvage.lost {
        rows.row("LOST", format_args!("LSN {}", span(part)));
    }
    for partition in jumped {
        rows.row("jumped", format_args!("{partition}: its next offset lies beyond all that may be lost"));
    }
    rows.row("record", args.save.join(RECORD).display());
    rows.print()
}
