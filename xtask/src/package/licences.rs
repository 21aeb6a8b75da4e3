//! The libraries that the programs hold, each with its license and the texts that it asks to be kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::finish;

const PROGRAMS: [&str; 2] = ["seawall", "seawall-qualify"];
const TEXTS: [&str; 4] = ["license", "copying", "copyright", "notice"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Library>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Library {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// None for members of the workspace.
    source: Option<String>,
    manifest_path: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// None is one that is compiled in.
    kind: Option<String>,
}

/// To `file`, which becomes `file.gz`.
pub fn write(file: &Path) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"]);
    let metadata: Metadata = serde_json::from_str(&finish(cargo.current_dir(crate::root()))?)?;
    fs::write(file, text(&libraries(&metadata))?)?;
    finish(Command::new("gzip").args(["-9nf"]).arg(file))?;
    Ok(())
}

/// What the programs are linked with, but for our own.
fn libraries(metadata: &Metadata) -> Vec<&Library> {
    let packages: BTreeMap<&str, &Library> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package)).collect();
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let mut open: Vec<&str> = metadata
        .packages
        .iter()
        .filter(|package| package.source.is_none() && PROGRAMS.contains(&package.name.as_str()))
        .map(|package| package.id.as_str())
        .collect();
    let mut seen: BTreeSet<&str> = open.iter().copied().collect();
    while let Some(id) = open.pop() {
        for dependency in nodes.get(id).map_or(&[][..], |node| &node.deps) {
            let is_linked = dependency.dep_kinds.iter().any(|kind| kind.kind.is_none());
            if is_linked && seen.insert(&dependency.pkg) {
                open.push(&dependency.pkg);
            }
        }
    }
    let mut found: Vec<&Library> = seen.iter().filter_map(|id| packages.get(id).copied()).collect();
    found.retain(|library| library.source.is_some());
    found.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
    found
}

fn text(libraries: &[&Library]) -> Result<String> {
    ensure!(!libraries.is_empty(), "cargo metadata names no library");
    let mut text =
        "Libraries in seawall and seawall-qualify, and their licenses. The texts follow, each once.\n\n".to_owned();
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for library in libraries {
        let name = format!("{} {}", library.name, library.version);
        text += &format!("{name}: {}\n", library.license.as_deref().unwrap_or("see its text"));
        let folder = Path::new(&library.manifest_path).parent().context("a manifest without a folder")?;
        for found in texts_of(folder)? {
            texts.entry(found).or_default().push(name.clone());
        }
    }
    for (words, of) in texts {
        text += &format!("\n{}\n{}:\n\n{}\n", "-".repeat(78), of.join(", "), words.trim_end());
    }
    Ok(text)
}

/// Of a library, and of C sources in a folder of it.
fn texts_of(folder: &Path) -> Result<BTreeSet<String>> {
    let mut texts = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    for entry in folders.iter().map(fs::read_dir).collect::<std::io::Result<Vec<_>>>()?.into_iter().flatten() {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let is_code = [".rs", ".c", ".h", ".py"].iter().any(|ending| name.ends_with(ending));
        if path.is_file() && !is_code && TEXTS.iter().any(|start| name.starts_with(start)) {
            texts.insert(String::from_utf8_lossy(&fs::read(&path)?).into_owned());
        }
    }
    Ok(texts)
}
