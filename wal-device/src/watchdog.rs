//! The honesty watchdog: looks before the first acknowledgement, and then once a second, whether a device keeps the promise by
//! which its writes are durable, and whether it reports trouble with its health. And, on a thread of its own, since a drive that
//! hangs does not answer questions either: whether an I/O hangs.
//!
//! The kernel sends flushes to a device only if it believes that its cache is volatile. So when a drive turns its cache on
//! behind the kernel's back, an fdatasync does nothing, and the kernel must be told first. What was acknowledged since
//! the last look may be lost with the power; what is acknowledged from then on is not.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::device::WriteCache;
use crate::device::health::{Health, SysFacts};
use crate::shared::{Control, Phase, Shared};
use crate::status::{Alarm, AlarmKind, Distrust, LegState, LegStatus, Stuck};
use crate::types::LegId;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What one look at a leg finds; `None`: not readable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LegFacts {
    /// As the kernel believes it: it flushes a write-back cache only.
    pub kernel_cache: Option<WriteCache>,
    /// As the drive says.
    pub drive_cache: Option<WriteCache>,
    pub health: Option<Health>,
}

impl LegFacts {
    fn is_volatile(&self) -> bool {
        [self.drive_cache, self.kernel_cache].contains(&Some(WriteCache::WriteBack))
    }

    fn kernel_flushes(&self) -> bool {
        self.kernel_cache != Some(WriteCache::WriteThrough)
    }

    /// Its cache is volatile, and no flush reaches it.
    pub fn is_unflushed(&self) -> bool {
        self.is_volatile() && !self.kernel_flushes()
    }

    /// Of two drives under one leg: the caches of the worse one, the warnings of both.
    pub fn worse(self, other: Self) -> Self {
        let badness = |facts: &Self| (facts.is_unflushed(), facts.is_volatile());
        let health = match (self.health, other.health) {
            (Some(one), Some(two)) => Some(Health(one.0 | two.0)),
            (one, two) => one.or(two),
        };
        let worse = if badness(&other) > badness(&self) { other } else { self };
        Self { health, ..worse }
    }
}

/// Where the facts come from: the system, or a test.
pub trait FactSource: Send {
    fn read(&mut self, device: u64) -> LegFacts;

    /// Tells the kernel to flush. `Err`: it does not, so that nothing can be made durable.
    fn make_kernel_flush(&mut self, device: u64) -> std::io::Result<()>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The drive's cache is volatile now. `kernel_flushes`: the kernel knows.
    CacheTurnedVolatile { kernel_flushes: bool },
    /// New warnings of the drive.
    Health(Health),
}

/// What changed between two looks, or is wrong at the first one.
pub fn compare(before: Option<&LegFacts>, now: &LegFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let turned = before.is_some_and(|before| !before.is_volatile()) && now.is_volatile();
    // A kernel that stops to flush a cache that is volatile is as bad.
    let was_unflushed = before.is_some_and(LegFacts::is_unflushed);
    if turned || (now.is_unflushed() && !was_unflushed) {
        findings.push(Finding::CacheTurnedVolatile { kernel_flushes: now.kernel_flushes() });
    }
    let healthy = Health::default();
    let known = before.and_then(|before| before.health).unwrap_or(healthy);
    if let Some(health) = now.health
        && health.has_more_than(known)
    {
        findings.push(Finding::Health(health));
    }
    findings
}

/// Has looked once when it returns; goes on until the WAL has gone.
pub fn start(shared: &Arc<Shared>) -> std::io::Result<()> {
    let mut watch = Watch::new(SysFacts::default());
    watch.look(shared);
    let mut stuck_watch = StuckWatch::default();
    go_on(shared, "wal-stuck", move |shared| stuck_watch.look(shared))?;
    go_on(shared, "wal-watch", move |shared| watch.look(shared))
}

