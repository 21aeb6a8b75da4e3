//! A start, and `seawall backend check`, over an S3 server that is wrong on purpose.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use seawall_hostile_store::{Fault, Faults, Like, Server, Settings};

use super::*;

/// Keys that are no words: what is said of a store is kept clean of them.
fn settings() -> Settings {
    Settings { access: "hostile-access".into(), secret: "hostile-secret".into(), ..Settings::default() }
}

fn config_over(server: &Server, kind: BackendKind, dir: &Path) -> Config {
    let settings = settings();
    let mut config = s3_config(dir, &format!("http://{}", server.address()));
    fs::write(dir.join("access"), settings.access).unwrap();
    fs::write(dir.join("secret"), settings.secret).unwrap();
    config.backend.kind = kind;
    config.backend.bucket = Some(settings.bucket);
    config
}

async fn start_error(config: Config) -> String {
    match Node::start(config).await {
        Ok(_) => panic!("the node started"),
        Err(error @ NodeError::StoreProbe(_)) => error.to_string(),
        Err(other) => panic!("another error: {other}"),
    }
}

#[tokio::test]
async fn what_the_site_has_set_up_wrongly_is_told_in_words() {
    let server = Server::start(settings()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let good = config_over(&server, BackendKind::Minio, dir.path());

    let mut config = good.clone();
    config.backend.bucket = Some("another".into());
    let text = start_error(config).await;
    assert!(text.contains("NoSuchBucket, status 404: the bucket does not exist"), "{text}");
    fs::write(dir.path().join("secret"), "wrong").unwrap();
    let text = start_error(good.clone()).await;
    assert!(text.contains("denies access: ") && text.contains("the secret key is not the one of"), "{text}");
    fs::write(dir.path().join("access"), "wrong").unwrap();
    let text = start_error(good.clone()).await;
    assert!(text.contains("denies access: ") && text.contains("the store does not know the access key"), "{text}");
    assert_eq!(server.report().objects, 0, "nothing was written");

    let good = config_over(&server, BackendKind::Minio, dir.path());
    let other = uuid::Uuid::new_v4();
    let marker = ObjectKey::new(format!("seawall/seawall-cluster/{other}.{other}")).unwrap();
    let store = seawall_backends::open(&good.backend).await.unwrap();
    store.put(&marker, bytes::Bytes::new().into(), Purpose::Probe).await.unwrap();
    let text = start_error(good.clone()).await;
    assert!(text.contains(&format!("belongs to cluster {other}")), "{text}");
    store.delete_many(vec![marker], Purpose::Probe).await;
    Node::start(good).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_clock_that_is_far_off_is_told_with_its_seconds() {
    for (clock_ahead_seconds, words) in [(1_000, "s behind the store's"), (-1_000, "s ahead of the store's")] {
        let server = Server::start(Settings { clock_ahead_seconds, ..settings() }).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let text = start_error(config_over(&server, BackendKind::CephRgw, dir.path())).await;
        assert!(text.contains("this machine's clock is ") && text.contains(words), "{text}");
    }
    let server = Server::start(Settings { clock_ahead_seconds: 120, ..settings() }).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    Node::start(config_over(&server, BackendKind::CephRgw, dir.path())).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_first_start_waits_for_a_fresh_bucket_of_cubefs_and_of_nobody_else() {
    let fresh = Settings { fresh_for: Duration::from_secs(3), like: Like::Cubefs, ..settings() };
    let server = Server::start(fresh).await.unwrap();
    let [minio, cubefs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let text = start_error(config_over(&server, BackendKind::Minio, minio.path())).await;
    assert!(text.contains("denies access: list: AccessDenied"), "{text}");
    Node::start(config_over(&server, BackendKind::Cubefs, cubefs.path())).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_store_that_lacks_a_base_property_keeps_a_broker_from_starting() {
    // What is stale is so for longer than the test takes.
    let late_max = Duration::from_secs(600);
    let (whole, at_once) =
        ("an object reads back whole and by range", "what was put is seen at once by get head and list");
    let gone = "what was deleted is gone and deleting it again is fine";
    // A listing that omits leaves out one name in four, by chance: a single case may be spared.
    let listings = [at_once, gone, "a listing is flat and in byte order", "a listing goes on after any key"];
    for (fault, cases) in [
        (Fault::Flipped, &[whole][..]),
        (Fault::Foreign, &[whole]),
        (Fault::Stale, &[at_once]),
        (Fault::Omit, &listings),
        (Fault::Delay, &[at_once]),
        (Fault::Resurrect, &[gone]),
    ] {
        let server = Server::start(Settings { late_max, ..settings() }).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let config = config_over(&server, BackendKind::Minio, dir.path());
        // Another object, long enough for every body to be taken for it.
        let (other, body) = (ObjectKey::new("other/object").unwrap(), bytes::Bytes::from(vec![7; 1 << 20]));
        let store = seawall_backends::open(&config.backend).await.unwrap();
        store.put(&other, body.into(), Purpose::Probe).await.unwrap();
        server.set_faults(Faults::default().with(fault, 1_000));
        let text = start_error(config.clone()).await;
        let words = "lacks what a broker cannot do without: ";
        let told = cases.iter().any(|case| text.contains(case));
        assert!(text.contains(words) && told, "{}: {text}", fault.name());
        assert!(!config.node.data_dir.join("store.toml").exists(), "{}", fault.name());
    }
}

#[tokio::test]
async fn replies_that_are_lost_and_puts_that_land_late_keep_nobody_from_starting() {
    let faults = Faults::default().with(Fault::Lost, 100).with(Fault::Late, 50).with(Fault::Cut, 50);
    let settings = Settings { faults, late_max: Duration::from_millis(50), ..settings() };
    let server = Server::start(settings).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = config_over(&server, BackendKind::S3, dir.path());
    for _ in 0..2 {
        Node::start(config.clone()).await.unwrap().stop().await;
    }
    let report = server.report();
    assert!(report.faults.contains_key("lost") && report.overwritten.is_empty(), "{report:?}");
}

/// `seawall backend check` with the configuration of a file.
fn check(config: &Config, dir: &Path, arguments: &[&str]) -> Command {
    let file = dir.join("check.toml");
    fs::write(&file, toml::to_string(config).unwrap()).unwrap();
    let mut command = Command::new(binary());
    command.args(["backend", "check", "--config"]).arg(file).args(arguments);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_of_a_store_that_lacks_a_base_property_ends_with_14() {
    let server = Server::start(settings()).await.unwrap();
    server.set_faults(Faults::default().with(Fault::Omit, 1_000));
    let dir = tempfile::tempdir().unwrap();
    let config = config_over(&server, BackendKind::Minio, dir.path());
    let output = check(&config, dir.path(), &["--seconds", "0"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(14), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("verdict: a broker cannot use this store\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_is_stopped_removes_what_it_wrote() {
    let server = Server::start(settings()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = config_over(&server, BackendKind::Minio, dir.path());
    let mut command = check(&config, dir.path(), &["--seconds", "60"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("load, ")), "it ended before it was stopped");
    while server.report().objects < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let told: Vec<_> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{told:?}");
    assert!(told.iter().any(|line| line.contains("stopped before the end")), "{told:?}");
    // The note stays: it is how a later check finds what landed after this one was stopped.
    let settled = async {
        while server.report().objects > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), settled).await.expect("objects are left");
}
