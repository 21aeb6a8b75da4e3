//! Tables of the race: medians, ratios of runs that stood side by side, and the noise of the control.

use super::contest::{CONTENDERS, Contender, Round};
use super::load::Measured;
use super::machine::median;
use super::parts::Case;

/// Below this much idle CPU a latency is that of a queue before the CPU.
const IDLE_MIN: f64 = 0.2;

struct Metric {
    name: &'static str,
    value: fn(&Measured) -> f64,
    decimals: usize,
}

const COST: [Metric; 4] = [
    Metric { name: "produced MiB/s", value: |run| run.report.produced.mib_per_s, decimals: 1 },
    Metric { name: "consumed MiB/s", value: |run| run.report.consumed.mib_per_s, decimals: 1 },
    Metric { name: "broker CPU s per GiB", value: Measured::cpu_per_gib, decimals: 2 },
    Metric { name: PER_CPU, value: Measured::mib_per_cpu_second, decimals: 1 },
];

const PER_CPU: &str = "MiB per broker CPU s";
const PRODUCE_P99: &str = "produce p99 ms";

const LATENCY: [Metric; 8] = [
    Metric { name: "produce p50 ms", value: |run| run.report.produce_ms.p50, decimals: 2 },
    Metric { name: PRODUCE_P99, value: |run| run.report.produce_ms.p99, decimals: 2 },
    Metric { name: "produce p99.9 ms", value: |run| run.report.produce_ms.p999, decimals: 2 },
    Metric { name: "produce max ms", value: |run| run.report.produce_ms.max, decimals: 1 },
    Metric { name: "end to end p50 ms", value: |run| run.report.end_to_end_ms.p50, decimals: 2 },
    Metric { name: "end to end p99 ms", value: |run| run.report.end_to_end_ms.p99, decimals: 2 },
    Metric { name: "end to end p99.9 ms", value: |run| run.report.end_to_end_ms.p999, decimals: 2 },
    Metric { name: "end to end max ms", value: |run| run.report.end_to_end_ms.max, decimals: 1 },
];

const CONDITIONS: [Metric; 3] = [
    Metric { name: "idle CPU %", value: |run| run.idle_share * 100.0, decimals: 0 },
    Metric { name: "generator CPU s", value: |run| run.generator_cpu, decimals: 1 },
    Metric { name: "sender late p99 ms", value: |run| run.report.sender_late_ms.p99, decimals: 2 },
];

/// The ratio that a mark is about.
pub struct Mark {
    metric: &'static str,
    against: Contender,
    text: &'static str,
    met: fn(f64) -> bool,
}

pub const THROUGHPUT_MARK: Mark = Mark {
    metric: PER_CPU,
    against: Contender::KafkaAsShipped,
    text: "throughput per broker CPU second >= 1.5x Kafka as shipped",
    met: |ratio| ratio >= 1.5,
};

pub const LATENCY_MARK: Mark = Mark {
    metric: PRODUCE_P99,
    against: Contender::KafkaDurable,
    text: "durable produce p99 <= 0.6x Kafka with flush.messages=1",
    met: |ratio| ratio <= 0.6,
};

/// A case as printed: medians of each contender, ratios, control, marks.
pub fn of(case: &Case, rounds: &[Round]) -> String {
    let mut out = format!("\n{}: {}\n", case.name, case.load.describe());
    out += &format!(
        "{:<22}{:>12}{:>18}{:>15}{:>12}{:>12}   {}\n",
        "", "Seawall", "Kafka as shipped", "Kafka flush=1", "to shipped", "to flush=1", "control: again to first"
    );
    let mut metrics: Vec<&Metric> = COST.iter().collect();
    if case.latency {
        metrics.extend(LATENCY.iter());
    }
    metrics.extend(CONDITIONS.iter().filter(|metric| case.latency || metric.name != "sender late p99 ms"));
    for metric in metrics {
        let cell = |contender: Contender, width: usize| {
            let value = median(values(rounds, contender, metric));
            format!("{:>width$}", if value.is_nan() { "-".to_owned() } else { format!("{value:.*}", metric.decimals) })
        };
        let ratio = |against: Contender| match ratio(rounds, metric, Contender::Seawall, against) {
            Some(ratio) => format!("{ratio:.2}x"),
            None => "-".to_owned(),
        };
        let is_condition = CONDITIONS.iter().any(|condition| condition.name == metric.name);
        let (to_shipped, to_durable, control) = if is_condition {
            (String::new(), String::new(), String::new())
        } else {
            (ratio(Contender::KafkaAsShipped), ratio(Contender::KafkaDurable), control(rounds, metric))
        };
        let line = format!(
            "{:<22}{}{}{}{to_shipped:>12}{to_durable:>12}   {control}",
            metric.name,
            cell(Contender::Seawall, 12),
            cell(Contender::KafkaAsShipped, 18),
            cell(Contender::KafkaDurable, 15),
        );
        out += line.trim_end();
        out.push('\n');
    }
    out += &remarks(case, rounds);
    out += &marks(case, rounds);
    out
}

