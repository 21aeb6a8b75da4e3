//! Up to where a partition is acked and readable, pure: what an ack promises is its topic's `seawall.ack`.
//!
//! Under [`AckClass::Wal`] a record is acked when the WAL has it, under [`AckClass::Backend`] when metadata has committed the object
//! that holds it. The class may change while records are under way: those that were appended before keep what was asked of
//! them then, or get by with less.
//! Promises (asserted): the watermark never moves back, never passes what is durable, and passes what is committed only for
//! records that were appended under `Wal`.

/// `seawall.ack` of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckClass {
    Wal,
    Backend,
}

/// The classes of the records of one log, and how far it is acked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckLine {
    /// Records from here on need their commit. None: the WAL is enough for all.
    commit_from: Option<i64>,
    watermark: i64,
}

impl AckLine {
    /// Of a log that was recovered, or is new. Under `Backend` what is not committed may never have been acked, so it waits.
    pub fn new(class: AckClass, committed_end: i64, durable_end: i64) -> Self {
        let commit_from = (class == AckClass::Backend).then_some(committed_end);
        let mut line = Self { commit_from, watermark: committed_end };
        line.advance(committed_end, durable_end);
        line
    }

    pub fn class(&self) -> AckClass {
        if self.commit_from.is_some() { AckClass::Backend } else { AckClass::Wal }
    }

    /// Everything below is acked, and read by consumers.
    pub fn watermark(&self) -> i64 {
        self.watermark
    }

    /// `Backend` is for what is appended from `log_end` on; `Wal` lets go what is durable already. `advance` says how far.
    pub fn change(&mut self, class: AckClass, log_end: i64) {
        if class != self.class() {
            assert!(log_end >= self.watermark, "log end {log_end} below the watermark {}", self.watermark);
            self.commit_from = (class == AckClass::Backend).then_some(log_end);
        }
    }

    /// Moves the watermark as far as these ends allow; answers whether it moved.
    pub fn advance(&mut self, committed_end: i64, durable_end: i64) -> bool {
        assert!(committed_end <= durable_end, "committed end {committed_end} beyond the durable end {durable_end}");
        let to = self.commit_from.map_or(durable_end, |from| durable_end.min(committed_end.max(from)));
        assert!(to >= self.watermark, "high watermark moved back from {} to {to}", self.watermark);
        let moved = to > self.watermark;
        self.watermark = to;
        self.check(committed_end, durable_end);
        moved
    }

    fn check(&self, committed_end: i64, durable_end: i64) {
        let vouched = self.commit_from.map_or(durable_end, |from| from.max(committed_end));
        assert!(
            self.watermark <= durable_end.min(vouched),
            "{self:?} with {committed_end} committed and {durable_end} durable"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AckClass::{Backend, Wal};

    #[test]
    fn the_wal_is_enough_under_wal_and_the_commit_is_awaited_under_backend() {
        let mut wal = AckLine::new(Wal, 10, 10);
        assert!(wal.advance(10, 15));
        assert_eq!(wal.watermark(), 15);
        let mut backend = AckLine::new(Backend, 10, 10);
        assert!(!backend.advance(10, 15));
        assert!(backend.advance(12, 15));
        assert_eq!(backend.watermark(), 12);
    }

    #[test]
    fn what_recovery_finds_in_the_wal_is_acked_under_wal_and_waits_for_its_commit_under_backend() {
        assert_eq!(AckLine::new(Wal, 10, 15).watermark(), 15);
        assert_eq!(AckLine::new(Backend, 10, 15).watermark(), 10);
    }

    #[test]
    fn from_wal_to_backend_later_records_wait_and_earlier_ones_do_not() {
        let mut line = AckLine::new(Wal, 0, 5);
        // 5 to 9 are appended and not durable yet.
        line.change(Backend, 10);
        line.advance(0, 12);
        assert_eq!(line.watermark(), 10);
        line.advance(7, 12);
        assert_eq!(line.watermark(), 10);
        line.advance(12, 12);
        assert_eq!(line.watermark(), 12);
    }

    #[test]
    fn from_backend_to_wal_what_is_durable_is_let_go() {
        let mut line = AckLine::new(Backend, 0, 0);
        line.advance(0, 8);
        line.change(Wal, 10);
        assert!(line.advance(0, 8));
        assert_eq!(line.watermark(), 8);
    }

    #[test]
    fn to_the_class_that_it_has_changes_nothing() {
        let mut line = AckLine::new(Backend, 0, 0);
        line.change(Backend, 10);
        line.advance(0, 10);
        assert_eq!(line.watermark(), 0);
    }

    /// Every interleaving of few steps, against what each record was promised when it was appended.
    #[test]
    fn no_record_is_acked_before_its_promise_holds_and_none_waits_when_it_does() {
        for seed in 0..4_u64.pow(7) {
            let (mut line, mut class) = (AckLine::new(Wal, 0, 0), Wal);
            let (mut committed, mut durable, mut needs_commit) = (0, 0, Vec::<bool>::new());
            for step in 0..7 {
                let log_end = needs_commit.len() as i64;
                match seed / 4_u64.pow(step) % 4 {
                    0 => needs_commit.push(class == Backend),
                    1 => durable = (durable + 1).min(log_end),
                    2 => committed = (committed + 1).min(durable),
                    _ => {
                        class = if class == Wal { Backend } else { Wal };
                        line.change(class, log_end);
                        if class == Wal {
                            needs_commit.fill(false);
                        }
                    }
                }
                line.advance(committed, durable);
                let holds = |at: i64| at < durable && (at < committed || !needs_commit[at as usize]);
                let acked = (0..needs_commit.len() as i64).take_while(|at| holds(*at)).count() as i64;
                assert_eq!(line.watermark(), acked, "seed {seed}, step {step}: {line:?}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "beyond the durable end")]
    fn a_commit_of_what_is_not_durable_is_a_bug() {
        AckLine::new(Backend, 0, 0).advance(1, 0);
    }
}
