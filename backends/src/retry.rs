//! A layer that repeats what may succeed at another try: a deadline per operation, pauses that double with jitter, and
//! two budgets (urgent purposes, others), so that a failing store is not met with a multiple of its load. How long one attempt may take is the
//! matter of the layer `timeout` below.
//!
//! Repeats `Throttled` and `Transient`. `Full` goes to the caller, who must tell someone. A put is repeated with the
//! very same bytes, so an attempt that succeeds late does no harm. A read that comes back short is a failed attempt.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::layer::{Answer, Call, Deleted, Layer};
use crate::rng::Rng;
use crate::timeout::transfer_time;
use crate::traced::ATTEMPTS;
use crate::{Backend, BackendError, BoxFuture, ObjectKey, Purpose};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryConfig {
    /// Longest an operation may take with all its attempts and pauses, and with its waits for a place in flight, besides
    /// the time for its bytes.
    pub deadline: Duration,
    /// Slowest transfer that is waited for: a body adds its length over this to `deadline`.
    pub bytes_per_second_min: u64,
    /// Pause after the first failure; doubles with each one up to `pause_max`. Half of it is jitter.
    pub pause_min: Duration,
    pub pause_max: Duration,
    /// Retries that may be spent at once; urgent purposes have as many of their own.
    pub budget_retries: u32,
    /// Retries that each new operation earns, in thousandths.
    pub budget_per_mille: u32,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(60),
            bytes_per_second_min: 1 << 20,
            pause_min: Duration::from_millis(50),
            pause_max: Duration::from_secs(5),
            budget_retries: 50,
            budget_per_mille: 200,
        }
    }
}

pub struct Retry {
    inner: Arc<dyn Backend>,
    config: RetryConfig,
    jitter: Rng,
    /// Thousandths of a retry: for urgent purposes, and for the others.
    budgets: [AtomicU64; 2],
}

impl Retry {
    /// `seed` drives the jitter alone.
    pub fn new(inner: Arc<dyn Backend>, config: RetryConfig, seed: u64) -> Self {
        assert!(config.bytes_per_second_min > 0, "a transfer may not be granted forever");
        let budget = || AtomicU64::new(u64::from(config.budget_retries) * 1_000);
        let budgets = [budget(), budget()];
        Self { inner, config, jitter: Rng::new(seed), budgets }
    }

    async fn repeat<T, F, A>(
        &self,
        what: &str,
        purpose: Purpose,
        body_bytes: u64,
        mut attempt: F,
    ) -> Result<T, BackendError>
    where
        F: FnMut() -> A,
        A: Future<Output = Result<T, BackendError>>,
    {
        self.earn(purpose);
        let most = self.config.deadline + transfer_time(body_bytes, self.config.bytes_per_second_min);
        let deadline = Instant::now() + most;
        let mut failures: u32 = 0;
        loop {
            let error = match tokio::time::timeout_at(deadline, attempt()).await {
                Ok(Err(error)) if is_repeated(&error) => error,
                Ok(outcome) => {
                    tell_attempts(failures + 1);
                    return outcome;
                }
                Err(_) => {
                    tell_attempts(failures + 1);
                    let text = format!("{what} took longer than {most:?}");
                    return Err(BackendError::Transient(text));
                }
            };
            let pause = self.pause(failures, &error);
            failures += 1;
            if Instant::now() + pause >= deadline || !self.spend(purpose) {
                tell_attempts(failures);
                return Err(error);
            }
            tracing::warn!(%error, what, purpose = purpose.name(), failures, retry_in_ms = pause.as_millis() as u64, "store operation failed, will retry");
            tokio::time::sleep(pause).await;
        }
    }

    fn pause(&self, failures: u32, error: &BackendError) -> Duration {
        let doubled = self.config.pause_min.saturating_mul(1 << failures.min(16)).min(self.config.pause_max);
        let jittered = doubled / 2 + self.jitter.duration_up_to(doubled / 2);
        match error {
            BackendError::Throttled { retry_after: Some(asked) } => jittered.max(*asked),
            _ => jittered,
        }
    }

