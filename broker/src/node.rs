//! Builds the parts of a node, starts them in order, and stops them in the opposite one.
//!
//! Start: data folder, metadata, backend (whose it is, whether it is fit), registration, WAL, recovery, uploads, and last the
//! listener; only then is the node ready. A stop takes no new requests, finishes those under way, uploads what it can within a bound, closes the
//! WAL clean, and stops metadata.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use seawall_metadata::{
    BootId, Command, MetadataConfig, MetadataHandle, NodeId, OpenError, ProposeError, Registration, Response, WalId,
    command::{Listener, supported_features},
};
use tokio::net::TcpListener;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    admin::{self, Admin},
    answer_memory::AnswerMemory,
    broker::{Broker, CLIENT_LISTENER, Endpoint},
    client_telemetry::Subscriptions,
    clock::Clock,
    config::{Config, resolve, split_host_port},
    config_values::TopicConfigs,
    control::{self, Control},
    data_dir::{DataDir, DataDirError},
    group::GroupConfig,
    group_coordinator::{GroupCoordinator, MetadataPlacement},
    handlers::fetch::Fetches,
    metrics::Metrics,
    object_storage::ObjectStorage,
    producer_ids::ProducerIds,
    quotas::{QuotaMetrics, Quotas},
    request_memory::RequestMemory,
    scrub::{Scrub, ScrubMetrics},
    server::{self, SocketBuffers},
    storage_engine::{self, StorageContext, StorageEngine, StorageStartError},
    storage_metrics,
    store::Store,
    store_probe::{Found, StoreProbe, StoreProbeError},
    task::{Task, Tasks},
    wal_opening::WalOwner,
    wal_passports::WalPassports,
    wal_registration,
};

/// How long a stop waits for requests under way.
const DRAIN: Duration = Duration::from_secs(10);

/// How long a stop waits for tasks that serve no client.
const STOP: Duration = Duration::from_secs(5);

