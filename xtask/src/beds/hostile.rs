//! The hostile store: our own S3 server, with the habits of a CubeFS and with faults. It also says whether a key was ever given other
//! bytes than before.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::daemon::Daemon;
use super::room::Room;
use super::signed::{Client, Keys};
use super::{BUCKET, Bed, Folder, Form, habits, write_config};
use crate::{builds, process};

const START_MAX: Duration = Duration::from_secs(30);

/// What the layers below a broker hide from it.
const HIDDEN: &str = "lost=20,refused=20,slow_down=2,cut=30,short=30";
/// With puts that land later, also after the broker that sent them was killed.
const WITH_LATE: &str = "late=100,lost=100,refused=30,slow_down=2,cut=30,short=30";

pub fn start(folder: Folder) -> Result<Bed> {
    let program = builds::program("seawall-hostile-store")?;
    let keys = Keys { access: "hostile".to_owned(), secret: super::random_secret()? };
    let seed = std::process::id();
    println!("seed {seed}");
    let mut daemons = Vec::new();
    let mut serve = |name: &'static str, like: &str, faults: &str| -> Result<String> {
        let address = format!("127.0.0.1:{}", process::free_port()?);
        let mut command = Command::new(&program);
        command
            .args(["--listen", &address])
            .args(["--bucket", BUCKET, "--access-key", &keys.access, "--secret-key", &keys.secret])
            .args(["--like", like, "--faults", faults, "--seed", &seed.to_string()]);
        let mut daemon = Daemon::start(folder.path(), name, &command)?;
        daemon.wait(START_MAX, || report(&address, &keys).is_ok())?;
        daemons.push(daemon);
        Ok(address)
    };
    let cubefs = serve("as-cubefs", "cubefs", "")?;
    let failing = serve("failing", "plain", HIDDEN)?;
    let late = serve("late", "plain", WITH_LATE)?;

    let [access_file, secret_file] = super::write_keys(folder.path(), &keys)?;
    let config = |name: &str, kind: &str, address: &str| -> Result<PathBuf> {
        let section = format!(
            "kind = \"{kind}\"\nendpoint = \"http://{address}\"\nbucket = \"{BUCKET}\"\n\
             access_key_file = {access_file:?}\nsecret_key_file = {secret_file:?}\n"
        );
        write_config(folder.path(), name, &section)
    };
    let endpoint = format!("http://{cubefs}");
    let habits = habits::observe(&Client { endpoint: &endpoint, ca: "/dev/null".as_ref(), keys: &keys });
    let as_cubefs = Form { habits, ..Form::new("as CubeFS", config("as-cubefs", "cubefs", &cubefs)?) };
    let crash = Some(config("late", "s3", &late)?);
    let failing = Form { crash, ..Form::new("failing", config("failing", "s3", &failing)?) };
    let forms = vec![as_cubefs, failing];
    let watched = Some((late, keys));
    Ok(Bed {
        kind: "hostile",
        version: "0.1".to_owned(),
        forms,
        daemons,
        serve: &[],
        room: Room::Unknown,
        _mounts: Vec::new(),
        watched,
        keys: None,
        folder,
    })
}

#[derive(Deserialize)]
struct Report {
    overwritten: Vec<String>,
    requests: serde_json::Value,
    faults: serde_json::Value,
    objects: u64,
}

/// After the crash test: no key ever meant two things.
pub fn check(address: &str, keys: &Keys) -> Result<()> {
    let report = report(address, keys)?;
    println!("requests {}, faults {}, {} objects", report.requests, report.faults, report.objects);
    ensure!(report.objects > 0, "the crash test ran over another store");
    ensure!(report.overwritten.is_empty(), "keys were given other bytes than before: {:?}", report.overwritten);
    Ok(())
}

fn report(address: &str, keys: &Keys) -> Result<Report> {
    let endpoint = format!("http://{address}");
    let text = Client { endpoint: &endpoint, ca: "/dev/null".as_ref(), keys }.read("-/report")?;
    serde_json::from_str(&text).context("the hostile store's report")
}
