//! `cargo xtask clients`: Apache Kafka's own command line tools and kcat, installed, and run against a broker.
//!
//! The test starts a release `seawall dev` of its own. `--against kafka` starts Apache Kafka from the same jars instead:
//! that shows that the test asks for what Kafka does, no more and no less.

mod admin;
mod broker;
mod codecs;
mod groups;
pub mod install;
mod perf;
mod records;
mod report;
mod resume;
mod session;

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use broker::Broker;
use session::Session;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<ClientsCommand>,
}

#[derive(Subcommand)]
enum ClientsCommand {
    /// Download the tools into the cache folder and say where they are (the default).
    Install,
    /// Run every client against a broker.
    Test(TestArgs),
}

#[derive(clap::Args)]
struct TestArgs {
    /// What to start and test.
    #[arg(long, value_enum, default_value_t = Against::Seawall)]
    against: Against,
    /// A broker that already runs, in place of one of our own; parts that restart the broker are then left out.
    #[arg(long, conflicts_with = "against")]
    bootstrap: Option<String>,
    /// The binary to start, in place of a fresh release build.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Only the parts whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Records of each codec's run.
    #[arg(long, default_value_t = 100_000)]
    records: usize,
    /// Write the table to docs/compatibility.md.
    #[arg(long)]
    write: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Against {
    Seawall,
    Kafka,
}

/// The parts of the test, in the order of the table. Each stands alone.
type Part = (&'static str, fn(&mut Session));
const PARTS: [Part; 5] = [
    ("admin", admin::run),
    ("codecs", codecs::run),
    ("resume", resume::run),
    ("groups", groups::run),
    ("perf", perf::run),
];

/// True when nothing failed.
pub fn run(args: &Args) -> anyhow::Result<bool> {
    let installed = install::install()?;
    match &args.command {
        None | Some(ClientsCommand::Install) => {
            println!("Kafka {} tools: {}", install::KAFKA_VERSION, installed.folder.display());
            println!("kcat: {}", installed.kcat.display());
            println!(
                "for example: java -cp '{}/*' org.apache.kafka.tools.TopicCommand --help",
                installed.folder.display()
            );
            Ok(true)
        }
        Some(ClientsCommand::Test(args)) => test(args, installed),
    }
}

fn test(args: &TestArgs, installed: install::Installed) -> anyhow::Result<bool> {
    let broker = match (&args.bootstrap, args.against) {
        (Some(bootstrap), _) => Broker::running(bootstrap.clone()),
        (None, Against::Seawall) => Broker::seawall(args.binary.clone())?,
        (None, Against::Kafka) => Broker::kafka(&installed)?,
    };
    println!("broker {} at {}", broker.name(), broker.bootstrap());
    let mut session = Session::new(installed, broker, args.records);
    for (name, part) in PARTS {
        if args.only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
            part(&mut session);
        }
    }
    if args.write {
        let versions = session.versions()?;
        let page = crate::root().join("docs/compatibility.md");
        std::fs::write(&page, report::page(session.rows(), &versions, args.records))?;
        println!("written: {}", page.display());
    }
    if session.rows().iter().any(|row| row.outcome.is_err()) {
        println!("the broker's last lines:\n{}", session.broker().log_tail());
    }
    Ok(report::print_sum(session.rows()))
}
