//! The object half of the storage engine, put together: reader, read path, uploader.

use std::sync::Arc;
use std::time::Duration;

use seawall_backends::{Backend, InvalidKey};
use seawall_metadata::{ClusterId, Incarnation, MetadataHandle, Registration};
use tracing::{error, info, warn};

use crate::backup::store::BackupStore;
use crate::backup::{Backup, BackupSettings, BackupView, RestoreWindow};
use crate::clock::Clock;
use crate::compaction::{Compaction, CompactionCounters, CompactionParts, CompactionSettings};
use crate::compaction_plan::PlanLimits;
use crate::config::Config;
use crate::config_values::TopicConfigs;
use crate::incarnation_watch;
use crate::log_cleaner::{CleanerParts, CleanerSettings, LogCleaner};
use crate::object_deletion::{DeletionCounters, DeletionParts, DeletionSettings, ObjectDeletion};
use crate::object_key::ObjectKeys;
use crate::object_producers::ObjectProducers;
use crate::object_reader::ObjectReader;
use crate::partitions::Partitions;
use crate::read_path::ReadPath;
use crate::scrub::{Scrub, ScrubMetrics, ScrubParts};
use crate::store_marker::StoreMarker;
use crate::task::{Task, Tasks};
use crate::upload::{UploadParts, UploadSettings, UploadStatus, Uploader};

/// What is needed before partitions are recovered. Cheap to clone.
#[derive(Clone)]
pub struct ObjectStorage {
    backend: Arc<dyn Backend>,
    keys: ObjectKeys,
    marker: StoreMarker,
    metadata: MetadataHandle,
    cluster: ClusterId,
    incarnation: Incarnation,
    pub reads: Arc<ReadPath>,
}

/// Uploads of a running broker. Cheap to clone.
#[derive(Clone)]
pub struct Uploads {
    uploader: Uploader,
    stop_wait: Duration,
}

impl ObjectStorage {
    pub fn new(
        config: &Config,
        backend: Arc<dyn Backend>,
        metadata: MetadataHandle,
        cluster: ClusterId,
        incarnation: Incarnation,
    ) -> Result<ObjectStorage, InvalidKey> {
        let keys = ObjectKeys::new(&config.backend.prefix, cluster)?;
        let (blocks, indexes) = (config.cache.block_bytes.bytes(), config.cache.index_bytes.bytes());
        let reader = Arc::new(ObjectReader::new(backend.clone(), keys.clone(), blocks, indexes));
        let reads = Arc::new(ReadPath::new(metadata.clone(), reader));
        let marker = StoreMarker::new(&config.backend.prefix, cluster, incarnation);
        Ok(ObjectStorage { backend, keys, marker, metadata, cluster, incarnation, reads })
    }

    /// What recovery asks for producer states.
    pub fn producers(&self) -> ObjectProducers {
        ObjectProducers::new(self.metadata.clone(), self.reads.reader().clone())
    }

    /// Starts to clean the logs of compacted topics, unless `log.cleaner.enable` is false.
    pub fn start_log_cleaner(
        &self,
        topic_configs: TopicConfigs,
        registration: Registration,
        partitions: Partitions,
        tasks: &Tasks,
    ) -> Arc<LogCleaner> {
        let enabled = topic_configs.settings().text("log.cleaner.enable") != Some("false");
        let cleaner = Arc::new(LogCleaner::new(CleanerParts {
            partitions,
            metadata: self.metadata.clone(),
            registration,
            incarnation: self.incarnation,
            backend: self.backend.clone(),
            keys: self.keys.clone(),
            reader: self.reads.reader().clone(),
            settings: Arc::new(move || CleanerSettings::of(&topic_configs.settings())),
        }));
        if enabled {
            let (running, stopping) = (cleaner.clone(), tasks.stopping().clone());
            tasks.spawn(Task::LogCleaner, async move { running.run(stopping).await });
        } else {
            warn!("log.cleaner.enable is false: compacted topics are not compacted");
        }
        cleaner
    }

    /// Starts to upload what the partitions hold.
    pub fn start_uploads(
        &self,
        config: &Config,
        registration: Registration,
        partitions: Partitions,
        tasks: &Tasks,
    ) -> Uploads {
        let settings = UploadSettings {
            bytes: config.upload.bytes.bytes(),
            interval: config.upload.interval.duration(),
            stream_object_bytes: config.upload.stream_object_bytes.bytes(),
            ack_interval: config.upload.ack_interval.duration(),
            ack_bytes: config.upload.ack_bytes.bytes(),
            in_flight: config.upload.in_flight,
            ..UploadSettings::default()
        };
        let (uploader, task) = Uploader::new(UploadParts {
            metadata: self.metadata.clone(),
            registration,
            incarnation: self.incarnation,
            backend: self.backend.clone(),
            keys: self.keys.clone(),
            marker: Some(self.marker.clone()),
            source: Arc::new(partitions),
            settings,
        });
        let (stopping, failing) = (tasks.stopping().clone(), tasks.clone());
        tasks.spawn(Task::Uploader, async move {
            if let Err(stopped) = task.run(stopping).await {
                failing.fail_broker(stopped.to_string());
            }
        });
        Uploads { uploader, stop_wait: config.upload.shutdown_wait.duration() }
    }
}

