//! `seawall-qualify cluster`: load on a Kafka-compatible broker, through librdkafka, as applications put it.
//!
//! Senders keep a schedule (`schedule`), each over its share of the connections; acks and reads are timed against the
//! schedule and, with a ledger, compared record by record. Memory is bounded: by the clients' queues, and by the
//! ledger's own limit. Any bootstrap address will do; nothing here knows which broker answers.

mod args;
pub(crate) mod clients;
mod consume;
mod ledger;
mod ledger_file;
mod produce;
mod progress;
mod record;
pub mod report;
mod run;
mod schedule;

use anyhow::Result;

use crate::qualify::Stop;

pub use args::{Args, TopicArgs};
pub use report::Report;

/// Loads, prints, and answers whether the results were right. How fast they came is no verdict. Asked to stop it sends no more, and
/// waits for what it sent.
pub fn run(args: &Args, stop: &Stop) -> Result<bool> {
    let report = match &args.check {
        Some(file) => run::check(args, file)?,
        None => run::load(args, stop)?,
    };
    report.print(args.json)?;
    Ok(report.is_right())
}

pub fn topic(args: &TopicArgs) -> Result<()> {
    if args.delete {
        return clients::delete_topic(&args.bootstrap, &args.topic);
    }
    clients::create_topic(&args.bootstrap, &args.topic, args.partitions, args.replication_factor, &args.config)
}
