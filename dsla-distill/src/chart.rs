//! Line charts as SVG text, for reports and demos: panels below each other over one kind of x.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const PANEL: f64 = 150.0;
const LEFT: f64 = 70.0;
const GAP: f64 = 44.0;
const COLOURS: [&str; 4] = ["#8a8f98", "#d1495b", "#2e86ab", "#3b7d4f"];

/// One panel: a title and its lines, each a list of (x, y).
pub struct Panel {
    /// Above the panel.
    pub title: String,
    /// One per name of the chart, in its colour.
    pub lines: Vec<Vec<(f64, f64)>>,
}

/// A self-contained SVG of panels that share x (named `x`, e.g. "s"); `names` label the lines by colour. y starts at 0.
pub fn svg(names: &[&str], x: &str, panels: &[Panel]) -> String {
    let points = || panels.iter().flat_map(|p| p.lines.iter().flatten());
    let end = points().map(|p| p.0).fold(1e-9, f64::max);
    let height = 40.0 + panels.len() as f64 * (PANEL + GAP);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>",
        WIDTH + LEFT + 20.0
    );
    for (i, name) in names.iter().enumerate() {
        let (at, colour) = (LEFT + 160.0 * i as f64, COLOURS[i % COLOURS.len()]);
        let _ = writeln!(
            out,
            "<rect x=\"{at}\" y=\"12\" width=\"14\" height=\"4\" fill=\"{colour}\"/><text x=\"{}\" y=\"18\">{name}</text>",
            at + 20.0
        );
    }
    for (p, panel) in panels.iter().enumerate() {
        let top = 40.0 + p as f64 * (PANEL + GAP);
        let (y0, y1) = (top + 16.0, top + PANEL);
        let most = panel.lines.iter().flatten().map(|p| p.1).fold(1e-9, f64::max) * 1.05;
        let _ = writeln!(
            out,
            "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{}</text>",
            top + 8.0,
            panel.title
        );
        for tick in 0..=3 {
            let (v, y) = (most * tick as f64 / 3.0, y1 - (y1 - y0) * tick as f64 / 3.0);
            let label = number(v, most);
            let _ = writeln!(
                out,
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#e6e8eb\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                LEFT + WIDTH,
                LEFT - 6.0,
                y + 4.0
            );
        }
        for tick in 0..=5 {
            let v = end * tick as f64 / 5.0;
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{} {x}</text>",
                LEFT + WIDTH * v / end,
                y1 + 16.0,
                number(v, end)
            );
        }
        for (line, colour) in panel.lines.iter().zip(COLOURS.iter().cycle()) {
            let points: Vec<String> = line
                .iter()
                .filter(|p| p.0.is_finite() && p.1.is_finite())
                .map(|(t, v)| format!("{:.1},{:.1}", LEFT + WIDTH * t / end, y1 - (y1 - y0) * v / most))
                .collect();
            let _ = writeln!(
                out,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" points=\"{}\"/>",
                points.join(" ")
            );
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
        let text = svg(&["a", "b"], "s", &[Panel { title: "t".into(), lines }]);
        assert!(text.starts_with("<svg") && text.ends_with("</svg>\n") && !text.contains("NaN"));
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
