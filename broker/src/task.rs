//! Every long-lived task the broker starts, and what its end means.
//!
//! A task that must live as long as the broker stops the broker when it ends early or panics; one that serves a
//! single connection costs that connection. Stopping is a token that each task watches, then a bounded wait.

use std::{future::Future, time::Duration};

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info};

use crate::metrics::Metrics;

/// What runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    Listener,
    Connection,
    AdminHttp,
    Control,
    WalCompletion,
    WalWatch,
    Uploader,
    Retention,
    ObjectDeletion,
    LogCleaner,
    Compaction,
    GroupCoordinator,
    MetadataFollower,
    TopicConfigs,
    AckClasses,
    Quotas,
    PartitionCleaner,
    StoreProbe,
    Backup,
    IncarnationWatch,
    Watchdog,
}

/// What the end of a task means while the broker is not stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// It cannot be trusted half-alive: the broker drains and exits non-zero.
    StopBroker,
    /// It ends when its work does; a panic is logged and counted.
    GoOn,
}

impl Task {
    pub fn on_exit(self) -> OnExit {
        match self {
            Task::Connection | Task::Control | Task::StoreProbe | Task::LogCleaner | Task::Backup => OnExit::GoOn,
            Task::Listener
            | Task::AdminHttp
            | Task::WalCompletion
            | Task::WalWatch
            | Task::Uploader
            | Task::Retention
            | Task::ObjectDeletion
            | Task::Compaction
            | Task::GroupCoordinator
            | Task::MetadataFollower
            | Task::TopicConfigs
            | Task::AckClasses
            | Task::Quotas
            | Task::PartitionCleaner
            | Task::IncarnationWatch
            | Task::Watchdog => OnExit::StopBroker,
        }
    }

    fn serves(self) -> bool {
        matches!(self, Task::Listener | Task::Connection)
    }

    pub fn name(self) -> &'static str {
        match self {
            Task::Listener => "listener",
            Task::Connection => "connection",
            Task::AdminHttp => "admin-http",
            Task::Control => "control",
            Task::WalCompletion => "wal-completion",
            Task::WalWatch => "wal-watch",
            Task::Uploader => "uploader",
            Task::Retention => "retention",
            Task::ObjectDeletion => "object-deletion",
            Task::LogCleaner => "log-cleaner",
            Task::Compaction => "compaction",
            Task::GroupCoordinator => "group-coordinator",
            Task::MetadataFollower => "metadata-follower",
            Task::TopicConfigs => "topic-configs",
            Task::AckClasses => "ack-classes",
            Task::Quotas => "quotas",
            Task::PartitionCleaner => "partition-cleaner",
            Task::StoreProbe => "store-probe",
            Task::Backup => "backup",
            Task::IncarnationWatch => "incarnation-watch",
            Task::Watchdog => "watchdog",
        }
    }
}

/// A cheap handle with which to start tasks and to learn that they must stop.
#[derive(Debug, Clone)]
pub struct Tasks {
    /// Listener and connections: they end first, while everything that answers them still runs.
    serving: TaskTracker,
    draining: CancellationToken,
    others: TaskTracker,
    stopping: CancellationToken,
    fatal: watch::Sender<Option<String>>,
    metrics: Metrics,
}

impl Tasks {
    pub fn new(metrics: Metrics) -> Self {
        Self {
            serving: TaskTracker::new(),
            draining: CancellationToken::new(),
            others: TaskTracker::new(),
            stopping: CancellationToken::new(),
            fatal: watch::Sender::new(None),
            metrics,
        }
    }

    /// Starts `work`. A listener or connection should end soon after `draining()` is cancelled, any other after
    /// `stopping()`.
    pub fn spawn(&self, task: Task, work: impl Future<Output = ()> + Send + 'static) {
        let watcher = ExitWatcher { task, tasks: self.clone() };
        let tracker = if task.serves() { &self.serving } else { &self.others };
        tracker.spawn(async move {
            let _watcher = watcher;
            work.await;
        });
    }

