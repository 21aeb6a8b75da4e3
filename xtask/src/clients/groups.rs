//! A group of three members that come and go while records flow: every acked record reaches one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::session::{Running, Session, wait_until};

const TOPIC: &str = "group-of-three";
const GROUP: &str = "three";
const PARTITIONS: usize = 6;
const GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
const PATIENCE: Duration = Duration::from_secs(60);

/// Partition and offset.
type Place = (i64, i64);

pub fn run(session: &mut Session<'_>) {
    let acked = 20_000;
    let mut members: Vec<Running> = Vec::new();
    let mut producer = None;
    session.check("kafka-verifiable-producer", format!("starts to send {acked} records, 1,000 a second"), |s| {
        let partitions = PARTITIONS.to_string();
        let create = ["--create", "--topic", TOPIC, "--partitions", &partitions];
        s.java("org.apache.kafka.tools.TopicCommand", &create)?;
        let count = acked.to_string();
        let arguments = ["--topic", TOPIC, "--max-messages", &count, "--throughput", "1000", "--acks", "-1"];
        producer = Some(s.java_running("org.apache.kafka.tools.VerifiableProducer", "producer", &arguments)?);
        Ok(String::new())
    });
    session.check("kafka-verifiable-consumer", "two members share the partitions", |s| {
        for name in ["member-1", "member-2"] {
            members.push(start_member(s, name)?);
        }
        balanced(&members)
    });
    session.check("kafka-verifiable-consumer", "a third joins: the group rebalances", |s| {
        members.push(start_member(s, "member-3")?);
        balanced(&members)
    });
    session.check("kafka-consumer-groups", "describes the three members", |s| {
        let output = s.java(GROUPS, &["--describe", "--group", GROUP, "--members", "--verbose"])?;
        let rows = output.lines().filter(|line| line.split_whitespace().next() == Some(GROUP)).count();
        ensure!(rows == 3, "{rows} members: {output}");
        Ok("3 members".to_owned())
    });
    let mut gone = Vec::new();
    session.check("kafka-verifiable-consumer", "one leaves: the others take over", |_| {
        ensure!(!members.is_empty(), "there are no members");
        let mut first = members.remove(0);
        first.stop()?;
        gone.push(first);
        balanced(&members)
    });
    session.check("kafka-verifiable-consumer", format!("all {acked} acked records reach the group"), |_| {
        let producer = producer.as_mut().context("the producer did not start")?;
        let ledger = acked_records(&producer.wait(PATIENCE)?);
        ensure!(ledger.len() == acked, "{} of {acked} were acked: {}", ledger.len(), producer.tail());
        let everyone: Vec<&Running> = gone.iter().chain(&members).collect();
        let complete = wait_until("all records consumed", PATIENCE, || {
            let (seen, doubles) = consumed(&everyone);
            (seen.len() >= ledger.len()).then_some((seen, doubles))
        });
        let (seen, doubles) = complete.unwrap_or_else(|_| consumed(&everyone));
        let missing = ledger.iter().filter(|(place, _)| !seen.contains_key(place)).count();
        ensure!(missing == 0, "{missing} acked records never reached the group");
        ensure!(seen == ledger, "the group saw records that differ from those acked");
        Ok(format!("{acked} equal by content, {doubles} delivered again around rebalances"))
    });
    session.check("kafka-consumer-groups", "describes an empty group at the log's end", |s| {
        for member in &mut members {
            member.stop()?;
        }
        let described = s.java(GROUPS, &["--describe", "--group", GROUP])?;
        let (lag, committed) =
            (sum_of_column(&described, TOPIC, "LAG")?, sum_of_column(&described, TOPIC, "CURRENT-OFFSET")?);
        // A partition without a commit has no lag to show.
        ensure!((lag, committed) == (0, acked as i64), "lag {lag} after commits up to {committed}: {described}");
        let state = s.java(GROUPS, &["--describe", "--group", GROUP, "--state"])?;
        ensure!(state.contains("Empty"), "state: {state}");
        let list = s.java(GROUPS, &["--list"])?;
        ensure!(list.lines().any(|line| line.trim() == GROUP), "list: {list}");
        Ok(format!("Empty, {committed} committed, lag 0"))
    });
}

