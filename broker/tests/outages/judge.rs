//! What an outage showed, and whether that is what was promised. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

/// A shown budget may be off by this share of what was measured.
const BUDGET_OFF_MAX: f64 = 0.20;
/// Half-way what is left is short, and the metric is up to a second old.
const HALF_WAY_OFF_S: f64 = 0.5;
/// A rate is taken over this time at least: in a second the broker's own comes half-way to a higher one.
const PACE_S: f64 = 2.0;
/// Longest time without any ack while nobody is held back, beyond what a bare flush beside it took.
const ACK_PAUSE_MAX_S: f64 = 2.0;

/// A budget that was shown, and what came then.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Rest {
    /// Until producers are throttled, as the broker said.
    pub shown_s: f64,
    /// What it was.
    pub lasted_s: f64,
    /// What was appended in that time.
    pub bytes: f64,
    /// Bytes a second before it was shown, at the slowest and at the fastest.
    pub pace: (f64, f64),
}

impl Rest {
    /// It lasted as long as was shown, or what was appended takes so long at the pace that the broker had seen. Producers who keep their
    /// rate have one pace, and then both are the same; those of a machine that stands still now and then are not foreseen by anybody.
    fn is_near(&self, slack_s: f64) -> bool {
        let (slowest, fastest) = self.pace;
        let least = self.lasted_s.min(self.bytes / fastest) * (1.0 - BUDGET_OFF_MAX) - slack_s;
        let most = self.lasted_s.max(self.bytes / slowest) * (1.0 + BUDGET_OFF_MAX) + slack_s;
        (least..=most).contains(&self.shown_s)
    }
}

/// The slowest and the fastest of what grew, by time in seconds and bytes then; `None` if it was watched for too short a time.
pub fn pace(grew: &[(f64, f64)]) -> Option<(f64, f64)> {
    let rates = grew.iter().enumerate().filter_map(|(nth, (from_s, from))| {
        let (to_s, to) = grew[nth..].iter().find(|(at_s, _)| at_s - from_s >= PACE_S)?;
        Some((to - from) / (to_s - from_s))
    });
    rates.fold(None, |pace, rate| match pace {
        None => Some((rate, rate)),
        Some((slowest, fastest)) => Some((rate.min(slowest), rate.max(fastest))),
    })
}

/// Seconds count from the beginning of the outage where nothing else is said.
#[derive(Debug, Clone, Serialize)]
pub struct Observed {
    pub kind: String,
    /// When the first producer was throttled.
    pub throttled_at_s: Option<f64>,
    /// When the first producer was refused: so long acks went on.
    pub refused_at_s: Option<f64>,
    /// The longest time without an ack before anybody was throttled.
    pub longest_pause_s: f64,
    /// In that time the longest one of a few bytes that were written to the same disk and flushed, by nobody but themselves.
    pub disk_pause_s: f64,
    /// What the broker showed at the beginning: how long until producers are throttled.
    pub shown_s: f64,
    /// The same, and what came then.
    pub at_first: Option<Rest>,
    pub half_way: Option<Rest>,
    /// What it showed at the beginning: bytes that producers may append.
    pub shown_bytes: u64,
    /// What was appended until the first refusal.
    pub appended_bytes: u64,
    /// Error codes that producers got, with their counts.
    pub refused: BTreeMap<String, u64>,
    /// Those of them after which a client does not try again.
    pub final_errors: Vec<String>,
    /// How long the store was away.
    pub away_s: f64,
    /// From its return to the first ack.
    pub ack_again_s: Option<f64>,
    /// From its return until nothing that was acked lay only in the WAL.
    pub uploaded_s: Option<f64>,
    pub rss_rest: u64,
    pub rss_max: u64,
    pub rss_limit: u64,
    /// In the store when all was uploaded, and some seconds later.
    pub objects: u64,
    pub objects_later: u64,
    /// That metadata knows of.
    pub objects_committed: u64,
    /// Bytes read from the store when all was read back by a broker that had just started.
    pub read_from_store_bytes: u64,
    pub records_acked: u64,
    pub record_bytes: u64,
    pub lost: usize,
    pub doubled: usize,
    pub reordered: usize,
    /// Everything else that the ledger's check found.
    pub otherwise_wrong: usize,
}