/// Looks on a thread that sleeps in between.
fn go_on(shared: &Arc<Shared>, name: &str, mut look: impl FnMut(&Shared) + Send + 'static) -> std::io::Result<()> {
    let shared: Weak<Shared> = Arc::downgrade(shared);
    let run = move || {
        loop {
            std::thread::sleep(LOOK_EVERY);
            let Some(shared) = shared.upgrade() else { return };
            if matches!(shared.lock().phase, Phase::Closed | Phase::Abandoned) {
                return;
            }
            look(&shared);
        }
    };
    std::thread::Builder::new().name(name.into()).spawn(run).map(drop)
}

pub struct Watch<S> {
    source: S,
    seen: Vec<(LegId, LegFacts)>,
    legs: Vec<(LegId, Option<u64>)>,
}

impl<S: FactSource> Watch<S> {
    pub fn new(source: S) -> Self {
        Self { source, seen: Vec::new(), legs: Vec::new() }
    }

    /// One look at every leg.
    pub fn look(&mut self, shared: &Shared) {
        let mut legs = std::mem::take(&mut self.legs);
        legs.extend(shared.status.borrow().legs.iter().map(|leg| (leg.id, leg.device)));
        self.seen.retain(|(id, _)| legs.iter().any(|(leg, _)| leg == id));
        for (id, device) in legs.drain(..) {
            if let Some(device) = device {
                self.look_at(shared, id, device);
            }
        }
        self.legs = legs;
    }

    fn look_at(&mut self, shared: &Shared, id: LegId, device: u64) {
        let mut now = self.source.read(device);
        let before = self.seen.iter().position(|(leg, _)| *leg == id);
        for finding in compare(before.map(|i| &self.seen[i].1), &now) {
            match finding {
                Finding::CacheTurnedVolatile { kernel_flushes } => {
                    if self.distrust(shared, id, device, kernel_flushes) == Distrust::CacheTurnedVolatile {
                        // Should it stop again, that is found again.
                        now.kernel_cache = Some(WriteCache::WriteBack);
                    }
                }
                Finding::Health(health) => {
                    tracing::error!(leg = %id, warnings = %health, "the drive reports critical warnings: drain this broker");
                    let alarm = Alarm { leg: id, kind: AlarmKind::Health(health.to_string()) };
                    shared.status.send_modify(|status| status.raise(alarm));
                }
            }
        }
        match before {
            Some(i) => self.seen[i].1 = now,
            None => self.seen.push((id, now)),
        }
    }

    fn distrust(&mut self, shared: &Shared, id: LegId, device: u64, kernel_flushes: bool) -> Distrust {
        let why = match kernel_flushes || self.source.make_kernel_flush(device).is_ok() {
            true => Distrust::CacheTurnedVolatile,
            false => Distrust::FlushesAreStripped,
        };
        shared.control(Control::Distrust { leg: id, why });
        why
    }
}

/// Says while an I/O hangs that it does, and has a leg that hangs dropped where that is asked for, or while it joins.
#[derive(Default)]
pub struct StuckWatch {
    stuck_before: bool,
}

impl StuckWatch {
    pub fn look(&mut self, shared: &Shared) {
        let limit_us = shared.config.stuck_after.as_micros() as u64;
        let longest = shared.stats.longest_wait((shared.clock)()).filter(|(_, for_us)| *for_us > limit_us);
        let stuck = longest.and_then(|(number, for_us)| Some(Stuck { leg: shared.leg_at(number)?, for_us }));
        if let Some(stuck) = stuck {
            drop_if_asked(shared, stuck);
        }
        match stuck {
            Some(Stuck { leg, for_us }) if !self.stuck_before => {
                tracing::error!(%leg, for_ms = for_us / 1000, "an I/O of the WAL hangs");
            }
            None if self.stuck_before => tracing::warn!("no I/O of the WAL hangs any more"),
            _ => {}
        }
        if stuck.is_some() || self.stuck_before {
            shared.status.send_modify(|status| status.stuck = stuck);
        }
        self.stuck_before = stuck.is_some();
    }
}

