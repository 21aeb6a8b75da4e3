//! A broker in this process and a small client, shared by the integration tests.
//!
//! The client speaks one request at a time through `seawall_protocol`; tests of pipelining and of broken input use
//! `send` and `receive`, or the raw socket. Every wait is bounded.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod child;
pub mod consumer_member;

pub mod group;
pub mod log;
pub mod outage;
pub mod pulse;

use std::{net::SocketAddr, path::Path, time::Duration};

use bytes::Bytes;
use seawall::{config::Config, node::Node};
use seawall_protocol::{ApiKey, Decoder, Message, encode_request, messages::ResponseHeader, response_header_version};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// No answer of a healthy broker takes longer, long polls that a test asks for apart.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A node in this process with its data in a temporary folder.
pub struct TestBroker {
    pub node: Node,
    pub dir: TempDir,
    pub config: Config,
}

impl TestBroker {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts with a configuration that `edit` changes, on free ports.
    pub async fn start_with(edit: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), edit).await
    }

    /// The same in a folder that may hold something.
    pub async fn start_in(dir: TempDir, edit: impl FnOnce(&mut Config)) -> Self {
        let mut config = test_config(dir.path());
        edit(&mut config);
        let node = Node::start(config.clone()).await.unwrap();
        Self { node, dir, config }
    }

    /// Stops and starts again on the same data, with new ports.
    pub async fn restart(self) -> Self {
        let Self { node, dir, config } = self;
        node.stop().await;
        let node = Node::start(config.clone()).await.unwrap();
        Self { node, dir, config }
    }

    pub async fn stop(self) {
        self.node.stop().await;
    }

    pub fn address(&self) -> SocketAddr {
        self.node.kafka_address
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address()).await
    }

    /// A GET of the admin HTTP: status and body.
    pub async fn admin(&self, path: &str) -> (u16, String) {
        http_get(self.node.admin_address, path).await
    }
}

/// Small sizes and short times, on free ports.
pub fn test_config(data_dir: &Path) -> Config {
    let mut config = Config::default();
    config.node.data_dir = data_dir.join("data");
    config.listeners.kafka = "127.0.0.1:0".into();
    config.listeners.admin = "127.0.0.1:0".into();
    config.wal = vec![toml::from_str("kind = \"file\"\nsize = \"32MiB\"").unwrap()];
    config.upload.shutdown_wait = seawall::units::Span::seconds(5);
    set(&mut config, "offsets.topic.num.partitions", "4");
    set(&mut config, "group.initial.rebalance.delay.ms", "50");
    config
}

/// Sets a broker config by its Kafka name.
pub fn set(config: &mut Config, name: &str, value: &str) {
    config.kafka.set(name, value).unwrap();
}

/// One connection.
pub struct Client {
    pub stream: TcpStream,
    next_correlation_id: i32,
    pub client_id: String,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await.unwrap().unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, next_correlation_id: 1, client_id: "test".into() }
    }

    /// Sends a request and waits for its response. Panics when the broker closes the connection instead.
    pub async fn call<Q: Message, R: Message>(&mut self, version: i16, request: &Q) -> R {
        self.try_call(version, request).await.expect("the broker closed the connection")
    }

    /// As `call`; `None` when the broker closes the connection instead of answering.
    pub async fn try_call<Q: Message, R: Message>(&mut self, version: i16, request: &Q) -> Option<R> {
        let sent = self.send(version, request).await;
        let (received, response) = self.receive(version).await?;
        assert_eq!(received, sent, "a response to another request");
        Some(response)
    }

    /// Sends a request without waiting; answers its correlation id.
    pub async fn send<Q: Message>(&mut self, version: i16, request: &Q) -> i32 {
        let id = self.next_correlation_id;
        self.next_correlation_id += 1;
        let frame = encode_request(api_key::<Q>(), version, id, Some(&self.client_id), request).unwrap();
        self.send_raw(&frame.into_bytes()).await;
        id
    }

    /// Writes bytes as they are. A broker that has closed the connection meanwhile is no error here.
    pub async fn send_raw(&mut self, bytes: &[u8]) {
        let _ = timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("the broker reads");
    }

    /// The next response and the correlation id that it answers; `None` at the end of the connection.
    pub async fn receive<R: Message>(&mut self, version: i16) -> Option<(i32, R)> {
        let mut body = Decoder::new(self.receive_frame().await?);
        let header =
            ResponseHeader::decode(&mut body, response_header_version(api_key::<R>(), version)).expect("a header");
        let response = R::decode(&mut body, version).expect("a response of that version");
        body.finish().expect("nothing behind the response");
        Some((header.correlation_id, response))
    }

    /// The next frame without its length; `None` at the end of the connection.
    pub async fn receive_frame(&mut self) -> Option<Bytes> {
        timeout(PATIENCE, async {
            let length = self.stream.read_i32().await.ok()?;
            let mut frame = vec![0; usize::try_from(length).unwrap()];
            self.stream.read_exact(&mut frame).await.ok()?;
            Some(Bytes::from(frame))
        })
        .await
        .expect("the broker answers")
    }

    /// Waits until the broker has closed the connection.
    pub async fn closed(&mut self) {
        let mut rest = Vec::new();
        // A reset is an end as well.
        let _ = timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await.expect("the broker closes the connection");
    }
}

fn api_key<M: Message>() -> ApiKey {
    ApiKey::try_from(M::API_KEY.expect("a request or response")).unwrap()
}

/// A GET over a connection of its own: status and body.
pub async fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut response)).await.unwrap().unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}
