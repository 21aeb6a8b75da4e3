//! Three nodes of Apache Kafka on loopback, with shipped settings. Replicas have a listener of their own, so that their bytes
//! are not those of clients. One of the nodes is the controller too.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::clients::broker::Broker;
use crate::clients::install::Installed;
use crate::process;

pub struct Cluster {
    pub nodes: Vec<Broker>,
    pub client_ports: Vec<u16>,
    pub replica_ports: Vec<u16>,
}

pub const NODES: u16 = 3;

impl Cluster {
    pub fn start(installed: &Installed) -> Result<Self> {
        let controller = process::free_port()?;
        let mut cluster = Self { nodes: Vec::new(), client_ports: Vec::new(), replica_ports: Vec::new() };
        for id in 1..=NODES {
            let (port, replica) = (process::free_port()?, process::free_port()?);
            let config = |folder: &Path| config(id, port, replica, controller, folder);
            let format: &[&str] = if id == 1 { &["--standalone"] } else { &[] };
            let node = Broker::kafka_node(installed, port, format, config);
            cluster.nodes.push(node.with_context(|| format!("Kafka's node {id}"))?);
            cluster.client_ports.push(port);
            cluster.replica_ports.push(replica);
        }
        Ok(cluster)
    }

    /// What the files of this topic take on the disk, all nodes together.
    pub fn stored(&self, topic: &str) -> Result<u64> {
        let mut bytes = 0;
        for node in &self.nodes {
            let data = node.folder().context("no folder")?.join("data");
            for entry in fs::read_dir(data)?.flatten() {
                if entry.file_name().to_string_lossy().starts_with(&format!("{topic}-")) {
                    bytes += on_disk(&entry.path())?;
                }
            }
        }
        Ok(bytes)
    }
}

/// Of the files in a folder: blocks, as indexes are made long and sparse.
fn on_disk(folder: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        bytes += entry?.metadata()?.blocks() * 512;
    }
    Ok(bytes)
}

fn config(id: u16, port: u16, replica: u16, controller: u16, folder: &Path) -> String {
    let (roles, controls) = match id {
        1 => ("broker,controller", format!(",CONTROLLER://127.0.0.1:{controller}")),
        _ => ("broker", String::new()),
    };
    let own = format!("PLAINTEXT://127.0.0.1:{port},REPLICA://127.0.0.1:{replica}");
    format!(
        "process.roles={roles}\n\
         node.id={id}\n\
         controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n\
         listeners={own}{controls}\n\
         advertised.listeners={own}\n\
         controller.listener.names=CONTROLLER\n\
         inter.broker.listener.name=REPLICA\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,REPLICA:PLAINTEXT\n\
         log.dirs={}/data\n",
        folder.display()
    )
}