fn start_member(s: &Session<'_>, name: &str) -> anyhow::Result<Running> {
    let arguments = ["--topic", TOPIC, "--group-id", GROUP, "--reset-policy", "earliest", "--verbose"];
    s.java_running("org.apache.kafka.tools.VerifiableConsumer", name, &arguments)
}

/// Waits until each member has an equal share and all partitions are taken once.
fn balanced(members: &[Running]) -> anyhow::Result<String> {
    let shares = wait_until("an even assignment", PATIENCE, || {
        let shares: Vec<BTreeSet<i64>> = members.iter().map(assignment).collect();
        let all: BTreeSet<i64> = shares.iter().flatten().copied().collect();
        let even = shares.iter().all(|share| share.len() == PARTITIONS / members.len());
        (even && all.len() == PARTITIONS).then_some(shares)
    });
    let shares = shares.with_context(|| members.iter().map(Running::tail).collect::<Vec<_>>().join("\n"))?;
    Ok(shares.iter().map(|share| format!("{share:?}")).collect::<Vec<_>>().join(" "))
}

/// The partitions that a member holds, by its last events.
fn assignment(member: &Running) -> BTreeSet<i64> {
    let mut held = BTreeSet::new();
    for event in events(&member.lines()) {
        let partitions = event["partitions"].as_array().into_iter().flatten().filter_map(|p| p["partition"].as_i64());
        match event["name"].as_str() {
            Some("partitions_assigned") => held.extend(partitions),
            Some("partitions_revoked") => partitions.for_each(|partition| {
                held.remove(&partition);
            }),
            _ => {}
        }
    }
    held
}

fn acked_records(lines: &[String]) -> BTreeMap<Place, String> {
    collect(lines, "producer_send_success").0
}

/// What all members saw, and how many of these deliveries were repeats.
fn consumed(members: &[&Running]) -> (BTreeMap<Place, String>, usize) {
    let lines: Vec<String> = members.iter().flat_map(|member| member.lines()).collect();
    collect(&lines, "record_data")
}

fn collect(lines: &[String], name: &str) -> (BTreeMap<Place, String>, usize) {
    let mut records = BTreeMap::new();
    let mut repeats = 0;
    for event in events(lines).filter(|event| event["name"] == name) {
        let (Some(partition), Some(offset)) = (event["partition"].as_i64(), event["offset"].as_i64()) else { continue };
        let value = event["value"].as_str().unwrap_or_default().to_owned();
        repeats += usize::from(records.insert((partition, offset), value).is_some());
    }
    (records, repeats)
}

fn events(lines: &[String]) -> impl Iterator<Item = Value> {
    lines.iter().filter_map(|line| serde_json::from_str(line).ok())
}

/// The sum of a column of `kafka-consumer-groups --describe` over the partitions of `topic`. A partition without a commit
/// counts as 0.
pub fn sum_of_column(described: &str, topic: &str, column: &str) -> anyhow::Result<i64> {
    let mut lines = described.lines().skip_while(|line| !line.starts_with("GROUP"));
    let head: Vec<&str> = lines.next().with_context(|| format!("no table: {described}"))?.split_whitespace().collect();
    let position = |name: &str| head.iter().position(|head| *head == name).with_context(|| format!("no column {name}"));
    let (topic_at, column_at) = (position("TOPIC")?, position(column)?);
    let mut sum = None;
    for line in lines {
        let cells: Vec<&str> = line.split_whitespace().collect();
        if cells.get(topic_at) == Some(&topic) {
            let cell = cells.get(column_at).with_context(|| format!("no {column}: {line}"))?;
            let value = if *cell == "-" { 0 } else { cell.parse().with_context(|| format!("{column} of {line}"))? };
            *sum.get_or_insert(0) += value;
        }
    }
    sum.with_context(|| format!("{topic} is not described: {described}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_described_group_is_summed_by_column() {
        let described = "\nGROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG\n\
            g t 0 5 10 5\ng t 1 - 10 -\ng other 0 7 7 0\ng t 2 10 10 0\n";
        assert_eq!(sum_of_column(described, "t", "LAG").unwrap(), 5);
        assert_eq!(sum_of_column(described, "t", "CURRENT-OFFSET").unwrap(), 15);
        assert!(sum_of_column(described, "absent", "LAG").is_err());
        assert!(sum_of_column("Consumer group g does not exist", "t", "LAG").is_err());
    }
}
