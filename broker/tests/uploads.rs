//! Uploads as a running broker makes them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::log::{PRODUCE, create_topic, fetch, now_ms, produce, produce_request, values};
use common::{TestBroker, set};
use seawall::data_dir::DataDir;
use seawall::log_cleaner::Pass;
use seawall::units::{ByteSize, Span};
use seawall_metadata::{Command, MetadataConfig, MetadataHandle, NodeId, Offset, State};
use seawall_protocol::ErrorCode;
use seawall_protocol::messages::{
    ProduceResponse, UpdateFeaturesRequest, UpdateFeaturesResponse, produce_request::PartitionProduceData,
    update_features_request::FeatureUpdateKey,
};
use seawall_protocol::records::{BatchBuilder, Compression};

const TOPIC: &str = "wide";
const PARTITIONS: i32 = 40;

fn batch(value_bytes: usize) -> bytes::Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.add(None, Some(&vec![b'x'; value_bytes]), now_ms(), &[]);
    builder.build()
}

/// One request for many partitions becomes one frame of the WAL, or few.
#[tokio::test]
async fn a_frame_longer_than_a_cut_is_uploaded_all_the_same() {
    let broker = TestBroker::start_with(|config| {
        config.upload.bytes = ByteSize::kib(64);
        config.upload.interval = Span::seconds(3600);
    })
    .await;
    let mut client = broker.client().await;
    create_topic(&mut client, TOPIC, PARTITIONS, &[]).await;
    for round in 0..2 {
        let mut request = produce_request(TOPIC, 0, batch(8 << 10));
        let others = (1..PARTITIONS).map(|index| PartitionProduceData {
            index,
            records: Some(batch(8 << 10)),
            ..Default::default()
        });
        request.topic_data[0].partition_data.extend(others);
        let response: ProduceResponse = client.call(PRODUCE, &request).await;
        for partition in &response.responses[0].partition_responses {
            assert_eq!((partition.error_code, partition.base_offset), (0, round));
        }
    }
    let uploads = &broker.node.broker.uploads;
    let flushed = tokio::time::timeout(Duration::from_secs(20), uploads.flush()).await;
    assert_eq!(flushed, Ok(true), "everything durable is uploaded");
    for partition in broker.node.broker.partitions.all() {
        if &**partition.topic() == TOPIC {
            assert_eq!(partition.offsets().committed_end, 2, "partition {}", partition.id().index);
        }
    }
    broker.stop().await;
}

/// A data folder as an older version has left it.
async fn folder_of_level(level: u16) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = common::test_config(dir.path());
    let data_dir = DataDir::open(&config.node.data_dir, config.node.id).unwrap();
    let metadata = MetadataConfig::new(config.metadata_dir(), NodeId(config.node.id));
    let metadata = MetadataHandle::open(metadata).await.unwrap();
    let (cluster, incarnation) = (data_dir.cluster, data_dir.incarnation);
    metadata.propose(Command::InitCluster { cluster, incarnation, metadata_level: level }).await.unwrap();
    metadata.shutdown().await;
    dir
}

/// What an older node could not read is not written before an operator says that there is none any more.
#[tokio::test]
async fn nothing_is_compacted_below_the_level_and_raising_it_begins() {
    let broker = TestBroker::start_in(folder_of_level(1).await, |config| {
        config.upload.interval = Span::seconds(3600);
        config.compaction.objects_min = 2;
        set(config, "log.cleaner.backoff.ms", "3600000");
    })
    .await;
    let mut client = broker.client().await;
    create_topic(&mut client, "compacted", 1, &[("cleanup.policy", "compact"), ("segment.ms", "1")]).await;
    for _ in 0..3 {
        let mut batch = BatchBuilder::new(Compression::None);
        batch.add(Some(b"key"), Some(b"value"), now_ms() - 1_000, &[]);
        produce(&mut client, "compacted", batch.build()).await;
        assert!(broker.node.broker.uploads.flush().await);
    }
    let (compaction, cleaner) = (broker.node.broker.compaction.clone(), broker.node.broker.log_cleaner.clone());
    assert_eq!(cleaner.pass(now_ms()).await, Pass::NothingToDo);
    assert!(cleaner.status().metrics().waits_for.is_some());
    // Longer than compaction waits between two looks.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((compaction.status().objects, compaction.status().failures), (0, 0));
    assert!(compaction.status().waits_for.is_some_and(|why| why.contains("seawall.version")));
    let (_, metrics) = broker.admin("/metrics").await;
    assert!(metrics.contains("seawall_compaction_waits_for_level 1"));

    let raise = |level, validate_only| UpdateFeaturesRequest {
        timeout_ms: 1_000,
        feature_updates: vec![FeatureUpdateKey {
            feature: "seawall.version".into(),
            max_version_level: level,
            upgrade_type: 1,
            ..Default::default()
        }],
        validate_only,
        ..Default::default()
    };
    for (request, code) in [(raise(99, false), ErrorCode::InvalidUpdateVersion), (raise(2, true), ErrorCode::None)] {
        let response: UpdateFeaturesResponse = client.call(2, &request).await;
        assert_eq!(response.error_code, code.code(), "{response:?}");
        assert_eq!(broker.node.broker.metadata.read(State::metadata_level), 1);
    }
    let response: UpdateFeaturesResponse = client.call(2, &raise(2, false)).await;
    assert_eq!(response.error_code, 0, "{response:?}");
    let began = std::time::Instant::now();
    while compaction.status().objects == 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", compaction.status());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(compaction.status().waits_for, None);
    assert!(matches!(cleaner.pass(now_ms()).await, Pass::Cleaned(_)));
    let broker = broker.restart().await;
    assert_eq!(broker.node.broker.metadata.read(State::metadata_level), 2, "it stays");
    broker.stop().await;
}

