//! What survives a broker: the disk, the store, the metadata log, the ledger, and the seed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use seawall::compaction_plan::PlanLimits;
use seawall::object_key::ObjectKeys;
use seawall_metadata::backup::LogPoint;
use seawall_metadata::restore::begin_log;
use seawall_metadata::{ClusterId, Incarnation, NodeId};
use seawall_protocol::records::BATCH_HEADER_BYTES;
use seawall_wal_device::device::simulated::{SimDisk, SimDiskConfig, SimRandom};
use seawall_wal_device::format::RING_OFFSET;
use seawall_wal_device::{Fault as WalFault, Faults, FormatConfig, WalConfig, WalId, format_on};
use uuid::Uuid;

use crate::checks::Checker;
use crate::ledger::Ledger;
use crate::meta_log::SharedLog;
use crate::scenario::Fault;
use crate::steps::Steps;
use crate::store::SimStore;
use crate::trace::Trace;

pub const NODE: NodeId = NodeId(1);
pub const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(0xc1));
pub const INCARNATION: Incarnation = Incarnation(Uuid::from_u128(0x1));
/// `backend.prefix`
pub const PREFIX: &str = "sim";
/// Wall time at the beginning: some day in 2026.
pub const EPOCH_MS: i64 = 1_790_000_000_000;

pub struct World {
    pub seed: u64,
    pub fault: Option<Fault>,
    pub random: SimRandom,
    /// That of the cluster as it is now.
    pub incarnation: Incarnation,
    /// Without one, what is not committed lies in memory.
    pub has_wal: bool,
    pub disk: SimDisk,
    disk_config: SimDiskConfig,
    pub wal_id: WalId,
    pub wal: WalConfig,
    pub store: Arc<SimStore>,
    pub log: SharedLog,
    /// The last entry of it that was said to be backed up.
    pub backed_up_to: u64,
    pub steps: Steps,
    pub ledger: Arc<Mutex<Ledger>>,
    pub trace: Trace,
    /// Time that passed so far.
    pub elapsed: Duration,
    pub sizes: Sizes,
    pub checker: Checker,
}

/// What a seed makes large or small.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub log_cache_bytes: u64,
    pub block_cache_bytes: u64,
    pub upload_bytes: u64,
    pub upload_interval: Duration,
    pub stream_object_bytes: u64,
    pub ack_interval: Duration,
    pub ack_bytes: u64,
    pub uploads_in_flight: usize,
    pub reservation_ttl: Duration,
    pub metadata_log_bytes: u64,
    pub lease: Duration,
    pub cleaner_map_bytes: usize,
    pub cleaner_group_bytes: u64,
    pub delete_grace: Duration,
    pub compaction: PlanLimits,
    pub compaction_tick: Duration,
    /// 0: nothing is joined.
    pub merge_bytes: u64,
    /// None: metadata is not backed up.
    pub backup: Option<BackupSizes>,
}

#[derive(Debug, Clone, Copy)]
pub struct BackupSizes {
    pub interval: Duration,
    pub snapshot_interval: Duration,
    pub kept: usize,
}

