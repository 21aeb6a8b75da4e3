//! The table of outages, for the terminal and for docs/backends/outages.md.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What the broker's test says of an outage; its `judge.rs` explains each figure and judges them.
#[derive(Debug, Clone, Deserialize)]
pub struct Observed {
    throttled_at_s: Option<f64>,
    refused_at_s: Option<f64>,
    shown_s: f64,
    shown_bytes: u64,
    appended_bytes: u64,
    refused: BTreeMap<String, u64>,
    away_s: f64,
    ack_again_s: Option<f64>,
    uploaded_s: Option<f64>,
    rss_max: u64,
    rss_limit: u64,
    objects: u64,
    objects_committed: u64,
    records_acked: u64,
    lost: usize,
    doubled: usize,
    reordered: usize,
    otherwise_wrong: usize,
}

/// One outage of one store.
#[derive(Clone)]
pub struct Row {
    pub store: &'static str,
    pub version: String,
    pub name: &'static str,
    /// Every promise.
    pub kept: bool,
    pub observed: Observed,
}

const HEAD: [&str; 12] = [
    "store",
    "outage",
    "away s",
    "until throttled s: shown, measured",
    "bytes left MiB: shown, taken",
    "acks went on s",
    "throttled s",
    "errors",
    "back: first ack, all uploaded s",
    "objects stored, known",
    "acked; lost, doubled, reordered, other",
    "RSS MiB: most, limit",
];

impl Row {
    pub fn verdict(&self) -> &'static str {
        if self.kept { "ok" } else { "FAILED" }
    }

    fn cells(&self) -> [String; 12] {
        let seen = &self.observed;
        let seconds = |value: Option<f64>| value.map_or("never".to_owned(), |value| format!("{value:.1}"));
        let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        let throttled_s = seen.throttled_at_s.zip(seen.refused_at_s).map(|(throttled, refused)| refused - throttled);
        let off =
            seen.throttled_at_s.map_or(String::new(), |at| format!(" ({:+.0} %)", (seen.shown_s / at - 1.0) * 100.0));
        let errors: Vec<String> = seen.refused.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let wrong = [seen.lost, seen.doubled, seen.reordered, seen.otherwise_wrong];
        [
            format!("{} {}", self.store, self.version),
            self.name.to_owned() + if self.kept { "" } else { " (FAILED)" },
            format!("{:.0}", seen.away_s),
            format!("{:.1}, {}{off}", seen.shown_s, seconds(seen.throttled_at_s)),
            format!("{}, {}", mib(seen.shown_bytes), mib(seen.appended_bytes)),
            seconds(seen.refused_at_s),
            seconds(throttled_s),
            errors.join(", "),
            format!("{}, {}", seconds(seen.ack_again_s), seconds(seen.uploaded_s)),
            format!("{}, {}", seen.objects, seen.objects_committed),
            format!("{}; {}, {}, {}, {}", seen.records_acked, wrong[0], wrong[1], wrong[2], wrong[3]),
            format!("{}, {}", seen.rss_max >> 20, seen.rss_limit >> 20),
        ]
    }
}

pub fn render(rows: &[Row]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(&HEAD.map(str::to_owned));
    text += &line(&HEAD.map(|_| "---".to_owned()));
    text.extend(rows.iter().map(|row| line(&row.cells())));
    text
}

/// The page with these rows, and with the others that stood on it.
pub fn page(rows: &[Row], before: &str) -> String {
    let is_run = |line: &str| {
        rows.iter().any(|row| line.starts_with(&format!("| {} {} | {} ", row.store, row.version, row.name)))
    };
    let table = render(rows);
    let is_head = |line: &str| table.lines().take(2).any(|head| head == line);
    let is_row = |line: &str| line.matches(" | ").count() == HEAD.len() - 1 && !is_head(line);
    let kept = before.lines().filter(|line| is_row(line) && !is_run(line)).map(|line| format!("{line}\n"));
    let mut lines: Vec<String> = table.lines().skip(2).map(|line| format!("{line}\n")).chain(kept).collect();
    lines.sort();
    let head: String = table.lines().take(2).map(|line| format!("{line}\n")).collect();
    format!("{}\n{head}{}", include_str!("page.md"), lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_a_cell_for_each_column_and_says_that_it_failed() {
        let report = r#"{"kind":"x","throttled_at_s":10.0,"refused_at_s":12.5,"longest_pause_s":0.1,"disk_pause_s":0.1,"shown_s":9.0,
            "at_first":null,"half_way":null,
            "shown_bytes":1048576,"appended_bytes":2097152,"refused":{"KAFKA_STORAGE_ERROR":3},"final_errors":[],"away_s":20.0,
            "ack_again_s":null,"uploaded_s":4.0,"rss_rest":1,"rss_max":52428800,"rss_limit":104857600,"objects":5,"objects_later":5,
            "objects_committed":5,"read_from_store_bytes":9,"records_acked":7,"record_bytes":8,"lost":1,"doubled":0,"reordered":0,
            "otherwise_wrong":0}"#;
        let observed = serde_json::from_str(report).unwrap();
        let row = Row { store: "minio", version: "v1".into(), name: "SIGKILL", kept: false, observed };
        let text = render(std::slice::from_ref(&row));
        let last = text.lines().last().unwrap();
        assert_eq!(
            last,
            "| minio v1 | SIGKILL (FAILED) | 20 | 9.0, 10.0 (-10 %) | 1.0, 2.0 | 12.5 | 2.5 | 3 KAFKA_STORAGE_ERROR | never, 4.0 | \
             5, 5 | 7; 1, 0, 0, 0 | 50, 100 |"
        );
        assert!(text.lines().all(|line| line.matches(" | ").count() == HEAD.len() - 1), "{text}");

        let first = page(std::slice::from_ref(&row), "");
        let other = Row { store: "ceph-rgw", name: "refused", kept: true, ..row.clone() };
        let both = page(std::slice::from_ref(&other), &first);
        assert_eq!(both, page(&[Row { version: "v1".into(), ..row }], &page(&[other], &first)), "rows are replaced");
        let order = both.find("ceph-rgw v1 | refused").zip(both.find("minio v1 | SIGKILL"));
        assert!(order.is_some_and(|(rgw, minio)| rgw < minio), "{both}");
    }
}
