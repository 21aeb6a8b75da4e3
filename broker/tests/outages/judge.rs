//! What an outage showed, and whether that is what was promised. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

/// A shown budget may be off by this share of what was measured.
const BUDGET_OFF_MAX: f64 = 0.20;
/// Longest time without any ack while nobody is held back.
const ACK_PAUSE_MAX_S: f64 = 2.0;

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
    /// What the broker showed at the beginning: how long until producers are throttled.
    pub shown_s: f64,
    /// What it showed about half-way, and how long it was then.
    pub half_way: Option<(f64, f64)>,
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
                let near = |shown: f64, measured: f64, slack: f64| {
                    (shown - measured).abs() <= BUDGET_OFF_MAX * measured + slack
                };
                let shown = self.shown_s;
                expect(
                    near(shown, throttled, 0.0),
                    format!("{shown:.1} s were shown until a throttle after {throttled:.1} s"),
                );
                match self.half_way {
                    // What is left is short, and the metric is up to a second old.
                    Some((shown, left)) => {
                        expect(
                            near(shown, left, 0.5),
                            format!("half-way {shown:.1} s were shown, {left:.1} s before the throttle"),
                        );
                    }
                    None => expect(false, "no budget was seen half-way".into()),
                }
            }
            _ => expect(false, "the WAL did not become full".into()),
        }
        expect(self.longest_pause_s <= ACK_PAUSE_MAX_S, format!("no ack for {:.1} s", self.longest_pause_s));
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

    fn kept() -> Observed {
        Observed {
            kind: "test".into(),
            throttled_at_s: Some(10.0),
            refused_at_s: Some(15.0),
            longest_pause_s: 0.1,
            shown_s: 10.9,
            half_way: Some((5.0, 4.5)),
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
        let breaks: [fn(&mut Observed); 21] = [
            |seen| seen.throttled_at_s = None,
            |seen| seen.refused_at_s = None,
            |seen| seen.refused_at_s = Some(9.0),
            |seen| seen.longest_pause_s = 3.0,
            |seen| seen.shown_s = 12.1,
            |seen| seen.shown_s = 7.9,
            |seen| seen.half_way = Some((9.0, 4.5)),
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
}
