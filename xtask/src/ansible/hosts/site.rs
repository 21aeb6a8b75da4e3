//! Bare hosts, a real Ceph RGW that they reach, an inventory, and Ansible that plays the collection on them.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::play::Play;
use super::recap::Played;
use super::watch::{self, Away};
use crate::ansible::collection::Collection;
use crate::beds::{self, Bed, CephSize};
use crate::lab::{Disk, Kind, Lab, Relay};

pub const SHORT: Duration = Duration::from_secs(60);
const HOSTS: u8 = 3;
/// The least that a WAL takes.
const WAL_BYTES: u64 = 256 << 20;
const STORE: CephSize = CephSize { disk_bytes: 8 << 30, garbage_s: 5 };
/// What a container cannot do.
const LACKS: [&str; 4] = ["sysctl", "limits", "clock", "udev"];

pub struct Site {
    // Ends before the store does.
    pub lab: Lab,
    pub collection: Collection,
    /// h1 and so on, then v1, each with a disk `wal`.
    pub hosts: Vec<String>,
    /// The inventory, which stories change.
    pub inventory: Value,
    pub folder: PathBuf,
    /// Of each playbook that has ended, with the place of each task, if anybody wants them.
    pub outputs: Option<RefCell<Vec<String>>>,
    bed: Bed,
}

impl Site {
    /// Containers.
    pub fn up(package: &Path) -> Result<Self> {
        let began = Instant::now();
        let lab = Lab::up("ansible", HOSTS)?;
        Self::on(lab, package, began)
    }

    /// The container h1 and the virtual machine v1, which has a drive `spare` besides.
    pub fn up_with_machine(package: &Path) -> Result<Self> {
        let began = Instant::now();
        let mut lab = Lab::up("ansible-vm", 1)?;
        let machine = lab.add_machine(&[(disk("wal"), WAL_BYTES), (disk("spare"), WAL_BYTES)])?;
        let mut site = Self::on(lab, package, began)?;
        *site.host_variable(&machine, "host_lacks") = json!([]);
        site.outputs = Some(RefCell::default());
        Ok(site)
    }

    fn on(lab: Lab, package: &Path, began: Instant) -> Result<Self> {
        let hosts = lab.hosts();
        for host in hosts.iter().filter(|host| Kind::of(host) == Some(Kind::Container)) {
            lab.add_disk(host, &disk("wal"), WAL_BYTES)?;
        }
        println!("{} hosts are up after {:.1} s", hosts.len(), began.elapsed().as_secs_f64());
        let bed = beds::start_rgw(STORE)?;
        println!("{} {} is up after {:.1} s", bed.kind, bed.version, began.elapsed().as_secs_f64());
        let collection = Collection::new(&crate::root().join("ansible"))?;
        let folder = bed.folder.path().join("site");
        fs::create_dir_all(folder.join("secrets"))?;
        fs::copy(package, folder.join("seawall.deb")).context("the package")?;
        let mut site = Self { lab, collection, hosts, inventory: Value::Null, folder, outputs: None, bed };
        site.inventory = site.first_inventory()?;
        println!("Ansible and the inventory are there after {:.1} s", began.elapsed().as_secs_f64());
        Ok(site)
    }

    fn first_inventory(&self) -> Result<Value> {
        let (endpoint, ca) = self
            .bed
            .forms
            .iter()
            .filter_map(|form| form.starts.as_ref())
            .find(|(endpoint, _)| endpoint.starts_with("https"))
            .context("the gateway has no endpoint with TLS")?;
        let relay = Relay::start(&self.lab, endpoint.trim_start_matches("https://"))?;
        let keys = self.bed.keys.as_ref().context("the gateway has no keys")?;
        let secrets = self.folder.join("secrets");
        fs::write(secrets.join("access_key"), &keys.access)?;
        fs::write(secrets.join("secret_key"), &keys.secret)?;
        fs::copy(ca, secrets.join("store-ca.pem"))?;
        let mut hosts = Map::new();
        for (host, node) in self.hosts.iter().zip(1..) {
            let address = self.lab.address(host)?;
            let variables = json!({
                "ansible_host": address,
                "seawall_node_id": node,
                "seawall_admin": format!("{address}:9644"),
                "device_serials": [serial(host, "wal")],
            });
            hosts.insert(host.clone(), variables);
        }
        let mut variables = json!({
            "host_lacks": LACKS,
            "seawall_package": "{{ inventory_dir }}/seawall.deb",
            "seawall_backend": {
                "kind": "ceph-rgw",
                "endpoint": format!("https://{}", relay.address()),
                "tls_server_name": "localhost",
                "bucket": beds::BUCKET,
            },
            "seawall_access_key_src": "{{ inventory_dir }}/secrets/access_key",
            "seawall_secret_key_src": "{{ inventory_dir }}/secrets/secret_key",
            "seawall_tls_ca_src": "{{ inventory_dir }}/secrets/store-ca.pem",
        });
        for (name, value) in self.lab.ansible_variables() {
            variables[name] = json!(value);
        }
        Ok(json!({"seawall_brokers": {"hosts": hosts, "vars": variables}}))
    }

