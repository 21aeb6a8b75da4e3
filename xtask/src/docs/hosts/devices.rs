//! The runbook of WAL devices that fail: a mirror that loses one, then an only one that is copied, and one that is gone.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::play::Play;
use super::world::World;
use crate::lab::Disk;

const HOST: &str = "h4";

pub fn wal_device_failed<'a>(world: &'a World, play: &mut Play<'a>) -> Result<()> {
    world.installed(HOST, play)?;
    let disks: Vec<Disk> =
        ["a", "b", "c", "d", "e"].iter().map(|name| world.disk(HOST, name)).collect::<Result<_>>()?;
    let [first, second, third, fourth, fifth] = &disks[..] else { bail!("{} disks", disks.len()) };
    // A mirror whose second device is away.
    configure(world, &format!("kind = \"mirror\"\ndevices = [{:?}, {:?}]", first.by_id, second.by_id))?;
    world.sh(HOST, "install -d -o seawall -g seawall /srv/seawall/objects")?;
    format(world, &format!("{} --mirror {}", first.by_id, second.by_id))?;
    world.sh(HOST, "systemctl start seawall; systemctl stop seawall")?;
    take_away(world, second)?;
    world.sh(HOST, "systemctl start seawall")?;
    let seen = play.next("/state")?;
    ensure!(seen.contains("leg_missing"), "the page does not show what is wrong: {seen}");
    play.names.set("new", &third.by_id);
    play.next("grant-wal-devices")?;
    play.next("wal replace")?;
    configure(world, &format!("kind = \"mirror\"\ndevices = [{:?}, {:?}]", first.by_id, third.by_id))?;
    world.sh(HOST, "systemctl restart seawall")?;
    let legs = world.sh(HOST, "curl -s http://127.0.0.1:9644/state | jq '.wals[0].legs | length'")?;
    ensure!(legs == "2", "the mirror has {legs} devices after it was given another");

    // Another broker, with one device.
    world.sh(HOST, "systemctl stop seawall; rm -rf /var/lib/seawall/* /srv/seawall/objects/*")?;
    world.sh(
        HOST,
        &format!("blkdiscard --force {0} || dd if=/dev/zero of={0} bs=1M conv=fsync status=none", first.by_id),
    )?;
    only(world, first)?;
    format(world, &first.by_id)?;
    world.sh(HOST, "systemctl start seawall")?;
    let waits = play.next("seawall_upload_waiting_bytes")?;
    ensure!(waits.starts_with("\"ok\"\n"), "the page does not show how the store is: {waits}");
    let ended = play.next("systemctl stop")?;
    ensure!(ended.contains("everything is uploaded"), "the stop does not say whether everything is uploaded: {ended}");
    play.next("systemctl start")?;
    world.sh(HOST, "systemctl stop seawall")?;
    play.names.set("wal", &first.by_id);
    play.names.set("new", &fourth.by_id);
    play.next("dd if=")?;
    only(world, fourth)?;
    take_away(world, first)?;
    world.sh(HOST, "systemctl start seawall; systemctl stop seawall")?;
    let inspected = world.sh(HOST, &format!("seawall wal inspect --json {}", fourth.by_id))?;
    let inspected: Value = serde_json::from_str(&inspected)?;
    play.names.set("id", inspected["superblock"]["wal"].as_str().context("`wal inspect` does not name the WAL")?);
    take_away(world, fourth)?;
    play.names.set("new", &fifth.by_id);
    play.next("give-up")?;
    play.next("give-up")?;
    only(world, fifth)?;
    world.sh(HOST, "systemctl start seawall")?;
    Ok(())
}

fn configure(world: &World, wal: &str) -> Result<()> {
    let config = format!(
        "[node]\nid = 1\ndata_dir = \"/var/lib/seawall\"\n[backend]\nkind = \"fs\"\npath = \"/srv/seawall/objects\"\n[[wal]]\n{wal}\n"
    );
    world.configure(HOST, &config)
}

fn only(world: &World, disk: &Disk) -> Result<()> {
    configure(world, &format!("kind = \"device\"\ndevice = {:?}", disk.by_id))
}

fn format(world: &World, devices: &str) -> Result<()> {
    world.sh(HOST, &format!("seawall wal format {devices} --config /etc/seawall/seawall.toml --yes"))?;
    Ok(())
}

/// As one that answers no more: neither of its names is there.
fn take_away(world: &World, disk: &Disk) -> Result<()> {
    world.sh(HOST, &format!("rm {} {}", disk.by_id, disk.device))?;
    Ok(())
}