impl World {
    pub fn new(seed: u64, fault: Option<Fault>) -> Self {
        let steps = Steps::default();
        let mut random = SimRandom::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5ea_3a11);
        // A small ring fills up when the store is away, and is lapped again and again.
        let ring_bytes = pick(&mut random, &[20, 40, 200]) * 4096;
        let disk_config = SimDiskConfig {
            bytes: RING_OFFSET + ring_bytes,
            sector_bytes: if random.chance(1, 2) { 512 } else { 4096 },
            fua: random.chance(1, 2),
            lies_per_mille: 0,
        };
        let (disk, wal_id) = formatted(random.next_u64(), disk_config);
        let wal = WalConfig {
            record_bytes_max: 16_000,
            frame_bytes_max: pick(&mut random, &[8 << 10, 16 << 10, 64 << 10]),
            frames_in_flight_max: 1 + random.below(4) as u32,
            pipeline_bytes: pick(&mut random, &[1, 4096, 20_000]),
            queue_bytes_max: 200_000,
            records_outstanding_max: 1_000,
            scan_head_bytes: BATCH_HEADER_BYTES,
            faults: wal_faults(fault),
            ..WalConfig::new("simulated")
        };
        let has_wal = match fault {
            Some(Fault::AckFromMemory) => false,
            Some(fault) if fault.needs_wal() => true,
            _ => !random.chance(1, 8),
        };
        let log_cache: &[u64] = if has_wal { &[0, 3_000, 60_000, 10 << 20] } else { &[100_000, 300_000, 10 << 20] };
        let mut sizes = Sizes {
            log_cache_bytes: pick(&mut random, log_cache),
            // Nothing or all of it: which block an overfull cache drops is not decided by the seed.
            block_cache_bytes: pick(&mut random, &[0, 256 << 20]),
            upload_bytes: pick(&mut random, &[5_000, 40_000, 200_000]),
            upload_interval: Duration::from_millis(pick(&mut random, &[50, 400, 3_000])),
            stream_object_bytes: pick(&mut random, &[1_000, 20_000, 1 << 20]),
            ack_interval: Duration::from_millis(pick(&mut random, &[10, 60, 250])),
            ack_bytes: pick(&mut random, &[1_000, 20_000, 8 << 20]),
            uploads_in_flight: 1 + random.below(4) as usize,
            reservation_ttl: Duration::from_millis(pick(&mut random, &[1_500, 20_000, 3_600_000])),
            metadata_log_bytes: pick(&mut random, &[4 << 10, 32 << 10, 1 << 20]),
            lease: Duration::from_millis(pick(&mut random, &[1_500, 9_000])),
            cleaner_map_bytes: pick(&mut random, &[24 * 4, 1 << 20]),
            cleaner_group_bytes: pick(&mut random, &[1_000, 8_000, 1 << 20]),
            delete_grace: Duration::from_millis(pick(&mut random, &[500, 4_000, 60_000])),
            compaction: PlanLimits {
                objects_min: pick(&mut random, &[2, 3, 8]),
                stream_object_bytes: pick(&mut random, &[1_000, 1_000, 20_000, 1 << 20]),
                object_bytes: pick(&mut random, &[2_000, 50_000, 1 << 20]),
            },
            compaction_tick: Duration::from_millis(pick(&mut random, &[40, 500])),
            merge_bytes: pick(&mut random, &[0, 4_000, 10_000, 40_000]),
            backup: None,
        };
        let backup = BackupSizes {
            interval: Duration::from_millis(pick(&mut random, &[50, 300, 1_500])),
            snapshot_interval: Duration::from_millis(pick(&mut random, &[500, 3_000])),
            kept: 2 + random.below(2) as usize,
        };
        let needs_backup = fault.is_some_and(Fault::needs_backup);
        sizes.backup = (needs_backup || random.chance(5, 6)).then_some(backup);
        let store = SimStore::new(random.next_u64(), steps.clone());
        if fault == Some(Fault::JoinUnseen) {
            sizes.merge_bytes = 10_000;
            sizes.compaction.stream_object_bytes = 1_000;
        }
        let joins_wrong = fault == Some(Fault::JoinUnseen) || random.chance(1, 12);
        store.set_joins_wrong(if joins_wrong { 300 } else { 0 });
        Self {
            seed,
            fault,
            incarnation: INCARNATION,
            has_wal,
            disk,
            disk_config,
            wal_id,
            wal,
            store,
            log: SharedLog::new(steps.clone()),
            backed_up_to: 0,
            steps,
            ledger: Arc::default(),
            trace: Trace::default(),
            elapsed: Duration::ZERO,
            sizes,
            checker: Checker::default(),
            random,
        }
    }

    /// Another machine, on which `incarnation` begins.
    pub fn begin_anew(&mut self, incarnation: Incarnation, at: LogPoint, data: Vec<u8>) -> Result<(), String> {
        self.incarnation = incarnation;
        (self.disk, self.wal_id) = formatted(self.random.next_u64(), self.disk_config);
        self.log = SharedLog::new(self.steps.clone());
        begin_log(&mut self.log, NODE, at, data).map_err(|error| error.to_string())?;
        self.backed_up_to = 0;
        self.checker = Checker::default();
        Ok(())
    }

    pub fn keys(&self) -> ObjectKeys {
        ObjectKeys::new(PREFIX, CLUSTER).expect("a prefix that can be one")
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An empty WAL.
fn formatted(seed: u64, config: SimDiskConfig) -> (SimDisk, WalId) {
    let format = FormatConfig::new("simulated", config.bytes - RING_OFFSET, NODE.0);
    let disk = SimDisk::new(seed, config);
    let superblock = format_on(&mut disk.device(), disk.bytes(), &format).expect("nothing fails yet");
    (disk, superblock.wal_id)
}

fn wal_faults(fault: Option<Fault>) -> Faults {
    match fault {
        Some(Fault::SkipFlush) => Faults::default().with(WalFault::SkipFlush),
        Some(Fault::SkipCrc) => Faults::default().with(WalFault::SkipCrc),
        Some(Fault::ReuseSlot) => Faults::default().with(WalFault::TrimEarly),
        _ => Faults::default(),
    }
}

pub fn pick<T: Copy>(random: &mut SimRandom, of: &[T]) -> T {
    of[random.below(of.len() as u64) as usize]
}
