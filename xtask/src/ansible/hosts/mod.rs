//! `cargo xtask ansible hosts`: the collection played on three hosts with systemd and sshd of their own, over SSH, with a real Ceph RGW
//! as the store and loop devices as WALs, under load from real clients whose every ack is compared with what can be read at the end.
//!
//! Verdicts: recaps, what a failed play says, the journals of the hosts (never two brokers away at a time), and the clients' ledgers.

mod changes;
mod deb;
mod failures;
mod faults;
mod load;
mod play;
mod recap;
mod site;
mod stories;
mod watch;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::bench::load::Generator;
use crate::package::{Package, Profile};
use crate::tools::{self, Tool};
use crate::{beds, lab};
use site::Site;
use stories::Loads;

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
    let more = [Tool::PythonVenv, Tool::Cmake, Tool::CargoDeb];
    let needed = [lab::TOOLS, beds::Store::Rgw.tools(), &more].concat();
    if tools::is_ci() {
        tools::install(&needed)?;
    }
    tools::require(&needed)?;
    let generator = Generator::build()?;
    let package = match &args.package {
        Some(package) => package.clone(),
        None => Package { profile: Profile::Release, version: None, fast: true }.build()?,
    };
    let began = Instant::now();
    let mut site = Site::up(&package)?;
    let mut passed = 0;
    let mut story = |name: &str, result: Result<()>| -> Result<()> {
        result.with_context(|| name.to_owned())?;
        passed += 1;
        println!("-- {name}: ok, {:.0} s after the beginning", began.elapsed().as_secs_f64());
        Ok(())
    };
    let outcome = (|| {
        story("bare hosts", stories::bare_hosts(&mut site))?;
        story("again, after a reboot and after a power cut", stories::nothing_to_do(&site, args.long))?;
        let loads = Loads::start(&site, generator.program())?;
        story("rolling upgrade", stories::rolling_upgrade(&mut site, &package))?;
        if args.long {
            story("another setting", stories::another_setting(&mut site))?;
            story("wrong bucket, wrong key", failures::wrong_store(&mut site))?;
            story("wrong devices", failures::wrong_devices(&mut site))?;
            story("half done", failures::half_done(&mut site))?;
            story("a broken package", failures::broken_package(&mut site, &package))?;
            story("a failing host", failures::failing_host(&mut site, &package))?;
            story("another device", changes::replace_device(&mut site))?;
            story("removed and added", changes::remove_and_add(&mut site))?;
        }
        story("judges find faults", faults::are_found(&site))?;
        story("nothing acked is lost", loads.finish(&site))
    })();
    if let Err(error) = &outcome {
        println!("FAILED: {error:#}");
    }
    let (verdict, failed) = if outcome.is_ok() { ("ok", 0) } else { ("FAILED", 1) };
    println!("test result: {verdict}. {passed} passed; {failed} failed; 0 ignored");
    Ok(outcome.is_ok())
}
