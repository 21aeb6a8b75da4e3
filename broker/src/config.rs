//! The configuration: one TOML file, every key typed and documented in `docs/broker.example.toml`, which spells out
//! the defaults. Unknown keys are refused with the nearest valid name.

use std::{
    net::ToSocketAddrs,
    path::{Path, PathBuf},
};

use seawall_backends::{BackendConfig, BackendKind};
use serde::{Deserialize, Serialize};

use crate::{
    broker_settings::KafkaSettings,
    config_def::nearest_name,
    group_configs,
    units::{ByteSize, Span},
};

/// The example file, whose every value is the default.
pub const EXAMPLE_TOML: &str = include_str!("../../docs/broker.example.toml");

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub node: NodeConfig,
    pub listeners: ListenersConfig,
    /// What an object store needs to be found and entered.
    pub backend: BackendConfig,
    /// None named means one `file` WAL of the default size in the data folder. With several, each partition has one of them. A
    /// single one of kind `none` means that there is no WAL.
    pub wal: Vec<WalConfig>,
    pub passport: PassportConfig,
    pub produce: ProduceConfig,
    pub upload: UploadConfig,
    pub objects: ObjectsConfig,
    pub compaction: CompactionConfig,
    pub backup: BackupConfig,
    pub cache: CacheConfig,
    pub limits: LimitsConfig,
    /// Broker configs under their Kafka names.
    pub kafka: KafkaSettings,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// Kafka's node id, 0 or above; fixed for the life of the data folder.
    pub id: i32,
    pub roles: Vec<Role>,
    /// Holds the metadata log, the embedded WAL and the meta file of the node.
    pub data_dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Broker,
    Controller,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenersConfig {
    /// `HOST:PORT` to listen on for Kafka clients; port 0 takes a free one.
    pub kafka: String,
    /// `HOST:PORT` that clients are told to connect to; the listening address if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertised: Option<String>,
    /// `HOST:PORT` of metrics, health and state; it has no authentication, so keep it on loopback.
    pub admin: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalConfig {
    pub kind: WalKind,
    /// The file of a `file` WAL; `wal/wal.N` in the data folder if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The block device of a `device` WAL, by its name under /dev/disk/by-id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<PathBuf>,
    /// The two block devices of a `mirror` WAL: every ack waits for both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<PathBuf>>,
    /// Size of the file, or how much of the device is used (all of it if not set).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteSize>,
    /// Percent of the ring from which uploads hurry and producers are throttled, the more the fuller it is.
    #[serde(default = "default_soft_limit")]
    pub soft_limit: u8,
    /// Writes that take longer are counted.
    #[serde(default = "default_spike_threshold")]
    pub spike_threshold: Span,
    /// A write that takes longer is reported while it hangs.
    #[serde(default = "default_stuck_after")]
    pub stuck_after: Span,
    /// A device of a `mirror` that does not answer for longer is dropped like one that failed, while the other one answers. Acks
    /// wait for it if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck_drop_after: Option<Span>,
}

fn default_soft_limit() -> u8 {
    75
}

fn default_spike_threshold() -> Span {
    Span::millis(100)
}

fn default_stuck_after() -> Span {
    Span::seconds(5)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WalKind {
    File,
    Device,
    Mirror,
    None,
}

/// Where the results of `seawall-qualify device` lie, and what they mean to this broker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PassportConfig {
    /// The folder of signed passports, one `*.json` for each device; none are looked for if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// PEM with the public key of whoever qualifies devices at this site.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key_file: Option<PathBuf>,
    /// Whether a WAL device without a valid passport is refused, at a start and as a replacement; otherwise it is a warning.
    pub required: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProduceConfig {
    /// How closely batches are looked at before they are appended.
    pub batch_validation: BatchValidation,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchValidation {
    /// Checksum and header; records only where their topic needs it (compaction, other codec).
    #[default]
    Header,
    /// Every record of every batch.
    Strict,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UploadConfig {
    /// Data waiting in the WAL beyond which it is uploaded. Larger objects cost fewer requests, and more memory.
    pub bytes: ByteSize,
    /// How long data waits in the WAL before it is uploaded.
    pub interval: Span,
    /// Contiguous data of one partition in a cut from which it gets an object of its own.
    pub stream_object_bytes: ByteSize,
    /// How often partitions whose acks wait for the object store (`seawall.ack = backend`) are uploaded. Shorter makes faster acks
    /// of more, smaller objects.
    pub ack_interval: Span,
    /// Bytes of them beyond which an upload does not wait for that.
    pub ack_bytes: ByteSize,
    /// Uploads that may be under way at a time; of those that acks wait for, four more.
    pub in_flight: usize,
    /// How long a stop waits for the last upload; 4 minutes at least if a WAL has failed. What is not uploaded stays in the WAL.
    pub shutdown_wait: Span,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectsConfig {
    /// How long an object that nothing refers to any more stays in the store, in metadata time. Longer than any read or put takes.
    pub delete_grace: Span,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompactionConfig {
    /// As many objects are rewritten together. More make larger ranges of fewer objects, later.
    pub objects_min: usize,
    /// About the largest object that is made. One is held in memory.
    pub object_bytes: ByteSize,
    /// Bytes a second that are read and written for it, and copied within the store.
    pub rate: ByteSize,
    /// About the largest object that stored ones of a partition are joined to where the store can copy; 0 joins none.
    pub merge_bytes: ByteSize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupConfig {
    /// Without backups a lost metadata folder is a lost cluster.
    pub enabled: bool,
    /// How often the metadata log is written, if there is any: what a restore may not know of.
    pub interval: Span,
    /// How often a whole snapshot is written, if anything has changed.
    pub snapshot_interval: Span,
    /// Whole snapshots that are kept. Objects that they name stay in the store.
    pub snapshots_kept: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Recently appended batches, read by consumers at the tail and by uploads.
    pub log_bytes: ByteSize,
    /// Blocks of objects, read by consumers further back.
    pub block_bytes: ByteSize,
    /// Indexes of objects.
    pub index_bytes: ByteSize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Produce requests of one connection that may wait for durability at a time; beyond it nothing is read.
    pub pending_requests_per_connection: usize,
    /// Bytes of requests of one connection that may be pending at a time; beyond it nothing is read. One request is always allowed.
    pub pending_bytes_per_connection: ByteSize,
    /// Bytes of fetch responses under way, over all connections; beyond it fetches wait.
    pub fetch_response_bytes: ByteSize,
    /// Bytes of all other responses under way, over all connections; beyond it large ones wait.
    pub answer_bytes: ByteSize,
    /// How long a client may take no byte of its response before the connection is closed.
    pub write_stall: Span,
    /// Memory of group metadata and offsets.
    pub group_bytes: ByteSize,
    /// Bytes of reads of consumers that are behind, under way from the object store; beyond it only they wait.
    pub catch_up_bytes: ByteSize,
    /// Bytes a second for consumers that are behind; without bound if not set. Within `store_read_rate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catch_up_rate: Option<ByteSize>,
    /// Bytes a second to the object store; without bound if not set. Less than producers write fills the WAL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_upload_rate: Option<ByteSize>,
    /// Bytes a second from the object store; without bound if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_read_rate: Option<ByteSize>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self { id: 1, roles: vec![Role::Broker, Role::Controller], data_dir: PathBuf::from("./seawall-data") }
    }
}

impl Default for ListenersConfig {
    fn default() -> Self {
        Self { kafka: "127.0.0.1:9092".into(), advertised: None, admin: "127.0.0.1:9644".into() }
    }
}

impl Default for UploadConfig {
    fn default() -> Self {
        Self {
            bytes: ByteSize::mib(64),
            interval: Span::seconds(10),
            stream_object_bytes: ByteSize::mib(16),
            ack_interval: Span::millis(250),
            ack_bytes: ByteSize::mib(8),
            in_flight: 2,
            shutdown_wait: Span::seconds(10),
        }
    }
}

impl Default for ObjectsConfig {
    fn default() -> Self {
        Self { delete_grace: Span::seconds(600) }
    }
}

impl Default for CompactionConfig {
    fn default() -> Self {
        Self {
            objects_min: 32,
            object_bytes: ByteSize::mib(64),
            rate: ByteSize::mib(64),
            merge_bytes: ByteSize::gib(1),
        }
    }
}

impl Default for BackupConfig {
    fn default() -> Self {
        Self { enabled: true, interval: Span::seconds(5), snapshot_interval: Span::seconds(600), snapshots_kept: 2 }
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { log_bytes: ByteSize::mib(160), block_bytes: ByteSize::mib(64), index_bytes: ByteSize::mib(32) }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            pending_requests_per_connection: 32,
            pending_bytes_per_connection: ByteSize::mib(32),
            fetch_response_bytes: ByteSize::mib(256),
            answer_bytes: ByteSize::mib(64),
            write_stall: Span::seconds(60),
            group_bytes: ByteSize::mib(128),
            catch_up_bytes: ByteSize::mib(64),
            catch_up_rate: None,
            store_upload_rate: None,
            store_read_rate: None,
        }
    }
}

/// Size of a `file` WAL that names none.
pub const DEFAULT_FILE_WAL_BYTES: ByteSize = ByteSize::mib(512);

/// Less deletes objects that a consumer is reading, and lets a put that is late outlive its deletion.
const OBJECT_GRACE_MIN: Span = Span::seconds(1);

/// The least that the log cache may be where it takes the place of a WAL.
const CACHE_WITHOUT_WAL_MIN: ByteSize = ByteSize::mib(16);

/// The least that a WAL may be: it holds a few frames of the largest record.
const MIN_WAL_BYTES: ByteSize = ByteSize::mib(16);

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {error}")]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{0}")]
    Invalid(String),
}

impl Config {
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
        Self::parse(&text).map_err(|error| match error {
            ConfigError::Invalid(why) => ConfigError::Invalid(format!("{}: {why}", path.display())),
            other => other,
        })
    }

    /// Reads and validates.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Invalid(explain(&error, text)))?;
        config.validate()?;
        Ok(config)
    }

    /// Checks what no single key can: ranges, and keys against each other.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let fail = |why: String| Err(ConfigError::Invalid(why));
        if self.node.id < 0 {
            return fail(format!("node.id = {} must be 0 or above", self.node.id));
        }
        for role in [Role::Broker, Role::Controller] {
            if !self.node.roles.contains(&role) {
                return fail("node.roles must be [\"broker\", \"controller\"]: nodes of one role come later".into());
            }
        }
        for (key, address) in [
            ("listeners.kafka", Some(&self.listeners.kafka)),
            ("listeners.admin", Some(&self.listeners.admin)),
            ("listeners.advertised", self.listeners.advertised.as_ref()),
        ] {
            let Some(address) = address else { continue };
            if split_host_port(address).is_none() {
                return fail(format!("{key} = \"{address}\" is not HOST:PORT"));
            }
        }
        if self.listeners.advertised.is_none() && is_wildcard(&self.listeners.kafka) {
            return fail(format!(
                "listeners.kafka = \"{}\" listens on every address, so clients need listeners.advertised = \"HOST:PORT\"",
                self.listeners.kafka
            ));
        }
        self.store().validate().map_err(|error| ConfigError::Invalid(error.to_string()))?;
        for wal in &self.wal {
            self.validate_wal(wal)?;
        }
        let wals = self.wals();
        let paths: Vec<&Path> = wals.iter().flat_map(WalConfig::paths).collect();
        if let Some(twice) = paths.iter().enumerate().find_map(|(n, path)| paths[..n].contains(path).then_some(path)) {
            return fail(format!("two [[wal]] lie at {}", twice.display()));
        }
        self.validate_passport(&wals)?;
        for (key, size) in [
            ("upload.bytes", self.upload.bytes),
            ("upload.stream_object_bytes", self.upload.stream_object_bytes),
            ("compaction.object_bytes", self.compaction.object_bytes),
            ("compaction.rate", self.compaction.rate),
            ("cache.log_bytes", self.cache.log_bytes),
            ("cache.block_bytes", self.cache.block_bytes),
            ("cache.index_bytes", self.cache.index_bytes),
            ("limits.fetch_response_bytes", self.limits.fetch_response_bytes),
            ("limits.answer_bytes", self.limits.answer_bytes),
            ("limits.pending_bytes_per_connection", self.limits.pending_bytes_per_connection),
            ("limits.group_bytes", self.limits.group_bytes),
            ("limits.catch_up_bytes", self.limits.catch_up_bytes),
            ("limits.catch_up_rate", self.limits.catch_up_rate.unwrap_or(ByteSize::mib(1))),
            ("limits.store_upload_rate", self.limits.store_upload_rate.unwrap_or(ByteSize::mib(1))),
            ("limits.store_read_rate", self.limits.store_read_rate.unwrap_or(ByteSize::mib(1))),
        ] {
            if size < ByteSize::mib(1) {
                return fail(format!("{key} = \"{size}\" must be 1MiB or more"));
            }
        }
        if self.upload.in_flight == 0 || self.limits.pending_requests_per_connection == 0 {
            return fail("upload.in_flight and limits.pending_requests_per_connection must be 1 or more".into());
        }
        if self.objects.delete_grace < OBJECT_GRACE_MIN {
            return fail(format!(
                "objects.delete_grace = \"{}\" must be {OBJECT_GRACE_MIN} or more: a read or a put that began before it must have ended",
                self.objects.delete_grace
            ));
        }
        if self.compaction.objects_min < 2 {
            return fail("compaction.objects_min must be 2 or more".into());
        }
        if self.upload.ack_bytes < ByteSize::kib(64) {
            return fail("upload.ack_bytes must be 64KiB or more".into());
        }
        if self.upload.ack_interval.as_millis() == 0 {
            return fail("upload.ack_interval must be 1ms or more".into());
        }
        if self.upload.interval.as_millis() == 0 || self.limits.write_stall.as_millis() == 0 {
            return fail("upload.interval and limits.write_stall must be 1ms or more".into());
        }
        if self.backup.interval.as_millis() == 0 || self.backup.snapshot_interval < self.backup.interval {
            return fail("backup.interval must be 1ms or more, and backup.snapshot_interval no less".into());
        }
        if !(2..=100).contains(&self.backup.snapshots_kept) {
            return fail("backup.snapshots_kept must be from 2 to 100: one may be damaged".into());
        }
        let (frame, budget) =
            (self.kafka.size("socket.request.max.bytes"), self.kafka.size("queued.max.request.bytes"));
        if budget < frame.saturating_add(frame / 4) {
            return fail(format!(
                "queued.max.request.bytes = {budget} must be 1.25 times socket.request.max.bytes = {frame} or more"
            ));
        }
        group_configs::validate_broker(&self.kafka).map_err(ConfigError::Invalid)
    }

    fn validate_passport(&self, wals: &[WalConfig]) -> Result<(), ConfigError> {
        let PassportConfig { dir, public_key_file, required } = &self.passport;
        let fail = |why: &str| Err(ConfigError::Invalid(why.to_owned()));
        if dir.is_some() != public_key_file.is_some() {
            return fail(
                "passport.dir and passport.public_key_file are set together: a passport that nobody checks shows nothing",
            );
        }
        if !required {
            return Ok(());
        }
        if dir.is_none() {
            return fail("passport.required needs passport.dir and passport.public_key_file");
        }
        match wals.iter().find(|wal| wal.kind == WalKind::File) {
            Some(_) => fail(
                "passport.required goes with WALs of kind \"device\" or \"mirror\": a file has no passport. Name a device, or set passport.required = false",
            ),
            None => Ok(()),
        }
    }

    fn validate_wal(&self, wal: &WalConfig) -> Result<(), ConfigError> {
        let fail = |why: &str| Err(ConfigError::Invalid(why.to_owned()));
        match wal.kind {
            WalKind::File if wal.device.is_some() || wal.devices.is_some() => {
                return fail("a [[wal]] of kind \"file\" has `path`, not `device` or `devices`");
            }
            WalKind::Device if wal.device.is_none() || wal.path.is_some() || wal.devices.is_some() => {
                return fail("a [[wal]] of kind \"device\" has `device`, and neither `path` nor `devices`");
            }
            WalKind::Mirror if wal.path.is_some() || wal.device.is_some() => {
                return fail("a [[wal]] of kind \"mirror\" has `devices`, and neither `path` nor `device`");
            }
            WalKind::Mirror if wal.devices.as_ref().map(Vec::len) != Some(2) => {
                return fail("a [[wal]] of kind \"mirror\" has `devices`, two of them");
            }
            WalKind::None if *wal != WalConfig::new(WalKind::None) || self.wal.len() > 1 => {
                return fail("a [[wal]] of kind \"none\" stands alone and has no other key: there is no WAL then");
            }
            WalKind::None if self.cache.log_bytes < CACHE_WITHOUT_WAL_MIN => {
                return fail(&format!(
                    "cache.log_bytes = \"{}\" must be {CACHE_WITHOUT_WAL_MIN} or more without a WAL: it holds what is not uploaded yet",
                    self.cache.log_bytes
                ));
            }
            WalKind::None => {}
            WalKind::File | WalKind::Device | WalKind::Mirror => {}
        }
        if !(10..=90).contains(&wal.soft_limit) {
            return fail(&format!("wal.soft_limit = {} must be from 10 to 90 percent", wal.soft_limit));
        }
        if wal.spike_threshold.as_millis() == 0 || wal.stuck_after.as_millis() == 0 {
            return fail("wal.spike_threshold and wal.stuck_after must be 1ms or more");
        }
        match wal.stuck_drop_after {
            Some(_) if wal.kind != WalKind::Mirror => {
                return fail("wal.stuck_drop_after is for kind \"mirror\": another one has no device to do without");
            }
            Some(after) if after.as_millis() < wal.stuck_after.as_millis() => {
                return fail("wal.stuck_drop_after must be wal.stuck_after or more");
            }
            _ => {}
        }
        match wal.size {
            Some(size) if size < MIN_WAL_BYTES => {
                Err(ConfigError::Invalid(format!("wal.size = \"{size}\" must be {MIN_WAL_BYTES} or more")))
            }
            _ => Ok(()),
        }
    }

    /// The file's text, as `config check` shows it.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_else(|error| panic!("a configuration can be written as TOML: {error}"))
    }

    /// The object store, with the folder of `fs` filled in.
    pub fn store(&self) -> BackendConfig {
        let mut store = self.backend.clone();
        if store.kind == BackendKind::Fs {
            store.path.get_or_insert_with(|| self.node.data_dir.join("objects"));
        }
        store
    }

    pub fn metadata_dir(&self) -> PathBuf {
        self.node.data_dir.join("metadata")
    }

    /// The WALs with their defaults filled in; empty for kind `none`.
    pub fn wals(&self) -> Vec<WalConfig> {
        let one = WalConfig::new(WalKind::File);
        let named = if self.wal.is_empty() { vec![one] } else { self.wal.clone() };
        let fill = |(n, wal): (usize, WalConfig)| match wal.kind {
            WalKind::File => WalConfig {
                path: wal.path.or_else(|| Some(self.node.data_dir.join("wal").join(format!("wal.{n}")))),
                size: wal.size.or(Some(DEFAULT_FILE_WAL_BYTES)),
                ..wal
            },
            _ => wal,
        };
        let named = named.into_iter().filter(|wal| wal.kind != WalKind::None);
        named.enumerate().map(fill).collect()
    }
}

