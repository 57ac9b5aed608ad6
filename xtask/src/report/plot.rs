//! Figures as SVG, drawn with `plotters`; text stays text.

use crate::experiment::{
    check::show,
    figure::{Figure, FigureSpec, Kind, number},
};
use anyhow::{Result, anyhow};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Size of a plot of lines.
const SIZE: (u32, u32) = (720, 420);
/// Height of a bar, and space between groups.
const BAR: u32 = 18;
const GAP: u32 = 12;
/// Left margin of bars for the names of groups.
const NAMES: u32 = 250;

/// Colours that colour-blind people can tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
    RGBColor(160, 120, 0),
];

/// The figure as an SVG element.
pub fn svg(spec: &FigureSpec, figure: &Figure) -> Result<String> {
    let mut text = String::new();
    let places = figure.places();
    let numeric = places.iter().all(|place| place.parse::<f64>().is_ok());
    if spec.kind == Kind::Lines && numeric {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        lines(&root, spec, figure)?;
        root.present().map_err(|error| anyhow!("{error}"))?;
    } else {
        let bars: usize = figure.series.iter().map(|series| series.points.len()).sum();
        let height = 110 + bars as u32 * BAR + places.len() as u32 * GAP + 20 * legend_rows(figure);
        let root = SVGBackend::with_string(&mut text, (SIZE.0, height)).into_drawing_area();
        self::bars(&root, spec, figure, &places)?;
        root.present().map_err(|error| anyhow!("{error}"))?;
    }
    Ok(text)
}

fn legend_rows(figure: &Figure) -> u32 {
    if figure.series.len() > 1 { figure.series.len() as u32 } else { 0 }
}

fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// Smallest and largest value.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
}

fn values(figure: &Figure) -> impl Iterator<Item = f64> {
    figure.series.iter().flat_map(|series| series.points.iter().map(|point| point.y))
}

/// Upper end of a linear axis that begins at 0.
fn top(high: f64) -> f64 {
    if high > 0.0 { high * 1.08 } else { 1.0 }
}

fn lines(root: &Area, spec: &FigureSpec, figure: &Figure) -> Result<()> {
    let xs = figure.series.iter().flat_map(|series| series.points.iter().map(|p| number(&p.x)));
    let (x0, x1) = bounds(xs);
    let margin = if x1 > x0 { (x1 - x0) * 0.04 } else { 1.0 };
    let (low, high) = bounds(values(figure));
    let x = (x0 - margin)..(x1 + margin);
    let mut chart = ChartBuilder::on(root);
    chart.margin(12).x_label_area_size(48).y_label_area_size(78);
    macro_rules! draw {
        ($range:expr) => {{
            let mut chart = chart.build_cartesian_2d(x, $range).map_err(|e| anyhow!("{e}"))?;
            chart
                .configure_mesh()
                .x_desc(&spec.x_label)
                .y_desc(&spec.y_label)
                .x_label_formatter(&|value| show(*value))
                .y_label_formatter(&|value| show(*value))
                .label_style(("sans-serif", 13))
                .axis_desc_style(("sans-serif", 14))
                .light_line_style(RGBColor(240, 240, 240))
                .bold_line_style(RGBColor(215, 215, 215))
                .draw()
                .map_err(|e| anyhow!("{e}"))?;
            for (index, series) in figure.series.iter().enumerate() {
                let style = colour(index);
                let points: Vec<(f64, f64)> =
                    series.points.iter().map(|p| (number(&p.x), p.y)).collect();
                chart
                    .draw_series(LineSeries::new(points.clone(), style.stroke_width(2)))
                    .map_err(|e| anyhow!("{e}"))?
                    .label(&series.name)
                    .legend(move |(x, y)| {
                        Rectangle::new([(x, y - 4), (x + 14, y + 4)], style.filled())
                    });
                chart
                    .draw_series(points.iter().map(|at| Circle::new(*at, 4, style.filled())))
                    .map_err(|e| anyhow!("{e}"))?;
            }
            if figure.series.len() > 1 {
                chart
                    .configure_series_labels()
                    .position(SeriesLabelPosition::UpperLeft)
                    .label_font(("sans-serif", 13))
                    .background_style(WHITE.mix(0.85))
                    .border_style(RGBColor(200, 200, 200))
                    .draw()
                    .map_err(|e| anyhow!("{e}"))?;
            }
        }};
    }
    if spec.log && low > 0.0 {
        draw!(((low / 1.5)..(high * 1.5)).log_scale());
    } else {
        draw!(0.0..top(high));
    }
    Ok(())
}

/// Bars to the right, a group for each place, the value behind each bar.
fn bars(root: &Area, spec: &FigureSpec, figure: &Figure, places: &[String]) -> Result<()> {
    let fail = |error: &dyn std::fmt::Display| anyhow!("{error}");
    let (low, high) = bounds(values(figure).filter(|v| !spec.log || *v > 0.0));
    let log = spec.log && low.is_finite() && high > 0.0;
    let (width, _) = root.dim_in_pixel();
    let right = width - 90;
    let scale = |value: f64| -> i32 {
        let part = match log {
            true if value <= 0.0 => 0.0,
            true => (value / (low / 2.0)).log10() / (high / (low / 2.0)).log10(),
            false => value / if high > 0.0 { high } else { 1.0 },
        };
        NAMES as i32 + (part * f64::from(right - NAMES)).round().max(1.0) as i32
    };
    let left = |size: i32, h: HPos| {
        ("sans-serif", size).into_font().color(&BLACK).pos(Pos::new(h, VPos::Center))
    };
    let mut y = 14;
    if figure.series.len() > 1 {
        for (index, series) in figure.series.iter().enumerate() {
            let box_ = [(NAMES as i32, y - 5), (NAMES as i32 + 14, y + 5)];
            root.draw(&Rectangle::new(box_, colour(index).filled())).map_err(|e| fail(&e))?;
            let at = (NAMES as i32 + 20, y);
            root.draw(&Text::new(series.name.clone(), at, left(13, HPos::Left)))
                .map_err(|e| fail(&e))?;
            y += 20;
        }
    }
    let first = y;
    for place in places {
        y += GAP as i32 / 2;
        let begin = y;
        for (index, series) in figure.series.iter().enumerate() {
            let Some(value) = series.at(place) else { continue };
            let bar = [(NAMES as i32, y + 2), (scale(value), y + BAR as i32 - 2)];
            root.draw(&Rectangle::new(bar, colour(index).filled())).map_err(|e| fail(&e))?;
            let at = (scale(value) + 5, y + BAR as i32 / 2);
            root.draw(&Text::new(show(value), at, left(12, HPos::Left))).map_err(|e| fail(&e))?;
            y += BAR as i32;
        }
        let at = (NAMES as i32 - 8, (begin + y) / 2);
        root.draw(&Text::new(place.clone(), at, left(13, HPos::Right))).map_err(|e| fail(&e))?;
        y += GAP as i32 / 2;
    }
    let axis = vec![(NAMES as i32, first), (NAMES as i32, y + 4), (right as i32, y + 4)];
    root.draw(&PathElement::new(axis, BLACK)).map_err(|e| fail(&e))?;
    let scale_words = if log { " (logarithmic)" } else { "" };
    let middle = (NAMES as i32 + right as i32) / 2;
    let label = format!("{}{scale_words}", spec.y_label);
    root.draw(&Text::new(label, (middle, y + 22), left(14, HPos::Center))).map_err(|e| fail(&e))?;
    let at = (NAMES as i32 / 2, y + 22);
    root.draw(&Text::new(spec.x_label.clone(), at, left(14, HPos::Center))).map_err(|e| fail(&e))
}
