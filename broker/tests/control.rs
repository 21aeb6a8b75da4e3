//! The control socket: a device of a WAL is replaced while the broker serves.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::TestBroker;
use common::child::{ChildBroker, binary, run_to_end};
use common::log::{create_topic, fetch, produce};
use seawall::control::{Answer, Request, socket_path};
use seawall_protocol::records::{BatchBuilder, Compression};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

const TOPIC: &str = "moved";

fn batch(bytes: usize) -> bytes::Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.add(None, Some(&vec![b'x'; bytes]), common::log::now_ms(), &[]);
    builder.build()
}

async fn ask(socket: &Path, line: &str) -> Vec<Answer> {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(line.as_bytes()).await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut answers = Vec::new();
    let all = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            answers.push(serde_json::from_str(&line).unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("the answer ends");
    answers
}

fn replace(device: PathBuf) -> String {
    let request = Request::ReplaceLeg { wal: None, leg: None, device, overwrite: false };
    serde_json::to_string(&request).unwrap() + "\n"
}

#[tokio::test]
async fn a_running_broker_takes_another_device_and_says_what_is_wrong_with_a_request() {
    let broker = TestBroker::start().await;
    let data = broker.dir.path().join("data");
    let socket = socket_path(&data);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let mut client = broker.client().await;
    create_topic(&mut client, TOPIC, 1, &[]).await;
    for offset in 0..4 {
        assert_eq!(produce(&mut client, TOPIC, batch(100_000)).await, offset);
    }
    for nonsense in ["\n", "{\"drop_everything\":{}}\n", "{\"replace_leg\":{\"device\":3}}\n"] {
        let answers = ask(&socket, nonsense).await;
        assert!(matches!(&answers[..], [Answer::Error { .. }]), "{answers:?}");
    }
    let second = broker.dir.path().join("second");
    std::fs::write(&second, "somebody's data").unwrap();
    let answers = ask(&socket, &replace(second.clone())).await;
    assert!(matches!(&answers[..], [Answer::Error { .. }]), "it is not overwritten: {answers:?}");
    std::fs::remove_file(&second).unwrap();

    let answers = ask(&socket, &replace(second.clone())).await;
    assert!(matches!(answers.last(), Some(Answer::Replaced { set_epoch: 1, .. })), "{answers:?}");
    assert_eq!(produce(&mut client, TOPIC, batch(1_000)).await, 4, "on both devices");
    let (status, state) = broker.admin("/state").await;
    assert_eq!(status, 200);
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    assert_eq!(
        (&state["wals"][0]["legs"].as_array().unwrap().len(), &state["wals"][0]["leg_set_epoch"]),
        (&2, &1.into())
    );
    drop(client);
    broker.stop().await;
}

fn wal_command(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(binary()).arg("wal").args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn config_file(dir: &Path, wal: &Path) -> PathBuf {
    let file = dir.join("seawall.toml");
    let (data, wal) = (dir.join("data"), wal.display());
    let text = format!(
        "[node]\ndata_dir = \"{}\"\n[listeners]\nkafka = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
         [[wal]]\nkind = \"file\"\npath = \"{wal}\"\nsize = \"32MiB\"\n[upload]\ninterval = \"1h\"\n",
        data.display()
    );
    std::fs::write(&file, text).unwrap();
    file
}

#[test]
fn who_asks_where_no_broker_answers_is_told_why_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let config = config_file(dir.path(), &dir.path().join("wal"));
    let ask = |config: &Path| {
        let with = dir.path().join("second");
        let (file, with_name) = (config.to_str().unwrap(), with.to_str().unwrap());
        let (code, _, error) = wal_command(&["replace", "--config", file, "--with", with_name, "--yes"]);
        assert!(code == 1 && error.contains("nothing was done") && !with.exists(), "{error}");
        error
    };
    let error = ask(&config);
    for said in ["only the broker knows", "seawall start --config", "dd if=OLD of=NEW", "wal give-up --config"] {
        assert!(error.contains(said), "{said}: {error}");
    }
    let deep = dir.path().join("a-long-name".repeat(15));
    std::fs::create_dir(&deep).unwrap();
    assert!(ask(&config_file(&deep, &dir.path().join("wal"))).contains("too long for a socket"));
}

/// By the command, as an operator does it.
#[tokio::test]
async fn a_wal_moves_to_another_device_and_the_next_start_finds_everything_there() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let config = config_file(dir.path(), &first);
    let (file, with) = (config.to_str().unwrap(), second.to_str().unwrap());
    let broker = ChildBroker::start(&config);
    let mut client = broker.client().await;
    create_topic(&mut client, TOPIC, 1, &[]).await;
    for offset in 0..3 {
        assert_eq!(produce(&mut client, TOPIC, batch(50_000)).await, offset);
    }
    let (code, _, error) = wal_command(&["replace", "--config", file, "--with", with]);
    assert!(code == 13 && !second.exists(), "{error}");
    let (_, state) = common::http_get(broker.admin_address, "/state").await;
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let leg = state["wals"][0]["legs"][0]["id"].as_str().unwrap();
    let arguments = ["replace", "--config", file, "--with", with, "--leg", leg, "--yes", "--json"];
    let (code, out, error) = wal_command(&arguments);
    assert_eq!(code, 0, "{error}");
    let replaced: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(replaced["set_epoch"], 2, "with both, then without the first");
    let (code, _, error) = wal_command(&arguments);
    assert!(code == 1 && error.contains("is no device of this WAL"), "{error}");
    assert_eq!(produce(&mut client, TOPIC, batch(50_000)).await, 3);
    drop(client);
    broker.kill();
    let (code, _, error) = wal_command(&arguments);
    assert!(code == 1 && error.contains(&format!("start --config {file}")), "{error}");

    let (code, error) = {
        let mut command = Command::new(binary());
        command.args(["start", "--config", file]);
        run_to_end(command)
    };
    assert!(code == 12 && error.contains("behind for good"), "{code}: {error}");
    let broker = ChildBroker::start(&config_file(dir.path(), &second));
    let mut client = broker.client().await;
    assert_eq!(produce(&mut client, TOPIC, batch(10)).await, 4);
    for offset in 0..5 {
        assert_eq!(fetch(&mut client, TOPIC, offset).await[0].offset, offset);
    }
    broker.kill();
}
