//! Deleting many: one request per batch, an answer for each key.

use std::collections::BTreeMap;

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::{BoxError, BuildError};
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use aws_smithy_types::base64;
use md5::{Digest, Md5};

use super::S3Backend;
use super::errors::{Refusal, classify};
use crate::{BackendError, ObjectKey};

impl S3Backend {
    pub(super) async fn delete_all(&self, keys: Vec<ObjectKey>) -> Vec<(ObjectKey, Result<(), BackendError>)> {
        let mut outcomes = Vec::with_capacity(keys.len());
        for batch in keys.chunks(self.profile.delete_keys_max) {
            match self.delete_batch(batch).await {
                Ok(answers) => {
                    let answer = |key: &ObjectKey| answers.get(key.as_str()).cloned().unwrap_or_else(unanswered);
                    outcomes.extend(batch.iter().map(|key| (key.clone(), answer(key))));
                }
                Err(error) => outcomes.extend(batch.iter().map(|key| (key.clone(), Err(error.clone())))),
            }
        }
        outcomes
    }

    async fn delete_batch(
        &self,
        keys: &[ObjectKey],
    ) -> Result<BTreeMap<String, Result<(), BackendError>>, BackendError> {
        let delete = batch(keys).map_err(|error| BackendError::Fatal(format!("delete: {error}")))?;
        let answer = self
            .call("delete", || {
                let request = self.client.delete_objects().bucket(&self.bucket).delete(delete.clone());
                request.customize().interceptor(ContentMd5).send()
            })
            .await?;
        let deleted = answer.deleted().iter().filter_map(|deleted| Some((deleted.key()?.to_owned(), Ok(()))));
        let refused = answer.errors().iter().filter_map(|error| {
            let refusal = Refusal {
                operation: "delete",
                status: 0,
                code: error.code(),
                message: error.message(),
                request_id: None,
                retry_after: None,
                clock_ahead_seconds: None,
            };
            let outcome = match classify(&refusal) {
                BackendError::NotFound => Ok(()),
                error => Err(self.scrubbed(error)),
            };
            Some((error.key()?.to_owned(), outcome))
        });
        Ok(deleted.chain(refused).collect())
    }
}

fn unanswered() -> Result<(), BackendError> {
    Err(BackendError::Transient("delete: the store's answer leaves out this key".to_owned()))
}

fn batch(keys: &[ObjectKey]) -> Result<Delete, BuildError> {
    let keys: Result<Vec<_>, _> =
        keys.iter().map(|key| ObjectIdentifier::builder().key(key.as_str()).build()).collect();
    Delete::builder().set_objects(Some(keys?)).build()
}

/// `Content-MD5` in place of newer checksums: every store takes it, and some refuse a batch without.
#[derive(Debug)]
struct ContentMd5;

impl Intercept for ContentMd5 {
    fn name(&self) -> &'static str {
        "ContentMd5"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        let body = request.body().bytes().ok_or("the body of a delete is in memory")?;
        let digest = base64::encode(Md5::digest(body));
        let headers = request.headers_mut();
        let newer: Vec<String> = headers
            .iter()
            .map(|(name, _)| name.to_owned())
            .filter(|name| name.starts_with("x-amz-checksum-") || name == "x-amz-sdk-checksum-algorithm")
            .collect();
        for name in newer {
            headers.remove(name);
        }
        headers.insert("content-md5", digest);
        Ok(())
    }
}
