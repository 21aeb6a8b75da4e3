//! docs/metrics.md names every metric of the broker. `cargo xtask metrics` writes the page, which is
//! this test with `SEAWALL_WRITE_METRICS=1`.
//!
//! Name, type, unit and help come from `/metrics` of a broker that has just served a client. Labels are seen only where there are values: one
//! that had none in this run keeps the labels that the page has.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use common::TestBroker;
use seawall_protocol::messages::{MetadataRequest, MetadataResponse};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");

const HEAD: &str = "# Metrics

Written by `cargo xtask metrics` from what a broker shows at `http://127.0.0.1:9644/metrics`; a test keeps it so. The names are those that
Prometheus stores: counters end in `_total`, histograms have `_bucket`, `_sum` and `_count` behind their name. One without a value is described
there all the same. [Alerts](runbooks/README.md) are made of these; [limits.md](limits.md) tells of `seawall_resource_*`.

";

#[tokio::test]
async fn the_page_of_metrics_has_every_metric_of_a_broker_and_no_other() {
    let broker = TestBroker::start().await;
    let _: MetadataResponse = broker.client().await.call(12, &MetadataRequest::default()).await;
    let (_, text) = broker.admin("/metrics").await;
    broker.stop().await;
    let page = std::fs::read_to_string(PAGE).unwrap_or_default();
    let wanted = HEAD.to_owned() + &table(&metrics_of(&text), &labels_of(&page));
    if std::env::var_os("SEAWALL_WRITE_METRICS").is_some() {
        std::fs::write(Path::new(PAGE), wanted).unwrap();
        return;
    }
    for (line, (has, wants)) in page.lines().zip(wanted.lines()).enumerate() {
        assert_eq!(has, wants, "line {} of docs/metrics.md; `cargo xtask metrics` writes it anew", line + 1);
    }
    assert_eq!(page, wanted, "docs/metrics.md; `cargo xtask metrics` writes it anew");
}

#[test]
fn a_metric_is_read_with_its_type_unit_help_and_labels() {
    let text = "# HELP seawall_a_bytes Bytes of a | b.\n# TYPE seawall_a_bytes counter\n# UNIT seawall_a_bytes bytes\n\
        seawall_a_bytes_total{by=\"x,y\",of=\"z\"} 3\n# HELP seawall_b B.\n# TYPE seawall_b gauge\n";
    let page = table(&metrics_of(text), &BTreeMap::from([("seawall_b".into(), "`kept`".into())]));
    assert!(page.contains("| `seawall_a_bytes_total` | counter | bytes | `by`, `of` | Bytes of a \\| b |\n"), "{page}");
    assert!(page.contains("| `seawall_b` | gauge |  | `kept` | B |\n"), "{page}");
    assert_eq!(labels_of(&page)["seawall_a_bytes_total"], "`by`, `of`");
}

#[derive(Default)]
struct Metric {
    kind: String,
    unit: String,
    help: String,
    labels: BTreeSet<String>,
}

fn metrics_of(text: &str) -> BTreeMap<String, Metric> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what), Some(name), Some(said)) => {
                let metric = metrics.entry(name.to_owned()).or_default();
                match what {
                    "HELP" => metric.help = said.trim_end_matches('.').replace('|', "\\|"),
                    "TYPE" => metric.kind = said.to_owned(),
                    "UNIT" => metric.unit = said.to_owned(),
                    _ => {}
                }
            }
            _ => {
                let Some((sample, labels)) = line.split_once('{') else { continue };
                let labels = labels.rsplit_once('}').map_or("", |(labels, _)| labels);
                // A name stands before `="`; what stands in quotes holds no such thing here.
                let names = labels.split("=\"").filter_map(|part| part.rsplit(['"', ',']).next());
                let names: BTreeSet<String> = names.filter(|name| is_name(name)).map(str::to_owned).collect();
                let metric = metrics.iter_mut().filter(|(name, _)| sample.starts_with(name.as_str()));
                let Some((_, metric)) = metric.max_by_key(|(name, _)| name.len()) else { continue };
                metric.labels.extend(names.into_iter().filter(|name| name != "le"));
            }
        }
    }
    let stored = |(name, metric): (String, Metric)| {
        let name = if metric.kind == "counter" { name + "_total" } else { name };
        (name, metric)
    };
    metrics.into_iter().map(stored).collect()
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

fn table(metrics: &BTreeMap<String, Metric>, known: &BTreeMap<String, String>) -> String {
    let mut page = "| metric | type | unit | labels | what |\n|---|---|---|---|---|\n".to_owned();
    for (name, Metric { kind, unit, help, labels }) in metrics {
        let seen: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if seen.is_empty() { known.get(name).cloned().unwrap_or_default() } else { seen.join(", ") };
        page += &format!("| `{name}` | {kind} | {unit} | {labels} | {help} |\n");
    }
    page
}

/// What the page says of labels.
fn labels_of(page: &str) -> BTreeMap<String, String> {
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.trim_end_matches('`').to_owned();
        Some((name, cells.nth(2)?.to_owned()))
    };
    page.lines().filter_map(row).collect()
}