    /// A variable of all brokers.
    pub fn variable(&mut self, name: &str) -> &mut Value {
        &mut self.inventory["seawall_brokers"]["vars"][name]
    }

    pub fn host_variable(&mut self, host: &str, name: &str) -> &mut Value {
        &mut self.inventory["seawall_brokers"]["hosts"][host][name]
    }

    /// Runs a playbook of the collection to its end, and prints its recap.
    pub fn play(&self, name: &str, arguments: &[&str]) -> Result<Played> {
        self.play_of(&self.collection, &format!("seawall.cluster.{name}"), arguments)
    }

    /// Of another collection, or a playbook that is a file.
    pub fn play_of(&self, collection: &Collection, playbook: &str, arguments: &[&str]) -> Result<Played> {
        let played = self.begin_of(collection, playbook, arguments)?.finish()?;
        println!("{played}");
        if let Some(outputs) = &self.outputs {
            outputs.borrow_mut().push(played.output.clone());
        }
        Ok(played)
    }

    /// Returns while it runs.
    pub fn begin(&self, name: &str, arguments: &[&str]) -> Result<Play> {
        self.begin_of(&self.collection, &format!("seawall.cluster.{name}"), arguments)
    }

    fn begin_of(&self, collection: &Collection, playbook: &str, arguments: &[&str]) -> Result<Play> {
        let file = self.folder.join("hosts.yml");
        // JSON is YAML.
        fs::write(&file, serde_json::to_string_pretty(&self.inventory)?)?;
        let mut ansible: Command = self.lab.command(&collection.program("ansible-playbook").display().to_string());
        collection.prepare(&mut ansible);
        ansible
            .arg("-i")
            .arg(&file)
            .arg(playbook)
            .args(arguments)
            .env("ANSIBLE_FORKS", HOSTS.to_string())
            .env("ANSIBLE_PIPELINING", "1")
            // Ansible's own but for the compression, which costs more than this network.
            .env("ANSIBLE_SSH_ARGS", "-o ControlMaster=auto -o ControlPersist=60s")
            .env("ANSIBLE_NOCOLOR", "1")
            .env("ANSIBLE_VERBOSITY", if self.outputs.is_some() { "2" } else { "0" })
            .env("ANSIBLE_RETRY_FILES_ENABLED", "0")
            .current_dir(&self.folder);
        let file = playbook.rsplit_once('/').map_or(playbook, |(_, file)| file);
        let name = file.trim_start_matches("seawall.cluster.");
        let shown = [&[name], arguments].concat().join(" ");
        Play::start(ansible, shown)
    }

    /// Since a moment of `watch::now`, on all hosts.
    pub fn away_since(&self, since: Duration) -> Result<Vec<Away>> {
        watch::since(&self.lab, &self.hosts, since)
    }

    /// A play that may restart brokers: each that was away is printed, and never two were at a time.
    pub fn one_at_a_time<T>(&self, act: impl FnOnce(&Self) -> Result<T>) -> Result<(T, Vec<Away>)> {
        let began = watch::now();
        let done = act(self)?;
        let away = self.away_since(began)?;
        let listed: Vec<String> = away.iter().map(ToString::to_string).collect();
        println!("  away: {}", if listed.is_empty() { "none".to_owned() } else { listed.join(", ") });
        watch::never_two(&away)?;
        Ok((done, away))
    }

    /// What a shell script prints on each host.
    pub fn each(&self, script: &str) -> Result<Vec<String>> {
        self.hosts.iter().map(|host| self.lab.sh(host, script, SHORT)).collect()
    }

    /// Of the package on a host.
    pub fn version(&self, host: &str) -> Result<String> {
        let version = self.lab.sh(host, "dpkg-query --show --showformat '${Version}' seawall", SHORT)?;
        Ok(version.trim().to_owned())
    }

    pub fn versions(&self) -> Result<Vec<String>> {
        self.hosts.iter().map(|host| self.version(host)).collect()
    }

    /// One more disk of a container.
    pub fn add_disk(&self, host: &str, name: &str) -> Result<Disk> {
        self.lab.add_disk(host, &disk(name), WAL_BYTES)
    }
}

/// By which an inventory claims a disk of a host.
pub fn serial(host: &str, name: &str) -> String {
    let disk = disk(name);
    match Kind::of(host) {
        Some(Kind::Machine) => format!("{host}-{disk}"),
        _ => format!("loop-{host}-{disk}.img"),
    }
}

/// The file of a disk on its host.
pub fn by_id(host: &str, name: &str) -> String {
    match Kind::of(host) {
        Some(Kind::Machine) => format!("/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_{}", serial(host, name)),
        _ => format!("/dev/disk/by-id/lab-{host}-{}", disk(name)),
    }
}

/// The hosts of all labs see each other's disks in /sys, and a serial number that two have is refused.
fn disk(name: &str) -> String {
    format!("{name}{}", std::process::id())
}
