//! Signed requests by curl: enough to make a bucket and to see that a bed is what it should be, without our own client.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{BUCKET, REGION};
use crate::process;
use crate::tools::Tool;

/// Who may use the bucket.
#[derive(Clone)]
pub struct Keys {
    pub access: String,
    pub secret: String,
}

pub struct Client<'a> {
    pub endpoint: &'a str,
    pub ca: &'a Path,
    pub keys: &'a Keys,
}

impl Client<'_> {
    pub fn make_bucket(&self) -> Result<()> {
        let (status, body) = self.request(&["-X", "PUT"], BUCKET)?;
        ensure!(matches!(status, 200 | 409), "bucket {BUCKET} at {}: status {status}: {body}", self.endpoint);
        Ok(())
    }

    /// Puts, reads, and removes an object; another key is refused.
    pub fn check(&self) -> Result<()> {
        let path = format!("{BUCKET}/bed-check");
        let body = "what was put is what is read";
        let expect = |what: &str, got: (u16, String), status: u16| {
            ensure!(got.0 == status, "{what} at {}: status {}: {}", self.endpoint, got.0, got.1);
            Ok(got.1)
        };
        expect("put", self.request(&["-X", "PUT", "--data-binary", body], &path)?, 200)?;
        let read = expect("get", self.request(&[], &path)?, 200)?;
        ensure!(read == body, "get at {}: {read:?} instead of {body:?}", self.endpoint);
        let stranger = Keys { secret: "another-secret".to_owned(), ..self.keys.clone() };
        expect("get with another secret", Client { keys: &stranger, ..*self }.request(&[], &path)?, 403)?;
        expect("delete", self.request(&["-X", "DELETE"], &path)?, 204)?;
        expect("get after the delete", self.request(&[], &path)?, 404)?;
        Ok(())
    }

    /// Whether there is a store that takes requests, from whomever.
    pub fn answers(&self) -> bool {
        self.request(&[], "").is_ok_and(|(status, _)| (200..500).contains(&status))
    }

    pub fn read(&self, path: &str) -> Result<String> {
        let (status, body) = self.request(&[], path)?;
        ensure!(status == 200, "get {path} at {}: status {status}: {body}", self.endpoint);
        Ok(body)
    }

    /// Objects whose keys begin so, a thousand at most.
    pub fn count(&self, prefix: &str) -> Result<usize> {
        Ok(self.listed(prefix)?.matches("<Key>").count())
    }

    /// Keys that begin so; an error if there are more than a thousand.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let listed = self.listed(prefix)?;
        ensure!(listed.contains("<IsTruncated>false</IsTruncated>"), "more than a thousand objects below {prefix}");
        let keys = listed.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
        Ok(keys.map(|(key, _)| key.to_owned()).collect())
    }

    /// How many of a broker's objects, FOLDER/ID in hex, have keys that begin so: neither its marks nor its backups.
    pub fn objects(&self, prefix: &str) -> Result<usize> {
        let is_object = |key: &&String| {
            let mut parts = key.rsplit('/');
            let id = parts.next().is_some_and(|id| id.len() == 16 && u64::from_str_radix(id, 16).is_ok());
            id && parts.next().is_some_and(|folder| folder.len() == 2)
        };
        Ok(self.keys(prefix)?.iter().filter(is_object).count())
    }

    fn listed(&self, prefix: &str) -> Result<String> {
        // In the order of the signature, as curl does not sort.
        let prefix = prefix.replace('/', "%2F");
        self.read(&format!("{BUCKET}?list-type=2&max-keys=1000&prefix={prefix}"))
    }

    /// What curl must know to sign requests of its own; not for a command line, which is everybody's to read.
    pub fn curl_config(&self) -> String {
        format!(
            "user = \"{}:{}\"\naws-sigv4 = \"aws:amz:{REGION}:s3\"\nheader = \"x-amz-content-sha256: UNSIGNED-PAYLOAD\"\nnoproxy = \"*\"\n",
            self.keys.access, self.keys.secret
        )
    }

    /// The status and the body.
    pub fn request(&self, arguments: &[&str], path: &str) -> Result<(u16, String)> {
        let curl: PathBuf = Tool::Curl.find().with_context(|| Tool::Curl.hint())?;
        let mut command = Command::new(curl);
        // The secret goes in by standard input: a command line is everybody's to read.
        let user = format!("user = \"{}:{}\"\n", self.keys.access, self.keys.secret);
        command
            .args(["-q", "-K", "-", "-sS", "--noproxy", "*", "-m", "10", "-w", "\n%{http_code}"])
            .args(["--aws-sigv4", &format!("aws:amz:{REGION}:s3"), "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"])
            .args(["-H", "content-type: application/octet-stream", "--cacert"])
            .arg(self.ca)
            .args(arguments)
            .arg(format!("{}/{path}", self.endpoint));
        let output = process::capture(&mut command, user.into_bytes(), Duration::from_secs(20))?;
        let text = output.stdout_if_success("curl")?;
        let (body, status) = text.trim_end().rsplit_once('\n').context("curl printed no status")?;
        Ok((status.parse().context("curl's status")?, body.to_owned()))
    }
}
