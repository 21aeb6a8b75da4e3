//! What a soak showed, as a table, and whether that is what was promised. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bench::machine::median;

/// Record bytes that are written to the store for each that is produced.
const AMPLIFICATION_MAX: f64 = 2.0;
/// By how much the objects that metadata knows in the last third may outnumber those of the second, and those in the store
/// the ones that are known.
const OBJECTS_GROW_MAX: f64 = 1.25;
const OBJECTS_FEW: f64 = 12.0;

/// The report of `seawall-qualify soak`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Checked {
    pub produced_records: u64,
    pub produced_bytes: u64,
    pub seconds: f64,
    pub tail: Side,
    pub replays: Side,
    pub last_pass: Side,
    pub kept_bytes: u64,
    pub compacted: Compacted,
    #[serde(default)]
    pub wrong: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Side {
    pub passes: u64,
    pub records: u64,
    pub bytes: u64,
    pub wrong: u64,
    pub missing: u64,
    pub doubled: u64,
    pub behind_retention: u64,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Compacted {
    pub produced: u64,
    pub read: u64,
    pub keys: u64,
}

/// At one moment.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Objects {
    /// Since the load began.
    pub at_s: f64,
    /// The store gets what it missed: the count grows as it has to.
    pub behind: bool,
    /// To metadata.
    pub known: f64,
    /// Of those, unused and not deleted yet.
    pub waiting: f64,
    pub stored: f64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Observed {
    pub seconds: f64,
    /// All that was acked, at the end.
    pub uploaded: bool,
    pub stops: u32,
    pub kills: u32,
    pub events_planned: u32,
    pub restarts_s: Vec<f64>,
    pub rss_rest_mib: f64,
    pub rss_max_mib: f64,
    pub rss_limit_mib: f64,
    pub trim_lag_max_mib: f64,
    pub wal_used_max_mib: f64,
    /// Of batches.
    pub appended_bytes: f64,
    /// Of objects that were committed.
    pub uploaded_bytes: f64,
    pub put_failures: f64,
    pub compacted_record_bytes: f64,
    pub compacted_object_bytes: f64,
    pub cleaner_rounds: f64,
    pub cleaner_bytes: f64,
    pub corrupt_reads: f64,
    pub missing_reads: f64,
    /// By operation and purpose.
    pub calls: BTreeMap<String, f64>,
    pub objects: Vec<Objects>,
    pub checked: Checked,
}

impl Observed {
    /// Each record is uploaded once; compaction may write it again.
    fn amplification(&self) -> f64 {
        (self.appended_bytes + self.compacted_record_bytes) / self.appended_bytes.max(1.0)
    }

    /// The median in each third of the time, of the moments that `count`.
    fn objects(&self, count: fn(&Objects) -> bool, of: fn(&Objects) -> f64) -> [f64; 3] {
        let third_s = self.seconds / 3.0;
        [0.0, 1.0, 2.0].map(|third| {
            let is_in = |one: &&Objects| (third * third_s..(third + 1.0) * third_s).contains(&one.at_s) && count(one);
            median(self.objects.iter().filter(is_in).map(of))
        })
    }

    pub fn broken(&self) -> Vec<String> {
        let mut broken = self.checked.wrong.clone();
        let mut expect = |kept: bool, what: String| {
            if !kept {
                broken.push(what);
            }
        };
        expect(self.checked.produced_records > 0, "nothing was produced".into());
        let happened = self.stops + self.kills;
        expect(happened == self.events_planned, format!("{happened} of {} stops and kills", self.events_planned));
        expect(self.uploaded, "not everything was uploaded at the end".into());
        let (rss, limit) = (self.rss_max_mib, self.rss_limit_mib);
        expect(rss <= limit, format!("{rss:.0} MiB of memory, {limit:.0} are the limit"));
        let amplification = self.amplification();
        expect(amplification <= AMPLIFICATION_MAX, format!("record bytes were written {amplification:.2} times"));
        // A third in which nothing could be counted says nothing.
        let grew = |before: f64, after: f64| after > before * OBJECTS_GROW_MAX + OBJECTS_FEW;
        let [_, second, last] = self.objects(|one| !one.behind, |one| one.known);
        expect(!grew(second, last), format!("objects known: {second:.0} in the second third, {last:.0} in the last"));
        let at_last = |of| self.objects(|_| true, of)[2];
        let (known, stored): (f64, f64) = (at_last(|one| one.known), at_last(|one| one.stored));
        expect(!grew(known, stored), format!("objects in the last third: {known:.0} known, {stored:.0} stored"));
        for (name, count) in [("corrupt", self.corrupt_reads), ("missing", self.missing_reads)] {
            expect(count == 0.0, format!("{count} {name} reads of objects"));
        }
        broken
    }

    pub fn table(&self) -> String {
        let gib = |bytes: f64| bytes / (1u64 << 30) as f64;
        let mut out = String::new();
        let mut row = |name: &str, text: String| out += &format!("{name:<34} {text}\n");
        let checked = &self.checked;
        let produced = checked.produced_bytes as f64;
        row(
            "produced",
            format!(
                "{:.2} GiB, {} records in {:.0} s, {:.1} MiB/s",
                gib(produced),
                checked.produced_records,
                checked.seconds,
                gib(produced) * 1024.0 / checked.seconds.max(1e-9)
            ),
        );
        for (name, side) in
            [("tail", checked.tail), ("from the start", checked.replays), ("all that is left", checked.last_pass)]
        {
            row(
                &format!("read, {name}"),
                format!(
                    "{:.2} GiB in {} passes: {} wrong, {} missing, {} doubled or out of order{}",
                    gib(side.bytes as f64),
                    side.passes,
                    side.wrong,
                    side.missing,
                    side.doubled,
                    match side.behind_retention {
                        0 => String::new(),
                        count => format!("; {count} gone by retention before it came"),
                    }
                ),
            );
        }
        let Compacted { produced: into, read, keys } = checked.compacted;
        row("compacted topic", format!("{into} records, {keys} keys, {read} records left"));
        row("store stopped, broker killed", format!("{} times, {} times", self.stops, self.kills));
        let restarts: Vec<String> = self.restarts_s.iter().map(|seconds| format!("{seconds:.1}")).collect();
        row("SIGKILL to the first answer, s", restarts.join(" "));
        row(
            "RSS, MiB",
            format!("at rest {:.0}, at most {:.0} of {:.0}", self.rss_rest_mib, self.rss_max_mib, self.rss_limit_mib),
        );
        row("WAL, MiB", format!("at most {:.0} used, {:.0} not trimmed", self.wal_used_max_mib, self.trim_lag_max_mib));
        let thirds = |of| self.objects(|_| true, of).map(|count: f64| format!("{count:.0}")).join(", ");
        row("objects known, by thirds", thirds(|one| one.known));
        row("objects waiting for deletion", thirds(|one| one.waiting));
        row("objects in the store", thirds(|one| one.stored));
        let times = |bytes: f64| bytes / self.appended_bytes.max(1.0);
        row(
            "write amplification, record bytes",
            format!(
                "{:.2}, mark <= 2.0: {}",
                self.amplification(),
                if self.amplification() <= AMPLIFICATION_MAX { "met" } else { "NOT met" }
            ),
        );
        row(
            "  of objects with their indexes",
            format!("{:.3} uploaded + {:.3} compacted", times(self.uploaded_bytes), times(self.compacted_object_bytes)),
        );
        row("  log compaction apart", format!("{:.3}, {} rounds", times(self.cleaner_bytes), self.cleaner_rounds));
        row("puts that were repeated", format!("{}", self.put_failures));
        for (labels, count) in self.calls.iter().filter(|(_, count)| **count > 0.0) {
            let labels = labels.trim_matches(['{', '}']).replace('"', "");
            row("requests per GiB produced", format!("{:>8.1}  {labels}", count / gib(produced).max(1e-9)));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Observed {
        let at = |at_s: f64| Objects { at_s, behind: false, known: 100.0, waiting: 10.0, stored: 100.0 };
        Observed {
            uploaded: true,
            stops: 2,
            kills: 5,
            events_planned: 7,
            rss_max_mib: 90.0,
            rss_limit_mib: 100.0,
            appended_bytes: 1e9,
            compacted_record_bytes: 9e8,
            seconds: 60.0,
            objects: (0..30).map(|n| at(f64::from(n) * 2.0)).collect(),
            checked: Checked { produced_records: 5, ..Checked::default() },
            ..Observed::default()
        }
    }

    #[test]
    fn kept_promises_are_all_there_is() {
        assert_eq!(kept().broken(), Vec::<String>::new());
        assert!(kept().table().contains("1.90, mark <= 2.0: met"), "{}", kept().table());
    }

    #[test]
    fn a_store_that_gets_what_it_missed_is_no_growth() {
        let mut seen = kept();
        seen.objects[10..20].iter_mut().for_each(|one| (one.known, one.stored) = (4.0, 4.0));
        assert_eq!(seen.broken().len(), 1);
        seen.objects[10..20].iter_mut().for_each(|one| one.behind = true);
        assert_eq!(seen.broken(), Vec::<String>::new());
    }

    #[test]
    fn each_broken_promise_is_found() {
        let breaks: [fn(&mut Observed); 9] = [
            |seen| seen.checked.wrong.push("1 records missing, tail".into()),
            |seen| seen.checked.produced_records = 0,
            |seen| seen.kills = 4,
            |seen| seen.uploaded = false,
            |seen| seen.rss_max_mib = 101.0,
            |seen| seen.compacted_record_bytes = 1.1e9,
            |seen| seen.objects[20..].iter_mut().for_each(|one| (one.known, one.stored) = (150.0, 150.0)),
            |seen| seen.objects[20..].iter_mut().for_each(|one| one.stored = 150.0),
            |seen| seen.missing_reads = 1.0,
        ];
        for (number, spoil) in breaks.iter().enumerate() {
            let mut seen = kept();
            spoil(&mut seen);
            assert_eq!(seen.broken().len(), 1, "{number}: {seen:?}");
        }
    }
}
