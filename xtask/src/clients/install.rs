//! Apache Kafka's tools from Maven Central, in the cache folder. A finished installation is marked and not repeated.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::process;
use crate::tools::{self, Tool};

pub const KAFKA_VERSION: &str = "4.3.1";
pub const TOOLS: [Tool; 3] = [Tool::Java, Tool::Maven, Tool::Kcat];

/// Where the tools are; they are there when this returns.
pub struct Installed {
    pub folder: PathBuf,
    /// Of `folder`.
    pub classpath: String,
    pub kcat: PathBuf,
    pub java: PathBuf,
}

/// Under `CI=true` installs java, Maven and kcat too; elsewhere says how.
pub fn install() -> anyhow::Result<Installed> {
    if tools::is_ci() {
        tools::install(&TOOLS)?;
    }
    let tool = |tool: Tool| tool.find().with_context(|| format!("{tool:?} is missing: {}", tool.hint()));
    let pom = fs::read_to_string(crate::root().join("xtask/clients/pom.xml"))?;
    let folder = jars(&format!("kafka-{KAFKA_VERSION}"), &pom)?;
    Ok(Installed { classpath: classpath(&folder)?, folder, kcat: tool(Tool::Kcat)?, java: tool(Tool::Java)? })
}

/// The folder with the jars that a pom asks for.
pub fn jars(name: &str, pom: &str) -> anyhow::Result<PathBuf> {
    let folder = tools::cache_folder().join("clients").join(name);
    let mark = folder.join("installed-from.pom.xml");
    if fs::read_to_string(&mark).ok().as_deref() != Some(pom) {
        let maven = Tool::Maven.find().with_context(|| format!("mvn is missing: {}", Tool::Maven.hint()))?;
        download(&maven, &folder, pom)?;
        fs::write(&mark, pom)?;
    }
    Ok(folder)
}

/// Into a folder beside it first, so that an interrupted download is never taken for an installation.
fn download(maven: &Path, folder: &Path, pom: &str) -> anyhow::Result<()> {
    let fresh = folder.with_extension("new");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    fs::create_dir_all(&fresh)?;
    fs::write(fresh.join("pom.xml"), pom)?;
    let mut command = Command::new(maven);
    command.args(["-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=."]).current_dir(&fresh);
    process::capture(&mut command, Vec::new(), Duration::from_secs(600))?.stdout_if_success("mvn")?;
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::rename(&fresh, folder)?;
    Ok(())
}

/// For `java -cp`, in a fixed order.
pub fn classpath(folder: &Path) -> anyhow::Result<String> {
    let mut jars = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jar") {
            jars.push(path.to_str().context("the path of the cache folder is not UTF-8")?.to_owned());
        }
    }
    ensure!(!jars.is_empty(), "no jars in {}", folder.display());
    jars.sort();
    Ok(jars.join(":"))
}
