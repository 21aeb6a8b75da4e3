//! Stores that speak S3: all of them, through one client. What differs between them is in [`crate::profile`].
//!
//! Each call is one attempt with one answer: the client's own retries and time limits are off, ours are layers above.
//! Bodies have a known length, go to the socket from where they lie, and come back in the pieces in which they came.
//! The client logs nothing: its finest level shows what is signed.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Config, IdentityCache, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_smithy_types::base64;
use crc_fast::CrcAlgorithm;
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

use crate::config::{CredentialsFrom, PayloadSigning};
use crate::profile::{Profile, PutChecksum};
use crate::{
    Backend, BackendConfig, BackendError, BackendKind, BegunObject, BoxFuture, Capabilities, ListPage, ObjectKey,
    ObjectMeta, PartBody, PartNumber, PartsId, Purpose, Segments, StoredPart, range_bytes,
};

mod body;
mod clock;
mod connect;
mod credentials;
mod delete;
mod encryption;
mod errors;
mod list;
mod parts;
mod signing;
mod tls;

pub use credentials::KeysError;
pub use encryption::EncryptionError;
pub use tls::TlsError;

use body::SegmentsBody;
use clock::{StoreClock, clock_ahead_of};
use credentials::{Chain, KeySource, Keys};
use encryption::{Encryption, at_rest, with_customer_key};
use errors::{Refusal, classify};
use signing::BodySignature;
use tls::Tls;

pub struct S3Backend {
    client: Client,
    bucket: String,
    profile: &'static Profile,
    keys: KeySource,
    encryption: Encryption,
    clock: Arc<StoreClock>,
    /// Whether bodies are part of the signature.
    signs_bodies: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum S3OpenError {
    #[error("{0:?} without a bucket is no S3 store")]
    NotS3(BackendKind),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
}

const REGION: &str = "us-east-1";

impl fmt::Debug for S3Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Backend({}, bucket {:?})", self.profile.kind.name(), self.bucket)
    }
}

impl S3Backend {
    /// Reads keys and certificates; does not speak to the store. `config` was validated.
    pub fn open(config: &BackendConfig) -> Result<Self, S3OpenError> {
        let kind = config.kind;
        let (profile, bucket) = Profile::of(kind).zip(config.bucket.clone()).ok_or(S3OpenError::NotS3(kind))?;
        let region = Region::new(config.region.clone().unwrap_or_else(|| REGION.to_owned()));
        let keys = key_source(config, &region)?;
        let clock = Arc::<StoreClock>::default();
        let mut client = Config::builder();
        client.set_endpoint_url(config.endpoint.clone());
        let client = client
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(region)
            .force_path_style(config.path_style.unwrap_or(profile.path_style || config.endpoint.is_some()))
            .http_client(connect::http_client(Tls::of(config)?, Arc::clone(&clock))?)
            .credentials_provider(keys.clone())
            .identity_cache(IdentityCache::no_cache())
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .disable_clock_skew_correction(true)
            .disable_s3_express_session_auth(true)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        Ok(Self {
            client: Client::from_conf(client),
            bucket,
            profile,
            keys,
            encryption: Encryption::open(config)?,
            clock,
            signs_bodies: match config.payload_signing.unwrap_or_default() {
                PayloadSigning::Auto => !config.is_tls(),
                PayloadSigning::Always => true,
                PayloadSigning::Never => false,
            },
        })
    }

