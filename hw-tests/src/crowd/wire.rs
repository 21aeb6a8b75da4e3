//! One connection that asks and waits. Every wait is bounded.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use seawall_protocol::messages::ResponseHeader;
use seawall_protocol::{ApiKey, Decoder, Message, encode_request, response_header_version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest wait for a connection or an answer; joining a group takes its rebalance timeout.
const PATIENCE: Duration = Duration::from_secs(60);
const RESPONSE_BYTES_MAX: usize = 64 << 20;

pub struct Wire {
    pub stream: TcpStream,
}

impl Wire {
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await.context("connect")??;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    pub async fn call<Q: Message, A: Message>(&mut self, api: ApiKey, version: i16, request: &Q) -> Result<A> {
        self.exchange(api, version, &frame(api, version, request)?).await
    }

    /// Sends a whole frame and waits for its answer.
    pub async fn exchange<A: Message>(&mut self, api: ApiKey, version: i16, frame: &[u8]) -> Result<A> {
        timeout(PATIENCE, async {
            self.stream.write_all(frame).await?;
            let length = usize::try_from(self.stream.read_i32().await?)?;
            ensure!(length <= RESPONSE_BYTES_MAX, "a response of {length} bytes");
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).await?;
            let mut input = Decoder::new(Bytes::from(body));
            ResponseHeader::decode(&mut input, response_header_version(api, version))?;
            Ok(A::decode(&mut input, version)?)
        })
        .await
        .context("no answer")?
    }
}

pub fn frame<Q: Message>(api: ApiKey, version: i16, request: &Q) -> Result<Vec<u8>> {
    Ok(encode_request(api, version, 1, Some("seawall-qualify"), request)?.into_bytes().to_vec())
}
