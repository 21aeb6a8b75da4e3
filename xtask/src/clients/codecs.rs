//! Keyed records in each codec, written by Java and by librdkafka, read by both and compared by content.

use super::records::{self, Seen};
use super::session::Session;
use super::wire;

const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
/// Of each topic.
const PARTITIONS: i32 = 3;

pub fn run(session: &mut Session<'_>) {
    let count = session.records();
    let lines = records::lines(count);
    for codec in CODECS {
        let topic = format!("java-{codec}");
        let input = lines.clone();
        session.check("kafka-console-producer", format!("{count} keyed records, {codec}"), |s| {
            create_topic(s, &topic)?;
            produce_with_java(s, &topic, codec, input)?;
            served_in(s, &topic, codec)
        });
        session
            .check("kafka-console-consumer", format!("reads Java's {codec}"), |s| consume_with_java(s, &topic, count));
        session.check("kcat", format!("reads Java's {codec}"), |s| consume_with_kcat(s, &topic, count));

        let topic = format!("kcat-{codec}");
        let input = lines.clone();
        session.check("kcat", format!("{count} keyed records, {codec}"), |s| {
            create_topic(s, &topic)?;
            produce_with_kcat(s, &topic, codec, input)?;
            served_in(s, &topic, codec)
        });
        session
            .check("kafka-console-consumer", format!("reads kcat's {codec}"), |s| consume_with_java(s, &topic, count));
        session.check("kcat", format!("reads kcat's {codec}"), |s| consume_with_kcat(s, &topic, count));
    }
}

/// The broker's word that the client used the codec.
fn served_in(s: &Session<'_>, topic: &str, codec: &str) -> anyhow::Result<String> {
    wire::expect_codec(s.broker().bootstrap(), topic, PARTITIONS, codec)?;
    Ok("acks=all, idempotent".to_owned())
}

pub fn create_topic(s: &Session<'_>, topic: &str) -> anyhow::Result<String> {
    let partitions = PARTITIONS.to_string();
    s.java("org.apache.kafka.tools.TopicCommand", &["--create", "--topic", topic, "--partitions", &partitions])
}

pub fn produce_with_java(s: &Session<'_>, topic: &str, codec: &str, lines: Vec<u8>) -> anyhow::Result<String> {
    let arguments = [
        "--topic",
        topic,
        "--compression-codec",
        codec,
        "--reader-property",
        "parse.key=true",
        "--reader-property",
        "key.separator=\t",
        "--request-required-acks",
        "-1",
    ];
    s.java_with_input("org.apache.kafka.tools.ConsoleProducer", &arguments, lines)
}

fn produce_with_kcat(s: &Session<'_>, topic: &str, codec: &str, lines: Vec<u8>) -> anyhow::Result<String> {
    s.kcat_with_input(&["-P", "-t", topic, "-z", codec, "-K", "\t", "-X", "enable.idempotence=true"], lines)
}

fn consume_with_java(s: &Session<'_>, topic: &str, count: usize) -> anyhow::Result<String> {
    records::compare(&console_consumer(s, topic, count, &["--from-beginning"])?, count)
}

fn consume_with_kcat(s: &Session<'_>, topic: &str, count: usize) -> anyhow::Result<String> {
    let output = s.kcat(&["-C", "-t", topic, "-e", "-q", "-o", "beginning", "-f", KCAT_FORMAT])?;
    records::compare(&Seen::parse_all(&output)?, count)
}

pub const KCAT_FORMAT: &str = "%p\t%o\t%k\t%s\n";

/// `count` records by kafka-console-consumer, or fewer when none come any more.
pub fn console_consumer(s: &Session<'_>, topic: &str, count: usize, more: &[&str]) -> anyhow::Result<Vec<Seen>> {
    let count = count.to_string();
    let mut arguments = vec!["--topic", topic, "--max-messages", &count, "--timeout-ms", "20000"];
    for property in ["print.partition=true", "print.offset=true", "print.key=true", "key.separator=\t"] {
        arguments.extend(["--formatter-property", property]);
    }
    arguments.extend(more);
    Seen::parse_all(&s.java("org.apache.kafka.tools.consumer.ConsoleConsumer", &arguments)?)
}
