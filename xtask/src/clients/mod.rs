//! `cargo xtask clients`: Apache Kafka's own command line tools and kcat, installed, and run against a broker.
//!
//! The test starts a release `seawall dev` of its own. `--against kafka` starts Apache Kafka from the same jars instead:
//! that shows that the test asks for what Kafka does, no more and no less.

mod admin;
pub mod broker;
mod codecs;
mod compaction;
mod families;
mod family;
mod golang;
mod groups;
pub mod install;
mod java;
mod jobs;
mod node;
mod perf;
mod python;
mod records;
mod report;
mod resume;
mod session;
mod shell_tools;
mod verify;
mod wire;

pub use python::environment as python_environment;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::{Subcommand, ValueEnum};

use broker::{Broker, Start};
use families::{Extent, FamilyRun};
use family::Family;
use install::Installed;
use session::{Row, Session};

use crate::tools::{self, Tool};

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
    /// As many records for every family; without it the older and slower ones take fewer.
    #[arg(long)]
    full: bool,
    /// Write the table of a whole run to docs/compatibility.md.
    #[arg(long, requires = "full", conflicts_with_all = ["only", "family", "bootstrap"])]
    write: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Against {
    Seawall,
    Kafka,
}

/// The parts of the test, in the order of the table. Each stands alone.
type Part = (&'static str, fn(&mut Session<'_>));
const PARTS: [Part; 8] = [
    ("admin", admin::run),
    ("codecs", codecs::run),
    ("resume", resume::run),
    ("groups", groups::run),
    ("compaction", compaction::run),
    ("perf", perf::run),
    ("shell-tools", shell_tools::run),
    ("connect-tools", shell_tools::run_connect),
];

/// Parts and families that run side by side.
const AT_ONCE: usize = 3;

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
        Some(ClientsCommand::Test(args)) => test(args, &installed),
    }
}

/// A part or a family; each has a broker of its own, unless one was given.
enum Job {
    Part(Part),
    Family(Family),
}

enum Done {
    Part(Vec<Row>),
    Family(Option<FamilyRun>),
}

fn test(args: &TestArgs, installed: &Installed) -> anyhow::Result<bool> {
    ensure!(!args.write || args.against == Against::Seawall, "the table is about Seawall");
    let start = match args.against {
        Against::Seawall if args.bootstrap.is_some() => None,
        Against::Seawall => Some(Start::seawall(args.binary.clone())?),
        Against::Kafka => Some(Start::Kafka),
    };
    let versions = session::versions(installed)?;
    let jobs = jobs(args)?;
    let extent = Extent { records: args.records, full: args.full, may_leave_out: !args.write };
    let (mut rows, mut families) = (Vec::new(), Vec::new());
    let done = jobs::run(jobs, AT_ONCE, |job| match (job, &start) {
        (Job::Part(part), _) => Done::Part(run_part(part, args, installed, start.as_ref())),
        (Job::Family(family), Some(start)) => Done::Family(families::run(&family, installed, start, extent)),
        (Job::Family(family), None) => {
            println!("left out {}: it restarts its broker", family.name);
            Done::Family(None)
        }
    });
    for done in done {
        match done {
            Done::Part(mut more) => rows.append(&mut more),
            Done::Family(family) => families.extend(family),
        }
    }
    if args.write {
        let page = crate::root().join("docs/compatibility.md");
        std::fs::write(&page, report::page(&rows, &families, &versions, args.records))?;
        println!("written: {}", page.display());
    }
    Ok(report::print_sum(&rows, &families))
}

/// All, or those that were named; and what they need on the machine.
fn jobs(args: &TestArgs) -> anyhow::Result<Vec<Job>> {
    let mut jobs = Vec::new();
    if args.only.is_some() || args.family.is_none() {
        let named = |name: &str| args.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
        jobs.extend(PARTS.into_iter().filter(|(name, _)| named(name)).map(Job::Part));
    }
    let mut needs: Vec<Tool> = Vec::new();
    if args.family.is_some() || args.only.is_none() {
        let named = |name: &str| args.family.as_ref().is_none_or(|only| name.contains(only.as_str()));
        for family in families::all().into_iter().filter(|family| named(family.name)) {
            needs.extend(family.tools);
            jobs.push(Job::Family(family));
        }
    }
    ensure!(!jobs.is_empty(), "no part and no family has such a name");
    if tools::is_ci() {
        tools::install(&needs)?;
    }
    Ok(jobs)
}

fn run_part(part: Part, args: &TestArgs, installed: &Installed, start: Option<&Start>) -> Vec<Row> {
    let (name, run) = part;
    let broker = match (&args.bootstrap, start) {
        (Some(bootstrap), _) => Ok(Broker::running(bootstrap.clone())),
        (None, Some(start)) => start.broker(installed),
        (None, None) => Err(anyhow::anyhow!("no broker to test")),
    };
    let failed = |what: &str, error: anyhow::Error| Row {
        tool: "(broker)",
        what: format!("{what} the part {name}"),
        outcome: Err(format!("{error:#}")),
        elapsed: Duration::ZERO,
    };
    let mut session = match broker {
        Ok(broker) => Session::new(installed, broker, args.records),
        Err(error) => {
            println!("FAILED (broker): starts for the part {name}: {error:#}");
            return vec![failed("starts for", error)];
        }
    };
    run(&mut session);
    if let Err(error) = session.broker_mut().stop() {
        session.keep(failed("lives through", error));
    }
    if session.rows().iter().any(|row| row.outcome.is_err()) {
        println!("last lines of the broker of the part {name}:\n{}", session.broker_mut().log_tail());
    }
    session.into_rows()
}
