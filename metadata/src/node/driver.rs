//! The node's thread: collects proposals, turns the core, answers, ticks, and keeps metadata time and the lease.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::{LogSlice, MetadataSnapshot, Proposal, ProposeError, Request, Shared, StopReason};
use crate::command::Command;
use crate::ids::*;
use crate::lease::BootInstant;
use crate::log_store::{LogIdentity, RaftStorage};
use crate::raft_core::{CoreError, Outcome, RaftCore};

const TICK_MS: u64 = 100;
/// Between looks at a log that is still being caught up with.
const START_PAUSE: Duration = Duration::from_millis(10);
/// Proposals taken into one step, so that one flush never holds more than raft and the disk do well with.
const BATCH_PROPOSALS: usize = 4_096;
const BATCH_BYTES: usize = 8 << 20;
/// Metadata time goes in front of a batch when it is older than this.
const TIME_STEP_MS: u64 = 1_000;
/// Without proposals it moves this often, and only while something waits for it.
const IDLE_TIME_STEP_MS: u64 = 10_000;

pub(super) struct Driver<S> {
    core: RaftCore<S>,
    shared: Arc<Shared>,
    applied: Arc<watch::Sender<u64>>,
    requests: mpsc::Receiver<Request>,
    /// Tells this run's proposals from those of an earlier one that the log still holds.
    session: Uuid,
    proposed: u64,
    pending: HashMap<u64, Proposal>,
    next_tick_ms: u64,
    next_heartbeat: BootInstant,
    /// The registration that the lease is for.
    leased: Option<BrokerEpoch>,
    /// While leading: metadata time and monotonic time when that began.
    time_base: Option<(u64, u64)>,
    time_proposed_ms: u64,
}

impl<S: RaftStorage> Driver<S> {
    pub(super) fn new(
        core: RaftCore<S>,
        shared: Arc<Shared>,
        applied: Arc<watch::Sender<u64>>,
        requests: mpsc::Receiver<Request>,
    ) -> Self {
        let next_tick_ms = shared.config.clock.monotonic_ms() + TICK_MS;
        let _ = shared.store.set(core.identity().store);
        Self {
            core,
            shared,
            applied,
            requests,
            session: Uuid::new_v4(),
            proposed: 0,
            pending: HashMap::new(),
            next_tick_ms,
            next_heartbeat: BootInstant(0),
            leased: None,
            time_base: None,
            time_proposed_ms: 0,
        }
    }

    /// Runs until it is told to stop or cannot go on. `ready` is answered once the node is up to date.
    pub(super) fn run(mut self, ready: oneshot::Sender<Result<LogIdentity, CoreError>>) -> StopReason {
        if let Err(error) = self.start() {
            let _ = ready.send(Err(error));
            return StopReason::Shutdown;
        }
        let _ = ready.send(Ok(self.core.identity()));
        match self.serve() {
            Ok(()) => StopReason::Shutdown,
            Err(error) => StopReason::Failed(Arc::new(error)),
        }
    }

    pub(super) fn start(&mut self) -> Result<(), CoreError> {
        self.turn()?;
        if self.core.is_sole_voter() {
            self.core.campaign()?;
            self.turn()?;
        }
        while !self.core.is_current() {
            std::thread::sleep(START_PAUSE);
            self.core.tick();
            self.turn()?;
        }
        Ok(())
    }

