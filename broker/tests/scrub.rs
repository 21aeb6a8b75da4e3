//! `seawall scrub` against a running broker: what it finds in a store that was tampered with, what it deletes, and that it goes on
//! where it was stopped. Over files, and over a store whose listings lie.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use common::child::{ChildBroker, binary};
use common::log::{batch, create_topic, produce};
use common::{Client, http_get};
use seawall::object_format::{ObjectBuilder, ObjectIndex, SectionKind, read_any_footer};
use seawall_hostile_store::{Fault, Faults, Server, Settings};
use seawall_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, delete_topics_request::DeleteTopicState};
use serde_json::Value;

const TOPIC: &str = "scrubbed";
/// Twenty uploads at most: each test waits for a few.
const PATIENCE: Duration = Duration::from_secs(60);

fn config_file(dir: &Path, backend: &str) -> PathBuf {
    let file = dir.join("seawall.toml");
    let text = format!(
        "[node]\ndata_dir = \"{}\"\n[listeners]\nkafka = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
         [[wal]]\nkind = \"file\"\nsize = \"32MiB\"\n[upload]\ninterval = \"200ms\"\n\
         [objects]\ndelete_grace = \"1s\"\n[backup]\nenabled = false\n{backend}",
        dir.join("data").display()
    );
    fs::write(&file, text).unwrap();
    file
}

/// Exit code, lines of JSON (or of text), standard error.
fn run(config: &Path, args: &[&str]) -> (i32, Vec<Value>, String) {
    let mut command = Command::new(binary());
    command.arg("scrub").arg("--config").arg(config).args(["--json", "--rate", "4GiB"]).args(args);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (output.status.code().unwrap(), lines, String::from_utf8(output.stderr).unwrap())
}

/// A scrub of half a minute, that has begun.
struct Slow {
    child: Child,
    errors: BufReader<ChildStderr>,
}

impl Slow {
    fn start(config: &Path) -> Slow {
        let mut command = Command::new(binary());
        command.args(["scrub", "--json", "--rate", "20MiB", "--config"]).arg(config);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        // Progress comes each second.
        while !line.contains("scrub: ") || line.contains(" 0 %") {
            line.clear();
            assert!(errors.read_line(&mut line).unwrap() > 0, "it ended");
        }
        Slow { child, errors }
    }

