//! A layer that bounds bytes per second, each way for itself. Whoever wants to move a body waits until its way is free, and then takes
//! all of it: the way is in debt until that is paid off, which is how a body of any length gets through. Purposes that are not
//! urgent wait until half a second's worth is there, so they never keep a way in debt that an urgent one needs.
//! Consumers that are behind have a way of their own before that one.
//! It stands below the limiter, whose order of purposes goes for those who wait here too, and above the time limit of an attempt.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::layer::{Answer, Call, Layer};
use crate::observed::Operation;
use crate::{Backend, BackendError, BoxFuture, Purpose};

/// None is without bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BandwidthConfig {
    pub put_bytes_per_second: Option<u64>,
    pub get_bytes_per_second: Option<u64>,
    /// Of [`Purpose::CatchUpRead`] alone.
    pub catch_up_bytes_per_second: Option<u64>,
}

pub struct Bandwidth {
    inner: Arc<dyn Backend>,
    put: Option<Way>,
    get: Option<Way>,
    catch_up: Option<Way>,
}

impl Bandwidth {
    pub fn new(inner: Arc<dyn Backend>, config: BandwidthConfig) -> Self {
        let way = |rate: Option<u64>| rate.map(Way::new);
        let BandwidthConfig { put_bytes_per_second, get_bytes_per_second, catch_up_bytes_per_second } = config;
        Self {
            inner,
            put: way(put_bytes_per_second),
            get: way(get_bytes_per_second),
            catch_up: way(catch_up_bytes_per_second),
        }
    }
}

/// A bucket of at most one second's worth.
struct Way {
    bytes_per_second: u64,
    state: Mutex<State>,
}

struct State {
    /// Below zero it is debt.
    bytes: i64,
    at: Instant,
}

impl Way {
    fn new(bytes_per_second: u64) -> Self {
        assert!(bytes_per_second > 0, "a way that nothing ever passes");
        let bytes = i64::try_from(bytes_per_second).unwrap_or(i64::MAX);
        Self { bytes_per_second, state: Mutex::new(State { bytes, at: Instant::now() }) }
    }

    async fn pass(&self, bytes: u64, purpose: Purpose) {
        let least = if purpose.is_urgent() { 1 } else { (self.bytes_per_second / 2).max(1) };
        while let Some(wait) = self.take(bytes, least) {
            tokio::time::sleep(wait).await;
        }
    }

    /// Takes the bytes if at least `least` are there; otherwise says when they will be.
    fn take(&self, bytes: u64, least: u64) -> Option<Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let came = now.duration_since(state.at).as_nanos() * u128::from(self.bytes_per_second) / 1_000_000_000;
        // What is less than a byte's time is kept for later.
        if came > 0 {
            let most = i64::try_from(self.bytes_per_second).unwrap_or(i64::MAX);
            state.bytes = state.bytes.saturating_add(i64::try_from(came).unwrap_or(i64::MAX)).min(most);
            state.at = now;
        }
        let lacking = i64::try_from(least).unwrap_or(i64::MAX).saturating_sub(state.bytes);
        if lacking > 0 {
            let seconds = lacking as f64 / self.bytes_per_second as f64;
            return Some(Duration::from_secs_f64(seconds).max(Duration::from_millis(1)));
        }
        state.bytes = state.bytes.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        None
    }
}

impl Layer for Bandwidth {
    fn inner(&self) -> &dyn Backend {
        &*self.inner
    }

