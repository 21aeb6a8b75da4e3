//! What the binary prints when it is ready: where it listens, where data lies, and what an ack promises.

use crate::node::Node;

pub fn print(node: &Node) {
    let config = &node.broker.config;
    println!("seawall {} is ready", env!("CARGO_PKG_VERSION"));
    println!(
        "  kafka       {} (clients are told {}:{})",
        node.kafka_address, node.broker.endpoint.host, node.broker.endpoint.port
    );
    println!("  admin       http://{}/ (metrics, healthz, readyz, state)", node.admin_address);
    println!("  cluster     {}, node {}", node.broker.cluster_text(), config.node.id);
    println!("  metadata    {}", config.metadata_dir().display());
}
