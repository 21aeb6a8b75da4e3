//! The DescribeLogDirs API: the data folder is the one log directory.
//!
//! A partition's size is what its log holds, in the object store and not yet there; the space is that of the disk with the
//! data folder, where the WAL is.

use std::{
    collections::{BTreeMap, HashSet},
    ffi::CString,
    io,
    mem::MaybeUninit,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::Arc,
};

use seawall_protocol::{
    ErrorCode,
    messages::{
        DescribeLogDirsRequest, DescribeLogDirsResponse,
        describe_log_dirs_request::DescribableLogDirTopic,
        describe_log_dirs_response::{DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic},
    },
};
use tracing::warn;

use crate::{broker::Broker, dispatch::RequestContext, partition::Partition};

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: DescribeLogDirsRequest,
    _version: i16,
) -> DescribeLogDirsResponse {
    let mut result = DescribeLogDirsResult { log_dir: path(broker), ..Default::default() };
    match disk_space(&broker.config.node.data_dir) {
        Ok((total, usable)) => {
            (result.total_bytes, result.usable_bytes) = (total, usable);
            result.topics = topics(broker, request.topics.as_deref());
        }
        Err(error) => {
            warn!(%error, "the disk of the data folder does not say how full it is");
            result.error_code = ErrorCode::KafkaStorageError.code();
        }
    }
    DescribeLogDirsResponse { results: vec![result], ..Default::default() }
}

/// The name of the one log directory.
pub fn path(broker: &Broker) -> String {
    let dir = &broker.config.node.data_dir;
    std::path::absolute(dir).unwrap_or_else(|_| dir.clone()).display().to_string()
}

/// Of all partitions here, or of those asked for. Partitions that are not here are left out, as in Kafka.
fn topics(broker: &Broker, asked: Option<&[DescribableLogDirTopic]>) -> Vec<DescribeLogDirsTopic> {
    let asked: Option<HashSet<(&str, i32)>> = asked.map(|asked| {
        let partitions = asked.iter().flat_map(|topic| topic.partitions.iter().map(|index| (&*topic.topic, *index)));
        partitions.collect()
    });
    let mut topics: BTreeMap<String, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for partition in broker.partitions.all() {
        let wanted = asked.as_ref().is_none_or(|asked| asked.contains(&(&**partition.topic(), partition.id().index)));
        if wanted {
            topics.entry(partition.topic().to_string()).or_default().push(describe(broker, &partition));
        }
    }
    let topic = |(name, mut partitions): (String, Vec<DescribeLogDirsPartition>)| {
        partitions.sort_unstable_by_key(|partition| partition.partition_index);
        DescribeLogDirsTopic { name, partitions, ..Default::default() }
    };
    topics.into_iter().map(topic).collect()
}

fn describe(broker: &Broker, partition: &Partition) -> DescribeLogDirsPartition {
    let stored = broker.metadata.read(|state| state.stream(partition.stream()).map_or(0, |stream| stream.bytes()));
    DescribeLogDirsPartition {
        partition_index: partition.id().index,
        partition_size: i64::try_from(stored.saturating_add(partition.bytes_uncommitted())).unwrap_or(i64::MAX),
        ..Default::default()
    }
}

/// Total and usable bytes of the file system that a path is on.
pub(crate) fn disk_space(path: &Path) -> io::Result<(i64, i64)> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut disk = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` ends with a zero byte and `disk` has room for what the kernel writes; both live across the call.
    if unsafe { libc::statvfs(path.as_ptr(), disk.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the kernel has filled it.
    let disk = unsafe { disk.assume_init() };
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(disk.f_frsize)).unwrap_or(i64::MAX);
    Ok((bytes(disk.f_blocks), bytes(disk.f_bavail)))
}
