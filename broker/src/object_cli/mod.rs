//! `seawall object`: looks at one object of the store of a configuration, without a broker or beside one, or at a file that was
//! saved from it. Only reads.
//!
//! Results go to standard output, for people or as JSON; progress goes to standard error, a line a second.

mod inspect;
mod show;
mod verify;

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Subcommand;
use seawall_backends::{Backend, BackendError, InvalidKey, ObjectKey, OpenError, Purpose};
use seawall_metadata::{Incarnation, ObjectId};
use seawall_wal_device::verify::Progress;

use crate::backend_cli::{self, BackendCliError};
use crate::cli::{data_dir_code, fail};
use crate::config::ConfigError;
use crate::data_dir::{DataDirError, identity};
use crate::object_check::{Depth, Look, LookError, Pacing, Source, look};
use crate::object_key::ObjectKeys;
use crate::store::Store;
use crate::wal_cli::print::ProgressLine;

#[derive(Debug, Subcommand)]
pub enum ObjectCommand {
    /// Show what an object says of itself: footer, sections, blocks, producers, aborted transactions
    Inspect(Args),
    /// Read every byte of an object and check every CRC: of blocks, batches, sections and footer
    Verify(Args),
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A whole key, as `backend ls` prints it; or an object id, in decimal or with 16 hex digits; without --config a file
    #[arg(value_name = "KEY|ID|FILE")]
    object: String,
    /// The broker's configuration, which names the store; an id is looked for in the newest incarnation
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ObjectCliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error(transparent)]
    Key(#[from] InvalidKey),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("the data folder {0} was never used, so nobody knows where object ids lie: give the whole key")]
    NoNode(PathBuf),
    #[error("{object}: {error}")]
    Look { object: String, error: LookError },
    #[error("write the output: {0}")]
    Output(io::Error),
    #[error("{0}")]
    Runtime(io::Error),
    /// What is damaged was printed.
    #[error("the object is damaged")]
    Damaged,
}

pub fn run(command: ObjectCommand) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &ObjectCliError::Runtime(error)),
    };
    let done = runtime.block_on(async {
        match command {
            ObjectCommand::Inspect(args) => inspect::run(&args).await,
            ObjectCommand::Verify(args) => verify::run(&args).await,
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads the output has seen enough, as `head` does.
        Err(ObjectCliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(error.exit_code(), &error),
    }
}

impl ObjectCliError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Output(_) | Self::Runtime(_) => 1,
            Self::Key(_) => 2,
            Self::Config(_) | Self::Store(OpenError::Config(_)) => 3,
            Self::DataDir(error) => data_dir_code(error),
            Self::NoNode(_) => 5,
            Self::Look { error, .. } => match error {
                LookError::File(_) | LookError::Store(BackendError::NotFound) => 1,
                LookError::Store(_) => 11,
                LookError::NewerFormat { .. } => 7,
            },
            Self::Store(_) => 11,
            Self::Damaged => 10,
        }
    }
}

impl From<BackendCliError> for ObjectCliError {
    fn from(error: BackendCliError) -> Self {
        match error {
            BackendCliError::Config(error) => Self::Config(error),
            other => Self::Runtime(io::Error::other(other.to_string())),
        }
    }
}

/// An object that was found.
struct Found {
    /// As it was asked for, or its key.
    name: String,
    place: Place,
    bytes: u64,
    /// What its key says that it is.
    expected: Option<(ObjectId, Incarnation)>,
}

enum Place {
    Store(Arc<dyn Backend>, ObjectKey),
    File(File),
}

impl Args {
    async fn find(&self) -> Result<Found, ObjectCliError> {
        let Some(config) = &self.config else {
            let name = self.object.clone();
            let failed = |error| ObjectCliError::Look { object: name.clone(), error: LookError::File(error) };
            let file = File::open(&self.object).map_err(failed)?;
            let bytes = file.metadata().map_err(failed)?.len();
            return Ok(Found { name, place: Place::File(file), bytes, expected: None });
        };
        let config = backend_cli::load(config)?;
        let data_dir = &config.node.data_dir;
        let known = identity(data_dir)?;
        let (key, expected) = match object_id(&self.object) {
            Some(object) => {
                let (cluster, incarnation) = known.ok_or_else(|| ObjectCliError::NoNode(data_dir.clone()))?;
                let keys = ObjectKeys::new(&config.backend.prefix, cluster)?;
                (keys.key(incarnation, object), Some((object, incarnation)))
            }
            None => {
                let key = ObjectKey::new(self.object.as_str())?;
                let keys = known.map(|(cluster, _)| ObjectKeys::new(&config.backend.prefix, cluster)).transpose()?;
                let expected = keys.and_then(|keys| keys.parse(&key));
                let object = expected.map(|(incarnation, object)| (object, incarnation));
                (key, object)
            }
        };
        let backend = Store::open(&config).await?.backend;
        let name = key.to_string();
        let head = backend.head(&key, Purpose::Probe).await;
        let failed = |error: BackendError| ObjectCliError::Look { object: name.clone(), error: error.into() };
        let bytes = head.map_err(failed)?.bytes;
        Ok(Found { name, place: Place::Store(backend, key), bytes, expected })
    }
}

/// As logs and metadata name it, or as keys end.
fn object_id(text: &str) -> Option<ObjectId> {
    let hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = if hex { u64::from_str_radix(text, 16).ok() } else { text.parse().ok() };
    id.map(ObjectId)
}

impl Found {
    async fn look(self, depth: Depth, what: &'static str) -> Result<Look, ObjectCliError> {
        let mut told = Told { line: ProgressLine::new(what), done_bytes: 0, total_bytes: self.bytes };
        let source = match &self.place {
            Place::Store(backend, key) => Source::Store { backend: &**backend, key, purpose: Purpose::Probe },
            Place::File(file) => Source::File(file),
        };
        let seen = look(&source, self.bytes, self.expected, depth, &mut told).await;
        seen.map_err(|error| ObjectCliError::Look { object: self.name, error })
    }
}

struct Told {
    line: ProgressLine,
    done_bytes: u64,
    total_bytes: u64,
}

impl Pacing for Told {
    async fn before_read(&mut self, bytes: u64) {
        self.line.tell(Progress { done_bytes: self.done_bytes, total_bytes: self.total_bytes });
        self.done_bytes += bytes;
    }
}

fn print(text: &str) -> Result<(), ObjectCliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(ObjectCliError::Output)
}

fn is_damaged(look: &Look) -> Result<(), ObjectCliError> {
    if look.damaged_parts == 0 { Ok(()) } else { Err(ObjectCliError::Damaged) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_told_from_a_key() {
        assert_eq!(object_id("2748"), Some(ObjectId(2748)));
        assert_eq!(object_id("0000000000000abc"), Some(ObjectId(2748)));
        assert_eq!(object_id("a/b/0000000000000abc"), None);
    }
}