impl ObjectStorage {
    /// Starts to look whether the cluster was restored elsewhere.
    pub fn start_watch(&self, tasks: &Tasks) {
        let watch = incarnation_watch::run(self.backend.clone(), self.marker.clone(), tasks.clone());
        tasks.spawn_until_stopped(Task::IncarnationWatch, watch);
    }

    /// Starts to back metadata up, unless `backup.enabled` is false: how it does, and what a restore could still name.
    pub fn start_backup(&self, config: &Config, clock: Clock, tasks: &Tasks) -> (Arc<BackupView>, Arc<RestoreWindow>) {
        let view = BackupView::new(self.metadata.clone(), config.backup.enabled);
        if !config.backup.enabled {
            warn!("backup.enabled is false: if this data folder is lost, so is the cluster");
            return (view, RestoreWindow::none());
        }
        let window = RestoreWindow::unknown();
        let store = BackupStore::new(self.backend.clone(), &self.keys, self.cluster, self.incarnation);
        let settings = BackupSettings {
            interval: config.backup.interval.duration(),
            snapshot_interval: config.backup.snapshot_interval.duration(),
            snapshots_kept: config.backup.snapshots_kept,
        };
        let backup = Backup::new(self.metadata.clone(), store, clock, settings, window.clone(), view.clone());
        // It ends by itself: what the last uploads committed is to be in the backup.
        tasks.spawn(Task::Backup, backup.run(tasks.stopping().clone()));
        (view, window)
    }

    /// Starts to delete what nothing refers to.
    pub fn start_deletion(
        &self,
        config: &Config,
        partitions: &Partitions,
        window: Arc<RestoreWindow>,
        tasks: &Tasks,
    ) -> Arc<DeletionCounters> {
        let (deletion, counters) = ObjectDeletion::new(DeletionParts {
            storage: partitions.storage().clone(),
            backend: self.backend.clone(),
            keys: self.keys.clone(),
            incarnation: self.incarnation,
            marker: self.marker.clone(),
            window,
            settings: DeletionSettings { grace: config.objects.delete_grace.duration(), ..DeletionSettings::default() },
        });
        tasks.spawn_until_stopped(Task::ObjectDeletion, deletion.run());
        counters
    }

    /// What looks at every object when it is asked to.
    pub fn scrub(&self, config: &Config, partitions: &Partitions, metrics: ScrubMetrics) -> Arc<Scrub> {
        Arc::new(Scrub::new(ScrubParts {
            storage: partitions.storage().clone(),
            backend: self.backend.clone(),
            keys: self.keys.clone(),
            incarnation: self.incarnation,
            marker: self.marker.clone(),
            data_dir: Some(config.node.data_dir.clone()),
            metrics,
        }))
    }

    /// Starts to rewrite what uploads have stored.
    pub fn start_compaction(
        &self,
        config: &Config,
        partitions: &Partitions,
        log_cleaner: &Arc<LogCleaner>,
        tasks: &Tasks,
    ) -> Arc<CompactionCounters> {
        let limits = PlanLimits {
            objects_min: config.compaction.objects_min,
            stream_object_bytes: config.upload.stream_object_bytes.bytes(),
            object_bytes: config.compaction.object_bytes.bytes(),
        };
        let (compaction, counters) = Compaction::new(CompactionParts {
            partitions: partitions.clone(),
            reader: self.reads.reader().clone(),
            backend: self.backend.clone(),
            keys: self.keys.clone(),
            incarnation: self.incarnation,
            log_cleaner: log_cleaner.clone(),
            settings: CompactionSettings {
                limits,
                rate: config.compaction.rate.bytes(),
                merge_bytes: config.compaction.merge_bytes.bytes(),
                ..CompactionSettings::default()
            },
        });
        tasks.spawn_until_stopped(Task::Compaction, compaction.run());
        counters
    }
}

/// How long a stop waits for uploads where a WAL has failed. The unit of the package gives a stop five minutes in all.
const WAIT_FOR_FAILED_WAL: Duration = Duration::from_secs(240);

fn stop_wait(configured: Duration, a_wal_failed: bool) -> Duration {
    if a_wal_failed { configured.max(WAIT_FOR_FAILED_WAL) } else { configured }
}

impl Uploads {
    /// Uploads everything that is durable now, and waits until it is committed. False if uploads have stopped.
    pub async fn flush(&self) -> bool {
        self.uploader.flush().await
    }

    /// Before a stop: uploads what it can within `upload.shutdown_wait`. What is left stays in the WAL; without one it is gone, and
    /// was never acked. Of a WAL that has failed it may be in memory only, so the store gets longer.
    pub async fn finish(&self, a_wal_failed: bool) {
        let wait = stop_wait(self.stop_wait, a_wal_failed);
        if a_wal_failed {
            warn!(
                seconds = wait.as_secs(),
                "a write-ahead log has failed: the stop waits so long for uploads of what it acked"
            );
        }
        match tokio::time::timeout(wait, self.uploader.flush()).await {
            Ok(true) => info!("everything is uploaded"),
            Ok(false) => error!("uploads had stopped before"),
            Err(_) if a_wal_failed => {
                error!(
                    "not everything could be uploaded in time; what was acked and is not is on the failed device, or lost"
                );
            }
            Err(_) => warn!("not everything could be uploaded in time; what was acked stays in the write-ahead log"),
        }
    }

    pub fn status(&self) -> UploadStatus {
        self.uploader.status()
    }
}
