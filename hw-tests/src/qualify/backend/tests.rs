//! A store that does what it should, one that ignores deletes, one that gives back other bytes, one that is slow, and one that
//! cannot be reached.

use std::ops::Range;

use bytes::Bytes;
use seawall_backends::memory::MemoryBackend;
use seawall_backends::{BackendError, BoxFuture, Capabilities, ListPage, ObjectKey, ObjectMeta, Purpose, Segments};
use seawall_hostile_store::{Fault, Faults, Server, Settings};

use super::super::findings::Findings;
use super::super::thresholds::Thresholds;
use super::super::verdict::{Level, Verdict, judge};
use super::*;

const SHORT: Load = Load { length: Duration::from_millis(600), in_flight: 4 };

/// The built-in rules, with bounds that a busy machine keeps: of a slice of milliseconds it may have had nothing.
fn verdict(findings: &Findings) -> Verdict {
    let mut thresholds = Thresholds::load(None).unwrap();
    for (name, rule) in &mut thresholds.backend.rules {
        if name.ends_with("_mib_per_s") {
            (rule.fail_below, rule.warn_below) = (Some(0.0), None);
        }
    }
    thresholds.backend.rules.get_mut("get_p99_ms").unwrap().warn_above = None;
    judge(findings, &thresholds)
}

#[derive(Default)]
struct Ill {
    ignores_deletes: bool,
    changes_bytes: bool,
}

struct IllStore {
    ill: Ill,
    below: MemoryBackend,
}

impl Backend for IllStore {
    fn put<'a>(
        &'a self,
        key: &'a ObjectKey,
        body: Segments,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        self.below.put(key, body, purpose)
    }

    fn get_range<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: Range<u64>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<Segments, BackendError>> {
        Box::pin(async move {
            let read = self.below.get_range(key, range, purpose).await?;
            // The conformance suite's own objects stay as they are: only under load does it go wrong.
            if !self.ill.changes_bytes || !key.as_str().contains("/load/") {
                return Ok(read);
            }
            let mut bytes = read.into_bytes().to_vec();
            if let Some(byte) = bytes.last_mut() {
                *byte ^= 1;
            }
            Ok(Bytes::from(bytes).into())
        })
    }

    fn head<'a>(&'a self, key: &'a ObjectKey, purpose: Purpose) -> BoxFuture<'a, Result<ObjectMeta, BackendError>> {
        self.below.head(key, purpose)
    }

    fn delete_many(
        &self,
        keys: Vec<ObjectKey>,
        purpose: Purpose,
    ) -> BoxFuture<'_, Vec<(ObjectKey, Result<(), BackendError>)>> {
        if self.ill.ignores_deletes {
            return Box::pin(async { keys.into_iter().map(|key| (key, Ok(()))).collect() });
        }
        self.below.delete_many(keys, purpose)
    }

    fn list_folder<'a>(
        &'a self,
        folder: &'a str,
        start_after: Option<&'a ObjectKey>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<ListPage, BackendError>> {
        self.below.list_folder(folder, start_after, purpose)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { parts: false, lists_begun: false, ..self.below.capabilities() }
    }

    fn name(&self) -> &str {
        "ill"
    }
}

async fn of_ill_store(ill: Ill) -> Findings {
    let store = Arc::new(IllStore { ill, below: MemoryBackend::new() });
    probe_store(store, "", "memory", SHORT, &Stop::never()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_ignores_deletes_or_changes_bytes_is_told_from_one_that_does_neither() {
    let good = of_ill_store(Ill::default()).await;
    assert_ne!(verdict(&good).level, Level::Fail, "{:?}", verdict(&good));
    assert_eq!(good.measures["changed_objects"], 0.0);

    let keeps = of_ill_store(Ill { ignores_deletes: true, ..Ill::default() }).await;
    assert_eq!(verdict(&keeps).level, Level::Fail);
    assert!(keeps.notes.iter().any(|note| note.contains("delete")), "{:?}", keeps.notes);

    let changes = of_ill_store(Ill { changes_bytes: true, ..Ill::default() }).await;
    let verdict = verdict(&changes);
    assert_eq!(verdict.level, Level::Fail);
    assert!(verdict.summary.contains("objects that came back changed"), "{}", verdict.summary);
}

async fn hostile(faults: Faults) -> (Server, BackendConfig, tempfile::TempDir) {
    let defaults = Settings::default();
    let folder = tempfile::tempdir().unwrap();
    let (access, secret) = (folder.path().join("access"), folder.path().join("secret"));
    fs::write(&access, &defaults.access).unwrap();
    fs::write(&secret, &defaults.secret).unwrap();
    let server = Server::start(Settings { faults, ..Settings::default() }).await.unwrap();
    let config = BackendConfig {
        kind: seawall_backends::BackendKind::Minio,
        endpoint: Some(format!("http://{}", server.address())),
        bucket: Some(defaults.bucket),
        access_key_file: Some(access),
        secret_key_file: Some(secret),
        ..BackendConfig::default()
    };
    (server, config, folder)
}

async fn of_hostile(faults: Faults) -> Findings {
    let (_server, config, _folder) = hostile(faults).await;
    let store = seawall_backends::open(&config).await.unwrap();
    probe_store(store, "site", &config.place(), SHORT, &Stop::never()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_s3_a_store_that_still_lists_what_was_deleted_is_not_qualified() {
    let good = of_hostile(Faults::default()).await;
    assert_ne!(verdict(&good).level, Level::Fail, "{:?}", verdict(&good));
    let bad = of_hostile(Faults::default().with(Fault::Resurrect, 1_000)).await;
    assert_eq!(verdict(&bad).level, Level::Fail);
    assert!(verdict(&bad).summary.contains("conformance"), "{}", verdict(&bad).summary);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_leaves_nothing_in_the_store() {
    let store: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    probe_store(Arc::clone(&store), "site", "memory", SHORT, &Stop::never()).await.unwrap();
    let parent = format!("site/{}", scratch::PARENT);
    let left = seawall_backends::list_all(&*store, &parent, Purpose::Probe).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn only_the_backend_table_of_a_configuration_counts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("seawall.toml");
    fs::write(&file, "node_id = 1\n[backend]\nkind = \"fs\"\npath = \"/tmp/x\"\n[wal]\nkind = \"none\"\n").unwrap();
    assert_eq!(backend_table(&file).unwrap().kind, seawall_backends::BackendKind::Fs);
    fs::write(&file, "node_id = 1\n").unwrap();
    assert!(backend_table(&file).unwrap_err().to_string().contains("no [backend] table"));
}
