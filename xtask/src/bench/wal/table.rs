//! The table: medians, ratios within rounds, the control's range, and the marks.

use super::{Cell, Round, fio, ours};
use crate::bench::machine::median;

/// Bandwidth and writes per second, at least.
const RATE_MARK: f64 = 0.95;
/// p99 of a device write, at most.
const P99_MARK: f64 = 1.2;
/// CPU microseconds for each append of 1 KiB with 64 appenders, at most.
const CPU_MARK_US: f64 = 3.0;
/// Of larger ones, times one copy and one CRC.
const CPU_MARK_COPIES: f64 = 1.2;

pub fn mode(rounds: &[Round]) -> String {
    let Some(first) = rounds.first() else { return String::new() };
    let fio = match first.fio.shape.sync {
        fio::Sync::Dsync => "sync=dsync",
        fio::Sync::Fdatasync => {
            "fdatasync=1, a depth as so many jobs, so that each fdatasync waits for its write as ours does; its p99 is that \
             of the write plus that of the fdatasync"
        }
    };
    format!("ours: {}\nfio: {fio}", first.ours.durability)
}

pub fn head() -> String {
    format!(
        "{:<18}{:>10}{:>8}{:>6} |{:>8}{:>8}{:>7} {:<12}|{:>7} {:<12}|{:>7}{:>7}{:>7} {:<12}|{:>9}{:>8}{:>9}{:>9}{:>8}",
        "record x appenders",
        "appends/s",
        "block",
        "depth",
        "MiB/s",
        "fio",
        "ratio",
        "[control]",
        "writes",
        "[control]",
        "p99 us",
        "fio",
        "ratio",
        "[control]",
        "append99",
        "CPU us",
        "machine",
        "copy+crc",
        "allocs"
    )
}

pub fn row(cell: Cell, rounds: &[Round]) -> String {
    let ours = |value: fn(&ours::Measured) -> f64| median(rounds.iter().map(|round| value(&round.ours)));
    let fio = |value: fn(&fio::Measured) -> f64| median(rounds.iter().map(|round| value(&round.fio)));
    let [rate, writes, p99] = COMPARED.map(|compared| Ratio::of(&compared, rounds));
    let shape = rounds.first().map(|round| round.fio.shape);
    format!(
        "{:<18}{:>10.0}{:>7}K{:>6} |{:>8.1}{:>8.1}{rate}|{writes}|{:>7.0}{:>7.0}{p99}|{:>9.0}{:>8.2}{:>9.2}{:>9.2}{:>8.3}",
        cell.to_string(),
        ours(|m| m.appends as f64 / m.seconds),
        shape.map_or(0, |shape| shape.block_bytes >> 10),
        shape.map_or(0, |shape| shape.depth),
        ours(ours::Measured::mib_per_s),
        fio(|m| m.mib_per_s),
        ours(|m| m.device_p99_us as f64),
        fio(|m| m.p99_us),
        ours(|m| m.p99_us as f64),
        ours(|m| m.cpu_us_per_append),
        ours(|m| m.busy_us_per_append),
        ours(|m| m.copy_crc_us),
        ours(|m| m.allocations_per_append),
    )
}

struct Compared {
    ours: fn(&ours::Measured) -> f64,
    fio: fn(&fio::Measured) -> f64,
}

const COMPARED: [Compared; 3] = [
    Compared { ours: ours::Measured::mib_per_s, fio: |m| m.mib_per_s },
    Compared { ours: ours::Measured::writes_per_s, fio: |m| m.writes_per_s },
    Compared { ours: |m| m.device_p99_us as f64, fio: |m| m.p99_us },
];

/// Ours to fio, and fio's second run to its first.
#[derive(Debug, Clone, Copy)]
struct Ratio {
    median: f64,
    control_least: f64,
    control_most: f64,
}

