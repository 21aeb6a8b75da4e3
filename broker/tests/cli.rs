//! The command line: what it prints, and the exit code of each thing that can be wrong.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    fs,
    io::ErrorKind,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::Path,
    process::Command,
    time::Duration,
};

use common::child::{ChildBroker, binary, dev_command, run_to_end};
use seawall_protocol::messages::{MetadataRequest, MetadataResponse};

/// A configuration with a small WAL, on free ports, with its data under `dir`.
fn config_file(dir: &Path, more: &str) -> std::path::PathBuf {
    let file = dir.join("seawall.toml");
    let text = format!(
        "[node]\ndata_dir = \"{}\"\n[listeners]\nkafka = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
         [[wal]]\nkind = \"file\"\nsize = \"32MiB\"\n{more}",
        dir.join("data").display()
    );
    fs::write(&file, text).unwrap();
    file
}

fn start_command(config: &Path) -> Command {
    let mut command = Command::new(binary());
    command.arg("start").arg("--config").arg(config);
    command
}

fn output(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(binary()).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Settings of the build that a build without this workspace's `.cargo/config.toml` would miss.
#[test]
fn the_allocator_gives_memory_back() {
    let output = Command::new(binary()).arg("version").env("_RJEM_MALLOC_CONF", "stats_print:true").output().unwrap();
    let statistics = String::from_utf8_lossy(&output.stderr);
    for setting in ["opt.background_thread: true", "opt.dirty_decay_ms: 1000", "opt.muzzy_decay_ms: 0"] {
        assert!(statistics.contains(setting), "{setting}: {statistics:.2000}");
    }
}

#[test]
fn version_and_example_are_printed() {
    let (code, version, _) = output(&["version"]);
    assert_eq!((code, version.trim()), (0, concat!("seawall ", env!("CARGO_PKG_VERSION"))));
    let (code, example, _) = output(&["config", "example"]);
    assert_eq!(code, 0);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("example.toml");
    fs::write(&file, example).unwrap();
    assert_eq!(output(&["config", "check", file.to_str().unwrap()]).0, 0);
}

#[test]
fn the_devices_of_a_configuration_are_printed_and_files_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let wals = "[[wal]]\nkind = \"device\"\ndevice = \"/dev/disk/by-id/a\"\n\
                [[wal]]\nkind = \"mirror\"\ndevices = [\"/dev/b\", \"/dev/c\"]\n";
    let file = config_file(dir.path(), wals);
    let (code, devices, _) = output(&["config", "devices", file.to_str().unwrap()]);
    assert_eq!((code, devices.as_str()), (0, "/dev/disk/by-id/a\n/dev/b\n/dev/c\n"));
    assert_eq!(output(&["config", "devices", "/no/such/file"]).0, 3);
}

#[test]
fn systemd_is_told_that_the_broker_is_ready_lives_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let told = || {
        let mut bytes = [0; 64];
        let length = loop {
            match manager.recv(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => break received.unwrap(),
            }
        };
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let mut start = start_command(&config_file(dir.path(), ""));
    start.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "300000");
    let broker = ChildBroker::spawn(start);
    assert_eq!((told().as_str(), told().as_str(), told().as_str()), ("READY=1", "WATCHDOG=1", "WATCHDOG=1"));
    assert!(broker.terminate().success());
    let last: Vec<String> = std::iter::repeat_with(told).take_while(|told| told != "STOPPING=1").collect();
    assert!(last.iter().all(|told| told == "WATCHDOG=1"), "{last:?}");
}

#[test]
fn wrong_arguments_are_2_and_a_bad_configuration_is_3_with_the_nearest_name() {
    assert_eq!(output(&["no-such-command"]).0, 2);
    let dir = tempfile::tempdir().unwrap();
    let file = config_file(dir.path(), "[upload]\nintervall = \"1s\"\n");
    for (code, error) in [
        {
            let (code, _, error) = output(&["config", "check", file.to_str().unwrap()]);
            (code, error)
        },
        run_to_end(start_command(&file)),
    ] {
        assert_eq!(code, 3, "{error}");
        assert!(error.contains("unknown key `intervall`; did you mean `interval`?"), "{error}");
        assert!(error.contains("line 10"), "{error}");
    }
    assert_eq!(output(&["config", "check", "/no/such/file"]).0, 3);
    assert!(!dir.path().join("data").exists(), "nothing is written before the configuration is read");
}

