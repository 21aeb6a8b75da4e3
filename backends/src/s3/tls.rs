//! TLS to the store: the machine's own trusted issuers or those of the site, and a client certificate if the store asks
//! for one.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::BackendConfig;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path} holds no usable certificate: {why}")]
    Certificates { path: PathBuf, why: String },
    #[error("{path} holds no usable private key")]
    Key { path: PathBuf },
    #[error("backend.tls_server_name is no name of a host")]
    Name,
    #[error("the client certificate and its key do not fit together")]
    Pair,
    #[error("this machine has no trusted issuers; name those of the store in backend.tls_ca_file")]
    NoIssuers,
    #[error("TLS cannot be set up: {0}")]
    Versions(#[source] rustls::Error),
}

/// PEM files, and what goes with them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tls {
    /// Issuers to trust instead of the machine's own.
    pub(super) ca: Option<PathBuf>,
    pub(super) certificate_and_key: Option<(PathBuf, PathBuf)>,
    /// The endpoint is https. Otherwise the machine's issuers are not looked for.
    pub(super) needed: bool,
    /// The name to look for in the store's certificate, if not the endpoint's.
    pub(super) server_name: Option<ServerName<'static>>,
}

impl Tls {
    /// `config` was validated.
    pub(super) fn of(config: &BackendConfig) -> Result<Self, TlsError> {
        let server_name = config.tls_server_name.clone();
        let server_name = server_name.map(|name| ServerName::try_from(name).map_err(|_| TlsError::Name)).transpose()?;
        Ok(Self {
            ca: config.tls_ca_file.clone(),
            certificate_and_key: config.tls_cert_file.clone().zip(config.tls_key_file.clone()),
            needed: config.is_tls(),
            server_name,
        })
    }

    /// By which one sees that a file was replaced.
    pub(super) fn stamp(&self) -> Vec<Option<(SystemTime, u64, u64)>> {
        let pair = self.certificate_and_key.iter().flat_map(|(certificate, key)| [certificate, key]);
        let stamp = |path: &PathBuf| {
            let file = std::fs::metadata(path).ok()?;
            Some((file.modified().ok()?, file.len(), file.ino()))
        };
        self.ca.iter().chain(pair).map(stamp).collect()
    }
}

pub(super) fn client_config(files: &Tls) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    match &files.ca {
        Some(path) => {
            for issuer in certificates(path)? {
                let added = roots.add(issuer);
                added.map_err(|error| TlsError::Certificates { path: path.clone(), why: error.to_string() })?;
            }
        }
        None if files.needed => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(TlsError::NoIssuers);
            }
        }
        None => {}
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = versions.map_err(TlsError::Versions)?.with_root_certificates(roots);
    match &files.certificate_and_key {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|_| TlsError::Key { path: key.clone() })?;
            builder.with_client_auth_cert(chain, key).map_err(|_| TlsError::Pair)
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unusable = |why: String| TlsError::Certificates { path: path.to_owned(), why };
    let all: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))?.collect();
    let all = all.map_err(|error| unusable(error.to_string()))?;
    if all.is_empty() { Err(unusable("there is none in it".to_owned())) } else { Ok(all) }
}
