//! TLS to a store: whom the client trusts, how it shows itself, what it says when one of the two does not work.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use seawall_backends::s3::S3Backend;
use seawall_backends::{BackendConfig, BackendError, BackendKind};
use tokio_rustls::TlsAcceptor;

use recording_server::{Server, answer, put};

mod recording_server;

/// Made with openssl, good until 2126: an issuer, a server `localhost` and a client from it, and another issuer.
fn pem(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls")).join(name)
}

fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(pem(name)).unwrap()
}

async fn server(asks_for_client_certificate: bool) -> Server {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let mut issuers = RootCertStore::empty();
    issuers.add(certificate("issuer.pem")).unwrap();
    let builder = if asks_for_client_certificate {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(issuers), provider).build().unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_file(pem("server.key")).unwrap();
    let config = builder.with_single_cert(vec![certificate("server.pem")], key).unwrap();
    Server::start_on(Some(TlsAcceptor::from(Arc::new(config))), |_| answer(200, "")).await
}

fn trusting(server: &Server, issuer: &str) -> BackendConfig {
    let config = server.config(BackendKind::Minio);
    BackendConfig { tls_ca_file: Some(pem(issuer)), payload_signing: None, ..config }
}

async fn put_with(config: &BackendConfig) -> Result<(), BackendError> {
    put(&S3Backend::open(config).unwrap(), vec![Bytes::from_static(b"bo"), Bytes::from_static(b"dy")]).await
}

#[tokio::test]
async fn the_issuer_of_the_site_is_trusted_and_bodies_within_tls_are_not_hashed() {
    let server = server(false).await;
    put_with(&trusting(&server, "issuer.pem")).await.unwrap();
    let seen = server.only();
    assert_eq!(seen.header("x-amz-content-sha256"), Some("UNSIGNED-PAYLOAD"));
    assert_eq!((seen.header("content-length"), seen.header("transfer-encoding")), (Some("4"), None));
    assert_eq!(seen.body, "body");
}

#[tokio::test]
async fn a_store_of_another_issuer_or_name_is_refused_for_good() {
    let server = server(false).await;
    let error = put_with(&trusting(&server, "other_issuer.pem")).await.unwrap_err();
    assert!(matches!(&error, BackendError::Fatal(text) if text.contains("certificate")), "{error}");
    let by_address = Some(server.endpoint.replace("localhost", "127.0.0.1"));
    let error = put_with(&BackendConfig { endpoint: by_address, ..trusting(&server, "issuer.pem") }).await.unwrap_err();
    assert!(matches!(&error, BackendError::Fatal(text) if text.contains("certificate")), "{error}");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_store_that_asks_for_a_certificate_gets_it() {
    let server = server(true).await;
    let without = trusting(&server, "issuer.pem");
    let error = put_with(&without).await.unwrap_err();
    // Whether the refusal or the cut connection is seen first is a race that a repetition settles.
    assert!(matches!(&error, BackendError::Fatal(_) | BackendError::Transient(_)), "{error}");
    assert!(server.seen().is_empty());
    let (tls_cert_file, tls_key_file) = (Some(pem("client.pem")), Some(pem("client.key")));
    put_with(&BackendConfig { tls_cert_file, tls_key_file, ..without }).await.unwrap();
    server.only();
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_when_the_store_is_opened() {
    let server = server(false).await;
    let good = trusting(&server, "issuer.pem");
    let open = |config: BackendConfig| S3Backend::open(&config).unwrap_err().to_string();
    let text = open(trusting(&server, "server.key"));
    assert!(text.contains("server.key holds no usable certificate"), "{text}");
    let text = open(trusting(&server, "missing.pem"));
    assert!(text.contains("missing.pem"), "{text}");
    let pair = |certificate, key| BackendConfig {
        tls_cert_file: Some(pem(certificate)),
        tls_key_file: Some(pem(key)),
        ..good.clone()
    };
    let text = open(pair("client.pem", "server.key"));
    assert!(text.contains("do not fit together"), "{text}");
    let text = open(pair("client.pem", "server.pem"));
    assert!(text.contains("server.pem holds no usable private key"), "{text}");
}

#[tokio::test]
async fn a_name_that_is_not_the_endpoints_is_looked_for_in_the_certificate() {
    let server = server(false).await;
    let by_address = Some(server.endpoint.replace("localhost", "127.0.0.1"));
    let config = BackendConfig { endpoint: by_address, ..trusting(&server, "issuer.pem") };
    put_with(&BackendConfig { tls_server_name: Some("localhost".into()), ..config }).await.unwrap();
    server.only();
    let other = BackendConfig { tls_server_name: Some("store.example".into()), ..trusting(&server, "issuer.pem") };
    let error = put_with(&other).await.unwrap_err();
    assert!(matches!(&error, BackendError::Fatal(text) if text.contains("certificate")), "{error}");
}

#[tokio::test]
async fn certificates_that_are_replaced_in_their_files_are_used_without_a_restart() {
    let server = server(true).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| Some(folder.path().join(name));
    let replace = |name: &str, by: &str| {
        std::fs::copy(pem(by), folder.path().join("new")).unwrap();
        std::fs::rename(folder.path().join("new"), folder.path().join(name)).unwrap();
    };
    replace("ca", "other_issuer.pem");
    replace("certificate", "client.pem");
    replace("key", "client.key");
    let config = BackendConfig {
        tls_ca_file: file("ca"),
        tls_cert_file: file("certificate"),
        tls_key_file: file("key"),
        ..trusting(&server, "issuer.pem")
    };
    let store = S3Backend::open(&config).unwrap();
    let body = || vec![Bytes::from_static(b"body")];
    assert!(matches!(put(&store, body()).await, Err(BackendError::Fatal(_))));
    replace("ca", "issuer.pem");
    let took = std::time::Instant::now();
    while let Err(error) = put(&store, body()).await {
        assert!(took.elapsed() < std::time::Duration::from_secs(20), "{error}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    // What cannot be read leaves those from before in use.
    std::fs::write(folder.path().join("ca"), "half").unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(5_500)).await;
    put(&store, body()).await.unwrap();
}
