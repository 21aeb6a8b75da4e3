//! `aws-sdk-s3` over its own connector: no retries, no watch over slow streams, and no checksums of its own choice.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::Result;
use aws_credential_types::Credentials;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Config, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_types::base64;
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use http_body::{Body, Frame, SizeHint};

use super::{Keys, REGION};
use crate::load::Args;

pub struct Aws {
    client: aws_sdk_s3::Client,
    bucket: String,
    signed: bool,
    crc32c: bool,
}

impl Aws {
    pub fn open(args: &Args) -> Result<Self> {
        let keys = Keys::of_the_environment()?;
        let http = match args.endpoint.starts_with("https") {
            // Issuers are those of SSL_CERT_FILE.
            true => Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc)).build_https(),
            false => Builder::new().build_http(),
        };
        let config = Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(REGION))
            .endpoint_url(&args.endpoint)
            .force_path_style(true)
            .http_client(http)
            .credentials_provider(Credentials::new(keys.access, keys.secret, None, None, "bench"))
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        Ok(Self {
            client: aws_sdk_s3::Client::from_conf(config),
            bucket: args.bucket.clone(),
            signed: args.signed,
            crc32c: args.crc32c,
        })
    }

    pub async fn put(&self, key: &str, body: &[Bytes]) -> Result<()> {
        // In a header, as for the others: by itself it sends a trailer, for which the body is sent in chunks.
        let crc32c = self.crc32c.then(|| {
            let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
            body.iter().for_each(|segment| digest.update(segment));
            base64::encode((digest.finalize() as u32).to_be_bytes())
        });
        let stream = match self.signed {
            true => ByteStream::from(Bytes::from(body.concat())),
            false => ByteStream::new(SdkBody::from_body_1_x(InSegments(body.iter().cloned().collect()))),
        };
        let length = body.iter().map(|segment| segment.len() as i64).sum();
        let put = self.client.put_object().bucket(&self.bucket).key(key).content_length(length).body(stream);
        let put = put.set_checksum_crc32_c(crc32c).customize();
        if self.signed {
            put.send().await?
        } else {
            put.disable_payload_signing().send().await?
        };
        Ok(())
    }

    pub async fn get(&self, key: &str, bytes: u64) -> Result<Vec<Bytes>> {
        let range = format!("bytes=0-{}", bytes - 1);
        let mut body = self.client.get_object().bucket(&self.bucket).key(key).range(range).send().await?.body;
        let mut got = Vec::new();
        while let Some(piece) = body.next().await {
            got.push(piece?);
        }
        Ok(got)
    }
}

/// A body that is sent from where it lies.
struct InSegments(VecDeque<Bytes>);

impl Body for InSegments {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|segment| Ok(Frame::data(segment))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|segment| segment.len() as u64).sum())
    }
}
