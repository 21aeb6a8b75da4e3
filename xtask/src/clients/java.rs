//! The families of Kafka's Java client: one program (xtask/clients/java), compiled against each version of the client.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;

use super::family::{CHECKS, Family};
use super::install::{self, Installed, KAFKA_VERSION};
use crate::process;

/// Families that start together share jars and classes.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub fn families() -> Vec<Family> {
    let family = |name, version, protocol, records_max, prepare| Family {
        name,
        version,
        tools: &[],
        checks: CHECKS,
        absent: &[],
        protocol: Some(protocol),
        records_max,
        prepare,
    };
    vec![
        family("java-classic", KAFKA_VERSION, "classic", usize::MAX, |installed| newest(installed, "classic")),
        family("java-consumer", KAFKA_VERSION, "consumer", usize::MAX, |installed| newest(installed, "consumer")),
        family("java-3.7", "3.7.2", "classic", 10_000, |installed| older(installed, "3.7.2")),
        family("java-2.8", "2.8.2", "classic", 10_000, |installed| older(installed, "2.8.2")),
    ]
}

const CONNECT: &[&str] = &[
    "start-worker",
    "create-connectors",
    "half-the-lines",
    "restart-worker",
    "all-lines",
    "pause-resume",
    "delete-connectors",
];
const STREAMS: &[&str] = &["first-half", "internal-topics", "restart-in-the-middle", "restored-counts"];

/// Kafka's own applications on its client.
pub fn applications() -> Vec<Family> {
    let application = |name, checks, prepare| Family {
        name,
        version: KAFKA_VERSION,
        tools: &[],
        checks,
        absent: &[],
        protocol: None,
        records_max: usize::MAX,
        prepare,
    };
    vec![
        application("connect", CONNECT, |installed| app(installed, "ConnectApp")),
        application("streams", STREAMS, |installed| app(installed, "StreamsApp")),
    ]
}

fn newest(installed: &Installed, protocol: &str) -> anyhow::Result<Command> {
    let mut program = program(installed, &format!("java-family-{KAFKA_VERSION}"), &[""], &installed.classpath)?;
    program.arg("Family");
    program.args(["--protocol", protocol]);
    Ok(program)
}

fn older(installed: &Installed, version: &str) -> anyhow::Result<Command> {
    let jars = jars("", &format!("java-client-{version}"), version)?;
    let mut program = program(installed, &format!("java-family-{version}"), &[""], &jars)?;
    program.arg("Family");
    Ok(program)
}

fn app(installed: &Installed, main: &str) -> anyhow::Result<Command> {
    let mut program = program(installed, "java-apps", &["", "apps"], &apps_classpath()?)?;
    program.arg(main);
    Ok(program)
}

/// Of Connect, MirrorMaker, Streams and Trogdor.
pub fn apps_classpath() -> anyhow::Result<String> {
    jars("apps", &format!("java-apps-{KAFKA_VERSION}"), KAFKA_VERSION)
}

/// Those that the pom in this folder of the sources asks for.
fn jars(folder: &str, name: &str, version: &str) -> anyhow::Result<String> {
    let pom = fs::read_to_string(sources().join(folder).join("pom.xml"))?.replace("KAFKA_VERSION", version);
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    install::classpath(&install::jars(name, &pom)?)
}

fn program(installed: &Installed, name: &str, folders: &[&str], jars: &str) -> anyhow::Result<Command> {
    let classes = compile(&installed.java, name, folders, jars)?;
    Ok(java(&installed.java, &format!("{}:{jars}", classes.display())))
}

/// Tuned for short lives: no second compiler, no parallel collector.
pub fn java(java: &Path, classpath: &str) -> Command {
    let mut command = Command::new(java);
    command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m"]);
    command.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", classpath]);
    command
}

fn sources() -> PathBuf {
    crate::root().join("xtask/clients/java")
}

/// Into a folder named after what the sources say, so that it is done once.
pub fn compile(java: &Path, name: &str, folders: &[&str], jars: &str) -> anyhow::Result<PathBuf> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut files = Vec::new();
    for folder in folders {
        for entry in fs::read_dir(sources().join(folder))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "java") {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in &files {
        fs::read(file)?.hash(&mut hasher);
    }
    let base = crate::tools::cache_folder().join("clients").join(name);
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
