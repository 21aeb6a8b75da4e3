//! `cargo xtask protocol`: writes `broker/protocol/src/generated` from Kafka's own message definitions.
//! The result is checked in, so that a normal build needs neither Java nor the network. Definitions of our own, in the
//! same syntax, go to `broker/protocol/definitions`.

mod definition;
mod emit;
mod emit_struct;
mod golden;
mod jar;
mod names;
mod versions;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use definition::{Kind, MessageDefinition};

#[derive(clap::Args)]
pub struct Args {
    /// Write nothing; fail when the checked-in files are not what the definitions give.
    #[arg(long)]
    check: bool,
    /// Let Kafka's Java classes write the golden files of the codec's tests anew, and read what the codec writes.
    #[arg(long, conflicts_with = "check")]
    golden: bool,
}

/// Data schemas that group coordinators read and write inside requests; the jar holds no others that a broker needs.
const DATA_SCHEMAS: [&str; 2] = ["ConsumerProtocolAssignment", "ConsumerProtocolSubscription"];

pub fn run(args: &Args) -> anyhow::Result<()> {
    let root = repository_root();
    let scratch = root.join("target/protocol");
    let jar = jar::fetch()?;
    if args.golden {
        return golden::regenerate(&root, &jar, &scratch);
    }
    let mut messages = client_facing(jar::message_definitions(&jar, &scratch.join("definitions"))?);
    let own = root.join("broker/protocol/definitions");
    if own.exists() {
        messages.extend(jar::read_folder(&own)?);
        messages.sort_by(|a, b| a.name.cmp(&b.name));
    }
    let mut files = BTreeMap::new();
    for (path, text) in format_rust(emit::rust_files(&messages)?, &scratch.join("generated"), &root)? {
        files.insert(Path::new("broker/protocol/src/generated").join(path), text);
    }
    files.insert("broker/protocol/tests/definitions.json".into(), emit::definitions_json(&messages)?);
    if args.check { check(&root, &files) } else { write(&root, &files) }
}

/// Everything a client may send to a broker and get back, the headers, and the data schemas.
fn client_facing(mut messages: Vec<MessageDefinition>) -> Vec<MessageDefinition> {
    let keys: Vec<i16> =
        messages.iter().filter(|m| m.listeners.iter().any(|l| l == "broker")).filter_map(|m| m.api_key).collect();
    messages.retain(|message| match message.kind {
        Kind::Request | Kind::Response => message.api_key.is_some_and(|key| keys.contains(&key)),
        Kind::Header => true,
        Kind::Data => DATA_SCHEMAS.contains(&message.name.as_str()),
        Kind::Metadata | Kind::CoordinatorKey | Kind::CoordinatorValue => false,
    });
    messages
}

/// Runs rustfmt over all files at once (one process instead of two hundred) and reads them back.
fn format_rust(
    files: BTreeMap<String, String>,
    scratch: &Path,
    root: &Path,
) -> anyhow::Result<BTreeMap<String, String>> {
    if scratch.exists() {
        fs::remove_dir_all(scratch)?;
    }
    fs::create_dir_all(scratch)?;
    let mut rustfmt = Command::new("rustfmt");
    rustfmt.args(["--edition", "2024", "--config-path"]).arg(root.join("rustfmt.toml"));
    for (name, text) in &files {
        fs::write(scratch.join(name), text)?;
        if name != "mod.rs" {
            rustfmt.arg(scratch.join(name));
        }
    }
    rustfmt.arg(scratch.join("mod.rs"));
    ensure!(rustfmt.status().context("run rustfmt")?.success(), "rustfmt refused a generated file");
    files.into_keys().map(|name| Ok((name.clone(), fs::read_to_string(scratch.join(name))?))).collect()
}

fn write(root: &Path, files: &BTreeMap<PathBuf, String>) -> anyhow::Result<()> {
    for path in stale(root, files)? {
        fs::remove_file(root.join(path))?;
    }
    let mut written = 0;
    for (path, text) in files {
        let path = root.join(path);
        if fs::read_to_string(&path).ok().as_ref() != Some(text) {
            fs::create_dir_all(path.parent().context("a file has a folder")?)?;
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            written += 1;
        }
    }
    println!("{} files of Kafka {}, {written} written", files.len(), jar::KAFKA_VERSION);
    Ok(())
}

fn check(root: &Path, files: &BTreeMap<PathBuf, String>) -> anyhow::Result<()> {
    let mut different = stale(root, files)?;
    different.extend(
        files
            .iter()
            .filter(|(path, text)| fs::read_to_string(root.join(path)).ok().as_ref() != Some(text))
            .map(|(path, _)| path.clone()),
    );
    ensure!(different.is_empty(), "not current, run `cargo xtask protocol`: {different:?}");
    println!("{} files of Kafka {} are current", files.len(), jar::KAFKA_VERSION);
    Ok(())
}

/// Checked-in generated files that the definitions no longer give.
fn stale(root: &Path, files: &BTreeMap<PathBuf, String>) -> anyhow::Result<Vec<PathBuf>> {
    let folder = Path::new("broker/protocol/src/generated");
    let Ok(entries) = fs::read_dir(root.join(folder)) else { return Ok(Vec::new()) };
    let mut stale = Vec::new();
    for entry in entries {
        let path = folder.join(entry?.file_name());
        if !files.contains_key(&path) {
            stale.push(path);
        }
    }
    Ok(stale)
}

fn repository_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}
