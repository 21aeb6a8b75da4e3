//! `cargo xtask clients`: Apache Kafka's own command line tools and kcat, installed, and run against a broker.
//!
//! The test starts a release `seawall dev` of its own. `--against kafka` starts Apache Kafka from the same jars instead:
//! that shows that the test asks for what Kafka does, no more and no less.

mod admin;
pub mod broker;
mod codecs;
mod families;
mod family;
mod golang;
mod groups;
pub mod install;
mod java;
mod node;
mod perf;
mod python;
mod records;
mod report;
mod resume;
mod session;
mod shell_tools;

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use broker::{Broker, Start};
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
    /// Only the client families whose name contains this; without `--only` no other part then.
    #[arg(long)]
    family: Option<String>,
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
const PARTS: [Part; 6] = [
    ("admin", admin::run),
    ("codecs", codecs::run),
    ("resume", resume::run),
    ("groups", groups::run),
    ("perf", perf::run),
    ("shell-tools", shell_tools::run),
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
    let start = match args.against {
        Against::Seawall if args.bootstrap.is_some() => None,
        Against::Seawall => Some(Start::seawall(args.binary.clone())?),
        Against::Kafka => Some(Start::Kafka),
    };
    let versions = session::versions(&installed)?;
    let mut families = Vec::new();
    if args.family.is_some() || args.only.is_none() {
        match &start {
            Some(start) => {
                let only = args.family.as_deref().unwrap_or_default();
                families = families::run(&installed, start, only, args.records)?;
            }
            None => println!("families are left out: they restart their broker"),
        }
    }
    let mut rows = Vec::new();
    if args.only.is_some() || args.family.is_none() {
        let broker = match (&args.bootstrap, &start) {
            (Some(bootstrap), _) => Broker::running(bootstrap.clone()),
            (None, Some(start)) => start.broker(&installed)?,
            (None, None) => anyhow::bail!("no broker to test"),
        };
        rows = parts(args, installed, broker);
    }
    if args.write {
        let page = crate::root().join("docs/compatibility.md");
        std::fs::write(&page, report::page(&rows, &families, &versions, args.records))?;
        println!("written: {}", page.display());
    }
    Ok(report::print_sum(&rows, &families))
}

fn parts(args: &TestArgs, installed: install::Installed, broker: Broker) -> Vec<session::Row> {
    println!("broker {} at {}", broker.name(), broker.bootstrap());
    let mut session = Session::new(installed, broker, args.records);
    for (name, part) in PARTS {
        if args.only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
            part(&mut session);
        }
    }
    if session.rows().iter().any(|row| row.outcome.is_err()) {
        println!("the broker's last lines:\n{}", session.broker_mut().log_tail());
    }
    session.into_rows()
}
