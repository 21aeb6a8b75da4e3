//! What a broker says when it is started over a real store and something is set up wrongly: each has its words and exit code 11.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{io::Read, thread};

use anyhow::{Context, Result, ensure};

use super::signed::Client;
use super::{BUCKET, own_keys_only};
use crate::tools;

const START_MAX: Duration = Duration::from_secs(60);
/// Of nobody.
const STRANGER: &str = "11111111-2222-4333-8444-555555555555";

/// What is wrong, how the configuration shows it, and what must be said.
struct Wrong {
    name: &'static str,
    is_tls: bool,
    /// A line that begins so is replaced by this one, or gone if it is empty.
    line: &'static str,
    by: String,
    code: i32,
    says: &'static str,
}

/// A case and what was said instead; nothing where all is as it should be.
pub type Said = (&'static str, Option<String>);

/// All at once: most of it is waiting. `config` is one that works.
pub fn check(config: &Path, client: &Client<'_>) -> Result<Vec<Said>> {
    let (is_tls, ca) = (client.endpoint.starts_with("https"), client.ca);
    let folder = config.parent().context("a file has a folder")?;
    let file = |name: &str, text: &str| -> Result<String> {
        let path = folder.join(name);
        fs::write(&path, text)?;
        Ok(format!("{path:?}"))
    };
    let marker = format!("{BUCKET}/strangers/seawall-cluster/{STRANGER}.{STRANGER}");
    let (status, body) = client.request(&["-X", "PUT", "--data-binary", "another cluster's"], &marker)?;
    ensure!(status == 200, "put {marker}: status {status}: {body}");
    let text = fs::read_to_string(config)?;
    let wrongs = [
        Wrong {
            name: "a bucket that is not there",
            is_tls: false,
            line: "bucket = ",
            by: "bucket = \"not-there\"".to_owned(),
            code: 11,
            says: "the bucket does not exist",
        },
        Wrong {
            name: "another secret key",
            is_tls: false,
            line: "secret_key_file = ",
            by: format!("secret_key_file = {}", file("wrong-secret", "another-secret")?),
            code: 11,
            says: "denies access: list: SignatureDoesNotMatch, status 403: the secret key is not the one of the access key",
        },
        Wrong {
            name: "another access key",
            is_tls: false,
            line: "access_key_file = ",
            by: format!("access_key_file = {}", file("wrong-access", "another-key")?),
            code: 11,
            says: "denies access: list: InvalidAccessKeyId, status 403: the store does not know the access key",
        },
        Wrong {
            name: "a prefix of another cluster",
            is_tls: false,
            line: "kind = ",
            by: String::new(),
            code: 6,
            says: "belongs to cluster 11111111-2222-4333-8444-555555555555",
        },
        Wrong {
            name: "a certificate of an unknown issuer",
            is_tls: true,
            line: "tls_ca_file = ",
            by: String::new(),
            code: 11,
            says: "certificate",
        },
        Wrong {
            name: "a certificate of another name",
            is_tls: true,
            line: "tls_ca_file = ",
            by: format!("tls_ca_file = {ca:?}\ntls_server_name = \"store.example\""),
            code: 11,
            says: "certificate",
        },
    ];
    let mut running = Vec::new();
    for (at, wrong) in wrongs.into_iter().filter(|wrong| wrong.is_tls == is_tls).enumerate() {
        let replaced = |line: &str| match line.starts_with(wrong.line) {
            // The kind stays, and the prefix comes with it.
            true if wrong.line == "kind = " => format!("{line}\nprefix = \"strangers\"\n"),
            true if wrong.by.is_empty() => String::new(),
            true => wrong.by.clone() + "\n",
            false if line.starts_with("data_dir = ") => {
                format!("data_dir = {:?}\n", folder.join(format!("wrong-{is_tls}-{at}")))
            }
            false => format!("{line}\n"),
        };
        let own = folder.join(format!("wrong-{is_tls}-{at}.toml"));
        fs::write(&own, text.lines().map(replaced).collect::<String>())?;
        let mut command = Command::new(tools::target_folder().join("debug/seawall"));
        own_keys_only(&mut command).args(["start", "--config"]).arg(&own);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        running.push((wrong, child));
    }
    let said = running.into_iter().map(|(wrong, child)| Ok((wrong.name, said_instead(child, &wrong)?)));
    said.collect()
}

fn said_instead(mut child: Child, wrong: &Wrong) -> Result<Option<String>> {
    let end = Instant::now() + START_MAX;
    let code = loop {
        match child.try_wait()? {
            Some(status) => break status.code(),
            None if Instant::now() > end => {
                child.kill()?;
                child.wait()?;
                break None;
            }
            None => thread::sleep(Duration::from_millis(50)),
        }
    };
    let mut errors = String::new();
    child.stderr.take().context("its errors were piped")?.read_to_string(&mut errors)?;
    if code == Some(wrong.code) && errors.contains(wrong.says) {
        return Ok(None);
    }
    let last = errors.lines().last().unwrap_or_default();
    Ok(Some(format!("exit code {code:?}, {last:?} instead of {}, {:?}", wrong.code, wrong.says)))
}
