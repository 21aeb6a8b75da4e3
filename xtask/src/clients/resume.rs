//! A group commits, the clients end, the broker restarts, and the group goes on exactly where it was.

use anyhow::ensure;

use super::codecs::{KCAT_FORMAT, console_consumer, create_topic, produce_with_java};
use super::groups::sum_of_column;
use super::records::{self, Seen};
use super::session::Session;

const TOPIC: &str = "resume";
const GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";

pub fn run(session: &mut Session<'_>) {
    let count = session.records();
    let first = count * 2 / 5;
    session.check("kafka-console-producer", format!("{count} keyed records"), |s| {
        create_topic(s, TOPIC)?;
        produce_with_java(s, TOPIC, "lz4", records::lines(count))?;
        Ok("acks=all, idempotent".to_owned())
    });
    let mut java = Vec::new();
    session.check("kafka-console-consumer", format!("reads {first} in a group, commits, ends"), |s| {
        java = console_consumer(s, TOPIC, first, &["--group", "resume-java", "--from-beginning"])?;
        expect_count(&java, first)
    });
    let mut kcat = Vec::new();
    session.check("kcat", format!("reads {first} in a group, commits, ends"), |s| {
        kcat = kcat_group(s, first)?;
        expect_count(&kcat, first)
    });
    session.check("kafka-consumer-groups", "describes the commits of both groups", |s| committed_is(s, first));
    if session.broker().can_restart() {
        session.check("(broker)", "ends on SIGTERM and starts again on its data", |s| {
            s.broker_mut().restart()?;
            Ok("port open again".to_owned())
        });
    }
    let rest = count - first;
    session.check("kafka-console-consumer", "resumes at the commit: all once, in order", |s| {
        java.extend(console_consumer(s, TOPIC, rest, &["--group", "resume-java"])?);
        records::compare(&java, count)
    });
    session.check("kcat", "resumes at the commit: all once, in order", |s| {
        kcat.extend(kcat_group(s, rest)?);
        records::compare(&kcat, count)
    });
    session.check("kafka-consumer-groups", "describes both groups at the end", |s| committed_is(s, count));
    session.check("kafka-consumer-groups", "resets one group to the earliest offset", |s| {
        let reset = ["--group", "resume-java", "--topic", TOPIC, "--reset-offsets", "--to-earliest", "--execute"];
        s.java(GROUPS, &reset)?;
        let again = console_consumer(s, TOPIC, count, &["--group", "resume-java"])?;
        records::compare(&again, count)
    });
}

fn kcat_group(s: &Session<'_>, count: usize) -> anyhow::Result<Vec<Seen>> {
    let count = count.to_string();
    let output = s.kcat(&[
        "-G",
        "resume-kcat",
        "-c",
        &count,
        "-q",
        "-X",
        "auto.offset.reset=earliest",
        "-f",
        KCAT_FORMAT,
        TOPIC,
    ])?;
    Seen::parse_all(&output)
}

fn expect_count(seen: &[Seen], count: usize) -> anyhow::Result<String> {
    ensure!(seen.len() == count, "{} records came", seen.len());
    Ok(format!("{count} records"))
}

fn committed_is(s: &Session<'_>, expected: usize) -> anyhow::Result<String> {
    for group in ["resume-java", "resume-kcat"] {
        let described = s.java(GROUPS, &["--describe", "--group", group])?;
        let committed = sum_of_column(&described, TOPIC, "CURRENT-OFFSET")?;
        ensure!(committed == expected as i64, "group {group} committed {committed}, expected {expected}");
    }
    Ok(format!("{expected} each"))
}
