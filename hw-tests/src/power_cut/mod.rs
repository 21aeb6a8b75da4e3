//! `power-cut`: does a device keep what it has acknowledged, when the power goes? `write` runs the WAL on the host under test and
//! tells `ledger`, on another machine, what is acknowledged; after the cut `verify` compares the device with that.
//!
//! Promise: the ledger hears of an acknowledgement only after the device gave it, and of an open or a trim before the WAL
//! does it. So whatever the ledger last heard must be on the device, wherever the cut fell.

mod ledger;
mod verify;
mod write;

use anyhow::Result;
use clap::Subcommand;

use crate::qualify::Stop;

#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// On the host under test: append to a WAL on DEVICE until the power goes. Once more after a cut it first checks what the
    /// device kept, then goes on.
    Write(write::Args),
    /// On another machine: write down what the writer tells.
    Ledger(ledger::Args),
    /// After a cut: whether the device kept every acknowledged block, and which were torn.
    Verify(verify::Args),
}

/// False when something acknowledged is lost.
pub fn run(command: &Command, stop: &Stop) -> Result<bool> {
    match command {
        Command::Write(args) => write::run(args, stop),
        Command::Ledger(args) => ledger::run(args, stop).map(|()| true),
        Command::Verify(args) => verify::run(args),
    }
}

pub use ledger::{Client, Server, load};
pub use verify::{Kept, verify};
pub use write::{NODE, RING_BYTES, format_for};