/// Why a node did not start, or did not run on. Each kind has its exit code.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("cannot listen on {address}: {error}")]
    Listen { address: String, error: io::Error },
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Metadata(#[from] OpenError),
    #[error("metadata: {0}")]
    Propose(#[from] ProposeError),
    #[error(transparent)]
    Store(#[from] seawall_backends::OpenError),
    #[error(transparent)]
    StoreProbe(#[from] StoreProbeError),
    #[error("backend.prefix: {0}")]
    Prefix(#[from] seawall_backends::InvalidKey),
    #[error(transparent)]
    Storage(#[from] StorageStartError),
    /// A task that the broker cannot do without has ended.
    #[error("{0}")]
    Failed(String),
}

/// A running node.
pub struct Node {
    pub broker: Arc<Broker>,
    pub kafka_address: SocketAddr,
    pub admin_address: SocketAddr,
    admin: Admin,
    tasks: Tasks,
    _data_dir: DataDir,
}

impl Node {
    /// Starts everything; when it returns, the node serves clients.
    pub async fn start(config: Config) -> Result<Self, NodeError> {
        Self::start_over(config, None).await
    }

    /// As `start`; a test may bring the store with it.
    pub async fn start_over(config: Config, store: Option<Store>) -> Result<Self, NodeError> {
        let metrics = Metrics::new();
        let tasks = Tasks::new(metrics.clone());
        let started = tokio::select! {
            started = Self::start_parts(config, store, metrics, tasks.clone()) => started,
            // Recovery waits for a store that is away, which may turn out to be the wrong one.
            reason = tasks.failed() => Err(NodeError::Failed(reason)),
        };
        if started.is_err() {
            tasks.begin_stop();
            tasks.stopped(STOP).await;
        }
        started
    }

    async fn start_parts(
        mut config: Config,
        store: Option<Store>,
        metrics: Metrics,
        tasks: Tasks,
    ) -> Result<Self, NodeError> {
        // Ports first: a taken one is found before anything is written.
        let kafka = listen(&config.listeners.kafka, &config, SocketBuffers::of(&config.kafka))?;
        let admin_listener = listen(&config.listeners.admin, &config, SocketBuffers::default())?;
        let (kafka_address, admin_address) = (local(&kafka)?, local(&admin_listener)?);
        let data_dir = DataDir::open(&config.node.data_dir, config.node.id)?;
        let admin = Admin::new(metrics.clone());
        tasks.spawn(Task::AdminHttp, admin::serve(admin.clone(), admin_listener, tasks.stopping().clone()));

        let node = NodeId(config.node.id);
        let clock = Clock::system();
        let store = match store {
            Some(store) => store,
            None => Store::open(&config).await?,
        };
        let metadata = open_metadata(&config, &data_dir).await?;
        let has_objects = metadata.read(|state| state.objects().next().is_some());
        let folder = &config.node.data_dir;
        let mut probe = StoreProbe::new(&store, config.store(), clock.clone(), &data_dir, folder, has_objects);
        let passports = Arc::new(WalPassports::new(config.passport.clone(), clock.clone()));
        let (preparing, judging) = (config.clone(), passports.clone());
        let prepare = move || -> Result<_, StorageStartError> {
            let wals = wal_registration::prepare(&preparing)?;
            judging.judge_all(&wals)?;
            Ok(wals)
        };
        let (found, wals) = tokio::join!(probe.at_start(), blocking(prepare));
        match found {
            Ok(Found::Fit) => {}
            Ok(Found::Away) => tasks.spawn(Task::StoreProbe, probe.until_fit(tasks.clone())),
            Err(refused) => {
                metadata.shutdown().await;
                return Err(refused.into());
            }
        }
        let wals = wals?;
        let endpoint = advertised(&config, kafka_address);
        let registration = register(&metadata, node, &endpoint, wals.iter().map(|wal| wal.found.id).collect()).await?;
        show_fixed_configs(&mut config, kafka_address, &endpoint);
        if wals.is_empty() && config.kafka.explicit("seawall.ack").is_none() {
            // What is so anyway, for all to see.
            config.kafka.fix("seawall.ack", "backend".to_owned());
        }

        let request_memory = RequestMemory::new(
            config.kafka.size("queued.max.request.bytes"),
            config.kafka.size("socket.request.max.bytes"),
            metrics.network.request_buffer_bytes.clone(),
        );
        let topic_configs = TopicConfigs::new(config.kafka.clone(), node, metadata.clone());
        tasks.spawn(Task::TopicConfigs, topic_configs.clone().follow(tasks.stopping().clone()));
        let owner = WalOwner { cluster: data_dir.cluster, incarnation: data_dir.incarnation, registration };
        let storage = StorageContext {
            config: &config,
            wals: &wals,
            owner,
            metadata: metadata.clone(),
            clock: clock.clone(),
            topic_configs: topic_configs.clone(),
            tasks: tasks.clone(),
        };
        let objects = ObjectStorage::new(
            &config,
            store.backend.clone(),
            metadata.clone(),
            data_dir.cluster,
            data_dir.incarnation,
        )?;
        let engine = StorageEngine::open(&storage, &objects.producers()).await?;
        let partitions = engine.run(&storage).await;
        objects.start_watch(&tasks);
        let uploads = objects.start_uploads(&config, registration, partitions.clone(), &tasks);
        let (backup, window) = objects.start_backup(&config, clock.clone(), &tasks);
        let deletion = objects.start_deletion(&config, &partitions, window, &tasks);
        let log_cleaner = objects.start_log_cleaner(topic_configs.clone(), registration, partitions.clone(), &tasks);
        let compaction = objects.start_compaction(&config, &partitions, &log_cleaner, &tasks);
        let scrub = objects.scrub(&config, &partitions, metrics.register(ScrubMetrics::register));
        let fetches = Fetches::new(
            config.kafka.size("max.incremental.fetch.session.cache.slots"),
            config.limits.fetch_response_bytes.bytes(),
            config.kafka.size("fetch.max.bytes"),
        );
        let placement =
            MetadataPlacement::new(metadata.clone(), node, partitions.clone(), objects.reads.clone(), clock.clone());
        let groups =
            GroupCoordinator::new(GroupConfig::of(&config), clock.clone(), Arc::new(placement), metrics.groups.clone());
        let quota_metrics = metrics.register(QuotaMetrics::register);
        let quotas = Quotas::new(&config.kafka, metadata.clone(), clock.clone(), quota_metrics);
        tasks.spawn(Task::Quotas, quotas.clone().follow(tasks.stopping().clone()));
        let broker = Arc::new(Broker {
            partitions,
            passports,
            reads: objects.reads,
            uploads,
            backup,
            deletion,
            log_cleaner,
            compaction,
            fetches,
            store,
            cluster: data_dir.cluster,
            registration,
            endpoint,
            topic_configs,
            producer_ids: ProducerIds::new(metadata.clone(), registration),
            telemetry: Subscriptions::new(metadata.clone()),
            metadata,
            groups,
            request_memory,
            answers: AnswerMemory::new(config.limits.answer_bytes.bytes()),
            quotas,
            clock,
            metrics,
            tasks: tasks.clone(),
            config,
        });
        storage_metrics::register(&broker);
        start_control(&broker, scrub);
        admin.show(broker.clone());
        let (following, draining, stopping) =
            (broker.groups.clone(), tasks.draining().clone(), tasks.stopping().clone());
        tasks.spawn(Task::GroupCoordinator, async move { following.follow(draining, stopping).await });
        tasks.spawn(Task::Listener, server::accept(broker.clone(), kafka));
        admin.set_ready(true);
        info!(%kafka_address, %admin_address, node = broker.registration.node.0, "ready");
        Ok(Self { broker, kafka_address, admin_address, admin, tasks, _data_dir: data_dir })
    }

    /// Resolves when the node cannot go on.
    pub async fn failed(&self) -> NodeError {
        NodeError::Failed(self.tasks.failed().await)
    }

    /// Stops in order. What is not uploaded within the bound stays in the WAL.
    pub async fn stop(self) {
        self.admin.set_ready(false);
        self.tasks.drain(DRAIN).await;
        let a_wal_failed = self.broker.partitions.wals().iter().any(|wal| wal.has_failed());
        self.broker.uploads.finish(a_wal_failed).await;
        self.tasks.begin_stop();
        // Its completions are still taken: the task that does so ends with the WAL.
        storage_engine::close_wals(&self.broker.partitions).await;
        self.tasks.stopped(STOP).await;
        self.broker.metadata.clone().shutdown().await;
        info!("stopped");
    }
}

/// A broker without it serves clients all the same: the path may be too long for a socket.
fn start_control(broker: &Broker, scrub: Arc<Scrub>) {
    let (partitions, metadata) = (broker.partitions.clone(), broker.metadata.clone());
    let (registration, passports, replacing) = (broker.registration, broker.passports.clone(), Arc::default());
    let control = Control { partitions, metadata, registration, passports, scrub, replacing };
    match control::listen(&broker.config.node.data_dir) {
        Ok(listener) => broker.tasks.spawn(Task::Control, control::serve(control, listener, broker.tasks.clone())),
        Err(error) => {
            warn!(%error, "no control socket in the data folder: `seawall wal replace` and `seawall scrub` will not reach this broker")
        }
    }
}

/// Runs work that blocks, such as writing a large file.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn listen(address: &str, config: &Config, buffers: SocketBuffers) -> Result<TcpListener, NodeError> {
    let backlog = u32::try_from(config.kafka.long("socket.listen.backlog.size")).unwrap_or(1024);
    resolve(address)
        .and_then(|resolved| server::bind(resolved, backlog, buffers))
        .map_err(|error| NodeError::Listen { address: address.to_owned(), error })
}

fn local(listener: &TcpListener) -> Result<SocketAddr, NodeError> {
    listener.local_addr().map_err(|error| NodeError::Listen { address: "a listener".to_owned(), error })
}

/// What clients are told. A port 0 that was advertised or listened on becomes the real one.
fn advertised(config: &Config, listening: SocketAddr) -> Endpoint {
    let named = config.listeners.advertised.as_deref().unwrap_or(&config.listeners.kafka);
    let (host, port) = split_host_port(named).unwrap_or((listening.ip().to_string(), 0));
    Endpoint { host, port: if port == 0 { listening.port() } else { port } }
}

/// Lets DescribeConfigs show what Kafka's names stand for here, and says which names of the file stand for nothing.
fn show_fixed_configs(config: &mut Config, listening: SocketAddr, endpoint: &Endpoint) {
    let ignored: Vec<&str> = config.kafka.without_effect().collect();
    if !ignored.is_empty() {
        info!(configs = ?ignored, "configs of the file that are accepted and have no effect");
    }
    let data_dir = config.node.data_dir.display().to_string();
    for (name, value) in [
        ("node.id", config.node.id.to_string()),
        ("broker.id", config.node.id.to_string()),
        ("process.roles", "broker,controller".to_owned()),
        ("listeners", format!("{CLIENT_LISTENER}://{listening}")),
        ("advertised.listeners", format!("{CLIENT_LISTENER}://{}:{}", endpoint.host, endpoint.port)),
        ("log.dir", data_dir.clone()),
        ("log.dirs", data_dir),
    ] {
        config.kafka.fix(name, value);
    }
}

pub(crate) async fn open_metadata(config: &Config, data_dir: &DataDir) -> Result<MetadataHandle, NodeError> {
    let mut metadata = MetadataConfig::new(config.metadata_dir(), NodeId(config.node.id));
    metadata.cluster = Some((data_dir.cluster, data_dir.incarnation));
    Ok(MetadataHandle::open(metadata).await?)
}

pub(crate) async fn register(
    metadata: &MetadataHandle,
    node: NodeId,
    endpoint: &Endpoint,
    wals: Vec<WalId>,
) -> Result<Registration, NodeError> {
    let listener = Listener { name: CLIENT_LISTENER.to_owned(), host: endpoint.host.clone(), port: endpoint.port };
    let command = Command::RegisterBroker {
        node,
        boot: BootId(Uuid::new_v4()),
        listeners: vec![listener],
        rack: None,
        wals,
        features: supported_features(),
    };
    match metadata.propose(command).await? {
        (_, Response::BrokerEpoch(epoch)) => Ok(Registration { node, epoch }),
        (_, other) => panic!("RegisterBroker answered {other:?}"),
    }
}
