//! Lines of the table, and what they say about the marks.

use super::Round;
use super::client::{Cell, Contender, Measured};
use crate::bench::machine::median;

/// More CPU than the cheaper of the two peers.
const PEER_MAX: f64 = 1.1;
/// More CPU with our layers than without.
const LAYERS_MAX: f64 = 1.05;

pub fn head() -> String {
    let names = format!("{:>8}{:>8}{:>8}{:>8}", "ours", "layered", "aws", "opendal");
    format!(
        "{:<24}{:<32}  {:>10}{:>8} {:<13}{:<32}\n{:<24}{names}  {:>10}{:>8} {:<13}{names}",
        "", "CPU s/GiB", "to cheaper", "layers", "", "  MiB/s", "", "", "", "[control]"
    )
}

pub fn row(cell: &Cell, rounds: &[Round]) -> String {
    let mut text = format!("{cell:<24}");
    for contender in Contender::ALL.into_iter().take(4) {
        text +=
            &of(rounds, contender, Measured::cpu_per_gib).map_or(format!("{:>8}", "-"), |cpu| format!("{cpu:>8.3}"));
    }
    let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}x"));
    let control = ratios(rounds, Contender::SeawallAgain, Contender::Seawall);
    let least = control.iter().copied().fold(f64::INFINITY, f64::min);
    let most = control.iter().copied().fold(0.0, f64::max);
    text += &format!(
        "  {:>10}{:>8} {:<13}",
        ratio(to_cheaper(rounds)),
        ratio(of_layers(rounds)),
        if control.is_empty() { "-".to_owned() } else { format!("[{least:.2}-{most:.2}]") }
    );
    for contender in Contender::ALL.into_iter().take(4) {
        text +=
            &of(rounds, contender, Measured::mib_per_s).map_or(format!("{:>8}", "-"), |rate| format!("{rate:>8.0}"));
    }
    text
}

/// Which cells meet the marks.
#[derive(Default)]
pub struct Marks {
    peers: Vec<(String, f64)>,
    layers: Vec<(String, f64)>,
}

impl Marks {
    pub fn add(&mut self, cell: &Cell, rounds: &[Round]) {
        self.peers.extend(to_cheaper(rounds).map(|ratio| (cell.to_string(), ratio)));
        self.layers.extend(of_layers(rounds).map(|ratio| (cell.to_string(), ratio)));
    }

    pub fn text(&self) -> String {
        line("CPU <= 1.1x the cheaper of the two", &self.peers, PEER_MAX)
            + &line("layers <= 1.05x", &self.layers, LAYERS_MAX)
    }
}

fn line(mark: &str, cells: &[(String, f64)], most: f64) -> String {
    let missed: Vec<String> =
        cells.iter().filter(|(_, ratio)| *ratio > most).map(|(cell, ratio)| format!("{cell} {ratio:.2}x")).collect();
    let not = if missed.is_empty() { String::new() } else { format!(", NOT in {}", missed.join(", ")) };
    let all = median(cells.iter().map(|(_, ratio)| *ratio));
    format!("  mark: {mark}: met in {} of {}, median {all:.2}x{not}\n", cells.len() - missed.len(), cells.len())
}

fn of(rounds: &[Round], contender: Contender, value: fn(&Measured) -> f64) -> Option<f64> {
    let value = median(rounds.iter().filter_map(|round| round[contender as usize].as_ref().map(value)));
    (!value.is_nan()).then_some(value)
}

fn ratios(rounds: &[Round], of: Contender, to: Contender) -> Vec<f64> {
    let pair = |round: &Round| Some((round[of as usize]?.cpu_per_gib(), round[to as usize]?.cpu_per_gib()));
    rounds.iter().filter_map(pair).map(|(of, to)| of / to).collect()
}

fn ratio(rounds: &[Round], of: Contender, to: Contender) -> Option<f64> {
    let ratio = median(ratios(rounds, of, to));
    (!ratio.is_nan()).then_some(ratio)
}

/// Ours to that peer which took less in this cell.
fn to_cheaper(rounds: &[Round]) -> Option<f64> {
    let peers = [Contender::Aws, Contender::OpenDal];
    let cost = |peer| of(rounds, peer, Measured::cpu_per_gib);
    let cheaper = peers
        .into_iter()
        .filter(|peer| cost(*peer).is_some())
        .min_by(|a, b| f64::total_cmp(&cost(*a).unwrap_or(f64::INFINITY), &cost(*b).unwrap_or(f64::INFINITY)))?;
    ratio(rounds, Contender::Seawall, cheaper)
}

fn of_layers(rounds: &[Round]) -> Option<f64> {
    ratio(rounds, Contender::Layered, Contender::Seawall)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::backend::client::Operation;

    fn measured(cpu_s: f64) -> Option<Measured> {
        serde_json::from_str(&format!("{{\"bytes\": {}, \"cpu_s\": {cpu_s}, \"elapsed_s\": 0.5}}", 1u64 << 30)).ok()
    }

    fn cell() -> Cell {
        Cell { operation: Operation::Put, object_mib: 8, in_flight: 32, crc32c: true, signed: false }
    }

    #[test]
    fn ours_is_held_against_the_cheaper_peer_of_the_same_round() {
        let round =
            |ours, aws, opendal| [measured(ours), measured(ours), measured(aws), measured(opendal), measured(ours)];
        // The cheaper one over all rounds is opendal; in each of them ours takes 1.2 times as much.
        let rounds = [round(1.2, 1.1, 1.0), round(2.4, 2.2, 2.0), round(0.6, 0.1, 0.5)];
        let text = row(&cell(), &rounds);
        assert!(text.starts_with("put 8 MiB x 32 crc32c") && text.contains("1.20x") && text.contains("[1.00-1.00]"));
        let mut marks = Marks::default();
        marks.add(&cell(), &rounds);
        assert!(marks.text().contains("met in 0 of 1, median 1.20x, NOT in put 8 MiB x 32 crc32c 1.20x"));
        assert!(marks.text().contains("layers <= 1.05x: met in 1 of 1, median 1.00x\n"));
    }

    #[test]
    fn a_contender_that_did_not_run_is_no_figure() {
        let rounds = [[measured(1.0), measured(1.0), None, None, measured(1.0)]];
        assert_eq!(to_cheaper(&rounds), None);
        assert!(row(&cell(), &rounds).contains('-'));
    }
}
