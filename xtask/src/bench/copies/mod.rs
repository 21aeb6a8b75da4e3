//! `cargo xtask bench --copies`: how many bytes go over networks and lie on disks for each byte that is produced, with Seawall
//! on a store that keeps three copies, and with Apache Kafka that keeps three replicas on disks of the same store.
//!
//! Measured is what one machine can show: bytes per connection, objects in the store, files of Kafka. The copies that the
//! store makes below them are computed, and said to be: one OSD makes none.

mod kafka;
mod sockets;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::answers;
use super::load::{Generator, Load, Report};
use super::machine;
use crate::beds::{self, BUCKET, Bed, Client};
use crate::clients::broker::Broker;
use crate::clients::install::{self, Installed};
use sockets::Sockets;

/// As CubeFS and Ceph keep them, and as the site's pool would.
const STORE_COPIES: f64 = 3.0;
const TOPIC: &str = "copies";
const PARTITIONS: u32 = 6;
/// Slow enough that no connection carries much in the moment before it is closed.
const MIB_PER_S: u64 = 64;
/// No bytes for so long: everything is where it belongs. Uploads are ten seconds apart.
const QUIET: Duration = Duration::from_secs(13);
const QUIET_MAX: Duration = Duration::from_secs(120);

pub struct Settings {
    pub binary: PathBuf,
    pub mib: u64,
    /// With MinIO in place of Ceph, which takes half a minute to start.
    pub tiny: bool,
}

/// Bytes per produced byte, in the order of the table.
struct Counted {
    clients: f64,
    replicas: f64,
    gateway: f64,
    disks: Option<f64>,
    stored: f64,
    /// Of the whole loopback device, headers included.
    loopback: f64,
}

/// True when all was counted: acked records that are lost are an error.
pub fn run(settings: &Settings, installed: &Installed, generator: &Generator) -> Result<bool> {
    let load = Load {
        partitions: PARTITIONS,
        rate: MIB_PER_S << 10,
        seconds: settings.mib as f64 / MIB_PER_S as f64,
        consumers: 0,
        ..Load::MAX
    };
    println!("{}", machine::conditions()?);
    let (seawall, store, wal) = seawall(settings, generator, &load)?;
    let kafka = kafka(installed, generator, &load)?;
    println!(
        "Seawall on {store}; Apache Kafka {}, {} nodes, replication factor 3",
        install::KAFKA_VERSION,
        kafka::NODES
    );
    println!("{}, acks=all, nothing compressed; bytes per byte of records\n", load.describe());
    print!("{}", table(&seawall, &kafka));
    println!("  besides, written to the WAL on a local disk, and trimmed when the store has it: {wal:.2}");
    println!(
        "  the whole loopback device, headers included: {:.2} and {:.2}; what is measured above: {:.2} and {:.2}",
        seawall.loopback,
        kafka.loopback,
        seawall.clients + seawall.replicas + seawall.gateway + seawall.disks.unwrap_or(0.0),
        kafka.clients + kafka.replicas
    );
    Ok(true)
}

fn seawall(settings: &Settings, generator: &Generator, load: &Load) -> Result<(Counted, String, f64)> {
    let of = if settings.tiny { beds::Store::Minio } else { beds::Store::Rgw };
    for tool in of.tools() {
        ensure!(tool.find().is_some(), "{} is missing: {}", tool.program(), tool.hint());
    }
    let bed = beds::start(of)?;
    let form = bed.forms.iter().find(|form| form.endpoint.is_some()).context("a store without http")?;
    let config = std::fs::read_to_string(&form.config)?;
    let backend = config.split_once("[backend]").context("a bed's configuration")?.1;
    let broker = Broker::seawall_with(&settings.binary, &format!("[backend]{backend}"))?;
    let endpoint = form.endpoint.clone().context("no endpoint")?;
    let gateway = port_of(&endpoint)?;
    let disks = match of {
        beds::Store::Rgw => Some(sockets::listening(bed.pid("osd")?)?),
        _ => None,
    };
    let keys = bed.keys.clone().context("no keys")?;
    let stored = || -> Result<u64> {
        let client = Client { endpoint: &endpoint, ca: Path::new("/dev/null"), keys: &keys };
        Ok(sizes(&client.read(&format!("{BUCKET}?list-type=2&max-keys=1000"))?))
    };
    let watch = Sockets::watch()?;
    let clients = port_of(broker.bootstrap())?;
    let count =
        || [watch.bytes(&[clients]), watch.bytes(&[gateway]), watch.bytes(disks.as_deref().unwrap_or_default())];
    generator.create_topic(broker.bootstrap(), TOPIC, PARTITIONS, &[])?;
    let (before, lain) = (count(), stored()?);
    let loopback = sockets::loopback_bytes()?;
    let report = generator.run(broker.bootstrap(), TOPIC, load)?;
    let per_byte = per_byte(&report)?;
    wait_until_quiet(|| watch.bytes(&[gateway]))?;
    let all = sockets::loopback_bytes()? - loopback;
    let after = count();
    let wal = answers::metrics(broker.admin_address()?)?;
    let wal = answers::sum(&wal, "seawall_wal_device_written_bytes_total");
    let store = format!("{} {}", bed.kind, bed.version);
    let counted = Counted {
        clients: per_byte(after[0] - before[0]),
        replicas: 0.0,
        gateway: per_byte(after[1] - before[1]),
        disks: disks.as_ref().map(|_| per_byte(after[2] - before[2])),
        stored: per_byte(stored()? - lain),
        loopback: per_byte(all),
    };
    Ok((counted, store, per_byte(wal as u64)))
}

