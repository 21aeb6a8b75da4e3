//! Encryption at rest by the store: which headers go along.

use std::path::{Path, PathBuf};

use aws_sdk_s3::types::ServerSideEncryption;
use aws_smithy_types::base64;
use md5::{Digest, Md5};
use zeroize::Zeroizing;

use super::credentials::Secret;
use crate::config::Sse;
use crate::{BackendConfig, BackendError};

#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} must hold a key of 32 bytes in base64, and nothing else")]
    NotAKey { path: PathBuf },
}

/// What is asked for when something is written, and what comes along with every request.
#[derive(Default)]
pub(super) struct Encryption {
    pub(super) at_rest: Option<ServerSideEncryption>,
    pub(super) kms_key_id: Option<String>,
    pub(super) customer: Option<CustomerKey>,
}

/// Whoever has it can read everything, so it goes through TLS only.
pub(super) struct CustomerKey {
    pub(super) base64: Secret,
    pub(super) md5: String,
}

const CUSTOMER_KEY_BYTES: usize = 32;

impl Encryption {
    /// `config` was validated.
    pub(super) fn open(config: &BackendConfig) -> Result<Self, EncryptionError> {
        let none = Self::default();
        Ok(match (config.sse, &config.sse_customer_key_file) {
            (None, _) | (Some(Sse::Customer), None) => none,
            (Some(Sse::S3), _) => Self { at_rest: Some(ServerSideEncryption::Aes256), ..none },
            (Some(Sse::Kms), _) => Self {
                at_rest: Some(ServerSideEncryption::AwsKms),
                kms_key_id: config.sse_kms_key_id.clone(),
                customer: None,
            },
            (Some(Sse::Customer), Some(path)) => Self { customer: Some(CustomerKey::read(path)?), ..none },
        })
    }
}

impl Encryption {
    /// A store that does not know SSE-S3 stores in the clear and says nothing: Ceph RGW 16 does.
    pub(super) fn check(&self, stored: Option<&ServerSideEncryption>) -> Result<(), BackendError> {
        if self.at_rest == Some(ServerSideEncryption::Aes256) && stored.is_none() {
            let text = "put: the store does not encrypt what it is asked to by backend.sse = \"s3\"";
            return Err(BackendError::Fatal(text.to_owned()));
        }
        Ok(())
    }
}

impl CustomerKey {
    fn read(path: &Path) -> Result<Self, EncryptionError> {
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|source| EncryptionError::Read { path: path.to_owned(), source })?;
        let text = Zeroizing::new(text);
        let key = base64::decode(text.trim()).map(Zeroizing::new).ok();
        match key.filter(|key| key.len() == CUSTOMER_KEY_BYTES) {
            Some(key) => {
                Ok(Self { base64: Secret::new(text.trim()), md5: base64::encode(Md5::digest(key.as_slice())) })
            }
            None => Err(EncryptionError::NotAKey { path: path.to_owned() }),
        }
    }
}

/// For requests that make an object.
macro_rules! at_rest {
    ($request:expr, $encryption:expr) => {
        $request
            .set_server_side_encryption($encryption.at_rest.clone())
            .set_ssekms_key_id($encryption.kms_key_id.clone())
    };
}

/// For requests whose bytes are encrypted or decrypted.
macro_rules! with_customer_key {
    ($request:expr, $encryption:expr) => {
        match &$encryption.customer {
            None => $request,
            Some(key) => $request
                .sse_customer_algorithm("AES256")
                .sse_customer_key(key.base64.expose())
                .sse_customer_key_md5(&key.md5),
        }
    };
}

pub(super) use {at_rest, with_customer_key};