    fn ended(&mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.errors.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        // Most likely it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kinds(lines: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<&str> = lines.iter().filter_map(|line| line["found"]["kind"].as_str()).collect();
    kinds.sort_unstable();
    kinds
}

/// Every object in the folder of the store.
fn objects(store: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![store.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
            let name = entry.file_name().unwrap().to_str().unwrap().to_owned();
            match entry.is_dir() {
                true if !name.starts_with('.') && !name.starts_with("seawall-") => folders.push(entry),
                false if name.len() == 16 => found.push(entry),
                _ => {}
            }
        }
    }
    found.sort_by_key(|path| path.file_name().unwrap().to_owned());
    found
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn delete_topic(client: &mut Client, topic: &str) {
    let topics = vec![DeleteTopicState { name: Some(topic.into()), ..Default::default() }];
    let request = DeleteTopicsRequest { topics, timeout_ms: 10_000, ..Default::default() };
    let response: DeleteTopicsResponse = client.call(6, &request).await;
    assert_eq!(response.responses[0].error_code, 0);
}

/// An object of the same id and length that holds other offsets than metadata says.
fn shifted(bytes: &[u8]) -> Vec<u8> {
    let footer = read_any_footer(bytes, bytes.len() as u64).unwrap();
    let section = footer.section(SectionKind::Index).unwrap();
    let at = section.position as usize;
    let index = ObjectIndex::decode(&bytes[at..at + section.bytes as usize], footer.data_bytes).unwrap();
    let mut builder = ObjectBuilder::new(footer.object, footer.incarnation);
    for block in index.blocks() {
        let shifted = seawall::object_format::BlockEntry { base: block.base + 1_000, end: block.end + 1_000, ..*block };
        let span = block.span();
        let data = bytes::Bytes::copy_from_slice(&bytes[span.start as usize..span.end as usize]);
        builder.add_block(&shifted, data);
    }
    let object = builder.finish().segments.concat();
    assert_eq!(object.len(), bytes.len());
    object
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_to_a_store_is_found_and_only_what_is_safe_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("data/objects");
    let config = config_file(dir.path(), "");
    let broker = ChildBroker::start(&config);
    let mut client = broker.client().await;
    create_topic(&mut client, TOPIC, 1, &[]).await;
    create_topic(&mut client, "gone", 1, &[]).await;
    for number in 0..5 {
        produce(&mut client, TOPIC, batch(&["value"])).await;
        until("an upload", || objects(&store).len() == number + 1).await;
    }
    // The last one is of the other topic, which goes.
    produce(&mut client, "gone", batch(&["value"])).await;
    until("an upload", || objects(&store).len() == 6).await;
    let (code, lines, errors) = run(&config, &["--deep"]);
    assert!(code == 0 && kinds(&lines).is_empty(), "{code} {lines:?} {errors}");
    assert_eq!(lines.last().unwrap()["scrubbed"]["totals"]["objects"], 6);

    let all = objects(&store);
    let orphan = (all[5].clone(), fs::read(&all[5]).unwrap());
    delete_topic(&mut client, "gone").await;
    until("a deletion", || !orphan.0.exists()).await;
    let began = Instant::now();
    while !broker.admin("/metrics").await.1.contains("seawall_objects{state=\"marked\"} 0") {
        assert!(began.elapsed() < PATIENCE, "metadata forgets what is deleted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    fs::write(&orphan.0, &orphan.1).unwrap();
    fs::remove_file(&all[0]).unwrap();
    let mut flipped = fs::read(&all[1]).unwrap();
    let at = flipped.len() - 90;
    flipped[at] ^= 2;
    fs::write(&all[1], flipped).unwrap();
    let mut in_data = fs::read(&all[2]).unwrap();
    in_data[40] ^= 2;
    fs::write(&all[2], in_data).unwrap();
    fs::write(&all[3], shifted(&fs::read(&all[3]).unwrap())).unwrap();

    let (code, lines, _) = run(&config, &[]);
    assert_eq!((code, kinds(&lines)), (10, vec!["corrupt", "mismatch", "missing", "orphan"]), "{lines:#?}");
    let key = lines.iter().find(|line| line["found"]["kind"] == "mismatch").unwrap()["found"]["key"].clone();
    let (code, lines, _) = run(&config, &["--deep", "--repair"]);
    assert_eq!((code, kinds(&lines)), (10, vec!["corrupt", "corrupt", "corrupt", "missing", "orphan"]), "{lines:#?}");
    let done: Vec<&Value> = lines.iter().filter(|line| line["found"]["done"].is_string()).collect();
    assert!(done.len() == 1 && done[0]["found"]["kind"] == "orphan", "{done:?}");
    assert!(!orphan.0.exists() && all[1..5].iter().all(|object| object.exists()));

    let text = Command::new(binary()).args(["scrub", "--rate", "4GiB", "--config"]).arg(&config).output().unwrap();
    let out = String::from_utf8(text.stdout).unwrap();
    for said in ["MISSING", "look closer: seawall backend stat", "result             objects are damaged or missing"] {
        assert!(out.contains(said), "{said}: {out}");
    }
    let (_, metrics) = http_get(broker.admin_address, "/metrics").await;
    for line in ["seawall_scrub_findings{kind=\"corrupt\"} 1", "seawall_scrub_last_finished_timestamp_seconds 1"] {
        assert!(metrics.contains(line), "{line} is not shown");
    }
    let verified =
        Command::new(binary()).args(["object", "verify", key.as_str().unwrap(), "--config"]).arg(&config).output();
    assert_eq!(verified.unwrap().status.code(), Some(10), "its batches have other offsets than its index");
    broker.kill();
    let (code, _, errors) = run(&config, &[]);
    assert!(code == 1 && errors.contains("only a running broker's metadata says"), "{code} {errors}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrub_goes_on_where_its_command_or_its_broker_was_ended() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("data/objects");
    let config = config_file(dir.path(), "");
    let broker = ChildBroker::start(&config);
    let mut client = broker.client().await;
    create_topic(&mut client, TOPIC, 1, &[]).await;
    for number in 0..8 {
        produce(&mut client, TOPIC, batch(&["value"])).await;
        until("an upload", || objects(&store).len() == number + 1).await;
    }
    fs::remove_file(&objects(&store)[3]).unwrap();
    drop(client);
    let mut given_up = Slow::start(&config);
    let (code, _, errors) = run(&config, &[]);
    assert!(code == 1 && errors.contains("under way already"), "{code} {errors}");
    given_up.child.kill().unwrap();
    given_up.child.wait().unwrap();
    let began = Instant::now();
    let (code, lines) = loop {
        let (code, lines, errors) = run(&config, &[]);
        if !errors.contains("under way already") {
            break (code, lines);
        }
        assert!(began.elapsed() < PATIENCE, "the broker goes on for nobody");
    };
    let summary = &lines.last().unwrap()["scrubbed"];
    assert_eq!((code, &summary["resumed"], &summary["totals"]["objects"]), (10, &true.into(), &8.into()));

    let mut scrubbing = Slow::start(&config);
    broker.kill();
    let (code, rest) = scrubbing.ended();
    assert!(code == Some(1) && rest.contains("goes on where it stood"), "{code:?} {rest}");

    let broker = ChildBroker::start(&config);
    let (code, lines, _) = run(&config, &[]);
    let summary = &lines.last().unwrap()["scrubbed"];
    assert_eq!((code, &summary["resumed"]), (10, &true.into()), "{lines:?}");
    assert_eq!((&summary["totals"]["objects"], &summary["totals"]["findings"]["missing"]), (&8.into(), &1.into()));
    let (code, lines, _) = run(&config, &[]);
    assert_eq!((code, &lines.last().unwrap()["scrubbed"]["resumed"]), (10, &false.into()));
    broker.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_that_omit_delay_or_resurrect_make_no_object_an_orphan() {
    let settings = Settings {
        access: "hostile-access".into(),
        secret: "hostile-secret".into(),
        late_max: Duration::from_secs(600),
        ..Settings::default()
    };
    let server = Server::start(settings.clone()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let [access, secret] = ["access", "secret"].map(|name| dir.path().join(name));
    fs::write(&access, &settings.access).unwrap();
    fs::write(&secret, &settings.secret).unwrap();
    let backend = format!(
        "[backend]\nkind = \"minio\"\nendpoint = \"http://{}\"\nbucket = \"{}\"\naccess_key_file = \"{}\"\nsecret_key_file = \"{}\"\n",
        server.address(),
        settings.bucket,
        access.display(),
        secret.display()
    );
    let config = config_file(dir.path(), &backend);
    let broker = ChildBroker::start(&config);
    let mut client = broker.client().await;
    create_topic(&mut client, TOPIC, 1, &[]).await;
    create_topic(&mut client, "gone", 1, &[]).await;
    let stored = || server.report().objects;
    let before = stored();
    for topic in [TOPIC, "gone", TOPIC, "gone"] {
        let had = stored();
        produce(&mut client, topic, batch(&["value"])).await;
        until("an upload", || stored() > had).await;
    }
    delete_topic(&mut client, "gone").await;
    until("the deletions", || stored() <= before + 2).await;
    for faults in ["omit=1000", "delay=1000", "resurrect=1000", "omit=300,delay=300,resurrect=300"] {
        server.set_faults(faults.parse::<Faults>().unwrap());
        let had = stored();
        let (code, lines, errors) = run(&config, &["--repair", "--deep"]);
        assert!(code == 0 && kinds(&lines).is_empty(), "{faults}: {code} {lines:?} {errors}");
        assert_eq!((&lines.last().unwrap()["scrubbed"]["totals"]["objects"], stored()), (&2.into(), had), "{faults}");
    }
    let met = server.report().faults;
    assert!(
        [Fault::Omit, Fault::Delay, Fault::Resurrect].iter().all(|fault| met.contains_key(fault.name())),
        "{met:?}"
    );
    drop(client);
    broker.kill();
}
