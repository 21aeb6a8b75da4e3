//! Our S3 client over this server: the suite with the habits of each store, and with faults under the layers.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{client, config, patient, start};
use seawall_backends::conformance::{self, Outcome};
use seawall_backends::{BackendError, BackendKind, ObjectKey, Purpose, open, registry};
use seawall_hostile_store::{Fault, Faults, Like, Server, Settings};

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
        let report = server.report();
        assert_eq!((report.objects, report.conditional), (0, 0), "{like:?}");
        for refused in
            ["MissingContentMD5", "MissingContentLength", "BadDigest", "XAmzContentSHA256Mismatch", "Conflict"]
        {
            assert!(!report.refused.contains_key(refused), "{like:?}: {report:?}");
        }
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
