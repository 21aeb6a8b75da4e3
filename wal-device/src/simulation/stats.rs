//! What seeds reached: counted, added up, and printed as one line of a table.

use std::ops::AddAssign;

/// Counts of one seed, or of many.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Stats {
    pub seeds: u64,
    pub records: u64,
    /// Crash points: each was followed by a recovery that was compared with the ledger.
    pub crashes: u64,
    /// Of these, while recovering or opening.
    pub crashes_in_recovery: u64,
    pub clean_closes: u64,
    pub write_failures: u64,
    /// Damage that was reported, and rightly.
    pub damages: u64,
    /// Recoveries that lost acknowledged records of which nothing on the disk was left to tell.
    pub silent_tails: u64,
    /// Times that the disk did something wrong by itself.
    pub misdeeds: u64,
    pub legs_failed: u64,
    pub legs_stuck: u64,
    pub legs_joined: u64,
    pub ring_full: u64,
    pub pads: u64,
    pub laps: u64,
    /// Unacknowledged records that a crash took.
    pub torn: u64,
    pub reads: u64,
}

impl AddAssign<&Self> for Stats {
    fn add_assign(&mut self, other: &Self) {
        for ((_, sum), (_, more)) in self.columns_mut().into_iter().zip(other.clone().columns_mut()) {
            *sum += *more;
        }
    }
}

impl Stats {
    fn columns_mut(&mut self) -> [(&'static str, &mut u64); 17] {
        [
            ("seeds", &mut self.seeds),
            ("crash points", &mut self.crashes),
            ("in recovery", &mut self.crashes_in_recovery),
            ("records", &mut self.records),
            ("closes", &mut self.clean_closes),
            ("write errors", &mut self.write_failures),
            ("misdeeds", &mut self.misdeeds),
            ("damages", &mut self.damages),
            ("lost tails", &mut self.silent_tails),
            ("legs failed", &mut self.legs_failed),
            ("legs stuck", &mut self.legs_stuck),
            ("legs joined", &mut self.legs_joined),
            ("ring full", &mut self.ring_full),
            ("pads", &mut self.pads),
            ("laps", &mut self.laps),
            ("torn", &mut self.torn),
            ("reads", &mut self.reads),
        ]
    }

    pub fn table_head() -> String {
        let mut line = format!("{:<12}", "mode");
        for (name, _) in Self::default().columns_mut() {
            line += &format!(" {name:>12}");
        }
        line
    }

    pub fn table_line(&self, name: &str) -> String {
        let mut line = format!("{name:<12}");
        for (_, count) in self.clone().columns_mut() {
            line += &format!(" {count:>12}");
        }
        line
    }
}
