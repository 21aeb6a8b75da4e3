//! Our S3 client over this server: the suite with the habits of each store, and with faults under the layers.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use seawall_backends::conformance::{self, Outcome};
use seawall_backends::registry::{self, Layers};
use seawall_backends::retry::RetryConfig;
use seawall_backends::timeout::TimeoutConfig;
use seawall_backends::{Backend, BackendConfig, BackendError, BackendKind, ObjectKey, Purpose, list_all, open};
use seawall_hostile_store::{Fault, Faults, Like, Server, Settings};
use tempfile::TempDir;

async fn start(like: Like, faults: Faults, seed: u64) -> Server {
    let late_max = Duration::from_millis(50);
    Server::start(Settings { like, faults, seed, late_max, ..Settings::default() }).await.unwrap()
}

fn config(server: &Server, kind: BackendKind, folder: &Path) -> BackendConfig {
    let defaults = Settings::default();
    let (access, secret) = (folder.join("access"), folder.join("secret"));
    std::fs::write(&access, defaults.access).unwrap();
    std::fs::write(&secret, defaults.secret).unwrap();
    BackendConfig {
        kind,
        endpoint: Some(format!("http://{}", server.address())),
        bucket: Some(defaults.bucket),
        access_key_file: Some(access),
        secret_key_file: Some(secret),
        ..BackendConfig::default()
    }
}

/// The second is the folder of its keys, which it may read again.
async fn client(server: &Server, kind: BackendKind) -> (Arc<dyn Backend>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (open(&config(server, kind, folder.path())).await.unwrap(), folder)
}

/// Layers that repeat soon and for long.
fn patient() -> Layers {
    let retry = RetryConfig {
        pause_min: Duration::from_millis(1),
        pause_max: Duration::from_millis(20),
        budget_retries: 100_000,
        ..RetryConfig::default()
    };
    let timeout = TimeoutConfig { attempt_max: Duration::from_secs(1), ..TimeoutConfig::default() };
    Layers { retry, timeout, ..Layers::default() }
}

