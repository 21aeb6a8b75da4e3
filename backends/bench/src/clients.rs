//! Clients behind one face: a body goes out in its segments, and comes back in the pieces in which it came.

use anyhow::Result;
use bytes::Bytes;

use crate::load::Args;
use crate::own::Own;
#[cfg(feature = "peers")]
use crate::peers::{aws::Aws, opendal::OpenDal};

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Which {
    /// Ours, bare.
    Seawall,
    /// Ours, under the layers that the broker puts over it.
    Layered,
    #[cfg(feature = "peers")]
    Aws,
    #[cfg(feature = "peers")]
    Opendal,
}

pub enum Client {
    Own(Own),
    #[cfg(feature = "peers")]
    Aws(Aws),
    #[cfg(feature = "peers")]
    OpenDal(OpenDal),
}

impl Client {
    pub async fn open(args: &Args) -> Result<Self> {
        Ok(match args.client {
            Which::Seawall => Self::Own(Own::open(args, false).await?),
            Which::Layered => Self::Own(Own::open(args, true).await?),
            #[cfg(feature = "peers")]
            Which::Aws => Self::Aws(Aws::open(args)?),
            #[cfg(feature = "peers")]
            Which::Opendal => Self::OpenDal(OpenDal::open(args)?),
        })
    }

    pub async fn put(&self, key: &str, body: &[Bytes]) -> Result<()> {
        match self {
            Self::Own(own) => own.put(key, body).await,
            #[cfg(feature = "peers")]
            Self::Aws(aws) => aws.put(key, body).await,
            #[cfg(feature = "peers")]
            Self::OpenDal(opendal) => opendal.put(key, body).await,
        }
    }

    /// An object of which the length is known.
    pub async fn get(&self, key: &str, bytes: u64) -> Result<Vec<Bytes>> {
        match self {
            Self::Own(own) => own.get(key, bytes).await,
            #[cfg(feature = "peers")]
            Self::Aws(aws) => aws.get(key, bytes).await,
            #[cfg(feature = "peers")]
            Self::OpenDal(opendal) => opendal.get(key, bytes).await,
        }
    }
}
