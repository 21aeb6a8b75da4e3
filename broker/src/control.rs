//! The control socket: what changes a running broker and must not stand open on a port.
//!
//! `control.sock` in the data folder, for the broker's own user and root. A connection sends one request as a line of JSON and is
//! answered with lines of JSON, the last of which says how it ended: progress each second, and findings as they are made. Who closes
//! the connection gives up what he asked for, unless it can no longer be stopped.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use seawall_metadata::{Command, LegId, MetadataHandle, Registration, WalId};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};
use uuid::Uuid;

use crate::partitions::Partitions;
use crate::scrub::{Finding, Progress, Scrub, ScrubRequest, Summary};
use crate::storage::BrokerWal;
use crate::task::Tasks;
use crate::wal_passports::{Judged, WalPassports};
use crate::wal_replace::{Replace, replace};

const SOCKET: &str = "control.sock";
/// The longest request.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// How long a request may take to arrive.
const REQUEST_WAIT: Duration = Duration::from_secs(10);
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Who does not take an answer for so long has gone.
const TELL_WAIT: Duration = Duration::from_secs(30);
/// Connections at a time; more wait.
const CONNECTIONS_MAX: usize = 16;
/// Findings that wait to be told.
const FINDINGS_WAITING: usize = 64;

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
    Scrub(ScrubRequest),
    /// Metadata is to say that this incarnation is the only one.
    DeclareOnly {},
}

/// A line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Progress {
        done_bytes: u64,
        total_bytes: u64,
    },
    Replaced {
        wal: Uuid,
        leg: Uuid,
        set_epoch: u64,
    },
    Scrubbing(Progress),
    Found(Finding),
    Scrubbed(Summary),
    /// The incarnations whose objects were kept until now.
    Declared {
        earlier: Vec<Uuid>,
    },
    Error {
        what: String,
    },
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
    pub passports: Arc<WalPassports>,
    pub scrub: Arc<Scrub>,
    /// One replacement at a time.
    pub replacing: Arc<Mutex<()>>,
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

/// Serves until the broker stops. What is under way then is given up.
pub async fn serve(control: Control, listener: UnixListener, tasks: Tasks) {
    let mut connections = JoinSet::new();
    let serve = async {
        loop {
            if connections.len() >= CONNECTIONS_MAX {
                connections.join_next().await;
            }
            while connections.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, _)) if is_allowed(&stream) => {
                    let control = control.clone();
                    connections.spawn(async move { control.answer(stream).await });
                }
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
    connections.shutdown().await;
}

/// Between the making of the socket and its permissions anybody may have connected.
fn is_allowed(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own_uid() || peer.uid() == 0)
}

/// As whom this process acts.
pub(crate) fn own_uid() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
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

    /// `None`: who asked has gone, and nothing is under way for him.
    async fn carry_out(
        &self,
        request: Request,
        mut input: BufReader<OwnedReadHalf>,
        output: &mut OwnedWriteHalf,
    ) -> Option<Answer> {
        match request {
            Request::Scrub(request) => self.scrub(&request, &mut input, output).await,
            Request::DeclareOnly {} => Some(self.declare_only().await),
            Request::ReplaceLeg { wal, leg, device, overwrite } => match self.wal(wal) {
                Ok(wal) => {
                    let _replacing = self.replacing.lock().await;
                    let asked = Replace { device, leg: leg.map(LegId), overwrite };
                    self.replace(&wal, &asked, &mut input, output).await
                }
                Err(what) => Some(Answer::Error { what }),
            },
        }
    }

    async fn scrub(
        &self,
        request: &ScrubRequest,
        input: &mut BufReader<OwnedReadHalf>,
        output: &mut OwnedWriteHalf,
    ) -> Option<Answer> {
        let (found, mut findings) = mpsc::channel(FINDINGS_WAITING);
        let (progress, told) = watch::channel(Progress::default());
        let scrubbing = self.scrub.run(request, found, progress);
        tokio::pin!(scrubbing);
        let mut tick = tokio::time::interval(PROGRESS_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            let line = tokio::select! {
                biased;
                Some(finding) = findings.recv() => Answer::Found(finding),
                ended = &mut scrubbing => break ended,
                _ = tick.tick() => Answer::Scrubbing(told.borrow().clone()),
                // Nothing more is said by who asks: this is the end of the connection.
                _ = input.read_u8() => return None,
            };
            if tell(output, &line).await.is_err() {
                return None;
            }
        };
        while let Ok(finding) = findings.try_recv() {
            tell(output, &Answer::Found(finding)).await.ok()?;
        }
        Some(match ended {
            Ok(summary) => Answer::Scrubbed(summary),
            Err(error) => {
                warn!(%error, "a scrub did not come to its end");
                Answer::Error { what: error.to_string() }
            }
        })
    }

    /// `None`: who asked has gone, and nothing was changed.
    async fn replace(
        &self,
        wal: &Arc<BrokerWal>,
        asked: &Replace,
        input: &mut BufReader<OwnedReadHalf>,
        output: &mut OwnedWriteHalf,
    ) -> Option<Answer> {
        let Replace { device, leg, .. } = asked;
        info!(wal = %wal.id, device = %device.display(), leg = leg.map(|leg| leg.to_string()), "a device is to be replaced");
        let judged = match self.judge(device.clone()).await {
            Ok(judged) => judged,
            Err(what) => {
                warn!(wal = %wal.id, what, "a device was not replaced");
                return Some(Answer::Error { what });
            }
        };
        let (progress, told) = watch::channel((0, 0));
        let replacing = replace(wal, &self.metadata, self.registration, asked, move |done, total| {
            progress.send_replace((done, total));
        });
        let ended = {
            let watching = watch_copy(told, input, output);
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
            Ok(replaced) => {
                self.passports.remember(replaced.leg, judged);
                Answer::Replaced { wal: wal.id.0, leg: replaced.leg.0, set_epoch: replaced.set_epoch }
            }
            Err(error) => {
                warn!(wal = %wal.id, %error, "a device was not replaced");
                Answer::Error { what: error.to_string() }
            }
        })
    }

    /// Of the device that is to join.
    async fn judge(&self, device: PathBuf) -> Result<Option<Judged>, String> {
        let passports = self.passports.clone();
        match tokio::task::spawn_blocking(move || passports.judge(&device)).await {
            Ok(judged) => judged.map_err(|refused| refused.to_string()),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    async fn declare_only(&self) -> Answer {
        let (cluster, earlier): (_, Vec<Uuid>) = self
            .metadata
            .read(|state| (state.cluster(), state.earlier_incarnations().map(|incarnation| incarnation.0).collect()));
        let Some((_, incarnation)) = cluster else { return Answer::Error { what: "there is no cluster".into() } };
        match self.metadata.propose(Command::DeclareOnly { incarnation }).await {
            Ok(_) => {
                info!(%incarnation, ?earlier, "this incarnation is declared the only one");
                Answer::Declared { earlier }
            }
            Err(error) => Answer::Error { what: error.to_string() },
        }
    }

    fn wal(&self, id: Option<Uuid>) -> Result<Arc<BrokerWal>, String> {
        match (id, self.partitions.wals()) {
            (_, []) => Err("this broker has no WAL".into()),
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
    let told = tokio::time::timeout(TELL_WAIT, output.write_all(&line)).await;
    told.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