fn failed(outcomes: &[Outcome]) -> Vec<&Outcome> {
    outcomes.iter().filter(|outcome| outcome.error.is_some()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_knows_its_store_conforms_with_the_habits_of_each() {
    let stores =
        [(Like::Plain, BackendKind::Minio), (Like::Cubefs, BackendKind::Cubefs), (Like::CephRgw, BackendKind::CephRgw)];
    for (like, kind) in stores {
        let server = start(like, Faults::default(), 1).await;
        let (store, _keys) = client(&server, kind).await;
        let outcomes = conformance::run(&*store, "scratch/run").await;
        assert!(failed(&outcomes).is_empty(), "{like:?}: {:#?}", failed(&outcomes));
        assert!(outcomes.len() >= 19);
        assert_eq!(server.report().objects, 0, "{like:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_a_store_for_another_is_found_out() {
    let server = start(Like::Cubefs, Faults::default(), 1).await;
    let (store, _keys) = client(&server, BackendKind::Minio).await;
    let outcomes = conformance::run(&*store, "scratch/run").await;
    let words: Vec<_> = failed(&outcomes).iter().map(|outcome| outcome.case).collect();
    assert!(words.iter().any(|case| case.contains("more_than_a_page")), "{words:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_layers_hide_lost_replies_broken_bodies_errors_and_throttling() {
    for seed in 0..2 {
        let faults = Faults::default()
            .with(Fault::Lost, 40)
            .with(Fault::Refused, 40)
            .with(Fault::SlowDown, 1)
            .with(Fault::Cut, 60)
            .with(Fault::Short, 60);
        let server = start(Like::Plain, faults, seed).await;
        let (store, _keys) = client(&server, BackendKind::Minio).await;
        let layered = registry::layer(store, patient(), seed);
        let outcomes = conformance::run(&*layered.backend, "scratch/run").await;
        assert!(failed(&outcomes).is_empty(), "seed {seed}: {:#?}", failed(&outcomes));
        let met = server.report().faults;
        for fault in ["lost", "refused", "cut", "short"] {
            assert!(met.contains_key(fault), "seed {seed}: {met:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_lands_after_its_repeat_changes_nothing() {
    let server = start(Like::Plain, Faults::default().with(Fault::Late, 500), 7).await;
    let (store, _keys) = client(&server, BackendKind::Minio).await;
    let layered = registry::layer(store, patient(), 7);
    let key = |number: usize| ObjectKey::new(format!("folder/{number}")).unwrap();
    for number in 0..40 {
        let body = Bytes::from(vec![number as u8; 10_000]);
        layered.backend.put(&key(number), body.into(), Purpose::Upload).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let listed = list_all(&*layered.backend, "folder", Purpose::Scrub).await.unwrap();
    assert_eq!(listed.len(), 40);
    let report = server.report();
    assert!(report.faults["late"] > 10 && report.overwritten.is_empty(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_is_seen_by_a_client_without_layers() {
    let server = start(Like::Plain, Faults::default(), 1).await;
    let (store, _keys) = client(&server, BackendKind::Minio).await;
    let key = |name: &str| ObjectKey::new(format!("folder/{name}")).unwrap();
    let body = Bytes::from(vec![7; 5_000]);
    for name in ["a", "b"] {
        store.put(&key(name), body.clone().into(), Purpose::Upload).await.unwrap();
    }
    let read = || async { store.get_range(&key("a"), 0..5_000, Purpose::TailRead).await };
    let only = |fault| server.set_faults(Faults::default().with(fault, 1_000));

    only(Fault::SlowDown);
    let throttled = BackendError::Throttled { retry_after: Some(Duration::from_secs(1)) };
    assert_eq!(read().await.err(), Some(throttled));
    only(Fault::Refused);
    assert!(matches!(read().await, Err(BackendError::Transient(_))));
    only(Fault::Lost);
    let unknown = store.put(&key("c"), body.clone().into(), Purpose::Upload).await;
    assert!(matches!(unknown, Err(BackendError::Transient(_))), "{unknown:?}");
    only(Fault::Cut);
    assert!(matches!(read().await, Err(BackendError::Transient(_))));
    only(Fault::Short);
    assert!(read().await.is_err());
    only(Fault::Flipped);
    assert_ne!(read().await.unwrap().into_bytes(), body);
    only(Fault::Frozen);
    assert!(tokio::time::timeout(Duration::from_millis(300), read()).await.is_err());
    server.set_faults(Faults::default());
    // What was lost had been stored.
    assert_eq!(list_all(&*store, "folder", Purpose::Scrub).await.unwrap().len(), 3);
    store.delete_many(vec![key("a"), key("b")], Purpose::Compaction).await;
    only(Fault::Resurrect);
    assert_eq!(list_all(&*store, "folder", Purpose::Scrub).await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_a_fresh_bucket_are_refused() {
    let fresh = Settings { fresh_for: Duration::from_millis(500), like: Like::Cubefs, ..Settings::default() };
    let server = Server::start(fresh).await.unwrap();
    let (store, _keys) = client(&server, BackendKind::Cubefs).await;
    let key = ObjectKey::new("a").unwrap();
    let body = Bytes::from_static(b"x");
    let early = store.put(&key, body.clone().into(), Purpose::Probe).await;
    assert!(matches!(early, Err(BackendError::Denied(_))), "{early:?}");
    tokio::time::sleep(Duration::from_millis(600)).await;
    store.put(&key, body.clone().into(), Purpose::Probe).await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    let stranger = config(&server, BackendKind::Cubefs, folder.path());
    std::fs::write(folder.path().join("secret"), "another").unwrap();
    let denied = open(&stranger).await.unwrap().put(&key, body.into(), Purpose::Probe).await;
    assert!(matches!(denied, Err(BackendError::Denied(_))), "{denied:?}");
}