    /// One request. Keys that the store does not take are read again, and if there are new ones it is sent once more.
    async fn call<T, E, F>(&self, operation: &'static str, send: impl Fn() -> F) -> Result<T, BackendError>
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E>>>,
    {
        let attempt = async || {
            let outcome = send().with_subscriber(Dispatch::none()).await;
            outcome.map_err(|error| self.scrubbed(meaning(operation, &error)))
        };
        match attempt().await {
            Err(BackendError::Denied(_)) if self.keys.read_again() => attempt().await,
            outcome => outcome,
        }
    }

    /// The last guard: whatever a store or a library says, no key is in it.
    fn scrubbed(&self, error: BackendError) -> BackendError {
        let scrub = |text: String| {
            let text = self.keys.scrub(&text);
            let customer = self.encryption.customer.as_ref();
            customer.map_or(text.clone(), |key| text.replace(key.base64.expose(), "[hidden]"))
        };
        match error {
            BackendError::Transient(text) => BackendError::Transient(scrub(text)),
            BackendError::Full(text) => BackendError::Full(scrub(text)),
            BackendError::Denied(text) => BackendError::Denied(scrub(text)),
            BackendError::Corrupt(text) => BackendError::Corrupt(scrub(text)),
            BackendError::Unsupported(text) => BackendError::Unsupported(scrub(text)),
            BackendError::Fatal(text) => BackendError::Fatal(scrub(text)),
            BackendError::NotFound | BackendError::Throttled { .. } => error,
        }
    }

    async fn put_once(&self, key: &ObjectKey, body: &Segments) -> Result<(), BackendError> {
        let (bytes, most) = (body.total_bytes(), self.profile.put_bytes_max);
        if bytes > most {
            return Err(BackendError::Unsupported(format!("{bytes} bytes in one put; {most} is the most")));
        }
        let checksum = checksum(self.profile.put_checksum, body);
        let signature = BodySignature::of(body, self.signs_bodies).await;
        self.call("put", || {
            let put = self.client.put_object().bucket(&self.bucket).key(key.as_str()).body(stream(body));
            let put = with_customer_key!(at_rest!(put, self.encryption), self.encryption);
            put.set_checksum_crc32_c(checksum.clone()).customize().interceptor(signature.clone()).send()
        })
        .await
        .and_then(|stored| self.encryption.check(stored.server_side_encryption()))
    }

    async fn get(&self, key: &ObjectKey, range: &Range<u64>) -> Result<Segments, BackendError> {
        let wanted = range_bytes(range);
        if wanted == 0 {
            return match self.length(key).await? {
                bytes if bytes < range.end => Err(too_short(key, range, bytes)),
                _ => Ok(Segments::default()),
            };
        }
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let answer = self
            .call("get", || {
                let get = self.client.get_object().bucket(&self.bucket).key(key.as_str()).range(&header);
                with_customer_key!(get, self.encryption).send()
            })
            .await?;
        check_range(key, range, &answer)?;
        self.read(answer.body, wanted).with_subscriber(Dispatch::none()).await
    }

    async fn read(&self, mut body: ByteStream, wanted: u64) -> Result<Segments, BackendError> {
        let mut read = Segments::default();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| {
                self.scrubbed(BackendError::Transient(format!("get: the body broke off: {}", chain(&error))))
            })?;
            read.push(piece);
            if read.total_bytes() > wanted {
                break;
            }
        }
        match read.total_bytes() {
            bytes if bytes == wanted => Ok(read),
            bytes => Err(BackendError::Transient(format!("get: a body of {bytes} bytes, announced were {wanted}"))),
        }
    }

    async fn length(&self, key: &ObjectKey) -> Result<u64, BackendError> {
        let head = self.call("head", || {
            let head = self.client.head_object().bucket(&self.bucket).key(key.as_str());
            with_customer_key!(head, self.encryption).send()
        });
        let head = match head.await {
            // The answer cannot say whether it is the object or the bucket that is missing.
            Err(BackendError::NotFound) => {
                self.check_bucket().await?;
                return Err(BackendError::NotFound);
            }
            head => head?,
        };
        let bytes = head.content_length().and_then(|bytes| u64::try_from(bytes).ok());
        bytes.ok_or_else(|| BackendError::Transient("head: the store's answer has no length".to_owned()))
    }
}

fn stream(body: &Segments) -> ByteStream {
    ByteStream::new(SdkBody::from_body_1_x(SegmentsBody::new(body)))
}

fn checksum(wanted: PutChecksum, body: &Segments) -> Option<String> {
    match wanted {
        PutChecksum::None => None,
        PutChecksum::Crc32c => {
            let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
            body.iter().for_each(|segment| digest.update(segment));
            Some(base64::encode((digest.finalize() as u32).to_be_bytes()))
        }
    }
}

fn key_source(config: &BackendConfig, region: &Region) -> Result<KeySource, S3OpenError> {
    if config.credentials == Some(CredentialsFrom::ProviderChain) {
        // The store's own issuers say nothing about who gives keys.
        let clock = Arc::<StoreClock>::default;
        let http = connect::http_client(Tls { needed: true, ..Tls::default() }, clock());
        // A machine without trusted issuers may still ask its own endpoints.
        let http = http.or_else(|_| connect::http_client(Tls::default(), clock()))?;
        return Ok(KeySource::Chain(Arc::new(Chain::new(http, region.clone()))));
    }
    let env = |name: &str| std::env::var(name).ok();
    let keys = Keys::open(&env, config.access_key_file.as_deref(), config.secret_key_file.as_deref())?;
    Ok(KeySource::Static(Arc::new(keys)))
}

/// Before any of the body is read: is it what was asked for?
fn check_range(key: &ObjectKey, asked: &Range<u64>, answer: &GetObjectOutput) -> Result<(), BackendError> {
    let strange = |what: String| Err(BackendError::Transient(format!("get: asked for {asked:?}, the answer {what}")));
    let length = answer.content_length().and_then(|bytes| u64::try_from(bytes).ok());
    let (given, total) = match (answer.content_range(), length) {
        (Some(text), _) => match given_range(text) {
            Some(given) => given,
            None => return strange(format!("has the range {text:?}")),
        },
        // The whole object: right only if that was asked for.
        (None, Some(bytes)) => (0..bytes, Some(bytes)),
        (None, None) => return strange("has neither a range nor a length".to_owned()),
    };
    if given == *asked {
        let announced = length.unwrap_or(range_bytes(asked));
        return if announced == range_bytes(asked) { Ok(()) } else { strange(format!("has {announced} bytes")) };
    }
    if let Some(total) = total.filter(|total| *total < asked.end) {
        return Err(too_short(key, asked, total));
    }
    if answer.content_range().is_none() {
        let text = format!("get: the store ignores the range that was asked for and sends {} bytes", given.end);
        return Err(BackendError::Fatal(text));
    }
    strange(format!("is of {given:?}"))
}

