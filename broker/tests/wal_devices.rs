//! A broker on raw block devices of this machine's kernel: one that fails under a mirror, one that takes its place, and what a
//! restart makes of those that are left. Needs root, loop devices and FUSE.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::child::{ChildBroker, binary, run_to_end};
use common::log::{batch, create_topic, fetch, produce};
use common::{Client, http_get};
use seawall_qualify::fault_disk::{FaultDisk, Operation, possible};
use serde_json::Value;

const TOPIC: &str = "mirrored";
const DISK_BYTES: u64 = 64 << 20;

fn disk(dir: &Path, name: &str) -> FaultDisk {
    FaultDisk::create(&dir.join(name), DISK_BYTES).unwrap()
}

/// Nothing is uploaded: the WAL alone holds the records.
fn config_file(dir: &Path, devices: &[&FaultDisk]) -> PathBuf {
    let devices: Vec<&Path> = devices.iter().map(|disk| disk.device()).collect();
    let wal = match devices[..] {
        [one] => format!("kind = \"device\"\ndevice = {one:?}"),
        _ => format!("kind = \"mirror\"\ndevices = {devices:?}"),
    };
    let file = dir.join("seawall.toml");
    let text = format!(
        "[node]\ndata_dir = {:?}\n[listeners]\nkafka = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
         [[wal]]\n{wal}\n[upload]\ninterval = \"1h\"\nbytes = \"1GiB\"\n",
        dir.join("data")
    );
    std::fs::write(&file, text).unwrap();
    file
}