fn kafka(installed: &Installed, generator: &Generator, load: &Load) -> Result<Counted> {
    let mut cluster = kafka::Cluster::start(installed)?;
    let bootstrap = cluster.nodes[0].bootstrap().to_owned();
    let watch = Sockets::watch()?;
    let count = || [watch.bytes(&cluster.client_ports), watch.bytes(&cluster.replica_ports)];
    generator.create_replicated_topic(&bootstrap, TOPIC, PARTITIONS, kafka::NODES)?;
    let before = count();
    let loopback = sockets::loopback_bytes()?;
    let report = generator.run(&bootstrap, TOPIC, load)?;
    let per_byte = per_byte(&report)?;
    // An ack means that all replicas have it.
    std::thread::sleep(Duration::from_secs(1));
    let all = sockets::loopback_bytes()? - loopback;
    let after = count();
    machine::sync()?;
    let counted = Counted {
        clients: per_byte(after[0] - before[0]),
        replicas: per_byte(after[1] - before[1]),
        gateway: 0.0,
        disks: None,
        stored: per_byte(cluster.stored(TOPIC)?),
        loopback: per_byte(all),
    };
    // Nothing of it is kept, so none need end in order.
    cluster.nodes.iter_mut().try_for_each(Broker::kill)?;
    Ok(counted)
}

fn per_byte(report: &Report) -> Result<impl Fn(u64) -> f64 + use<>> {
    ensure!(report.failed == 0 && report.errors == 0, "records failed: {report:?}");
    let produced = report.produced.bytes as f64;
    ensure!(produced > 0.0, "nothing was produced");
    Ok(move |bytes: u64| bytes as f64 / produced)
}

fn wait_until_quiet(bytes: impl Fn() -> u64) -> Result<()> {
    let (mut last, mut since, begun) = (bytes(), Instant::now(), Instant::now());
    while since.elapsed() < QUIET {
        ensure!(begun.elapsed() < QUIET_MAX, "the store is still written to");
        std::thread::sleep(Duration::from_millis(250));
        let now = bytes();
        // Looks of the broker at its store are small.
        if now > last + (64 << 10) {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(())
}

fn port_of(address: &str) -> Result<u16> {
    address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).with_context(|| format!("no port in {address}"))
}

/// Of all objects in a listing.
fn sizes(listing: &str) -> u64 {
    listing.split("<Size>").skip(1).filter_map(|rest| rest.split('<').next()?.parse::<u64>().ok()).sum()
}

fn table(seawall: &Counted, kafka: &Counted) -> String {
    let mut text = format!("{:<52}{:>18}{:>18}\n", "", "Seawall", "Kafka RF 3");
    let mut row = |name: &str, seawall: (f64, bool), kafka: (f64, bool)| {
        let cell = |(value, is_measured): (f64, bool)| match value {
            0.0 => "-".to_owned(),
            value => format!("{value:.2} {}", if is_measured { "measured" } else { "computed" }),
        };
        text += &format!("{name:<52}{:>18}{:>18}\n", cell(seawall), cell(kafka));
    };
    let first = (seawall.disks.unwrap_or(seawall.stored), seawall.disks.is_some());
    let further = STORE_COPIES - 1.0;
    let network = |counted: &Counted, first: f64| {
        counted.clients + counted.replicas + counted.gateway + first + further * counted.stored
    };
    row("network: clients to brokers", (seawall.clients, true), (kafka.clients, true));
    row("network: between brokers", (seawall.replicas, true), (kafka.replicas, true));
    row("network: brokers to the store's gateway", (seawall.gateway, true), (kafka.gateway, true));
    row("network: to the first disk of the store", first, (kafka.stored, false));
    row("network: to the two further disks", (further * seawall.stored, false), (further * kafka.stored, false));
    row("network: in all", (network(seawall, first.0), false), (network(kafka, kafka.stored), false));
    row("stored: as the store is given it", (seawall.stored, true), (kafka.stored, true));
    row(
        "stored: in all, with three copies of the store",
        (STORE_COPIES * seawall.stored, false),
        (STORE_COPIES * kafka.stored, false),
    );
    text
}

/// Where the daemons of a bed write down who they are.
impl Bed {
    fn pid(&self, name: &str) -> Result<u32> {
        let path = self.folder.path().join(format!("{name}.pid"));
        Ok(std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?.trim().parse()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_that_nobody_could_count_are_computed_from_what_is_stored() {
        let seawall =
            Counted { clients: 1.0, replicas: 0.0, gateway: 1.0, disks: Some(1.1), stored: 1.0, loopback: 3.2 };
        let kafka = Counted { clients: 1.0, replicas: 2.0, gateway: 0.0, disks: None, stored: 3.0, loopback: 3.1 };
        let text = table(&seawall, &kafka);
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        let ends = |name: &str, seawall: &str, kafka: &str| {
            let line = line(name);
            assert!(line.ends_with(kafka) && line.contains(seawall), "{line}");
        };
        ends("network: to the first disk", "1.10 measured", "3.00 computed");
        ends("network: to the two further", "2.00 computed", "6.00 computed");
        ends("network: in all", "5.10 computed", "12.00 computed");
        ends("stored: in all", "3.00 computed", "9.00 computed");
        ends("network: between", "-", "2.00 measured");
    }

    #[test]
    fn a_listing_is_summed() {
        assert_eq!(sizes("<C><Key>a</Key><Size>10</Size></C><C><Size>5</Size></C>"), 15);
    }
}
