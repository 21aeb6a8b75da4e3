//! Two WALs on two devices against one, and the same with fio: where the disk under both gives two no more than one, fio
//! shows it.

use std::thread;

use anyhow::{Result, anyhow};

use super::media::Medium;
use super::ours::Ours;
use super::{Cell, Settings, fio};
use crate::bench::machine::median;

const MARK: f64 = 1.7;
const CELL: Cell = Cell { appenders: 16, bytes: 256 << 10 };

pub fn run(settings: &Settings, first: &Medium, ours: &Ours, fio: &fio::Fio) -> Result<String> {
    let second = Medium::loop_device(settings.tiny, "-2")?;
    let (mut ratios, mut fio_ratios) = (Vec::new(), Vec::new());
    for _ in 0..settings.pairs {
        let one = ours.run(CELL, first, settings.seconds)?;
        let shape = fio::Shape::of(&one);
        let both = both(|medium| Ok(ours.run(CELL, medium, settings.seconds)?.mib_per_s()), first, &second)?;
        ratios.push(both / one.mib_per_s());
        let run = |medium: &Medium| Ok(fio.write(medium, shape, settings.seconds)?.mib_per_s);
        fio_ratios.push(self::both(run, first, &second)? / run(first)?);
    }
    let (ratio, fio_ratio) = (median(ratios), median(fio_ratios));
    let verdict = match (settings.tiny, ratio >= MARK, fio_ratio >= MARK) {
        (true, ..) => String::new(),
        (_, true, _) => format!("; mark >= {MARK}: met"),
        (_, false, true) => format!("; mark >= {MARK}: NOT met"),
        (_, false, false) => format!("; mark >= {MARK}: not judged, the disk under both allows fio no more"),
    };
    Ok(format!("\ntwo WALs on two loop devices, {CELL}: {ratio:.2}x of one, fio {fio_ratio:.2}x{verdict}\n"))
}

/// MiB/s of both at once.
fn both(run: impl Fn(&Medium) -> Result<f64> + Sync, first: &Medium, second: &Medium) -> Result<f64> {
    thread::scope(|scope| {
        let other = scope.spawn(|| run(second));
        let one = run(first)?;
        Ok(one + other.join().map_err(|_| anyhow!("the second run panicked"))??)
    })
}
