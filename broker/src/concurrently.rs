//! Several futures of one task at a time, without a task for each.
//!
//! They may borrow, and end with whoever waits for them. All of them are looked at whenever one wakes: for a few, not for many.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// What the futures give, in their order. They begin in that order too.
pub async fn all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut slots: Vec<Slot<F>> = futures.into_iter().map(|future| Slot::Running(Box::pin(future))).collect();
    poll_fn(|context| {
        let mut running = false;
        for slot in &mut slots {
            if let Slot::Running(future) = slot {
                match future.as_mut().poll(context) {
                    Poll::Ready(output) => *slot = Slot::Done(output),
                    Poll::Pending => running = true,
                }
            }
        }
        if running { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    let output = |slot| match slot {
        Slot::Done(output) => output,
        Slot::Running(_) => unreachable!("none runs"),
    };
    slots.into_iter().map(output).collect()
}

/// Runs `aside` for as long as `main` takes, `aside` first.
pub async fn with_aside<T>(aside: impl Future<Output = ()>, main: impl Future<Output = T>) -> T {
    let aside = async {
        aside.await;
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        biased;
        never = aside => match never {},
        done = main => done,
    }
}

enum Slot<F: Future> {
    Running(Pin<Box<F>>),
    Done(F::Output),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::{Instant, sleep};

    #[tokio::test(start_paused = true)]
    async fn they_run_at_the_same_time_and_give_their_outputs_in_order() {
        let began = Instant::now();
        let outputs = all([3, 1, 2].map(|n| async move {
            sleep(Duration::from_secs(n)).await;
            n
        }))
        .await;
        assert_eq!((outputs, began.elapsed()), (vec![3, 1, 2], Duration::from_secs(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_runs_aside_is_not_waited_for() {
        let began = Instant::now();
        let main = async { sleep(Duration::from_secs(1)).await };
        with_aside(async { sleep(Duration::from_secs(9)).await }, main).await;
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }
}
