//! What a start finds out about the object store, what it says, and what it does about a store that is away.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "store_probe/hostile.rs"]
mod hostile;
#[path = "store_probe/provider_chain.rs"]
mod provider_chain;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::child::{binary, run_to_end};
use common::log::{create_topic, fetch, produce};
use common::{Client, TestBroker, http_get, test_config};
use seawall::config::Config;
use seawall::node::{Node, NodeError};
use seawall::store::Store;
use seawall_backends::faulty::{Faults, Faulty};
use seawall_backends::fs::FsBackend;
use seawall_backends::{Backend, BackendConfig, BackendError, BackendKind, ObjectKey, Purpose};
use seawall_protocol::records::{BatchBuilder, Compression};
use tokio::time::Instant;

fn faulty(config: &Config, faults: Faults) -> Arc<Faulty> {
    let store = FsBackend::open(&config.store().path.unwrap()).unwrap();
    Arc::new(Faulty::new(Arc::new(store), faults, 1))
}

fn over(store: &Arc<Faulty>) -> Option<Store> {
    Some(Store::over(store.clone()))
}

fn refusing(refusal: BackendError) -> Faults {
    Faults { refusal: Some(refusal), ..Faults::default() }
}

async fn error_of(config: &Config, faults: Faults) -> String {
    let store = faulty(config, Faults::default());
    // Another object, long enough for every body to be taken for it.
    let (other, body) = (ObjectKey::new("other/object").unwrap(), bytes::Bytes::from(vec![7; 1 << 20]));
    store.put(&other, body.into(), Purpose::Probe).await.unwrap();
    store.set_faults(faults);
    match Node::start_over(config.clone(), over(&store)).await {
        Ok(_) => panic!("the node started"),
        Err(error @ NodeError::StoreProbe(_)) => error.to_string(),
        Err(other) => panic!("another error: {other}"),
    }
}

/// A folder that has been used: with a topic, a batch and the object that holds it.
async fn used(dir: &Path) -> Config {
    let config = test_config(dir);
    let node = Node::start(config.clone()).await.unwrap();
    let mut client = Client::connect(node.kafka_address).await;
    create_topic(&mut client, "t", 1, &[]).await;
    assert_eq!(produce(&mut client, "t", batch()).await, 0);
    node.stop().await;
    config
}

fn batch() -> bytes::Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.add(None, Some(b"value"), common::log::now_ms(), &[]);
    builder.build()
}

#[tokio::test]
async fn each_way_in_which_a_store_can_be_wrong_has_its_message() {
    let dir = tempfile::tempdir().unwrap();
    let config = test_config(dir.path());
    let place = format!("folder {}", config.store().path.unwrap().display());
    for (faults, message) in [
        (refusing(BackendError::Denied("wrong key".into())), "the object store, {}, denies access: wrong key"),
        (
            refusing(BackendError::Fatal("no such bucket".into())),
            "the object store, {}, cannot be used: no such bucket",
        ),
        (Faults { corrupted: 1_000, ..Faults::default() }, "lacks what a broker cannot do without: "),
        (Faults { foreign: 1_000, ..Faults::default() }, "lacks what a broker cannot do without: "),
        (Faults { stale_listing: 1_000, ..Faults::default() }, "lacks what a broker cannot do without: "),
        (
            Faults { clock_ahead_seconds: Some(-1_000), ..Faults::default() },
            "this machine's clock is 1000 s away from that of the object store, {}",
        ),
    ] {
        let error = error_of(&config, faults).await;
        assert!(error.contains(&message.replace("{}", &place)), "{error}\nwanted: {message}");
        assert!(!config.node.data_dir.join("store.toml").exists(), "nothing is remembered of it");
    }
    // None of that has left anything behind which a good store would mind.
    let store = faulty(&config, Faults { clock_ahead_seconds: Some(100), ..Faults::default() });
    Node::start_over(config.clone(), over(&store)).await.unwrap().stop().await;
    assert!(config.node.data_dir.join("store.toml").exists());
}

#[tokio::test]
async fn a_store_that_fails_now_and_then_is_fit_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let config = test_config(dir.path());
    let faults = Faults { error_before: 100, error_after: 100, ..Faults::default() };
    for _ in 0..2 {
        let store = faulty(&config, faults.clone());
        Node::start_over(config.clone(), over(&store)).await.unwrap().stop().await;
    }
}

#[tokio::test]
async fn a_first_start_that_gets_no_answer_waits_a_while_and_says_what_it_got() {
    let began = Instant::now();
    let says = async |faults: Faults, message: &str| {
        let dir = tempfile::tempdir().unwrap();
        let error = error_of(&test_config(dir.path()), faults).await;
        assert!(error.contains(message), "{error}\nwanted: {message}");
    };
    tokio::join!(
        says(refusing(BackendError::Transient("refused".into())), ": refused"),
        says(Faults { frozen: 1_000, ..Faults::default() }, ": no answer within"),
        says(refusing(BackendError::Throttled { retry_after: None }), ", asks for less"),
        says(refusing(BackendError::Full("quota".into())), ", has no room: quota"),
    );
    assert!(began.elapsed() > Duration::from_secs(9));
}

