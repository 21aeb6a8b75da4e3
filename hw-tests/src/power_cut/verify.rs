//! `power-cut verify`: the device against the ledger. Every acknowledged record byte for byte, and the whole ring for what the
//! cut tore.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use seawall_wal_device::look::{Look, LookAccess};
use seawall_wal_device::verify::Span;
use seawall_wal_device::{ScanFrom, blank_own, inspect};
use serde::Serialize;

use super::NODE;
use super::ledger::load;
use crate::qualify::device::name_of;
use crate::wal_ledger::{Known, config, recover};

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The device that `power-cut write` wrote to.
    device: PathBuf,
    /// What `power-cut ledger` wrote down, copied to this host.
    #[arg(long, value_name = "FILE")]
    ledger_file: PathBuf,
    /// Leave the device blank afterwards: the test is over. Not when something was lost, which the device still shows, and not
    /// when anything else lies there than the log of the test.
    #[arg(long)]
    erase: bool,
    #[arg(long)]
    json: bool,
}

/// What a device kept of what it had acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    pub device: String,
    /// Records acknowledged over the life of the log, and where the first one lies that was not trimmed.
    pub acked: u64,
    pub first: u64,
    /// Records that recovery finds: what was acknowledged, and maybe some that were on their way.
    pub found: u64,
    /// What of the acknowledged is not there; `None`: all of it is.
    pub lost: Option<String>,
    /// Where an acknowledged block should be, LSN from and to.
    pub damaged: Vec<(u64, u64)>,
    /// Blocks that were on their way and are torn or missing: none of them was acknowledged.
    pub torn: Vec<(u64, u64)>,
    /// The drive refuses to read them.
    pub unreadable: Vec<(u64, u64)>,
}

pub fn run(args: &Args) -> Result<bool> {
    let name = name_of(&args.device)?;
    let (device, known) =
        load(&args.ledger_file)?.with_context(|| format!("{} is not there", args.ledger_file.display()))?;
    ensure!(device == name, "{} is {name}, the ledger is of {device}", args.device.display());
    let known = known.context("the ledger is empty: nothing was written")?;
    let kept = verify(&args.device, &name, &known)?;
    if args.json {
        println!("{}", serde_json::to_string(&kept)?);
    } else {
        print!("{}", kept.text());
    }
    if args.erase && kept.is_whole() {
        blank_own(&args.device, NODE).context("not erased")?;
        eprintln!("{} is blank again", args.device.display());
    } else if args.erase {
        eprintln!("{} was not erased: it shows what was lost, or holds something else", args.device.display());
    }
    Ok(kept.is_whole())
}

/// Writes nothing.
pub fn verify(path: &Path, name: &str, known: &Known) -> Result<Kept> {
    let mut kept = Kept {
        device: name.to_owned(),
        acked: known.acked,
        first: known.first,
        found: 0,
        lost: None,
        damaged: Vec::new(),
        torn: Vec::new(),
        unreadable: Vec::new(),
    };
    if let Err(error) = is_of_the_test(path) {
        kept.lost = Some(format!("{error:#}"));
        return Ok(kept);
    }
    match recover(&config(path), known) {
        Ok(found) => kept.found = found.next - known.first,
        Err(error) => kept.lost = Some(format!("{error:#}")),
    }
    let from = ScanFrom { trim: known.trim, opened_at: known.opened_at.clone(), ..ScanFrom::default() };
    let looked = Look::open(&[path], LookAccess::Alone)
        .map_err(anyhow::Error::from)
        .and_then(|mut look| Ok(look.verify(Some(&from), &mut |_| ())?));
    match looked {
        Ok(ring) => {
            let spans = |spans: &[Span]| spans.iter().map(|span| (span.from.0, span.to.0)).collect::<Vec<_>>();
            kept.damaged = ring.damage.iter().map(|damage| (damage.at.0, damage.durable.0)).collect();
            kept.torn = spans(&ring.holes);
            kept.unreadable = spans(&ring.unreadable);
        }
        // Then recovery has failed as well, and has said why.
        Err(error) if kept.lost.is_none() => return Err(error),
        Err(_) => {}
    }
    Ok(kept)
}

/// `Err` when a WAL of somebody else lies there. Of what is no WAL at all recovery says what it is.
pub fn is_of_the_test(path: &Path) -> Result<()> {
    if let Ok(found) = inspect(path) {
        let (wal, node) = (found.superblock.wal_id, found.superblock.node_id);
        ensure!(node == NODE, "{} holds WAL {wal} of node {node}, not the log of this test", path.display());
    }
    Ok(())
}

