//! Neighbours that behave badly: they ask and never read, send a byte a second, or crash as a whole group.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use seawall_protocol::ApiKey;
use seawall_protocol::messages::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use seawall_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use seawall_protocol::messages::{
    FindCoordinatorRequest, FindCoordinatorResponse, HeartbeatRequest, HeartbeatResponse, JoinGroupResponse,
    MetadataRequest, SyncGroupRequest, SyncGroupResponse,
};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Args;
use super::wire::{Wire, frame};

/// A member that crashed is missed after this.
const SESSION_TIMEOUT_MS: i32 = 6_000;
/// How long members stay before they crash.
const STAY: Duration = Duration::from_secs(1);

/// What they managed to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Bytes of requests that those who never read have sent.
    pub sent_without_reading: u64,
    pub single_bytes: u64,
    /// Members that stood in a complete group and then crashed.
    pub crashed_members: u64,
}

#[derive(Default)]
struct Counts {
    sent_without_reading: AtomicU64,
    single_bytes: AtomicU64,
    crashed_members: AtomicU64,
    errors: AtomicU64,
}

pub struct Neighbours {
    running: JoinSet<()>,
    counts: Arc<Counts>,
}

impl Neighbours {
    pub fn start(address: SocketAddr, args: &Args) -> Self {
        let mut running = JoinSet::new();
        let counts = Arc::new(Counts::default());
        for _ in 0..args.never_read {
            running.spawn(again(Arc::clone(&counts), move |counts| never_read(address, counts)));
        }
        for _ in 0..args.byte_a_second {
            running.spawn(again(Arc::clone(&counts), move |counts| byte_a_second(address, counts)));
        }
        if args.crashing_members > 0 {
            let members = args.crashing_members;
            running.spawn(again(Arc::clone(&counts), move |counts| crashing_group(address, members, counts)));
        }
        Self { running, counts }
    }

    pub async fn stop(mut self) -> Done {
        self.running.shutdown().await;
        Done {
            sent_without_reading: self.counts.sent_without_reading.load(Ordering::Relaxed),
            single_bytes: self.counts.single_bytes.load(Ordering::Relaxed),
            crashed_members: self.counts.crashed_members.load(Ordering::Relaxed),
        }
    }
}

/// The broker may end any of them; they come back.
async fn again<F: Future<Output = Result<()>> + Send>(counts: Arc<Counts>, act: impl Fn(Arc<Counts>) -> F) {
    loop {
        if let Err(error) = act(Arc::clone(&counts)).await
            && counts.errors.fetch_add(1, Ordering::Relaxed) < 3
        {
            eprintln!("a neighbour begins again: {error:#}");
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Asks for the metadata of all topics, a long answer, over and over, and reads none of it.
async fn never_read(address: SocketAddr, counts: Arc<Counts>) -> Result<()> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // What this side's kernel does not take stays in the broker.
    socket.set_recv_buffer_size(4096)?;
    let mut stream = socket.connect(address).await?;
    let frame = frame(ApiKey::Metadata, 9, &MetadataRequest { topics: None, ..Default::default() })?;
    // Many at a time, so that it is not this process that has the work.
    let frames = frame.repeat(1_000);
    let mut at = 0;
    loop {
        // Once the broker reads no more, writing waits; it tries on. A request that is cut in two goes on with the rest.
        if let Ok(written) = timeout(Duration::from_secs(1), stream.write(&frames[at..])).await {
            let written = written?;
            at = (at + written) % frames.len();
            counts.sent_without_reading.fetch_add(written as u64, Ordering::Relaxed);
        }
    }
}

/// A request of a thousand bytes that comes a byte a second.
async fn byte_a_second(address: SocketAddr, counts: Arc<Counts>) -> Result<()> {
    let mut wire = Wire::connect(address).await?;
    for byte in 1_000i32.to_be_bytes().into_iter().chain(std::iter::repeat_n(0, 1_000)) {
        wire.stream.write_all(&[byte]).await?;
        counts.single_bytes.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// All join, get their assignments, beat for a while, and drop their connections without leaving.
async fn crashing_group(address: SocketAddr, members: u32, counts: Arc<Counts>) -> Result<()> {
    find_coordinator(address).await?;
    let mut joining = JoinSet::new();
    for _ in 0..members {
        joining.spawn(member(address));
    }
    let mut stayed = Vec::new();
    while let Some(member) = joining.join_next().await {
        stayed.push(member??);
    }
    counts.crashed_members.fetch_add(stayed.len() as u64, Ordering::Relaxed);
    drop(stayed);
    // The next ones come while these are being missed.
    sleep(Duration::from_millis(SESSION_TIMEOUT_MS as u64 / 2)).await;
    Ok(())
}

const GROUP: &str = "crashes-together";

/// The first one who asks makes the broker create the topic of the groups.
async fn find_coordinator(address: SocketAddr) -> Result<()> {
    let request = FindCoordinatorRequest { key: GROUP.into(), ..Default::default() };
    let mut wire = Wire::connect(address).await?;
    let found: FindCoordinatorResponse = wire.call(ApiKey::FindCoordinator, 3, &request).await?;
    ensure!(found.error_code == 0, "FindCoordinator: error {}", found.error_code);
    Ok(())
}

/// A member of a complete group; its connection is still open.
async fn member(address: SocketAddr) -> Result<Wire> {
    let mut wire = Wire::connect(address).await?;
    let protocol = JoinGroupRequestProtocol { name: "any".into(), ..Default::default() };
    let mut join = JoinGroupRequest {
        group_id: GROUP.into(),
        session_timeout_ms: SESSION_TIMEOUT_MS,
        rebalance_timeout_ms: SESSION_TIMEOUT_MS,
        protocol_type: "consumer".into(),
        protocols: vec![protocol],
        ..Default::default()
    };
    let stay_until = tokio::time::Instant::now() + Duration::from_secs(30);
    // A generation lasts until another member joins; those that come late begin a new one for all.
    loop {
        ensure!(tokio::time::Instant::now() < stay_until, "the group does not settle");
        let joined: JoinGroupResponse = wire.call(ApiKey::JoinGroup, 3, &join).await?;
        ensure!(joined.error_code == 0, "JoinGroup: error {}", joined.error_code);
        join.member_id = joined.member_id.clone();
        let assignments = joined
            .members
            .iter()
            .map(|member| SyncGroupRequestAssignment { member_id: member.member_id.clone(), ..Default::default() })
            .collect();
        let (group_id, member_id, generation_id) = (GROUP.to_owned(), joined.member_id, joined.generation_id);
        let sync = SyncGroupRequest { group_id, member_id, generation_id, assignments, ..Default::default() };
        let synced: SyncGroupResponse = wire.call(ApiKey::SyncGroup, 2, &sync).await?;
        if synced.error_code == 0 && beats(&mut wire, &sync).await? {
            return Ok(wire);
        }
    }
}

/// False when the group rebalances meanwhile.
async fn beats(wire: &mut Wire, sync: &SyncGroupRequest) -> Result<bool> {
    let beat = HeartbeatRequest {
        group_id: sync.group_id.clone(),
        generation_id: sync.generation_id,
        member_id: sync.member_id.clone(),
        ..Default::default()
    };
    for _ in 0..4 {
        sleep(STAY / 4).await;
        let answer: HeartbeatResponse = wire.call(ApiKey::Heartbeat, 2, &beat).await?;
        if answer.error_code != 0 {
            return Ok(false);
        }
    }
    Ok(true)
}