    fn budget(&self, purpose: Purpose) -> &AtomicU64 {
        &self.budgets[usize::from(!purpose.is_urgent())]
    }

    fn earn(&self, purpose: Purpose) {
        let most = u64::from(self.config.budget_retries) * 1_000;
        let earned = u64::from(self.config.budget_per_mille);
        let add = |left: u64| Some((left + earned).min(most));
        let _ = self.budget(purpose).fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    fn spend(&self, purpose: Purpose) -> bool {
        self.budget(purpose).fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1_000)).is_ok()
    }

    /// One pass of deletes; remembers in `outcomes` what is final and keeps in `open` what is to be repeated.
    async fn delete_open(&self, open: &mut Vec<ObjectKey>, outcomes: &mut Outcomes, purpose: Purpose) -> Last {
        let mut last = Ok(());
        let mut again = Vec::new();
        for (key, outcome) in self.inner.delete_many(open.clone(), purpose).await {
            match outcome {
                Err(error) if is_repeated(&error) => {
                    last = Err(error);
                    again.push(key);
                }
                done => outcomes.push((key, done)),
            }
        }
        *open = again;
        last
    }
}

type Outcomes = Vec<(ObjectKey, Result<(), BackendError>)>;
type Last = Result<(), BackendError>;

/// To the span of the operation, where there is one.
fn tell_attempts(attempts: u32) {
    if attempts > 1 {
        tracing::Span::current().record(ATTEMPTS, attempts);
    }
}

fn is_repeated(error: &BackendError) -> bool {
    matches!(error, BackendError::Throttled { .. } | BackendError::Transient(_))
}

impl Layer for Retry {
    fn inner(&self) -> &dyn Backend {
        &*self.inner
    }

    fn around<'a, T: Answer + 'a>(
        &'a self,
        call: Call<'a>,
        attempt: impl Fn() -> BoxFuture<'a, Result<T, BackendError>> + Send + Sync + 'a,
    ) -> BoxFuture<'a, Result<T, BackendError>> {
        Box::pin(async move {
            let whole = |attempt: BoxFuture<'a, Result<T, BackendError>>| async move {
                let answer = attempt.await?;
                match answer.body_bytes() {
                    Some(came) if came != call.bytes => {
                        Err(BackendError::Transient(format!("{came} of {} bytes of {} came", call.bytes, call.name)))
                    }
                    _ => Ok(answer),
                }
            };
            let what = call.operation.name();
            self.repeat(what, call.purpose, call.stored_bytes, || whole(attempt())).await
        })
    }

    fn around_delete(&self, keys: Vec<ObjectKey>, purpose: Purpose) -> BoxFuture<'_, Deleted> {
        Box::pin(async move {
            let asked = keys.clone();
            // Each attempt takes the state with it and gives it back, so that a timed-out one loses nothing.
            let state = tokio::sync::Mutex::new((keys, Outcomes::new()));
            let last = self
                .repeat("delete", purpose, 0, || async {
                    let (open, outcomes) = &mut *state.lock().await;
                    self.delete_open(open, outcomes, purpose).await
                })
                .await;
            let (open, mut outcomes) = state.into_inner();
            if let Err(error) = last {
                outcomes.extend(open.into_iter().map(|key| (key, Err(error.clone()))));
            }
            in_order(asked, outcomes)
        })
    }
}

fn in_order(asked: Vec<ObjectKey>, outcomes: Outcomes) -> Outcomes {
    let by_key: std::collections::BTreeMap<_, _> = outcomes.into_iter().collect();
    asked
        .into_iter()
        .map(|key| {
            let outcome = by_key.get(&key).cloned();
            (key, outcome.unwrap_or_else(|| Err(BackendError::Transient("the store did not answer for it".to_owned()))))
        })
        .collect()
}