impl WalConfig {
    pub fn new(kind: WalKind) -> Self {
        Self {
            kind,
            path: None,
            device: None,
            devices: None,
            size: None,
            soft_limit: default_soft_limit(),
            spike_threshold: default_spike_threshold(),
            stuck_after: default_stuck_after(),
            stuck_drop_after: None,
        }
    }

    /// The file or devices that it lies on.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let one = self.path.iter().chain(&self.device);
        one.chain(self.devices.iter().flatten()).map(PathBuf::as_path)
    }
}

/// Splits `HOST:PORT`, where an IPv6 host stands in brackets.
pub fn split_host_port(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() || host.contains(char::is_whitespace) {
        return None;
    }
    Some((host.to_owned(), port.parse().ok()?))
}

fn is_wildcard(address: &str) -> bool {
    split_host_port(address)
        .is_some_and(|(host, _)| host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified()) || host == "*")
}

/// Resolves a configured `HOST:PORT` to listen on.
pub fn resolve(address: &str) -> std::io::Result<std::net::SocketAddr> {
    let (host, port) = split_host_port(address)
        .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidInput, format!("{address} is not HOST:PORT")))?;
    (host.as_str(), port)
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| std::io::Error::other(format!("{host} has no address")))
}

/// One sentence with the line number; for an unknown key, the nearest valid one.
fn explain(error: &toml::de::Error, text: &str) -> String {
    let message = error.message();
    let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let at = line.map(|n| format!("line {n}: ")).unwrap_or_default();
    let mut quoted = message.split('`').skip(1).step_by(2);
    match (message.starts_with("unknown field"), quoted.next()) {
        (true, Some(unknown)) => {
            let valid: Vec<&str> = quoted.collect();
            let hint = nearest_name(unknown, valid.iter().copied())
                .map(|near| format!("; did you mean `{near}`?"))
                .unwrap_or_else(|| format!("; valid keys here: {}", valid.join(", ")));
            format!("{at}unknown key `{unknown}`{hint}")
        }
        (false, Some(unknown)) if message.starts_with("unknown variant") => {
            let valid: Vec<&str> = quoted.collect();
            let hint = nearest_name(unknown, valid.iter().copied())
                .map(|near| format!("; did you mean `{near}`?"))
                .unwrap_or_else(|| format!("; valid here: {}", valid.join(", ")));
            format!("{at}unknown value `{unknown}`{hint}")
        }
        _ => format!("{at}{}", message.lines().collect::<Vec<_>>().join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config_def::Effect, kafka_configs::BROKER_CONFIGS};

    fn error_of(text: &str) -> String {
        Config::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_example_file_spells_out_the_defaults() {
        let mut example = Config::parse(EXAMPLE_TOML).unwrap();
        let wals = Config::default().wals();
        assert_eq!(example.wals(), wals);
        example.wal.clear();
        for config in BROKER_CONFIGS {
            if let Some(explicit) = example.kafka.explicit(config.name) {
                assert_eq!(Some(explicit), config.default, "{}", config.name);
            }
        }
        example.kafka = KafkaSettings::default();
        assert_eq!(example, Config::default());
    }

    #[test]
    fn the_example_file_names_every_kafka_config_that_has_an_effect() {
        for config in BROKER_CONFIGS.iter().filter(|config| config.effect == Effect::Effective) {
            let named = EXAMPLE_TOML.lines().any(|line| {
                let line = line.trim_start_matches("# ").replace('"', "");
                line.starts_with(&format!("{} =", config.name))
            });
            assert!(named, "docs/broker.example.toml lacks {}", config.name);
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_nearest_name() {
        assert_eq!(
            error_of("[node]\nid = 1\ndata_dri = \"x\""),
            "line 3: unknown key `data_dri`; did you mean `data_dir`?"
        );
        assert!(error_of("[listener]\nkafka = \"x\"").contains("did you mean `listeners`?"));
        assert!(error_of("[kafka]\nnum.partition = 1").contains("did you mean `num.partitions`?"));
        assert!(error_of("[upload]\ninterval = \"ten\"").contains("is not a duration"));
    }

    #[test]
    fn keys_are_checked_against_each_other() {
        assert!(error_of("[listeners]\nkafka = \"0.0.0.0:9092\"").contains("listeners.advertised"));
        assert!(error_of("[listeners]\nkafka = \"9092\"").contains("is not HOST:PORT"));
        assert!(error_of("[[wal]]\nkind = \"device\"").contains("has `device`"));
        let two = "[[wal]]\nkind = \"file\"\npath = \"/w\"\n";
        assert!(error_of(&format!("{two}{two}")).contains("two [[wal]] lie at /w"));
        assert!(error_of("[[wal]]\nkind = \"none\"\nsize = \"32MiB\"").contains("stands alone"));
        assert!(error_of("[[wal]]\nkind = \"none\"\n[[wal]]\nkind = \"file\"").contains("stands alone"));
        assert!(error_of("[[wal]]\nkind = \"none\"\n[cache]\nlog_bytes = \"8MiB\"").contains("16MiB or more"));
        assert!(error_of("[[wal]]\nkind = \"file\"\nsoft_limit = 99").contains("from 10 to 90"));
        assert!(error_of("[[wal]]\nkind = \"mirror\"\ndevices = [\"/a\"]").contains("two of them"));
        assert!(error_of("[[wal]]\nkind = \"file\"\nstuck_drop_after = \"9s\"").contains("is for kind \"mirror\""));
        let impatient = "[[wal]]\nkind = \"mirror\"\ndevices = [\"/a\", \"/b\"]\nstuck_drop_after = \"4s\"";
        assert!(error_of(impatient).contains("must be wal.stuck_after or more"));
        assert!(error_of("[[wal]]\nkind = \"mirror\"\ndevice = \"/a\"").contains("neither"));
        assert!(error_of("[[wal]]\nkind = \"mirror\"\ndevices = [\"/a\", \"/a\"]").contains("two [[wal]] lie at /a"));
        assert!(error_of("[passport]\ndir = \"/p\"").contains("are set together"));
        assert!(error_of("[passport]\nrequired = true").contains("needs passport.dir"));
        let passport = "[passport]\ndir = \"/p\"\npublic_key_file = \"/k\"\nrequired = true\n";
        assert!(error_of(passport).contains("a file has no passport"));
        let device = format!("{passport}[[wal]]\nkind = \"device\"\ndevice = \"/dev/x\"\n");
        assert!(Config::parse(&device).unwrap().passport.required);
        assert!(Config::parse(&format!("{passport}[[wal]]\nkind = \"none\"\n")).is_ok(), "there is no device to doubt");
        assert!(error_of("[kafka]\nqueued.max.request.bytes = 2000000").contains("1.25 times"));
        assert!(error_of("[kafka]\ngroup.consumer.session.timeout.ms = 6000").contains("min.session.timeout.ms"));
        assert!(
            error_of("[backend]\nkind = \"minoi\"").contains("line 2: unknown value `minoi`; did you mean `minio`?")
        );
        assert!(error_of("[backend]\nkind = \"s3\"").contains("needs backend.bucket"));
        assert!(error_of("[backend]\nbuckett = \"b\"").contains("unknown key `buckett`; did you mean `bucket`?"));
        assert!(error_of("[backend]\nbucket = \"b\"").contains("backend.bucket has no meaning"));
        assert!(error_of("[limits]\nstore_read_rate = \"1KiB\"").contains("limits.store_read_rate"));
        assert!(error_of("[backup]\nsnapshots_kept = 1").contains("from 2 to 100"));
        assert!(error_of("[backup]\nsnapshot_interval = \"1s\"").contains("backup.snapshot_interval"));
        assert!(error_of("[objects]\ndelete_grace = 0").contains("must be 1s or more"));
        assert!(error_of("[node]\nid = -1").contains("0 or above"));
    }

    #[test]
    fn several_wals_have_files_of_their_own_unless_they_name_one() {
        let device = "[[wal]]\nkind = \"device\"\ndevice = \"/dev/x\"\n";
        let file = "[[wal]]\nkind = \"file\"\n";
        let wals = Config::parse(&format!("[node]\ndata_dir = \"/d\"\n{file}{file}{device}")).unwrap().wals();
        let paths: Vec<&Path> = wals.iter().flat_map(WalConfig::paths).collect();
        assert_eq!(paths, ["/d/wal/wal.0", "/d/wal/wal.1", "/dev/x"].map(Path::new));
    }

    #[test]
    fn without_a_wal_there_are_none() {
        assert_eq!(Config::parse("[[wal]]\nkind = \"none\"").unwrap().wals(), []);
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let text = "[kafka]\nnum.partitions = 3\n[[wal]]\nkind = \"file\"\nsize = \"64MiB\"\n";
        let config = Config::parse(text).unwrap();
        assert_eq!(Config::parse(&config.to_toml()).unwrap(), config);
    }

    #[test]
    fn hosts_and_ports_split() {
        assert_eq!(split_host_port("[::1]:9092"), Some(("::1".into(), 9092)));
        assert_eq!(split_host_port("a.b:1"), Some(("a.b".into(), 1)));
        assert_eq!(split_host_port("a.b"), None);
        assert_eq!(split_host_port(":1"), None);
    }
}
