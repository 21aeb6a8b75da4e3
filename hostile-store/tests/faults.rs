//! What our S3 client makes of each fault, without layers and with them.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{client, patient, start};
use seawall_backends::{
    Backend, BackendError, BackendKind, ObjectKey, PartBody, PartNumber, Purpose, list_all, registry,
};
use seawall_hostile_store::{Fault, Faults, Like, Server, Settings};
use tempfile::TempDir;

/// What a store does for the length of a test, seen by a client without layers that has put `a` and `b`. What is stale is so for longer
/// than that.
async fn with_two_objects(fault: Fault) -> (Server, Arc<dyn Backend>, TempDir) {
    let late_max = Duration::from_secs(600);
    let server = Server::start(Settings { late_max, ..Settings::default() }).await.unwrap();
    let (store, keys) = client(&server, BackendKind::Minio).await;
    for (name, fill) in [("a", 1), ("b", 2)] {
        store.put(&key(name), vec![Bytes::from(vec![fill; 5_000])].into(), Purpose::Upload).await.unwrap();
    }
    server.set_faults(Faults::default().with(fault, 1_000));
    (server, store, keys)
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(format!("folder/{name}")).unwrap()
}

async fn listed(store: &dyn Backend) -> Vec<String> {
    let all = list_all(store, "folder", Purpose::Scrub).await.unwrap();
    all.into_iter().map(|(key, _)| key.file_name().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_body_of_the_right_length_is_handed_on_for_its_own_checksum_to_find() {
    let (_server, store, _keys) = with_two_objects(Fault::Foreign).await;
    let read = store.get_range(&key("a"), 100..200, Purpose::TailRead).await.unwrap();
    assert_eq!(read.into_bytes(), vec![2; 100]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_answer_is_an_error_and_never_fewer_bytes() {
    let (_server, store, _keys) = with_two_objects(Fault::Short).await;
    for _ in 0..20 {
        let read = store.get_range(&key("a"), 0..5_000, Purpose::TailRead).await;
        assert!(matches!(&read, Err(error) if error.is_retriable()), "{read:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_read_finds_no_new_object_and_still_finds_a_deleted_one() {
    let (server, store, _keys) = with_two_objects(Fault::Stale).await;
    store.put(&key("new"), vec![Bytes::from_static(b"x")].into(), Purpose::Upload).await.unwrap();
    let unseen = store.get_range(&key("new"), 0..1, Purpose::TailRead).await;
    assert_eq!(unseen.err(), Some(BackendError::NotFound));
    assert_eq!(store.head(&key("new"), Purpose::TailRead).await, Err(BackendError::NotFound));
    store.delete_many(vec![key("new")], Purpose::Compaction).await;
    let old = store.get_range(&key("new"), 0..1, Purpose::TailRead).await.unwrap();
    assert_eq!(old.into_bytes(), &b"x"[..], "the only bytes that this key ever had");
    assert!(server.report().overwritten.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_omits_or_delays_shows_less_and_never_what_is_not_there() {
    let (server, store, _keys) = with_two_objects(Fault::Omit).await;
    let mut seen = Vec::new();
    for _ in 0..30 {
        seen.push(listed(&*store).await);
    }
    assert!(seen.iter().all(|names| names.iter().all(|name| ["a", "b"].contains(&name.as_str()))), "{seen:?}");
    assert!(seen.iter().any(|names| names.len() < 2), "{seen:?}");
    server.set_faults(Faults::default().with(Fault::Delay, 1_000));
    store.put(&key("c"), vec![Bytes::new()].into(), Purpose::Upload).await.unwrap();
    assert!(listed(&*store).await.is_empty());
    server.set_faults(Faults::default());
    assert_eq!(listed(&*store).await, ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_resurrects_shows_what_reads_do_not_find() {
    let (_server, store, _keys) = with_two_objects(Fault::Resurrect).await;
    store.delete_many(vec![key("a")], Purpose::Compaction).await;
    assert_eq!(listed(&*store).await, ["a", "b"]);
    assert_eq!(store.head(&key("a"), Purpose::Scrub).await, Err(BackendError::NotFound));
    // What is deleted for the second time is Ok.
    assert!(store.delete_many(vec![key("a")], Purpose::Compaction).await[0].1.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_lands_minutes_later_in_the_life_of_the_next_client_is_one_more_object_and_changes_none() {
    let ten_minutes = Duration::from_secs(600);
    let server = Server::start(Settings { late_max: ten_minutes, ..Settings::default() }).await.unwrap();
    server.set_faults(Faults::default().with(Fault::Late, 1_000));
    // The first client gives up on both and is gone.
    {
        let (first, _keys) = client(&server, BackendKind::Minio).await;
        for name in ["0001", "0002"] {
            let unknown = first.put(&key(name), vec![Bytes::from_static(b"first")].into(), Purpose::Upload).await;
            assert!(matches!(unknown, Err(BackendError::Transient(_))), "{unknown:?}");
        }
    }
    server.set_faults(Faults::default());
    let (second, _keys) = client(&server, BackendKind::Minio).await;
    // Metadata gives keys once: 0001 is repeated with its bytes, which the log still has; 0002 is given up, 0003 is new.
    assert!(listed(&*second).await.is_empty(), "nothing has landed yet");
    second.put(&key("0001"), vec![Bytes::from_static(b"first")].into(), Purpose::Upload).await.unwrap();
    second.put(&key("0003"), vec![Bytes::from_static(b"second")].into(), Purpose::Upload).await.unwrap();
    server.land();
    tokio::time::timeout(Duration::from_secs(5), async {
        while server.report().objects < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(listed(&*second).await, ["0001", "0002", "0003"]);
    for (name, body) in [("0001", &b"first"[..]), ("0003", b"second")] {
        let read = second.get_range(&key(name), 0..body.len() as u64, Purpose::TailRead).await.unwrap();
        assert_eq!(read.into_bytes(), body);
    }
    assert!(server.report().overwritten.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_finds_out_about_other_bytes_tells() {
    let (server, store, _keys) = with_two_objects(Fault::Omit).await;
    store.put(&key("a"), vec![Bytes::from_static(b"other bytes")].into(), Purpose::Upload).await.unwrap();
    assert_eq!(server.report().overwritten, ["folder/a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_timed_out_at_a_frozen_store_is_repeated_with_the_same_bytes() {
    let server = start(Like::CephRgw, Faults::default().with(Fault::Frozen, 300), 3).await;
    let (store, _keys) = client(&server, BackendKind::CephRgw).await;
    let mut layers = patient();
    layers.timeout.attempt_max = Duration::from_millis(100);
    let layered = registry::layer(store, layers, 3);
    for number in 0..20 {
        let body = Bytes::from(vec![number; 1_000]);
        layered.backend.put(&key(&number.to_string()), body.into(), Purpose::Upload).await.unwrap();
    }
    let report = server.report();
    assert!(report.faults["frozen"] > 3 && report.overwritten.is_empty() && report.objects == 20, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_begun_in_parts_that_the_store_has_forgotten_is_an_error_and_not_a_halt() {
    let server = start(Like::Plain, Faults::default(), 1).await;
    let (store, _keys) = client(&server, BackendKind::Minio).await;
    let layered = registry::layer(store, patient(), 1);
    let id = layered.backend.begin_parts(&key("large"), Purpose::Upload).await.unwrap();
    layered.backend.abort_parts(&key("large"), &id, Purpose::Upload).await.unwrap();
    let number = PartNumber::new(1).unwrap();
    let body = PartBody::Bytes(Bytes::from_static(b"part").into());
    let put = layered.backend.put_part(&key("large"), &id, number, body, Purpose::Upload).await;
    assert_eq!(put.err(), Some(BackendError::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_is_seen_by_a_client_without_layers() {
    let server = start(Like::Plain, Faults::default(), 1).await;
    let (store, _keys) = client(&server, BackendKind::Minio).await;
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
async fn a_put_that_lands_after_its_repeat_changes_nothing() {
    let server = start(Like::Plain, Faults::default().with(Fault::Late, 500), 7).await;
    let (store, _keys) = client(&server, BackendKind::Minio).await;
    let layered = registry::layer(store, patient(), 7);
    for number in 0..40 {
        let body = Bytes::from(vec![number as u8; 10_000]);
        layered.backend.put(&key(&number.to_string()), body.into(), Purpose::Upload).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let listed = list_all(&*layered.backend, "folder", Purpose::Scrub).await.unwrap();
    assert_eq!(listed.len(), 40);
    let report = server.report();
    assert!(report.faults["late"] > 10 && report.overwritten.is_empty(), "{report:?}");
}
