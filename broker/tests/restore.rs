//! A cluster that is made anew from its bucket: what is there again, what goes on, and what an old broker may still do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::child::{ChildBroker, binary, run_to_end};
use common::group::{commit_without_group, committed, find_coordinator};
use common::log::{
    FETCH, PRODUCE, batch, create_topic, fetch, fetch_partition, fetch_request, produce, produce_request, records_of,
    try_produce, values,
};
use common::{Client, test_config};
use seawall::backup::store::BackupStore;
use seawall::clock::Clock;
use seawall::config::Config;
use seawall::node::{Node, NodeError};
use seawall::object_key::ObjectKeys;
use seawall::restore::report::Report;
use seawall::restore::{Options, RestoreError, Step, restore};
use seawall::store::Store;
use seawall::units::{ByteSize, Span};
use seawall_backends::faulty::{Faults as Lies, Faulty};
use seawall_backends::layer::{Answer, Call, Layer};
use seawall_backends::memory::MemoryBackend;
use seawall_backends::observed::Operation;
use seawall_backends::{Backend, BackendError, BackendKind, BoxFuture, ObjectKey};
use seawall_hostile_store::{Fault, Faults, Server, Settings};
use seawall_metadata::Offset;
use seawall_metadata::command::OFFSET_JUMP;
use seawall_protocol::ErrorCode;
use seawall_protocol::messages::fetch_request::FetchPartition;
use seawall_protocol::messages::{FetchRequest, FetchResponse, ProduceResponse};
use tempfile::TempDir;

const DO_IT: Options = Options {
    cluster: None,
    incarnation: None,
    yes: true,
    no_wait: true,
    without_missing: false,
    without_unreadable: false,
    stop_after: None,
    offset_jump: OFFSET_JUMP,
};

/// A bucket, and machines that come and go.
struct Site {
    bucket: Arc<MemoryBackend>,
    folder: TempDir,
}

impl Site {
    fn new() -> Site {
        Site { bucket: Arc::new(MemoryBackend::new()), folder: tempfile::tempdir().unwrap() }
    }

    /// A machine of that name, which writes backups so often.
    fn machine(&self, name: &str, backup: Span) -> Config {
        let mut config = test_config(&self.folder.path().join(name));
        config.upload.interval = Span::seconds(3600);
        config.backup.interval = backup;
        config.backup.snapshot_interval = Span(backup.0.max(200));
        config
    }

    async fn start(&self, config: &Config) -> Result<Node, NodeError> {
        Node::start_over(config.clone(), Some(Store::over(self.bucket.clone()))).await
    }

    /// A broker there, and a client of it.
    async fn serving(&self, config: &Config) -> (Node, Client) {
        let node = self.start(config).await.unwrap();
        let client = Client::connect(node.kafka_address).await;
        (node, client)
    }

    /// As [`serving_backed_up`].
    async fn serving_backed_up(&self, config: &Config) -> (Node, Client) {
        serving_backed_up(async || self.start(config).await.unwrap()).await
    }

    async fn restore(&self, config: &Config, options: &Options) -> Result<Report, RestoreError> {
        self.restore_over(self.bucket.clone(), config, options).await
    }

    async fn restore_over(
        &self,
        bucket: Arc<dyn Backend>,
        config: &Config,
        options: &Options,
    ) -> Result<Report, RestoreError> {
        restore(config, &Store::over(bucket), &Clock::system(), options, &|_| {}).await
    }

    /// Keys and lengths under an incarnation's folder.
    fn stored(&self, incarnation: &str) -> BTreeSet<String> {
        let keys = self.bucket.contents().into_iter().map(|(key, _)| key.to_string());
        keys.filter(|key| key.contains(&format!("/{incarnation}/")) && !key.contains("/backup")).collect()
    }
}

/// A broker with an empty topic `t` that is in its backup: what comes later is told by the objects' footers alone.
async fn serving_backed_up(start: impl AsyncFn() -> Node) -> (Node, Client) {
    let node = start().await;
    let mut client = Client::connect(node.kafka_address).await;
    create_topic(&mut client, "t", 1, &[]).await;
    node.stop().await;
    let node = start().await;
    backed_up(&node).await;
    let client = Client::connect(node.kafka_address).await;
    (node, client)
}

