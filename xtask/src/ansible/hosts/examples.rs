//! The inventories that come with the collection: the broker's program takes the configurations that become of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::site::{SHORT, Site};
use crate::process;

/// Where the program is asked.
const HOST: &str = "h1";

pub fn are_taken(site: &Site) -> Result<()> {
    let inventories = entries(&crate::root().join("ansible/inventories"))?;
    ensure!(inventories.len() >= 5, "only {} example inventories", inventories.len());
    for inventory in &inventories {
        let name = inventory.file_name().context("a name")?.display().to_string();
        let files = configurations(site, inventory, "{}").with_context(|| name.clone())?;
        for file in &files {
            check(site, file).with_context(|| name.clone())?;
        }
        println!("  {name}: {} configurations are taken", files.len());
    }
    // It would have been seen.
    let wrong = configurations(site, &inventories[0], r#"{"seawall_settings": {"upload": {"no_such_key": 1}}}"#)?;
    ensure!(check(site, &wrong[0]).is_err(), "a configuration with a key that does not exist is taken");
    Ok(())
}

/// A file for each broker.
fn configurations(site: &Site, inventory: &Path, variables: &str) -> Result<Vec<PathBuf>> {
    let folder = site.folder.join("examples");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder)?;
    let mut ansible = Command::new(site.collection.program("ansible-playbook"));
    site.collection.prepare(&mut ansible).arg("-i").arg(inventory).arg("tests/configurations.yml");
    ansible.args(["-e", variables, "-e"]).arg(format!("folder={}", folder.display()));
    let finished = process::capture(ansible.current_dir(crate::root().join("ansible")), Vec::new(), SHORT)?;
    if !finished.success {
        bail!("{}\n{}", finished.stdout, finished.stderr);
    }
    entries(&folder)
}

fn check(site: &Site, file: &Path) -> Result<()> {
    site.lab.copy(file, HOST, "/root/example.toml")?;
    site.lab.sh(HOST, "/usr/bin/seawall config check /root/example.toml", SHORT)?;
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}
