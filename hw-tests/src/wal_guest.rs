//! The line between a virtual machine that runs a WAL and its host: what either says, a line each.
//!
//! The ledger lies with the host. The guest goes on only when the host has written down what it told, so that whatever
//! depends on a line (a trim, an open, an ack) finds it outside when the power goes.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use seawall_wal_device::device::Durable;
use seawall_wal_device::{Fault, Faults};

use crate::wal_ledger::Known;

/// Name of the serial port.
pub const PORT: &str = "wal";
/// The host waits for an answer to nearly every line.
const LINES_MAX: usize = 16;

/// What the host asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// What was told is written down.
    Noted,
    Format {
        device: String,
    },
    /// Recover, check, append until the power goes.
    Run {
        device: String,
        durable: Option<Durable>,
        skip_flush: bool,
        known: Known,
    },
    /// The power of the guest's own `null_blk`.
    Power(bool),
}

/// What the guest answers, and tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Ready(String),
    Formatted,
    /// So many records were recovered, all as they should be, and appending goes on; what is known of the device.
    Running {
        records: u64,
        facts: String,
    },
    Known(Known),
    Power(bool),
    /// After the power went: nobody holds the device any more.
    Stopped,
    /// What the check found, or what went wrong.
    Broken(String),
}

impl Order {
    pub fn to_line(&self) -> String {
        match self {
            Self::Noted => "noted".into(),
            Self::Format { device } => format!("format {device}"),
            Self::Run { device, durable, skip_flush, known } => {
                let durable = match durable {
                    None => "probe",
                    Some(Durable::Dsync) => "dsync",
                    Some(Durable::LinkedSync) => "fdatasync",
                };
                format!("run {device} {durable} {skip_flush} {known}")
            }
            Self::Power(on) => format!("power {on}"),
        }
    }

    pub fn parse(line: &str) -> Result<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        Ok(match word {
            "noted" => Self::Noted,
            "format" => Self::Format { device: rest.into() },
            "power" => Self::Power(rest.parse()?),
            "run" => {
                let mut words = rest.splitn(4, ' ');
                let mut next = || words.next().context("an order is cut off");
                Self::Run {
                    device: next()?.into(),
                    durable: match next()? {
                        "probe" => None,
                        "dsync" => Some(Durable::Dsync),
                        "fdatasync" => Some(Durable::LinkedSync),
                        other => bail!("no way to be durable: {other}"),
                    },
                    skip_flush: next()?.parse()?,
                    known: next()?.parse()?,
                }
            }
            _ => bail!("no order: {line:?}"),
        })
    }
}

impl Told {
    pub fn to_line(&self) -> String {
        match self {
            Self::Ready(kernel) => format!("ready {kernel}"),
            Self::Formatted => "formatted".into(),
            Self::Running { records, facts } => format!("running {records} {facts}"),
            Self::Known(known) => format!("known {known}"),
            Self::Power(on) => format!("power {on}"),
            Self::Stopped => "stopped".into(),
            Self::Broken(why) => format!("broken {}", why.replace('\n', "; ")),
        }
    }

    pub fn parse(line: &str) -> Result<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        Ok(match word {
            "ready" => Self::Ready(rest.into()),
            "formatted" => Self::Formatted,
            "running" => {
                let (records, facts) = rest.split_once(' ').context("a line is cut off")?;
                Self::Running { records: records.parse()?, facts: facts.into() }
            }
            "known" => Self::Known(rest.parse()?),
            "power" => Self::Power(rest.parse()?),
            "stopped" => Self::Stopped,
            "broken" => Self::Broken(rest.into()),
            _ => bail!("not told by a guest: {line:?}"),
        })
    }
}

/// The faults of a run.
pub fn faults(skip_flush: bool) -> Faults {
    if skip_flush { Faults::default().with(Fault::SkipFlush) } else { Faults::default() }
}

/// The guest's end.
#[derive(Clone)]
pub struct Link {
    port: Arc<Mutex<File>>,
    noted: Arc<Mutex<Receiver<()>>>,
}

impl Link {
    /// Orders come from the second part, [`Order::Noted`] apart. It ends when the host has gone.
    pub fn new(port: File) -> Result<(Self, Receiver<Order>)> {
        let (note, noted) = sync_channel(LINES_MAX);
        let (order, orders) = sync_channel(LINES_MAX);
        let reader = BufReader::new(port.try_clone()?);
        std::thread::spawn(move || read_orders(reader, &note, &order));
        Ok((Self { port: Arc::new(Mutex::new(port)), noted: Arc::new(Mutex::new(noted)) }, orders))
    }

    pub fn tell(&self, told: &Told) {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody listens any more: then nobody judges either.
        let _ = port.write_all(format!("{}\n", told.to_line()).as_bytes());
    }

    /// Comes back when the host has written it down.
    pub fn tell_known(&self, known: &Known) {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell(&Told::Known(known.clone()));
        let _ = noted.recv();
    }
}

fn read_orders(port: impl BufRead, note: &SyncSender<()>, orders: &SyncSender<Order>) {
    for line in port.lines().map_while(Result::ok) {
        let sent = match Order::parse(&line) {
            Ok(Order::Noted) => note.send(()).is_ok(),
            Ok(order) => orders.send(order).is_ok(),
            Err(_) => false,
        };
        if !sent {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_survives_its_line() {
        let known = Known { acked: 9, opened_at: vec![(1, Default::default())], ..Known::default() };
        for (durable, skip_flush) in [(None, false), (Some(Durable::Dsync), true), (Some(Durable::LinkedSync), false)] {
            let device = "/dev/nvme0n1".to_owned();
            let order = Order::Run { device, durable, skip_flush, known: known.clone() };
            assert_eq!(Order::parse(&order.to_line()).unwrap(), order);
        }
        for order in [Order::Noted, Order::Format { device: "d".into() }, Order::Power(false)] {
            assert_eq!(Order::parse(&order.to_line()).unwrap(), order);
        }
        let running = Told::Running { records: 7, facts: "a b".into() };
        let others = [Told::Ready("6.1".into()), Told::Formatted, Told::Power(true), Told::Stopped];
        for told in others.into_iter().chain([running, Told::Known(known), Told::Broken("a b".into())]) {
            assert_eq!(Told::parse(&told.to_line()).unwrap(), told);
        }
    }
}