fn wal(args: &[&str]) -> (i32, String) {
    let output = Command::new(binary()).arg("wal").args(args).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn start(config: &Path) -> (i32, String) {
    let mut command = Command::new(binary());
    command.arg("start").arg("--config").arg(config);
    run_to_end(command)
}

/// The WAL's part of `/state`.
async fn state(broker: &ChildBroker) -> Value {
    let (_, text) = http_get(broker.admin_address, "/state").await;
    serde_json::from_str::<Value>(&text).unwrap()["wals"][0].take()
}

fn alarms(state: &Value) -> Vec<&str> {
    state["alarms"].as_array().unwrap().iter().map(|alarm| alarm["kind"].as_str().unwrap()).collect()
}

async fn until_alarms(broker: &ChildBroker, expected: &[&str]) -> Value {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let state = state(broker).await;
        if alarms(&state) == expected {
            return state;
        }
        assert!(Instant::now() < deadline, "expected {expected:?}: {state}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Every produce is acked, with the next offset.
async fn produce_all(client: &mut Client, from: i64, count: i64) {
    for offset in from..from + count {
        assert_eq!(produce(client, TOPIC, batch(&[&offset.to_string()])).await, offset);
    }
}

async fn read_all(client: &mut Client, end: i64) {
    let mut next = 0;
    while next < end {
        for record in fetch(client, TOPIC, next).await {
            assert_eq!((record.offset, &record.value.unwrap()[..]), (next, next.to_string().as_bytes()));
            next += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_outlives_its_devices_one_after_the_other() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (a, b, c) = (disk(dir.path(), "a"), disk(dir.path(), "b"), disk(dir.path(), "c"));
    let config = config_file(dir.path(), &[&a, &b]);
    let file = config.to_str().unwrap();
    let name = |disk: &FaultDisk| disk.device().to_str().unwrap().to_owned();
    let (code, error) = start(&config);
    assert_eq!(code, 12, "a device is not formatted by itself: {error}");
    let (code, error) = wal(&["format", &name(&a), "--mirror", &name(&b), "--config", file, "--yes"]);
    assert_eq!(code, 0, "{error}");

    let broker = ChildBroker::start(&config);
    let mut client = broker.client().await;
    create_topic(&mut client, TOPIC, 1, &[]).await;
    produce_all(&mut client, 0, 50).await;
    assert_eq!(alarms(&state(&broker).await), [""; 0]);
    b.fail_next(Operation::Write, u32::MAX);
    produce_all(&mut client, 50, 50).await;
    let now = until_alarms(&broker, &["leg_missing"]).await;
    assert_eq!((&now["leg_set_epoch"], now["legs"].as_array().unwrap().len()), (&2.into(), 1));
    b.fail_no_more();
    drop(client);
    broker.kill();

    // The failed one works again, and lacks half of the records.
    let (code, error) = start(&config_file(dir.path(), &[&b]));
    assert!(code == 12 && error.contains("behind for good"), "{code}: {error}");
    let broker = ChildBroker::start(&config_file(dir.path(), &[&a, &b]));
    let mut client = broker.client().await;
    read_all(&mut client, 100).await;
    until_alarms(&broker, &["leg_missing"]).await;

    let (code, error) = wal(&["replace", "--config", file, "--with", &name(&b), "--yes"]);
    assert_eq!(code, 1, "it holds a WAL: {error}");
    let (code, error) = wal(&["replace", "--config", file, "--with", &name(&c), "--yes"]);
    assert_eq!(code, 0, "{error}");
    until_alarms(&broker, &[]).await;
    produce_all(&mut client, 100, 50).await;
    a.fail_next(Operation::Flush, u32::MAX);
    a.fail_next(Operation::Write, u32::MAX);
    produce_all(&mut client, 150, 50).await;
    until_alarms(&broker, &["leg_missing"]).await;
    read_all(&mut client, 200).await;
    drop(client);
    broker.kill();

    let broker = ChildBroker::start(&config_file(dir.path(), &[&c]));
    let mut client = broker.client().await;
    read_all(&mut client, 200).await;
    produce_all(&mut client, 200, 1).await;
    drop(client);
    broker.kill();
}

/// One that can be read and not written counts as one that is away.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_outlives_its_devices_that_fail_at_a_start() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (disk(dir.path(), "a"), disk(dir.path(), "b"));
    let config = config_file(dir.path(), &[&a, &b]);
    let name = |disk: &FaultDisk| disk.device().to_str().unwrap().to_owned();
    let (code, error) =
        wal(&["format", &name(&a), "--mirror", &name(&b), "--config", config.to_str().unwrap(), "--yes"]);
    assert_eq!(code, 0, "{error}");

    // Nothing was acked yet, but that is not known without both.
    b.fail_next(Operation::Write, u32::MAX);
    let (code, error) = start(&config);
    assert!(code == 12 && error.contains(&name(&b)) && error.contains("format it anew"), "{code}: {error}");
    b.fail_no_more();
    let broker = ChildBroker::start(&config);
    let mut client = broker.client().await;
    create_topic(&mut client, TOPIC, 1, &[]).await;
    produce_all(&mut client, 0, 50).await;
    drop(client);
    broker.kill();

    b.fail_next(Operation::Write, u32::MAX);
    let broker = ChildBroker::start(&config);
    let mut client = broker.client().await;
    let now = until_alarms(&broker, &["leg_missing"]).await;
    assert_eq!((&now["leg_set_epoch"], now["legs"].as_array().unwrap().len()), (&2.into(), 1));
    read_all(&mut client, 50).await;
    produce_all(&mut client, 50, 50).await;
    drop(client);
    broker.kill();
    b.fail_no_more();

    let (code, error) = start(&config_file(dir.path(), &[&b]));
    assert!(code == 12 && error.contains("behind for good"), "{code}: {error}");
    a.fail_next(Operation::Write, u32::MAX);
    let (code, error) = start(&config_file(dir.path(), &[&a, &b]));
    assert!(code == 12 && error.contains(&name(&a)) && error.contains("copy it whole"), "{code}: {error}");
    a.fail_no_more();
    let broker = ChildBroker::start(&config_file(dir.path(), &[&a, &b]));
    let mut client = broker.client().await;
    read_all(&mut client, 100).await;
    drop(client);
    broker.kill();
}
