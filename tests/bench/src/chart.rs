//! The charts. Their ground is transparent, and their colours are of a middling lightness: they can be read on white and on
//! black.

use std::path::Path;

use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;
use program::Outcome;

use crate::report::{Chart, short};

const SIZE: (u32, u32) = (820, 460);
const TEXT: RGBColor = RGBColor(128, 132, 140);
/// A colour for each crate, the same in every chart.
fn color(name: &str) -> RGBColor {
    match name {
        "rmux-bootstrap" => RGBColor(37, 132, 219),
        name if name.starts_with("rmux-bootstrap") => RGBColor(140, 105, 215),
        name if name.starts_with("rmux-sdk 0.6") => RGBColor(214, 122, 22),
        name if name.starts_with("rmux-sdk") => RGBColor(200, 70, 90),
        name if name.starts_with("kunobi") && name.ends_with("`main`") => RGBColor(120, 175, 60),
        name if name.starts_with("kunobi") => RGBColor(60, 150, 85),
        _ => RGBColor(140, 140, 140),
    }
}

/// Writes the chart's file into the directory.
pub(crate) fn draw(chart: &Chart, directory: &Path) -> Outcome {
    let points = || chart.lines.iter().flat_map(|(_, line)| line);
    let across = range(points().map(|point| point.0));
    let up = range(points().map(|point| point.1));
    let path = directory.join(chart.file);
    if chart.logarithmic {
        draw_over(
            chart,
            &path,
            (across.0..across.1).log_scale(),
            (up.0..up.1).log_scale(),
        )
    } else {
        draw_over(chart, &path, (across.0..across.1).log_scale(), 0.0..100.0)
    }
}

/// From the smallest to the largest number, both positive, with some room.
fn range(numbers: impl Iterator<Item = f64>) -> (f64, f64) {
    let (mut low, mut high) = (f64::MAX, f64::MIN_POSITIVE);
    for number in numbers.filter(|number| *number > 0.0) {
        low = low.min(number);
        high = high.max(number);
    }
    (low.min(high) * 0.9, high * 1.1)
}

fn draw_over<X, Y>(chart: &Chart, path: &Path, across: X, up: Y) -> Outcome
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let text = |size: u32| ("sans-serif", size).into_font().color(&TEXT);
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    let mut canvas = ChartBuilder::on(&area)
        .caption(chart.title, text(19))
        .margin(12)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(across, up)?;
    canvas
        .configure_mesh()
        .x_desc(chart.across)
        .y_desc(chart.up)
        .max_light_lines(2)
        .axis_desc_style(text(15))
        .label_style(text(13))
        .axis_style(TEXT)
        .bold_line_style(TEXT.mix(0.3))
        .light_line_style(TEXT.mix(0.1))
        .x_label_formatter(&|number| short(*number))
        .y_label_formatter(&|number| short(*number))
        .draw()?;
    for (name, line) in &chart.lines {
        let style = color(name).stroke_width(2);
        let line = line.iter().copied().filter(|point| point.0 > 0.0);
        canvas
            .draw_series(LineSeries::new(line, style))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    canvas
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .label_font(text(14))
        .border_style(TEXT.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}
