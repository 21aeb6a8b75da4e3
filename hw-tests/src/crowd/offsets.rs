//! How much is in the log.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use seawall_protocol::ApiKey;
use seawall_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use seawall_protocol::messages::list_offsets_response::ListOffsetsResponse;

use super::wire::Wire;

/// The sum of the end offsets of all partitions.
pub async fn end_offsets(address: SocketAddr, topic: &str, partitions: i32) -> Result<i64> {
    let asked = (0..partitions)
        .map(|partition_index| ListOffsetsPartition { partition_index, timestamp: -1, ..Default::default() })
        .collect();
    let topics = vec![ListOffsetsTopic { name: topic.to_owned(), partitions: asked, ..Default::default() }];
    let request = ListOffsetsRequest { replica_id: -1, topics, ..Default::default() };
    let response: ListOffsetsResponse = Wire::connect(address).await?.call(ApiKey::ListOffsets, 6, &request).await?;
    let mut sum = 0;
    for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
        let code = partition.error_code;
        ensure!(code == 0, "offset of partition {}: error {code}", partition.partition_index);
        sum += partition.offset;
    }
    Ok(sum)
}