/// Small uploads become few objects, the old ones leave the store, and consumers read what was produced.
#[tokio::test]
async fn small_objects_are_rewritten_and_deleted_under_a_running_broker() {
    let broker = TestBroker::start_with(|config| {
        config.upload.interval = Span::seconds(3600);
        config.compaction.objects_min = 4;
        config.objects.delete_grace = Span::seconds(1);
        // What a kept snapshot names is not deleted.
        config.backup.interval = Span::millis(100);
        config.backup.snapshot_interval = Span::millis(300);
    })
    .await;
    let mut client = broker.client().await;
    for topic in ["one", "two"] {
        create_topic(&mut client, topic, 1, &[]).await;
    }
    let mut produced = Vec::new();
    let (compaction, deletion) = (broker.node.broker.compaction.clone(), broker.node.broker.deletion.clone());
    let began = std::time::Instant::now();
    while compaction.status().objects == 0 || deletion.status().deleted < 4 {
        assert!(began.elapsed() < Duration::from_secs(60), "{:?} {:?}", compaction.status(), deletion.status());
        let value = format!("value {}", produced.len());
        for topic in ["one", "two"] {
            assert_eq!(produce(&mut client, topic, common::log::batch(&[&value])).await, produced.len() as i64);
        }
        produced.push(value);
        assert!(broker.node.broker.uploads.flush().await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(compaction.status().failures, 0);
    let (_, metrics) = broker.admin("/metrics").await;
    for name in
        ["seawall_compaction_objects_total", "seawall_objects_deleted_total", "seawall_write_amplification_ratio"]
    {
        assert!(metrics.contains(name), "{name} is not shown");
    }
    // Nothing is in memory after a restart.
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    for topic in ["one", "two"] {
        let mut read = Vec::new();
        while read.len() < produced.len() {
            let more = values(&fetch(&mut client, topic, read.len() as i64).await);
            assert!(!more.is_empty(), "{topic} ends at {}", read.len());
            read.extend(more);
        }
        assert_eq!(read, produced);
    }
    broker.stop().await;
}

/// Over the [backend] of the file `MERGE_STORE`: `cargo xtask stores --long` runs it on each store that copies.
#[tokio::test]
#[ignore = "needs a store that copies: cargo xtask stores --long"]
async fn objects_are_joined_within_a_real_store() {
    let text = std::fs::read_to_string(std::env::var("MERGE_STORE").unwrap()).unwrap();
    let given: seawall::config::Config = toml::from_str(&text).unwrap();
    let broker = TestBroker::start_with(|config| {
        config.backend = given.backend;
        config.upload.interval = Span::seconds(3600);
        config.upload.bytes = ByteSize::mib(16);
        // What S3 copies at least.
        config.upload.stream_object_bytes = ByteSize::mib(5);
        config.compaction.merge_bytes = ByteSize::mib(20);
        set(config, "log.retention.ms", "-1");
    })
    .await;
    let mut client = broker.client().await;
    create_topic(&mut client, "joined", 1, &[]).await;
    let mut produced = 0;
    for _ in 0..4 {
        for _ in 0..7 {
            produce(&mut client, "joined", batch(900_000)).await;
            produced += 1;
        }
        assert!(broker.node.broker.uploads.flush().await);
    }
    let broker = broker.restart().await;
    let (compaction, began) = (broker.node.broker.compaction.clone(), std::time::Instant::now());
    while compaction.status().merges == 0 {
        assert!(began.elapsed() < Duration::from_secs(90), "{:?}", compaction.status());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("{:?} after {:.1} s", compaction.status(), began.elapsed().as_secs_f64());
    assert_eq!((compaction.status().failures, compaction.status().streams_refused), (0, 0));
    let stream = broker.node.broker.partitions.by_name("joined", 0).unwrap().stream();
    let ranges = broker.node.broker.metadata.read(|state| state.ranges(stream, Offset(0)).count());
    assert!(ranges < 4, "{ranges}");
    let mut client = broker.client().await;
    let mut read = 0;
    while read < produced {
        let more = values(&fetch(&mut client, "joined", read).await);
        assert!(!more.is_empty() && more.iter().all(|value| value.len() == 900_000), "at {read}");
        read += more.len() as i64;
    }
    broker.stop().await;
}
