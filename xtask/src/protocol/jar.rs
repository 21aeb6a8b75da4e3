//! Where the definitions come from: one pinned `kafka-clients` jar of Maven Central, checked by digest.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::definition::MessageDefinition;

pub const KAFKA_VERSION: &str = "4.3.1";
const JAR_SHA256: &str = "52501b7b47510c66f898871adaf6d2968ab7246561d44ced43643a8a587f0b36";

/// What kafka-clients needs at run time to read and write every codec, and to log.
const CODECS: [(&str, &str, &str); 4] = [
    ("at.yawk.lz4", "lz4-java", "1.10.2"),
    ("com.github.luben", "zstd-jni", "1.5.6-10"),
    ("org.slf4j", "slf4j-api", "1.7.36"),
    ("org.xerial.snappy", "snappy-java", "1.1.10.7"),
];

/// The jar with the definitions, of the pinned version and digest.
pub fn fetch() -> anyhow::Result<PathBuf> {
    let jar = artifact("org.apache.kafka", "kafka-clients", KAFKA_VERSION)?;
    let output = Command::new("sha256sum").arg(&jar).output().context("run sha256sum")?;
    let digest = String::from_utf8_lossy(&output.stdout);
    ensure!(digest.starts_with(JAR_SHA256), "{} has SHA-256 {digest}, not {JAR_SHA256}", jar.display());
    Ok(jar)
}

pub fn codecs() -> anyhow::Result<Vec<PathBuf>> {
    CODECS.iter().map(|(group, name, version)| artifact(group, name, version)).collect()
}

/// A jar in Maven's local repository; Maven downloads it when it is not there.
fn artifact(group: &str, name: &str, version: &str) -> anyhow::Result<PathBuf> {
    let home = env::var_os("HOME").context("HOME is not set")?;
    let folder = group.replace('.', "/");
    let jar = Path::new(&home).join(format!(".m2/repository/{folder}/{name}/{version}/{name}-{version}.jar"));
    if !jar.exists() {
        let status = Command::new("mvn")
            .args(["-q", "-B", "dependency:get"])
            .arg(format!("-Dartifact={group}:{name}:{version}"))
            .status()
            .context("run mvn (Maven fetches the jar)")?;
        ensure!(status.success(), "mvn could not fetch {group}:{name}:{version}");
    }
    Ok(jar)
}

/// Every message definition in the jar, in the order of their names.
pub fn message_definitions(jar: &Path, scratch: &Path) -> anyhow::Result<Vec<MessageDefinition>> {
    if scratch.exists() {
        fs::remove_dir_all(scratch)?;
    }
    fs::create_dir_all(scratch)?;
    let status = Command::new("unzip")
        .args(["-q", "-o"])
        .arg(jar)
        .args(["common/message/*.json", "-d"])
        .arg(scratch)
        .status()
        .context("run unzip")?;
    ensure!(status.success(), "unzip could not read {}", jar.display());
    read_folder(&scratch.join("common/message"))
}

/// Every definition in a folder, in the order of their names; those that Kafka has retired are left out.
pub fn read_folder(folder: &Path) -> anyhow::Result<Vec<MessageDefinition>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.sort();
    let mut messages = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path)?;
        let message = MessageDefinition::parse(&text).with_context(|| format!("read {}", path.display()))?;
        if !message.valid_versions.is_empty() {
            messages.push(message);
        }
    }
    Ok(messages)
}
