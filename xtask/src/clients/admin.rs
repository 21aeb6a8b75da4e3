//! Topics, configs, offsets and record deletion, through the tools that an operator has.

use anyhow::{Context, ensure};

use super::session::Session;

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const CONFIGS: &str = "kafka.admin.ConfigCommand";
const OFFSETS: &str = "org.apache.kafka.tools.GetOffsetShell";
const TOPIC: &str = "admin-test";

pub fn run(session: &mut Session<'_>) {
    session.check("kcat", "lists the brokers", |s| {
        let brokers = s.kcat(&["-L", "-J"])?;
        let metadata: serde_json::Value = serde_json::from_str(&brokers)?;
        let brokers = metadata["brokers"].as_array().context("no brokers")?.len();
        ensure!(brokers == 1, "{brokers} brokers");
        Ok("1 broker".to_owned())
    });
    session.check("kafka-topics", "creates with configs, replication factor 1", |s| {
        let create = ["--create", "--topic", TOPIC, "--partitions", "3", "--replication-factor", "1"];
        s.java(TOPICS, &[&create[..], &["--config", "retention.ms=86400000"]].concat())?;
        Ok("3 partitions".to_owned())
    });
    session.check("kafka-topics", "a second topic of the same name is refused", |s| {
        let error = s.java(TOPICS, &["--create", "--topic", TOPIC]).err().context("it was created twice")?.to_string();
        ensure!(error.contains("already exists"), "{error}");
        Ok("TopicExistsException".to_owned())
    });
    session.check("kafka-topics", "lists and describes", |s| {
        let list = s.java(TOPICS, &["--list"])?;
        ensure!(list.lines().any(|line| line == TOPIC), "not in the list: {list}");
        describe(s, 3)
    });
    session.check("kafka-topics", "adds partitions", |s| {
        s.java(TOPICS, &["--alter", "--topic", TOPIC, "--partitions", "5"])?;
        describe(s, 5)
    });
    session.check("kafka-configs", "sets, describes and deletes a topic config", |s| {
        let topic = ["--entity-type", "topics", "--entity-name", TOPIC];
        let with = |more: &[&'static str]| [&topic[..], more].concat();
        s.java(CONFIGS, &with(&["--alter", "--add-config", "max.message.bytes=2000000,retention.ms=7200000"]))?;
        let described = s.java(CONFIGS, &with(&["--describe"]))?;
        for config in ["max.message.bytes=2000000", "retention.ms=7200000"] {
            ensure!(described.contains(config), "{config} is not in: {described}");
        }
        s.java(CONFIGS, &with(&["--alter", "--delete-config", "max.message.bytes"]))?;
        let described = s.java(CONFIGS, &with(&["--describe"]))?;
        ensure!(!described.contains("max.message.bytes=2000000"), "still there: {described}");
        ensure!(described.contains("retention.ms=7200000"), "gone as well: {described}");
        Ok("max.message.bytes, retention.ms".to_owned())
    });
    session.check("kafka-configs", "refuses an invalid value", |s| {
        let alter = ["--entity-type", "topics", "--entity-name", TOPIC, "--alter", "--add-config", "retention.ms=soon"];
        let error = s.java(CONFIGS, &alter).err().context("it was accepted")?.to_string();
        ensure!(error.contains("InvalidConfigurationException"), "{error}");
        Ok("InvalidConfigurationException".to_owned())
    });
    session.check("kafka-configs", "describes all configs of the broker", |s| {
        let id = broker_id(s)?;
        let described = s.java(CONFIGS, &["--entity-type", "brokers", "--entity-name", &id, "--describe", "--all"])?;
        let known = ["message.max.bytes=", "log.retention.ms=", "num.partitions="];
        for config in known {
            ensure!(described.contains(config), "{config} is not in: {described}");
        }
        Ok(format!("{} configs", described.lines().count() - 1))
    });
    session.check("kafka-configs", "a group's own config, and the levels of the broker's loggers", |s| {
        let group = ["--entity-type", "groups", "--entity-name", "configured"];
        let alter = ["--alter", "--add-config", "consumer.session.timeout.ms=50000"];
        s.java(CONFIGS, &[&group[..], &alter].concat())?;
        let described = s.java(CONFIGS, &[&group[..], &["--describe"]].concat())?;
        ensure!(described.contains("consumer.session.timeout.ms=50000"), "not set: {described}");
        let id = broker_id(s)?;
        let loggers = s.java(CONFIGS, &["--entity-type", "broker-loggers", "--entity-name", &id, "--describe"])?;
        ensure!(loggers.contains("root="), "no root logger: {loggers}");
        Ok(format!("{} loggers", loggers.lines().count() - 1))
    });
    session.check("kafka-get-offsets", "earliest and latest, before and after records", |s| {
        ensure!(offsets(s, "latest")? == 0, "offsets of an empty topic");
        let lines: String = (0..100).map(|number| format!("{number}:value {number}\n")).collect();
        s.kcat_with_input(&["-P", "-t", TOPIC, "-K", ":"], lines.into_bytes())?;
        let (earliest, latest) = (offsets(s, "earliest")?, offsets(s, "latest")?);
        ensure!((earliest, latest) == (0, 100), "{earliest}..{latest}");
        Ok("0..100".to_owned())
    });
    session.check("kafka-delete-records", "moves the start of a partition", |s| {
        let file = std::env::temp_dir().join(format!("seawall-delete-records-{}.json", std::process::id()));
        let json = format!(r#"{{"partitions":[{{"topic":"{TOPIC}","partition":0,"offset":-1}}],"version":1}}"#);
        std::fs::write(&file, json)?;
        let path = file.to_str().context("the temporary folder is not UTF-8")?;
        let outcome = s.java("org.apache.kafka.tools.DeleteRecordsCommand", &["--offset-json-file", path]);
        std::fs::remove_file(&file)?;
        outcome?;
        let (earliest, latest) = (offsets(s, "earliest")?, offsets(s, "latest")?);
        ensure!(latest == 100 && earliest > 0, "{earliest}..{latest}");
        let left = s.kcat(&["-C", "-t", TOPIC, "-e", "-q", "-o", "beginning", "-f", "%s\n"])?.lines().count() as i64;
        ensure!(left == latest - earliest, "{left} records are left of {earliest}..{latest}");
        Ok(format!("{earliest} deleted, {left} left"))
    });
    session.check("kcat", "finds an offset by time", |s| {
        let offset = |partition: i32, ms: u64| s.kcat(&["-Q", "-t", &format!("{TOPIC}:{partition}:{ms}")]);
        let first = offset(1, 1)?;
        ensure!(first.trim() == format!("{TOPIC} [1] offset 0"), "{first}");
        let late = offset(1, 32_503_680_000_000)?;
        ensure!(late.contains(&format!("{TOPIC} [1] offset ")) && late != first, "in the year 3000: {late}");
        Ok(format!("{}; in the year 3000 {}", first.trim(), late.trim()))
    });
    session.check("kafka-topics", "deletes", |s| {
        s.java(TOPICS, &["--delete", "--topic", TOPIC])?;
        let list = s.java(TOPICS, &["--list"])?;
        ensure!(!list.lines().any(|line| line == TOPIC), "still in the list: {list}");
        Ok("gone from the list".to_owned())
    });
    session.check("kafka-topics", "creates the same name anew, empty", |s| {
        s.java(TOPICS, &["--create", "--topic", TOPIC, "--partitions", "1"])?;
        ensure!(offsets(s, "latest")? == 0, "records of its predecessor");
        s.java(TOPICS, &["--delete", "--topic", TOPIC])?;
        Ok("offsets begin at 0".to_owned())
    });
}

fn describe(s: &Session<'_>, partitions: usize) -> anyhow::Result<String> {
    let described = s.java(TOPICS, &["--describe", "--topic", TOPIC])?;
    ensure!(described.contains(&format!("PartitionCount: {partitions}")), "{described}");
    let led = described.lines().filter(|line| line.contains("Partition: ") && !line.contains("Leader: none")).count();
    ensure!(led == partitions, "{led} partitions have a leader: {described}");
    ensure!(described.contains("retention.ms=86400000"), "its config is missing: {described}");
    Ok(format!("{partitions} partitions with leaders"))
}

fn broker_id(s: &Session<'_>) -> anyhow::Result<String> {
    let metadata: serde_json::Value = serde_json::from_str(&s.kcat(&["-L", "-J"])?)?;
    Ok(metadata["brokers"][0]["id"].as_i64().context("no broker id")?.to_string())
}

/// The sum over all partitions.
fn offsets(s: &Session<'_>, time: &str) -> anyhow::Result<i64> {
    let output = s.java(OFFSETS, &["--topic", TOPIC, "--time", time])?;
    ensure!(output.lines().next().is_some(), "no partition is named");
    output.lines().map(|line| Ok(line.rsplit(':').next().context("no offset")?.parse::<i64>()?)).sum()
}
