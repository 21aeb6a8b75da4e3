//! What waits for one leg, and how much of it the kernel holds, pure.
//!
//! Each leg has its own share, so that one that hangs takes nothing from the others.

use std::collections::VecDeque;

use super::{Operation, Request};

/// Requests that the kernel holds at once; more wait here. Reads leave some room for writes.
pub const IN_KERNEL_MAX: usize = 40;
const READS_IN_KERNEL_MAX: usize = 32;

#[derive(Default)]
pub struct Lane {
    /// Writes and flushes: no reader delays an acknowledgement.
    writes: VecDeque<Request>,
    reads: VecDeque<Request>,
    in_kernel: usize,
    reads_in_kernel: usize,
}

impl Lane {
    pub fn push(&mut self, request: Request) {
        let queue = if request.operation == Operation::Read { &mut self.reads } else { &mut self.writes };
        queue.push_back(request);
    }

    /// The next one for the kernel, which holds it from now on.
    pub fn pop(&mut self) -> Option<Request> {
        if self.in_kernel >= IN_KERNEL_MAX {
            return None;
        }
        let read_fits = self.reads_in_kernel < READS_IN_KERNEL_MAX;
        let write = self.writes.pop_front();
        let next = write.or_else(|| if read_fits { self.reads.pop_front() } else { None })?;
        self.in_kernel += 1;
        self.reads_in_kernel += usize::from(next.operation == Operation::Read);
        Some(next)
    }

    /// The kernel has given one back.
    pub fn is_done(&mut self, operation: Operation) {
        self.in_kernel -= 1;
        self.reads_in_kernel -= usize::from(operation == Operation::Read);
    }

    /// Forgets what waits.
    pub fn clear(&mut self) {
        self.writes.clear();
        self.reads.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(operation: Operation) -> Request {
        Request { tag: 0, leg: 0, operation, offset: 0, buffer: None, bytes: 0 }
    }

    #[test]
    fn writes_come_first_and_reads_never_take_all_places() {
        let mut lane = Lane::default();
        (0..2 * IN_KERNEL_MAX).for_each(|_| lane.push(request(Operation::Read)));
        let mut reads = 0;
        while let Some(next) = lane.pop() {
            assert_eq!(next.operation, Operation::Read);
            reads += 1;
        }
        assert_eq!(reads, READS_IN_KERNEL_MAX);
        lane.push(request(Operation::Flush));
        assert_eq!(lane.pop().map(|next| next.operation), Some(Operation::Flush));
        lane.is_done(Operation::Read);
        lane.push(request(Operation::Flush));
        let order: Vec<Operation> = std::iter::from_fn(|| lane.pop()).map(|next| next.operation).collect();
        assert_eq!(order, [Operation::Flush, Operation::Read]);
    }
}