    fn around<'a, T: Answer + 'a>(
        &'a self,
        call: Call<'a>,
        attempt: impl Fn() -> BoxFuture<'a, Result<T, BackendError>> + Send + Sync + 'a,
    ) -> BoxFuture<'a, Result<T, BackendError>> {
        let way = if call.operation == Operation::Get { &self.get } else { &self.put };
        let is_behind = call.operation == Operation::Get && call.purpose == Purpose::CatchUpRead;
        let ways = [self.catch_up.as_ref().filter(|_| is_behind), way.as_ref()];
        // What the store copies by itself does not come past here.
        if !call.moves_a_body() || ways.iter().all(Option::is_none) {
            return attempt();
        }
        Box::pin(async move {
            for way in ways.into_iter().flatten() {
                way.pass(call.bytes, call.purpose).await;
            }
            attempt().await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ObjectKey;
    use crate::memory::MemoryBackend;
    use bytes::Bytes;

    const RATE: u64 = 1 << 20;

    fn store() -> Arc<Bandwidth> {
        let config = BandwidthConfig {
            put_bytes_per_second: Some(RATE),
            get_bytes_per_second: Some(2 * RATE),
            ..BandwidthConfig::default()
        };
        Arc::new(Bandwidth::new(Arc::new(MemoryBackend::new()), config))
    }

    async fn put(store: &Bandwidth, name: &str, bytes: usize, purpose: Purpose) {
        let key = ObjectKey::new(name).unwrap();
        store.put(&key, Bytes::from(vec![0; bytes]).into(), purpose).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_at_the_rate_and_each_way_is_for_itself() {
        let (store, started) = (store(), Instant::now());
        for n in 0..20 {
            put(&store, &format!("{n}"), 512 << 10, Purpose::Upload).await;
        }
        let put_s = started.elapsed().as_secs_f64();
        // One second's worth is there at the beginning, and the last body is taken on credit.
        assert!((8.4..=9.1).contains(&put_s), "10 MiB at 1 MiB/s took {put_s} s");
        let started = Instant::now();
        for n in 0..20 {
            store.get_range(&ObjectKey::new(format!("{n}")).unwrap(), 0..512 << 10, Purpose::TailRead).await.unwrap();
        }
        let get_s = started.elapsed().as_secs_f64();
        assert!((3.7..=4.1).contains(&get_s), "10 MiB at 2 MiB/s took {get_s} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_larger_than_a_second_passes_and_is_paid_for_afterwards() {
        let (store, started) = (store(), Instant::now());
        put(&store, "large", 10 << 20, Purpose::Upload).await;
        assert_eq!(started.elapsed(), Duration::ZERO);
        put(&store, "next", 1, Purpose::Upload).await;
        assert!(
            started.elapsed().abs_diff(Duration::from_secs(9)) < Duration::from_millis(10),
            "{:?}",
            started.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_urgent_leaves_the_way_to_what_is() {
        let store = store();
        put(&store, "debt", 2 << 20, Purpose::Upload).await;
        let started = Instant::now();
        let cold = {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..4 {
                    put(&store, &format!("cold-{n}"), 256 << 10, Purpose::Compaction).await;
                }
                Instant::now()
            })
        };
        for n in 0..4 {
            put(&store, &format!("hot-{n}"), 512 << 10, Purpose::Upload).await;
        }
        let hot_s = started.elapsed().as_secs_f64();
        assert!((2.4..=2.6).contains(&hot_s), "as if nobody else were there: {hot_s} s");
        assert!(cold.await.unwrap() > started + Duration::from_secs_f64(hot_s), "it came after");
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_are_behind_have_a_rate_of_their_own_and_others_do_not_wait_for_it() {
        let config = BandwidthConfig { catch_up_bytes_per_second: Some(RATE), ..BandwidthConfig::default() };
        let store = Arc::new(Bandwidth::new(Arc::new(MemoryBackend::new()), config));
        put(&store, "object", 1 << 20, Purpose::Upload).await;
        let read = |store: Arc<Bandwidth>, purpose| async move {
            let started = Instant::now();
            for _ in 0..10 {
                store.get_range(&ObjectKey::new("object").unwrap(), 0..1 << 20, purpose).await.unwrap();
            }
            started.elapsed().as_secs_f64()
        };
        let behind = tokio::spawn(read(store.clone(), Purpose::CatchUpRead));
        assert!(read(store.clone(), Purpose::TailRead).await < 0.1);
        assert!(read(store, Purpose::Compaction).await < 0.1);
        let behind_s = behind.await.unwrap();
        assert!((8.4..=9.6).contains(&behind_s), "10 MiB at 1 MiB/s took {behind_s} s");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_bound_nobody_waits() {
        let store = Bandwidth::new(Arc::new(MemoryBackend::new()), BandwidthConfig::default());
        let started = Instant::now();
        for n in 0..10 {
            put(&store, &format!("{n}"), 10 << 20, Purpose::Scrub).await;
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}