#[test]
fn a_taken_port_is_4_and_nothing_is_written() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut command = Command::new(binary());
    command.args(["dev", "--admin", "127.0.0.1:0", "--listen", &taken.local_addr().unwrap().to_string()]);
    command.arg("--data").arg(&data);
    let (code, error) = run_to_end(command);
    assert_eq!(code, 4, "{error}");
    assert!(error.contains(&taken.local_addr().unwrap().to_string()), "{error}");
    assert!(!data.exists());
}

#[test]
fn a_data_folder_that_cannot_be_used_is_5() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a-file");
    fs::write(&file, "").unwrap();
    let (code, error) = run_to_end(dev_command(&file.join("data")));
    assert_eq!(code, 5, "{error}");
    // Root may write anywhere, so the permission itself is shown to ordinary users only.
    let locked = dir.path().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o500)).unwrap();
    if fs::write(locked.join("probe"), "").is_err() {
        assert_eq!(run_to_end(dev_command(&locked.join("data"))).0, 5);
    }
}

#[test]
fn a_folder_of_another_node_is_6_and_of_a_newer_version_7_and_damaged_10() {
    let dir = tempfile::tempdir().unwrap();
    let file = config_file(dir.path(), "");
    assert!(ChildBroker::start(&file).terminate().success());
    let other = config_file(dir.path(), "");
    let text = fs::read_to_string(&other).unwrap().replace("[node]\n", "[node]\nid = 2\n");
    fs::write(&other, text).unwrap();
    let (code, error) = run_to_end(start_command(&other));
    assert_eq!(code, 6, "{error}");
    let meta = dir.path().join("data/seawall.toml");
    let text = fs::read_to_string(&meta).unwrap();
    let file = config_file(dir.path(), "");
    fs::write(&meta, text.replace("format = 1", "format = 2")).unwrap();
    let (code, error) = run_to_end(start_command(&file));
    assert_eq!(code, 7, "{error}");
    fs::write(&meta, "\0\0\0").unwrap();
    let (code, error) = run_to_end(start_command(&file));
    assert_eq!(code, 10, "{error}");
    // As it was, it starts again: nothing was touched.
    fs::write(&meta, text).unwrap();
    assert!(ChildBroker::start(&file).terminate().success());
}

#[test]
fn a_wal_of_another_cluster_is_6() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (file_one, file_two) = (config_file(one.path(), ""), config_file(two.path(), ""));
    assert!(ChildBroker::start(&file_one).terminate().success());
    assert!(ChildBroker::start(&file_two).terminate().success());
    fs::copy(one.path().join("data/wal/wal.0"), two.path().join("data/wal/wal.0")).unwrap();
    let (code, error) = run_to_end(start_command(&file_two));
    assert_eq!(code, 6, "{error}");
}

#[test]
fn a_second_process_on_the_same_folder_is_8_and_the_first_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = config_file(dir.path(), "");
    let first = ChildBroker::start(&file);
    let (code, error) = run_to_end(start_command(&file));
    assert_eq!(code, 8, "{error}");
    assert!(error.contains("in use by another process"), "{error}");
    assert!(first.terminate().success());
}

#[test]
fn a_full_disk_is_9_and_leaves_no_half_a_wal() {
    let dir = tempfile::tempdir().unwrap();
    let mount = dir.path().join("small");
    fs::create_dir(&mount).unwrap();
    // A file system of its own, seen by this command only; needs user namespaces, not root.
    let script = "mount -t tmpfs -o size=8m tmpfs \"$0\" || exit 77; \"$1\" dev --listen 127.0.0.1:0 --admin 127.0.0.1:0 \
                  --data \"$0/data\"; code=$?; echo \"left: [$(ls \"$0/data/wal\")]\" >&2; exit $code";
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", script]).arg(&mount).arg(binary());
    let (code, error) = run_to_end(command);
    if code == 77 || error.starts_with("unshare:") {
        eprintln!("left out: no user namespaces here");
        return;
    }
    assert_eq!(code, 9, "{error}");
    assert!(error.contains("left: []"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_banner_says_where_everything_is_and_a_stop_ends_connections() {
    let dir = tempfile::tempdir().unwrap();
    let broker = ChildBroker::start(&config_file(dir.path(), ""));
    for part in ["kafka", "admin", "cluster", "metadata", "objects", "wal", "durability", "acks"] {
        assert!(broker.banner.contains(&format!("\n  {part} ")), "{part} in\n{}", broker.banner);
    }
    let (status, _) = broker.admin("/readyz").await;
    assert_eq!(status, 200);
    let mut client = broker.client().await;
    let _: MetadataResponse = client.call(12, &MetadataRequest::default()).await;
    assert!(tokio::task::spawn_blocking(|| broker.terminate()).await.unwrap().success());
    client.closed().await;
}