/// A server that answers every request in the same way.
async fn s3_server(status: u16, code: &'static str, date: Option<&'static str>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>words</Message></Error>");
    let answer = move || async move {
        let mut answer = axum::response::Response::new(axum::body::Body::from(body));
        *answer.status_mut() = axum::http::StatusCode::from_u16(status).unwrap();
        if let Some(date) = date {
            answer.headers_mut().insert("date", date.parse().unwrap());
        }
        answer
    };
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    endpoint
}

#[tokio::test]
async fn an_s3_store_that_says_no_is_told_in_words() {
    for (status, code, date, message) in [
        (404, "NoSuchBucket", None, "cannot be used: list: NoSuchBucket, status 404: the bucket does not exist"),
        (
            403,
            "InvalidAccessKeyId",
            None,
            "denies access: list: InvalidAccessKeyId, status 403: the store does not know the access",
        ),
        (403, "SignatureDoesNotMatch", None, "the secret key is not the one of the access key"),
        (403, "AccessDenied", None, "denies access: list: AccessDenied, status 403"),
        (301, "PermanentRedirect", None, "the bucket is in another region or at another endpoint"),
        (403, "RequestTimeTooSkewed", Some("Wed, 21 Oct 2015 07:28:00 GMT"), "s ahead of the store's"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = s3_server(status, code, date).await;
        let config = s3_config(dir.path(), &endpoint);
        let error = Node::start(config).await.err().unwrap();
        assert!(matches!(error, NodeError::StoreProbe(_)), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(message) && text.contains(&format!("bucket b at {endpoint}")),
            "{text}\nwanted: {message}"
        );
        assert!(!text.contains("marker-secret"), "{text}");
    }
}

#[tokio::test]
async fn an_s3_store_that_is_not_there_or_does_not_speak_tls_is_told_in_words() {
    let says = async |endpoint: String, message: &str| {
        let dir = tempfile::tempdir().unwrap();
        let text = Node::start(s3_config(dir.path(), &endpoint)).await.err().unwrap().to_string();
        assert!(
            text.contains(&format!("bucket b at {endpoint}")) && text.contains(message),
            "{text}\nwanted: {message}"
        );
    };
    let plain = s3_server(200, "", None).await.replace("http://", "https://");
    tokio::join!(says("http://127.0.0.1:1".into(), "Connection refused"), says(plain, "InvalidContentType"));
}

#[tokio::test]
async fn what_a_store_said_is_told_although_it_fell_silent_then() {
    let dir = tempfile::tempdir().unwrap();
    let config = test_config(dir.path());
    let store = faulty(&config, refusing(BackendError::Transient("the cable is out".into())));
    let falls_silent = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        store.set_faults(Faults { frozen: 1_000, ..Faults::default() });
    };
    let (started, ()) = tokio::join!(Node::start_over(config, over(&store)), falls_silent);
    let error = started.err().unwrap().to_string();
    let [said, then] = ["the cable is out", "; then no answer within "].map(|words| error.find(words));
    assert!(said.is_some() && said < then, "{error}");
}

fn s3_config(dir: &Path, endpoint: &str) -> Config {
    let mut config = test_config(dir);
    let [access, secret] = ["access", "secret"].map(|name| dir.join(name));
    fs::write(&access, "ACCESS").unwrap();
    fs::write(&secret, "marker-secret").unwrap();
    config.backend = BackendConfig {
        kind: BackendKind::Minio,
        endpoint: Some(endpoint.to_owned()),
        bucket: Some("b".into()),
        access_key_file: Some(access),
        secret_key_file: Some(secret),
        ..BackendConfig::default()
    };
    config
}

