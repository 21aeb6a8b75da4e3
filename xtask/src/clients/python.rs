//! The families of Python clients: a virtual environment per set of packages, and the programs in xtask/clients/python.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;

use super::family::{CHECKS, Family};
use super::install::Installed;
use crate::process;
use crate::tools::{self, Tool};

const CONFLUENT: &str = "family_confluent.py";
const KAFKA_PYTHON: &str = "family_kafka_python.py";
const KCAT: &str = "family_kcat.py";

/// Wheels for Python 3.11, which Debian ships, begin with confluent-kafka 2.0.2; each carries the librdkafka of its version.
pub fn newest() -> Vec<Family> {
    vec![
        family("librdkafka", "2.16.1", "classic", usize::MAX, |_| confluent("2.16.1", "classic")),
        family("librdkafka-consumer", "2.16.1", "consumer", usize::MAX, |_| confluent("2.16.1", "consumer")),
    ]
}

/// Debian's; with the admin client of confluent-kafka beside it, since it has none.
pub fn kcat() -> Family {
    let absent = &["pause-resume", "commit-sync", "admin"];
    let prepare = |installed: &Installed| {
        let mut program = program(&["confluent-kafka==2.16.1"], KCAT)?;
        program.arg("--kcat").arg(&installed.kcat);
        Ok(program)
    };
    Family { absent, ..family("kcat", "1.7.1", "classic", usize::MAX, prepare) }
}

pub fn others() -> Vec<Family> {
    vec![
        family("kafka-python", "3.0.12", "classic", 20_000, |_| {
            let codecs = ["lz4==4.4.5", "python-snappy==0.7.3", "zstandard==0.25.0"];
            program(&[&["kafka-python==3.0.12"], &codecs[..]].concat(), KAFKA_PYTHON)
        }),
        family("librdkafka-2.3", "2.3.0", "classic", 10_000, |_| confluent("2.3.0", "classic")),
        family("librdkafka-2.0", "2.0.2", "classic", 10_000, |_| confluent("2.0.2", "classic")),
    ]
}

fn family(
    name: &'static str,
    version: &'static str,
    protocol: &'static str,
    records_max: usize,
    prepare: fn(&Installed) -> anyhow::Result<Command>,
) -> Family {
    let tools = &[Tool::PythonVenv];
    Family { name, version, tools, checks: CHECKS, absent: &[], protocol: Some(protocol), records_max, prepare }
}

fn confluent(version: &str, protocol: &str) -> anyhow::Result<Command> {
    let mut program = program(&[&format!("confluent-kafka=={version}")], CONFLUENT)?;
    program.args(["--group-protocol", protocol]);
    Ok(program)
}

fn program(packages: &[&str], main: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(environment(packages)?.join("bin/python"));
    // Compiled files stay out of the checkout.
    command.arg("-B").arg(crate::root().join("xtask/clients/python").join(main));
    Ok(command)
}

/// A virtual environment with these packages, made once. It cannot be moved, so a mark says that it is whole.
pub fn environment(packages: &[&str]) -> anyhow::Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tools::cache_folder().join("clients/python").join(packages.join("+"));
    let mark = folder.join("whole");
    if mark.exists() {
        return Ok(folder);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let python = Tool::PythonVenv.find().with_context(|| Tool::PythonVenv.hint())?;
    let mut venv = Command::new(python);
    venv.args(["-m", "venv"]).arg(&folder);
    process::capture(&mut venv, Vec::new(), Duration::from_secs(60))?.stdout_if_success("python3 -m venv")?;
    let mut pip = Command::new(folder.join("bin/pip"));
    pip.args(["install", "--quiet", "--only-binary", ":all:"]).args(packages);
    process::capture(&mut pip, Vec::new(), Duration::from_secs(300))?.stdout_if_success("pip install")?;
    fs::write(mark, "")?;
    Ok(folder)
}
