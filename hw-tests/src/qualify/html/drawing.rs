//! Curves over time and histograms, as SVG.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::super::findings::{Distribution, Series, name_and_unit};
use super::super::verdict::{Check, Level};
use super::escape;

const SIZE: (u32, u32) = (560, 260);
const LINE: RGBColor = RGBColor(31, 95, 168);
const BAD: RGBColor = RGBColor(179, 38, 30);
const INK: RGBColor = RGBColor(90, 101, 117);
const GRID: RGBColor = RGBColor(232, 236, 241);
const FONT: (&str, i32) = ("system-ui, sans-serif", 12);

/// Slices that failed are marked.
pub fn series(name: &str, series: &Series, check: Option<&Check>) -> Result<String> {
    let (words, unit) = name_and_unit(name);
    let end = series.values.len() as f64 * series.slice_seconds;
    let top = series.seen().map(|(_, value)| value).fold(0.0, f64::max).max(f64::MIN_POSITIVE) * 1.1;
    let (scale, scale_name) = if end > 7_200.0 {
        (3_600.0, "hours")
    } else if end > 300.0 {
        (60.0, "minutes")
    } else {
        (1.0, "seconds")
    };
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .margin_right(16)
            .x_label_area_size(36)
            .y_label_area_size(62)
            .build_cartesian_2d(0.0..end / scale, 0.0..top)
            .map_err(drawn)?;
        mesh(&mut chart, scale_name, unit)?;
        // A step for each slice; a slice without a value breaks the line.
        let points = series.values.iter().enumerate().map(|(slice, value)| {
            let begin = slice as f64 * series.slice_seconds / scale;
            let end = (slice + 1) as f64 * series.slice_seconds / scale;
            value.map(|value| [(begin, value), (end, value)])
        });
        let steps: Vec<_> = points.collect();
        for run in steps.split(Option::is_none) {
            let line = run.iter().flatten().flatten().copied();
            chart.draw_series(LineSeries::new(line, LINE.stroke_width(2))).map_err(drawn)?;
        }
        let worst = check.filter(|check| check.level > Level::Pass).and_then(|check| check.slices);
        if let Some((begin, end)) =
            worst.and_then(|slices| steps.get(slices.worst).copied().flatten()).map(|[a, b]| (a, b))
        {
            chart.draw_series(LineSeries::new([begin, end], BAD.stroke_width(4))).map_err(drawn)?;
        }
        area.present().map_err(drawn)?;
    }
    Ok(figure(&format!("{words} over time ({unit})"), &svg))
}

/// Buckets that double, so that a tail far away is still seen; the scale of the counts is logarithmic for the same reason.
pub fn histogram(name: &str, distribution: &Distribution) -> Result<String> {
    let (words, unit) = name_and_unit(name);
    let buckets = &distribution.buckets;
    let top = buckets.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1) as f64 * 2.0;
    let least = 0.5;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .margin_right(16)
            .x_label_area_size(36)
            .y_label_area_size(62)
            .build_cartesian_2d(0.0..buckets.len() as f64, (least..top).log_scale())
            .map_err(drawn)?;
        let label = |at: &f64| {
            let whole = at.round();
            let bucket = if whole >= 1.0 { buckets.get(whole as usize - 1) } else { None };
            bucket.map_or(String::new(), |(upper, _)| short(*upper))
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_labels(buckets.len().min(12))
            .x_label_formatter(&label)
            .y_labels(6)
            .y_label_formatter(&|count| format!("{count:.0}"))
            .x_desc(format!("up to, {unit}"))
            .y_desc("count")
            .label_style(FONT.into_font().color(&INK))
            .draw()
            .map_err(drawn)?;
        let bars = buckets.iter().enumerate().filter(|(_, (_, count))| *count > 0).map(|(at, (_, count))| {
            let at = at as f64;
            Rectangle::new([(at + 0.06, least), (at + 0.94, *count as f64)], LINE.filled())
        });
        chart.draw_series(bars).map_err(drawn)?;
        area.present().map_err(drawn)?;
    }
    Ok(figure(&format!("{words}: {} measured ({unit})", distribution.count), &svg))
}

type Plane<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn mesh(chart: &mut Plane<'_, '_>, x: &str, y: &str) -> Result<()> {
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(GRID)
        .axis_style(INK)
        .x_labels(8)
        .y_labels(6)
        .y_label_formatter(&|value| short(*value))
        .x_label_formatter(&|value| short(*value))
        .x_desc(x)
        .y_desc(y)
        .label_style(FONT.into_font().color(&INK))
        .draw()
        .map_err(drawn)
}

fn figure(caption: &str, svg: &str) -> String {
    format!("<figure>\n<figcaption>{}</figcaption>\n{svg}\n</figure>\n", escape(caption))
}

fn short(value: f64) -> String {
    let digits = match value.abs() {
        value if value >= 10.0 || value == 0.0 => 0,
        value if value >= 1.0 => 1,
        value if value >= 0.1 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn drawn<E: std::error::Error + Send + Sync>(error: DrawingAreaErrorKind<E>) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}