impl Kept {
    /// Everything acknowledged is there, and nothing in its place is damaged.
    fn is_whole(&self) -> bool {
        self.lost.is_none() && self.damaged.is_empty()
    }

    fn text(&self) -> String {
        let mut text = match &self.lost {
            None => format!(
                "{}: kept: every acknowledged record is there ({} since the last trim, {} in all; recovery found {})\n",
                self.device,
                self.acked - self.first,
                self.acked,
                self.found
            ),
            Some(why) => format!("{}: NOT KEPT: {why} ({} acknowledged in all)\n", self.device, self.acked),
        };
        let mut list = |what: &str, spans: &[(u64, u64)]| {
            for (from, to) in spans {
                text += &format!("  {what}: LSN {from} to {to} ({} bytes)\n", to.saturating_sub(*from));
            }
        };
        list("acknowledged and damaged", &self.damaged);
        list("torn, on its way, never acknowledged", &self.torn);
        list("unreadable", &self.unreadable);
        text
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::os::unix::fs::FileExt;
    use std::time::Duration;

    use seawall_wal_device::{FormatConfig, format};
    use tempfile::TempDir;

    use super::super::{Client, Server, format_for};
    use super::*;
    use crate::wal_ledger::Writers;

    /// A file in place of a device, the log of a test on it, and its ledger.
    struct Bed {
        _folder: TempDir,
        args: Args,
    }

    impl Bed {
        fn written() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (device, ledger_file) = (folder.path().join("disk"), folder.path().join("ledger"));
            File::create(&device).unwrap().set_len(32 << 20).unwrap();
            format_for(&device).unwrap();
            let server = Server::listen("127.0.0.1:0", &ledger_file).unwrap();
            let mut client = Client::connect(&server.address().to_string(), &name_of(&device).unwrap()).unwrap();
            let found = recover(&config(&device), &Known::default()).unwrap();
            let tell = Box::new(move |known: &Known| client.tell(known).unwrap());
            let writers = Writers::start(found, &Known::default(), tell).unwrap();
            for _ in 0..3_000 {
                if writers.ledger().known.acked >= 20 {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let known = writers.stop();
            assert!(known.acked >= 20 && known.trim.0 == 0, "{known:?}");
            Self { _folder: folder, args: Args { device, ledger_file, erase: true, json: true } }
        }

        fn bytes(&self) -> Vec<u8> {
            std::fs::read(&self.args.device).unwrap()
        }

        fn put(&self, at: u64, bytes: &[u8]) {
            OpenOptions::new().write(true).open(&self.args.device).unwrap().write_all_at(bytes, at).unwrap();
        }
    }

    #[test]
    fn a_log_that_was_kept_is_erased() {
        let bed = Bed::written();
        assert!(run(&bed.args).unwrap());
        assert!(bed.bytes()[..1 << 20].iter().all(|byte| *byte == 0));
        // The same command line again, from the history of a shell.
        assert!(!run(&bed.args).unwrap(), "there is no log any more");
    }

    #[test]
    fn what_was_lost_is_not_erased_with_its_evidence() {
        let bed = Bed::written();
        bed.put(64 << 10, &[0; 4096]);
        let before = bed.bytes();
        assert!(!run(&bed.args).unwrap());
        assert!(bed.bytes() == before, "something was written");
    }

    #[test]
    fn the_wal_of_a_broker_that_came_after_the_test_is_not_erased() {
        let bed = Bed::written();
        let config = FormatConfig { overwrite: true, ..FormatConfig::new(&bed.args.device, 16 << 20, 1) };
        let wal = format(&config).unwrap().wal_id;
        let before = bed.bytes();
        assert!(!run(&bed.args).unwrap());
        assert!(bed.bytes() == before, "something was written");
        let (_, known) = load(&bed.args.ledger_file).unwrap().unwrap();
        let lost = verify(&bed.args.device, "disk", &known.unwrap()).unwrap().lost.unwrap();
        assert!(lost.contains(&format!("holds WAL {wal} of node 1, not the log of this test")), "{lost}");
    }

    #[test]
    fn what_lies_beside_the_log_is_not_erased_with_it() {
        let bed = Bed::written();
        bed.put(512, b"EFI PART");
        let before = bed.bytes();
        let error = format!("{:#}", run(&bed.args).unwrap_err());
        assert!(error.contains("not erased: ") && error.contains("a GPT partition table beside WAL "), "{error}");
        assert!(bed.bytes() == before, "something was written");
    }
}
