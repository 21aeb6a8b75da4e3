//! `seawall wal dump`: frames and records as they lie on the device, one line each; payloads as files if asked for.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use seawall_wal_device as device;
use seawall_wal_device::look::{Dumped, Look, LookAccess};
use seawall_wal_device::{Lsn, ScannedRecord};
use serde_json::json;

use super::WalCliError;
use super::print::{json_line, span, span_json};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(value_name = "DEVICE")]
    device: PathBuf,
    /// Where to begin, at the start of a block; the newest trim LSN that the superblock knows if not given
    #[arg(long, value_name = "LSN")]
    from: Option<u64>,
    /// Records of this stream only, without frames
    #[arg(long, value_name = "ID")]
    stream: Option<u64>,
    /// Write each payload to a file in this folder: a record batch as Kafka clients sent it
    #[arg(long, value_name = "DIR")]
    payload: Option<PathBuf>,
    /// Although a broker may have it open
    #[arg(long)]
    while_open: bool,
    /// Print JSON, an object for each line
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<(), WalCliError> {
    let access = if args.while_open { LookAccess::WhileOpen } else { LookAccess::Alone };
    if let Some(folder) = &args.payload {
        fs::create_dir_all(folder)
            .map_err(|error| WalCliError::Io { operation: format!("make {}", folder.display()), error })?;
    }
    let from = match args.from {
        Some(from) => from,
        None => device::inspect(&args.device)?.superblock.trim_hint.0,
    };
    let mut look = Look::open(&[&args.device], access)?;
    let mut dump = Dump { args, out: BufWriter::new(io::stdout().lock()) };
    let mut failed = None;
    look.dump(Lsn(from), &mut |dumped| match dump.show(&dumped) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    dump.out.flush().map_err(WalCliError::output)?;
    failed.map_or(Ok(()), Err)
}

struct Dump<'a> {
    args: &'a Args,
    out: BufWriter<io::StdoutLock<'static>>,
}

impl Dump<'_> {
    fn show(&mut self, dumped: &Dumped<'_>) -> Result<(), WalCliError> {
        match dumped {
            Dumped::Record { record, payload } => {
                if self.args.stream.is_none_or(|stream| stream == record.header.stream) {
                    self.record(record, payload)?;
                }
                Ok(())
            }
            _ if self.args.stream.is_some() => Ok(()),
            Dumped::Frame { header, records } if self.args.json => json_line(
                &mut self.out,
                &json!({"frame": header.lsn.0, "bytes": header.length, "kind": format!("{:?}", header.kind),
                    "records": records, "owner_epoch": header.owner_epoch, "durable": header.durable.0,
                    "trim": header.trim.0}),
            ),
            Dumped::Frame { header, records } => self.line(format_args!(
                "{:>14} frame  {:?}, {} bytes, {records} records, owner epoch {}, durable {}, trim {}",
                header.lsn, header.kind, header.length, header.owner_epoch, header.durable, header.trim
            )),
            Dumped::Nothing(part) if self.args.json => json_line(&mut self.out, &json!({"nothing": span_json(part)})),
            Dumped::Nothing(part) => {
                self.line(format_args!("{:>14} no frame of this lap, LSN {}", part.from, span(part)))
            }
            Dumped::Unreadable(part) if self.args.json => {
                json_line(&mut self.out, &json!({"unreadable": span_json(part)}))
            }
            Dumped::Unreadable(part) => self.line(format_args!("{:>14} UNREADABLE, LSN {}", part.from, span(part))),
        }
    }

    fn record(&mut self, record: &ScannedRecord, payload: &[u8]) -> Result<(), WalCliError> {
        let (header, lsn) = (&record.header, record.position.lsn);
        let file = match &self.args.payload {
            Some(folder) => Some(write_payload(folder, record, payload)?),
            None => None,
        };
        if self.args.json {
            let value = json!({
                "record": lsn.0, "stream": header.stream, "base_offset": header.base_offset,
                "last_offset": header.last_offset, "leader_epoch": header.leader_epoch, "bytes": payload.len(),
                "file": file,
            });
            return json_line(&mut self.out, &value);
        }
        self.line(format_args!(
            "{lsn:>14} record stream {}, offsets {} to {}, leader epoch {}, {} bytes",
            header.stream,
            header.base_offset,
            header.last_offset,
            header.leader_epoch,
            payload.len()
        ))
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) -> Result<(), WalCliError> {
        writeln!(self.out, "{line}").map_err(WalCliError::output)
    }
}

fn write_payload(folder: &Path, record: &ScannedRecord, payload: &[u8]) -> Result<PathBuf, WalCliError> {
    let name = format!("{}-{:020}-{}.batch", record.header.stream, record.header.base_offset, record.position.lsn);
    let path = folder.join(name);
    fs::write(&path, payload)
        .map_err(|error| WalCliError::Io { operation: format!("write {}", path.display()), error })?;
    Ok(path)
}