    fn serve(&mut self) -> Result<(), CoreError> {
        loop {
            let wait_ms = self.next_tick_ms.saturating_sub(self.shared.config.clock.monotonic_ms());
            match self.requests.recv_timeout(Duration::from_millis(wait_ms)) {
                Ok(Request::Propose(proposal)) => {
                    if self.take(proposal)? {
                        return Ok(());
                    }
                }
                Ok(Request::ReadLog { from, bytes_max, answer }) => self.read_log(from, bytes_max, answer)?,
                Ok(Request::Snapshot { answer }) => self.take_snapshot(answer)?,
                Ok(Request::Shutdown) | Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            self.keep_time()?;
        }
    }

    /// One turn without waiting. False once the node was told to stop.
    pub(super) fn step(&mut self) -> Result<bool, CoreError> {
        match self.requests.try_recv() {
            Ok(Request::Propose(proposal)) => {
                if self.take(proposal)? {
                    return Ok(false);
                }
            }
            Ok(Request::ReadLog { from, bytes_max, answer }) => self.read_log(from, bytes_max, answer)?,
            Ok(Request::Snapshot { answer }) => self.take_snapshot(answer)?,
            Ok(Request::Shutdown) | Err(mpsc::TryRecvError::Disconnected) => return Ok(false),
            Err(mpsc::TryRecvError::Empty) => {}
        }
        self.keep_time()?;
        Ok(true)
    }

    fn keep_time(&mut self) -> Result<(), CoreError> {
        let now_ms = self.shared.config.clock.monotonic_ms();
        if now_ms >= self.next_tick_ms {
            self.next_tick_ms = now_ms + TICK_MS;
            self.core.tick();
            self.idle_time();
        }
        self.heartbeat();
        self.turn()
    }

    /// Proposes `first` and what waits behind it. Whether a shutdown was among it.
    fn take(&mut self, first: Proposal) -> Result<bool, CoreError> {
        if self.metadata_ms().is_some_and(|now| now >= self.time_proposed_ms + TIME_STEP_MS) {
            self.advance_time();
        }
        let mut bytes = first.command.len();
        self.propose(first);
        for _ in 1..BATCH_PROPOSALS {
            match self.requests.try_recv() {
                Ok(Request::Propose(proposal)) => {
                    bytes += proposal.command.len();
                    self.propose(proposal);
                }
                Ok(Request::ReadLog { from, bytes_max, answer }) => self.read_log(from, bytes_max, answer)?,
                Ok(Request::Snapshot { answer }) => self.take_snapshot(answer)?,
                Ok(Request::Shutdown) => {
                    self.turn()?;
                    return Ok(true);
                }
                Err(_) => break,
            }
            if bytes >= BATCH_BYTES {
                break;
            }
        }
        Ok(false)
    }

    fn read_log(
        &mut self,
        from: u64,
        bytes_max: u64,
        answer: oneshot::Sender<Option<LogSlice>>,
    ) -> Result<(), CoreError> {
        let applied = self.shared.state.read().expect("apply does not panic").applied();
        let entries = self.core.applied_log(from, bytes_max)?;
        // Whoever asked may have gone.
        let _ = answer.send(entries.map(|entries| LogSlice { entries, applied }));
        Ok(())
    }

    fn take_snapshot(&mut self, answer: oneshot::Sender<MetadataSnapshot>) -> Result<(), CoreError> {
        let _ = answer.send(self.core.snapshot()?);
        Ok(())
    }

    fn propose(&mut self, mut proposal: Proposal) {
        self.proposed += 1;
        let mut context = self.session.as_bytes().to_vec();
        context.extend_from_slice(&self.proposed.to_le_bytes());
        let command = std::mem::take(&mut proposal.command);
        match self.core.propose(context, command) {
            Ok(()) => {
                self.pending.insert(self.proposed, proposal);
            }
            // The receiver may have gone; then nobody wants to know.
            Err(_) => drop(proposal.answer.send(Err(ProposeError::NotLeader))),
        }
    }

    /// Lets the core do what is to be done, and tells who waits.
    fn turn(&mut self) -> Result<(), CoreError> {
        let mut outcome = self.core.process()?;
        self.shared.term.store(self.core.term(), Ordering::Release);
        self.lead(self.core.is_leader());
        if self.renew_lease(&outcome) {
            // A registration was among it: its lease comes before its answer, so that the broker starts with one.
            self.next_heartbeat = BootInstant(0);
            self.heartbeat();
            let more = self.core.process()?;
            self.renew_lease(&more);
            outcome.messages.extend(more.messages);
            outcome.applied.extend(more.applied);
        }
        // There are no peers to send to while a group has one voter.
        debug_assert!(outcome.messages.is_empty() || !self.core.is_sole_voter());
        self.publish();
        for applied in outcome.applied {
            if let Some(proposal) = self.own(&applied.context).and_then(|number| self.pending.remove(&number)) {
                let answer = applied.answer.map(|response| (applied.index, response));
                let _ = proposal.answer.send(answer.map_err(ProposeError::Rejected));
            }
        }
        Ok(())
    }

    fn publish(&self) {
        let applied = self.shared.state.read().expect("apply does not panic").applied();
        self.applied.send_if_modified(|seen| std::mem::replace(seen, applied) != applied);
    }

    /// The number of a proposal of this run.
    fn own(&self, context: &[u8]) -> Option<u64> {
        let number = context.strip_prefix(self.session.as_bytes())?;
        number.try_into().ok().map(u64::from_le_bytes)
    }

    fn lead(&mut self, leads: bool) {
        self.shared.leads.store(leads, Ordering::Release);
        if leads && self.time_base.is_none() {
            let now_ms = self.shared.state.read().expect("apply does not panic").now_ms();
            self.time_base = Some((now_ms, self.shared.config.clock.monotonic_ms()));
            self.time_proposed_ms = now_ms;
        }
        if !leads {
            self.time_base = None;
            // Another leader may commit them, or not.
            for (_, proposal) in self.pending.drain() {
                let _ = proposal.answer.send(Err(ProposeError::Unknown));
            }
        }
    }

    fn metadata_ms(&self) -> Option<u64> {
        let (metadata, monotonic) = self.time_base?;
        Some(metadata + self.shared.config.clock.monotonic_ms().saturating_sub(monotonic))
    }

    fn advance_time(&mut self) {
        let Some(now_ms) = self.metadata_ms() else { return };
        self.time_proposed_ms = now_ms;
        if let Ok(command) = (Command::AdvanceTime { now_ms }).encode() {
            // If this node no longer leads, its successor moves the time.
            let _ = self.core.propose(Vec::new(), command);
        }
    }

    fn idle_time(&mut self) {
        if self.metadata_ms().is_none_or(|now| now < self.time_proposed_ms + IDLE_TIME_STEP_MS) {
            return;
        }
        if self.shared.state.read().expect("apply does not panic").waits_for_time() {
            self.advance_time();
        }
    }

    fn heartbeat(&mut self) {
        let sent = self.shared.config.clock.boot();
        if sent >= self.next_heartbeat {
            self.next_heartbeat = sent + self.shared.config.heartbeat;
            self.core.read_index(sent.0.to_le_bytes().to_vec());
        }
    }

    /// Grants what a quorum confirmed. Whether this broker has registered anew since its last lease.
    fn renew_lease(&mut self, outcome: &Outcome) -> bool {
        let config = &self.shared.config;
        let epoch = {
            let state = self.shared.state.read().expect("apply does not panic");
            state.broker(config.node).filter(|broker| !broker.fenced).map(|broker| broker.epoch)
        };
        let changed = epoch != self.leased;
        if changed {
            self.shared.lease.revoke();
            self.leased = epoch;
            return epoch.is_some();
        }
        if epoch.is_some() {
            for read in &outcome.reads {
                if let Ok(sent) = <[u8; 8]>::try_from(read.as_slice()) {
                    self.shared.lease.renew(BootInstant(u64::from_le_bytes(sent)) + config.lease);
                }
            }
        }
        false
    }
}
