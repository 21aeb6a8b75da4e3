//! `cargo xtask ansible hosts`: the collection played on three hosts with systemd and sshd of their own, over SSH, with a real Ceph RGW
//! as the store and loop devices as WALs, under load from real clients whose every ack is compared with what can be read at the end.
//!
//! Verdicts: recaps, what a failed play says, the journals of the hosts (never two brokers away at a time), and the clients' ledgers.

pub(super) mod changes;
pub(super) mod deb;
mod examples;
mod failures;
mod faults;
mod load;
mod play;
mod recap;
pub(super) mod site;
pub(super) mod stories;
mod watch;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::bench::load::Generator;
use crate::package::{Package, Profile};
use crate::tools::{self, Tool};
use crate::{beds, lab};
use site::Site;
use stories::Loads;

/// Besides those of the lab and of Ceph.
pub const MORE_TOOLS: &[Tool] = &[Tool::PythonVenv, Tool::Cmake, Tool::CargoDeb];

#[derive(clap::Args)]
pub struct Args {
    /// All playbooks and all failures; without it those that fit into a few minutes.
    #[arg(long)]
    long: bool,
    /// A package in place of one made of the release build.
    #[arg(long)]
    package: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<bool> {
    tools::require(&[lab::TOOLS, beds::Store::Rgw.tools(), MORE_TOOLS].concat())?;
    let generator = Generator::build()?;
    let package = package_or_build(args.package.as_deref())?;
    let mut told = Told::begin();
    let mut site = Site::up(&package)?;
    let outcome = (|| {
        told.story("bare hosts", stories::bare_hosts(&mut site, "h1"))?;
        told.story("example inventories", examples::are_taken(&site))?;
        told.story("again, after a reboot and after a power cut", stories::nothing_to_do(&site, args.long))?;
        let loads = Loads::start(&site, generator.program())?;
        told.story("rolling upgrade", stories::rolling_upgrade(&mut site, &package))?;
        if args.long {
            told.story("another setting", stories::another_setting(&mut site))?;
            told.story("wrong bucket, wrong key", failures::wrong_store(&mut site))?;
            told.story("wrong devices", failures::wrong_devices(&mut site))?;
            told.story("half done", failures::half_done(&mut site))?;
            told.story("an upgrade that was cut off", failures::upgrade_cut_off(&mut site, &package))?;
            told.story("a broken package", failures::broken_package(&mut site, &package))?;
            told.story("a failing host", failures::failing_host(&mut site, &package))?;
            site.add_disk("h2", "spare")?;
            told.story("another device", changes::replace_device(&mut site, "h2"))?;
            told.story("removed and added", changes::remove_and_add(&mut site, "h3"))?;
        }
        told.story("judges find faults", faults::are_found(&site))?;
        told.story("nothing acked is lost", loads.finish(&site))
    })();
    Ok(told.verdict(outcome))
}

/// The one that is at hand, or one of the release build.
pub fn package_or_build(at_hand: Option<&Path>) -> Result<PathBuf> {
    match at_hand {
        Some(package) => Ok(package.to_owned()),
        None => Package { profile: Profile::Release, version: None, fast: true }.build(),
    }
}

/// What was shown so far, told as it comes.
pub struct Told {
    began: Instant,
    passed: u32,
}

impl Told {
    pub fn begin() -> Self {
        Self { began: Instant::now(), passed: 0 }
    }

    pub fn story(&mut self, name: &str, result: Result<()>) -> Result<()> {
        result.with_context(|| name.to_owned())?;
        self.passed += 1;
        println!("-- {name}: ok, {:.0} s after the beginning", self.began.elapsed().as_secs_f64());
        Ok(())
    }

    pub fn verdict(self, outcome: Result<()>) -> bool {
        if let Err(error) = &outcome {
            println!("FAILED: {error:#}");
        }
        let (verdict, failed) = if outcome.is_ok() { ("ok", 0) } else { ("FAILED", 1) };
        println!("test result: {verdict}. {} passed; {failed} failed; 0 ignored", self.passed);
        outcome.is_ok()
    }
}
