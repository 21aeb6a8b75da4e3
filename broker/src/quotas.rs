//! Quotas as they are enforced: what clients use is added up here, and how long each must wait is told.
//!
//! The answer goes out first and says for how long; then `connection.rs` reads nothing more from that connection until the
//! time is over (KIP-219). Without a quota of a kind, nothing is metered and the cost is one look at a flag.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use seawall_metadata::MetadataHandle;
use seawall_protocol::ErrorCode;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    broker_settings::KafkaSettings,
    clock::Clock,
    dispatch::RequestContext,
    error_code::ApiError,
    metrics::Part,
    quota_meter::{RateMeter, TokenBucket, Windows},
    quota_meters::{Meter, MeterKey, Meters},
    quota_table::{KINDS, Limit, QuotaKind, QuotaTable},
};

/// How often idle meters are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(600);

/// The broker config that limits how fast connections are accepted, whoever they are from.
const CREATION_RATE: &str = "max.connection.creation.rate";
/// Its default.
const CREATION_RATE_UNLIMITED: i64 = i32::MAX as i64;

/// Cheap to clone.
#[derive(Clone)]
pub struct Quotas {
    shared: Arc<Shared>,
}

struct Shared {
    metadata: MetadataHandle,
    clock: Clock,
    began: Instant,
    windows: Windows,
    mutation_windows: Windows,
    table: RwLock<Arc<QuotaTable>>,
    /// Held while a table is made and stored, so that who read metadata last stores last.
    refreshing: Mutex<()>,
    /// A bit for each kind of which there is a quota.
    limited: AtomicU8,
    meters: Mutex<Meters>,
    /// Of all accepted connections: against the limit of the broker, and against that of its listener.
    accepted: Mutex<[RateMeter; 2]>,
    metrics: QuotaMetrics,
}

#[derive(Debug, Clone)]
pub struct QuotaMetrics {
    throttled: Family<QuotaLabel, Counter>,
    throttle_seconds: Family<QuotaLabel, Counter<f64, std::sync::atomic::AtomicU64>>,
    meters: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct QuotaLabel {
    pub quota: &'static str,
}

impl QuotaMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let mut part = Part::new(registry, "quota");
        Self {
            throttled: part.metric("throttled", "Answers and connections held back, by quota"),
            throttle_seconds: part.seconds("throttle", "Time for which clients were told to wait, by quota"),
            meters: part.metric("meters", "Clients and addresses whose use is added up"),
        }
    }

    fn count(&self, quota: &'static str, throttle: Duration) {
        self.throttled.get_or_create(&QuotaLabel { quota }).inc();
        self.throttle_seconds.get_or_create(&QuotaLabel { quota }).inc_by(throttle.as_secs_f64());
    }
}

impl Quotas {
    pub fn new(settings: &KafkaSettings, metadata: MetadataHandle, clock: Clock, metrics: QuotaMetrics) -> Self {
        let windows = |count: &str, seconds: &str| Windows {
            count: u32::try_from(settings.long(count)).unwrap_or(u32::MAX).max(1),
            size_ms: u64::try_from(settings.long(seconds)).unwrap_or(0).max(1) * 1_000,
        };
        let shared = Shared {
            windows: windows("quota.window.num", "quota.window.size.seconds"),
            mutation_windows: windows("controller.quota.window.num", "controller.quota.window.size.seconds"),
            metadata,
            began: clock.instant(),
            clock,
            table: RwLock::default(),
            refreshing: Mutex::default(),
            limited: AtomicU8::new(0),
            meters: Mutex::default(),
            accepted: Mutex::default(),
            metrics,
        };
        let quotas = Self { shared: Arc::new(shared) };
        quotas.refresh();
        quotas
    }