/// `bytes 0-9/20` as 0..10 of 20.
fn given_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, end) = (first.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?);
    (first < end).then_some((first..end, total.parse().ok()))
}

fn too_short(key: &ObjectKey, asked: &Range<u64>, bytes: u64) -> BackendError {
    BackendError::Corrupt(format!("{key} has {bytes} bytes, {asked:?} was asked"))
}

fn meaning<E>(operation: &'static str, error: &SdkError<E>) -> BackendError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let Some(response) = error.raw_response() else {
        let text = format!("{operation}: {}", chain(error));
        return match error {
            _ if without_keys(error) => BackendError::Denied(text),
            SdkError::ConstructionFailure(_) => BackendError::Fatal(text),
            _ if tls_refused(error) => BackendError::Fatal(text),
            _ => BackendError::Transient(text),
        };
    };
    let header = |name| response.headers().get(name);
    let service = error.as_service_error();
    classify(&Refusal {
        operation,
        status: response.status().as_u16(),
        code: service.and_then(ProvideErrorMetadata::code),
        message: service.and_then(ProvideErrorMetadata::message),
        request_id: header("x-amz-request-id"),
        retry_after: header("retry-after").and_then(|after| after.parse().ok()).map(Duration::from_secs),
        clock_ahead_seconds: header("date").and_then(clock_ahead_of),
    })
}

const CHAIN_BYTES_MAX: usize = 300;

/// An error with its causes, without those that repeat what was said.
fn chain(error: &dyn Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let said = error.to_string();
        if !text.contains(&said) {
            text += if text.is_empty() { "" } else { ": " };
            text += &said;
        }
        next = error.source();
    }
    text.chars().take(CHAIN_BYTES_MAX).collect()
}

/// Whether one side does not trust the other: repeating does not help until someone changes a certificate.
fn tls_refused(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)) = error.downcast_ref() {
            return true;
        }
        // What an I/O error holds is not among its sources.
        let held = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = held.map(|held| held as &(dyn Error + 'static)).or_else(|| error.source());
    }
    false
}

/// Whether nobody gives keys. A service that gives some and does not answer is another thing.
fn without_keys(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_)) =
            error.downcast_ref()
        {
            return true;
        }
        next = error.source();
    }
    false
}

impl Backend for S3Backend {
    fn put<'a>(
        &'a self,
        key: &'a ObjectKey,
        body: Segments,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move { self.put_once(key, &body).await })
    }

    fn get_range<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: Range<u64>,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<Segments, BackendError>> {
        Box::pin(async move { self.get(key, &range).await })
    }

    fn head<'a>(&'a self, key: &'a ObjectKey, _purpose: Purpose) -> BoxFuture<'a, Result<ObjectMeta, BackendError>> {
        Box::pin(async move { Ok(ObjectMeta { bytes: self.length(key).await? }) })
    }

    fn delete_many(
        &self,
        keys: Vec<ObjectKey>,
        _purpose: Purpose,
    ) -> BoxFuture<'_, Vec<(ObjectKey, Result<(), BackendError>)>> {
        Box::pin(self.delete_all(keys))
    }

    fn list_folder<'a>(
        &'a self,
        folder: &'a str,
        start_after: Option<&'a ObjectKey>,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<ListPage, BackendError>> {
        Box::pin(self.list_page(folder, start_after))
    }

    fn begin_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<PartsId, BackendError>> {
        Box::pin(self.begin(key))
    }

    fn put_part<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        number: PartNumber,
        body: PartBody,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<StoredPart, BackendError>> {
        Box::pin(self.store_part(key, id, number, body))
    }

    fn complete_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        parts: Vec<StoredPart>,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move { self.complete(key, id, &parts).await })
    }

    fn abort_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(self.abort(key, id))
    }

    fn list_begun<'a>(
        &'a self,
        folder: &'a str,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<Vec<BegunObject>, BackendError>> {
        Box::pin(self.list_begun_in(folder))
    }

    fn clock_ahead_seconds(&self) -> Option<i64> {
        self.clock.ahead_seconds()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            durable: true,
            put_bytes_max: self.profile.put_bytes_max,
            parts: true,
            part_bytes_min: self.profile.part_bytes_min,
            part_bytes_max: self.profile.part_bytes_max,
            copies_within: true,
            lists_begun: self.profile.lists_begun,
        }
    }

    fn name(&self) -> &str {
        self.profile.kind.name()
    }
}