/// A leg that hangs longer than the configuration waits counts as failed, while another one answers: when both hang, what they
/// have in common does. One that had failed before has readers that need not wait for it. One that joins is in no set yet and is
/// needed by nobody: it is not waited for any longer.
fn drop_if_asked(shared: &Shared, Stuck { leg, for_us }: Stuck) {
    let (now_us, stuck_us) = ((shared.clock)(), shared.config.stuck_after.as_micros() as u64);
    let drop_us = shared.config.stuck_drop_after.map(|limit| limit.as_micros() as u64);
    let answers = |number| shared.stats.leg_wait(number, now_us).is_none_or(|us| us < stuck_us);
    let drops = {
        let status = shared.status.borrow();
        let in_set = |other: &&LegStatus| other.id != leg && matches!(other.state, LegState::InSet);
        let is_over = status.legs.iter().find(|one| one.id == leg).is_some_and(|one| match one.state {
            LegState::InSet | LegState::Failed(_) => drop_us.is_some_and(|limit| for_us > limit),
            LegState::Joining => true,
        });
        is_over && status.legs.iter().filter(in_set).any(|other| answers(other.number))
    };
    if drops {
        shared.control(Control::Hangs { leg, for_us });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caches(kernel: WriteCache, drive: WriteCache) -> LegFacts {
        LegFacts { kernel_cache: Some(kernel), drive_cache: Some(drive), health: None }
    }

    #[test]
    fn a_cache_that_turns_volatile_is_found_once() {
        use WriteCache::{WriteBack, WriteThrough};
        let honest = caches(WriteThrough, WriteThrough);
        assert_eq!(compare(None, &honest), []);
        let hidden = caches(WriteThrough, WriteBack);
        assert_eq!(compare(Some(&honest), &hidden), [Finding::CacheTurnedVolatile { kernel_flushes: false }]);
        assert_eq!(compare(None, &hidden), [Finding::CacheTurnedVolatile { kernel_flushes: false }]);
        assert_eq!(compare(Some(&hidden), &hidden), []);
        let told = caches(WriteBack, WriteBack);
        assert_eq!(compare(Some(&honest), &told), [Finding::CacheTurnedVolatile { kernel_flushes: true }]);
        assert_eq!(compare(None, &told), [], "a cache that was always flushed is as it should be");
        assert_eq!(compare(Some(&told), &hidden), [Finding::CacheTurnedVolatile { kernel_flushes: false }]);
        assert_eq!(compare(Some(&LegFacts::default()), &LegFacts::default()), [], "nothing is known, nothing is found");
    }

    #[test]
    fn of_several_drives_the_worst_counts() {
        use WriteCache::{WriteBack, WriteThrough};
        let with = |facts: LegFacts, bits| LegFacts { health: Some(Health(bits)), ..facts };
        let (honest, told, hidden) = (
            with(caches(WriteThrough, WriteThrough), 1),
            caches(WriteBack, WriteBack),
            with(caches(WriteThrough, WriteBack), 4),
        );
        for [one, two] in [[honest.clone(), hidden.clone()], [hidden.clone(), honest.clone()]] {
            assert_eq!(one.worse(two), with(hidden.clone(), 5));
        }
        assert_eq!(honest.clone().worse(told.clone()), with(told, 1));
        assert_eq!(honest.clone().worse(LegFacts::default()), honest);
    }

    #[test]
    fn a_new_critical_warning_is_found() {
        let facts = |bits| LegFacts { health: Some(Health(bits)), ..LegFacts::default() };
        assert_eq!(compare(Some(&facts(0)), &facts(0)), []);
        assert_eq!(compare(Some(&facts(0)), &facts(4)), [Finding::Health(Health(4))]);
        assert_eq!(compare(Some(&facts(4)), &facts(4)), []);
        assert_eq!(compare(None, &facts(1)), [Finding::Health(Health(1))]);
        assert_eq!(Health(5).to_string(), "spare space is low, reliability is degraded");
    }
}
