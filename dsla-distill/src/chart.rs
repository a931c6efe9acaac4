//! Line charts as SVG text, for reports and demos: panels below each other over one kind of x.

use crate::page::escape;
use std::fmt::Write;

const WIDTH: f64 = 760.0;
const PANEL: f64 = 150.0;
const LEFT: f64 = 70.0;
const GAP: f64 = 44.0;
const LEGEND: f64 = 18.0;
const PER_ROW: usize = 4;
const COLOURS: [&str; 9] =
    ["#8a8f98", "#d1495b", "#2e86ab", "#3b7d4f", "#e08e1b", "#7b4fa3", "#1f1f1f", "#4cb5ae", "#a0643c"];
/// Lines of at most so many points show each of them.
const DOTS: usize = 16;

/// One panel: a title and its lines, each a list of (x, y).
pub struct Panel {
    /// Above the panel.
    pub title: String,
    /// One per name of the chart, in its colour.
    pub lines: Vec<Vec<(f64, f64)>>,
}

/// A self-contained SVG of panels that share x (named `x`, e.g. "s"); `names` label the lines by colour. Both axes
/// start at 0.
pub fn svg(names: &[&str], x: &str, panels: &[Panel]) -> String {
    let end = end(panels);
    let ticks: Vec<_> = (0..=5)
        .map(|tick| end * tick as f64 / 5.0)
        .map(|v| (v, format!("{} {}", number(v, end), escape(x))))
        .collect();
    draw(names, &ticks, panels)
}

/// As [`svg`], with ticks (x, label) of the caller's: for axes that are not linear.
pub fn svg_with_ticks(names: &[&str], ticks: &[(f64, String)], panels: &[Panel]) -> String {
    let ticks: Vec<_> = ticks.iter().map(|(x, label)| (*x, escape(label))).collect();
    draw(names, &ticks, panels)
}

/// The largest x.
fn end(panels: &[Panel]) -> f64 {
    panels.iter().flat_map(|p| p.lines.iter().flatten()).map(|p| p.0).fold(1e-9, f64::max)
}

fn draw(names: &[&str], ticks: &[(f64, String)], panels: &[Panel]) -> String {
    let end = end(panels);
    let head = 22.0 + LEGEND * names.len().div_ceil(PER_ROW) as f64;
    let height = head + panels.len() as f64 * (PANEL + GAP);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>",
        WIDTH + LEFT + 40.0
    );
    for (i, name) in names.iter().enumerate() {
        let (x, y) = (LEFT + 190.0 * (i % PER_ROW) as f64, 12.0 + LEGEND * (i / PER_ROW) as f64);
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"14\" height=\"4\" fill=\"{}\"/><text x=\"{}\" y=\"{}\">{}</text>",
            COLOURS[i % COLOURS.len()],
            x + 20.0,
            y + 6.0,
            escape(name)
        );
    }
    for (p, panel) in panels.iter().enumerate() {
        let top = head + p as f64 * (PANEL + GAP);
        let (y0, y1) = (top + 16.0, top + PANEL);
        let most = panel.lines.iter().flatten().map(|p| p.1).fold(1e-9, f64::max) * 1.05;
        let place = |(x, y): (f64, f64)| (LEFT + WIDTH * x / end, y1 - (y1 - y0) * y / most);
        let _ = writeln!(
            out,
            "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{}</text>",
            top + 8.0,
            escape(&panel.title)
        );
        for tick in 0..=3 {
            let v = most * tick as f64 / 3.0;
            let y = place((0.0, v)).1;
            let _ = writeln!(
                out,
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#e6e8eb\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT + WIDTH,
                LEFT - 6.0,
                y + 4.0,
                number(v, most)
            );
        }
        for (x, label) in ticks {
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                place((*x, 0.0)).0,
                y1 + 16.0
            );
        }
        for (line, colour) in panel.lines.iter().zip(COLOURS.iter().cycle()) {
            let finite = line.iter().filter(|p| p.0.is_finite() && p.1.is_finite());
            let points: Vec<_> = finite.map(|&p| place(p)).collect();
            let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(
                out,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" points=\"{}\"/>",
                path.join(" ")
            );
            for (x, y) in points.iter().filter(|_| points.len() <= DOTS) {
                let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.4\" fill=\"{colour}\"/>");
            }
        }
    }
    out.push_str("</svg>\n");
    out
}

/// As many digits as the axis needs.
fn number(v: f64, most: f64) -> String {
    let digits = if most >= 10.0 {
        0
    } else if most >= 1.0 {
        1
    } else {
        3
    };
    format!("{v:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_inside_the_picture() {
        let lines = vec![vec![(0.0, 0.0), (5.0, 2.0), (f64::NAN, 1.0)], vec![(10.0, 4.0)]];
        let text = svg(&["a", "b<c"], "s", &[Panel { title: "t".into(), lines }]);
        assert!(text.starts_with("<svg") && text.ends_with("</svg>\n") && !text.contains("NaN"));
        assert!(text.contains("b&lt;c") && text.matches("<circle").count() == 3);
        let points = text
            .lines()
            .filter(|l| l.contains("polyline"))
            .flat_map(|l| l.split('"').nth(7).unwrap().split(' '));
        for p in points {
            let (x, y) = p.split_once(',').unwrap();
            assert!(
                (LEFT..=LEFT + WIDTH).contains(&x.parse().unwrap())
                    && (40.0..=40.0 + PANEL).contains(&y.parse().unwrap()),
                "{p}"
            );
        }
    }
}
