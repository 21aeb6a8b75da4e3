//! What the binary prints when it is ready: where it listens, where data lies, and what an ack promises.

use crate::{node::Node, units::ByteSize};

pub fn print(node: &Node) {
    let broker = &node.broker;
    let config = &broker.config;
    println!("seawall {} is ready", env!("CARGO_PKG_VERSION"));
    println!(
        "  kafka       {}  (clients are told {}:{})",
        node.kafka_address, broker.endpoint.host, broker.endpoint.port
    );
    println!("  admin       http://{}/  (metrics, healthz, readyz, state)", node.admin_address);
    println!("  cluster     {}, node {}", broker.cluster_text(), config.node.id);
    println!("  metadata    {}", config.metadata_dir().display());
    println!("  objects     {} in {}", broker.store.backend.name(), config.store().place());
    for (wal, configured) in broker.partitions.wals().iter().zip(config.wals()) {
        let paths: Vec<String> = configured.paths().map(|path| path.display().to_string()).collect();
        let size = ByteSize(wal.handle().usage().ring_bytes);
        println!("  wal         {} of {size}", paths.join(" and "));
        println!("  durability  {}", wal.handle().durability());
    }
    if broker.partitions.wals().is_empty() {
        println!("  wal         none: what is not uploaded yet is in memory, and not acknowledged");
        println!("  acks        an acknowledged record is in the object store before the ack is sent");
    } else {
        println!(
            "  acks        an acknowledged record is durable on this machine's WAL device before the ack is sent, and in the"
        );
        println!("              object store within about {} more", config.upload.interval);
    }
    // Scripts read the banner up to here.
    println!();
}