    /// Starts work that ends early only when this broker was fenced: whatever stops the broker then, this has nothing to do
    /// any more.
    pub fn spawn_until_stopped(&self, task: Task, work: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.stopping.clone();
        self.spawn(task, async move {
            tokio::select! {
                biased;
                () = stopping.cancelled() => {}
                () = work => stopping.cancelled().await,
            }
        });
    }

    /// Cancelled when no new requests are taken any more.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Cancelled when the broker stops, after the connections have ended. Hold it or `child_token()` of it.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Asks the broker to stop for a reason that a person must look at; the first reason is kept.
    pub fn fail_broker(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.fatal.send_if_modified(|kept| {
            let first = kept.is_none();
            if first {
                error!(reason, "the broker stops");
                *kept = Some(reason);
            }
            first
        });
    }

    /// Resolves when a task has asked the broker to stop.
    pub async fn failed(&self) -> String {
        let mut fatal = self.fatal.subscribe();
        match fatal.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => unreachable!("`self` holds the sender"),
        }
    }

    /// Tells listeners and connections to end and waits for them; answers whether all did within `limit`.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.draining.cancel();
        wait_for("serving", &self.serving, limit).await
    }

    /// Tells every task to stop, without waiting.
    pub fn begin_stop(&self) {
        self.draining.cancel();
        self.stopping.cancel();
    }

    /// Waits for the tasks that were told to stop; answers whether all ended within `limit`.
    pub async fn stopped(&self, limit: Duration) -> bool {
        wait_for("serving", &self.serving, limit).await & wait_for("other", &self.others, limit).await
    }
}

async fn wait_for(kind: &str, tracker: &TaskTracker, limit: Duration) -> bool {
    tracker.close();
    let ended = tokio::time::timeout(limit, tracker.wait()).await.is_ok();
    if !ended {
        info!(kind, tasks = tracker.len(), "some tasks did not end in time");
    }
    ended
}

/// Dropped when its task ends, by return or by panic.
struct ExitWatcher {
    task: Task,
    tasks: Tasks,
}

impl Drop for ExitWatcher {
    fn drop(&mut self) {
        let name = self.task.name();
        let panicked = std::thread::panicking();
        if panicked {
            self.tasks.metrics.task_panics.inc();
            error!(task = name, "a task panicked");
        }
        let told = if self.task.serves() { &self.tasks.draining } else { &self.tasks.stopping };
        let expected = told.is_cancelled() && !panicked;
        if self.task.on_exit() == OnExit::StopBroker && !expected {
            self.tasks.fail_broker(format!("task {name} {}", if panicked { "panicked" } else { "ended early" }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_vital_task_stops_the_broker() {
        let tasks = Tasks::new(Metrics::new());
        tasks.spawn(Task::Uploader, async {});
        assert_eq!(tasks.failed().await, "task uploader ended early");
    }

    #[tokio::test]
    async fn a_panic_in_a_connection_costs_that_connection_only() {
        let metrics = Metrics::new();
        let tasks = Tasks::new(metrics.clone());
        tasks.spawn(Task::Connection, async { panic!("a handler's bug") });
        assert!(tasks.drain(Duration::from_secs(5)).await);
        assert_eq!(metrics.task_panics.get(), 1);
        assert!(tasks.fatal.borrow().is_none());
    }

    #[tokio::test]
    async fn a_task_that_ends_after_the_stop_is_expected() {
        let tasks = Tasks::new(Metrics::new());
        let (draining, stopping) = (tasks.draining().clone(), tasks.stopping().clone());
        tasks.spawn(Task::Listener, async move { draining.cancelled().await });
        tasks.spawn(Task::Uploader, async move { stopping.cancelled().await });
        assert!(tasks.drain(Duration::from_secs(5)).await);
        tasks.begin_stop();
        assert!(tasks.stopped(Duration::from_secs(5)).await);
        assert!(tasks.fatal.borrow().is_none());
    }
}