async fn until(what: &str, mut met: impl FnMut() -> bool) {
    let began = Instant::now();
    while !met() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn backed_up(node: &Node) {
    until("the backup follows", || {
        let status = node.broker.backup.status();
        status.generation > 0 && status.lag_entries == 0
    })
    .await;
}

fn incarnation(node: &Node) -> String {
    node.broker.metadata.read(|state| state.cluster().unwrap().1.to_string())
}

/// Produces, and says at which offset each value was acked.
async fn produce_some(client: &mut Client, acked: &mut Vec<(i64, String)>, topic: &str, count: usize) {
    for _ in 0..count {
        let value = format!("value {} of {topic}", acked.len());
        acked.push((produce(client, topic, batch(&[&value])).await, value));
    }
}

async fn commit_offset(client: &mut Client, group: &str, topic: &str, offset: i64) -> ErrorCode {
    find_coordinator(client, group).await;
    commit_without_group(client, group, topic, offset).await
}

/// All of the topic, by offset.
async fn read_all(client: &mut Client, topic: &str, from: i64) -> Vec<(i64, String)> {
    let mut read: Vec<(i64, String)> = Vec::new();
    loop {
        let from = read.last().map_or(from, |(offset, _)| offset + 1);
        let more = fetch(client, topic, from).await;
        if more.is_empty() {
            return read;
        }
        read.extend(more.iter().map(|record| record.offset).zip(values(&more)));
    }
}

/// Offsets that have had two values: what a consumer would see change.
fn reused(lives: &[&[(i64, String)]]) -> Vec<i64> {
    let all: BTreeSet<&(i64, String)> = lives.iter().flat_map(|life| life.iter()).collect();
    let offsets: Vec<i64> = all.iter().map(|(offset, _)| *offset).collect();
    offsets.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect()
}

/// Every byte beside metadata: exit code and what was printed.
fn scrubbed(config: &Config) -> (i32, String) {
    let file = config.node.data_dir.with_extension("toml");
    std::fs::write(&file, format!("[node]\ndata_dir = \"{}\"\n", config.node.data_dir.display())).unwrap();
    let output = std::process::Command::new(binary())
        .args(["scrub", "--deep", "--rate", "4GiB", "--config"])
        .arg(file)
        .output()
        .unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

const ALWAYS: Span = Span::millis(50);
const NEVER: Span = Span::seconds(3600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_uploaded_is_there_again_and_no_offset_is_used_twice() {
    let site = Site::new();
    let first = site.machine("first", NEVER);
    let (node, mut client) = site.serving(&first).await;
    create_topic(&mut client, "orders", 1, &[("retention.ms", "123456789")]).await;
    let mut uploaded = Vec::new();
    produce_some(&mut client, &mut uploaded, "orders", 5).await;
    assert_eq!(commit_offset(&mut client, "readers", "orders", 3).await, ErrorCode::None);
    node.stop().await;
    // The backup of this start is all there is; what follows is found by the objects' footers.
    let node = site.start(&first).await.unwrap();
    backed_up(&node).await;
    let mut client = Client::connect(node.kafka_address).await;
    produce_some(&mut client, &mut uploaded, "orders", 5).await;
    assert_eq!(commit_offset(&mut client, "readers", "orders", 7).await, ErrorCode::None);
    assert!(node.broker.uploads.flush().await);
    create_topic(&mut client, "too-young", 1, &[]).await;
    produce(&mut client, "too-young", batch(&["x", "y"])).await;
    assert!(node.broker.uploads.flush().await);
    let mut lost = uploaded.clone();
    produce_some(&mut client, &mut lost, "orders", 3).await;

    let second = site.machine("second", ALWAYS);
    let dry = site.restore(&second, &Options { yes: false, ..DO_IT }).await.unwrap();
    assert!(!second.node.data_dir.exists(), "a dry run changes nothing");
    assert_eq!((dry.incarnation.as_ref(), dry.unknown_streams, dry.unknown_records), (None, 1, 2));
    let orders = dry.topics.iter().find(|topic| topic.name == "orders").unwrap();
    assert_eq!((orders.partitions[0].end, orders.partitions[0].rolled_forward_records), (10, 5));
    let report = site.restore(&second, &DO_IT).await.unwrap();
    let text = report.text();
    assert!(text.contains("2 records of 1 partitions that the backup does not know"), "{text}");
    assert_eq!(report.notes, Vec::<String>::new());

    let (node, mut client) = site.serving(&second).await;
    assert_eq!(read_all(&mut client, "orders", 0).await, uploaded);
    assert_eq!(committed(&mut client, "readers", "orders", 0).await.0, 7);
    let retention = node.broker.metadata.read(|state| {
        let resource = seawall_metadata::command::ConfigResource::Topic { name: "orders".into() };
        state.configs(&resource).and_then(|configs| configs.get("retention.ms").cloned())
    });
    assert_eq!(retention.as_deref(), Some("123456789"));
    // Who has read everything stands in the gap, and waits as anywhere else.
    let wait = |max_wait_ms| FetchRequest { max_wait_ms, ..fetch_request("orders", vec![fetch_partition(0, 10)]) };
    let began = Instant::now();
    let _: FetchResponse = client.call(FETCH, &wait(500)).await;
    assert!(began.elapsed() >= Duration::from_millis(400), "answered after {:?}", began.elapsed());
    let mut waiting = Client::connect(node.kafka_address).await;
    let waiting = tokio::spawn(async move {
        let response: FetchResponse = waiting.call(FETCH, &wait(20_000)).await;
        values(&records_of(&response.responses[0].partitions[0]))
    });
    let mut after = Vec::new();
    produce_some(&mut client, &mut after, "orders", 4).await;
    assert!(after[0].0 >= 10 + OFFSET_JUMP, "{after:?}");
    let woken = tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("woken by a record").unwrap();
    assert_eq!(woken.first(), Some(&after[0].1));
    assert_eq!(reused(&[&lost, &after]), Vec::<i64>::new());
    let mut all = uploaded.clone();
    all.extend(after);
    assert_eq!(read_all(&mut client, "orders", 0).await, all, "over the gap");
    assert_eq!(read_all(&mut client, "orders", 10).await.len(), 4, "from the end of what was known");

    assert!(node.broker.uploads.flush().await);
    let (code, found) = scrubbed(&second);
    assert!(code == 15 && found.contains("that this incarnation does not use"), "{code}: {found}");
    assert!(found.contains("nothing is damaged"), "that was the topic which was too young: {found}");

    // And once more, from what the restored cluster has written.
    assert!(node.broker.uploads.flush().await);
    backed_up(&node).await;
    let third = site.machine("third", ALWAYS);
    site.restore(&third, &DO_IT).await.unwrap();
    let (node, mut client) = site.serving(&third).await;
    assert_eq!(read_all(&mut client, "orders", 0).await, all);
    assert_eq!(committed(&mut client, "readers", "orders", 0).await.0, 7);
    let mut last = Vec::new();
    produce_some(&mut client, &mut last, "orders", 1).await;
    assert!(last[0].0 > all.last().unwrap().0 + OFFSET_JUMP / 2);
    node.stop().await;
}

/// A partition in the gap promises records and has none. Then the next one gives the first batch, which is larger than its share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_begins_in_the_gap_waits_for_no_room_that_it_holds_itself() {
    let site = Site::new();
    let (node, mut client) = site.serving(&site.machine("first", ALWAYS)).await;
    create_topic(&mut client, "t", 3, &[]).await;
    let large = "x".repeat(100_000);
    for (partition, value) in [(0, "read already"), (1, &*large), (2, "behind it")] {
        let response: ProduceResponse = client.call(PRODUCE, &produce_request("t", partition, batch(&[value]))).await;
        assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
    }
    assert!(node.broker.uploads.flush().await);
    backed_up(&node).await;
    let mut second = site.machine("second", ALWAYS);
    let room = ByteSize::mib(1);
    second.limits.fetch_response_bytes = room;
    site.restore(&second, &DO_IT).await.unwrap();
    let (node, mut client) = site.serving(&second).await;
    // Together all the room there is.
    let bytes_max = [4096, 8192, room.bytes() as i32 - 12_288];
    let partitions = [(0, 1), (1, 0), (2, 0)].map(|(partition, from)| FetchPartition {
        partition_max_bytes: bytes_max[partition as usize],
        ..fetch_partition(partition, from)
    });
    let request = FetchRequest { max_wait_ms: 20_000, ..fetch_request("t", partitions.to_vec()) };
    let began = Instant::now();
    let response: FetchResponse = client.call(FETCH, &request).await;
    assert!(began.elapsed() < Duration::from_secs(10), "answered after {:?}", began.elapsed());
    let read = response.responses[0].partitions.iter().map(|partition| values(&records_of(partition)));
    assert_eq!(read.collect::<Vec<_>>(), [vec![], vec![large], vec!["behind it".to_owned()]]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_without_the_jump_is_caught() {
    let site = Site::new();
    let (node, mut client) = site.serving(&site.machine("first", ALWAYS)).await;
    create_topic(&mut client, "t", 1, &[]).await;
    let mut before = Vec::new();
    produce_some(&mut client, &mut before, "t", 2).await;
    backed_up(&node).await;
    let second = site.machine("second", ALWAYS);
    site.restore(&second, &Options { offset_jump: 0, ..DO_IT }).await.unwrap();
    let (_node, mut client) = site.serving(&second).await;
    let value = "another".to_owned();
    let after = [(produce(&mut client, "t", batch(&[&value])).await, value)];
    assert_eq!(reused(&[&before, &after]), [0], "the checker sees an offset with two values");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_of_before_the_restore_commits_nothing_deletes_nothing_and_stops() {
    let site = Site::new();
    let mut first = site.machine("first", ALWAYS);
    first.objects.delete_grace = Span::seconds(2);
    let (old, mut client) = site.serving(&first).await;
    create_topic(&mut client, "t", 1, &[]).await;
    create_topic(&mut client, "gone", 1, &[]).await;
    let mut acked = Vec::new();
    produce_some(&mut client, &mut acked, "t", 2).await;
    produce(&mut client, "gone", batch(&["x"])).await;
    assert!(old.broker.uploads.flush().await);
    let gone = old.broker.metadata.read(|state| state.topic_by_name("gone").unwrap().id);
    backed_up(&old).await;
    old.broker.metadata.propose(seawall_metadata::Command::DeleteTopic { topic: gone }).await.unwrap();

    let second = site.machine("second", ALWAYS);
    site.restore(&second, &DO_IT).await.unwrap();
    let before = site.stored(&incarnation(&old));
    let committed_end = |node: &Node| {
        let partition = node.broker.partitions.by_name("t", 0).unwrap();
        partition.offsets().committed_end
    };
    let end = committed_end(&old);
    // The acks of the write-ahead log may still come: this is what is lost.
    let _ = try_produce(&mut client, "t", batch(&["late"])).await;
    assert!(!old.broker.uploads.flush().await, "uploads have stopped");
    assert_eq!(committed_end(&old), end, "nothing is committed");
    let failed = tokio::time::timeout(Duration::from_secs(20), old.failed()).await.expect("it stops");
    assert!(failed.to_string().contains("restored"), "{failed}");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let after = site.stored(&incarnation(&old));
    assert!(before.is_subset(&after), "nothing of the old incarnation was deleted");
    old.stop().await;
    let again = site.start(&first).await.err().expect("it does not start again");
    assert!(again.to_string().contains("incarnation"), "{again}");

    let (node, mut client) = site.serving(&second).await;
    assert_eq!(read_all(&mut client, "t", 0).await, acked);
    node.stop().await;
}

/// Nobody waits, and the old broker acks until it notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_ack_of_class_backend_is_lost_though_the_old_broker_runs_on_through_the_restore() {
    let site = Site::new();
    let (old, mut client) = site.serving(&site.machine("first", ALWAYS)).await;
    create_topic(&mut client, "t", 1, &[("seawall.ack", "backend")]).await;
    backed_up(&old).await;
    let (told, mut acks) = tokio::sync::watch::channel(0);
    let producer = tokio::spawn(async move {
        let mut acked = Vec::new();
        loop {
            told.send_replace(acked.len());
            let value = format!("value {}", acked.len());
            let send = try_produce(&mut client, "t", batch(&[&value]));
            match tokio::time::timeout(Duration::from_secs(15), send).await {
                Ok(answer) if answer.error_code == 0 => acked.push((answer.base_offset, value)),
                _ => return acked,
            }
        }
    });
    tokio::time::timeout(Duration::from_secs(20), acks.wait_for(|acks| *acks > 2)).await.unwrap().unwrap();
    let second = site.machine("second", ALWAYS);
    site.restore(&second, &DO_IT).await.unwrap();
    let acked = producer.await.unwrap();
    assert!(acked.len() > 2, "{acked:?}");
    let (node, mut client) = site.serving(&second).await;
    let read: BTreeSet<(i64, String)> = read_all(&mut client, "t", 0).await.into_iter().collect();
    let lost: Vec<_> = acked.iter().filter(|one| !read.contains(one)).collect();
    assert!(lost.is_empty(), "{} of {} acked records are lost: {lost:?}", lost.len(), acked.len());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_before_the_restore_are_deleted_only_when_it_is_declared_the_only_one() {
    let site = Site::new();
    let (node, mut client) = site.serving(&site.machine("first", ALWAYS)).await;
    create_topic(&mut client, "t", 1, &[]).await;
    produce(&mut client, "t", batch(&["x"])).await;
    assert!(node.broker.uploads.flush().await);
    backed_up(&node).await;
    let mut second = site.machine("second", ALWAYS);
    second.objects.delete_grace = Span::millis(500);
    site.restore(&second, &DO_IT).await.unwrap();
    let old = incarnation(&node);
    let objects = || site.stored(&old).iter().filter(|key| !key.ends_with("/ended")).count();
    assert!(objects() > 0);
    let node = site.start(&second).await.unwrap();
    let (topic, ours) =
        node.broker.metadata.read(|state| (state.topic_by_name("t").unwrap().id, state.cluster().unwrap().1));
    let metadata = &node.broker.metadata;
    metadata.propose(seawall_metadata::Command::DeleteTopic { topic }).await.unwrap();
    let deletes_due = async |seconds: u64| {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(seconds) && objects() > 0 {
            let now_ms = metadata.read(seawall_metadata::State::now_ms) + 100;
            metadata.propose(seawall_metadata::Command::AdvanceTime { now_ms }).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let before = objects();
    deletes_due(4).await;
    assert_eq!(objects(), before);
    metadata.propose(seawall_metadata::Command::DeclareOnly { incarnation: ours }).await.unwrap();
    deletes_due(20).await;
    assert!(objects() < before, "what the topic was made of is deleted");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_is_cut_off_after_any_step_is_repeated() {
    let site = Site::new();
    let (node, mut client) = site.serving(&site.machine("first", ALWAYS)).await;
    create_topic(&mut client, "t", 1, &[]).await;
    let mut acked = Vec::new();
    produce_some(&mut client, &mut acked, "t", 3).await;
    assert!(node.broker.uploads.flush().await);
    backed_up(&node).await;
    let machine = site.machine("second", ALWAYS);
    for step in Step::ALL {
        let cut_off = Options { stop_after: Some(step), ..DO_IT };
        let ended = site.restore(&machine, &cut_off).await.unwrap_err();
        assert!(matches!(ended, RestoreError::Stopped(at) if at == step), "{ended}");
        let refused = site.start(&machine).await.err().expect("a half restored folder is not started from");
        assert!(refused.to_string().contains("has not come to its end"), "{step:?}: {refused}");
    }
    // On another machine, too: nothing that counts is in the folder.
    let third = site.machine("third", ALWAYS);
    let report = site.restore(&third, &DO_IT).await.unwrap();
    assert_eq!(report.notes, Vec::<String>::new());
    let (node, mut client) = site.serving(&third).await;
    assert_eq!(read_all(&mut client, "t", 0).await, acked);
    let next = produce(&mut client, "t", batch(&["after"])).await;
    assert!(next >= 3 + OFFSET_JUMP);
    backed_up(&node).await;
    site.restore(&machine, &DO_IT).await.unwrap();
    let full = site.restore(&machine, &DO_IT).await.unwrap_err();
    assert!(matches!(full, RestoreError::NotEmpty { .. }), "{full}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_passed_over_for_the_one_before_and_said() {
    let site = Site::new();
    let first = site.machine("first", NEVER);
    let (node, mut client) = site.serving_backed_up(&first).await;
    let mut acked = Vec::new();
    produce_some(&mut client, &mut acked, "t", 3).await;
    assert!(node.broker.uploads.flush().await);
    node.stop().await;
    let (cluster, incarnation) = {
        let node = site.start(&first).await.unwrap();
        backed_up(&node).await;
        node.broker.metadata.read(|state| state.cluster().unwrap())
    };
    let keys = ObjectKeys::new("seawall", cluster).unwrap();
    let backups = BackupStore::new(site.bucket.clone(), &keys, cluster, incarnation);
    let newest = backups.newest_generation().await.unwrap();
    let flip = |generation| {
        let key = backups.piece_key(generation, 0);
        let contents = site.bucket.contents();
        let mut bytes = contents.into_iter().find(|(found, _)| *found == key).unwrap().1.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        site.bucket.overwrite(&key, bytes.into());
    };
    flip(newest);
    let dry = site.restore(&site.machine("dry", ALWAYS), &Options { yes: false, ..DO_IT }).await.unwrap();
    assert!(dry.backup < newest && dry.notes[0].contains(&format!("snapshot {newest} is not used")), "{:?}", dry.notes);
    let second = site.machine("second", ALWAYS);
    site.restore(&second, &DO_IT).await.unwrap();
    let (node, mut client) = site.serving(&second).await;
    assert_eq!(read_all(&mut client, "t", 0).await, acked, "its objects' footers say the rest");
    node.stop().await;
}

/// Of this key the store says that it is there, and no more.
struct Hollow {
    bucket: Arc<MemoryBackend>,
    key: ObjectKey,
}

impl Layer for Hollow {
    fn inner(&self) -> &dyn Backend {
        &*self.bucket
    }

    fn around<'a, T: Answer + 'a>(
        &'a self,
        call: Call<'a>,
        attempt: impl Fn() -> BoxFuture<'a, Result<T, BackendError>> + Send + Sync + 'a,
    ) -> BoxFuture<'a, Result<T, BackendError>> {
        let hollow = call.operation == Operation::Get && call.name == self.key.as_str();
        if hollow { Box::pin(async { Err(BackendError::NotFound) }) } else { attempt() }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_after_the_backup_that_cannot_be_read_are_left_out_only_when_told_to() {
    let site = Site::new();
    let first = site.machine("first", NEVER);
    let (node, mut client) = site.serving_backed_up(&first).await;
    let before = site.stored(&incarnation(&node));
    let mut acked = Vec::new();
    produce_some(&mut client, &mut acked, "t", 1).await;
    assert!(node.broker.uploads.flush().await);
    produce_some(&mut client, &mut acked, "t", 1).await;
    let known = site.stored(&incarnation(&node));
    assert!(node.broker.uploads.flush().await);
    let last = site.stored(&incarnation(&node)).difference(&known).next().cloned().expect("an upload");
    assert!(!before.contains(&last));
    let key = ObjectKey::new(last).unwrap();

    let second = site.machine("second", ALWAYS);
    let refused = |error: RestoreError| {
        let named = error.to_string().contains(key.as_str());
        assert!(matches!(error, RestoreError::Unreadable { count: 1, .. }) && named, "{error}");
    };
    let hollow = Arc::new(Hollow { bucket: site.bucket.clone(), key: key.clone() });
    refused(site.restore_over(hollow, &second, &DO_IT).await.unwrap_err());
    let contents = site.bucket.contents();
    let mut bytes = contents.into_iter().find(|(found, _)| *found == key).unwrap().1.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    site.bucket.overwrite(&key, bytes.into());
    let dry = site.restore(&second, &Options { yes: false, ..DO_IT }).await.unwrap();
    assert!(dry.text().contains(&format!("UNREADABLE         {key}")), "{}", dry.text());
    refused(site.restore(&second, &DO_IT).await.unwrap_err());
    let report = site.restore(&second, &Options { without_unreadable: true, ..DO_IT }).await.unwrap();
    let topic = report.topics.iter().find(|topic| topic.name == "t").unwrap();
    assert_eq!((topic.partitions[0].end, report.unreadable_objects.len()), (1, 1), "{}", report.text());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_listings_are_out_of_date_is_asked_by_name() {
    let site = Site::new();
    let stale = Arc::new(Faulty::new(site.bucket.clone(), Lies::default(), 3));
    let first = site.machine("first", NEVER);
    let (node, mut client) = site.serving(&first).await;
    create_topic(&mut client, "t", 1, &[]).await;
    node.stop().await;
    // Only from here on over the store that lies: it knows what was put through it.
    let node = Node::start_over(first, Some(Store::over(stale.clone()))).await.unwrap();
    backed_up(&node).await;
    let mut client = Client::connect(node.kafka_address).await;
    let mut acked = Vec::new();
    for _ in 0..4 {
        produce_some(&mut client, &mut acked, "t", 1).await;
        assert!(node.broker.uploads.flush().await);
    }
    // From here on its listings miss what was put last, and show what was deleted.
    stale.set_faults(Lies { stale_listing: 1_000, ..Lies::default() });
    let second = site.machine("second", ALWAYS);
    let report = site.restore_over(stale.clone(), &second, &DO_IT).await.unwrap();
    assert_eq!(report.rolled_forward_records, 4, "{}", report.text());
    // Its listing shows the marker that was deleted and not the one that was put: the old incarnation says what has followed it.
    let third = site.machine("third", ALWAYS);
    let report = site.restore_over(stale, &third, &DO_IT).await.unwrap();
    assert_eq!(report.topics.iter().find(|topic| topic.name == "t").unwrap().partitions[0].end, 4);
    let (node, mut client) = site.serving(&third).await;
    assert_eq!(read_all(&mut client, "t", 0).await, acked);
    node.stop().await;
}

/// An S3 server whose listings leave out some, and that loses answers and refuses calls besides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_hostile_store_nothing_is_missed_and_no_key_has_two_contents() {
    let settings = Settings { access: "a".into(), secret: "s".into(), ..Settings::default() };
    let server = Server::start(settings.clone()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("access"), settings.access).unwrap();
    std::fs::write(folder.path().join("secret"), settings.secret).unwrap();
    let config_of = |name: &str, backup: Span| {
        let mut config = test_config(&folder.path().join(name));
        config.upload.interval = NEVER;
        (config.backup.interval, config.backup.snapshot_interval) = (backup, Span(backup.0.max(200)));
        config.backend.kind = BackendKind::Minio;
        config.backend.endpoint = Some(format!("http://{}", server.address()));
        config.backend.bucket = Some(settings.bucket.clone());
        config.backend.access_key_file = Some(folder.path().join("access"));
        config.backend.secret_key_file = Some(folder.path().join("secret"));
        config
    };
    let first = config_of("first", NEVER);
    let (node, mut client) = serving_backed_up(async || Node::start(first.clone()).await.unwrap()).await;
    server.set_faults(Faults::default().with(Fault::Omit, 1_000).with(Fault::Lost, 30).with(Fault::Refused, 30));
    let mut acked = Vec::new();
    for _ in 0..4 {
        produce_some(&mut client, &mut acked, "t", 1).await;
        assert!(node.broker.uploads.flush().await);
    }
    let (cluster, old) = node.broker.metadata.read(|state| state.cluster().unwrap());
    let second = config_of("second", ALWAYS);
    let named = Options { cluster: Some(cluster.0), incarnation: Some(old.0), ..DO_IT };
    let store = Store::open(&second).await.unwrap();
    let cut_off = Options { stop_after: Some(Step::BackupPut), ..named.clone() };
    let ended = restore(&second, &store, &Clock::system(), &cut_off, &|_| {}).await.unwrap_err();
    assert!(matches!(ended, RestoreError::Stopped(_)), "{ended}");
    restore(&second, &store, &Clock::system(), &named, &|_| {}).await.unwrap();
    server.set_faults(Faults::default());
    let node = Node::start(second).await.unwrap();
    let mut client = Client::connect(node.kafka_address).await;
    assert_eq!(read_all(&mut client, "t", 0).await, acked);
    assert!(produce(&mut client, "t", batch(&["after"])).await >= 4 + OFFSET_JUMP);
    let report = server.report();
    assert!(report.faults.contains_key("omit"), "{:?}", report.faults);
    assert_eq!(report.overwritten, Vec::<String>::new());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_restored_is_refused_by_name() {
    let site = Site::new();
    let machine = site.machine("a", ALWAYS);
    let none = site.restore(&machine, &DO_IT).await.unwrap_err();
    assert!(matches!(none, RestoreError::NoCluster { .. }), "{none}");
    for name in ["00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"] {
        let key = ObjectKey::new(format!("seawall/seawall-cluster/{name}.{name}")).unwrap();
        site.bucket.put(&key, bytes::Bytes::new().into(), seawall_backends::Purpose::Probe).await.unwrap();
    }
    let several = site.restore(&machine, &DO_IT).await.unwrap_err();
    assert!(matches!(&several, RestoreError::SeveralClusters { found } if found.len() == 2), "{several}");
    let one = Options { cluster: Some(uuid::Uuid::from_u128(10)), ..DO_IT };
    let nothing = site.restore(&machine, &one).await.unwrap_err();
    assert!(matches!(nothing, RestoreError::NoBackup { .. }), "{nothing}");
    std::fs::create_dir_all(machine.node.data_dir.join("wal")).unwrap();
    std::fs::remove_file(machine.node.data_dir.join("restore.toml")).unwrap();
    let full = site.restore(&machine, &one).await.unwrap_err();
    assert!(full.to_string().contains("it holds wal"), "{full}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_is_restored_by_the_command_line_under_compaction_and_deletion() {
    let folder = tempfile::tempdir().unwrap();
    let config_of = |name: &str| {
        let mut config = test_config(&folder.path().join(name));
        config.backend.kind = BackendKind::Fs;
        config.backend.path = Some(folder.path().join("bucket"));
        config.upload.interval = Span::millis(100);
        config.compaction.objects_min = 4;
        config.objects.delete_grace = Span::seconds(1);
        config.backup.interval = Span::millis(100);
        config.backup.snapshot_interval = Span::millis(300);
        let path = folder.path().join(format!("{name}.toml"));
        std::fs::write(&path, config.to_toml()).unwrap();
        (config, path)
    };
    let (_, first) = config_of("first");
    let child = ChildBroker::start(&first);
    let mut client = child.client().await;
    create_topic(&mut client, "t", 1, &[]).await;
    create_topic(&mut client, "compacted", 1, &[("cleanup.policy", "compact"), ("segment.ms", "1")]).await;
    let mut acked = Vec::new();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        produce_some(&mut client, &mut acked, "t", 5).await;
        assert_eq!(commit_offset(&mut client, "g", "t", acked.len() as i64).await, ErrorCode::None);
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    let committed_before = acked.len() as i64;
    let end = acked.last().unwrap().0 + 1;
    // Until it is all in the bucket; then the machine is gone.
    let began = Instant::now();
    loop {
        let (_, metrics) = child.admin("/metrics").await;
        if metrics.lines().any(|line| line == "seawall_uncommitted_bytes 0") {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "everything is uploaded");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    child.kill();
    let (config, second) = config_of("second");
    let (code, _) = restore_command(&second, &[]);
    assert_eq!(code, 13, "a dry run");
    let (code, errors) = restore_command(&second, &["--yes", "--no-wait", "--json"]);
    assert_eq!(code, 0, "{errors}");
    let (code, errors) = restore_command(&second, &["--yes", "--no-wait"]);
    assert_eq!(code, 5, "{errors}");

    let child = ChildBroker::start(&second);
    let mut client = child.client().await;
    assert_eq!(read_all(&mut client, "t", 0).await, acked);
    assert_eq!(committed(&mut client, "g", "t", 0).await.0, committed_before);
    assert!(produce(&mut client, "t", batch(&["after"])).await >= end + OFFSET_JUMP);
    assert!(Offset(end) < Offset(OFFSET_JUMP));
    let (code, errors) = restore_command(&second, &["--declare-only", "--yes"]);
    assert_eq!(code, 0, "{errors}");
    child.kill();
    let (code, errors) = run_to_end({
        let mut start = std::process::Command::new(binary());
        start.args(["start", "--config"]).arg(&first);
        start
    });
    assert_eq!(code, 6, "the old folder is refused: {errors}");
    drop(config);
}

fn restore_command(config: &Path, args: &[&str]) -> (i32, String) {
    let mut command = std::process::Command::new(binary());
    command.args(["restore", "--config"]).arg(config).args(args);
    run_to_end(command)
}
