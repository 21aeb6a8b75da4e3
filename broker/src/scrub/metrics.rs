//! What scrubs show in metrics. The findings are those of the last one that came to its end, also after a restart.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};
use prometheus_client::registry::Registry;

use super::cursor::Finished;
use super::judge::Kind;
use crate::metrics::Part;

#[derive(Debug, Clone)]
pub struct ScrubMetrics {
    pub(super) objects: Counter,
    pub(super) read_bytes: Counter,
    findings: Family<KindLabel, Gauge>,
    last_finished: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

impl ScrubMetrics {
    pub fn register(registry: &mut Registry) -> ScrubMetrics {
        let mut part = Part::new(registry, "scrub");
        ScrubMetrics {
            objects: part.metric("objects", "Objects that scrubs have looked at"),
            read_bytes: part.bytes("read", "Bytes of objects that scrubs have read"),
            findings: part.metric("findings", "What the last finished scrub has found, by kind"),
            last_finished: part.seconds("last_finished_timestamp", "When a scrub last came to its end; 0 if none did"),
        }
    }

    pub(super) fn show(&self, finished: &Finished) {
        for kind in Kind::ALL {
            let found = finished.totals.of(kind);
            self.findings.get_or_create(&KindLabel { kind: kind.name() }).set(i64::try_from(found).unwrap_or(i64::MAX));
        }
        self.last_finished.set(finished.at_ms / 1_000);
    }
}
