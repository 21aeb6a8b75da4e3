//! The conformance suite over a real S3 server that stands somewhere: `SEAWALL_TEST_S3=kind,endpoint,bucket`, keys in the
//! usual variables of AWS.

use std::sync::Arc;

use seawall_backends::{Backend, BackendConfig, BackendKind, Layers, conformance, open, registry};

fn config() -> BackendConfig {
    let text = std::env::var("SEAWALL_TEST_S3").expect("SEAWALL_TEST_S3=kind,endpoint,bucket");
    let [kind, endpoint, bucket] = text.split(',').collect::<Vec<_>>().try_into().expect("kind,endpoint,bucket");
    let kinds = [BackendKind::Minio, BackendKind::CephRgw, BackendKind::Cubefs, BackendKind::S3];
    BackendConfig {
        kind: kinds.into_iter().find(|known| known.name() == kind).expect("a kind that speaks S3"),
        endpoint: Some(endpoint.to_owned()),
        bucket: Some(bucket.to_owned()),
        ..Default::default()
    }
}

async fn conforms(backend: Arc<dyn Backend>) {
    let scratch = format!("scratch/{}", uuid::Uuid::new_v4().simple());
    let tell = |outcome: &conformance::Outcome| {
        println!("{:>8.1?} {} {:?}", outcome.elapsed, outcome.case, outcome.error);
    };
    let outcomes = conformance::run_and_tell(&*backend, &scratch, tell).await;
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.error.is_some()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a store"]
async fn the_store_conforms_under_the_layers() {
    let bare = open(&config()).await.unwrap();
    conforms(registry::layer(bare, Layers::default(), 1).backend).await;
}
