//! The conformance suite over every store and every layer.

use std::sync::Arc;
use std::time::Duration;

use seawall_backends::bandwidth::{Bandwidth, BandwidthConfig};
use seawall_backends::faulty::{Faults, Faulty};
use seawall_backends::fs::FsBackend;
use seawall_backends::gate::Gate;
use seawall_backends::limit::{Limit, LimitConfig};
use seawall_backends::memory::MemoryBackend;
use seawall_backends::observed::{Counters, Observed};
use seawall_backends::registry::layer;
use seawall_backends::retry::{Retry, RetryConfig};
use seawall_backends::timeout::{Timeout, TimeoutConfig};
use seawall_backends::traced::Traced;
use seawall_backends::{Backend, BackendConfig, Layers, conformance, open_layered, probe};

async fn conforms(backend: Arc<dyn Backend>) {
    let outcomes = conformance::run(&*backend, "scratch/run").await;
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.error.is_some()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(outcomes.len() >= 19);
}

fn memory() -> Arc<dyn Backend> {
    Arc::new(MemoryBackend::new())
}

/// Retries without long pauses and without end, as a test of a flaky store needs.
fn patient() -> RetryConfig {
    RetryConfig {
        pause_min: Duration::from_micros(100),
        pause_max: Duration::from_millis(1),
        budget_retries: 100_000,
        ..RetryConfig::default()
    }
}

#[tokio::test]
async fn the_memory_store_conforms() {
    conforms(memory()).await;
}

#[tokio::test]
async fn the_fs_store_conforms() {
    let folder = tempfile::tempdir().unwrap();
    conforms(Arc::new(FsBackend::open(folder.path()).unwrap())).await;
    let left: Vec<_> = std::fs::read_dir(folder.path().join(".tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn each_layer_alone_conforms() {
    conforms(Arc::new(Retry::new(memory(), RetryConfig::default(), 1))).await;
    conforms(Arc::new(Timeout::new(memory(), TimeoutConfig::default()))).await;
    conforms(Arc::new(Traced::new(memory()))).await;
    conforms(Arc::new(Gate::new(memory()))).await;
    conforms(Arc::new(Bandwidth::new(memory(), BandwidthConfig::default()))).await;
    conforms(Arc::new(Observed::new(memory(), Arc::new(Counters::default())))).await;
    conforms(Arc::new(Faulty::new(memory(), Faults::default(), 1))).await;
    let one_at_a_time = LimitConfig {
        operations_max: 1,
        operations_reserved: 0,
        bytes_max: 1,
        bytes_reserved: 0,
        waiting_max: 100,
        ..LimitConfig::default()
    };
    conforms(Arc::new(Limit::new(memory(), one_at_a_time))).await;
}

#[tokio::test]
async fn the_layers_over_the_fs_store_conform() {
    let folder = tempfile::tempdir().unwrap();
    let layered = open_layered(&BackendConfig::fs(folder.path()), Layers::default(), 1).await.unwrap();
    conforms(layered.backend).await;
}

#[tokio::test]
async fn the_layers_over_a_store_that_often_fails_conform() {
    for seed in 0..4 {
        let faults = Faults {
            error_before: 80,
            error_after: 80,
            slow: 20,
            truncated: 50, // caught by the length check of `retry`
            delay_max: Duration::from_micros(500),
            ..Faults::default()
        };
        let faulty = Arc::new(Faulty::new(memory(), faults, seed));
        conforms(layer(faulty, Layers { retry: patient(), ..Layers::default() }, seed).backend).await;
    }
}

#[tokio::test]
async fn the_suite_fails_on_each_way_of_lying() {
    let none = Faults::default();
    let lies = [
        ("truncated", Faults { truncated: 1_000, ..none.clone() }),
        ("corrupted", Faults { corrupted: 1_000, ..none.clone() }),
        ("foreign", Faults { foreign: 1_000, ..none.clone() }),
        ("stale listing", Faults { stale_listing: 1_000, ..none.clone() }),
        ("listing begins again", Faults { listing_begins_again: 1_000, ..none.clone() }),
        ("error after", Faults { error_after: 1_000, ..none.clone() }),
    ];
    for (lie, faults) in lies {
        let outcomes = conformance::run(&Faulty::new(memory(), faults, 3), "scratch").await;
        assert!(outcomes.iter().any(|outcome| outcome.error.is_some()), "{lie} was not noticed");
    }
}

#[tokio::test]
async fn the_probe_reports_the_base_set_and_leaves_nothing() {
    let store = MemoryBackend::new();
    let report = probe(&store, "prefix", 0).await.unwrap();
    assert!(report.base_set(), "{report}");
    assert!(report.checks.len() >= 8);
    assert!(store.contents().is_empty());

    let broken = Faulty::new(memory(), Faults { corrupted: 1_000, ..Faults::default() }, 1);
    let report = probe(&broken, "", 0).await.unwrap();
    assert!(!report.base_set());
    assert!(report.to_string().contains("FAILED  an object reads back whole and by range"), "{report}");
}