#[tokio::test]
async fn a_store_of_another_cluster_is_refused_and_so_is_one_that_lost_its_objects() {
    let dir = tempfile::tempdir().unwrap();
    let config = used(dir.path()).await;
    let objects = config.store().path.unwrap();
    let markers: Vec<_> = fs::read_dir(objects.join("seawall/seawall-cluster")).unwrap().collect();
    assert_eq!(markers.len(), 1);

    let other_dir = tempfile::tempdir().unwrap();
    let mut other = test_config(other_dir.path());
    other.backend.path = Some(objects.clone());
    let error = Node::start(other.clone()).await.err().unwrap().to_string();
    assert!(error.contains("belongs to cluster") && error.contains("backend.prefix = \"seawall\""), "{error}");
    other.backend.prefix = "theirs".into();
    Node::start(other).await.unwrap().stop().await;

    // As when a file system is not mounted.
    fs::rename(&objects, objects.with_extension("away")).unwrap();
    let error = Node::start(config.clone()).await.err().unwrap().to_string();
    assert!(error.contains("metadata names objects in it") && error.contains("not mounted"), "{error}");
    fs::remove_dir_all(&objects).unwrap();
    fs::rename(objects.with_extension("away"), &objects).unwrap();

    let name = markers[0].as_ref().unwrap().file_name().into_string().unwrap();
    let (cluster, _) = name.split_once('.').unwrap();
    let restored = objects.join(format!("seawall/seawall-cluster/{cluster}.{}", uuid::Uuid::new_v4()));
    fs::write(&restored, "").unwrap();
    let error = Node::start(config.clone()).await.err().unwrap().to_string();
    assert!(error.contains("another incarnation of this cluster"), "{error}");
    fs::remove_file(restored).unwrap();
    Node::start(config).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_known_store_that_is_away_is_asked_again_and_nothing_reaches_it_before() {
    let dir = tempfile::tempdir().unwrap();
    let config = used(dir.path()).await;
    let store = faulty(&config, refusing(BackendError::Transient("away".into())));
    // A partition that has objects waits for what they remember of its producers: a start with data ends when the store is back.
    let mut starting = std::pin::pin!(Node::start_over(config.clone(), over(&store)));
    assert!(tokio::time::timeout(Duration::from_secs(7), &mut starting).await.is_err());
    store.set_faults(Faults::default());
    let node = tokio::time::timeout(Duration::from_secs(20), starting).await.unwrap().unwrap();
    let mut client = Client::connect(node.kafka_address).await;
    assert_eq!(fetch(&mut client, "t", 0).await.len(), 1);
    assert_eq!(produce(&mut client, "t", batch()).await, 1);
    node.stop().await;
}

#[tokio::test]
async fn a_known_store_that_is_away_keeps_nobody_from_producing_to_what_is_in_the_wal() {
    let dir = tempfile::tempdir().unwrap();
    let config = test_config(dir.path());
    Node::start(config.clone()).await.unwrap().stop().await;
    let store = faulty(&config, refusing(BackendError::Transient("away".into())));
    let node = Node::start_over(config.clone(), over(&store)).await.unwrap();
    let state = http_get(node.admin_address, "/state").await.1;
    assert!(state.contains("\"state\":\"unprobed\""), "{state}");
    let metrics = http_get(node.admin_address, "/metrics").await.1;
    assert!(metrics.contains("seawall_store_state{state=\"unprobed\"} 1"), "{metrics}");
    let mut client = Client::connect(node.kafka_address).await;
    create_topic(&mut client, "t", 1, &[]).await;
    assert_eq!(produce(&mut client, "t", batch()).await, 0);

    store.set_faults(Faults::default());
    let deadline = Instant::now() + Duration::from_secs(20);
    while !http_get(node.admin_address, "/metrics").await.1.contains("seawall_store_state{state=\"ok\"} 1") {
        assert!(Instant::now() < deadline, "the store was not asked again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    node.stop().await;
    let node = Node::start(config).await.unwrap();
    let mut client = Client::connect(node.kafka_address).await;
    assert_eq!(fetch(&mut client, "t", 0).await.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn a_known_store_that_answers_wrongly_is_refused_at_a_start_and_stops_a_broker_that_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = test_config(dir.path());
    Node::start(config.clone()).await.unwrap().stop().await;
    let error = error_of(&config, refusing(BackendError::Denied("wrong key".into()))).await;
    assert!(error.contains("denies access: wrong key"), "{error}");

    let store = faulty(&config, refusing(BackendError::Transient("away".into())));
    let node = Node::start_over(config.clone(), over(&store)).await.unwrap();
    let marker = config.store().path.unwrap().join("seawall/seawall-cluster");
    fs::write(marker.join(format!("{}.{}", uuid::Uuid::new_v4(), uuid::Uuid::new_v4())), "").unwrap();
    store.set_faults(Faults::default());
    let failed = tokio::time::timeout(Duration::from_secs(20), node.failed()).await.unwrap().to_string();
    assert!(failed.contains("belongs to cluster"), "{failed}");
    node.stop().await;
}

#[tokio::test]
async fn the_second_start_asks_little_and_leaves_nothing() {
    let broker = TestBroker::start().await;
    let calls = |text: &str| -> u64 {
        let of_probe =
            |line: &&str| line.starts_with("seawall_store_calls_total") && line.contains("purpose=\"probe\"");
        let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        text.lines().filter(of_probe).map(value).sum()
    };
    let first = calls(&broker.admin("/metrics").await.1);
    let broker = broker.restart().await;
    let second = calls(&broker.admin("/metrics").await.1);
    assert!(first > 50 && second <= 6, "{first} calls, then {second}");
    let left: Vec<_> = walk(&broker.dir.path().join("data/objects/seawall/seawall-check"));
    assert!(left.is_empty(), "{left:?}");
    broker.stop().await;
}

#[test]
fn the_binary_ends_with_6_at_the_store_of_another_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir_all(data.join("objects/seawall/seawall-cluster")).unwrap();
    let other = uuid::Uuid::new_v4();
    fs::write(data.join(format!("objects/seawall/seawall-cluster/{other}.{other}")), "").unwrap();
    let mut command = std::process::Command::new(binary());
    command.args(["dev", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"]).arg(&data);
    let (code, errors) = run_to_end(command);
    assert_eq!(code, 6, "{errors}");
    assert!(errors.contains(&format!("belongs to cluster {other}")), "{errors}");
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() { files.extend(walk(&entry.path())) } else { files.push(entry.path()) }
    }
    files
}