    /// Follows metadata until `stopping`.
    pub async fn follow(self, stopping: CancellationToken) {
        let mut applied = self.shared.metadata.watch();
        let mut topology = None;
        let mut expire = tokio::time::interval(EXPIRE_EVERY);
        loop {
            let now = self.shared.metadata.read(|state| state.topology_index());
            if topology.replace(now) != Some(now) {
                self.refresh();
            }
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { return },
                _ = expire.tick() => {
                    let now_ms = self.now_ms();
                    let mut meters = self.meters();
                    meters.expire(now_ms);
                    self.shared.metrics.meters.set(meters.len() as i64);
                }
                () = stopping.cancelled() => return,
            }
        }
    }

    /// Takes over what metadata holds now.
    pub fn refresh(&self) {
        let _turn = self.shared.refreshing.lock().unwrap_or_else(PoisonError::into_inner);
        let table = self.shared.metadata.read(|state| QuotaTable::new(state.quotas()));
        let limited = KINDS.into_iter().filter(|kind| table.has(*kind)).fold(0, |bits, kind| bits | bit(kind));
        *self.shared.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        self.shared.limited.store(limited, Ordering::Release);
    }

    /// Counts the bytes of a produce request.
    pub fn produced(&self, ctx: &RequestContext, bytes: usize) -> Duration {
        self.record(QuotaKind::Produce, ctx, bytes as f64)
    }

    /// Counts the bytes that a fetch is answered with.
    pub fn fetched(&self, ctx: &RequestContext, bytes: usize) -> Duration {
        self.record(QuotaKind::Fetch, ctx, bytes as f64)
    }

    /// How long this client should have waited on, whichever connection it was told on. It is answered without data then.
    pub fn fetch_owed(&self, ctx: &RequestContext) -> Duration {
        let kind = QuotaKind::Fetch;
        if !self.is_limited(kind) {
            return Duration::ZERO;
        }
        let table = self.table();
        let Some(limit) = table.limit(kind, &ctx.principal.name, ctx.client_id()) else { return Duration::ZERO };
        let now_ms = self.now_ms();
        match self.meters().find(&key(kind, &limit)) {
            Some(Meter::Rate(meter)) => Duration::from_millis(meter.owed_ms(limit.per_second, now_ms)),
            Some(Meter::Tokens(_)) | None => Duration::ZERO,
        }
    }

    /// Counts the time that a request was worked on. One thread for a second is 100 %.
    pub fn worked(&self, ctx: &RequestContext, busy: Duration) -> Duration {
        let throttle = self.record(QuotaKind::Request, ctx, busy.as_secs_f64() * 100.0);
        throttle.min(Duration::from_millis(self.shared.windows.size_ms))
    }

    /// Whether the time that requests take is of interest.
    pub fn limits_requests(&self) -> bool {
        self.is_limited(QuotaKind::Request)
    }

    /// The most bytes that one fetch of this client should ask for: more would surely be throttled.
    pub fn fetch_bytes_max(&self, ctx: &RequestContext) -> usize {
        if !self.is_limited(QuotaKind::Fetch) {
            return usize::MAX;
        }
        let Windows { count, size_ms } = self.shared.windows;
        let seconds = f64::from(count.saturating_sub(1).max(1)) * (size_ms as f64 / 1_000.0);
        let table = self.table();
        let limit = table.limit(QuotaKind::Fetch, &ctx.principal.name, ctx.client_id());
        // A float beyond the range becomes the largest integer.
        limit.map_or(usize::MAX, |limit| (limit.per_second * seconds) as usize)
    }

    /// The quota of a request that creates or deletes partitions. `strict` ones are refused once it is used up; clients of
    /// older versions do not know that error, and are throttled only.
    pub fn mutations<'a>(&'a self, ctx: &'a RequestContext, strict: bool) -> Mutations<'a> {
        Mutations { quotas: self, ctx, strict, throttle: Duration::ZERO }
    }

    /// Counts an accepted connection. It waits for that time, and all that come after it, so that the rate of the broker and
    /// that of its listener are kept.
    pub fn accepted(&self, settings: &KafkaSettings) -> Duration {
        let limits = [Some(settings.long(CREATION_RATE)), settings.long_of_listener(CREATION_RATE)];
        let (windows, now_ms) = (self.shared.windows, self.now_ms());
        let mut meters = self.shared.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        let limited = meters.iter_mut().zip(limits).filter_map(|(meter, limit)| Some((meter, limit?)));
        let throttles = limited
            .filter(|(_, limit)| *limit < CREATION_RATE_UNLIMITED)
            .map(|(meter, limit)| meter.record(1.0, limit as f64, windows, now_ms));
        let throttle = Duration::from_millis(throttles.max().unwrap_or(0).min(windows.size_ms));
        if !throttle.is_zero() {
            self.shared.metrics.count(CREATION_RATE, throttle);
        }
        throttle
    }

    /// Counts a connection of an address; one that comes too fast is to be closed after that time.
    pub fn connected(&self, ip: IpAddr) -> Option<Duration> {
        let table = self.table();
        let limit = table.connection_rate(ip)?;
        let (windows, now_ms) = (self.shared.windows, self.now_ms());
        let mut meters = self.meters();
        let meter = meters.get(MeterKey::Connections(ip), now_ms, || Meter::Rate(RateMeter::default()));
        let Meter::Rate(meter) = meter else { unreachable!("connections have a rate") };
        let throttle_ms = meter.record(1.0, limit, windows, now_ms);
        if throttle_ms == 0 {
            return None;
        }
        // It is not let in, so it does not count.
        meter.unrecord(1.0);
        let throttle = Duration::from_millis(throttle_ms.min(windows.size_ms));
        self.shared.metrics.count(crate::quota_table::CONNECTION_RATE, throttle);
        Some(throttle)
    }

    fn record(&self, kind: QuotaKind, ctx: &RequestContext, amount: f64) -> Duration {
        if !self.is_limited(kind) {
            return Duration::ZERO;
        }
        let table = self.table();
        let Some(limit) = table.limit(kind, &ctx.principal.name, ctx.client_id()) else { return Duration::ZERO };
        let now_ms = self.now_ms();
        let mut meters = self.meters();
        let meter = meters.get(key(kind, &limit), now_ms, || Meter::Rate(RateMeter::default()));
        let Meter::Rate(meter) = meter else { unreachable!("{kind:?} has a rate") };
        let throttle = Duration::from_millis(meter.record(amount, limit.per_second, self.shared.windows, now_ms));
        if !throttle.is_zero() {
            self.shared.metrics.count(kind.key(), throttle);
        }
        throttle
    }

    fn is_limited(&self, kind: QuotaKind) -> bool {
        self.shared.limited.load(Ordering::Acquire) & bit(kind) != 0
    }

    /// The quotas that count now.
    pub fn table(&self) -> Arc<QuotaTable> {
        self.shared.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn meters(&self) -> MutexGuard<'_, Meters> {
        self.shared.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        let elapsed = self.shared.clock.instant().duration_since(self.shared.began);
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }
}

