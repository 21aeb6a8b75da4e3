//! The control socket: what changes a running broker and must not stand open on a port.
//!
//! `control.sock` in the data folder, for the broker's own user and root. A connection sends one request as a line of JSON and is
//! answered with lines of JSON, the last of which says how it ended. There is one request: replace a device of a WAL.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use seawall_metadata::{LegId, MetadataHandle, Registration, WalId};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tracing::{info, warn};
use uuid::Uuid;

use crate::partitions::Partitions;
use crate::storage::BrokerWal;
use crate::task::Tasks;
use crate::wal_replace::{Replace, replace};

const SOCKET: &str = "control.sock";
/// The longest request.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// How long a request may take to arrive.
const REQUEST_WAIT: Duration = Duration::from_secs(10);
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// What may be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    ReplaceLeg {
        /// Not needed for a broker with one WAL.
        wal: Option<Uuid>,
        /// The device that goes; not needed if the WAL has room for one more.
        leg: Option<Uuid>,
        device: PathBuf,
        overwrite: bool,
    },
}

/// A line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Progress { done_bytes: u64, total_bytes: u64 },
    Replaced { wal: Uuid, leg: Uuid, set_epoch: u64 },
    Error { what: String },
}

pub fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join(SOCKET)
}

/// What requests are about.
#[derive(Clone)]
pub struct Control {
    pub partitions: Partitions,
    pub metadata: MetadataHandle,
    pub registration: Registration,
}

/// Listens in a data folder that this process holds the lock of.
pub fn listen(data_dir: &Path) -> io::Result<UnixListener> {
    let path = socket_path(data_dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves one connection at a time until the broker stops. What it has begun to copy is given up then.
pub async fn serve(control: Control, listener: UnixListener, tasks: Tasks) {
    let serve = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) if is_allowed(&stream) => control.answer(stream).await,
                Ok(_) => warn!("a user that is not this broker's was refused at the control socket"),
                Err(error) => {
                    warn!(%error, "control socket");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    };
    tokio::select! {
        () = serve => {}
        () = tasks.stopping().cancelled() => {}
    }
}

/// Between the making of the socket and its permissions anybody may have connected.
fn is_allowed(stream: &UnixStream) -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    let own = unsafe { libc::geteuid() };
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

impl Control {
    async fn answer(&self, stream: UnixStream) {
        let (input, mut output) = stream.into_split();
        let (answer, input) = match tokio::time::timeout(REQUEST_WAIT, read_request(input)).await {
            Ok(Ok((request, input))) => (Ok(request), Some(input)),
            Ok(Err(error)) => (Err(error.to_string()), None),
            Err(_) => (Err("no request came".to_owned()), None),
        };
        let last = match (answer, input) {
            (Ok(request), Some(input)) => self.carry_out(request, input, &mut output).await,
            (answer, _) => answer.err().map(|what| Answer::Error { what }),
        };
        if let Some(last) = last {
            // Who asked may have gone.
            let _ = tell(&mut output, &last).await;
        }
    }

    /// `None`: who asked has gone, and nothing was changed.
    async fn carry_out(
        &self,
        request: Request,
        mut input: BufReader<OwnedReadHalf>,
        output: &mut OwnedWriteHalf,
    ) -> Option<Answer> {
        let Request::ReplaceLeg { wal, leg, device, overwrite } = request;
        let wal = match self.wal(wal) {
            Ok(wal) => wal,
            Err(what) => return Some(Answer::Error { what }),
        };
        info!(wal = %wal.id, device = %device.display(), leg = leg.map(|leg| leg.to_string()), "a device is to be replaced");
        let asked = Replace { device, leg: leg.map(LegId), overwrite };
        let (progress, told) = watch::channel((0, 0));
        let replacing = replace(&wal, &self.metadata, self.registration, &asked, move |done, total| {
            progress.send_replace((done, total));
        });
        let ended = {
            let watching = watch_copy(told, &mut input, output);
            tokio::pin!(replacing, watching);
            let watched = tokio::select! {
                biased;
                ended = &mut replacing => Err(ended),
                watched = &mut watching => Ok(watched),
            };
            match watched {
                Err(ended) => ended,
                // From here on it is carried through, whoever listens.
                Ok(Watched::Copied) => replacing.await,
                Ok(Watched::Gone) => {
                    warn!(wal = %wal.id, "a replacement was given up: who asked for it has gone");
                    return None;
                }
            }
        };
        Some(match ended {
            Ok(replaced) => Answer::Replaced { wal: wal.id.0, leg: replaced.leg.0, set_epoch: replaced.set_epoch },
            Err(error) => {
                warn!(wal = %wal.id, %error, "a device was not replaced");
                Answer::Error { what: error.to_string() }
            }
        })
    }

    fn wal(&self, id: Option<Uuid>) -> Result<Arc<BrokerWal>, String> {
        match (id, self.partitions.wals()) {
            (None, [only]) => Ok(only.clone()),
            (None, _) => Err("there are several WALs: say which".into()),
            (Some(id), wals) => {
                let found = wals.iter().find(|wal| wal.id == WalId(id));
                found.cloned().ok_or_else(|| format!("this broker has no WAL {id}"))
            }
        }
    }
}

enum Watched {
    Copied,
    Gone,
}

/// Tells progress until all is copied, or until nobody listens any more.
async fn watch_copy(
    mut told: watch::Receiver<(u64, u64)>,
    input: &mut BufReader<OwnedReadHalf>,
    output: &mut OwnedWriteHalf,
) -> Watched {
    loop {
        tokio::select! {
            // The end of the copy comes before the end of the connection.
            biased;
            changed = told.changed() => {
                let (done_bytes, total_bytes) = *told.borrow_and_update();
                if changed.is_err() || done_bytes == total_bytes {
                    return Watched::Copied;
                }
                if tell(output, &Answer::Progress { done_bytes, total_bytes }).await.is_err() {
                    return Watched::Gone;
                }
                tokio::time::sleep(PROGRESS_EVERY).await;
            }
            // Nothing more is said by who asks: this is the end of the connection.
            _ = input.read_u8() => return Watched::Gone,
        }
    }
}

async fn read_request(input: OwnedReadHalf) -> io::Result<(Request, BufReader<OwnedReadHalf>)> {
    let mut input = BufReader::new(input);
    let mut line = String::new();
    (&mut input).take(REQUEST_BYTES_MAX).read_line(&mut line).await?;
    Ok((serde_json::from_str(&line)?, input))
}

async fn tell(output: &mut OwnedWriteHalf, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    output.write_all(&line).await
}
