//! librdkafka's clients with our settings.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;

use super::args::Args;

pub const REQUEST_MAX: Duration = Duration::from_secs(30);

/// Memory of all producers' queues together.
const QUEUES_KIB: u32 = 192 << 10;

pub fn producer_config(args: &Args) -> Result<ClientConfig> {
    let mut config = common_config(args)?;
    let queue_kib = (QUEUES_KIB / args.connections).max(1 << 10);
    let idempotent = args.idempotence && args.acks == super::args::Acks::All;
    config
        .set("acks", args.acks.name())
        .set("enable.idempotence", idempotent.to_string())
        .set("compression.codec", args.compression.name())
        .set("batch.size", args.batch_bytes.to_string())
        .set("linger.ms", args.linger_ms.to_string())
        .set("queue.buffering.max.kbytes", queue_kib.to_string())
        .set("queue.buffering.max.messages", "400000")
        .set("message.max.bytes", (args.record_bytes.max(1_000_000) + 1024).to_string())
        .set("message.timeout.ms", ((args.drain * 1000.0) as u64).clamp(1_000, 86_400_000).to_string());
    add_properties(&mut config, args)?;
    Ok(config)
}

pub fn consumer_config(args: &Args) -> Result<ClientConfig> {
    let mut config = common_config(args)?;
    config
        .set("group.id", "seawall-qualify")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "false")
        // Records that are gone are a wrong result, not a reason to go on elsewhere.
        .set("auto.offset.reset", "error")
        .set("queued.max.messages.kbytes", "65536")
        // A full queue is looked at again soon: a second of not fetching would be the generator's, not the broker's.
        .set("fetch.queue.backoff.ms", "5");
    add_properties(&mut config, args)?;
    Ok(config)
}

fn common_config(args: &Args) -> Result<ClientConfig> {
    ensure!(!args.bootstrap.is_empty(), "--bootstrap is empty");
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &args.bootstrap)
        .set("client.id", "seawall-qualify")
        .set("broker.address.family", "any")
        .set("socket.nagle.disable", "true")
        .set("log_level", "3");
    Ok(config)
}

/// The user's own settings win.
fn add_properties(config: &mut ClientConfig, args: &Args) -> Result<()> {
    for property in &args.properties {
        let (name, value) = name_and_value(property)?;
        config.set(name, value);
    }
    Ok(())
}

fn name_and_value(text: &str) -> Result<(&str, &str)> {
    text.split_once('=').with_context(|| format!("{text:?} is not NAME=VALUE"))
}

/// Makes sure that the topic is there; answers how many partitions it has.
pub fn topic_partitions(args: &Args) -> Result<i32> {
    let probe: BaseConsumer = consumer_config(args)?.create()?;
    if let Some(partitions) = partitions_of(&probe, &args.topic)? {
        return Ok(partitions);
    }
    ensure!(args.producers > 0, "there is no topic {}", args.topic);
    create_topic(&args.bootstrap, &args.topic, args.partitions, args.replication_factor, &args.topic_config)?;
    let end = Instant::now() + REQUEST_MAX;
    while Instant::now() < end {
        if let Some(partitions) = partitions_of(&probe, &args.topic)? {
            return Ok(partitions);
        }
        thread::sleep(Duration::from_millis(50));
    }
    bail!("topic {} was created and does not appear", args.topic)
}

/// None as long as it is absent or a partition has no leader.
fn partitions_of(client: &BaseConsumer, topic: &str) -> Result<Option<i32>> {
    // For all topics, because asking for one by its name may create it.
    let metadata = client.fetch_metadata(None, REQUEST_MAX).context("no metadata from the broker")?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
    let ready = found.error().is_none() && found.partitions().iter().all(|partition| partition.leader() >= 0);
    Ok((ready && !found.partitions().is_empty()).then_some(i32::try_from(found.partitions().len())?))
}

pub fn create_topic(
    bootstrap: &str,
    topic: &str,
    partitions: i32,
    replication_factor: i32,
    configs: &[String],
) -> Result<()> {
    let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replication_factor));
    for config in configs {
        let (name, value) = name_and_value(config)?;
        new = new.set(name, value);
    }
    let results = block_on(admin(bootstrap)?.create_topics([&new], &admin_options()))?;
    one_result("create", topic, results)
}

pub fn delete_topic(bootstrap: &str, topic: &str) -> Result<()> {
    let results = block_on(admin(bootstrap)?.delete_topics(&[topic], &admin_options()))?;
    one_result("delete", topic, results)
}

fn one_result(what: &str, topic: &str, results: Vec<Result<String, (String, RDKafkaErrorCode)>>) -> Result<()> {
    match results.into_iter().next() {
        Some(Ok(_)) => Ok(()),
        Some(Err((_, error))) => bail!("{what} topic {topic}: {error}"),
        None => bail!("{what} topic {topic}: no answer"),
    }
}

fn admin(bootstrap: &str) -> Result<AdminClient<DefaultClientContext>> {
    Ok(ClientConfig::new().set("bootstrap.servers", bootstrap).set("log_level", "3").create()?)
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST_MAX)).operation_timeout(Some(REQUEST_MAX))
}

/// The admin client answers with futures; nothing else here needs a runtime.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = TaskContext::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        thread::park();
    }
}
