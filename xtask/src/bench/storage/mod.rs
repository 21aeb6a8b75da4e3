//! How the storage engine behaves over a real store: cold reads beside producers (`--cold`), many readers of one cold range (`--fanout`),
//! a restart with a full WAL (`--restart`), producers beside uploads and compaction (`--beside`).

pub mod beside;
mod cap;
pub mod cold;
pub mod fanout;
pub mod restart;
mod site;

use std::path::PathBuf;

use clap::ValueEnum;

use crate::beds;
use crate::bench::load::Report;

/// A figure of a run.
type Value = fn(&Report) -> f64;

/// Which real store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Over {
    Rgw,
    Minio,
}

impl Over {
    fn bed(self) -> beds::Store {
        match self {
            Self::Rgw => beds::Store::Rgw,
            Self::Minio => beds::Store::Minio,
        }
    }
}

pub struct Settings {
    pub binary: PathBuf,
    pub over: Vec<Over>,
    /// Of each load.
    pub seconds: Option<f64>,
    pub pairs: usize,
    pub tiny: bool,
}
