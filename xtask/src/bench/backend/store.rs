//! Where the clients put and get.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};

use super::client::Program;
use crate::beds::{self, BUCKET, Bed};

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Store {
    /// Drops what is put and makes up what is got.
    Sink,
    Minio,
    /// Ceph's object gateway. Needs root to install it, not to run it.
    Rgw,
}

impl Store {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sink => "sink",
            Self::Minio => "minio",
            Self::Rgw => "rgw",
        }
    }

    /// As the profiles have it.
    pub fn wants_crc32c(self) -> bool {
        self == Self::Minio
    }

    fn bed(self) -> Option<beds::Store> {
        match self {
            Self::Sink => None,
            Self::Minio => Some(beds::Store::Minio),
            Self::Rgw => Some(beds::Store::Rgw),
        }
    }
}

/// Ended when dropped.
pub struct Started {
    store: Store,
    pub endpoint: String,
    pub bucket: String,
    pub access: String,
    pub secret: String,
    pub ca: Option<PathBuf>,
    version: String,
    sink: Option<Child>,
    _bed: Option<Bed>,
}

impl Started {
    pub fn start(store: Store, program: &Program) -> Result<Self> {
        match store.bed() {
            None => Self::sink(store, program),
            Some(bed) => Self::bed(store, bed),
        }
    }

    fn sink(store: Store, program: &Program) -> Result<Self> {
        let mut sink = program.command().arg("sink").stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut endpoint = String::new();
        BufReader::new(sink.stdout.take().context("the sink's output")?).read_line(&mut endpoint)?;
        ensure!(!endpoint.is_empty(), "the sink did not start");
        Ok(Self {
            store,
            endpoint: endpoint.trim().to_owned(),
            bucket: BUCKET.to_owned(),
            access: "anybody".to_owned(),
            secret: "anything".to_owned(),
            ca: None,
            version: String::new(),
            sink: Some(sink),
            _bed: None,
        })
    }

    fn bed(store: Store, of: beds::Store) -> Result<Self> {
        for tool in of.tools() {
            ensure!(tool.find().is_some(), "{} is missing: {}", tool.program(), tool.hint());
        }
        let bed = beds::start(of)?;
        let endpoint = bed.forms.iter().find_map(|form| form.endpoint.clone()).context("no endpoint without TLS")?;
        let keys = bed.keys.clone().context("no keys")?;
        Ok(Self {
            store,
            endpoint,
            bucket: BUCKET.to_owned(),
            access: keys.access,
            secret: keys.secret,
            ca: None,
            version: bed.version.clone(),
            sink: None,
            _bed: Some(bed),
        })
    }

    pub fn name(&self) -> &'static str {
        self.store.name()
    }

    pub fn describe(&self) -> String {
        let what = match self.store {
            Store::Sink => "sink on loopback: no disk, no checks".to_owned(),
            Store::Minio => format!("MinIO {} on loopback, one folder", self.version),
            Store::Rgw => format!("Ceph RGW {} on loopback, one OSD on a sparse file", self.version),
        };
        what + "; plain http, bodies not signed unless it says so"
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(sink) = &mut self.sink {
            let _ = sink.kill();
            let _ = sink.wait();
        }
    }
}
