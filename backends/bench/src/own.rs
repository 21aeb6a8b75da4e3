//! Our client, as the broker opens it.

use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use seawall_backends::config::PayloadSigning;
use seawall_backends::{Backend, BackendConfig, BackendKind, Layers, ObjectKey, Purpose, open, registry};

use crate::load::Args;

pub struct Own(Arc<dyn Backend>);

impl Own {
    pub async fn open(args: &Args, layered: bool) -> Result<Self> {
        // The profiles of these kinds differ in what they send along with a body.
        let kind = if args.crc32c { BackendKind::S3 } else { BackendKind::CephRgw };
        let config = BackendConfig {
            kind,
            endpoint: Some(args.endpoint.clone()),
            bucket: Some(args.bucket.clone()),
            path_style: Some(true),
            tls_ca_file: args.ca.clone(),
            payload_signing: Some(if args.signed { PayloadSigning::Always } else { PayloadSigning::Never }),
            ..Default::default()
        };
        let bare = open(&config).await?;
        Ok(Self(if layered { registry::layer(bare, Layers::default(), 1).backend } else { bare }))
    }

    pub async fn put(&self, key: &str, body: &[Bytes]) -> Result<()> {
        Ok(self.0.put(&ObjectKey::new(key)?, body.to_vec().into(), Purpose::Upload).await?)
    }

    pub async fn get(&self, key: &str, bytes: u64) -> Result<Vec<Bytes>> {
        let got = self.0.get_range(&ObjectKey::new(key)?, 0..bytes, Purpose::TailRead).await?;
        Ok(got.iter().cloned().collect())
    }
}
