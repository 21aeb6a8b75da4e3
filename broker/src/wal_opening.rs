//! Opens a WAL as metadata wants it: scan from metadata's trim, commit the opening, then open.
//!
//! The order is the promise: what the scan returns is durable, on each device of a mirror; the opening (owner epoch, start =
//! recovered end) is in metadata before the first new frame, and so is the set of a mirror's devices, if it changes; a WAL that
//! metadata says may hold acked data is never formatted over or left out. Damage is an error here, before anything is written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_metadata::state::WalLife;
use seawall_metadata::{
    ClusterId, Command, Incarnation, Lsn, MetadataHandle, OwnerEpoch, ProposeError, Registration, WalId,
};
use seawall_protocol::records::BATCH_HEADER_BYTES;
use seawall_wal_device as device;
use seawall_wal_device::{Completions, Expectation, ScanFrom, Scanned, WalConfig};
use tracing::{error, info};

use crate::recovery::ScannedWal;
use crate::storage::{BrokerWal, BrokerWalParts};
use crate::wal_legs::{self, ChosenLegs, LegSet, choose_legs};
use crate::wal_registration::{FoundWal, absent_device};

/// Why a WAL was not opened. Nothing was written to it, but where it was being formatted.
#[derive(Debug, thiserror::Error)]
pub enum WalOpeningError {
    #[error(transparent)]
    Format(#[from] device::FormatError),
    #[error(transparent)]
    Scan(#[from] device::ScanError),
    /// Acked data cannot be read back. It is not cut off: an operator decides. `absent`: devices that may hold it.
    #[error("the WAL at {path} is damaged: {damage}{}", bring_back(absent))]
    Damaged { path: PathBuf, damage: device::Damage, absent: Vec<PathBuf> },
    #[error("{path} and {other} belong to two WALs")]
    TwoWals { path: PathBuf, other: PathBuf },
    /// A device that was dropped lacks what was acked without it.
    #[error("{path} was a device of WAL {wal} and is so no longer: it is behind for good. Its devices are now {now}")]
    NoLegOfSet { wal: WalId, path: PathBuf, now: String },
    #[error(transparent)]
    Open(#[from] device::OpenError),
    #[error("metadata: {0}")]
    Metadata(#[from] ProposeError),
    /// A device that is needed fails.
    #[error("{error}; no other device can take its place in WAL {wal}: {then}")]
    NoOther { wal: WalId, error: Box<WalOpeningError>, then: &'static str },
}

const FORMAT_ANEW: &str = "nothing was acked on this mirror yet, format it anew";
const COPY_IT: &str = "if the device can still be read, copy it whole to another one and name that one (docs/wal.md)";

impl WalOpeningError {
    /// The device that failed, and without which a mirror may go on.
    fn device(&self) -> Option<&Path> {
        match self {
            Self::Scan(device::ScanError::Open(error)) => absent_device(error),
            // Others of this kind are not of one device.
            Self::Open(error @ device::OpenError::LegFailed { .. }) => absent_device(error),
            _ => None,
        }
    }
}

/// Whose WAL it is.
#[derive(Debug, Clone, Copy)]
pub struct WalOwner {
    pub cluster: ClusterId,
    pub incarnation: Incarnation,
    pub registration: Registration,
}

/// A WAL that is open, with what recovery needs and where its completions come from.
pub struct OpenedWal {
    pub scanned: ScannedWal,
    pub completions: Completions,
}

/// Opens the WAL on the devices where it was found. The path of `config` does not count. A device of a mirror that fails on the
/// way, as one that can be read and not written, counts as absent, and the WAL is opened again without it: what was copied to
/// the other one and then committed lies there durably, and what was not committed was never acked.
pub async fn open_wal(
    metadata: &MetadataHandle,
    owner: WalOwner,
    found: &FoundWal,
    config: WalConfig,
) -> Result<OpenedWal, WalOpeningError> {
    let mut found = found.clone();
    loop {
        let failed = match open_found(metadata, owner, &found, config.clone()).await {
            Err(error) => error,
            opened => return opened,
        };
        let Some(device) = failed.device() else { return Err(failed) };
        let set = metadata.read(|state| state.wal_legs(found.id).cloned());
        let spared = set.as_ref().and_then(|set| wal_legs::spared(set, &found, device));
        let Some(leg) = spared else {
            let then = if set.is_none() && found.devices() > 1 { FORMAT_ANEW } else { COPY_IT };
            return Err(WalOpeningError::NoOther { wal: found.id, error: Box::new(failed), then });
        };
        let why = failed.to_string();
        error!(wal = %found.id, leg = %leg.leg, device = %leg.path.display(), why, "a device of a mirror fails: it is left out");
        found = found.without(&leg, why);
    }
}

async fn open_found(
    metadata: &MetadataHandle,
    owner: WalOwner,
    found: &FoundWal,
    config: WalConfig,
) -> Result<OpenedWal, WalOpeningError> {
    let id = found.id;
    let chosen = metadata.read(|state| choose_legs(state.wal_legs(id), found))?;
    tell(id, found, &chosen);
    let mut paths = chosen.legs.iter().map(|leg| leg.path.clone());
    let path = paths.next().expect("a WAL is opened with at least one device");
    let config = WalConfig { path: path.clone(), mirror: paths.next(), scan_head_bytes: BATCH_HEADER_BYTES, ..config };
    let from = ScanFrom { legs: chosen.set.as_ref().map(LegSet::to_device), ..scan_from(metadata, id) };
    let expect = Expectation {
        cluster_id: Some(owner.cluster.0),
        incarnation: Some(owner.incarnation.0),
        node_id: Some(owner.registration.node.0),
        wal_id: Some(device::WalId(id.0)),
        owner_epoch_max: Some(metadata.read(|state| state.wal(id).map_or(0, |known| known.owner_epoch.0))),
    };
    let scan_config = config.clone();
    let scanned = blocking(move || device::scan(&scan_config, &expect, from)).await?;
    let scanned = blocking(move || scanned.resync()).await?;
    let owner_epoch = match commit_opening(metadata, owner, &scanned, &path).await {
        Err(WalOpeningError::Damaged { path, damage, .. }) => {
            let absent = found.absent.iter().map(|absent| absent.path.clone()).collect();
            return Err(WalOpeningError::Damaged { path, damage, absent });
        }
        committed => committed?,
    };
    if let Some(set) = chosen.set.filter(|set| set.is_new) {
        commit_legs(metadata, owner.registration, id, set).await?;
    }
    let start = scanned.end;
    let mut scanned = scanned;
    let (records, heads) = (std::mem::take(&mut scanned.records), std::mem::take(&mut scanned.heads));
    let identity = (owner.cluster.0, owner.incarnation.0);
    let (wal, completions) = blocking(move || scanned.open(owner_epoch.0, identity)).await?;
    info!(wal = %id, owner_epoch = owner_epoch.0, durability = wal.durability(), "write-ahead log open");
    let scan_index_bytes = (std::mem::size_of_val(&records[..]) + heads.len()) as u64;
    let (devices, legs) = (found.devices(), chosen.legs.iter().map(|leg| wal_legs::record(leg, found)).collect());
    let parts = BrokerWalParts { id, owner_epoch, wal, start, devices, legs, scan_index_bytes };
    let wal = BrokerWal::new(parts);
    Ok(OpenedWal { scanned: ScannedWal { wal: Arc::clone(&wal), records, heads }, completions })
}

/// What an operator tries before anything is given up.
fn bring_back(absent: &[PathBuf]) -> String {
    let names: Vec<_> = absent.iter().map(|path| path.display().to_string()).collect();
    if names.is_empty() { String::new() } else { format!("; {} is not there and may hold it", names.join(", ")) }
}

/// Says which devices of a mirror are left out. It is an alarm as long as the WAL is open, too.
fn tell(wal: WalId, found: &FoundWal, chosen: &ChosenLegs) {
    for absent in &found.absent {
        error!(%wal, device = %absent.path.display(), why = absent.why, "a device of a mirror is not there");
    }
    for refused in &chosen.refused {
        let device = refused.path.display();
        error!(%wal, leg = %refused.leg, %device, "a device of a mirror was dropped earlier and is behind: it is not used");
    }
}

/// Before the first append, and after a scan that found all that was acked on the devices that are left.
async fn commit_legs(
    metadata: &MetadataHandle,
    by: Registration,
    wal: WalId,
    set: LegSet,
) -> Result<(), WalOpeningError> {
    info!(%wal, set_epoch = set.epoch, legs = set.legs.len(), "set of devices of a write-ahead log");
    metadata.propose(Command::SetWalLegs { by, wal, set_epoch: set.epoch, legs: set.legs }).await?;
    Ok(())
}

/// Where metadata says that a scan begins, and what must be there.
pub fn scan_from(metadata: &MetadataHandle, wal: WalId) -> ScanFrom {
    metadata.read(|state| {
        let Some(wal) = state.wal(wal) else { return ScanFrom::default() };
        let opened_at = wal.openings.iter().map(|opening| (opening.owner_epoch.0, device::Lsn(opening.start.0)));
        let given_up = wal.life == WalLife::GivenUp;
        ScanFrom { trim: device::Lsn(wal.trim.0), opened_at: opened_at.collect(), given_up, ..ScanFrom::default() }
    })
}

/// Commits that a scanned WAL is opened from its end on; answers the owner epoch to open it with. Damage is recorded if it
/// is proven: where a place cannot be read and nothing shows that anything was there, a later scan may find the log's end.
pub async fn commit_opening(
    metadata: &MetadataHandle,
    owner: WalOwner,
    scanned: &Scanned,
    path: &Path,
) -> Result<OwnerEpoch, WalOpeningError> {
    let wal = WalId(scanned.wal_id.0);
    let known = metadata.read(|state| state.wal(wal).map(|known| known.owner_epoch));
    if let Some(damage) = scanned.damage.clone() {
        let is_proven = damage.durable > damage.at;
        if let Some(owner_epoch) = known.filter(|_| is_proven) {
            record_damage(metadata, owner.registration, wal, owner_epoch, damage.at).await;
        }
        return Err(WalOpeningError::Damaged { path: path.to_owned(), damage, absent: Vec::new() });
    }
    // The scan has refused a WAL that has seen a higher one.
    let owner_epoch = OwnerEpoch(known.map_or(0, |epoch| epoch.0) + 1);
    let start = scanned.end;
    info!(
        path = %path.display(), %wal, records = scanned.records.len(), frames = scanned.frames,
        trim = scanned.trim.0, end = start.0, clean_shutdown = scanned.clean_shutdown, "write-ahead log scanned"
    );
    let opening = Command::OpenWal { by: owner.registration, wal, owner_epoch, start: Lsn(start.0) };
    metadata.propose(opening).await?;
    Ok(owner_epoch)
}

/// Tells metadata, for operators: the WAL is not open. It opens again without them if a later scan reads past the place.
async fn record_damage(
    metadata: &MetadataHandle,
    by: Registration,
    wal: WalId,
    owner_epoch: OwnerEpoch,
    at: device::Lsn,
) {
    let command = Command::DamagedWal { by, wal, owner_epoch, at: Lsn(at.0) };
    if let Err(error) = metadata.propose(command).await {
        error!(%wal, %error, "metadata does not take up that a write-ahead log is damaged");
    }
}

/// Scanning and opening block for as long as the device takes.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
