//! What a test lets the kernel answer instead of doing all that it was asked: interrupted, no room, a part only, nothing
//! for a long time. In other builds there is none of it.
//!
//! A mishap is decided before the kernel gets the request, so what it says was not done is really not on the device.

#[cfg(any(test, feature = "fault-injection"))]
pub use planned::{Act, Mishap, Mishaps};

/// What the engines ask before they give something to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Read {
        offset: u64,
        bytes: usize,
    },
    /// With `durable` by `RWF_DSYNC`.
    Write {
        offset: u64,
        bytes: usize,
        durable: bool,
    },
    Flush,
}

/// What may come of it.
#[cfg_attr(not(any(test, feature = "fault-injection")), expect(dead_code, reason = "without mishaps all is allowed"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowed {
    All,
    /// Only so many first bytes.
    Part(usize),
    /// Only so many first bytes, and the flush that is linked to them.
    PartAndFlush(usize),
    /// Nothing; this error number.
    Error(i32),
    /// Nothing, before this descriptor can be read; then an error.
    Hangs(std::os::fd::RawFd),
}

#[cfg(not(any(test, feature = "fault-injection")))]
#[derive(Default)]
pub struct Mishaps {}

#[cfg(not(any(test, feature = "fault-injection")))]
impl Mishaps {
    #[inline(always)]
    pub(super) const fn ask(&self, _asked: Asked) -> Allowed {
        Allowed::All
    }

    pub(super) const fn may_retry(&self) -> bool {
        true
    }
}

#[cfg(any(test, feature = "fault-injection"))]
mod planned {
    use std::collections::VecDeque;
    use std::io::{PipeReader, PipeWriter};
    use std::os::fd::{AsRawFd, RawFd};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::{Allowed, Asked};

    /// Direct I/O is cut at a multiple of this.
    const CUT_BYTES: usize = 4096;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Mishap {
        /// A signal came (EINTR).
        Interrupted,
        /// The kernel has no room for it now (EAGAIN).
        NoRoom,
        /// Half of it is done. What cannot be cut is interrupted.
        Short,
        /// As `Short`, and the flush that is linked to a write happens all the same.
        ShortAndFlushed,
        /// It does not come back before [`Mishaps::release`], and then with an error.
        Hangs,
        /// As `Interrupted`, for the flush that follows a write.
        FlushInterrupted,
    }

    /// What the kernel did, in the order in which it was asked.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Act {
        Read { offset: u64, bytes: usize },
        Write { offset: u64, bytes: usize, durable: bool },
        Flush,
    }

    #[derive(Default)]
    pub struct Mishaps(Mutex<State>);

    #[derive(Default)]
    struct State {
        planned: VecDeque<Mishap>,
        /// By turns from here on, one for each so many requests.
        every: Option<usize>,
        asked: usize,
        acts: Vec<Act>,
        without_retry: bool,
        /// Its first end can be read when the second one is gone.
        gate: Option<(PipeReader, Option<PipeWriter>)>,
    }

    impl Mishaps {
        /// The next requests meet these, one each; a `FlushInterrupted` waits for a flush.
        pub fn plan(&self, mishaps: &[Mishap]) {
            let mut state = self.lock();
            state.planned.extend(mishaps);
            state.acts.clear();
        }

        /// From now on each so manieth request meets one of those that pass.
        pub fn plan_every(&self, requests: usize) {
            self.lock().every = Some(requests);
        }

        /// Nothing that was planned comes any more.
        pub fn forget(&self) {
            self.lock().planned.clear();
        }

        /// What was planned and has not happened.
        pub fn left(&self) -> usize {
            self.lock().planned.len()
        }

        /// What the kernel did since the last plan.
        pub fn acts(&self) -> Vec<Act> {
            self.lock().acts.clone()
        }

        /// The engines try nothing again and take a part for the whole: to show that it would be seen.
        pub fn without_retry(&self) {
            self.lock().without_retry = true;
        }

        /// Lets go what hangs.
        pub fn release(&self) {
            if let Some((_, writer)) = &mut self.lock().gate {
                *writer = None;
            }
        }

        pub(in super::super) fn may_retry(&self) -> bool {
            !self.lock().without_retry
        }

        pub(in super::super) fn ask(&self, asked: Asked) -> Allowed {
            let mut state = self.lock();
            let allowed = state.answer(asked);
            let (part, nothing) = match allowed {
                Allowed::All => (usize::MAX, false),
                Allowed::Part(bytes) | Allowed::PartAndFlush(bytes) => (bytes, false),
                Allowed::Error(_) | Allowed::Hangs(_) => (0, true),
            };
            if !nothing && state.every.is_none() {
                state.acts.push(match asked {
                    Asked::Read { offset, bytes } => Act::Read { offset, bytes: bytes.min(part) },
                    Asked::Write { offset, bytes, durable } => Act::Write { offset, bytes: bytes.min(part), durable },
                    Asked::Flush => Act::Flush,
                });
            }
            allowed
        }

        fn lock(&self) -> MutexGuard<'_, State> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl State {
        fn answer(&mut self, asked: Asked) -> Allowed {
            self.asked += 1;
            if let Some(every) = self.every.filter(|every| self.asked.is_multiple_of(*every)) {
                let all = [Mishap::Interrupted, Mishap::Short, Mishap::NoRoom, Mishap::ShortAndFlushed];
                return self.meet(all[self.asked / every % all.len()], asked);
            }
            let waits = self.planned.front() == Some(&Mishap::FlushInterrupted) && asked != Asked::Flush;
            match self.planned.front().copied().filter(|_| !waits) {
                Some(mishap) => {
                    self.planned.pop_front();
                    self.meet(mishap, asked)
                }
                None => Allowed::All,
            }
        }

        fn meet(&mut self, mishap: Mishap, asked: Asked) -> Allowed {
            match (mishap, asked) {
                (Mishap::NoRoom, _) => Allowed::Error(libc::EAGAIN),
                (Mishap::Hangs, _) => Allowed::Hangs(self.gate()),
                (Mishap::Short, Asked::Read { bytes, .. } | Asked::Write { bytes, .. }) if bytes > CUT_BYTES => {
                    Allowed::Part((bytes / 2).next_multiple_of(CUT_BYTES))
                }
                (Mishap::ShortAndFlushed, Asked::Write { bytes, .. }) if bytes > CUT_BYTES => {
                    Allowed::PartAndFlush((bytes / 2).next_multiple_of(CUT_BYTES))
                }
                _ => Allowed::Error(libc::EINTR),
            }
        }

        fn gate(&mut self) -> RawFd {
            let gate = self.gate.get_or_insert_with(|| {
                let (reader, writer) = std::io::pipe().expect("two descriptors are free");
                (reader, Some(writer))
            });
            gate.0.as_raw_fd()
        }
    }
}
