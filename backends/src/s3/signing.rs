//! How a body stands in the signature of its request: not at all, or by its SHA-256. That is made here, over the segments as
//! they lie, so that a body that is signed is neither joined nor hashed on a thread that serves connections.

use aws_lc_rs::digest::{Context, SHA256};
use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;

use crate::Segments;

/// Above this a body is hashed by a thread of its own: a few milliseconds.
const AT_ONCE_BYTES_MAX: u64 = 1 << 20;

/// For one request, and its repeats.
#[derive(Debug, Clone)]
pub(super) struct BodySignature(PayloadSigningOverride);

impl BodySignature {
    pub(super) async fn of(body: &Segments, is_signed: bool) -> Self {
        if !is_signed {
            return Self(PayloadSigningOverride::unsigned_payload());
        }
        let hash = if body.total_bytes() <= AT_ONCE_BYTES_MAX {
            sha256_hex(body)
        } else {
            let body = body.clone();
            match tokio::task::spawn_blocking(move || sha256_hex(&body)).await {
                Ok(hash) => hash,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        };
        Self(PayloadSigningOverride::Precomputed(hash))
    }
}

fn sha256_hex(body: &Segments) -> String {
    let mut digest = Context::new(&SHA256);
    body.iter().for_each(|segment| digest.update(segment));
    digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Intercept for BodySignature {
    fn name(&self) -> &'static str {
        "BodySignature"
    }

    fn modify_before_signing(
        &self,
        _: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        config.interceptor_state().store_put(self.0.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[tokio::test]
    async fn a_body_in_pieces_has_the_hash_of_the_whole() {
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let abc: Segments = vec![Bytes::from_static(b"a"), Bytes::new(), Bytes::from_static(b"bc")].into();
        let BodySignature(PayloadSigningOverride::Precomputed(hash)) = BodySignature::of(&abc, true).await else {
            panic!("not signed");
        };
        assert_eq!(hash, known);
        let large: Segments = vec![Bytes::from(vec![7; 1 << 20]); 2].into();
        let BodySignature(PayloadSigningOverride::Precomputed(hash)) = BodySignature::of(&large, true).await else {
            panic!("not signed");
        };
        assert_eq!(hash, sha256_hex(&Segments::from(large.into_bytes())));
    }
}
