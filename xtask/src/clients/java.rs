//! The families of Kafka's Java client: one program (xtask/clients/java), compiled against each version of the client.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;

use super::family::Family;
use super::install::{self, Installed, KAFKA_VERSION};
use crate::process;

pub fn families() -> Vec<Family> {
    let family = |name, version, records_max, prepare| Family { name, version, tools: &[], records_max, prepare };
    vec![
        family("java-classic", KAFKA_VERSION, usize::MAX, |installed| newest(installed, "classic")),
        family("java-3.7", "3.7.2", 10_000, |installed| older(installed, "3.7.2")),
        family("java-2.8", "2.8.2", 10_000, |installed| older(installed, "2.8.2")),
    ]
}

fn newest(installed: &Installed, protocol: &str) -> anyhow::Result<Command> {
    let mut program = program(installed, KAFKA_VERSION, &installed.classpath)?;
    program.args(["--protocol", protocol]);
    Ok(program)
}

fn older(installed: &Installed, version: &str) -> anyhow::Result<Command> {
    let pom = fs::read_to_string(sources().join("pom.xml"))?.replace("KAFKA_VERSION", version);
    let folder = install::jars(&format!("java-client-{version}"), &pom)?;
    program(installed, version, &install::classpath(&folder)?)
}

fn program(installed: &Installed, version: &str, jars: &str) -> anyhow::Result<Command> {
    let classes = compile(&installed.java, version, jars)?;
    let mut command = java(&installed.java, &format!("{}:{jars}", classes.display()));
    command.arg("Family");
    Ok(command)
}

/// Tuned for short lives: no second compiler, no parallel collector.
fn java(java: &Path, classpath: &str) -> Command {
    let mut command = Command::new(java);
    command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m"]);
    command.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", classpath]);
    command
}

fn sources() -> PathBuf {
    crate::root().join("xtask/clients/java")
}

/// Into a folder named after what the sources say, so that it is done once.
fn compile(java: &Path, version: &str, jars: &str) -> anyhow::Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut files = Vec::new();
    for entry in fs::read_dir(sources())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "java") {
            files.push(path);
        }
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in &files {
        fs::read(file)?.hash(&mut hasher);
    }
    let base = crate::tools::cache_folder().join("clients").join(format!("java-family-{version}"));
    let classes = base.join(format!("{:016x}", hasher.finish()));
    if classes.exists() {
        return Ok(classes);
    }
    let fresh = base.join(format!("new-{}", std::process::id()));
    fs::create_dir_all(&fresh)?;
    let compiler = java.canonicalize()?.with_file_name("javac");
    let compiler = if compiler.is_file() { compiler } else { PathBuf::from("javac") };
    let mut javac = Command::new(compiler);
    javac.args(["-nowarn", "-d"]).arg(&fresh).args(["-cp", jars]).args(&files);
    process::capture(&mut javac, Vec::new(), Duration::from_secs(120))?.stdout_if_success("javac")?;
    fs::rename(&fresh, &classes).context("put the classes in place")?;
    Ok(classes)
}