impl Ratio {
    fn of(compared: &Compared, rounds: &[Round]) -> Self {
        let control = rounds.iter().map(|round| (compared.fio)(&round.again) / (compared.fio)(&round.fio));
        Self {
            median: median(rounds.iter().map(|round| (compared.ours)(&round.ours) / (compared.fio)(&round.fio))),
            control_least: control.clone().fold(f64::INFINITY, f64::min),
            control_most: control.fold(0.0, f64::max),
        }
    }

    /// A miss that the control shows as well is none.
    fn at_least(self, mark: f64) -> bool {
        self.median >= mark.min(self.control_least)
    }

    fn at_most(self, mark: f64) -> bool {
        self.median <= mark.max(self.control_most)
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let control = format!("[{:.2}-{:.2}]", self.control_least, self.control_most);
        write!(f, "{:>6.2}x {control:<12}", self.median)
    }
}

/// Which marks the cells met.
#[derive(Default)]
pub struct Marks {
    cells: usize,
    rate_missed: Vec<String>,
    p99_missed: Vec<String>,
    cpu: Vec<String>,
    cpu_missed: usize,
    allocations_most: f64,
    rss_most: u64,
}

impl Marks {
    pub fn add(&mut self, cell: Cell, rounds: &[Round]) {
        let [rate, writes, p99] = COMPARED.map(|compared| Ratio::of(&compared, rounds));
        let name = format!("{} KiB x {}", cell.bytes >> 10, cell.appenders);
        self.cells += 1;
        if !rate.at_least(RATE_MARK) || !writes.at_least(RATE_MARK) {
            self.rate_missed.push(format!("{name} {:.2}x", rate.median.min(writes.median)));
        }
        if !p99.at_most(P99_MARK) {
            self.p99_missed.push(format!("{name} {:.2}x", p99.median));
        }
        if cell.appenders == 64 {
            let cpu = median(rounds.iter().map(|round| round.ours.cpu_us_per_append));
            let copies = median(rounds.iter().map(|round| round.ours.cpu_us_per_append / round.ours.copy_crc_us));
            let small = cell.bytes <= 1 << 10;
            self.cpu.push(if small { format!("{name} {cpu:.2} us") } else { format!("{name} {copies:.2}x") });
            let met = if small { cpu <= CPU_MARK_US } else { copies <= CPU_MARK_COPIES };
            self.cpu_missed += usize::from(!met);
        }
        for round in rounds {
            self.allocations_most = self.allocations_most.max(round.ours.allocations_per_append);
            self.rss_most = self.rss_most.max(round.ours.rss_bytes);
        }
    }

    pub fn text(&self) -> String {
        let met = |missed: &[String]| match missed {
            [] => "met in all cells".to_owned(),
            missed => format!("met in {} of {}, NOT in {}", self.cells - missed.len(), self.cells, missed.join(", ")),
        };
        let mut text = String::new();
        text += &format!("  mark: bandwidth and writes/s >= {RATE_MARK}x fio: {}\n", met(&self.rate_missed));
        text += &format!("  mark: p99 of a device write <= {P99_MARK}x fio: {}\n", met(&self.p99_missed));
        text += &format!(
            "  mark: CPU of an append, 64 appenders, <= {CPU_MARK_US} us at 1 KiB, <= {CPU_MARK_COPIES}x copy+crc above: {}, {}\n",
            self.cpu.join(", "),
            if self.cpu_missed == 0 { "met" } else { "NOT met" }
        );
        text += &format!(
            "  allocations per append at most {:.4}; RSS at most {} MiB, of which 64 are the source of the records\n",
            self.allocations_most,
            self.rss_most >> 20
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miss_inside_the_controls_range_is_none() {
        let ratio = |median| Ratio { median, control_least: 0.8, control_most: 1.3 };
        assert!(ratio(0.81).at_least(RATE_MARK) && !ratio(0.79).at_least(RATE_MARK));
        assert!(ratio(1.29).at_most(P99_MARK) && !ratio(1.31).at_most(P99_MARK));
        let calm = Ratio { median: 0.96, control_least: 0.99, control_most: 1.01 };
        assert!(calm.at_least(RATE_MARK) && calm.at_most(P99_MARK));
    }
}
