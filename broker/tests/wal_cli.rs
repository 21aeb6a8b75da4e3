//! `seawall wal ...`: what it prints, its exit codes, and that it changes nothing unless it was asked to.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::child::{ChildBroker, binary, run_to_end};
use common::log::{batch, create_topic, fetch, produce, try_produce, values};
use serde_json::Value;

/// Exit code, standard output, standard error.
fn wal(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(binary()).arg("wal").args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn json(args: &[&str]) -> (i32, Value) {
    let (code, out, error) = wal(args);
    (code, serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}\n{error}")))
}

/// Nothing is uploaded: the WAL alone holds the records.
fn config_file(dir: &Path) -> PathBuf {
    let file = dir.join("seawall.toml");
    let text = format!(
        "[node]\ndata_dir = \"{}\"\n[listeners]\nkafka = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
         [[wal]]\nkind = \"file\"\nsize = \"32MiB\"\n[upload]\ninterval = \"1h\"\nbytes = \"1GiB\"\n",
        dir.join("data").display()
    );
    fs::write(&file, text).unwrap();
    file
}

/// A killed broker whose WAL holds these values, each in a batch of its own.
async fn written(config: &Path, values: &[&str]) {
    written_to(&config.with_file_name("data/wal/wal.0"), config, values).await;
}

async fn written_to(device: &Path, config: &Path, values: &[&str]) {
    let broker = ChildBroker::start(config);
    let mut client = broker.client().await;
    create_topic(&mut client, "a", 1, &[]).await;
    for value in values {
        produce(&mut client, "a", batch(&[value])).await;
    }
    // An idle WAL covers its last records with an empty frame.
    tokio::time::sleep(Duration::from_secs(1)).await;
    broker.kill();
    // It keeps its lock until the kernel has finished its last writes.
    let free = || wal(&["verify", device.to_str().unwrap()]).0 == 0;
    assert!((0..10).any(|_| free()), "the lock stays");
}

#[test]
fn format_asks_for_yes_and_overwrites_nothing_by_accident() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wal");
    let file = path.to_str().unwrap();
    assert_eq!(wal(&["format", file, "--size", "32MiB"]).0, 2, "whose WAL it is must be said");
    let (code, _, error) = wal(&["format", file, "--node", "7", "--size", "32MiB"]);
    assert_eq!(code, 13, "{error}");
    assert!(error.contains("would be made") && !path.exists(), "{error}");
    let (code, made) = json(&["format", file, "--node", "7", "--size", "32MiB", "--yes", "--json"]);
    assert_eq!((code, &made["ring_bytes"], &made["node"]), (0, &Value::from(32 << 20), &Value::from(7)));

    let (code, _, error) = wal(&["format", file, "--node", "7", "--size", "32MiB", "--yes"]);
    assert_eq!(code, 12, "{error}");
    assert!(error.contains(made["wal"].as_str().unwrap()), "{error}");
    let (code, shown) = json(&["inspect", file, "--json"]);
    assert_eq!((code, &shown["superblock"]["wal"], &shown["kind"]), (0, &made["wal"], &Value::from("file")));
    assert_eq!(shown["superblock"]["cluster"], Value::Null);
    let (code, text, _) = wal(&["inspect", file]);
    assert!(code == 0 && text.contains("none yet: it was never opened"), "{text}");
    assert!(!format!("{shown}{text}").contains("salt"), "the salt is shown nowhere");
    assert_eq!(wal(&["format", file, "--node", "7", "--size", "32MiB", "--yes", "--overwrite"]).0, 0);
    assert_eq!(wal(&["inspect", "/no/such/wal"]).0, 12);
    let (code, _, error) = wal(&["format", "/dev/no-such-disk", "--node", "7", "--size", "32MiB", "--yes"]);
    assert!(code == 12 && error.contains("no file is made"), "{code}: {error}");
    assert_eq!(wal(&["format", file, "--node", "7", "--size", "1000", "--yes", "--overwrite"]).0, 2);
}

