//! One client, one process, one load.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::store::Started;
use crate::{builds, process, tools};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    Seawall,
    Layered,
    Aws,
    OpenDal,
    /// The first once more: the difference between the two is noise.
    SeawallAgain,
}

impl Contender {
    pub const ALL: [Self; 5] = [Self::Seawall, Self::Layered, Self::Aws, Self::OpenDal, Self::SeawallAgain];

    pub fn name(self) -> &'static str {
        match self {
            Self::Seawall => "seawall",
            Self::Layered => "layered",
            Self::Aws => "aws-sdk-s3",
            Self::OpenDal => "opendal",
            Self::SeawallAgain => "seawall again",
        }
    }

    fn is_peer(self) -> bool {
        matches!(self, Self::Aws | Self::OpenDal)
    }

    /// opendal signs no bodies.
    pub fn can(self, cell: &Cell) -> bool {
        !cell.signed || self != Self::OpenDal
    }

    fn argument(self) -> &'static str {
        match self {
            Self::Seawall | Self::SeawallAgain => "seawall",
            Self::Layered => "layered",
            Self::Aws => "aws",
            Self::OpenDal => "opendal",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Put,
    Get,
}

#[derive(Debug, Clone, Copy)]
pub struct Cell {
    pub operation: Operation,
    pub object_mib: u64,
    pub in_flight: u32,
    pub crc32c: bool,
    pub signed: bool,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = match self.operation {
            Operation::Put => "put",
            Operation::Get => "get",
        };
        let mut text = format!("{operation} {} MiB x {}", self.object_mib, self.in_flight);
        for (is_set, word) in [(self.crc32c, " crc32c"), (self.signed, " signed")] {
            text += if is_set { word } else { "" };
        }
        f.pad(&text)
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Measured {
    bytes: u64,
    cpu_s: f64,
    elapsed_s: f64,
}

impl Measured {
    pub fn cpu_per_gib(&self) -> f64 {
        self.cpu_s / (self.bytes as f64 / (1u64 << 30) as f64)
    }

    pub fn mib_per_s(&self) -> f64 {
        self.bytes as f64 / (1u64 << 20) as f64 / self.elapsed_s
    }
}

/// `seawall-store-bench`, built.
pub struct Program {
    path: PathBuf,
    with_peers: bool,
}

impl Program {
    /// Tiny: in the profile of the tests and without the peers, which cost minutes to build.
    pub fn build(binary: Option<PathBuf>, tiny: bool) -> Result<Self> {
        if let Some(path) = binary {
            return Ok(Self { path: path.canonicalize()?, with_peers: !tiny });
        }
        if tiny {
            return Ok(Self { path: builds::program("seawall-store-bench")?, with_peers: false });
        }
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--quiet", "--release", "-p", "seawall-store-bench", "--features", "peers"]);
        cargo.current_dir(crate::root());
        ensure!(process::show(&mut cargo, Duration::from_secs(1_800))?.success, "the store bench does not build");
        Ok(Self { path: tools::target_folder().join("release/seawall-store-bench"), with_peers: true })
    }

    pub fn contenders(&self) -> impl Iterator<Item = Contender> {
        Contender::ALL.into_iter().filter(|contender| self.with_peers || !contender.is_peer())
    }

    /// Of the peers, from the lock file.
    pub fn versions(&self) -> Result<String> {
        if !self.with_peers {
            return Ok("without the peers".to_owned());
        }
        let lock = std::fs::read_to_string(crate::root().join("Cargo.lock"))?;
        let version = |name: &str| {
            let after = lock.split_once(&format!("name = \"{name}\"\nversion = \""));
            after.and_then(|(_, rest)| rest.split('"').next()).unwrap_or("?").to_owned()
        };
        Ok(format!("aws-sdk-s3 {}, opendal {}", version("aws-sdk-s3"), version("opendal")))
    }

    pub fn command(&self) -> Command {
        Command::new(&self.path)
    }

    pub fn measure(&self, contender: Contender, cell: &Cell, store: &Started, seconds: f64) -> Result<Measured> {
        let mut command = self.command();
        command
            .args(["client", "--client", contender.argument(), "--endpoint", &store.endpoint])
            .args(["--bucket", &store.bucket, "--operation"])
            .arg(if cell.operation == Operation::Put { "put" } else { "get" })
            .args(["--object-bytes", &(cell.object_mib << 20).to_string()])
            .args(["--in-flight", &cell.in_flight.to_string(), "--seconds", &seconds.to_string()])
            .env("AWS_ACCESS_KEY_ID", &store.access)
            .env("AWS_SECRET_ACCESS_KEY", &store.secret)
            .env_remove("AWS_SESSION_TOKEN");
        if let Some(ca) = &store.ca {
            command.arg("--ca").arg(ca).env("SSL_CERT_FILE", ca);
        }
        if cell.crc32c {
            command.arg("--crc32c");
        }
        if cell.signed {
            command.arg("--signed");
        }
        let finished = process::capture(&mut command, Vec::new(), Duration::from_secs_f64(seconds + 90.0))?;
        let printed = finished.stdout_if_success("the client")?;
        let measured: Measured = serde_json::from_str(printed.trim()).with_context(|| printed.clone())?;
        ensure!(measured.bytes > 0, "nothing went through");
        Ok(measured)
    }
}
