//! An S3 server of a few lines: records each request and answers as the test says.
#![allow(clippy::unwrap_used, dead_code, reason = "a helper of tests; not each uses all of it")]

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use seawall_backends::config::PayloadSigning;
use seawall_backends::s3::S3Backend;
use seawall_backends::{Backend, BackendConfig, BackendError, BackendKind, ObjectKey, Purpose, Segments};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub uri: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

pub type Answer = Response<Full<Bytes>>;

pub struct Server {
    seen: Arc<Mutex<Vec<Seen>>>,
    pub endpoint: String,
    pub folder: tempfile::TempDir,
}

impl Server {
    pub async fn start(answer: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_on(None, answer).await
    }

    /// Its name is `localhost` in both forms.
    pub async fn start_on(tls: Option<TlsAcceptor>, answer: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = format!("{scheme}://localhost:{}", listener.local_addr().unwrap().port());
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (record, answer) = (seen.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (record, answer, tls) = (record.clone(), answer.clone(), tls.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (record, answer) = (record.clone(), answer.clone());
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let (method, uri) = (parts.method.to_string(), parts.uri.to_string());
                        let seen = Seen { method, uri, headers: parts.headers, body };
                        record.lock().unwrap().push(seen.clone());
                        Ok::<_, Infallible>(answer(&seen))
                    }
                });
                tokio::spawn(async move {
                    // A handshake or a connection that fails is the client's to tell.
                    match tls {
                        None => drop(http1::Builder::new().serve_connection(TokioIo::new(socket), service).await),
                        Some(tls) => {
                            if let Ok(socket) = tls.accept(socket).await {
                                drop(http1::Builder::new().serve_connection(TokioIo::new(socket), service).await);
                            }
                        }
                    }
                });
            }
        });
        let folder = tempfile::tempdir().unwrap();
        write_keys(folder.path(), ACCESS, SECRET);
        Self { seen, endpoint, folder }
    }

    pub fn config(&self, kind: BackendKind) -> BackendConfig {
        BackendConfig {
            kind,
            endpoint: Some(self.endpoint.clone()),
            bucket: Some("bucket".into()),
            access_key_file: Some(self.folder.path().join("access")),
            secret_key_file: Some(self.folder.path().join("secret")),
            payload_signing: Some(PayloadSigning::Never),
            ..Default::default()
        }
    }

    pub fn store(&self, kind: BackendKind) -> S3Backend {
        S3Backend::open(&self.config(kind)).unwrap()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn only(&self) -> Seen {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:#?}");
        seen[0].clone()
    }
}

pub const ACCESS: &str = "MARKERACCESSKEY";
pub const SECRET: &str = "marker-secret-key";

pub fn write_keys(folder: &Path, access: &str, secret: &str) {
    std::fs::write(folder.join("access"), access).unwrap();
    std::fs::write(folder.join("secret"), secret).unwrap();
}

pub fn answer(status: u16, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer
}

pub fn refusal(status: u16, code: &str) -> Answer {
    answer(status, format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>words</Message></Error>"))
}

pub fn with(mut answer: Answer, name: &'static str, value: &str) -> Answer {
    answer.headers_mut().insert(name, value.parse().unwrap());
    answer
}

pub fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

pub async fn put(store: &S3Backend, body: impl Into<Segments>) -> Result<(), BackendError> {
    store.put(&key("folder/object"), body.into(), Purpose::Upload).await
}
