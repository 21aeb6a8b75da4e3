//! `opendal` over its own transport, without layers. It never signs bodies.

use anyhow::{Result, ensure};
use bytes::Bytes;
use opendal::{Buffer, Operator, services};

use super::{Keys, REGION};
use crate::load::Args;

pub struct OpenDal(Operator);

impl OpenDal {
    pub fn open(args: &Args) -> Result<Self> {
        ensure!(!args.signed, "opendal does not sign bodies");
        opendal::install_default();
        let keys = Keys::of_the_environment()?;
        let mut store = services::S3::default()
            .endpoint(&args.endpoint)
            .bucket(&args.bucket)
            .region(REGION)
            .access_key_id(&keys.access)
            .secret_access_key(&keys.secret)
            .disable_config_load()
            .disable_ec2_metadata();
        if args.crc32c {
            store = store.checksum_algorithm("crc32c");
        }
        Ok(Self(Operator::new(store)?))
    }

    pub async fn put(&self, key: &str, body: &[Bytes]) -> Result<()> {
        self.0.write(key, Buffer::from(body.to_vec())).await?;
        Ok(())
    }

    pub async fn get(&self, key: &str, bytes: u64) -> Result<Vec<Bytes>> {
        Ok(self.0.read_with(key).range(0..bytes).await?.collect())
    }
}
