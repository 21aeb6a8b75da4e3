//! The parts of a throttle that a request carries: the time that it was worked on, and the field of its response.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::Duration,
};

use seawall_protocol::messages::*;

use crate::clock::Clock;

/// A response with ThrottleTimeMs; versions that do not have the field leave it out.
pub trait Throttled {
    fn throttle_time_ms(&mut self) -> &mut i32;
}

macro_rules! throttled {
    ($($response:ident),+ $(,)?) => {$(
        impl Throttled for $response {
            fn throttle_time_ms(&mut self) -> &mut i32 {
                &mut self.throttle_time_ms
            }
        }
    )+};
}

throttled!(
    AlterClientQuotasResponse,
    AlterConfigsResponse,
    AlterPartitionReassignmentsResponse,
    AlterReplicaLogDirsResponse,
    ApiVersionsResponse,
    ConsumerGroupDescribeResponse,
    ConsumerGroupHeartbeatResponse,
    CreatePartitionsResponse,
    CreateTopicsResponse,
    DeleteGroupsResponse,
    DeleteRecordsResponse,
    DeleteTopicsResponse,
    DescribeClientQuotasResponse,
    DescribeClusterResponse,
    DescribeConfigsResponse,
    DescribeGroupsResponse,
    DescribeLogDirsResponse,
    DescribeProducersResponse,
    DescribeTopicPartitionsResponse,
    DescribeTransactionsResponse,
    ElectLeadersResponse,
    FetchResponse,
    FindCoordinatorResponse,
    GetTelemetrySubscriptionsResponse,
    HeartbeatResponse,
    IncrementalAlterConfigsResponse,
    InitProducerIdResponse,
    JoinGroupResponse,
    LeaveGroupResponse,
    ListConfigResourcesResponse,
    ListGroupsResponse,
    ListOffsetsResponse,
    ListPartitionReassignmentsResponse,
    ListTransactionsResponse,
    MetadataResponse,
    OffsetCommitResponse,
    OffsetDeleteResponse,
    OffsetFetchResponse,
    OffsetForLeaderEpochResponse,
    ProduceResponse,
    PushTelemetryResponse,
    SyncGroupResponse,
    UnregisterBrokerResponse,
    UpdateFeaturesResponse,
);

/// Does the work; with `measured`, says how long it kept a thread busy. Times of waiting do not count.
pub async fn busy_time<T>(clock: &Clock, measured: bool, work: impl Future<Output = T>) -> (T, Duration) {
    if !measured {
        return (work.await, Duration::ZERO);
    }
    let mut work = pin!(work);
    let mut busy = Duration::ZERO;
    let done = poll_fn(|context| {
        let began = clock.instant();
        let poll = work.as_mut().poll(context);
        busy += clock.instant().duration_since(began);
        poll
    })
    .await;
    (done, busy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_is_not_work() {
        let clock = Clock::system();
        let work = async {
            tokio::time::sleep(Duration::from_millis(60)).await;
            std::thread::sleep(Duration::from_millis(20));
            7
        };
        let (done, busy) = busy_time(&clock, true, work).await;
        assert_eq!(done, 7);
        assert!((Duration::from_millis(20)..Duration::from_millis(60)).contains(&busy), "{busy:?}");
        let (_, busy) = busy_time(&clock, false, async { std::thread::sleep(Duration::from_millis(5)) }).await;
        assert_eq!(busy, Duration::ZERO);
    }
}
