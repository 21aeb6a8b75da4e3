//! The real MinIO: its server from its Go module, once for plain HTTP and once with TLS, as one process speaks only one of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::bed::{CUSTOMER_KEY, Encrypted};
use super::daemon::Daemon;
use super::folders::Mount;
use super::room::Room;
use super::signed::{Client, Keys};
use super::tls::Certificates;
use super::{Bed, Folder, REGION};
use crate::process;
use crate::tools::{self, Tool};

/// The last state of a store that its makers no longer maintain.
const VERSION: &str = "v0.0.0-20260212201848-7aac2a2c5b7c";
/// The last one that its makers tagged.
const CLIENT_VERSION: &str = "v0.0.0-20250313080218-cf909e1063a9";
/// With the one key that it is given at its start.
const ENCRYPTED: [Encrypted; 3] = [
    Encrypted { name: "http, SSE-S3", file: "sse-s3", section: "sse = \"s3\"\n", needs_tls: false },
    Encrypted { name: "http, SSE-KMS", file: "sse-kms", section: "sse = \"kms\"\n", needs_tls: false },
    Encrypted::CUSTOMER,
];
const START_MAX: Duration = Duration::from_secs(60);

/// With a disk of its own, so that it can become full, where this may mount one.
pub fn start(folder: Folder, own_disk: bool) -> Result<Bed> {
    let program = program()?;
    let keys = Keys { access: "seawall-test-bed".to_owned(), secret: super::random_secret()? };
    let certificates = Certificates::make(&folder.path().join("certificates"))?;
    // Unmounted after the server has ended.
    let (mut room, mut mounts, mut daemons) = (Room::Unknown, Vec::new(), Vec::new());
    let mut endpoints = Vec::new();
    for (name, scheme) in [("minio", "http"), ("minio-tls", "https")] {
        let data = folder.path().join(name);
        if scheme == "http" && own_disk && tools::is_root() {
            mounts.push(Mount::ext4(&data)?);
            room = Room::FileSystem(data.clone());
        }
        fs::create_dir_all(&data)?;
        let address = format!("127.0.0.1:{}", process::free_port()?);
        let mut command = Command::new(&program);
        command
            .args(["server", "--address", &address, "--console-address"])
            .arg(format!("127.0.0.1:{}", process::free_port()?))
            .arg("--certs-dir")
            // Without certificates in it, it speaks plain HTTP.
            .arg(if scheme == "https" { folder.path().join("certificates") } else { data.join("none") })
            .arg(&data)
            .env("MINIO_ROOT_USER", &keys.access)
            .env("MINIO_ROOT_PASSWORD", &keys.secret)
            .env("MINIO_REGION", REGION)
            .env("MINIO_KMS_SECRET_KEY", format!("bed-key:{CUSTOMER_KEY}"))
            // It refuses the disk of the root file system otherwise.
            .env("MINIO_CI_CD", "1")
            .envs([("MINIO_BROWSER", "off"), ("MINIO_UPDATE", "off"), ("MINIO_SCANNER_SPEED", "slowest")]);
        let mut daemon = Daemon::start(folder.path(), name, &command)?;
        let endpoint = format!("{scheme}://{address}");
        let client = Client { endpoint: &endpoint, ca: &certificates.ca, keys: &keys };
        daemon.wait(START_MAX, || client.answers())?;
        client.make_bucket()?;
        daemons.push(daemon);
        endpoints.push(endpoint);
    }
    let mut bed = Bed::new("minio", VERSION.to_owned(), endpoints, certificates.ca, keys, &ENCRYPTED, daemons, folder)?;
    (bed.serve, bed.room, bed._mounts) = (&["minio"], room, mounts);
    Ok(bed)
}

pub fn program() -> Result<PathBuf> {
    of_module("minio", VERSION)
}

/// `mc`, by which it is administered.
pub fn client() -> Result<PathBuf> {
    of_module("mc", CLIENT_VERSION)
}

/// Builds it the first time: minutes, and hundreds of megabytes of modules.
fn of_module(name: &str, version: &str) -> Result<PathBuf> {
    let bin = tools::cache_folder().join("tools/bin");
    let program = bin.join(format!("{name}-{version}"));
    if program.is_file() {
        return Ok(program);
    }
    println!("building {name} {version}");
    let fresh = bin.join(format!("new-{}", std::process::id()));
    let module = format!("github.com/minio/{name}@{version}");
    let built = go_install(&module, &fresh).and_then(|()| Ok(fs::rename(fresh.join(name), &program)?));
    let _ = fs::remove_dir_all(&fresh);
    built.map(|()| program)
}

fn go_install(module: &str, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    let mut go = Command::new(Tool::Go.find().with_context(|| Tool::Go.hint())?);
    go.args(["install", module]).env("GOBIN", into).env("CGO_ENABLED", "0");
    let built = process::show(&mut go, Duration::from_secs(1_800))?;
    ensure!(built.success, "go install {module} failed; it needs Go 1.24 or newer");
    Ok(())
}
