//! Jobs run a few at a time, since most of them mostly wait: for sessions to end, groups to settle, JVMs to start.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Begins the jobs in their order, `at_once` at a time, and gives what they gave in the same order.
pub fn run<J: Send, R: Send>(jobs: Vec<J>, at_once: usize, run: impl Fn(J) -> R + Sync) -> Vec<R> {
    let done = Mutex::new(Vec::with_capacity(jobs.len()));
    let waiting = Mutex::new(jobs.into_iter().enumerate().collect::<VecDeque<_>>());
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                while let Some((position, job)) = next() {
                    let result = run(job);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((position, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(position, _)| *position);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_jobs_whoever_ends_first() {
        let results = run(vec![30, 0, 10, 0], 3, |wait_ms| {
            thread::sleep(Duration::from_millis(wait_ms));
            wait_ms + 1
        });
        assert_eq!(results, [31, 1, 11, 1]);
    }
}
