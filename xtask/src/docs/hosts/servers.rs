//! Pages whose commands are typed on a server.

use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::play::Play;
use super::world::{SHORT, World};
use crate::beds::BUCKET;
/// With a store in a folder.
const SMALL: &str = "[node]\nid = 1\ndata_dir = \"/var/lib/seawall\"\n[backend]\nkind = \"fs\"\npath = \"/srv/seawall/objects\"\n\
                     [[wal]]\nkind = \"file\"\nsize = \"64MiB\"\n";

/// Of a host's configuration: the store is reached by another name than its certificate's.
const TLS_ON_HOST: &str = "tls_ca_file = \"/etc/seawall/store-ca.pem\"\ntls_server_name = \"localhost\"";

pub fn install<'a>(world: &'a World, play: &mut Play<'a>) -> Result<()> {
    world.host("h1", play)?;
    play.next("apt install")?;
    play.next("systemctl edit")?;
    let paths = world.sh("h1", "systemctl show seawall --property=ReadWritePaths --value")?;
    ensure!(paths.ends_with(" /data/objects"), "the addition is not in the unit, but {paths}");
    world.sh("h1", "systemctl revert seawall")?;
    Ok(())
}

/// Nothing is kept in time here: chrony runs without the right to set a clock.
pub fn clock<'a>(world: &'a World, play: &mut Play<'a>) -> Result<()> {
    world.host("h1", play)?;
    world.sh("h1", "systemctl stop chrony; systemd-run --quiet --unit=page-chrony chronyd -x -d")?;
    play.rest()?;
    world.sh("h1", "systemctl stop page-chrony")?;
    Ok(())
}

pub fn incarnation_ended<'a>(world: &'a World, play: &mut Play<'a>) -> Result<()> {
    world.installed("h1", play)?;
    world.configure("h1", SMALL)?;
    world.sh("h1", "install -d -o seawall -g seawall /srv/seawall/objects; systemctl enable --now --quiet seawall")?;
    play.rest()?;
    let state = world.sh("h1", "systemctl is-enabled seawall || true; systemctl is-active seawall || true")?;
    ensure!(state == "disabled\ninactive", "the unit is {state}");
    Ok(())
}

/// The whole way to a broker over Ceph, and a look at it.
pub fn bare_metal<'a>(world: &'a World, play: &mut Play<'a>) -> Result<()> {
    let store = world.store()?;
    play.names.set("rgw", &store.endpoint);
    play.names.set("bucket", BUCKET);
    play.names.set("tls", TLS_ON_HOST);
    play.names.set("wal", &world.disk("h3", "wal")?.by_id);
    world.host("h3", play)?;
    play.next("apt install")?;
    play.next("seawall-qualify")?;
    world.configure("h3", &play.config()?)?;
    play.next("config check")?;
    play.next("lsblk")?;
    play.next("wal format")?;
    let seen = play.next("systemctl enable --now")?;
    ensure!(seen.contains("\"durability\""), "it does not say how writes become durable: {seen}");
    Ok(())
}

pub fn qualification_device<'a>(world: &'a World, play: &mut Play<'a>) -> Result<()> {
    world.installed("h2", play)?;
    let disk = world.disk("h2", "wal")?;
    play.names.set("wal", &disk.by_id);
    play.next("seawall-qualify device")?;
    // Steps 1 to 4 of the page.
    let ledger = world.folder.join("nvme-EXAMPLE.ledger");
    // A free port there.
    let address = world.lab.listen()?.local_addr()?;
    let mut listener = world.lab.command(&world.program("seawall-qualify").display().to_string());
    listener.args(["power-cut", "ledger", "--listen", &address.to_string(), "--file"]).arg(&ledger);
    let listener = Ended(listener.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    let write = format!("seawall-qualify power-cut write {} --ledger {address}", disk.by_id);
    world.sh("h2", &format!("systemd-run --quiet --unit=page-write --property=Restart=on-failure {write}"))?;
    let end = Instant::now() + SHORT;
    while fs::metadata(&ledger).map_or(0, |ledger| ledger.len()) < LEDGER_BYTES {
        ensure!(Instant::now() < end, "the writer does not write");
        thread::sleep(Duration::from_millis(100));
    }
    world.lab.kill("h2")?;
    drop(listener);
    world.lab.start("h2")?;
    world.lab.copy(&ledger, "h2", "/root/page/")?;
    play.next("power-cut verify")?;
    world.sh(
        "h2",
        &format!(
            "seawall-qualify power-cut verify {} --ledger-file /root/page/nvme-EXAMPLE.ledger --erase",
            disk.by_id
        ),
    )?;
    play.next("--passport")?;
    world.sh("h2", "grep --quiet '\"signature\"' /root/page/nvme-EXAMPLE.json")?;
    Ok(())
}

/// Of some hundreds of acks.
const LEDGER_BYTES: u64 = 16 << 10;

pub fn as_it_is<'a>(world: &'a World, play: &mut Play<'a>) -> Result<()> {
    world.at("h1", play);
    Ok(())
}

/// Not left behind.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