/// The partitions that one request creates or deletes.
pub struct Mutations<'a> {
    quotas: &'a Quotas,
    ctx: &'a RequestContext,
    strict: bool,
    throttle: Duration,
}

impl Mutations<'_> {
    /// Counts partitions, before they are created or deleted.
    pub fn record(&mut self, partitions: usize) -> Result<(), ApiError> {
        let quotas = self.quotas;
        let kind = QuotaKind::ControllerMutation;
        if !quotas.is_limited(kind) {
            return Ok(());
        }
        let table = quotas.table();
        let Some(limit) = table.limit(kind, &self.ctx.principal.name, self.ctx.client_id()) else { return Ok(()) };
        let (windows, now_ms) = (quotas.shared.mutation_windows, quotas.now_ms());
        let mut meters = quotas.meters();
        let full = || Meter::Tokens(TokenBucket::new(limit.per_second, windows, now_ms));
        let Meter::Tokens(bucket) = meters.get(key(kind, &limit), now_ms, full) else {
            unreachable!("mutations have a bucket")
        };
        let (tokens, rate) = (partitions as f64, limit.per_second);
        let throttle_ms = if self.strict {
            bucket.take_unless_owing(tokens, rate, windows, now_ms).err().unwrap_or(0)
        } else {
            bucket.take(tokens, rate, windows, now_ms)
        };
        if throttle_ms == 0 {
            return Ok(());
        }
        self.throttle = Duration::from_millis(throttle_ms);
        quotas.shared.metrics.count(kind.key(), self.throttle);
        if self.strict {
            return Err(ApiError::new(ErrorCode::ThrottlingQuotaExceeded, "The throttling quota has been exceeded."));
        }
        Ok(())
    }

    /// What the response says of it, in ms.
    pub fn throttle_time_ms(&self) -> i32 {
        millis(self.throttle)
    }
}

/// A throttle as responses say it.
pub fn millis(throttle: Duration) -> i32 {
    i32::try_from(throttle.as_millis()).unwrap_or(i32::MAX)
}

fn bit(kind: QuotaKind) -> u8 {
    1 << kind as u8
}

fn key(kind: QuotaKind, limit: &Limit<'_>) -> MeterKey {
    MeterKey::Client { kind, user: limit.user.into(), client_id: limit.client_id.into() }
}