fn remarks(case: &Case, rounds: &[Round]) -> String {
    let mut out = String::new();
    for contender in CONTENDERS {
        let runs: Vec<&Measured> = runs(rounds, contender).collect();
        let busy = runs.iter().filter(|run| run.idle_share < IDLE_MIN).count();
        if case.latency && busy > 0 {
            out += &format!(
                "  INVALID: {} had less than {:.0} % idle CPU in {busy} of {} runs\n",
                contender.name(),
                IDLE_MIN * 100.0,
                runs.len()
            );
        }
        let (failed, errors) =
            runs.iter().fold((0, 0), |(failed, errors), run| (failed + run.report.failed, errors + run.report.errors));
        if failed + errors > 0 {
            out += &format!("  {}: {failed} records were given up, {errors} errors\n", contender.name());
        }
        if case.load.connections > 2 && !runs.is_empty() {
            let jain = median(runs.iter().map(|run| run.report.fairness.jain));
            out += &format!("  {}: Jain index of acked records per connection {jain:.3}\n", contender.name());
        }
    }
    out
}

fn marks(case: &Case, rounds: &[Round]) -> String {
    let mark = if case.latency { &LATENCY_MARK } else { &THROUGHPUT_MARK };
    if !case.control {
        return String::new();
    }
    let Some(metric) = COST.iter().chain(&LATENCY).find(|metric| metric.name == mark.metric) else {
        return String::new();
    };
    match ratio(rounds, metric, Contender::Seawall, mark.against) {
        Some(ratio) => verdict(mark.text, ratio, (mark.met)(ratio)),
        None => format!("  mark: {}: not measured\n", mark.text),
    }
}

pub fn verdict(text: &str, ratio: f64, met: bool) -> String {
    format!("  mark: {text}: {ratio:.2}x, {}\n", if met { "met" } else { "NOT met" })
}

fn runs(rounds: &[Round], contender: Contender) -> impl Iterator<Item = &Measured> {
    let at = CONTENDERS.iter().position(|other| *other == contender);
    rounds.iter().filter_map(move |round| round[at?].as_ref())
}

fn values(rounds: &[Round], contender: Contender, metric: &Metric) -> Vec<f64> {
    runs(rounds, contender).map(metric.value).collect()
}

/// The ratios of one contender to another, each within its round.
fn ratios(rounds: &[Round], metric: &Metric, of: Contender, to: Contender) -> Vec<f64> {
    rounds
        .iter()
        .filter_map(|round| {
            let one = std::slice::from_ref(round);
            let (of, to) = (runs(one, of).next()?, runs(one, to).next()?);
            let ratio = (metric.value)(of) / (metric.value)(to);
            ratio.is_finite().then_some(ratio)
        })
        .collect()
}

fn ratio(rounds: &[Round], metric: &Metric, of: Contender, to: Contender) -> Option<f64> {
    let ratio = median(ratios(rounds, metric, of, to));
    (!ratio.is_nan()).then_some(ratio)
}

/// What the same broker shows against itself: a difference inside this range is no difference.
fn control(rounds: &[Round], metric: &Metric) -> String {
    let ratios = ratios(rounds, metric, Contender::SeawallAgain, Contender::Seawall);
    if ratios.is_empty() {
        return String::new();
    }
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    format!("{:.2}x ({least:.2}-{most:.2})", median(ratios))
}

/// Records per second of the slower of the two that are durable.
pub fn durable_rate(rounds: &[Round]) -> Option<f64> {
    let rate = |contender| median(runs(rounds, contender).map(|run| run.report.produced.records_per_s));
    let rate = rate(Contender::Seawall).min(rate(Contender::KafkaDurable));
    (rate.is_finite() && rate > 0.0).then_some(rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::load::{Load, Report, Side};
    use crate::bench::parts::Part;

    fn run(mib_per_s: f64, broker_cpu: f64, idle_share: f64) -> Option<Measured> {
        let bytes = 1 << 30;
        let side = Side { bytes, records_per_s: mib_per_s * 1024.0, mib_per_s };
        let report = Report { produced: side, consumed: side, ..Report::default() };
        Some(Measured { report, broker_cpu, idle_share, ..Measured::default() })
    }

    fn rounds() -> Vec<Round> {
        vec![
            [run(100.0, 1.0, 0.5), run(50.0, 2.0, 0.5), run(20.0, 4.0, 0.1), run(110.0, 1.0, 0.5)],
            [run(80.0, 1.0, 0.5), None, run(20.0, 3.0, 0.5), run(80.0, 1.1, 0.5)],
        ]
    }

    #[test]
    fn ratios_are_taken_within_rounds_and_the_control_shows_its_range() {
        let case = &Part::Max.cases(0.0)[0];
        let text = of(case, &rounds());
        let line = text.lines().find(|line| line.starts_with("produced MiB/s")).unwrap();
        assert!(line.contains("2.00x") && line.contains("4.50x") && line.contains("(1.00-1.10)"), "{line}");
        assert!(text.contains("mark: throughput per broker CPU second >= 1.5x Kafka as shipped: 2.00x, met"), "{text}");
        assert_eq!(durable_rate(&rounds()), Some(20.0 * 1024.0));
    }

    #[test]
    fn a_latency_without_idle_cpu_is_called_invalid() {
        let cases = Part::Latency.cases(1000.0);
        assert_eq!((cases[0].load.rate, cases[1].load.rate), (250, 500));
        let text = of(&cases[0], &rounds());
        assert!(text.contains("INVALID: Kafka flush=1 had less than 20 % idle CPU in 1 of 2 runs"), "{text}");
    }

    #[test]
    fn what_did_not_run_is_a_dash() {
        let case = Case { name: "x".into(), load: Load::MAX, control: true, latency: true };
        let text = of(&case, &[Round::default()]);
        assert!(text.contains("not measured") && !text.contains("NaN"), "{text}");
    }
}
