//! The `[backend]` table: which store, where it is, how one gets in. Secrets are in files or in the environment, never here.
//!
//! A key that its kind does not use is refused, so that nobody believes that it did something.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendKind {
    /// A folder of a local or shared file system: the embedded default.
    #[default]
    Fs,
    /// Lost at exit: tests only.
    Memory,
    Minio,
    CephRgw,
    Cubefs,
    S3,
}

impl BackendKind {
    /// As the configuration spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fs => "fs",
            Self::Memory => "memory",
            Self::Minio => "minio",
            Self::CephRgw => "ceph-rgw",
            Self::Cubefs => "cubefs",
            Self::S3 => "s3",
        }
    }

    /// Whether S3 is spoken to it.
    pub fn is_s3(self) -> bool {
        match self {
            Self::Fs | Self::Memory => false,
            Self::Minio | Self::CephRgw | Self::Cubefs | Self::S3 => true,
        }
    }
}

/// All keys but `kind` and `prefix` are left out unless they are set: which ones a kind takes, [`BackendConfig::validate`] says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackendConfig {
    pub kind: BackendKind,
    /// First part of every key, for a bucket that is shared with others. May hold slashes, not at its ends.
    pub prefix: String,
    /// Folder of the `fs` store; made if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// `http://HOST:PORT` or `https://HOST:PORT` of an S3 store. `s3` without it is the cloud's own endpoint of the region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// Part of signatures; `us-east-1` if not set and an endpoint is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Whether the bucket stands in the path of a URL or in its host name; the kind knows if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// Where keys are looked for; `static` if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialsFrom>,
    /// File that holds the access key, when `AWS_ACCESS_KEY_ID` is not set. Read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_file: Option<PathBuf>,
    /// File that holds the secret key, when `AWS_SECRET_ACCESS_KEY` is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_file: Option<PathBuf>,
    /// PEM certificates that the store's must come from; those of the system if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca_file: Option<PathBuf>,
    /// PEM certificate by which the store knows this client, and its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key_file: Option<PathBuf>,
    /// The name that the store's certificate must have, where it is not the one of the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
    /// Whether the store can check each body against its signature, which costs a SHA-256 of every byte; `auto` if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_signing: Option<PayloadSigning>,
    /// Encryption at rest by the store; none is asked for if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sse: Option<Sse>,
    /// Key of `sse = "kms"`; the bucket's own if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sse_kms_key_id: Option<String>,
    /// File that holds the 32 bytes of the key of `sse = "customer"`, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sse_customer_key_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CredentialsFrom {
    /// The environment, the two files of this configuration, AWS's shared credentials file.
    #[default]
    Static,
    /// The chain that AWS's tools have: environment, profiles with their roles, web identity, the container's endpoint, the
    /// machine's (IMDSv2). For keys that are given for some hours.
    ProviderChain,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadSigning {
    /// Bodies are signed over plain http, and unsigned within TLS, which protects them already.
    #[default]
    Auto,
    Always,
    /// Over plain http, whoever is between may change bodies; damage shows when they are read.
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sse {
    /// With keys of the store.
    S3,
    /// With a key of its key management.
    Kms,
    /// With a key that comes along with each request.
    Customer,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("backend.kind = \"{kind}\" needs backend.{key}")]
    MissingKey { kind: &'static str, key: &'static str },
    #[error("backend.{key} has no meaning for backend.kind = \"{kind}\"")]
    UnusedKey { kind: &'static str, key: &'static str },
    #[error("backend.prefix: {0}")]
    Prefix(#[from] crate::InvalidKey),
    #[error("{0}")]
    Keys(String),
}

impl Default for BackendConfig {
    fn default() -> Self {
        Self {
            kind: BackendKind::Fs,
            prefix: "seawall".to_owned(),
            path: None,
            endpoint: None,
            bucket: None,
            region: None,
            path_style: None,
            credentials: None,
            access_key_file: None,
            secret_key_file: None,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            tls_server_name: None,
            payload_signing: None,
            sse: None,
            sse_kms_key_id: None,
            sse_customer_key_file: None,
        }
    }
}

impl BackendConfig {
    pub fn fs(path: impl AsRef<Path>) -> Self {
        Self { kind: BackendKind::Fs, path: Some(path.as_ref().to_owned()), ..Self::default() }
    }

    /// What can be said without touching the store.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let kind = self.kind.name();
        crate::check_folder(&self.prefix)?;
        if self.kind.is_s3() {
            refuse(self.path.is_some(), kind, "path")?;
            return self.validate_s3();
        }
        match self.kind {
            BackendKind::Fs => need(self.path.is_some(), kind, "path")?,
            _ => refuse(self.path.is_some(), kind, "path")?,
        }
        for (key, is_set) in self.s3_keys() {
            refuse(is_set, kind, key)?;
        }
        Ok(())
    }

    /// Where the store is, for people.
    pub fn place(&self) -> String {
        match (&self.path, &self.bucket) {
            (Some(path), _) => format!("folder {}", path.display()),
            (None, Some(bucket)) => match &self.endpoint {
                Some(endpoint) => format!("bucket {bucket} at {endpoint}"),
                None => format!("bucket {bucket} of the cloud"),
            },
            (None, None) => "memory".to_owned(),
        }
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.endpoint.as_ref().is_none_or(|endpoint| endpoint.starts_with("https://"))
    }

    fn s3_keys(&self) -> [(&'static str, bool); 15] {
        [
            ("endpoint", self.endpoint.is_some()),
            ("bucket", self.bucket.is_some()),
            ("region", self.region.is_some()),
            ("path_style", self.path_style.is_some()),
            ("credentials", self.credentials.is_some()),
            ("access_key_file", self.access_key_file.is_some()),
            ("secret_key_file", self.secret_key_file.is_some()),
            ("tls_ca_file", self.tls_ca_file.is_some()),
            ("tls_cert_file", self.tls_cert_file.is_some()),
            ("tls_key_file", self.tls_key_file.is_some()),
            ("tls_server_name", self.tls_server_name.is_some()),
            ("payload_signing", self.payload_signing.is_some()),
            ("sse", self.sse.is_some()),
            ("sse_kms_key_id", self.sse_kms_key_id.is_some()),
            ("sse_customer_key_file", self.sse_customer_key_file.is_some()),
        ]
    }

    fn validate_s3(&self) -> Result<(), ConfigError> {
        let kind = self.kind.name();
        let fail = |why: &str| Err(ConfigError::Keys(why.to_owned()));
        need(self.bucket.is_some(), kind, "bucket")?;
        match &self.endpoint {
            Some(endpoint) if !is_endpoint(endpoint) => {
                return fail(&format!(
                    "backend.endpoint = \"{endpoint}\" is not http://HOST:PORT or https://HOST:PORT"
                ));
            }
            Some(_) => {}
            None if self.kind == BackendKind::S3 => need(self.region.is_some(), kind, "region (or backend.endpoint)")?,
            None => need(false, kind, "endpoint")?,
        }
        if self.access_key_file.is_some() != self.secret_key_file.is_some() {
            return fail("backend.access_key_file and backend.secret_key_file go together");
        }
        if self.tls_cert_file.is_some() != self.tls_key_file.is_some() {
            return fail("backend.tls_cert_file and backend.tls_key_file go together");
        }
        if self.credentials == Some(CredentialsFrom::ProviderChain) && self.access_key_file.is_some() {
            return fail(
                "backend.credentials = \"provider-chain\" asks for keys elsewhere than in backend.access_key_file",
            );
        }
        let tls = [&self.tls_ca_file, &self.tls_cert_file].iter().any(|file| file.is_some());
        if !self.is_tls() && (tls || self.tls_server_name.is_some()) {
            return fail(
                "backend.tls_ca_file, tls_cert_file, tls_key_file and tls_server_name need an endpoint with https://",
            );
        }
        if self.tls_server_name.as_ref().is_some_and(|name| !is_host(name)) {
            return fail("backend.tls_server_name is the name or the address of a host, without a port");
        }
        if self.sse_kms_key_id.is_some() && self.sse != Some(Sse::Kms) {
            return fail("backend.sse_kms_key_id is for backend.sse = \"kms\"");
        }
        if self.sse_customer_key_file.is_some() != (self.sse == Some(Sse::Customer)) {
            return fail("backend.sse = \"customer\" and backend.sse_customer_key_file go together");
        }
        if self.sse == Some(Sse::Customer) && !self.is_tls() {
            return fail(
                "backend.sse = \"customer\" sends the key with each request, so its endpoint must be https://",
            );
        }
        Ok(())
    }
}

/// A scheme, a host, maybe a port; no path, no user, no query.
fn is_endpoint(endpoint: &str) -> bool {
    let Some(authority) = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://")) else {
        return false;
    };
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    is_host(host) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_host(host: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
    !host.is_empty() && host.chars().all(plain)
}

fn need(is_set: bool, kind: &'static str, key: &'static str) -> Result<(), ConfigError> {
    if is_set { Ok(()) } else { Err(ConfigError::MissingKey { kind, key }) }
}

fn refuse(is_set: bool, kind: &'static str, key: &'static str) -> Result<(), ConfigError> {
    if is_set { Err(ConfigError::UnusedKey { kind, key }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3() -> BackendConfig {
        BackendConfig {
            kind: BackendKind::Minio,
            endpoint: Some("https://store.example:9000".into()),
            bucket: Some("b".into()),
            ..Default::default()
        }
    }

    fn error_of(config: BackendConfig) -> String {
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn keys_that_do_not_belong_to_the_kind_are_refused() {
        let good = BackendConfig::fs("/objects");
        good.validate().unwrap();
        let text = error_of(BackendConfig { bucket: Some("b".into()), ..good.clone() });
        assert_eq!(text, "backend.bucket has no meaning for backend.kind = \"fs\"");
        let sse = BackendConfig { sse: Some(Sse::S3), kind: BackendKind::Memory, ..Default::default() };
        assert_eq!(error_of(sse), "backend.sse has no meaning for backend.kind = \"memory\"");
        assert!(error_of(BackendConfig { path: Some("/o".into()), ..s3() }).contains("backend.path has no meaning"));
        assert!(error_of(BackendConfig::default()).contains("needs backend.path"));
        assert!(error_of(BackendConfig { prefix: "/a".into(), ..good }).contains("backend.prefix"));
    }

    #[test]
    fn keys_of_an_s3_store_are_checked_against_each_other() {
        s3().validate().unwrap();
        for kind in [BackendKind::Minio, BackendKind::CephRgw, BackendKind::Cubefs] {
            assert!(error_of(BackendConfig { kind, endpoint: None, ..s3() }).contains("needs backend.endpoint"));
            assert!(error_of(BackendConfig { kind, bucket: None, ..s3() }).contains("needs backend.bucket"));
        }
        let cloud = BackendConfig { kind: BackendKind::S3, endpoint: None, ..s3() };
        assert!(error_of(cloud.clone()).contains("needs backend.region"));
        BackendConfig { region: Some("eu-central-1".into()), ..cloud }.validate().unwrap();
        let plain = BackendConfig { endpoint: Some("http://store.example:9000".into()), ..s3() };
        plain.validate().unwrap();
        assert!(error_of(BackendConfig { tls_ca_file: Some("/ca".into()), ..plain.clone() }).contains("https://"));
        assert!(error_of(BackendConfig { tls_server_name: Some("a".into()), ..plain.clone() }).contains("https://"));
        assert!(error_of(BackendConfig { tls_server_name: Some("a/b".into()), ..s3() }).contains("host"));
        let customer = BackendConfig { sse: Some(Sse::Customer), sse_customer_key_file: Some("/key".into()), ..s3() };
        customer.validate().unwrap();
        let in_clear = BackendConfig { endpoint: plain.endpoint, ..customer.clone() };
        assert!(error_of(in_clear).contains("must be https://"));
        assert!(error_of(BackendConfig { sse: None, ..customer }).contains("go together"));
        assert!(error_of(BackendConfig { sse_kms_key_id: Some("k".into()), ..s3() }).contains("\"kms\""));
        assert!(error_of(BackendConfig { access_key_file: Some("/a".into()), ..s3() }).contains("go together"));
        let chain = BackendConfig { credentials: Some(CredentialsFrom::ProviderChain), ..s3() };
        chain.validate().unwrap();
        let (access_key_file, secret_key_file) = (Some("/a".into()), Some("/s".into()));
        assert!(error_of(BackendConfig { access_key_file, secret_key_file, ..chain }).contains("elsewhere"));
        assert!(error_of(BackendConfig { tls_key_file: Some("/k".into()), ..s3() }).contains("go together"));
    }

    #[test]
    fn an_endpoint_is_a_scheme_a_host_and_maybe_a_port() {
        for good in ["http://a", "https://a.b:9000", "http://[::1]:80", "http://[::1]", "https://10.0.0.1/"] {
            assert!(is_endpoint(good), "{good}");
        }
        for bad in ["a:9000", "http://", "http://a/b", "http://user:pass@a", "http://a:port", "ftp://a", "http://a?b"] {
            assert!(!is_endpoint(bad), "{bad}");
        }
    }
}
