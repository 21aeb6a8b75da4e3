//! What a soak has seen, and what of it no correct broker shows. Pure.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub produced_records: u64,
    /// Of values.
    pub produced_bytes: u64,
    pub seconds: f64,
    /// Refused for good, or without an answer at the end.
    pub not_acked: u64,
    /// Acked at another offset than was due.
    pub acked_elsewhere: u64,
    pub tail: Side,
    pub replays: Side,
    pub last_pass: Side,
    /// Of values that the last pass read.
    pub kept_bytes: u64,
    /// Partitions of which less than `retention.bytes` is left.
    pub partitions_cut_short: u64,
    pub compacted: Compacted,
    /// Readers that ended early, and why.
    pub gave_up: Vec<String>,
}

/// One kind of reader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// From the log's start to its end.
    pub passes: u64,
    pub records: u64,
    pub bytes: u64,
    /// Another content than was sent.
    pub wrong: u64,
    /// Acked or passed over, and not there.
    pub missing: u64,
    /// At an offset that was read already.
    pub doubled: u64,
    /// Not read because retention was faster.
    pub behind_retention: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Compacted {
    pub produced: u64,
    pub read: u64,
    pub keys: u64,
    pub wrong: u64,
    /// Keys whose newest record is not there.
    pub missing: u64,
}

impl Report {
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut expect = |none: u64, what: String| {
            if none > 0 {
                wrong.push(format!("{none} {what}"));
            }
        };
        expect(u64::from(self.produced_records == 0), "time nothing was produced".into());
        expect(self.not_acked, "records were not acked".into());
        expect(self.acked_elsewhere, "records were acked at another offset".into());
        for (name, side) in [("tail", self.tail), ("replays", self.replays), ("last pass", self.last_pass)] {
            expect(side.wrong, format!("records with another content, {name}"));
            expect(side.missing, format!("records missing, {name}"));
            expect(side.doubled, format!("records doubled or out of order, {name}"));
        }
        // It is never so far behind.
        expect(self.tail.behind_retention, "records that retention took from the tail".into());
        expect(self.partitions_cut_short, "partitions of which retention left too little".into());
        expect(self.compacted.wrong, "wrong records in the compacted topic".into());
        expect(self.compacted.missing, "keys without their newest record".into());
        wrong.extend(self.gave_up.iter().map(|why| format!("reader {why}")));
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_that_may_not_be_is_told() {
        let fine = Report { produced_records: 5, ..Report::default() };
        assert_eq!(fine.wrong(), Vec::<String>::new());
        assert_eq!(Report::default().wrong().len(), 1);
        let spoils: [fn(&mut Report); 10] = [
            |report| report.not_acked = 1,
            |report| report.acked_elsewhere = 1,
            |report| report.tail.wrong = 1,
            |report| report.replays.missing = 1,
            |report| report.last_pass.doubled = 1,
            |report| report.tail.behind_retention = 1,
            |report| report.partitions_cut_short = 1,
            |report| report.compacted.wrong = 1,
            |report| report.compacted.missing = 1,
            |report| report.gave_up.push("at the tail: no answer".into()),
        ];
        for spoil in spoils {
            let mut report = fine.clone();
            spoil(&mut report);
            assert_eq!(report.wrong().len(), 1, "{report:?}");
        }
        let mut late = fine;
        late.replays.behind_retention = 9;
        assert_eq!(late.wrong(), Vec::<String>::new());
    }
}
