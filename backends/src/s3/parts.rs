//! Objects in parts: the store's multipart uploads. A part has a checksum where the store verifies it without having been told of it at
//! the beginning: otherwise it would want all of them named again at the end, also those that it copied itself.

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};

use super::encryption::{at_rest, with_customer_key};
use super::signing::BodySignature;
use super::{S3Backend, checksum, stream};
use crate::{BackendError, ObjectKey, PartBody, PartNumber, PartsId, Segments, StoredPart, range_bytes};

impl S3Backend {
    pub(super) async fn begin(&self, key: &ObjectKey) -> Result<PartsId, BackendError> {
        let begun = self
            .call("begin", || {
                let begin = self.client.create_multipart_upload().bucket(&self.bucket).key(key.as_str());
                with_customer_key!(at_rest!(begin, self.encryption), self.encryption).send()
            })
            .await?;
        begun.upload_id.map(PartsId).ok_or_else(|| wrong_answer("begin", "no upload id"))
    }

    pub(super) async fn store_part(
        &self,
        key: &ObjectKey,
        id: &PartsId,
        number: PartNumber,
        body: PartBody,
    ) -> Result<StoredPart, BackendError> {
        let bytes = body.part_bytes();
        if bytes > self.profile.part_bytes_max {
            return Err(BackendError::Unsupported(format!("part {number} of {bytes} bytes is too large")));
        }
        let tag = match body {
            PartBody::Bytes(body) => self.upload_part(key, id, number, &body).await?,
            PartBody::Copy { source, range } => {
                assert!(range_bytes(&range) > 0, "an empty range cannot be copied");
                let source = format!("{}/{}", self.bucket, source.as_str());
                let range = format!("bytes={}-{}", range.start, range.end - 1);
                let copied = self
                    .call("copy", || {
                        let copy = self.client.upload_part_copy().bucket(&self.bucket).key(key.as_str());
                        let copy = copy.upload_id(&id.0).part_number(number.get() as i32);
                        let copy = copy.copy_source(&source).copy_source_range(&range);
                        let copy = with_customer_key!(copy, self.encryption);
                        match &self.encryption.customer {
                            None => copy.send(),
                            Some(key) => copy
                                .copy_source_sse_customer_algorithm("AES256")
                                .copy_source_sse_customer_key(key.base64.expose())
                                .copy_source_sse_customer_key_md5(&key.md5)
                                .send(),
                        }
                    })
                    .await?;
                copied.copy_part_result.and_then(|result| result.e_tag)
            }
        };
        let tag = tag.ok_or_else(|| wrong_answer("put_part", "no ETag"))?;
        Ok(StoredPart { number, tag, bytes })
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        id: &PartsId,
        number: PartNumber,
        body: &Segments,
    ) -> Result<Option<String>, BackendError> {
        let checksum = checksum(self.profile.part_checksum, body);
        let signature = BodySignature::of(body, self.signs_bodies).await;
        let stored = self
            .call("put_part", || {
                let put = self.client.upload_part().bucket(&self.bucket).key(key.as_str());
                let put = put.upload_id(&id.0).part_number(number.get() as i32).body(stream(body));
                let put = with_customer_key!(put, self.encryption);
                put.set_checksum_crc32_c(checksum.clone()).customize().interceptor(signature.clone()).send()
            })
            .await?;
        Ok(stored.e_tag)
    }

    pub(super) async fn complete(
        &self,
        key: &ObjectKey,
        id: &PartsId,
        parts: &[StoredPart],
    ) -> Result<(), BackendError> {
        let part =
            |part: &StoredPart| CompletedPart::builder().part_number(part.number.get() as i32).e_tag(&part.tag).build();
        let all = CompletedMultipartUpload::builder().set_parts(Some(parts.iter().map(part).collect())).build();
        let completed = self
            .call("complete", || {
                let complete = self.client.complete_multipart_upload().bucket(&self.bucket).key(key.as_str());
                complete.upload_id(&id.0).multipart_upload(all.clone()).send()
            })
            .await;
        match completed {
            // An earlier attempt may have succeeded without our seeing its answer.
            Err(BackendError::NotFound) => {
                let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
                let there = self.length(key).await? == bytes;
                if there { Ok(()) } else { Err(BackendError::NotFound) }
            }
            completed => completed.map(drop),
        }
    }

    pub(super) async fn abort(&self, key: &ObjectKey, id: &PartsId) -> Result<(), BackendError> {
        let aborted = self
            .call("abort", || {
                self.client.abort_multipart_upload().bucket(&self.bucket).key(key.as_str()).upload_id(&id.0).send()
            })
            .await;
        match aborted {
            Ok(_) | Err(BackendError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn wrong_answer(operation: &str, what: &str) -> BackendError {
    BackendError::Transient(format!("{operation}: the store's answer has {what}"))
}