impl Observed {
    /// What of the promises was broken.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut expect = |kept: bool, text: String| {
            if !kept {
                broken.push(text);
            }
        };
        match (self.throttled_at_s, self.refused_at_s) {
            (Some(throttled), Some(refused)) => {
                expect(throttled < refused, "producers were refused before they were throttled".into());
                for (when, rest, slack_s) in
                    [("at first", self.at_first, 0.0), ("half-way", self.half_way, HALF_WAY_OFF_S)]
                {
                    expect(rest.is_some_and(|rest| rest.is_near(slack_s)), format!("shown {when}: {rest:?}"));
                }
            }
            _ => expect(false, "the WAL did not become full".into()),
        }
        expect(
            self.longest_pause_s <= ACK_PAUSE_MAX_S + self.disk_pause_s,
            format!("no ack for {:.1} s, the disk was away for {:.1} s", self.longest_pause_s, self.disk_pause_s),
        );
        let (shown, appended) = (self.shown_bytes as f64, self.appended_bytes as f64);
        expect(
            (shown - appended).abs() <= BUDGET_OFF_MAX * appended,
            format!("{shown} bytes were shown, {appended} were taken"),
        );
        expect(!self.refused.is_empty(), "no producer got an error".into());
        expect(self.final_errors.is_empty(), format!("not retriable: {:?}", self.final_errors));
        expect(self.ack_again_s.is_some(), "no ack after the store came back".into());
        expect(self.uploaded_s.is_some(), "not everything was uploaded".into());
        expect(
            self.rss_max <= self.rss_limit,
            format!("{} MiB of memory, {} are the limit", self.rss_max >> 20, self.rss_limit >> 20),
        );
        expect(
            self.objects == self.objects_committed,
            format!("{} objects are stored, {} are known to metadata", self.objects, self.objects_committed),
        );
        expect(
            self.objects == self.objects_later,
            format!("{} objects became {} while nothing was produced", self.objects, self.objects_later),
        );
        expect(
            self.read_from_store_bytes >= self.record_bytes,
            format!("{} bytes were read from the store, {} were acked", self.read_from_store_bytes, self.record_bytes),
        );
        expect(self.records_acked > 0, "nothing was acked".into());
        let wrong = [self.lost, self.doubled, self.reordered, self.otherwise_wrong];
        expect(wrong == [0; 4], format!("lost, doubled, reordered, otherwise wrong: {wrong:?}"));
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By producers who keep their rate.
    fn rest(shown_s: f64, lasted_s: f64) -> Rest {
        Rest { shown_s, lasted_s, bytes: 100.0 * lasted_s, pace: (100.0, 100.0) }
    }

    fn kept() -> Observed {
        Observed {
            kind: "test".into(),
            throttled_at_s: Some(10.0),
            refused_at_s: Some(15.0),
            longest_pause_s: 0.1,
            disk_pause_s: 0.1,
            shown_s: 10.9,
            at_first: Some(rest(10.9, 10.0)),
            half_way: Some(rest(5.0, 4.5)),
            shown_bytes: 1_000,
            appended_bytes: 1_100,
            refused: BTreeMap::from([("KAFKA_STORAGE_ERROR".into(), 7)]),
            final_errors: vec![],
            away_s: 20.0,
            ack_again_s: Some(1.0),
            uploaded_s: Some(8.0),
            rss_rest: 20,
            rss_max: 90,
            rss_limit: 100,
            objects: 12,
            objects_later: 12,
            objects_committed: 12,
            read_from_store_bytes: 5_000,
            records_acked: 50,
            record_bytes: 4_000,
            lost: 0,
            doubled: 0,
            reordered: 0,
            otherwise_wrong: 0,
        }
    }

    #[test]
    fn kept_promises_are_all_there_is() {
        assert_eq!(kept().broken(), Vec::<String>::new());
    }

    #[test]
    fn each_broken_promise_is_found() {
        let breaks: [fn(&mut Observed); 22] = [
            |seen| seen.throttled_at_s = None,
            |seen| seen.refused_at_s = None,
            |seen| seen.refused_at_s = Some(9.0),
            |seen| seen.longest_pause_s = 3.0,
            |seen| seen.at_first = Some(rest(12.1, 10.0)),
            |seen| seen.at_first = Some(rest(7.9, 10.0)),
            |seen| seen.at_first = None,
            |seen| seen.half_way = Some(rest(9.0, 4.5)),
            |seen| seen.half_way = None,
            |seen| seen.shown_bytes = 1_400,
            |seen| seen.refused.clear(),
            |seen| seen.final_errors.push("INVALID_RECORD".into()),
            |seen| seen.ack_again_s = None,
            |seen| seen.uploaded_s = None,
            |seen| seen.rss_max = 101,
            |seen| seen.objects = 13,
            |seen| seen.objects_later = 13,
            |seen| seen.read_from_store_bytes = 3_999,
            |seen| seen.lost = 1,
            |seen| seen.doubled = 1,
            |seen| seen.reordered = 1,
            |seen| seen.otherwise_wrong = 1,
        ];
        for (number, spoil) in breaks.iter().enumerate() {
            let mut seen = kept();
            spoil(&mut seen);
            assert!(!seen.broken().is_empty(), "{number}: {seen:?}");
        }
    }

    #[test]
    fn a_budget_is_held_against_the_pace_that_was_seen() {
        let second = |at: u32| (f64::from(at), 100.0 * f64::from(at));
        let steady: Vec<_> = (0..8).map(second).collect();
        assert_eq!(pace(&steady), Some((100.0, 100.0)));
        assert_eq!(pace(&steady[..2]), None);
        // For two seconds nothing came, and all of it in the third.
        let stalled = [steady[0], (1.0, 0.0), (2.0, 0.0), steady[3], steady[4], steady[5]];
        assert_eq!(pace(&stalled), Some((0.0, 200.0)));
        let unsteady = Rest { pace: (50.0, 100.0), ..rest(20.0, 10.0) };
        assert!(unsteady.is_near(0.0) && !Rest { shown_s: 25.0, ..unsteady }.is_near(0.0));
        assert!(!Rest { shown_s: 7.9, ..unsteady }.is_near(0.0) && !rest(20.0, 10.0).is_near(0.0));
        let faster_than_seen = Rest { pace: (20.0, 40.0), ..rest(10.0, 10.0) };
        assert!(faster_than_seen.is_near(0.0) && !Rest { shown_s: 7.9, ..faster_than_seen }.is_near(0.0));
    }

    #[test]
    fn a_disk_that_was_away_is_not_the_brokers_doing() {
        let away = Observed { longest_pause_s: 4.0, disk_pause_s: 2.5, ..kept() };
        assert_eq!(away.broken(), Vec::<String>::new());
        assert!(!Observed { disk_pause_s: 1.5, ..away }.broken().is_empty());
    }
}