#[test]
fn both_devices_of_a_mirror_are_made_and_verified_together() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let [one, two] = [&one, &two].map(|path| path.to_str().unwrap());
    let (code, made) = json(&["format", one, "--mirror", two, "--node", "1", "--size", "16MiB", "--yes", "--json"]);
    assert_eq!((code, &made["devices"]), (0, &serde_json::json!([one, two])));
    let [of_one, of_two] = [one, two].map(|path| json(&["inspect", path, "--json"]).1["superblock"].clone());
    assert!(of_one["wal"] == of_two["wal"] && of_one["leg"] != of_two["leg"] && of_one["mirror"] == true, "{of_one}");
    let (code, text, _) = wal(&["verify", one]);
    assert!(code == 0 && text.contains("the other may hold what this one lacks"), "{text}");
    let (code, found) = json(&["verify", one, two, "--json"]);
    assert!(code == 0 && found["legs_differ"] == serde_json::json!([]), "{found}");
    fs::copy(one, two).unwrap();
    let (code, _, error) = wal(&["verify", one, two]);
    assert!(code == 12 && error.contains("again"), "a copy is no second device: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_and_dump_show_what_a_killed_broker_left_and_refuse_a_running_one() {
    let dir = tempfile::tempdir().unwrap();
    let config = config_file(dir.path());
    let path = dir.path().join("data/wal/wal.0");
    let file = path.to_str().unwrap();
    written(&config, &["one", "two", "three"]).await;
    let before = fs::read(&path).unwrap();
    let (code, found) = json(&["verify", file, "--json"]);
    assert_eq!(code, 0, "{found}");
    assert!(found["records"].as_u64().unwrap() >= 3 && found["damage"] == Value::Array(Vec::new()), "{found}");
    let (code, text, _) = wal(&["verify", file]);
    assert!(code == 0 && text.contains("every acknowledged byte is there"), "{text}");

    let batches = dir.path().join("batches");
    let (code, out, _) = wal(&["dump", file, "--json", "--payload", batches.to_str().unwrap()]);
    assert_eq!(code, 0);
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let records: Vec<&Value> = lines.iter().filter(|line| line.get("record").is_some()).collect();
    assert_eq!(records.len() as u64, found["records"].as_u64().unwrap());
    assert!(lines.iter().any(|line| line.get("frame").is_some()), "{out}");
    let three = fs::read(records[records.len() - 1]["file"].as_str().unwrap()).unwrap();
    assert!(three.windows(5).any(|bytes| bytes == b"three"));
    let stream = records[0]["stream"].to_string();
    let (code, text, _) = wal(&["dump", file, "--stream", &stream]);
    assert!(code == 0 && text.lines().all(|line| line.contains(" record stream ")), "{text}");
    assert_eq!(wal(&["dump", file, "--from", "1"]).0, 12, "no frame starts there");
    assert!(fs::read(&path).unwrap() == before, "looking changes nothing");

    let broker = ChildBroker::start(&config);
    let (code, _, error) = wal(&["verify", file]);
    assert_eq!(code, 8, "{error}");
    assert_eq!(wal(&["inspect", file]).0, 0);
    assert_eq!(wal(&["verify", file, "--while-open"]).0, 0);
    assert!(tokio::task::spawn_blocking(|| broker.terminate()).await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn give_up_uploads_what_continues_saves_the_rest_and_the_partition_goes_on_beyond() {
    let dir = tempfile::tempdir().unwrap();
    let config = config_file(dir.path());
    let path = dir.path().join("data/wal/wal.0");
    let file = path.to_str().unwrap();
    written(&config, &["the first value", "the second value", "the third value"]).await;
    damage(&path, b"the second value");

    let (code, error) = run_to_end(start(&config));
    assert_eq!(code, 10, "{error}");
    let (code, found) = json(&["verify", file, "--json"]);
    assert_eq!((code, found["damage"].as_array().unwrap().is_empty()), (10, false), "{found}");
    let (_, shown) = json(&["inspect", file, "--json"]);
    let id = shown["superblock"]["wal"].as_str().unwrap();
    let save = dir.path().join("saved");
    let arguments = ["give-up", "--config", config.to_str().unwrap(), "--wal", id, "--save", save.to_str().unwrap()];
    let (code, _, error) = wal(&arguments);
    assert_eq!(code, 13, "{error}");
    assert!(error.contains("a-0 may have lost acknowledged records") && !save.exists(), "{error}");
    assert_eq!(run_to_end(start(&config)).0, 10, "nothing was done yet");

    let (code, given_up) = json(&[&arguments[..], &["--yes", "--json"]].concat());
    assert_eq!((code, &given_up["jumped"]), (0, &serde_json::json!(["a-0"])), "{given_up}");
    let record: Value = serde_json::from_slice(&fs::read(save.join("given-up.json")).unwrap()).unwrap();
    let streams = record["streams"].as_array().unwrap();
    let of_a = streams.iter().find(|stream| stream["partition"] == "a-0").unwrap();
    let range = |from: i64, to: i64| serde_json::json!([{"from": from, "to": to}]);
    assert_eq!(of_a["uploaded_offsets"], range(0, 1), "{record}");
    assert_eq!(of_a["missing_offsets"], range(1, 2), "{record}");
    assert_eq!(of_a["saved_offsets"], range(2, 3), "{record}");
    let saved = fs::read(of_a["saved_file"].as_str().unwrap()).unwrap();
    assert!(saved.windows(15).any(|bytes| bytes == b"the third value"));

    let broker = ChildBroker::start(&config);
    let mut client = broker.client().await;
    assert_eq!(values(&fetch(&mut client, "a", 0).await), ["the first value"]);
    let next = try_produce(&mut client, "a", batch(&["the fourth value"])).await;
    assert_eq!(next.error_code, 0, "{:?}", next.error_message);
    assert!(next.base_offset > 1_000, "no consumer takes it for a lost one: {}", next.base_offset);
    assert_eq!(values(&fetch(&mut client, "a", next.base_offset).await), ["the fourth value"]);
    assert!(tokio::task::spawn_blocking(|| broker.terminate()).await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wal_whose_device_is_gone_is_given_up_only_when_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let config = config_file(dir.path());
    let path = dir.path().join("data/wal/wal.0");
    written(&config, &["lost"]).await;
    let (_, shown) = json(&["inspect", path.to_str().unwrap(), "--json"]);
    let id = shown["superblock"]["wal"].as_str().unwrap();
    fs::remove_file(&path).unwrap();
    let (code, error) = run_to_end(start(&config));
    assert_eq!(code, 10, "its partitions may have acked data there: {error}");
    fs::remove_file(&path).unwrap();

    let save = dir.path().join("saved");
    let arguments =
        ["give-up", "--config", config.to_str().unwrap(), "--wal", id, "--save", save.to_str().unwrap(), "--yes"];
    let (code, _, error) = wal(&arguments);
    assert_eq!(code, 12, "{error}");
    assert!(error.contains("--device-lost"), "{error}");
    let (code, out, error) = wal(&[&arguments[..], &["--device-lost"]].concat());
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("a-0: its next offset"), "{out}");
    let (code, _, error) = wal(&[&arguments[..], &["--device-lost"]].concat());
    assert_eq!(code, 12, "{error}");
    assert!(error.contains("nothing to give up"), "{error}");

    let broker = ChildBroker::start(&config);
    let mut client = broker.client().await;
    let next = try_produce(&mut client, "a", batch(&["new"])).await;
    assert!(next.error_code == 0 && next.base_offset > 1_000, "{next:?}");
    broker.kill();
}

/// What one device lost the other one has; what both lost is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_is_given_up_with_what_either_device_has_and_not_while_one_of_them_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let config = config_file(dir.path());
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let devices = [&one, &two].map(|path| path.to_str().unwrap());
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        text.replace("kind = \"file\"\nsize = \"32MiB\"", &format!("kind = \"mirror\"\ndevices = {devices:?}")),
    )
    .unwrap();
    let file = config.to_str().unwrap();
    let (code, _, error) =
        wal(&["format", devices[0], "--mirror", devices[1], "--config", file, "--size", "32MiB", "--yes"]);
    assert_eq!(code, 0, "{error}");
    written_to(&one, &config, &["the first value", "the second value", "the third value", "the fourth value"]).await;
    damage(&one, b"the first value");
    damage(&one, b"the third value");
    damage(&two, b"the third value");
    damage(&two, b"the fourth value");
    let (code, error) = run_to_end(start(&config));
    assert_eq!(code, 10, "{error}");

    let id = json(&["inspect", devices[0], "--json"]).1["superblock"]["wal"].as_str().unwrap().to_owned();
    let save = dir.path().join("saved");
    let arguments = ["give-up", "--config", file, "--wal", &id, "--save", save.to_str().unwrap(), "--yes"];
    let away = dir.path().join("away");
    fs::rename(&one, &away).unwrap();
    let (code, error) = run_to_end(start(&config));
    assert!(code == 10 && error.contains("one is not there and may hold it"), "{code}: {error}");
    let (code, _, error) = wal(&arguments);
    assert!(code == 12 && error.contains("is not there or not named") && error.contains(devices[0]), "{code}: {error}");
    fs::rename(&away, &one).unwrap();
    let (code, _, error) = wal(&arguments);
    assert_eq!(code, 0, "{error}");
    let record: Value = serde_json::from_slice(&fs::read(save.join("given-up.json")).unwrap()).unwrap();
    let of_a = record["streams"].as_array().unwrap().iter().find(|stream| stream["partition"] == "a-0").unwrap();
    let range = |from: i64, to: i64| serde_json::json!([{"from": from, "to": to}]);
    assert_eq!(of_a["uploaded_offsets"], range(0, 2), "{record}");
    assert_eq!(of_a["missing_offsets"], range(2, 3), "{record}");
    assert_eq!(of_a["saved_offsets"], range(3, 4), "{record}");

    let broker = ChildBroker::start(&config);
    let mut client = broker.client().await;
    assert_eq!(values(&fetch(&mut client, "a", 0).await), ["the first value", "the second value"]);
    let next = try_produce(&mut client, "a", batch(&["the fifth value"])).await;
    assert!(next.error_code == 0 && next.base_offset > 1_000, "{next:?}");
    broker.kill();
    // The saved batches are nowhere else.
    assert!((0..10).any(|_| wal(&["verify", devices[0], devices[1]]).0 == 0), "both are whole again");
    let (code, _, error) = wal(&arguments);
    assert!(code == 12 && error.contains("another give-up"), "{code}: {error}");
    let broker = ChildBroker::start(&config);
    let mut client = broker.client().await;
    assert_eq!(values(&fetch(&mut client, "a", next.base_offset).await), ["the fifth value"]);
    broker.kill();
}

fn start(config: &Path) -> Command {
    let mut command = Command::new(binary());
    command.arg("start").arg("--config").arg(config);
    command
}

fn damage(wal: &Path, value: &[u8]) {
    let mut bytes = fs::read(wal).unwrap();
    let at = bytes.windows(value.len()).position(|window| window == value).unwrap();
    bytes[at] ^= 1;
    fs::write(wal, bytes).unwrap();
}
