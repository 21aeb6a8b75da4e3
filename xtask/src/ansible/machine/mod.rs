//! `cargo xtask ansible vm`: the collection played on a virtual machine with a kernel, a clock and NVMe drives of its own, which lacks
//! nothing, beside a container that is a broker too and gives it the time. Every task of the collection runs on the machine, but for
//! a few that are named here.

mod clock;
mod coverage;
mod prometheus;
mod stories;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::hosts::site::Site;
use super::hosts::stories::Loads;
use super::hosts::{self, Told, changes};
use crate::bench::load::Generator;
use crate::tools::{self, Tool};
use crate::{beds, lab};
use coverage::Task;

/// The one that is looked at.
const MACHINE: &str = "v1";
/// It is a broker, and the machine's clock follows it.
const CONTAINER: &str = "h1";

/// Tasks that do not run on it: file, name, why.
const EXCEPTIONS: [(&str, &str, &str); 3] = [
    ("roles/host/tasks/clock.yml", "Install chrony", "there is no way to a mirror; chrony is there already"),
    ("roles/device/tasks/write_cache.yml", "The cache of a SCSI or SATA drive", "its drives are NVMe"),
    ("roles/device/tasks/write_cache.yml", "Turn the cache of a SCSI or SATA drive off", "its drives are NVMe"),
];

#[derive(clap::Args)]
pub struct Args {
    /// A package in place of one made of the release build.
    #[arg(long)]
    package: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<bool> {
    let more = [hosts::MORE_TOOLS, lab::MACHINE_TOOLS, &[Tool::Promtool, Tool::Openssl]].concat();
    tools::require(&[lab::TOOLS, beds::Store::Rgw.tools(), &more].concat())?;
    let generator = Generator::build()?;
    let package = hosts::package_or_build(args.package.as_deref())?;
    let mut told = Told::begin();
    let mut site = Site::up_with_machine(&package)?;
    clock::serve(&site.lab, CONTAINER, MACHINE)?;
    let outcome = (|| {
        told.story("below the thresholds", stories::below_thresholds(&mut site))?;
        told.story("bare hosts", stories::bare_hosts(&mut site))?;
        told.story("again, after a reboot and after a power cut", stories::after_each_boot(&site))?;
        told.story("qualified again", stories::qualified_again(&site))?;
        let loads = Loads::start(&site, generator.program())?;
        told.story("rolling upgrade", hosts::stories::rolling_upgrade(&mut site, &package))?;
        told.story("stopped, and gone on with", stories::stopped_and_gone_on(&mut site, &package))?;
        told.story("monitoring", prometheus::is_told(&mut site, MACHINE))?;
        told.story("another device", stories::another_device(&mut site))?;
        told.story("removed and added", changes::remove_and_add(&mut site, MACHINE))?;
        told.story("nothing acked is lost", loads.finish(&site))?;
        told.story("every task ran", every_task_ran(&site))
    })();
    Ok(told.verdict(outcome))
}

fn every_task_ran(site: &Site) -> Result<()> {
    let outputs = site.outputs.as_ref().context("no output was kept")?.borrow();
    // Some tasks are of the controller.
    let ran: BTreeSet<_> = outputs.iter().flat_map(|output| coverage::ran(output, &[MACHINE, "localhost"])).collect();
    let tasks = collection_tasks()?;
    let faults = coverage::faults(&tasks, &ran);
    let count = tasks.iter().filter(|task| ran.contains(&task.place)).count();
    println!("{count} of {} tasks ran on {MACHINE}; the others:", tasks.len());
    for (file, name, why) in EXCEPTIONS {
        println!("  {file}: {name} ({why})");
    }
    ensure!(faults.is_empty(), "tasks:\n{}", faults.join("\n"));
    Ok(())
}

/// Of all roles and playbooks.
fn collection_tasks() -> Result<Vec<Task>> {
    let root = crate::root().join("ansible");
    let mut folders = vec!["playbooks".to_owned()];
    for role in fs::read_dir(root.join("roles"))? {
        let role = role?.file_name();
        folders.extend(["tasks", "handlers"].map(|part| format!("roles/{}/{part}", role.display())));
    }
    let mut tasks = Vec::new();
    for folder in folders {
        let Ok(files) = fs::read_dir(root.join(&folder)) else { continue };
        for file in files {
            let file = file?;
            let name = format!("{folder}/{}", file.file_name().display());
            tasks.extend(coverage::tasks_of(&name, &fs::read_to_string(file.path())?));
        }
    }
    tasks.sort_by(|one, other| one.place.cmp(&other.place));
    Ok(tasks)
}
