//! `cargo xtask configs`: writes `broker/src/kafka_configs.rs` and `docs/kafka-configs.md`, the table of every config of
//! Apache Kafka. Its facts come from Kafka's own jars and are checked in as `xtask/configs/kafka-4.3.1.tsv`; what each
//! config does here stands in `xtask/configs/effects.txt`. So neither a build nor a changed effect needs Java. Seawall's own
//! configs, whose names begin with `seawall.`, stand in `xtask/configs/seawall.tsv` in the same form.

mod emit;
mod table;

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::clients::install;
use crate::process;
use crate::tools::Tool;

const FACTS: &str = "xtask/configs/kafka-4.3.1.tsv";
const OWN: &str = "xtask/configs/seawall.tsv";
const EFFECTS: &str = "xtask/configs/effects.txt";

#[derive(clap::Args)]
pub struct Args {
    /// Read the facts anew from Kafka's jars. Needs Java and Maven.
    #[arg(long)]
    dump: bool,
    /// Write nothing; fail when a checked-in file is not what Kafka's jars and the effects give. Needs Java and Maven.
    #[arg(long, conflicts_with = "dump")]
    check: bool,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let root = crate::root();
    let read = |path: &str| fs::read_to_string(root.join(path)).with_context(|| format!("read {path}"));
    let facts = if args.dump || args.check { facts_of_kafka()? } else { read(FACTS)? };
    let configs = table::read(&[&facts, &read(OWN)?], &read(EFFECTS)?)?;
    let count = configs.len();
    let files = [
        (FACTS, facts),
        ("broker/src/kafka_configs.rs", emit::rust(&configs)),
        ("docs/kafka-configs.md", emit::markdown(&configs)),
    ];
    for (path, text) in files {
        let current = read(path).unwrap_or_default() == text;
        ensure!(current || !args.check, "{path} is not current, run `cargo xtask configs --dump`");
        if !current {
            fs::write(root.join(path), text).with_context(|| format!("write {path}"))?;
            println!("{path} written");
        }
    }
    println!("{count} configs of Kafka {} and of Seawall", install::KAFKA_VERSION);
    Ok(())
}

fn facts_of_kafka() -> anyhow::Result<String> {
    let java = Tool::Java.find().with_context(|| format!("java is missing: {}", Tool::Java.hint()))?;
    let pom = fs::read_to_string(crate::root().join("xtask/clients/pom.xml"))?;
    let classpath = install::classpath(&install::jars(&format!("kafka-{}", install::KAFKA_VERSION), &pom)?)?;
    let mut command = Command::new(java);
    command.arg("-cp").arg(classpath).arg(crate::root().join("xtask/configs/Dump.java"));
    process::capture(&mut command, Vec::new(), Duration::from_secs(120))?.stdout_if_success("java")
}
