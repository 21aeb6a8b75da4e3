//! How fast recovery reads a ring that is full, against fio's sequential read of the same device.

use anyhow::Result;

use super::media::Medium;
use super::ours::Ours;
use super::{Settings, fio};
use crate::bench::machine::median;

const MARK: f64 = 0.9;

pub fn run(settings: &Settings, medium: &Medium, ours: &Ours, fio: &fio::Fio) -> Result<String> {
    let mut text = String::new();
    for bytes in [1 << 10, 256 << 10] {
        let (mut rates, mut ratios, mut controls, mut records) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for _ in 0..settings.pairs {
            let recovered = ours.recovery(medium, bytes)?;
            records = recovered.records;
            let rate = recovered.scanned_bytes as f64 / recovered.seconds / f64::from(1 << 20);
            let read = || fio.read(medium, settings.seconds);
            let (first, again) = (read()?, read()?);
            rates.push(rate);
            ratios.push(rate / first);
            controls.push(again / first);
        }
        let ratio = median(ratios);
        let least = controls.iter().copied().fold(f64::INFINITY, f64::min);
        let most = controls.iter().copied().fold(0.0, f64::max);
        text += &format!(
            "  recovery of {records} records of {} KiB: {:.0} MiB/s, {ratio:.2}x fio's sequential read [{least:.2}-{most:.2}]{}\n",
            bytes >> 10,
            median(rates),
            match (settings.tiny, ratio >= MARK.min(least)) {
                (true, _) => String::new(),
                (false, met) => format!("; mark >= {MARK}: {}", if met { "met" } else { "NOT met" }),
            }
        );
    }
    Ok(text)
}
